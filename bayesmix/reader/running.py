"""A program run on symbols: its sites, with its assignment summed out, and its errors in words.

Latent sites get symbols for values, so nothing is sampled and nothing compiled.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from numpyro import handlers
from numpyro.distributions.distribution import validation_enabled
from numpyro.primitives import Messenger

from bayesmix.graph import symbol
from bayesmix.marginal import (
    UNOBSERVED,
    Assigned,
    SumOut,
    assignment_of,
    is_assignment,
    is_grouped,
    nesting,
)
from bayesmix.parameters import peel

PACKAGE = str(Path(__file__).parents[1])
NEEDS_VALUES = (
    jax.errors.ConcretizationTypeError,
    jax.errors.TracerArrayConversionError,
    jax.errors.TracerIntegerConversionError,
    jax.errors.TracerBoolConversionError,
)

AGREEING = "components and weights must agree on K, plates and data on the rows"
BRANCHING = (
    "a Python `if` cannot branch on an assignment, which has every value at once: write "
    "jnp.where(z == 0, a, b), or loc[z]"
)


def executed(
    program: Callable[..., Any], args: Any, kwargs: Any, holes: bool
) -> tuple[dict[str, Any], SumOut | None]:
    """The program's sites, run on symbols; its assignment, if it has one, summed out."""
    with validation_enabled(is_validate=False):
        recorder = _Abstract(program)
        with _errors_named(recorder):
            sites = handlers.trace(recorder).get_trace(*args, **kwargs)
            name = assignment_of(sites)
        if name is None:
            return sites, None
        summed = SumOut(name, nesting(sites), program, grouped=is_grouped(sites, name), holes=holes)
        recorder = _Abstract(summed)
        with _errors_named(recorder):
            sites = handlers.trace(recorder).get_trace(*args, **kwargs)
        summed.check()
    return sites, summed


class _Abstract(Messenger):
    """Gives every latent site a symbolic value instead of a sample, and notes what it meets."""

    def __init__(self, fn: Callable[..., Any]) -> None:
        super().__init__(fn)
        self.met: list[tuple[str, tuple[int, ...]]] = []

    def process_message(self, msg: dict[str, Any]) -> None:
        if msg["type"] == "plate" and msg["args"][1] not in (None, msg["args"][0]):
            size, part = msg["args"][:2]
            raise ValueError(
                f"plate {msg['name']!r} is subsampled ({part} of {size} rows): fit all rows, "
                "without subsample_size"
            )
        if msg["type"] == "param":
            raise ValueError(
                f"site {msg['name']!r} is a numpyro.param: write it as numpyro.sample with a "
                "prior (dist.ImproperUniform for none)"
            )
        if msg["type"] != "sample" or msg["value"] is not None:
            return
        if msg["is_observed"]:
            return
        shape = msg["fn"].shape(msg["kwargs"].get("sample_shape", ()))
        if is_assignment(msg) or isinstance(msg["fn"], Assigned):
            msg["value"] = jnp.zeros(shape, int)  # a stand-in: the assignment is summed out later
            return
        if msg["fn"].support is not None and msg["fn"].support.is_discrete:
            raise ValueError(_discrete_message(msg["name"], msg["fn"]))
        self.met.append((msg["name"], tuple(shape)))
        msg["value"] = symbol(msg["name"], shape, jnp.result_type(float))


def _discrete_message(name: str, fn: Any) -> str:
    if name.endswith(UNOBSERVED):
        return (
            f"site {name.removesuffix(UNOBSERVED)!r} uses obs_mask, which leaves missing values "
            "as latent sites: leave those rows out"
        )
    kind = type(peel(fn)).__name__
    instead = ""
    if kind.startswith("Bernoulli"):
        instead = "; write dist.Categorical(probs=jnp.stack([1 - p, p], -1)) for Bernoulli(p)"
    return (
        f"site {name!r} is a latent discrete variable ({kind}): only an assignment, a Categorical "
        f"site, can be summed out{instead}"
    )


@contextmanager
def _errors_named(recorder: _Abstract) -> Iterator[None]:
    """Errors of the user's program, as a sentence that says which sites had been met."""
    try:
        yield
    except NEEDS_VALUES:
        raise
    except ValueError as error:
        if error.__traceback__ is not None and _raised_here(error):
            raise
        raise ValueError(_program_message(error, recorder.met)) from error
    except Exception as error:
        raise ValueError(_program_message(error, recorder.met)) from error


def _raised_here(error: BaseException) -> bool:
    last = error.__traceback__
    while last is not None and last.tb_next is not None:
        last = last.tb_next
    return last is not None and last.tb_frame.f_code.co_filename.startswith(PACKAGE)


def _program_message(error: Exception, met: list[tuple[str, tuple[int, ...]]]) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    shapes = ", ".join(f"{name!r} {shape}" for name, shape in met) or "none"
    advice = BRANCHING if "truth value" in text else AGREEING
    return (
        f"the program could not be run on these data: {text} (latent sites so far, with shapes: "
        f"{shapes}; {advice})"
    )
