"""The M-step: the plan of a mixture, carried out.

``m_step`` updates the blocks of a plan in turn with the newest values of the others (ECM, Meng &
Rubin 1993); each update raises Q, so the log joint never falls.
"""

from typing import Any

import jax

from bayesmix.density import Bent, Data, Density
from bayesmix.mstep import (
    categories,  # noqa: F401  (they register their rules)
    ellipsoid,  # noqa: F401
    factors,  # noqa: F401
    medians,  # noqa: F401
    mvn,  # noqa: F401
    normal,  # noqa: F401
    rates,  # noqa: F401
    tails,  # noqa: F401
    von_mises,  # noqa: F401
    weights,  # noqa: F401
)
from bayesmix.mstep.ascent import ascend
from bayesmix.mstep.describe import describe
from bayesmix.mstep.kinks import left_at_kinks, may_stall
from bayesmix.mstep.lines import least_squares
from bayesmix.mstep.newton import newton
from bayesmix.mstep.rules import Block, Context, Plan, Target, plan_for, rule
from bayesmix.program import Params

__all__ = [
    "Block",
    "Context",
    "Plan",
    "Target",
    "describe",
    "left_at_kinks",
    "m_step",
    "may_stall",
    "plan_for",
    "rule",
]


def m_step(
    density: Density,
    plan: Plan,
    params: Params,
    inverse: jax.Array,
    statistics: Any,
    data: Data,
    evaluations: Any,
) -> tuple[Params, jax.Array]:
    """One pass over the blocks of the plan; returns the params and the ascent's inverse Hessian.

    With missing cells of multivariate normals, closed forms raise Q with these cells expected, too;
    that raises Q over assignments, which the ascent, the last block, goes on with.
    """
    for block in plan.blocks:
        if block.update is not None and block.target is not None:
            context = Context(density, params, density.whole(statistics), data)
            value = block.update(block.target, context.at(block.target))
            params = params | {block.target.name: value}
        elif block.kind == "newton" and isinstance(statistics, Bent):
            params = newton(density, block.turns, params, statistics, data)
        elif block.kind == "closed":
            params = least_squares(density, block.sites, params, statistics, data)
        else:
            params, inverse = ascend(
                density, block.sites, params, inverse, statistics, data, evaluations
            )
    return params, inverse
