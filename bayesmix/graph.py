"""The arithmetic of a program as a graph that can be read.

JAX writes a Python function down as a jaxpr. Here the jaxpr becomes a graph of immutable, interned
nodes: equal arithmetic is the same object, so "is this leaf just that site?" is an identity test.
The graph answers three questions (what does a value depend on, which axis of a site became which
axis of a value, how does a value scale with a site) and can be evaluated again, in parts: what
depends on the data alone is computed once, what depends on the parameters is left to the loops.

Nothing here knows NumPyro, mixtures or EM.
"""

from collections.abc import Iterable, Sequence
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

NUMPY = {
    "add": np.add,
    "sub": np.subtract,
    "mul": np.multiply,
    "lt": np.less,
    "eq": np.equal,
    "ge": np.greater_equal,
    "max": np.maximum,
    "min": np.minimum,
}

Axes = tuple[frozenset[tuple[str, int]], ...]

_site_p = jex.Primitive("site")
_site_p.def_abstract_eval(
    lambda *, name, shape, dtype: jax.core.ShapedArray(shape, np.dtype(dtype))
)


def symbol(name: str, shape: Sequence[int], dtype: Any) -> jax.Array:
    """A stand-in for the value of a latent site; a graph reads it as an input of that name."""
    return _site_p.bind(name=name, shape=tuple(shape), dtype=np.dtype(dtype).name)


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

    def __repr__(self) -> str:
        return f"Node({self.number}: {self.label}{list(self.shape)})"


class Graph:
    """Builds and interns nodes from jaxprs."""

    def __init__(self) -> None:
        self.sites: dict[str, Node] = {}
        self.captured: list[Node] = []
        self._interned: dict[Any, Any] = {}
        self._count = 0

    def data(self, shape: Sequence[int]) -> Node:
        """An input that stands for one array of data."""
        return self._new("data", shape, on_data=True)

    def read(self, closed: Any, inputs: Sequence[Node]) -> list[Node]:
        """The nodes of a closed jaxpr's outputs, given the nodes of its inputs."""
        consts = [
            self._new("captured", np.shape(value), on_data=True, value=value)
            for value in closed.consts
        ]
        self.captured.extend(consts)
        return self._inline(closed.jaxpr, consts, inputs)

    def _inline(self, jaxpr: Any, consts: Sequence[Node], inputs: Sequence[Node]) -> list[Node]:
        env = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*consts, *inputs], strict=True))

        def node_of(atom: Any) -> Node:
            return self._literal(atom) if isinstance(atom, jex.Literal) else env[atom]

        for eqn in jaxpr.eqns:
            operands = [node_of(atom) for atom in eqn.invars]
            if eqn.primitive.name in INLINED:
                inner = eqn.params.get("jaxpr", eqn.params.get("call_jaxpr"))
                if hasattr(inner, "consts"):
                    results = self.read(inner, operands)
                else:
                    results = self._inline(inner, (), operands)
            else:
                results = self._apply(eqn, operands)
            env.update(zip(eqn.outvars, results, strict=True))
        return [node_of(atom) for atom in jaxpr.outvars]

    def _literal(self, atom: Any) -> Node:
        value = np.asarray(atom.val, atom.aval.dtype)
        key = ("literal", value.dtype.str, value.shape, value.tobytes())
        if key not in self._interned:
            self._interned[key] = self._new("literal", value.shape, value=value)
        return self._interned[key]

    def _apply(self, eqn: Any, operands: list[Node]) -> list[Node]:
        name, shape = eqn.primitive.name, eqn.outvars[0].aval.shape
        if eqn.primitive is _site_p:
            site = eqn.params["name"]
            if site not in self.sites:
                self.sites[site] = self._new(site, shape, site=site, depends=frozenset([site]))
            return [self.sites[site]]
        if name in ("copy", "copy_p") or (
            name == "broadcast_in_dim" and operands and shape == operands[0].shape
        ):
            return [operands[0]]
        if name == "gather" and operands[0].depends:
            source = _whole_axes(eqn.params, *operands)
            if source is not None:
                return [self._spread(operands[0], *source, shape)]
        return self._results(
            eqn.primitive, eqn.params, operands, [var.aval.shape for var in eqn.outvars]
        )

    def _results(
        self, primitive: Any, params: Any, operands: list[Node], shapes: list[Sequence[int]]
    ) -> list[Node]:
        """The nodes of one application of a primitive, made once."""
        name, comparable = primitive.name, canonical(params)
        key = (name, comparable, tuple(node.number for node in operands))
        if key not in self._interned:
            equation = Equation(primitive, params, comparable)
            equation.results.extend(
                self._new(
                    name,
                    shape,
                    inputs=tuple(operands),
                    equation=equation,
                    out=out,
                    depends=frozenset().union(*(node.depends for node in operands)),
                    on_data=any(node.on_data for node in operands),
                )
                for out, shape in enumerate(shapes)
            )
            self._interned[key] = equation.results
        return self._interned[key]

    def _spread(
        self, node: Node, held: dict[int, int], source: list[int | None], shape: Sequence[int]
    ) -> Node:
        """``node`` at the indices ``held``, its other axes where ``source`` says, broadcast."""
        for axis, index in held.items():
            low = [index if i == axis else 0 for i in range(len(node.shape))]
            high = [index + 1 if i == axis else n for i, n in enumerate(node.shape)]
            bounds = {"start_indices": tuple(low), "limit_indices": tuple(high), "strides": None}
            cut = [h - start for start, h in zip(low, high, strict=True)]
            node = self._results(jax.lax.slice_p, bounds, [node], [cut])[0]
        order = tuple(axis for axis in source if axis is not None)
        if held:
            left = [n for axis, n in enumerate(node.shape) if axis not in held]
            gone = {"dimensions": tuple(sorted(held))}
            node = self._results(jax.lax.squeeze_p, gone, [node], [left])[0]
            order = tuple(axis - sum(h < axis for h in held) for axis in order)
        if order != tuple(range(len(order))):
            turned = [node.shape[axis] for axis in order]
            node = self._results(jax.lax.transpose_p, {"permutation": order}, [node], [turned])[0]
        if node.shape == tuple(shape):
            return node
        places = tuple(i for i, axis in enumerate(source) if axis is not None)
        params = {"shape": tuple(shape), "broadcast_dimensions": places, "sharding": None}
        return self._results(jax.lax.broadcast_in_dim_p, params, [node], [shape])[0]

    def _new(self, label: str, shape: Sequence[int], **fields: Any) -> Node:
        self._count += 1
        return Node(self._count, label, tuple(shape), **fields)


