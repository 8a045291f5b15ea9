"""Acceleration around an EM step, never inside it: a quasi-Newton ascent preconditioned by EM.

One pass over the data gives the log joint, its gradient g (Fisher's identity) and the EM step d.
Near a mode d = P g, where P inverts the complete-data curvature; the limited-memory BFGS update
(Nocedal & Wright 2006, section 7.2) started from that P corrects it for what the assignments
hide. P itself is never formed: the update needs it only on g and on differences of g, where it is
d and the differences of d. It is made at once, from a few products with the pairs (the compact form
of Byrd, Nocedal & Schnabel 1994, Representations of quasi-Newton matrices and their use in limited
memory methods, Mathematical Programming 63, theorem 2.2). This is the second method of Jamshidian &
Jennrich (1997, Acceleration of the EM algorithm by using quasi-Newton methods, JRSS-B 59, section
4.2) with a memory of a few pairs instead of a full matrix. All vectors are in unconstrained
coordinates; everything here is traceable.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.lax.linalg import triangular_solve

PAIRS = 30
LONGEST = 50.0  # EM steps that a move may span before longer ones have proved right
SHORT_OF = 0.5  # share of the slope that is left at the end of a move which stopped short
AHEAD = 1000  # plain steps that may follow without a gain of more than the tolerance


class Memory(NamedTuple):
    """The last PAIRS moves ``s``, what each took off the gradient (``y``) and off the EM step
    (``e``), each (PAIRS, n), the newest at the end; ``count`` of them are known.

    ``bends`` (PAIRS, PAIRS): s_i'y_j of every move with those that came after it; s'y is what the
    log joint curves downward along a move. ``speeds`` (PAIRS,): how much of the move one EM step
    undoes, a Rayleigh quotient of I - J: s'y is the observed curvature along s and e = P y, so
    y'e / s'y lies between the extreme eigenvalues of I - J = P H.
    """

    s: Any
    y: Any
    e: Any
    bends: Any
    speeds: Any
    count: Any

    @property
    def known(self) -> Any:
        """Which of the slots hold a pair, (PAIRS,)."""
        return jnp.arange(PAIRS) >= PAIRS - self.count


def empty(n: int, dtype: Any) -> Memory:
    """A memory of moves in n coordinates that holds none yet."""
    s, y, e = np.zeros((3, PAIRS, n), dtype)
    return Memory(s, y, e, np.zeros((PAIRS, PAIRS), dtype), np.ones(PAIRS, dtype), np.int32(0))


def remembered(memory: Memory, s: Any, y: Any, e: Any, wanted: Any = True) -> Memory:
    """The memory with another move, if it is ``wanted`` and the log joint curves downward along it,
    as it does near a mode.
    """
    bend = s @ y
    curved = bend > 1e-10 * jnp.linalg.norm(s) * jnp.linalg.norm(y)
    moves, changes, steps = (
        jnp.concatenate([rows[1:], row[None]])
        for rows, row in zip(memory[:3], (s, y, e), strict=True)
    )
    older = jnp.pad(memory.bends[1:, 1:], ((0, 1), (0, 1)))
    speed = jnp.clip(y @ e / bend, 1e-6, 1.0)
    longer = Memory(
        moves,
        changes,
        steps,
        jnp.where(jnp.arange(PAIRS) < PAIRS - 1, older, (moves @ y)[:, None]),
        jnp.append(memory.speeds[1:], speed),
        jnp.minimum(memory.count + 1, PAIRS),
    )
    return jax.tree.map(lambda a, b: jnp.where(wanted & curved, a, b), longer, memory)


def direction(memory: Memory, gradient: Any, em_step: Any) -> Any:
    """The quasi-Newton move (n,), or the EM step where that would not rise, as without pairs."""
    known = memory.known
    both = known[:, None] & known
    bends = jnp.where(both, memory.bends, jnp.eye(PAIRS, dtype=gradient.dtype))

    def solved(values: Any, transposed: bool) -> Any:
        values = jnp.where(known, values, 0.0)[:, None]
        return triangular_solve(bends, values, left_side=True, transpose_a=transposed)[:, 0]

    back = solved(memory.s @ gradient, transposed=False)
    start = em_step - back @ memory.e
    ahead = solved(jnp.diag(bends) * back - memory.y @ start, transposed=True)
    move = start + ahead @ memory.s
    rises = jnp.all(jnp.isfinite(move)) & (move @ gradient > 0)
    return jnp.where(rises, move, em_step)


def bounded(move: Any, em_step: Any, reach: Any) -> Any:
    """The move, cut to ``reach`` EM steps if it is longer."""
    length, longest = jnp.linalg.norm(move), reach * jnp.linalg.norm(em_step)
    return move * jnp.where(length > longest, longest / length, 1.0)


def farther(reach: Any, move: Any, em_step: Any, gradient: Any, y: Any) -> Any:
    """The next ``reach``, from a move, what it was made from, and what it took off the gradient.

    Doubled where the bound cut the move short and the log joint still rises there: on a long ridge
    EM steps are so short that fifty of them lead nowhere. Halved where the move went too far.
    """
    kept = 1 - (move @ y) / (move @ gradient)
    cut = jnp.linalg.norm(move) > 0.999 * reach * jnp.linalg.norm(em_step)
    longer = jnp.where(cut & (kept > SHORT_OF), 2 * reach, reach)
    return jnp.where(kept < 0, jnp.maximum(LONGEST, reach / 2), longer)


def expected(gradient: Any, direction: Any) -> Any:
    """What the log joint has yet to gain by the curvature that the pairs tell of, in nats.

    Half the slope along the quasi-Newton move, to second order; ``remaining`` is the upper bound.
    """
    return 0.5 * jnp.abs(gradient @ direction)


def remaining(memory: Memory, gradient: Any, em_step: Any) -> Any:
    """Upper estimate of what the log joint has yet to gain, in nats.

    With EM's rate matrix J the gain to the mode is g' (I - J)^-1 d / 2 to second order, at most
    g'd / 2 over the smallest eigenvalue of I - J. Of that the slowest of the pairs tells, but
    there may be a slower one that no move has met yet.
    """
    slowest = jnp.min(jnp.where(memory.known, memory.speeds, 1.0))
    return jnp.abs(gradient @ em_step) / (2 * slowest)


def prolonged(gradient: Any, em_step: Any) -> Any:
    """What AHEAD plain steps from here gain at most, in nats, whatever the speeds.

    To second order a plain step gains g'd less half of what the curvature takes, and where the log
    joint curves downward g'd falls from step to step.
    """
    return AHEAD * jnp.abs(gradient @ em_step)
