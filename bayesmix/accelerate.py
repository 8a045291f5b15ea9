"""Acceleration around an EM step, never inside it: a quasi-Newton ascent preconditioned by EM.

One pass over the data gives the log joint, its gradient g (Fisher's identity) and the EM step d.
Near a mode d = P g, where P inverts the complete-data curvature; the limited-memory BFGS update
(Nocedal & Wright 2006, section 7.2) started from that P corrects it for what the assignments
hide. P itself is never formed: the update needs it only on g and on differences of g, where it is
d and the differences of d. It is made at once, from a few products with the pairs (the compact form
of Byrd, Nocedal & Schnabel 1994, Representations of quasi-Newton matrices and their use in limited
memory methods, Mathematical Programming 63, theorem 2.2), since on few rows a recursion in NumPy
takes longer than a pass over the data. This is the second method of Jamshidian & Jennrich (1997,
Acceleration of the EM algorithm by using quasi-Newton methods, JRSS-B 59, section 4.2) with a
memory of a few pairs instead of a full matrix. All vectors are in unconstrained coordinates.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.linalg.lapack import dtrtrs

MEMORY = 30
LONGEST = 50.0  # EM steps that a move may span before longer ones have proved right
SHORT_OF = 0.5  # share of the slope that is left at the end of a move which stopped short
AHEAD = 1000  # plain steps that may follow without a gain of more than the tolerance


@dataclass(frozen=True)
class Pair:
    """A move ``s`` (n,), and what it took off the gradient (``y``) and off the EM step (``e``)."""

    s: np.ndarray
    y: np.ndarray
    e: np.ndarray

    @cached_property
    def bend(self) -> float:
        """s'y, what the log joint curves downward along the move; positive near a mode."""
        return float(self.s @ self.y)

    @property
    def curved(self) -> bool:
        """Whether the log joint curves downward along the move, as it does near a mode."""
        return bool(self.bend > 1e-10 * np.linalg.norm(self.s) * np.linalg.norm(self.y))

    @cached_property
    def speed(self) -> float:
        """How much of the move one EM step undoes: a Rayleigh quotient of I - J.

        s'y is the observed curvature along s and e = P y, so y'e / s'y lies between the extreme
        eigenvalues of I - J = P H.
        """
        return min(max(float(self.y @ self.e) / self.bend, 1e-6), 1.0)


def direction(
    gradient: np.ndarray, em_step: np.ndarray, pairs: Sequence[Pair], reach: float = LONGEST
) -> np.ndarray:
    """The quasi-Newton move (n,), no longer than ``reach`` EM steps; the EM step without pairs."""
    move = _uphill(gradient, em_step, pairs)
    longest = reach * np.linalg.norm(em_step)
    length = np.linalg.norm(move)
    return move * (longest / length) if length > longest else move


def farther(reach: float, move: np.ndarray, em_step: np.ndarray, pair: Pair, slope: float) -> float:
    """The next ``reach``, from a move that began with ``slope``, along it, and what it took off.

    Doubled where the bound cut the move short and the log joint still rises there: on a long ridge
    EM steps are so short that fifty of them lead nowhere. Halved where the move went too far.
    """
    kept = 1 - (move @ pair.y) / slope
    if kept < 0:
        return max(LONGEST, reach / 2)
    cut = np.linalg.norm(move) > 0.999 * reach * np.linalg.norm(em_step)
    return 2 * reach if cut and kept > SHORT_OF else reach


def _uphill(gradient: np.ndarray, em_step: np.ndarray, pairs: Iterable[Pair]) -> np.ndarray:
    """The whole quasi-Newton move, or the EM step where that would not rise."""
    known = tuple(pairs)
    if not known:
        return em_step
    S, Y, E = (np.array([getattr(pair, name) for pair in known]) for name in ("s", "y", "e"))
    inner = S @ Y.T  # of which only the upper triangle is looked at
    back = dtrtrs(inner, S @ gradient)[0]
    start = em_step - back @ E
    ahead = dtrtrs(inner, np.diag(inner) * back - Y @ start, trans=1)[0]
    move = (start + ahead @ S).astype(em_step.dtype)  # LAPACK's double precision stays inside
    return move if np.isfinite(move).all() and move @ gradient > 0 else em_step


def expected(gradient: np.ndarray, em_step: np.ndarray, pairs: Iterable[Pair]) -> float:
    """What the log joint has yet to gain by the curvature that the pairs tell of, in nats.

    Half the slope along the quasi-Newton move, to second order; ``remaining`` is the upper bound.
    """
    return 0.5 * abs(float(gradient @ _uphill(gradient, em_step, pairs)))


def remaining(gradient: np.ndarray, em_step: np.ndarray, pairs: Iterable[Pair]) -> float:
    """Upper estimate of what the log joint has yet to gain, in nats.

    With EM's rate matrix J the gain to the mode is g' (I - J)^-1 d / 2 to second order, at most
    g'd / 2 over the smallest eigenvalue of I - J. Of that the slowest of the ``pairs`` tells, but
    there may be a slower one that no move has met yet.
    """
    slowest = min((pair.speed for pair in pairs), default=1.0)
    return abs(float(gradient @ em_step)) / (2 * slowest)


def prolonged(gradient: np.ndarray, em_step: np.ndarray) -> float:
    """What AHEAD plain steps from here gain at most, in nats, whatever the speeds.

    To second order a plain step gains g'd less half of what the curvature takes, and where the log
    joint curves downward g'd falls from step to step.
    """
    return AHEAD * abs(float(gradient @ em_step))