def _whole_axes(
    params: Any, operand: Node, indices: Node
) -> tuple[dict[int, int], list[int | None]] | None:
    """How a gather takes whole axes in their order, ``beta[arange(K)[:, None], 1]``.

    That is how a parameter looks when an assignment runs over all of its values. Returns the axes
    of the operand held at one index, and for each axis of the result the axis of the operand, or
    None for a new one; None for any other gather.
    """
    numbers = params["dimension_numbers"]
    taken = numbers.start_index_map
    if (
        indices.depends
        or indices.on_data
        or numbers.operand_batching_dims
        or numbers.collapsed_slice_dims != tuple(sorted(taken))
        or any(
            size != (1 if axis in taken else operand.shape[axis])
            for axis, size in enumerate(params["slice_sizes"])
        )
    ):
        return None
    index = _constant(indices)
    if index is None:
        return None
    batch: list[int | None] = [None] * (index.ndim - 1)
    held = {}
    for number, axis in enumerate(taken):
        component, size = index[..., number], operand.shape[axis]
        run = _run(component, size)
        if size > 1 and np.all(component == component.flat[0]):
            held[axis] = int(component.flat[0])
        elif run is not None and batch[run] is None:
            batch[run] = axis
        else:
            return None
    offset = [axis for axis in range(len(operand.shape)) if axis not in taken]
    fresh, rest = iter(batch), iter(offset)
    rank = len(batch) + len(offset)
    return held, [next(rest) if i in numbers.offset_dims else next(fresh) for i in range(rank)]


