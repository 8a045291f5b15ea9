"""How a value is made of a latent site: its map, its power, its multiple.

The value is looked at behind broadcasts, unit axes and conversions to floats (``core``).
"""

from collections.abc import Sequence

import jax
import numpy as np

from bayesmix.graph.nodes import Node


def core(node: Node) -> Node:
    """The value behind broadcasts, unit axes and conversions to floats."""
    while (
        node.label in ("broadcast_in_dim", "squeeze", "expand_dims")
        or (node.label == "reshape" and _same_but_units(node.inputs[0].shape, node.shape))
        or (node.label == "convert_element_type" and _to_float(node))
    ):
        node = node.inputs[0]
    return node


def unary_map(node: Node) -> tuple[str, str] | None:
    """How ``node`` is made of one site: (map, site), up to broadcasts; None if otherwise.

    The maps: "identity", "sqrt", "rsqrt" (a scale as the root of a precision), "exp", "cholesky".
    """
    node = core(node)
    if node.site:
        return "identity", node.site
    for name, inner in (_root(node), _cholesky(node), _exp(node)):
        site = core(inner).site
        if name and site:
            return name, site
    return None


def degree(node: Node, site: str) -> float | None:
    """The power p with value(t * site) = t**p * value(site), elementwise; None where unknown."""
    node = core(node)
    if node.site == site:
        return 1.0
    if site not in node.depends:
        return 0.0
    powers = [power for operand in node.inputs if (power := degree(operand, site)) is not None]
    if len(powers) < len(node.inputs):
        return None
    match node.label:
        case "mul":
            return powers[0] + powers[1]
        case "div":
            return powers[0] - powers[1]
        case "sqrt":
            return powers[0] / 2
        case "rsqrt":
            return -powers[0] / 2
        case "square":
            return 2 * powers[0]
        case "integer_pow":
            return node.params["y"] * powers[0]
        case "pow" if core(node.inputs[1]).label == "literal":
            return float(core(node.inputs[1]).value) * powers[0]
    return None


def multiple_of(node: Node) -> str | None:
    """The site of which ``node`` is a scalar multiple (``cov / kappa``), or None."""
    node = core(node)
    if node.site or node.label not in ("mul", "div"):
        return node.site
    left, right = node.inputs
    if not right.depends and core(right).shape == ():
        return multiple_of(left)
    if node.label == "mul" and not left.depends and core(left).shape == ():
        return multiple_of(right)
    return None


def _to_float(node: Node) -> bool:
    """Whether a conversion keeps the value up to rounding; to integers or bool it cuts."""
    return jax.dtypes.issubdtype(node.params["new_dtype"], np.floating)


def _same_but_units(a: Sequence[int], b: Sequence[int]) -> bool:
    return [n for n in a if n != 1] == [n for n in b if n != 1]


def _root(node: Node) -> tuple[str, Node]:
    """("sqrt" or "rsqrt", its argument), or ("", node)."""
    if node.label in ("sqrt", "rsqrt"):
        return node.label, node.inputs[0]
    if node.label == "pow" and _is_literal(node.inputs[1], 0.5):
        return "sqrt", node.inputs[0]
    if node.label == "pow" and _is_literal(node.inputs[1], -0.5):
        return "rsqrt", node.inputs[0]
    if node.label == "div" and _is_literal(node.inputs[0], 1.0):
        name, inner = _root(core(node.inputs[1]))
        return ("rsqrt", inner) if name == "sqrt" else ("", node)
    return "", node


def _cholesky(node: Node) -> tuple[str, Node]:
    """("cholesky", A) for ``jnp.linalg.cholesky(A)``, which is tril(cholesky((A + A') / 2))."""
    factor = node.inputs[-1] if node.label == "select_n" else node
    if factor.label != "cholesky" or factor.inputs[0].label != "div":
        return "", node
    total, two = factor.inputs[0].inputs
    if total.label != "add" or not _is_literal(two, 2.0):
        return "", node
    left, right = total.inputs
    same = right.label == "transpose" and right.inputs[0] is left
    return ("cholesky", left) if same else ("", node)


def _exp(node: Node) -> tuple[str, Node]:
    return ("exp", node.inputs[0]) if node.label == "exp" else ("", node)


def _is_literal(node: Node, value: float) -> bool:
    node = core(node)
    return node.label == "literal" and bool(np.all(node.value == value))
