"""Draws from a program's prior, compiled once for programs of the same arithmetic."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpyro import handlers

from bayesmix.effort import cells_of, compiled
from bayesmix.graph import Graph, Node, ancestors, evaluate, fingerprint
from bayesmix.program import Mixture

AT_ONCE = 1024


def refuse_weighted(mixture: Mixture) -> None:
    """Raise ValueError, naming the site, where the prior in the log joint is not the one drawn."""
    for site in mixture.sites.values():
        if site.weighted:
            raise ValueError(
                f"the prior of site {site.name!r} is changed by handlers.scale or a mask, so its "
                "draws do not follow it: SMC begins at draws from the prior, write the prior "
                "that is meant"
            )


class Recipe:
    """The arithmetic that turns a random key into one draw of every site; it holds no data.

    Hashable by its arithmetic and by which input goes where, so that it can be static under jit.
    """

    def __init__(self, outputs: dict[str, Node], inputs: list[Node]) -> None:
        self.outputs, self.inputs = outputs, [node.number for node in inputs]
        flat = list(outputs.values())
        order = {node.number: place for place, node in enumerate(ancestors(flat))}
        where = tuple(order.get(number) for number in self.inputs)
        self._key = (fingerprint(flat), tuple(outputs), where)

    def __hash__(self) -> int:
        return hash(self._key)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Recipe) and self._key == other._key

    def __call__(self, word: Any, arrays: list[Any]) -> dict[str, Any]:
        given = dict(zip(self.inputs, [word, *arrays], strict=True))
        drawn = evaluate(list(self.outputs.values()), given)
        return dict(zip(self.outputs, drawn, strict=True))


def draw_prior(mixture: Mixture, key: Any, count: int) -> dict[str, np.ndarray]:
    """``count`` draws of every latent site, {site: (count, *shape)}, in float64."""
    given = [] if mixture.static_data else mixture.arguments.arrays
    with jax.enable_x64(True):
        words = jax.random.key_data(jax.random.split(key, count))
        recipe, captured = _recipe_of(mixture, words[0], given)
        drawn = _many(recipe, words, [jnp.asarray(array) for array in (*given, *captured)])
    return {name: np.asarray(drawn[name]) for name in mixture.sites}


def _recipe_of(mixture: Mixture, word: Any, given: list[Any]) -> tuple[Recipe, list[Any]]:
    """How the program draws its sites from the words of a key, and the arrays that it captured."""
    hidden = [site.name for site in mixture.observed]
    visible = handlers.block(mixture.marginal, hide=hidden)

    def one(word: Any, arrays: list[Any]) -> dict[str, Any]:
        args, kwargs = mixture.arguments.rebuild(arrays or mixture.arguments.arrays)
        seeded = handlers.seed(visible, jax.random.wrap_key_data(word))
        found = handlers.trace(seeded).get_trace(*args, **kwargs)
        return {name: found[name]["value"] for name in mixture.sites}

    closed, shapes = jax.make_jaxpr(one, return_shape=True)(word, given)
    graph = Graph()
    inputs = [graph.data(array.shape) for array in (word, *given)]
    outputs = jax.tree.unflatten(jax.tree.structure(shapes), graph.read(closed, inputs))
    recipe = Recipe(outputs, inputs + graph.captured)
    return recipe, [node.value for node in graph.captured]


@compiled(lambda recipe, words, arrays: cells_of(arrays))
def _many(recipe: Recipe, words: Any, arrays: list[Any]) -> dict[str, Any]:
    return jax.lax.map(lambda word: recipe(word, arrays), words, batch_size=AT_ONCE)