def _constant(node: Node) -> np.ndarray | None:
    """The value of a node that is an index made of literals, by NumPy; None if it is more."""
    if node.label == "literal":
        return node.value
    values = [value for n in node.inputs if (value := _constant(n)) is not None]
    params = node.equation.params if node.equation else {}
    if len(values) < len(node.inputs):
        return None
    match node.label:
        case "iota":
            shape, axis = node.shape, params["dimension"]
            line = np.arange(shape[axis]).reshape(-1, *(1,) * (len(shape) - axis - 1))
            return np.broadcast_to(line, shape)
        case "broadcast_in_dim":
            places = dict(zip(params["broadcast_dimensions"], values[0].shape, strict=True))
            line = values[0].reshape([places.get(i, 1) for i in range(len(node.shape))])
            return np.broadcast_to(line, node.shape)
        case "reshape" | "squeeze":
            return values[0].reshape(node.shape)
        case "convert_element_type":
            return values[0].astype(params["new_dtype"])
        case "select_n" if values[0].dtype == bool and len(values) == 3:
            return np.where(values[0], values[2], values[1])
        case "concatenate":
            return np.concatenate(values, params["dimension"])
        case "add" | "sub" | "mul" | "lt" | "eq" | "ge" | "max" | "min":
            return NUMPY[node.label](*values)
    return None


def _run(index: np.ndarray, size: int) -> int | None:
    """The one axis along which an index counts 0, 1, ..., size - 1, or None."""
    for axis, length in enumerate(index.shape):
        counting = np.arange(size).reshape(-1, *(1,) * (index.ndim - axis - 1))
        if length == size and np.all(index == counting):
            return axis
    return None


def canonical(params: Any) -> Any:
    """A hashable form of an equation's parameters, equal for two readings of the same program.

    Functions attached to a primitive (the derivative rule of a ``custom_jvp``, say) are made anew
    at every trace and go with the arithmetic beside them, so only their kind is kept.
    """
    if isinstance(params, dict):
        return tuple((name, canonical(params[name])) for name in sorted(params))
    if isinstance(params, tuple | list):
        return tuple(canonical(item) for item in params)
    if isinstance(params, np.ndarray | jax.Array):
        array = np.asarray(params)
        return (array.dtype.str, array.shape, array.tobytes())
    if hasattr(params, "eqns"):
        return _canonical_jaxpr(params)
    if hasattr(params, "jaxpr"):
        return (canonical(params.jaxpr), canonical(tuple(params.consts)))
    if hasattr(params, "call_wrapped") or (callable(params) and not isinstance(params, type)):
        return type(params).__name__
    return repr(params) if type(params).__hash__ is None else params


def _canonical_jaxpr(jaxpr: Any) -> Any:
    names: dict[Any, int] = {}

    def name(atom: Any) -> Any:
        if isinstance(atom, jex.Literal):
            return ("literal", atom.aval.str_short(), np.asarray(atom.val).tobytes())
        return (names.setdefault(atom, len(names)), atom.aval.str_short())

    heads = tuple(map(name, [*jaxpr.constvars, *jaxpr.invars]))
    body = tuple(
        (
            eqn.primitive.name,
            canonical(eqn.params),
            tuple(map(name, eqn.invars)),
            tuple(map(name, eqn.outvars)),
        )
        for eqn in jaxpr.eqns
    )
    return (heads, body, tuple(map(name, jaxpr.outvars)))


# ---------------------------------------------------------------------------------- evaluation


def ancestors(outputs: Iterable[Node], known: Iterable[int] = ()) -> list[Node]:
    """The nodes needed for ``outputs``, in the order of computation, stopping at ``known``."""
    seen: dict[int, Node] = {}
    known, pending = set(known), list(outputs)
    while pending:
        node = pending.pop()
        if node.number in seen:
            continue
        seen[node.number] = node
        if node.number not in known:
            pending.extend(node.inputs)
    return [seen[number] for number in sorted(seen)]


def frontier(outputs: Iterable[Node]) -> list[Node]:
    """The values, free of parameters, that summarise all that ``outputs`` need of the data."""
    found, seen, pending = {}, set(), list(outputs)
    while pending:
        node = pending.pop()
        if node.number in seen:
            continue
        seen.add(node.number)
        if node.depends:
            pending.extend(node.inputs)
        elif node.on_data:
            found[node.number] = node
    return [found[number] for number in sorted(found)]


