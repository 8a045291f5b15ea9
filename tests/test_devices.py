"""Rows spread over several devices: the same fit, whether one process holds them or two."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import on_devices
import pytest
from oracles import ROUNDING

SCRIPT = Path(__file__).with_name("on_devices.py")


def start(*words, devices):
    flags = f"--xla_force_host_platform_device_count={devices}"
    return subprocess.Popen(
        [sys.executable, str(SCRIPT), *words],
        env=os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=SCRIPT.parents[1],
    )


def answer(process):
    out, error = process.communicate(timeout=300)
    assert process.returncode == 0, error[-3000:]
    return json.loads(out.splitlines()[-1])


def free_address():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"


def one_process(covariance):
    return [answer(start(covariance, devices=2))]


def two_processes(covariance):
    address = free_address()
    both = [start(covariance, address, number, "2", devices=1) for number in "01"]
    return [answer(process) for process in both]


@pytest.mark.parametrize(("run", "covariance"), [(one_process, "tied"), (two_processes, "full")])
def test_two_devices_find_what_one_finds(run, covariance):
    expected = on_devices.fit(on_devices.rows()[:10_000], covariance)
    assert "devices" not in expected["text"]
    for ours in run(covariance):
        assert "shared out among 2 devices" in ours["text"]
        assert ours["converged"]
        assert ours["log_joint"] == pytest.approx(expected["log_joint"], rel=ROUNDING)
        for site, value in expected["params"].items():
            np.testing.assert_allclose(ours["params"][site], value, rtol=1e-4, atol=1e-5)


def test_nuts_on_two_devices_is_nuts_on_one():
    """Height and gradient to rounding; the first draws, which a few leapfrog steps carry on."""
    expected, ours = on_devices.sample(on_devices.rows()[:10_000]), one_process("nuts")[0]
    np.testing.assert_allclose(ours["height"], expected["height"], rtol=ROUNDING)
    gradient = np.array(expected["gradient"])
    scale = np.abs(gradient).max()
    np.testing.assert_allclose(ours["gradient"], gradient, rtol=0, atol=ROUNDING * scale)
    for name in ("lp", "loc"):
        np.testing.assert_allclose(ours[name], expected[name], rtol=1e-5, atol=1e-6)


def test_chains_on_two_devices_draw_what_they_draw_on_one():
    """Both kinds of moves, chains side by side and in turn; rows that are not spread."""
    expected = on_devices.chains(on_devices.rows()[:2000])
    ours = answer(start("chains", devices=2))
    assert (expected.pop("devices"), ours.pop("devices")) == ([1], [2])
    for way, loc in expected.items():
        np.testing.assert_allclose(ours[way], loc, rtol=1e-8, err_msg=way)
