"""The results that are to be compared: of which kind each is, and whether all saw the same data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from bayesmix.approximate import LaplaceResult
from bayesmix.blocks import Blocks
from bayesmix.estimate import EMResult
from bayesmix.nuts import NUTSResult
from bayesmix.relabel.tree import dataset
from bayesmix.smc import SMCResult

if TYPE_CHECKING:
    import xarray

# What each kind of result can answer; the first that all have in common ranks them.
ANSWERS = {
    EMResult: ("bic",),
    NUTSResult: ("elpd",),
    SMCResult: ("elpd", "log_evidence"),
    LaplaceResult: ("log_evidence",),
}
OF_A_TREE = ("elpd",)


@dataclass(frozen=True, eq=False)
class Contender:
    """One mixture: its name, and the result or the DataTree that speaks for it."""

    name: str
    result: Any
    answers: tuple[str, ...]
    given: bool = False  # as a DataTree

    @cached_property
    def tree(self) -> xarray.DataTree:
        return self.result if self.given else self.result.to_datatree()

    @property
    def clusters(self) -> int | None:
        if self.given:
            return self.tree.attrs.get("n_clusters")
        return self.result.mixture.K

    @property
    def values(self) -> list[Any]:
        """The observed data, site by site; nothing where a tree does not hold them."""
        if not self.given:
            return [site.value for site in self.result.mixture.observed]
        if "observed_data" not in self.tree.children:
            return []
        observed = dataset(self.tree, "observed_data")
        return [variable.to_numpy() for variable in observed.values()]

    @property
    def weights(self) -> Any:
        """Weights of the rows, or None."""
        if not self.given:
            return self.result.mixture.weights
        if "constant_data" not in self.tree.children:
            return None
        constant = dataset(self.tree, "constant_data")
        return constant["weights"].to_numpy() if "weights" in constant else None


def read(results: Any) -> list[Contender]:
    """The contenders in the given order; raises ValueError where they cannot be compared."""
    if not isinstance(results, Mapping):
        raise ValueError(
            'compare needs names: compare({"K=2": nuts2, "K=3": nuts3}), not '
            f"{type(results).__name__}"
        )
    if len(results) < 2:
        raise ValueError(f"compare got {len(results)} results: give two or more, by name")
    found = [_contender(str(name), result) for name, result in results.items()]
    _check_common(found)
    for other in found[1:]:
        _check_same_data(found[0], other)
    return found


def _contender(name: str, result: Any) -> Contender:
    for kind, answers in ANSWERS.items():
        if isinstance(result, kind):
            return Contender(name, result, answers)
    if not hasattr(result, "children"):
        raise ValueError(
            f"compare knows results of EM, NUTS, SMC, em.laplace and DataTrees, but {name!r} is "
            f"{type(result).__name__}"
        )
    if result.attrs.get("inference_method") in ("em", "laplace", "bootstrap"):
        raise ValueError(
            f"{name!r} is the tree of {result.attrs['inference_method']!r}, whose draws do not "
            "count alike or are one point: leave-one-out needs draws of the posterior. Give EM's "
            "or Laplace's result itself, or run NUTS"
        )
    if "log_likelihood" not in result.children:
        raise ValueError(
            f"the tree {name!r} has no group 'log_likelihood', which leave-one-out needs: give "
            "one with the pointwise log likelihood, such as to_datatree() of a result"
        )
    return Contender(name, result, OF_A_TREE, given=True)


def common(contenders: Sequence[Contender]) -> list[str]:
    """What all of them can answer."""
    return [a for a in contenders[0].answers if all(a in c.answers for c in contenders)]


def _check_common(contenders: Sequence[Contender]) -> None:
    if common(contenders):
        return
    kinds = ", ".join(f"{c.name!r} {_KIND[c.answers]}" for c in contenders)
    raise ValueError(
        f"these results have no measure in common ({kinds}): compare EM with EM, NUTS with NUTS "
        "or SMC, Laplace with Laplace or SMC"
    )


_KIND = {
    ("bic",): "has information criteria",
    ("elpd",): "has leave-one-out prediction",
    ("elpd", "log_evidence"): "has leave-one-out prediction and the evidence",
    ("log_evidence",): "has the evidence",
}


def _check_same_data(first: Contender, other: Contender) -> None:
    """Densities of other data, or of the same in other units, are not comparable."""
    pairs = list(zip(first.values, other.values, strict=False))
    for a, b in pairs:
        if np.shape(a) != np.shape(b):
            raise ValueError(
                f"{first.name!r} saw data of shape {np.shape(a)} and {other.name!r} of shape "
                f"{np.shape(b)}: compare fits of the same rows and columns"
            )
        if not isinstance(a, Blocks) and not isinstance(b, Blocks):
            _check_same_values(first, other, np.asarray(a), np.asarray(b))
    if pairs and len(first.values) != len(other.values):
        raise ValueError(
            f"{first.name!r} observed {len(first.values)} sites and {other.name!r} "
            f"{len(other.values)}: compare fits of the same rows and columns"
        )
    if not np.array_equal(_ones(first), _ones(other)):
        raise ValueError(
            f"{first.name!r} and {other.name!r} give rows other weights: compare fits with the same"
        )


def _check_same_values(first: Contender, other: Contender, a: np.ndarray, b: np.ndarray) -> None:
    differ = ~((a == b) | ((a != a) & (b != b)))
    if differ.any():
        row = np.argwhere(differ)[0][0]
        raise ValueError(
            f"{first.name!r} and {other.name!r} saw different data (first at row {row}): densities "
            "of other data, or of the same in other units, cannot be compared"
        )


def _ones(contender: Contender) -> np.ndarray:
    weights = contender.weights
    return np.ones(()) if weights is None else np.asarray(weights, float)
