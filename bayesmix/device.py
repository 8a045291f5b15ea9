"""Where compiled code runs, and in what precision.

``jax.default_device`` decides. Where nobody set it, little data stay on the CPU of a machine that
has an accelerator: a pass over them ends there before an accelerator has begun. What is best
differs: a CPU wants rows in pieces that stay in its cache, an accelerator pieces to be busy with.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import jax

# Rows x columns x clusters of a pass up to which the CPU is the faster. An H200 takes at least 0.1
# ms for an EM step, however small; one core 0.14 ms for 1e5 of them, 4.4 ms for 6e6.
LITTLE = 2**18


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
        with whole_products():
            yield


def whole_products() -> Any:
    """Matrix products in the precision of their numbers, inside; also as a decorator."""
    return jax.default_matmul_precision("highest")


@contextmanager
def on_cpu() -> Iterator[None]:
    """On the host, whatever JAX's default is: for code that other compiled code waits for."""
    with jax.default_device(_own_cpu()):
        yield


def _own_cpu() -> Any:
    """A CPU of this process; None, JAX's own choice, where its CPU backend was switched off."""
    try:
        return jax.local_devices(backend="cpu")[0]
    except RuntimeError:
        return None


@contextmanager
def placed(work: int) -> Iterator[None]:
    """Where passes of so much ``work`` (rows x columns x clusters) are best made."""
    chosen = jax.config.jax_default_device is not None  # type: ignore[attr-defined]
    if chosen or platform() == "cpu" or work > LITTLE:
        yield
        return
    with on_cpu():
        yield


def brought(arrays: Any) -> Any:
    """Arrays, moved to where compiled code will run if they are elsewhere."""
    device = jax.config.jax_default_device  # type: ignore[attr-defined]
    if device is None or isinstance(device, str):
        return arrays
    return jax.device_put(arrays, device)