def evaluate(outputs: Sequence[Node], given: dict[int, Any]) -> list[Any]:
    """Values of ``outputs`` where ``given`` holds the values of some nodes, by number.

    Traceable by JAX. Captured arrays that are not given have the value they had when read.
    """
    values = dict(given)
    for node in ancestors(outputs, given):
        if node.number in values:
            continue
        if node.equation is None:
            values[node.number] = node.value
            continue
        inputs = [values[n.number] for n in node.inputs]
        results = bind(node, inputs, node.equation.params)
        for sibling, value in zip(node.equation.results, results, strict=True):
            values[sibling.number] = value
    return [values[node.number] for node in outputs]


def bind(node: Node, inputs: Sequence[Any], params: dict[str, Any]) -> Sequence[Any]:
    """Results of a node's primitive on other inputs."""
    assert node.equation is not None
    primitive = node.equation.primitive
    bound = primitive.get_bind_params(params)
    # jax before 0.10 gives (functions, params), later ones params alone
    functions, params = bound if isinstance(bound, tuple) else ((), bound)
    result = primitive.bind(*functions, *inputs, **params)
    return result if primitive.multiple_results else [result]


def fingerprint(outputs: Sequence[Node]) -> Any:
    """A hashable description of the arithmetic: equal for two readings of the same program.

    Data and captured arrays enter by shape only, so compiled code can be shared between data sets
    and never holds any of their values.
    """
    order: dict[int, int] = {}
    lines: list[Any] = []
    for node in ancestors(outputs):
        order[node.number] = len(order)
        if node.equation is not None:
            operands = tuple(order[n.number] for n in node.inputs)
            lines.append((node.label, node.equation.key, operands, node.out))
        elif node.label == "literal":
            lines.append(("literal", node.value.dtype.str, node.shape, node.value.tobytes()))
        else:
            lines.append((node.label, node.shape, node.site))
    return (tuple(lines), tuple(order[node.number] for node in outputs))


# ------------------------------------------------------------------------------------- reading


def core(node: Node) -> Node:
    """The value behind broadcasts, unit axes and conversions to floats."""
    while (
        node.label in ("broadcast_in_dim", "squeeze", "expand_dims")
        or (node.label == "reshape" and _same_but_units(node.inputs[0].shape, node.shape))
        or (node.label == "convert_element_type" and _to_float(node))
    ):
        node = node.inputs[0]
    return node


def _to_float(node: Node) -> bool:
    """Whether a conversion keeps the value up to rounding; to integers or bool it cuts."""
    assert node.equation is not None
    return jax.dtypes.issubdtype(node.equation.params["new_dtype"], np.floating)


def _same_but_units(a: Sequence[int], b: Sequence[int]) -> bool:
    return [n for n in a if n != 1] == [n for n in b if n != 1]


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


def _exp(node: Node) -> tuple[str, Node]:
    return ("exp", node.inputs[0]) if node.label == "exp" else ("", node)


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


def _is_literal(node: Node, value: float) -> bool:
    node = core(node)
    return node.label == "literal" and bool(np.all(node.value == value))


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


def degree(node: Node, site: str) -> float | None:
    """The power p with value(t * site) = t**p * value(site), elementwise; None where unknown."""
    node = core(node)
    if node.site == site:
        return 1.0
    if site not in node.depends:
        return 0.0
    powers = [power for operand in node.inputs if (power := degree(operand, site)) is not None]
    if len(powers) < len(node.inputs) or node.equation is None:
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
            return node.equation.params["y"] * powers[0]
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


def same_along(node: Node, axis: int) -> bool:
    """Whether all slices of ``node`` along ``axis`` are equal by construction: a broadcast."""
    if node.label == "broadcast_in_dim":
        sources = node.equation.params["broadcast_dimensions"] if node.equation else ()
        if axis not in sources:
            return True
        source = sources.index(axis)
        inner = node.inputs[0]
        return inner.shape[source] != node.shape[axis] or same_along(inner, source)
    if node.label == "transpose" and node.equation:
        return same_along(node.inputs[0], node.equation.params["permutation"][axis])
    if not (node.inputs and (is_elementwise(node) or (node.label == "cholesky" and axis == 0))):
        return not node.depends and not node.shape
    return all(not n.shape or same_along(n, axis) for n in node.inputs)


