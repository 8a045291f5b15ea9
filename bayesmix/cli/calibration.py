"""`bayesmix calibrate`: simulation-based calibration of the samplers on three small programs."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist

from bayesmix.calibrate import calibrate
from bayesmix.nuts import NUTS
from bayesmix.smc import SMC

ROWS = 30


def _weights() -> Any:
    return numpyro.sample("weights", dist.Dirichlet(2.0 * jnp.ones(2)))


def _observe(weights: Any, components: Any, x: Any) -> None:
    with numpyro.plate("obs_id", len(x)):
        mixture = dist.MixtureSameFamily(dist.Categorical(probs=weights), components)
        numpyro.sample("x", mixture, obs=x)


def gaussian(x: Any) -> None:
    """Two univariate Normals."""
    weights = _weights()
    with numpyro.plate("cluster", 2):
        loc = numpyro.sample("loc", dist.Normal(0.0, 3.0))
        scale = numpyro.sample("scale", dist.LogNormal(0.0, 0.5))
    _observe(weights, dist.Normal(loc, scale), x)


def poisson(x: Any) -> None:
    """Two Poisson distributions."""
    weights = _weights()
    with numpyro.plate("cluster", 2):
        rate = numpyro.sample("rate", dist.Gamma(2.0, 0.4))
    _observe(weights, dist.Poisson(rate), x)


def bernoulli(x: Any) -> None:
    """Two classes of answers to four items."""
    weights = _weights()
    with numpyro.plate("cluster", 2):
        probs = numpyro.sample("probs", dist.Beta(1.0, 1.0).expand([4]).to_event(1))
    _observe(weights, dist.Bernoulli(probs=probs).to_event(1), x)


PROGRAMS = {
    "gaussian": (gaussian, np.zeros(ROWS)),
    "poisson": (poisson, np.zeros(ROWS, int)),
    "bernoulli": (bernoulli, np.zeros((ROWS, 4), int)),
}
SAMPLERS = {
    "nuts": lambda program: NUTS(program, chains=4, draws=500, progress_bar=False),
    "smc": lambda program: SMC(program, particles=2048, progress_bar=False),
}


def calibrate_all(options: Any) -> int:
    """Print the ranks' table and the verdict of each program; 1 where any is not calibrated."""
    names = [options.model] if options.model else list(PROGRAMS)
    passed = True
    for name in names:
        program, data = PROGRAMS[name]
        found = calibrate(
            jax.random.key(options.seed),
            SAMPLERS[options.sampler](program),
            data,
            replicates=options.replicates,
        )
        print(f"{options.sampler} on {name}, {found!r}", flush=True)
        passed = passed and found.passed
    return 0 if passed else 1
