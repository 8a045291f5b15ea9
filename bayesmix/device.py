"""Where compiled code runs, and in what precision.

JAX's own settings decide: the default backend, or ``jax.default_device``. What is best differs:
a CPU wants rows in pieces that stay in its cache, an accelerator in pieces that keep it busy.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import jax


def platform() -> str:
    """What the next compiled code will run on: "cpu", "gpu", "tpu"."""
    chosen = jax.config.jax_default_device  # type: ignore[attr-defined]
    if chosen is None:
        return jax.default_backend()
    return chosen if isinstance(chosen, str) else str(chosen.platform)


@contextmanager
def arithmetic(dtype: str, wide: bool = False) -> Iterator[None]:
    """Numbers of ``dtype``, "float64" or "float32", inside.

    wide : only the rows are float32, the rest stays float64. Matrix products of float32 are made in
    float32: left to themselves, accelerators take 10 bits of each number (TF32, bfloat16), which
    loses scores by whole nats.
    """
    with jax.enable_x64(wide or dtype == "float64"):
        if dtype == "float64":
            yield
            return
        with jax.default_matmul_precision("highest"):
            yield


@contextmanager
def on_cpu() -> Iterator[None]:
    """On the host, whatever JAX's default is: for code that other compiled code waits for."""
    with jax.default_device(jax.devices("cpu")[0]):
        yield
