"""A fit on rows spread over devices, for test_devices.py: run as a script, prints JSON.

python tests/on_devices.py full                       all devices of this process
python tests/on_devices.py full address number count  one of several processes
python tests/on_devices.py nuts                       potential, gradient and draws of NUTS
python tests/on_devices.py chains                     draws of NUTS by chains on devices
"""

import json
import sys
from typing import ClassVar
from unittest.mock import patch

import jax
import numpy as np

if __name__ == "__main__" and len(sys.argv) > 2:
    address, number, count = sys.argv[2:]
    jax.distributed.initialize(address, int(count), int(number))

import bayesmix as bm
from bayesmix.curvature import evaluate, free_vector
from bayesmix.nuts import sampler, session
from bayesmix.nuts.record import Memory


def rows():
    rng = np.random.default_rng(5)
    x = np.concatenate([rng.normal(size=(6000, 2)), rng.normal(size=(4001, 2)) * 0.5 + 2])
    return rng.permutation(x)


def spread(x):
    """x on all devices, by rows; as many as divide evenly, the usual way to place data."""
    mesh = jax.sharding.Mesh(np.array(jax.devices()), ("data",))
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    return jax.make_array_from_callback(x.shape, sharding, lambda index: x[index])


def fit(x, covariance):
    """Log joint, params with clusters in order, and the text that tells of the devices."""
    program = bm.models.gaussian(2, covariance=covariance)
    em = bm.EM(program, restarts=2, progress_bar=False).run(jax.random.key(0), x)
    order = np.argsort(em.params["loc"][:, 0])
    params = {"weights": em.params["weights"][order], "loc": em.params["loc"][order]}
    return {
        "log_joint": em.log_joint,
        "converged": em.converged,
        "params": {name: value.tolist() for name, value in params.items()},
        "text": str(em.mixture),
    }


def sample(x):
    """Height and gradient at points that do not depend on x's place, and a few draws of NUTS."""
    program = bm.models.gaussian(2, covariance="tied")
    mixture = bm.trace(program, x)
    centre = {
        "weights": np.array([0.6, 0.4]),
        "loc": np.array([[0.0, 0.0], [2.0, 2.0]]),
        "cov": 0.8 * np.eye(2),
    }
    init = bm.EM(program, max_steps=3, progress_bar=False)
    em = init.run(jax.random.key(0), x, init_params=centre)
    with jax.enable_x64(True):
        z = free_vector(mixture, centre)
        z = z + 0.05 * np.random.default_rng(1).standard_normal((3, len(z)))
        height, gradient, _ = evaluate(mixture, z)
    run = bm.NUTS(program, chains=2, warmup=4, draws=3, progress_bar=False).run
    nuts = run(jax.random.key(2), x, start=em)
    return {
        "height": height.tolist(),
        "gradient": np.asarray(gradient).tolist(),
        "lp": nuts.sample_stats["lp"].tolist(),
        "loc": nuts.samples["loc"].tolist(),
    }


class Watched(Memory):
    """A record that notes on how many devices the chains' points lie."""

    places: ClassVar[set] = set()

    def add(self, phase, block, states):
        self.places.add(len(jax.tree.leaves(states)[0].sharding.device_set))
        super().add(phase, block, states)


def chains(x):
    """A few draws of both kinds of moves, side by side and in turn, and where the chains lay."""
    program, found = bm.models.gaussian(2, covariance="tied"), {}
    em = bm.EM(program, restarts=2, progress_bar=False).run(jax.random.key(0), x)
    for kernel, together in (("auto", True), ("auto", False), ("nuts", True)):
        run = bm.NUTS(program, kernel=kernel, warmup=4, draws=3, progress_bar=False).run
        with (
            patch.object(session, "side_by_side", lambda *_, answer=together: answer),
            patch.object(sampler, "Memory", Watched),
        ):
            nuts = run(jax.random.key(2), x, start=em)
        found[f"{kernel} {together}"] = nuts.samples["loc"].tolist()
    return found | {"devices": sorted(Watched.places)}


if __name__ == "__main__" and sys.argv[1] == "chains":
    print(json.dumps(chains(rows()[:2000])))
elif __name__ == "__main__":
    with jax.enable_x64(True):
        x = spread(rows()[:10_000])
    assert len(x.sharding.device_set) == 2
    print(json.dumps(sample(x) if sys.argv[1] == "nuts" else fit(x, sys.argv[1])))
