"""Closed forms for volume, shape and orientation of Normal components: Sigma = lambda D A D'.

With W_k the scatter of cluster k about its location and n_k its mass, each of the three is its own
argmax at the newest values of the others: Celeux & Govaert (1995), section 3, model by model, here
once for each parameter, summed over the clusters that share it. Where their models need no inner
iteration (EVI, EVV, EEV) the three in turn are their joint argmax; where they do (VEI, VEE, VEV,
EVE, VVE) they are one round of it.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bayesmix.ellipsoid import unit_volume
from bayesmix.mstep import mvn, normal
from bayesmix.mstep.reduce import to_site
from bayesmix.mstep.rules import Context, Target, rule

FAMILIES = ("Normal", "MultivariateNormal")
SWEEPS = 100
STEPS = 100


def _squares(context: Context) -> tuple[jax.Array, jax.Array]:
    """Mass, and the sum of r (d' (x - loc))^2 along each axis d, both (K, D), in data units."""
    leaves = context.leaves()
    if "orientation" not in leaves:
        mass, _, square = normal._moments(context)
        return mass, square
    turned = _turned(mvn._scatter(context), leaves["orientation"])
    square = jnp.diagonal(turned, axis1=-2, axis2=-1)
    return jnp.broadcast_to(context.statistics.mass[:, None], square.shape), square


def _turned(scatter: jax.Array, orientation: jax.Array) -> jax.Array:
    """D' W D: the scatter in the coordinates of the axes."""
    return jnp.einsum("...ia,...ij,...jb->...ab", orientation, scatter, orientation)


def _volumes(target: Target, context: Context) -> tuple[jax.Array, jax.Array]:
    """Number of terms, n D, and tr(W Sigma^-1) at volume 1, at the shape of the site."""
    mass, square = _squares(context)
    leaves = context.leaves()
    terms = jnp.maximum(square, 0) / unit_volume(leaves["axes"])
    if leaves["volume"].ndim == 1:
        mass, terms = mass.sum(-1), terms.sum(-1)
    return to_site(mass, target), to_site(terms, target)


@rule(FAMILIES, "volume", "identity", "ImproperUniform", text="volume (flat prior)")
def volume_under_flat(target: Target, context: Context) -> jax.Array:
    """The mean square along the axes, each in units of its own length."""
    count, total = _volumes(target, context)
    mean = total / jnp.where(count > 0, count, 1)
    return jnp.where(count > 0, mean, context.params[target.name])


@rule(FAMILIES, "volume", "identity", "InverseGamma", text="InverseGamma on the volume")
def volume_under_inverse_gamma(target: Target, context: Context) -> jax.Array:
    """(rate + tr / 2) / (concentration + 1 + n D / 2)."""
    count, total = _volumes(target, context)
    prior = context.prior(target.name)
    return (prior["rate"] + total / 2) / (prior["concentration"] + 1 + count / 2)


def _weighed(target: Target, context: Context) -> jax.Array:
    """Squares along the axes in units of the volume, at the shape of the site.

    The determinant does not depend on the shape, so these over the axes are all that there is to
    minimise, at a product of 1.
    """
    volume = context.leaves()["volume"]
    square = _squares(context)[1] / volume.reshape(len(volume), -1)
    return jnp.maximum(to_site(square, target), 0)


@rule(FAMILIES, "axes", "identity", "ImproperUniform", text="shape (flat prior)")
def shape_under_flat(target: Target, context: Context) -> jax.Array:
    """The squares as shares of their sum."""
    square = _weighed(target, context)
    total = square.sum(-1, keepdims=True)
    share = square / jnp.where(total > 0, total, 1)
    return jnp.where(total > 0, share, context.params[target.name])


@rule(FAMILIES, "axes", "identity", "Dirichlet", text="Dirichlet on the shape (Newton)")
def shape_under_dirichlet(target: Target, context: Context) -> jax.Array:
    """The shares at which squares / 2 over the axes, less the log prior, are least.

    In u = log(axes), of sum 0, that is sum s exp(-u) / 2 - b'u + c log sum exp(u), where
    b = concentration - 1 and c its sum. Steps of Newton's method are held to half a unit of u,
    with which the objective cannot rise: its curvature changes by less than a factor e over it.
    (For c < 0 the concave last term is taken by its slope alone.)
    """
    square = _weighed(target, context)
    b = context.prior(target.name)["concentration"] - 1
    c = jnp.broadcast_to(b, square.shape).sum(-1, keepdims=True)
    D = square.shape[-1]
    enough = float(np.sqrt(jnp.finfo(square.dtype).eps)) / 8

    def step(carry: Any) -> Any:
        u, count, _ = carry
        weight, share = square * jnp.exp(-u) / 2, jax.nn.softmax(u)
        slope = c * share - weight - b
        bend = (weight + jnp.maximum(c, 0) * share)[..., None] * jnp.eye(D, dtype=u.dtype)
        bend -= jnp.maximum(c, 0)[..., None] * share[..., None] * share[..., None, :]
        border = jnp.ones((*u.shape, 1), u.dtype)
        system = jnp.block([[bend, border], [border.mT, jnp.zeros_like(border[..., :1, :])]])
        right = jnp.concatenate([-slope, jnp.zeros_like(slope[..., :1])], -1)
        move = jnp.linalg.solve(system, right[..., None])[..., :D, 0]
        size = jnp.abs(move).max(-1, keepdims=True)
        return u + move / jnp.maximum(1, 2 * size), count + 1, size.max()

    def go_on(carry: Any) -> Any:
        return (carry[2] > enough) & (carry[1] < STEPS)

    start = jnp.log(unit_volume(context.params[target.name]))
    found = jax.lax.while_loop(go_on, step, (start, 0, jnp.ones((), start.dtype)))[0]
    return jax.nn.softmax(found)


@rule(
    "MultivariateNormal",
    "orientation",
    "identity",
    "HaarRotation",
    text="axes of the scatter (plane rotations)",
)
def orientation_under_uniform(target: Target, context: Context) -> jax.Array:
    """The rotation D that minimises sum_k tr(D' W_k D diag(1 / axes_k)) / volume_k.

    Clusters that share D are summed; see ``closest_axes``.
    """
    leaves = context.leaves()
    precision = 1 / (leaves["volume"][:, None] * unit_volume(leaves["axes"]))
    scatter = mvn._scatter(context)
    K, D = precision.shape
    groups = 1 if target.link.axes[0] is None else K
    start = context.params[target.name].reshape(groups, D, D)
    found = closest_axes(scatter.reshape(groups, -1, D, D), precision.reshape(groups, -1, D), start)
    return found.reshape(target.shape)


def closest_axes(scatter: jax.Array, precision: jax.Array, start: jax.Array) -> jax.Array:
    """Rotations D, (g, D, D), that minimise sum_m sum_d precision_md (D' W_m D)_dd, from ``start``.

    scatter : (g, m, D, D), precision : (g, m, D). Jacobi's method: turning two axes d, e by an
    angle t in their plane changes the sum by b cos 2t + c sin 2t, whose minimum is known. Pairs
    without a common axis are turned at once, in sweeps over all pairs until none turns. For one
    matrix the result is the eigenvectors, for several the orientation that Flury & Gautschi's
    algorithm (1986, SIAM J. Sci. Stat. Comput. 7) seeks, a local minimum. Rotations vary
    continuously with the data: axes keep their order and their signs.
    """
    D = start.shape[-1]
    if D == 1:
        return start
    first, second = _rounds(D)
    still = float(np.sqrt(jnp.finfo(start.dtype).eps))

    def turn(number: Any, carry: Any) -> Any:
        orientation, turned, largest = carry
        p, q = jnp.asarray(first)[number], jnp.asarray(second)[number]
        angle = _angles(turned, precision, p, q)
        plane = jnp.broadcast_to(jnp.eye(D, dtype=start.dtype), start.shape)
        plane = plane.at[:, p, p].set(jnp.cos(angle)).at[:, q, q].set(jnp.cos(angle))
        plane = plane.at[:, q, p].set(jnp.sin(angle)).at[:, p, q].set(-jnp.sin(angle))
        largest = jnp.maximum(largest, jnp.abs(angle).max())
        return orientation @ plane, _turned(turned, plane[:, None]), largest

    def sweep(carry: Any) -> Any:
        orientation, count, _ = carry
        begun = (orientation, _turned(scatter, orientation[:, None]), jnp.zeros((), start.dtype))
        orientation, _, largest = jax.lax.fori_loop(0, len(first), turn, begun)
        return orientation, count + 1, largest

    def go_on(carry: Any) -> Any:
        return (carry[2] > still) & (carry[1] < SWEEPS)

    found = jax.lax.while_loop(go_on, sweep, (start, 0, jnp.ones((), start.dtype)))[0]
    # A step of Newton's towards orthogonality takes the rounding of the many products away.
    return found @ (1.5 * jnp.eye(D, dtype=start.dtype) - 0.5 * found.mT @ found)


def _angles(turned: jax.Array, precision: jax.Array, p: jax.Array, q: jax.Array) -> jax.Array:
    """The best angle for each pair of axes (p, q), (g, pairs); 0 where none is better."""
    gap = precision[..., p] - precision[..., q]
    along = turned[..., p, p] - turned[..., q, q]
    cosine = (gap * along / 2).sum(1)
    sine = (gap * turned[..., p, q]).sum(1)
    size = (jnp.abs(gap) * (turned[..., p, p] + turned[..., q, q])).sum(1)
    matters = jnp.hypot(cosine, sine) > 8 * jnp.finfo(turned.dtype).eps * size
    return jnp.where(matters, jnp.arctan2(-sine, jnp.where(matters, -cosine, 1.0)) / 2, 0.0)


def _rounds(D: int) -> tuple[np.ndarray, np.ndarray]:
    """All pairs of D axes in rounds of disjoint pairs, (rounds, D // 2) each: a tournament."""
    even = D + D % 2
    order = np.arange(even)
    rounds = []
    for _ in range(even - 1):
        pairs = np.stack([order[: even // 2], order[: even // 2 - 1 : -1]], 1)
        rounds.append(np.sort(pairs[(pairs < D).all(1)], 1))
        order = np.concatenate([order[:1], order[-1:], order[1:-1]])
    stacked = np.stack(rounds)
    return stacked[..., 0], stacked[..., 1]
