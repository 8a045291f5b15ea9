"""One value of a graph.

``symbol`` stands for a latent site while a program is run on abstract values; ``Node`` is a value,
``Equation`` the primitive that made it, ``is_elementwise`` what kind of primitive that is.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np
from jax.extend import core as jex

INLINED = {"jit", "pjit", "closed_call", "core_call"}

ELEMENTWISE = set(
    "abs acos acosh add add_any and asin asinh atan atan2 atanh bessel_i0e bessel_i1e cbrt ceil "
    "clamp convert_element_type cos cosh digamma div eq erf erf_inv erfc exp exp2 expm1 floor ge "
    "gt igamma igammac integer_pow is_finite le lgamma log log1p logistic lt max min mul ne neg "
    "nextafter not or polygamma pow real reduce_precision regularized_incomplete_beta rem round "
    "rsqrt select_n sign sin sinh sqrt square stop_gradient sub tan tanh xor".split()
)

site_p = jex.Primitive("site")

site_p.def_abstract_eval(lambda *, name, shape, dtype: jax.core.ShapedArray(shape, np.dtype(dtype)))


def symbol(name: str, shape: Sequence[int], dtype: Any) -> jax.Array:
    """A stand-in for the value of a latent site; a graph reads it as an input of that name."""
    return site_p.bind(name=name, shape=tuple(shape), dtype=np.dtype(dtype).name)


@dataclass(eq=False)
class Equation:
    """A primitive applied once; ``key`` is its parameters in a comparable form."""

    primitive: Any
    params: dict[str, Any]
    key: Any
    results: list["Node"] = field(default_factory=list)


@dataclass(eq=False, frozen=True)
class Node:
    """One value of the graph: a result of an equation, an input, or a constant.

    ``site`` is the latent site that an input stands for; ``depends`` the latent sites that the
    value depends on; ``on_data`` whether data or captured arrays enter it.
    """

    number: int
    label: str
    shape: tuple[int, ...]
    inputs: tuple["Node", ...] = ()
    equation: Equation | None = None
    out: int = 0
    site: str | None = None
    depends: frozenset[str] = frozenset()
    on_data: bool = False
    value: Any = None

    @property
    def params(self) -> dict[str, Any]:
        """Those of the equation that made it; none of an input."""
        return self.equation.params if self.equation else {}

    def __repr__(self) -> str:
        return f"Node({self.number}: {self.label}{list(self.shape)})"


def is_elementwise(node: Node) -> bool:
    """Whether each cell of a node is made of the same cells, or the one cell, of its inputs."""
    if not all(n.shape == () or _broadcasts(n.shape, node.shape) for n in node.inputs):
        return False
    if node.label in ELEMENTWISE:
        return True
    inner = node.params.get("call_jaxpr")
    return inner is not None and all(
        eqn.primitive.name in ELEMENTWISE | INLINED | {"broadcast_in_dim"}
        for eqn in inner.jaxpr.eqns
    )


def _broadcasts(shape: Sequence[int], full: Sequence[int]) -> bool:
    return len(shape) == len(full) and all(a in (1, b) for a, b in zip(shape, full, strict=True))
