"""One transition of NUTS, a leapfrog step at a time.

A trajectory doubles forwards or backwards until it turns around; a draw is chosen from it along
the way. Every call grows it by one step, so that chains whose trajectories differ in length can
run side by side without waiting for each other. U-turns inside the newest half are found from
O(log) states that are kept of it.

Sources: Hoffman & Gelman (2014), The No-U-Turn Sampler, JMLR 15; multinomial and biased progressive
choice, and turning by the sum of momenta: Betancourt (2017), arXiv:1701.02434, appendix A; which
states to keep: Phan, Pradhan & Jankowiak (2019), arXiv:1912.11554, section 3.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from bayesmix.nuts.noise import DEPTH
from bayesmix.nuts.trajectory import End, Leap, Point, acceptance, kinetic, leapfrog, where


class Span(NamedTuple):
    """A stretch of states: the draw chosen from it, the log of the sum of their exp(-energy),
    less the first energy, and the sum of their momenta.
    """

    chosen: Point
    weight: Any
    momentum: Any


class Tree(NamedTuple):
    """The trajectory so far.

    ``left`` and ``right`` are its ends, ``whole`` what is in it; ``branch`` is the half that grows,
    ``end`` where it stands, ``leaf`` how many states it has. ``momenta`` and ``sums`` (DEPTH, n)
    are the kept states of the branch: their momenta, and the sums of momenta up to them.
    ``uniforms`` (DEPTH, 3) decide, for each doubling: the direction, the draw from the branch (a
    number that is left over from the decisions so far stands in ``left_over``), whether it moves.
    """

    uniforms: Any
    left_over: Any
    step: Any
    energy: Any
    left: End
    right: End
    whole: Span
    depth: Any
    branch: Span
    end: End
    forward: Any
    leaf: Any
    momenta: Any
    sums: Any
    steps: Any
    accepted: Any
    done: Any
    diverging: Any

    @property
    def chosen(self) -> Point:
        return self.whole.chosen

    @property
    def acceptance(self) -> Any:
        """Mean probability of acceptance along the trajectory."""
        return self.accepted / self.steps


def begin(point: Point, momentum: Any, step: Any, uniforms: Any) -> Tree:
    """The trajectory of one point."""
    energy = point.potential + kinetic(momentum)
    none, count = jnp.zeros_like(energy), jnp.zeros((), int)
    end = End(point.u, momentum, point.gradient)
    span = Span(point._replace(energy=energy), none, momentum)
    kept = jnp.zeros((DEPTH, *point.u.shape), point.u.dtype)
    no = jnp.array(False)
    return Tree(
        uniforms=uniforms,
        left_over=none,
        step=step,
        energy=energy,
        left=end,
        right=end,
        whole=span,
        depth=count,
        branch=span,
        end=end,
        forward=no,
        leaf=count,
        momenta=kept,
        sums=kept,
        steps=count,
        accepted=none,
        done=no,
        diverging=no,
    )


def grow(potential: Any, tree: Tree) -> Tree:
    """The trajectory with one more state; ``done`` when the draw is made."""
    side, inside, across = tree.uniforms[tree.depth]
    fresh = tree.leaf == 0
    inside = jnp.where(fresh, inside, tree.left_over)
    forward = jnp.where(fresh, side < 0.5, tree.forward)
    begun = where(fresh, where(forward, tree.right, tree.left), tree.end)
    leap = leapfrog(potential, begun, jnp.where(forward, tree.step, -tree.step), tree.energy)
    branch, left_over = _lengthened(tree.branch, fresh, leap, inside)
    momenta, sums, turned = _turned(tree, branch.momentum, leap.end.momentum)
    stop = turned | leap.diverging
    full = tree.leaf + 1 == 1 << tree.depth
    merged = _merged(tree, branch, leap.end, forward, across)
    joined = full & ~stop
    whole, left, right = where(joined, merged, (tree.whole, tree.left, tree.right))
    depth = tree.depth + joined
    around = turning(left.momentum, right.momentum, whole.momentum)
    return tree._replace(
        left=left,
        right=right,
        whole=whole,
        depth=depth,
        branch=branch,
        end=leap.end,
        forward=forward,
        left_over=left_over,
        leaf=jnp.where(full, 0, tree.leaf + 1),
        momenta=momenta,
        sums=sums,
        steps=tree.steps + 1,
        accepted=tree.accepted + acceptance(leap.change),
        done=stop | (joined & (around | (depth == DEPTH))),
        diverging=leap.diverging,
    )


def _lengthened(branch: Span, fresh: Any, leap: Leap, uniform: Any) -> tuple[Span, Any]:
    """The branch with one more state, which is chosen in proportion to its exp(-energy).

    A uniform number that lay below (above) a probability is uniform below (above) it: scaled, it
    decides again. One number in float64 has bits for all the states of a branch.
    """
    weight = jnp.where(fresh, -leap.change, jnp.logaddexp(branch.weight, -leap.change))
    share = jnp.where(fresh, 1.0, jnp.exp(-leap.change - weight))
    chosen = uniform < share
    total = jnp.where(fresh, 0.0, branch.momentum) + leap.end.momentum
    lengthened = Span(where(chosen, leap.point, branch.chosen), weight, total)
    return lengthened, jnp.where(chosen, uniform / share, (uniform - share) / (1 - share))


def _merged(tree: Tree, branch: Span, end: End, forward: Any, uniform: Any) -> Any:
    """The whole with the branch, and its ends; the draw moves to the branch where it may."""
    old = tree.whole
    moves = jnp.log(uniform) < branch.weight - old.weight
    whole = Span(
        where(moves, branch.chosen, old.chosen),
        jnp.logaddexp(old.weight, branch.weight),
        old.momentum + branch.momentum,
    )
    return whole, where(forward, tree.left, end), where(forward, end, tree.right)


def _turned(tree: Tree, total: Any, momentum: Any) -> tuple[Any, Any, Any]:
    """The kept states with the newest, and whether a complete subtree that ends there turned.

    A state of even number begins subtrees and is kept, in the place given by the bits of its
    number; one of odd number ends as many subtrees as its number has trailing ones.
    """
    leaf, place = tree.leaf, jnp.arange(DEPTH)
    top = jax.lax.population_count(leaf >> 1)
    ends = jax.lax.population_count(leaf & ~(leaf + 1))
    keep = ((leaf % 2 == 0) & (place == top))[:, None]
    momenta = jnp.where(keep, momentum, tree.momenta)
    sums = jnp.where(keep, total, tree.sums)
    ended = (place > top - ends) & (place <= top)
    return momenta, sums, jnp.any(ended & turning(momenta, momentum, total - sums + momenta))


def turning(left: Any, right: Any, total: Any) -> Any:
    """Whether a stretch with these momenta at its ends, and this sum of momenta, turned around.

    Each end counts half, which makes the sum the way between the ends (as in NumPyro).
    """
    way = total - (left + right) / 2
    return (jnp.sum(left * way, -1) <= 0) | (jnp.sum(right * way, -1) <= 0)
