"""The randomness of the transitions, made outside of the compiled code.

Compiling a generator of normal numbers takes longer than many a run. Numbers belong to a chain and
to the number of a transition, whatever the calls that a run is divided into.
"""

from typing import Any, NamedTuple

import jax
import numpy as np

WINDOW = 100  # transitions whose numbers are made together
DEPTH = 10  # doublings of a trajectory at most, as in Stan and NumPyro


class Noise(NamedTuple):
    """Standard normal ``momenta`` (chain, m, n) and ``uniforms`` (chain, m, DEPTH, 3).

    Of m transitions of each chain; inside of the kernel, of one chain.
    """

    momenta: Any
    uniforms: Any


def words_of(key: Any) -> list[int]:
    """A JAX random key as whole numbers, which seed NumPy's generators."""
    return np.asarray(jax.random.key_data(key)).ravel().tolist()


class Source:
    """Noise of chains, for every transition by its number.

    Philox (Salmon et al. 2011, Parallel random numbers: as easy as 1, 2, 3), its key made of the
    user's key and the number of the chain; its counter is the number of the window.
    """

    def __init__(self, key: Any, chains: int, n: int) -> None:
        seeds = [np.random.SeedSequence([*words_of(key), chain]) for chain in range(chains)]
        self._keys = [seed.generate_state(2, np.uint64) for seed in seeds]
        self._n = n

    def __call__(self, first: int, count: int, dtype: Any) -> Noise:
        """Of transitions ``first`` to ``first + count``."""
        windows = range(first // WINDOW, (first + count - 1) // WINDOW + 1)
        kept = slice(first - windows[0] * WINDOW, first - windows[0] * WINDOW + count)
        chains = [[self._window(key, number) for number in windows] for key in self._keys]
        momenta, uniforms = (
            np.stack([np.concatenate([window[part] for window in chain])[kept] for chain in chains])
            for part in (0, 1)
        )
        return Noise(momenta.astype(dtype), uniforms.astype(dtype))

    def _window(self, key: np.ndarray, number: int) -> tuple[np.ndarray, np.ndarray]:
        generator = np.random.Generator(np.random.Philox(key=key, counter=[0, 0, 0, number]))
        normal = generator.standard_normal((WINDOW, self._n))
        return normal, generator.random((WINDOW, DEPTH, 3))
