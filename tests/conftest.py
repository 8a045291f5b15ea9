"""Fixtures shared by all tests."""

import gc
import json
import os
import signal
from importlib.metadata import version
from pathlib import Path

# Most of the suite's time is compiling small programs. The jaxlib of Python 3.11 has an older way
# that takes half as long; later ones do not know the flags and would stop.
if version("jaxlib").startswith("0.10."):
    quick = "--xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"
    flags = (os.environ.get("XLA_FLAGS", ""), quick)
    os.environ["XLA_FLAGS"] = " ".join(flags).strip()

import jax
import pytest

# A suite that was started in the background ignores Ctrl-C, which some tests send.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

compilations = []
jax.monitoring.register_event_duration_secs_listener(
    lambda event, *_, **__: compilations.append(event) if "backend_compile" in event else None
)

MAPPINGS = Path("/proc/self/maps")  # of this process, one a line; Linux only
HERE = Path(__file__).resolve().parent
REFERENCES = (HERE / "references", HERE.parents[1] / "shared" / "references")


@pytest.fixture(scope="session")
def reference():
    """Function that reads an outside result: JSON as Python objects, CSV as a DataFrame.

    The path is relative to tests/references (copied facts), else to ../shared/references beside
    the checkout; where neither has the file the test is skipped, naming it.
    """

    def read(path):
        for folder in REFERENCES:
            file = folder / path
            if file.exists():
                return _read(file)
        pytest.skip(f"no reference {path} in tests/references or ../shared/references")

    return read


@pytest.fixture(autouse=True)
def few_mappings():
    """A process does not run out of memory mappings.

    A compiled function takes three for each of its parts, and Linux allows a process 65530; beyond
    that XLA crashes. Counting them takes milliseconds, so it is done now and then.
    """
    yield
    if len(compilations) > 100:
        compilations.clear()
        if MAPPINGS.exists() and MAPPINGS.read_bytes().count(b"\n") > 12_000:
            jax.clear_caches()
            gc.collect()


@pytest.fixture
def x64():
    """The test runs in float64, without touching JAX's global configuration."""
    with jax.enable_x64(True):
        yield


@pytest.fixture
def headless():
    """Pictures are drawn without a screen, and closed after the test."""
    import matplotlib.pyplot as plt

    plt.switch_backend("Agg")
    yield
    plt.close("all")


def _read(file):
    if ".csv" in file.suffixes:
        import pandas as pd

        return pd.read_csv(file)
    return json.loads(file.read_text(encoding="utf-8"))