def axes(node: Node, memo: dict[int, Axes] | None = None) -> Axes:
    """For each axis of ``node``, the (site, axis) pairs that run along it.

    Followed through elementwise arithmetic and changes of shape; an operation that mixes an axis
    (a sum, a factorisation, a gather) ends the pairs that run along it.
    """
    memo = {} if memo is None else memo
    for ancestor in ancestors([node]):
        if ancestor.number not in memo:
            memo[ancestor.number] = _axes(ancestor, [memo[n.number] for n in ancestor.inputs])
    return memo[node.number]


def _axes(node: Node, operands: list[Axes]) -> Axes:
    none: frozenset[tuple[str, int]] = frozenset()
    rank, params = len(node.shape), node.equation.params if node.equation else {}
    if node.site:
        return tuple(frozenset([(node.site, axis)]) for axis in range(rank))
    if not node.depends:
        return (none,) * rank
    match node.label:
        case "broadcast_in_dim":
            result = [none] * rank
            for source, target in enumerate(params["broadcast_dimensions"]):
                if node.inputs[0].shape[source] == node.shape[target]:
                    result[target] = operands[0][source]
            return tuple(result)
        case "squeeze":
            gone = {d % len(operands[0]) for d in params["dimensions"]}
            return tuple(a for axis, a in enumerate(operands[0]) if axis not in gone)
        case "transpose":
            return tuple(operands[0][axis] for axis in params["permutation"])
        case "reshape":
            return _reshaped(node, operands[0])
        case "slice":
            before = node.inputs[0].shape
            return tuple(
                a if before[i] == node.shape[i] else none for i, a in enumerate(operands[0])
            )
        case "concatenate":
            joined = params["dimension"]
            return tuple(
                none if i == joined else none.union(*(a[i] for a in operands)) for i in range(rank)
            )
        case "dot_general":
            return _contracted(params, operands)
        case "cholesky" | "triangular_solve" | "eigh" | "lu":
            lead = [none.union(*(a[i] for a in operands)) for i in range(rank - 2)]
            return (*lead, *((none,) * (rank - len(lead))))
    if node.label.startswith(("reduce_", "arg")) and "axes" in params:
        return tuple(a for axis, a in enumerate(operands[0]) if axis not in params["axes"])
    if node.label.startswith("cum"):
        return tuple(none if i == params["axis"] else a for i, a in enumerate(operands[0]))
    if is_elementwise(node):
        pairs = [(n.shape, a) for n, a in zip(node.inputs, operands, strict=True) if n.shape]
        return tuple(
            none.union(*(a[i] for shape, a in pairs if shape[i] == size))
            for i, size in enumerate(node.shape)
        )
    return (none,) * rank


def is_elementwise(node: Node) -> bool:
    """Whether each cell of a node is made of the same cells, or the one cell, of its inputs."""
    if not all(n.shape == () or _broadcasts(n.shape, node.shape) for n in node.inputs):
        return False
    if node.label in ELEMENTWISE:
        return True
    inner = node.equation.params.get("call_jaxpr") if node.equation else None
    return inner is not None and all(
        eqn.primitive.name in ELEMENTWISE | INLINED | {"broadcast_in_dim"}
        for eqn in inner.jaxpr.eqns
    )


def _broadcasts(shape: Sequence[int], full: Sequence[int]) -> bool:
    return len(shape) == len(full) and all(a in (1, b) for a, b in zip(shape, full, strict=True))


def _reshaped(node: Node, before: Axes) -> Axes:
    """Axes kept by a reshape: those whose size and whose product of earlier sizes are unchanged."""
    old = node.inputs[0].shape
    starts = {
        (int(np.prod(old[:i])), old[i]): labels for i, labels in enumerate(before) if old[i] != 1
    }
    return tuple(
        starts.get((int(np.prod(node.shape[:i])), size), frozenset()) if size != 1 else frozenset()
        for i, size in enumerate(node.shape)
    )


def _contracted(params: dict[str, Any], operands: list[Axes]) -> Axes:
    (left_sum, right_sum), (left_batch, right_batch) = params["dimension_numbers"]
    left, right = operands
    batch = [left[i] | right[j] for i, j in zip(left_batch, right_batch, strict=True)]
    rest_left = [a for i, a in enumerate(left) if i not in (*left_sum, *left_batch)]
    rest_right = [a for i, a in enumerate(right) if i not in (*right_sum, *right_batch)]
    return (*batch, *rest_left, *rest_right)
