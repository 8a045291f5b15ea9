"""The atlas of optima: what the starts reached, which optima are distinct, which can be trusted."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any

import jax
import numpy as np
from numpyro import distributions as dist

from bayesmix.blocks import Blocks
from bayesmix.density import cached, data_at_hand, data_of, density_of, log_density
from bayesmix.density.layout import line_columns
from bayesmix.families.lines import Lines
from bayesmix.families.product import slots_of
from bayesmix.laplace import log_evidence
from bayesmix.mstep.bounds import boundedness
from bayesmix.program import Mixture
from bayesmix.sheet import Sheet, Shown, Table
from bayesmix.sweep import whitening

SINGULAR = 1e-10
SAME = 1e-6
SHOWN = 12
WEIGHED = 8  # modes whose evidence is taken
LOWEST = float(np.finfo(np.float32).min) / 2  # of a log joint: below, a row is impossible
AFFORDABLE = 2e9  # and the work that may cost: rows x clusters x columns x passes


@dataclass(frozen=True)
class Mode:
    """One optimum of the log joint.

    ``starts`` is how many starts reached it, ``moves`` how many moves off other modes did;
    ``smallest`` the number of rows (sum of responsibilities) in its smallest cluster; ``reason``
    says why it is not ``regular``.
    """

    params: dict[str, np.ndarray]
    log_joint: float
    log_likelihood: float
    starts: int
    moves: int
    smallest: float
    regular: bool
    reason: str
    counts: np.ndarray


@dataclass(frozen=True, repr=False)
class Modes(Shown, Sequence):
    """Distinct modes, regular ones first, each group by falling log joint."""

    modes: tuple[Mode, ...]
    mixture: Mixture

    def __getitem__(self, index: Any) -> Any:
        return self.modes[index]

    def __len__(self) -> int:
        return len(self.modes)

    def __iter__(self) -> Iterator[Mode]:
        return iter(self.modes)

    def to_frame(self) -> Any:
        """A DataFrame with one row per mode.

        ``log_evidence`` (nats, one copy of each mode) and ``condition`` (of the Hessian) are
        Laplace's, at the mode over unconstrained coordinates: a mode that is higher than another
        but holds less evidence is the narrower one. They are taken here, when asked for: of the
        first regular modes, as many as some seconds allow; NaN for the others.
        """
        import pandas as pd

        columns = [each.name for each in fields(Mode) if each.name not in ("params", "counts")]
        frame = pd.DataFrame(
            [{name: getattr(mode, name) for name in columns} for mode in self.modes],
            columns=columns,
        ).rename_axis("mode")
        weighed = self._evidences + [(np.nan, np.nan)] * (len(self) - len(self._evidences))
        frame["log_evidence"], frame["condition"] = zip(*weighed, strict=True)
        return frame

    @cached_property
    def _evidences(self) -> list[tuple[float, float]]:
        mixture = self.mixture
        n = sum(math.prod(site.shape) for site in mixture.sites.values())
        cost = 6 * n * mixture.N * mixture.K * math.prod(mixture.event_shape)
        count = min(sum(mode.regular for mode in self.modes), WEIGHED, int(AFFORDABLE / cost))
        return [log_evidence(mixture, mode.params)[:2] for mode in self.modes[:count]]

    def parts(self) -> list[str | Table]:
        """The atlas as a table, and what it leaves out, for a sheet."""
        body = tuple(
            (
                str(number),
                f"{mode.log_joint:.4f}",
                str(mode.starts),
                str(mode.moves),
                f"{mode.smallest:.1f}",
                mode.reason or "regular",
            )
            for number, mode in enumerate(self.modes[:SHOWN])
        )
        head = ("mode", "log joint", "starts", "moves", "smallest cluster", "verdict")
        more = len(self.modes) - SHOWN
        left = [f"… and {more} more: .modes.to_frame()"] if more > 0 else []
        return [Table(head, body, "rrrrrl"), *left]

    @property
    def _sheet(self) -> Sheet:
        return Sheet(("Distinct modes, regular ones first", *self.parts()))


def judge(
    mixture: Mixture,
    params: dict[str, np.ndarray],
    *,
    log_joint: float,
    log_likelihood: float,
    counts: np.ndarray,
    leaves: dict[str, np.ndarray],
    degenerate: bool,
) -> Mode:
    """A mode with its verdict: is it a regular optimum, and if not, why.

    counts : rows in each cluster. leaves : the components' parameters, of a registered family.
    degenerate : whether EM stopped because the log joint was no longer finite.
    """
    reason = _degeneracy(mixture, leaves, counts, degenerate)
    if (degenerate or "singular" in reason) and not isinstance(mixture.value, Blocks):
        exact = _exact_log_likelihood(mixture, params)
        log_joint, log_likelihood = log_joint - log_likelihood + exact, exact
    return Mode(
        params=params,
        log_joint=log_joint,
        log_likelihood=log_likelihood,
        starts=1,
        moves=0,
        smallest=float(counts.min()),
        regular=reason == "",
        reason=reason,
        counts=counts,
    )


def _exact_log_likelihood(mixture: Mixture, params: dict[str, np.ndarray]) -> float:
    """From the components' own densities: at a singular cluster the sweep's squares cancel."""
    with jax.enable_x64(True), np.errstate(over="ignore"):
        return float(np.sum(np.asarray(log_density(mixture, params))))


def _degeneracy(
    mixture: Mixture, leaves: dict[str, np.ndarray], counts: np.ndarray, degenerate: bool
) -> str:
    """Why a mode is not regular, in words; "" if it is."""
    spread = _smallest_spread(mixture, leaves)
    placed = np.delete(np.arange(len(counts)), mixture.background)
    smallest = int(placed[np.argmin(counts[placed])])
    if spread is not None and spread.min() < SINGULAR:
        k = int(np.argmin(spread))
        return (
            f"cluster {k} is singular ({counts[k]:.1f} rows): its variance is {spread[k]:.1e} of "
            "the data's in one direction"
        )
    if degenerate:
        what = "grows without bound" if boundedness(mixture) else "cannot be followed further"
        return f"the log joint {what} (smallest cluster: {counts[smallest]:.1f} rows)"
    needed = rows_needed(mixture)
    if counts[smallest] < needed:
        return f"cluster {smallest} holds {counts[smallest]:.1f} rows, fewer than {needed}"
    return ""


def passed_over(modes: Modes) -> Iterator[str]:
    """A mode that is higher than the best regular one, where the prior keeps it finite."""
    best = modes[0]
    if not best.regular or [*boundedness(modes.mixture)]:
        return
    for number, mode in enumerate(modes):
        if not mode.regular and mode.log_joint > best.log_joint:
            yield (
                f"mode {number} is {mode.log_joint - best.log_joint:.1f} nats higher, but "
                f"{mode.reason}: outliers, or a spurious optimum; it is listed in modes, and the "
                "best regular mode is returned"
            )
            return


def rows_needed(mixture: Mixture) -> int:
    """Rows that a cluster needs for its own parameters: D + 1 for its own covariance matrix."""
    if mixture.general:
        return 1
    with jax.enable_x64(True):
        family = density_of(mixture).family
    needed = 1 + family.own if isinstance(family, Lines) else 1
    for site in mixture.sites.values():
        for link in site.links if site.cluster_axis is not None else ():
            leaf, _, part = link.leaf.partition("[")
            if leaf in ("scale", "volume", "cov_diag"):
                needed = max(needed, 2)
            if leaf in ("covariance_matrix", "scale_tril", "precision_matrix", "axes"):
                fed = next(o for o in mixture.observed if o.name == part[:-1] or not part)
                kind = (dist.MultivariateNormal, dist.MultivariateStudentT)
                if issubclass(fed.components[0], kind):
                    needed = max(needed, 1 + fed.value.shape[-1])
    return needed


def _smallest_spread(mixture: Mixture, leaves: dict[str, Any]) -> np.ndarray | None:
    """Each cluster's smallest variance relative to the data's, in the worst direction, (K,).

    Where a bound shows that none is singular, to the columns' own variances.
    """
    with jax.enable_x64(True):
        family, rows = density_of(mixture).family, data_at_hand(mixture).rows
        if isinstance(family, Lines):
            return (leaves["scale"] / line_columns(mixture)[0][:, 0].std()) ** 2
    if not family or not family.location_scale:
        return None
    D, scale = rows.z.shape[1], np.asarray(rows.scale)
    slots = [each for each in slots_of(family, leaves, D) if each[0].family.location_scale]

    def smallest(upper: np.ndarray | None) -> np.ndarray:
        spreads = [
            _spread(own, None if upper is None else upper[:, slot.columns], scale[slot.columns])
            for slot, own in slots
        ]
        return np.min(spreads, axis=0)

    apart = smallest(None)
    # No direction of standardised columns has more than the D that their variances sum to.
    if family.robust or not _has_matrix(leaves) or (apart / D >= SINGULAR).all():
        return apart
    with jax.enable_x64(True):
        upper = cached(mixture, "whitening", lambda: whitening(data_of(mixture).rows))
    return smallest(upper)


def _has_matrix(leaves: dict[str, Any]) -> bool:
    return any(leaf.partition("[")[0] == "scale_tril" for leaf in leaves)


def _spread(leaves: dict[str, Any], upper: np.ndarray | None, scale: np.ndarray) -> np.ndarray:
    """``_smallest_spread`` of one site: its columns of ``whitening``, in units of ``scale``.

    Without ``whitening`` in any direction: a robust family's rows may stretch it at will.
    """
    K = len(leaves["loc"])
    if "scale_tril" not in leaves:
        return ((leaves["scale"].reshape(K, -1) / scale) ** 2).min(1)
    scaled = leaves["scale_tril"] / scale[:, None]
    # A singular matrix has no Cholesky factor; its variance counts as 0.
    whole = np.isfinite(scaled).all((-2, -1), keepdims=True)
    if upper is None:
        return np.linalg.svd(np.where(whole, scaled, 0.0), compute_uv=False).min(-1) ** 2
    own = np.asarray(np.linalg.qr(upper, mode="r"))
    if np.linalg.matrix_rank(own) < own.shape[1]:
        return np.zeros(K)
    relative = np.linalg.solve(own.T, np.where(whole, scaled, 0.0))
    return np.linalg.svd(relative, compute_uv=False).min(-1) ** 2


def is_possible(log_joint: float) -> bool:
    """Whether no row has density 0 or infinity."""
    return LOWEST < log_joint < np.inf


def atlas(modes: Sequence[Mode], mixture: Mixture) -> Modes:
    """Distinct modes of many runs: equal log joint and equal cluster sizes count as one."""
    distinct: list[Mode] = []
    for mode in sorted(modes, key=lambda m: (not m.regular, -m.log_joint)):
        twin = next((i for i, other in enumerate(distinct) if _same(mode, other)), None)
        if twin is None:
            distinct.append(mode)
        else:
            known = distinct[twin]
            distinct[twin] = replace(
                known, starts=known.starts + mode.starts, moves=known.moves + mode.moves
            )
    return Modes(tuple(distinct), mixture)


def _same(a: Mode, b: Mode) -> bool:
    close = abs(a.log_joint - b.log_joint) <= SAME * (1 + abs(a.log_joint))
    alike = np.allclose(np.sort(a.counts), np.sort(b.counts), rtol=1e-3, atol=1e-2)
    return a.regular == b.regular and close and bool(alike)
