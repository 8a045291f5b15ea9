"""Readings kept between fits: a program is read once for data of one shape.

A reading is used again only where nothing that decides it can have changed unseen. What is kept
holds no data.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax
import numpy as np
from numpyro import primitives

from bayesmix.arguments import Arguments
from bayesmix.blocks import Blocks
from bayesmix.lookups import lookups, nesting
from bayesmix.missing import holes_in
from bayesmix.program.data import given_data, known, side_by_side
from bayesmix.program.mixture import Mixture

# Settings of JAX that show in a graph.
SETTINGS = (
    "jax_default_matmul_precision",
    "jax_numpy_dtype_promotion",
    "jax_numpy_rank_promotion",
    "jax_disable_jit",
    "jax_default_prng_impl",
    "jax_high_dynamic_range_gumbel",
)

KEPT = 64

_kept: dict[Any, Mixture] = {}  # without data


def key_of(program: Callable[..., Any], arguments: Arguments) -> Any:
    """What decides how a program is read; None where a reading may not be used again.

    Shapes, dtypes and whether values are missing, of the data; all that the program looks up; the
    settings of JAX that show in a graph. A program that looks up anything that may change unseen,
    or that is run inside NumPyro's handlers, is read anew every time.
    """
    if primitives._PYRO_STACK or any(isinstance(leaf, Blocks) for leaf in arguments.leaves):
        return None
    leaves = tuple(
        (leaf.shape, leaf.dtype.str, holes_in(leaf))
        if isinstance(leaf, np.ndarray)
        else lookups(leaf)
        for leaf in arguments.leaves
    )
    keys = lookups(program), nesting(arguments.treedef), *leaves
    if None in keys:
        return None
    return keys, tuple(getattr(jax.config, name) for name in SETTINGS)


def recall(key: Any, program: Callable[..., Any], arguments: Arguments) -> Mixture | None:
    """The mixture that was kept under a key, with the data given now; None if none was."""
    kept = None if key is None else _kept.get(key)
    return None if kept is None else _dressed(kept, program, arguments)


def keep(key: Any, mixture: Mixture) -> None:
    """Keep a mixture's structure; the data go, and the oldest structure where there are many."""
    for oldest in list(_kept)[: max(0, len(_kept) - KEPT + 1)]:
        _kept.pop(oldest, None)  # another thread may have been faster
    reading = mixture.reading
    _kept[key] = replace(
        mixture,
        arguments=replace(
            mixture.arguments, leaves=(), columns=None, index=None, mesh=None, tables=()
        ),
        observed=tuple(
            replace(site, value=None, given={}, group=None, powers=None)
            for site in mixture.observed
        ),
        value=None,
        weights=None,
        labels=None,
        _readings={True: reading.of([None] * len(mixture.arguments.arrays))},
        cache={},
    )


def _dressed(kept: Mixture, program: Callable[..., Any], arguments: Arguments) -> Mixture:
    """A kept structure with the data that are given now."""
    reading = kept.reading.of(arguments.arrays)
    group = known(reading, reading.group)
    observed = tuple(
        replace(site, value=value, given=given, group=group, powers=powers)
        for site, (value, given, powers) in zip(kept.observed, given_data(reading), strict=True)
    )
    return replace(
        kept,
        program=program,
        arguments=arguments,
        observed=observed,
        value=side_by_side(observed, reading.components.shape[:-1])[0],
        weights=known(reading, reading.scale),
        labels=known(reading, reading.labels),
        _readings={True: reading},
        cache={},
    )
