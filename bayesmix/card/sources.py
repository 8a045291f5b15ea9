"""The results that EM is held against, each with its clusters named as in EM.

Lives here: what kind of result each is, that all answer EM's question, relabelling, and the
thinning of what would be too large. Does not live here: any statistic.
"""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from bayesmix.approximate import LaplaceResult
from bayesmix.bootstrap import BootstrapResult
from bayesmix.diagnose import LEAST_DRAWS
from bayesmix.diagnose.words import count
from bayesmix.draws import evaluate_draws, systematic
from bayesmix.estimate import EMResult
from bayesmix.nuts import NUTS, NUTSResult
from bayesmix.relabel import relabel
from bayesmix.relabel.blocks import of_tree
from bayesmix.relabel.tree import classes_of, cluster_axes, dataset, node, permuted, shape_of
from bayesmix.smc import SMCResult

if TYPE_CHECKING:
    import xarray

KINDS = ("NUTS", "SMC", "Laplace", "bootstrap")
MOST_NUMBERS = 12.5e6  # responsibilities that are looked at, draws x rows x clusters


@dataclass(frozen=True, eq=False)
class Source:
    """One result beside EM's.

    kind : of KINDS. tree : its draws in EM's names; thinned : the same with fewer draws where
    responsibilities would be too many. resp : their mean responsibilities, (N, K). ess : effective
    number of draws where they are independent, else None (they are chains).
    """

    kind: str
    result: Any
    tree: xarray.DataTree
    thinned: xarray.DataTree
    resp: np.ndarray
    ess: float | None

    @property
    def draws(self) -> dict[str, np.ndarray]:
        """Site -> (chain, draw, *shape), in EM's names."""
        names = json.loads(self.tree.attrs.get("site_names", "{}"))
        posterior = self.tree["posterior"]
        return {s: posterior[names.get(s, s)].to_numpy() for s in self.result.mixture.sites}


def read(em: Any, results: Sequence[Any]) -> list[Source]:
    """The results in the order of KINDS; raises ValueError for what cannot stand beside EM's."""
    if not isinstance(em, EMResult):
        raise ValueError(f"card needs EM's result first, not {type(em).__name__}: card(em, nuts)")
    if not results:
        raise ValueError(
            "card needs draws to hold EM against: card(em, nuts), or at once card(em, "
            "em.laplace(key))"
        )
    kinds = [kind_of(result) for result in results]
    for kind in KINDS:
        if kinds.count(kind) > 1:
            raise ValueError(f"card got {kinds.count(kind)} results of {kind}: give one of a kind")
    for kind, result in zip(kinds, results, strict=True):
        check_same_question(em, result, kind)
    ordered = sorted(zip(kinds, results, strict=True), key=lambda pair: KINDS.index(pair[0]))
    found = [source(em, kind, result) for kind, result in ordered]
    for each in found:
        _check_enough(each)
    return found


def in_its_place(em: Any, results: Sequence[Any]) -> list[NUTSResult]:
    """A run of NUTS where Laplace's draws are all that a card would have and k-hat refuses them.

    Its key follows from Laplace's, so that the card depends on the results alone.
    """
    refused = [r for r in results if isinstance(r, LaplaceResult) and not r.trusted]
    if not refused or {"NUTS", "SMC"} & {kind_of(result) for result in results}:
        return []
    laplace = refused[0]
    check_same_question(em, laplace, "Laplace")
    mixture = laplace.mixture
    args, kwargs = mixture.arguments.rebuild(mixture.arguments.arrays)
    key = jax.random.key(zlib.crc32(laplace.seed.encode()))
    nuts = NUTS(mixture.program).run(key, *args, start=em, **kwargs)
    said = f"run in the place of Laplace's draws, whose k-hat is {laplace.k_hat:.2f}"
    return [replace(nuts, notes=(said, *nuts.notes))]


def kind_of(result: Any) -> str:
    """NUTS, SMC, Laplace or bootstrap; raises ValueError for anything else."""
    if isinstance(result, SMCResult):
        return "SMC"
    if isinstance(result, LaplaceResult):
        return "Laplace"
    if isinstance(result, BootstrapResult):
        return "bootstrap"
    if hasattr(result, "samples"):
        return "NUTS"
    raise ValueError(
        f"card needs results of NUTS, em.laplace or em.bootstrap, or of SMC, after EM's, not "
        f"{type(result).__name__}: card(em, nuts)"
    )


def source(em: Any, kind: str, result: Any) -> Source:
    """One result, its draws relabelled."""
    ess = None
    if kind == "Laplace":
        ess, result = result.ess, _by_weight(result)
    tree, mixture = result.to_datatree(), result.mixture
    if kind == "SMC":
        ess = result.ess
    if kind == "bootstrap":
        ess = float(math.prod(shape_of(tree)))
    tree = relabel(tree, mixture=mixture)
    resp = mean_responsibilities(thinned(tree, mixture), mixture)
    perm = _perm_to_em(_flat(em.responsibilities), resp, classes_of(tree, mixture.K))
    tree = _renamed(tree, perm)
    return Source(kind, result, tree, thinned(tree, mixture), resp[:, perm], ess)


