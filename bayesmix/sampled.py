"""What draws of a posterior say about rows, seen or new, whichever sampler made them."""

from abc import abstractmethod
from collections.abc import Mapping
from functools import cached_property
from typing import Any

import numpy as np
from scipy.special import logsumexp

from bayesmix.draws import evaluate_draws
from bayesmix.expected import expected_mean
from bayesmix.predict import Simulated, brought_near, simulate_posterior, with_data, with_observed
from bayesmix.program import Mixture
from bayesmix.sheet import Shown
from bayesmix.symmetry import permute_draws


class PosteriorDraws(Shown):
    """Draws of a mixture's posterior, averaged over in predictions and densities.

    What is by cluster is taken from the relabelled draws.
    """

    mixture: Mixture

    @property
    @abstractmethod
    def _by_chain(self) -> Mapping[str, np.ndarray]:
        """{site: (chain, draw, *shape)}, with the clusters' names as they were drawn."""

    @abstractmethod
    def get_samples(self) -> dict[str, np.ndarray]:
        """{site: (draw, *shape)}, with the clusters' names as they were drawn."""

    @abstractmethod
    def to_datatree(self, **kwargs: Any) -> Any:
        """An ArviZ DataTree with the clusters' names as they were drawn."""

    @cached_property
    def _relabelled(self) -> Any:
        """The DataTree with every draw's clusters named as the pivot's."""
        from bayesmix.relabel import relabel

        return relabel(self.to_datatree(), mixture=self.mixture)

    def _aligned(self) -> dict[str, np.ndarray]:
        """The draws by chain with every draw's clusters named as the pivot's."""
        perm = np.asarray(self._relabelled["relabelling"]["permutation"])
        return permute_draws(self.mixture, self._by_chain, perm)

    def predict_proba(self, *args: Any, **kwargs: Any) -> np.ndarray:
        """Responsibilities averaged over the relabelled posterior, (*rows, K); new data as args."""
        new = brought_near(with_data(self.mixture, args, kwargs))
        return evaluate_draws(new, self._aligned())["mean_responsibilities"]

    def predict_mean(self, *args: Any, **kwargs: Any) -> Any:
        """Posterior mean of E[x_n] of each row of new data, (*rows, *event), in data units.

        Of a regression the expected response at new covariates, before it is seen:
        ``predict_mean(X)``; a program of your own is called with what it needs (``y=None``, or any
        numbers in y's place). {observed site: array} where several share an assignment.
        ``expected`` has the parts, by cluster and by draw.
        """
        return expected_mean(self.mixture, self.get_samples(), args, kwargs)

    def expected(self, *args: Any, **kwargs: Any) -> Any:
        """E[x_n], E[x_n | k] and the weights of each row of new data: an xarray.Dataset.

        See ``bayesmix.posterior.expected_dataset``.
        """
        from bayesmix.posterior import expected_dataset

        return expected_dataset(self.mixture, self._aligned(), args, kwargs)

    def log_density(self, *args: Any, **kwargs: Any) -> np.ndarray:
        """Log posterior predictive density of each row of new data, (*rows), in nats.

        Of a row's observed cells: 0 for a row without any. Raises ValueError where no row has one.
        """
        new = with_observed(self.mixture, args, kwargs)
        pointwise = evaluate_draws(new, self._by_chain)["log_likelihood"]
        return logsumexp(pointwise, axis=(0, 1)) - np.log(np.prod(pointwise.shape[:2]))

    def sample(self, key: Any, n: int) -> Simulated:
        """``n`` new observations from the posterior predictive, (n, *event), in data units.

        A DataFrame where the data were one, with its columns, and text as pandas Categoricals; else
        {observed site: array} where several share an assignment.
        """
        return simulate_posterior(key, self.mixture, self._by_chain, n)
