"""What it costs to report one partition when another is the truth.

Idea: every loss is a function of three sums over the contingency table of the two partitions,

    A = sum of phi(size of each true cluster),  B = sum of phi(size of each reported cluster),
    C = sum of phi(size of each intersection),

with phi(n) = n log2 n (information) or n (n - 1) (pairs). One more observation in a cluster changes
one term of B and one of C, which is what makes the search fast.

Definitions: Dahl, Johnson and Mueller (2022), JCGS 31(4), 1189-1201, as in their R package salso;
information is in bits, as theirs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from bayesmix.allocations import read_partition

ASYMMETRIC = ("gvi", "gbinder")
Sum = Any  # float or array


@dataclass(frozen=True)
class Loss:
    """One loss, (p + q C) / (r + t C); 0 where the denominator is 0 (equal trivial partitions).

    fraction(A, B, N) : p, q and r; arrays broadcast. t : 0 where the loss is linear in C.
    a : where the loss is (a A + (2 - a) B - 2 C) / scale(N), the cost of separating what belongs
        together (2 - a is that of joining what does not); None where it is not linear.
    pairs : phi(n) is n (n - 1) rather than n log2 n.
    """

    name: str
    fraction: Callable[[Sum, Sum, int], tuple[Sum, float, Sum]]
    pairs: bool
    a: float | None = None
    t: float = 0.0

    def of(self, A: Sum, B: Sum, C: Sum, N: int) -> Any:
        """Its value."""
        p, q, r = self.fraction(A, B, N)
        below = r + self.t * C
        empty = vanishes(below, p)
        return np.where(empty, 0.0, (p + q * C) / np.where(empty, 1.0, below))

    @property
    def unit(self) -> str:
        """What a value is measured in."""
        if self.name in ("vi", "gvi", "id"):
            return "bits"
        return "2 x pairs / N^2" if self.pairs and self.a is not None else "0 to 1"

    def phi(self, n: np.ndarray) -> np.ndarray:
        """phi of cluster sizes."""
        n = np.asarray(n, np.float64)
        return n * (n - 1) if self.pairs else n * np.log2(np.maximum(n, 1))


def loss_of(name: str, a: float | None) -> Loss:
    """The loss of that name; `a` only for "gvi" and "gbinder"."""
    if name not in LOSSES:
        raise ValueError(f"unknown loss {name!r}: use one of {', '.join(map(repr, LOSSES))}")
    if a is not None and name not in ASYMMETRIC:
        raise ValueError(
            f"loss {name!r} has no a: use 'g{name}'"
            if f"g{name}" in LOSSES
            else f"loss {name!r} has no a: it belongs to 'gvi' and 'gbinder'"
        )
    if name in ASYMMETRIC and a is None:
        raise ValueError(
            f"loss {name!r} needs a, the cost of separating two observations that belong together; "
            f"2 - a is that of joining two that do not (a=1 is {name[1:]!r})"
        )
    if a is not None and not 0 < a < 2:
        raise ValueError(f"a={a}: the costs a and 2 - a must both be positive, so 0 < a < 2")
    return LOSSES[name](1.0 if a is None else float(a))


def vanishes(below: Sum, p: Sum) -> Any:
    """Whether a denominator is 0 but for rounding."""
    return below <= 1e-12 * (1 + np.abs(p))


def _linear(name: str, a: float) -> Loss:
    pairs = name.endswith("binder")

    def fraction(A: Sum, B: Sum, N: int) -> tuple[Sum, float, Sum]:
        return a * A + (2 - a) * B, -2.0, N**2 if pairs else N

    return Loss(name, fraction, pairs, a)


def _omari(A: Sum, B: Sum, N: int) -> tuple[Sum, float, Sum]:
    """1 - (C - chance) / (mean - chance)  =  (mean - C) / (mean - chance)."""
    mean = 0.5 * (A + B)
    return mean, -1.0, mean - A * B / max(N * (N - 1), 1)


def _nvi(A: Sum, B: Sum, N: int) -> tuple[Sum, float, Sum]:
    return A + B, -2.0, N * np.log2(N)


def _id(A: Sum, B: Sum, N: int) -> tuple[Sum, float, Sum]:
    return np.maximum(A, B), -1.0, N


def _nid(A: Sum, B: Sum, N: int) -> tuple[Sum, float, Sum]:
    return np.maximum(A, B), -1.0, N * np.log2(N) - np.minimum(A, B)


LOSSES: dict[str, Callable[[float], Loss]] = {
    "vi": lambda a: _linear("vi", a),
    "binder": lambda a: _linear("binder", a),
    "gvi": lambda a: _linear("gvi", a),
    "gbinder": lambda a: _linear("gbinder", a),
    "omari": lambda _: Loss("omari", _omari, True),
    "nvi": lambda _: Loss("nvi", _nvi, False, t=-1.0),
    "id": lambda _: Loss("id", _id, False),
    "nid": lambda _: Loss("nid", _nid, False),
}


# Distances between given partitions.


def vi(one: Any, two: Any) -> float:
    """Variation of information between two partitions, bits; 0 to log2 N.

    one, two : (N,) labels (numbers or text), or results of `partition`. A metric; unchanged
    when every observation is repeated. Source: Meila (2007), J. Multivariate Analysis 98, 873-895.
    """
    return _between("vi", one, two)


def binder(one: Any, two: Any) -> float:
    """Share of the N^2 ordered pairs about which two partitions disagree; 0 to 1 - 1/N.

    It is one minus the Rand index, times (N - 1) / N. one, two : as in `vi`.
    """
    return _between("binder", one, two)


def adjusted_rand(one: Any, two: Any) -> float:
    """Adjusted Rand index of two partitions: 1 where they are equal, about 0 by chance.

    one, two : as in `vi`. Source: Hubert and Arabie (1985), J. Classification 2, 193-218.
    """
    return 1.0 - _between("omari", one, two)


def _between(name: str, one: Any, two: Any) -> float:
    N = np.size(getattr(one, "labels", one))
    first, second = read_partition(one, N, "one"), read_partition(two, N, "two")
    return float(distances(LOSSES[name](1.0), first, second[None])[0])


def distances(loss: Loss, reported: np.ndarray, draws: np.ndarray) -> np.ndarray:
    """Loss of reporting one partition (N,) when each row of draws (S, N) is the truth: (S,)."""
    N, size = len(reported), max(1, 2**22 // len(reported))
    parts = [draws[s : s + size] for s in range(0, len(draws), size)]
    B = loss.phi(np.bincount(reported)).sum()
    return np.concatenate([loss.of(*_truth_sums(loss, reported, part, B), N) for part in parts])


def _truth_sums(
    loss: Loss, reported: np.ndarray, draws: np.ndarray, B: float
) -> tuple[np.ndarray, float, np.ndarray]:
    """The three sums; clusters of one share no more than phi(1) = 0 with any other."""
    cells, ends = cells_of(draws)
    starts, phi = np.r_[0, ends[:-1]], loss.phi(np.arange(len(reported) + 1))
    several = np.flatnonzero(np.bincount(reported) > 1)
    members = np.isin(reported, several)
    column = np.searchsorted(several, reported[members])
    flat = (cells[:, members] * len(several) + column).ravel()
    table = np.bincount(flat, minlength=ends[-1] * len(several)).reshape(ends[-1], -1)
    A = np.add.reduceat(phi[np.bincount(cells.ravel(), minlength=ends[-1])], starts)
    return A, B, np.add.reduceat(phi[table].sum(axis=1), starts)


def cells_of(draws: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The clusters of all draws numbered through, (S, N); the last number of each draw, plus 1."""
    ends = np.cumsum(draws.max(axis=1).astype(np.intp) + 1)
    return draws + np.r_[0, ends[:-1]][:, None], ends