def _check_enough(source: Source) -> None:
    draws = shape_of(source.tree)[1]
    if draws < LEAST_DRAWS:
        raise ValueError(
            f"{source.kind} gave {count(draws, 'draw')} per chain, too few to hold EM against: "
            f"draw at least {LEAST_DRAWS}"
        )


def _by_weight(laplace: LaplaceResult) -> LaplaceResult:
    """The draws taken in proportion to their importance weights, so that all count alike."""
    weights = np.exp(laplace.log_weights)
    kept = systematic(np.random.default_rng(0), weights, weights.size)
    equal = np.full(kept.size, -np.log(kept.size))
    return replace(
        laplace,
        params={name: value[kept] for name, value in laplace.params.items()},
        log_weights=equal,
        sample_stats={"lp": laplace.sample_stats["lp"][kept], "log_weight": equal},
    )


# One naming of the clusters: EM's.


def thinned(tree: xarray.DataTree, mixture: Any) -> xarray.DataTree:
    """Evenly fewer draws of each chain, so that responsibilities stay below MOST_NUMBERS."""
    size = math.prod(shape_of(tree)) * mixture.N * mixture.K
    step = max(1, math.ceil(size / MOST_NUMBERS))
    return tree if step == 1 else tree.isel(draw=slice(None, None, step))


def mean_responsibilities(tree: xarray.DataTree, mixture: Any) -> np.ndarray:
    """Mean over draws, (N, K)."""
    draws = of_tree(tree, mixture)
    return sum(block.sum(axis=0) for _, block in draws.blocks()) / draws.shape[0]


def _flat(resp: Any) -> np.ndarray:
    """(rows, K), whatever the number of row dims."""
    resp = np.asarray(resp, float)
    return resp.reshape(-1, resp.shape[-1])


def _perm_to_em(em: np.ndarray, resp: np.ndarray, classes: Sequence[Sequence[int]]) -> np.ndarray:
    """perm with resp[:, perm] closest to em, moving only exchangeable clusters."""
    from scipy.optimize import linear_sum_assignment

    perm = np.arange(em.shape[1])
    shared = em.T @ resp
    for members in (np.asarray(c) for c in classes if len(c) > 1):
        perm[members] = members[
            linear_sum_assignment(shared[np.ix_(members, members)], maximize=True)[1]
        ]
    return perm


def _renamed(tree: xarray.DataTree, perm: np.ndarray) -> xarray.DataTree:
    """The tree with one permutation for all draws."""
    if (perm == np.arange(len(perm))).all():
        return tree
    new, every = tree.copy(), np.broadcast_to(perm, (*shape_of(tree), len(perm)))
    axes = {"posterior": cluster_axes(tree)}
    if "responsibilities" in tree.children:
        axes["responsibilities"] = {"resp": tree["responsibilities"]["resp"].ndim - 1}
    for group, axis in axes.items():
        new[group] = node(permuted(dataset(tree, group), axis, every))
    return new


# Do two results answer the same question?


def check_same_question(em: Any, other: Any, kind: str) -> None:
    """Nothing, or a ValueError that says in which way the two results differ."""
    a, b, name = em.mixture, other.mixture, kind if kind in ("SMC", "Laplace") else kind.lower()
    if a is b:
        return
    if a.K != b.K:
        raise ValueError(
            f"em has {a.K} clusters and {name} has {b.K}: compare fits with the same number"
        )
    shape_a, shape_b = np.shape(a.value), np.shape(b.value)
    if shape_a != shape_b:
        raise ValueError(
            f"em saw data of shape {shape_a} and {name} of shape {shape_b}: fit the same"
        )
    differ = (a.value != b.value) & ~(np.isnan(a.value) & np.isnan(b.value))
    if differ.any():
        at = np.argwhere(differ)[0]
        raise ValueError(f"em and {name} saw different data (first at row {at[0]}): fit the same")
    if not np.array_equal(_sample_weights(a), _sample_weights(b)):
        raise ValueError(f"em and {name} saw different sample weights: fit the same")
    _check_same_sites(a, b, name)
    _check_same_joint(em, b, name)


def _check_same_sites(a: Any, b: Any, name: str) -> None:
    sites_a = {name: tuple(site.shape) for name, site in a.sites.items()}
    sites_b = {name: tuple(site.shape) for name, site in b.sites.items()}
    if sites_a != sites_b:
        odd = sorted(set(sites_a.items()) ^ set(sites_b.items()))[0][0]
        raise ValueError(
            f"em and {name} come from different programs: site {odd!r} has shape "
            f"{sites_a.get(odd, 'none')} in em and {sites_b.get(odd, 'none')} in {name}"
        )


def _check_same_joint(em: Any, mixture: Any, name: str) -> None:
    """Programs of the same sites, and covariates and labels, are one where EM's log joint is."""
    there = evaluate_draws(mixture, {k: np.asarray(v)[None, None] for k, v in em.params.items()})
    value = float(there["log_joint"][0, 0])
    if not np.isclose(value, em.log_joint, rtol=1e-6, atol=1e-6):
        raise ValueError(
            f"em and {name} come from different programs or arguments: at EM's MAP the log "
            f"joint is {em.log_joint:.6g} in one and {value:.6g} in the other"
        )


def _sample_weights(mixture: Any) -> np.ndarray:
    weights = getattr(mixture, "weights", None)
    return np.ones(mixture.rows) if weights is None else np.asarray(weights, float)
