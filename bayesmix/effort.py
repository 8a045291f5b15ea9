"""How hard to compile: code for a few rows runs for milliseconds and should not take seconds to make.

Most of a first fit of small data is the compiler's work. For such data it leaves out optimisations
that only long loops would repay.
"""

from collections.abc import Callable
from functools import wraps
from typing import Any

import jax
import jaxlib
import numpy as np

LITTLE = 2048  # cells (rows x columns) up to which compiling is what a fit costs
QUICK: dict[str, bool | int] = {"xla_backend_optimization_level": 0}
# The jaxlib of Python 3.11 has an older way of generating code that takes a third of the time;
# later ones do not know this option and would stop.
if jaxlib.__version__.startswith("0.10."):
    QUICK["xla_cpu_use_fusion_emitters"] = False


def compiled(cells: Callable[..., int]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """``jax.jit`` with a static first argument, quick to compile where there are few ``cells``.

    cells : the number of cells of the data, from the function's own arguments. What is decorated
    is for calls from outside of other compiled code.
    """

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        thorough = jax.jit(function, static_argnums=0)
        quick = jax.jit(function, static_argnums=0, compiler_options=QUICK)

        @wraps(function)
        def call(*args: Any) -> Any:
            return (quick if cells(*args) <= LITTLE else thorough)(*args)

        return call

    return decorate


def cells_of(arrays: Any) -> int:
    """Cells of the largest array."""
    return max((int(np.size(array)) for array in jax.tree.leaves(arrays)), default=0)
