"""How hard to compile: code for a few rows runs for milliseconds and must not take seconds to make.

Most of a first fit of small data is the compiler's work. For such data it leaves out optimisations
that only long loops would repay.
"""

from collections.abc import Callable
from functools import wraps
from typing import Any

import jax
import jaxlib
import numpy as np

from bayesmix.device import platform

LITTLE = 2048  # cells (rows x columns) up to which compiling is what a fit costs
# Cells up to which code for several points at once, made with options SAMPLE, costs less than it
# saves: it is about a tenth slower then. For one point at a time it takes twice as long.
MODERATE = 2**17
# Rows x clusters of all passes to come up to which they cost less than compiling them better: with
# FIT one takes about 10 ns, with SAMPLE 6 or 7, with all effort 3; compiling 0.2, 0.5 and 1.5 s.
BRIEF, LONG = 20_000_000, 200_000_000
# And of passes already made from which on code is compiled anew with all effort, 1.5 to 3 s for the
# loops of a fit: nobody knows how many fits will follow, and to pay when as much was lost on slow
# code costs at most twice what would have been best.
REPAID = 800_000_000
_made: dict[Any, float] = {}

# The jaxlib of Python 3.11 has an older way of generating code that takes half the time, and less
# again where the little there is of it is not shared out among threads; later ones do not know
# these options and would stop.
_OLDER: dict[str, bool | int] = (
    {"xla_cpu_use_fusion_emitters": False, "xla_cpu_parallel_codegen_split_count": 1}
    if jaxlib.__version__.startswith("0.10.")
    else {}
)
FIT = _OLDER | {"xla_backend_optimization_level": 0}
SAMPLE = _OLDER | {"xla_backend_optimization_level": 1}  # for loops of many thousand passes


def compiled(
    cells: Callable[..., int],
    static: tuple[int, ...] = (0,),
    effort: dict[str, Any] = FIT,
    moderate: dict[str, Any] | None = None,
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """``jax.jit``, compiled with less than all ``effort`` where there are few cells.

    effort : compiler options for no more than LITTLE cells, moderate : for no more than MODERATE.
    cells : the number of cells of the data, from the function's own arguments. What is decorated is
    for calls from outside of other compiled code. For accelerators all is always done. A caller
    that knows how many calls it makes may give their ``work``: rows x clusters of all of them.
    """

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        thorough = jax.jit(function, static_argnums=static)
        quick = jax.jit(function, static_argnums=static, compiler_options=effort)

        between = jax.jit(function, static_argnums=static, compiler_options=moderate)
        hasty = jax.jit(function, static_argnums=static, compiler_options=SAMPLE)

        @wraps(function)
        def call(*args: Any, work: float = np.inf) -> Any:
            size = cells(*args)
            if platform() != "cpu":
                return thorough(*args)
            if size <= LITTLE or work <= BRIEF:
                return quick(*args)
            if work <= LONG:
                return hasty(*args)
            return (between if size <= MODERATE else thorough)(*args)

        return call

    return decorate


def account(code: Any, work: float) -> None:
    """Note ``work`` (rows x clusters of the passes) that ``code``, any name for it, has made."""
    _made[code] = _made.get(code, 0.0) + work


def repays(code: Any) -> bool:
    """Whether ``code`` made so much work in this process that it repays all effort."""
    return _made.get(code, 0.0) > REPAID


def cells_of(arrays: Any) -> int:
    """Cells of the largest array."""
    return max((int(np.size(array)) for array in jax.tree.leaves(arrays)), default=0)
