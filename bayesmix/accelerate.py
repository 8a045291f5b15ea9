"""Acceleration around an EM step, never inside it: a quasi-Newton ascent preconditioned by EM.

One pass over the data gives the log joint, its gradient g (Fisher's identity) and the EM step d.
Near a mode d = P g, where P inverts the complete-data curvature; the limited-memory BFGS recursion
(Nocedal & Wright 2006, algorithm 7.4) started from that P corrects it for what the assignments
hide. P itself is never formed: the recursion needs it only on g and on differences of g, where it
is d and the differences of d. This is the second method of Jamshidian & Jennrich (1997,
Acceleration of the EM algorithm by using quasi-Newton methods, JRSS-B 59, section 4.2) with a
memory of a few pairs instead of a full matrix. All vectors are in unconstrained coordinates.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

MEMORY = 30
LONGEST = 50.0


class Pair(NamedTuple):
    """A move ``s`` (n,), and what it took off the gradient (``y``) and off the EM step (``e``)."""

    s: np.ndarray
    y: np.ndarray
    e: np.ndarray

    @property
    def curved(self) -> bool:
        """Whether the log joint curves downward along the move, as it does near a mode."""
        return bool(self.s @ self.y > 1e-10 * np.linalg.norm(self.s) * np.linalg.norm(self.y))

    @property
    def speed(self) -> float:
        """How much of the move one EM step undoes: a Rayleigh quotient of I - J.

        s'y is the observed curvature along s and e = P y, so y'e / s'y lies between the extreme
        eigenvalues of I - J = P H.
        """
        return float(np.clip((self.y @ self.e) / (self.s @ self.y), 1e-6, 1.0))


def direction(gradient: np.ndarray, em_step: np.ndarray, pairs: Sequence[Pair]) -> np.ndarray:
    """The quasi-Newton move (n,), no longer than LONGEST EM steps; the EM step without pairs."""
    move = _uphill(gradient, em_step, pairs)
    longest = LONGEST * np.linalg.norm(em_step)
    length = np.linalg.norm(move)
    return move * (longest / length) if length > longest else move


def _uphill(gradient: np.ndarray, em_step: np.ndarray, pairs: Iterable[Pair]) -> np.ndarray:
    """The whole quasi-Newton move, or the EM step where that would not rise."""
    known = tuple(pairs)
    slope, move, taken = gradient, em_step, []
    for s, y, e in reversed(known):
        a = (s @ slope) / (s @ y)
        slope, move = slope - a * y, move - a * e
        taken.append(a)
    for (s, y, _), a in zip(known, reversed(taken), strict=True):
        move = move + (a - (y @ move) / (s @ y)) * s
    return move if np.isfinite(move).all() and move @ gradient > 0 else em_step


def expected(gradient: np.ndarray, em_step: np.ndarray, pairs: Iterable[Pair]) -> float:
    """What the log joint has yet to gain by the curvature that the pairs tell of, in nats.

    Half the slope along the quasi-Newton move, to second order; ``remaining`` is the upper bound.
    """
    return 0.5 * abs(float(gradient @ _uphill(gradient, em_step, pairs)))


def remaining(gradient: np.ndarray, em_step: np.ndarray, pairs: Iterable[Pair]) -> float:
    """Upper estimate of what the log joint has yet to gain, in nats.

    With EM's rate matrix J the gain to the mode is g' (I - J)^-1 d / 2 to second order, at most
    g'd / 2 over the smallest eigenvalue of I - J. Of that the slowest of the ``pairs`` tells.
    """
    slowest = min((pair.speed for pair in pairs), default=1.0)
    return abs(float(gradient @ em_step)) / (2 * slowest)
