"""The missing cells, told from the observed ones: conditional means, or draws.

Given the cluster a missing cell of a product has its component's own distribution, one of a
multivariate normal or Student-t the conditional one, again normal or Student-t; clusters are
weighed by the row's responsibilities, which the observed cells decide.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist

from bayesmix.density import Piece, cached, responsibilities
from bayesmix.estimate import EMResult
from bayesmix.missing import NORMAL, masked_covariance, scatter_of
from bayesmix.nuts import NUTSResult
from bayesmix.predict import as_table
from bayesmix.program import Mixture, Observed, Params

VECTORS = (dist.MultivariateNormal, dist.MultivariateStudentT)
CATEGORIES = (dist.CategoricalProbs, dist.CategoricalLogits)


def impute(result: EMResult | NUTSResult, key: Any = None, *, draws: int | None = None) -> Any:
    """The data with their missing cells filled in, in data units; observed cells stay as they are.

    Without ``draws``: conditional means E[x | observed cells], the most probable category of a
    categorical cell; at the MAP, or averaged over the posterior draws of NUTS. A table of the
    columns comes back as one, with its index, and columns of text as pandas Categoricals; else an
    array of the data's shape, several observed sites side by side.

    With ``draws``, and a random key: an xarray.DataArray (draw, obs_id, feature) of that many
    completed data sets, for multiple imputation (Rubin 1987); text is numbered as its attrs say.
    Each of NUTS's is from a posterior draw of its own, so that they differ as much as one should be
    unsure; EM's are all at the MAP, which leaves the uncertainty of the parameters out.

    Raises ValueError for programs with several axes of rows or with groups, and for draws without
    a key or a key without draws.
    """
    mixture = result.mixture
    grouped = any(site.group is not None for site in mixture.observed)
    if len(mixture.rows) != 1 or grouped or mixture.general:
        raise ValueError(
            "impute needs one row per observation and components of one family: no groups, no "
            "grids of rows, no MixtureGeneral"
        )
    samples = _samples(result)
    if draws is None and key is not None:
        raise ValueError(
            "impute fills in the data of the fit, and takes a random key together with draws= "
            "only: impute(result), or impute(result, key, draws=20)"
        )
    if draws is None:
        return _as_given(mixture, _means(mixture, samples))
    if key is None:
        raise ValueError("impute(result, key, draws=...) needs a random key: jax.random.key(0)")
    choose, key = jax.random.split(key)
    total = len(next(iter(samples.values())))
    chosen = np.asarray(jax.random.randint(choose, (draws,), 0, total))
    some = {name: value[chosen] for name, value in samples.items()}
    return _array(mixture, _draws(key, mixture, some, draws))


def _samples(result: EMResult | NUTSResult) -> dict[str, np.ndarray]:
    """Params of the result along a leading axis."""
    if isinstance(result, NUTSResult):
        return result.get_samples()
    return {name: np.asarray(value)[None] for name, value in result.params.items()}


def _means(mixture: Mixture, samples: dict[str, np.ndarray]) -> np.ndarray:
    with jax.enable_x64(True):

        def one(params: Params) -> list[jax.Array]:
            resp = responsibilities(mixture, params)
            return [
                jnp.einsum("nk,nk...->n...", resp, _expected(site, fn))
                for site, fn in zip(mixture.observed, _components(mixture, params), strict=True)
            ]

        def body(total: Any, params: Params) -> tuple[Any, None]:
            return jax.tree.map(jnp.add, total, one(params)), None

        held = {name: jnp.asarray(value, float) for name, value in samples.items()}
        start = jax.tree.map(
            lambda leaf: jnp.zeros(leaf.shape, leaf.dtype),
            jax.eval_shape(one, jax.tree.map(lambda v: v[0], held)),
        )
        total = jax.jit(lambda held: jax.lax.scan(body, start, held)[0])(held)
    filled = []
    for site, value in zip(mixture.observed, total, strict=True):
        expected = np.asarray(value) / len(next(iter(samples.values())))
        if issubclass(site.components[0], CATEGORIES):
            expected = expected.argmax(-1)
        filled.append(np.where(site.missing, expected, site.value))
    return _side_by_side(mixture, filled)


def _draws(key: Any, mixture: Mixture, samples: dict[str, np.ndarray], draws: int) -> np.ndarray:
    """Completed data (draw, N, columns)."""
    with jax.enable_x64(True):

        def one(each: tuple[Any, Params]) -> list[jax.Array]:
            choose, *keys = jax.random.split(each[0], 1 + len(mixture.observed))
            resp = responsibilities(mixture, each[1])
            z = jax.random.categorical(choose, jnp.log(resp))
            parts = zip(keys, mixture.observed, _components(mixture, each[1]), strict=True)
            return [_drawn(own, site, fn, z) for own, site, fn in parts]

        held = {name: jnp.asarray(value, float) for name, value in samples.items()}
        keys = jax.random.split(key, draws)
        found = jax.jit(lambda all_of: jax.lax.map(one, all_of))((keys, held))
    filled = [
        np.where(site.missing, np.asarray(value), site.value)
        for site, value in zip(mixture.observed, found, strict=True)
    ]
    return np.stack([_side_by_side(mixture, list(each)) for each in zip(*filled, strict=True)])


def _components(mixture: Mixture, params: Params) -> list[Any]:
    """The components of each observed site: distributions of batch (N or 1, K, *cells)."""
    piece, known = cached(mixture, "leaves", lambda: _leaves_piece(mixture))
    leaves = piece(piece.nodes, params, known)
    found = []
    for site in mixture.observed:
        end = f"[{site.name}]" if any("[" in name for name in leaves) else ""
        own = {n.removesuffix(end): v for n, v in leaves.items() if n.endswith(end)}
        own = own if mixture.by_row else {n: v[None] for n, v in own.items()}
        given = {n: jnp.asarray(v, float)[:, None] for n, v in site.given.items()}
        found.append(_distribution(site, own | given))
    return found


def _leaves_piece(mixture: Mixture) -> tuple[Piece, list[Any]]:
    piece = Piece(mixture.reading.leaves[0], mixture.reading)
    return piece, piece.summarise(mixture.reading.data)


def _distribution(site: Observed, leaves: dict[str, jax.Array]) -> Any:
    kind = site.components[0]
    if issubclass(kind, NORMAL):
        return dist.MultivariateNormal(leaves["loc"], scale_tril=leaves["scale_tril"])
    if issubclass(kind, dist.Normal):
        return dist.Normal(leaves["loc"], leaves["scale"])
    return kind(**leaves)


def _expected(site: Observed, fn: Any) -> jax.Array:
    """E[x | observed cells, k], (N, K, *cells); of categories their probabilities."""
    N = len(site.value)
    if isinstance(fn, CATEGORIES):
        return jnp.broadcast_to(fn.probs, (N, *fn.probs.shape[1:]))
    if isinstance(fn, VECTORS):
        return _conditional(site, fn)[0]
    return jnp.broadcast_to(fn.mean, (N, *fn.mean.shape[1:]))


def _conditional(site: Observed, fn: Any) -> tuple[jax.Array, jax.Array]:
    """Conditional means (N, K, D) and covariances (N, K, D, D) of the missing cells, 0 elsewhere.

    Of a Student-t: location, and scale matrix; it has as many more degrees of freedom as cells were
    observed. Sources: Little & Rubin (2002), Statistical analysis with missing data, section 8.2;
    Ding (2016), On the conditional distribution of the multivariate t distribution, The American
    Statistician 70.
    """
    seen = jnp.asarray(~site.missing)[:, None]
    covariance = scatter_of(fn)
    scale_tril = jnp.linalg.cholesky(masked_covariance(covariance, seen))
    deviation = jnp.where(seen, jnp.asarray(site.value, float)[:, None] - fn.loc, 0.0)
    weighed = jax.scipy.linalg.cho_solve((scale_tril, True), deviation[..., None])
    to_seen = jnp.where(seen[..., None, :], covariance, 0.0)
    mean = fn.loc + (to_seen @ jnp.where(seen[..., None], weighed, 0.0))[..., 0]
    gain = jax.scipy.linalg.cho_solve((scale_tril, True), jnp.swapaxes(to_seen, -1, -2))
    gone = ~seen[..., :, None] & ~seen[..., None, :]
    spread = jnp.where(gone, covariance - to_seen @ gain, 0.0)
    if isinstance(fn, dist.MultivariateStudentT):
        distance = jnp.sum(deviation * weighed[..., 0], -1)
        inflated = (fn.df + distance) / (fn.df + seen.sum(-1))
        spread = spread * inflated[..., None, None]
    return mean, spread


def _drawn(key: Any, site: Observed, fn: Any, z: jax.Array) -> jax.Array:
    """Values of a site's rows, (N, *cells), given their clusters z (N,) and observed cells."""
    N, rows = len(site.value), jnp.arange(len(site.value))
    if not isinstance(fn, VECTORS):
        every = fn.expand((N, *fn.batch_shape[1:])).sample(key)
        return every[rows, z]
    mean, covariance = _conditional(site, fn)
    gone = jnp.asarray(site.missing)
    own = covariance[rows, z] + jnp.where(gone, 0.0, 1.0)[..., None] * jnp.eye(gone.shape[1])
    noise = jax.random.normal(key, gone.shape, mean.dtype)
    if isinstance(fn, dist.MultivariateStudentT):
        df = jnp.broadcast_to(fn.df, (N, fn.batch_shape[-1]))[rows, z] + (~gone).sum(-1)
        tails = dist.Chi2(df).sample(jax.random.fold_in(key, 1))
        noise = noise * jnp.sqrt(df / tails)[:, None]
    return mean[rows, z] + (jnp.linalg.cholesky(own) @ noise[..., None])[..., 0]


def _side_by_side(mixture: Mixture, values: list[np.ndarray]) -> np.ndarray:
    """Several observed sites as columns, as in ``mixture.value``; one as it is."""
    if len(values) == 1:
        return values[0]
    return np.concatenate([value.reshape(mixture.N, -1) for value in values], -1)


def _as_given(mixture: Mixture, values: np.ndarray) -> Any:
    if mixture.columns is None or values.ndim != 2:
        return values
    return as_table(mixture, list(values.T), mixture.index)


def _array(mixture: Mixture, values: np.ndarray) -> Any:
    import xarray as xr

    dims = ["draw", *mixture.row_dims, *mixture.event_dims][: values.ndim]
    coords: dict[str, Any] = {}
    if mixture.columns is not None and values.ndim == 3:
        coords[dims[-1]] = list(mixture.columns)
    if mixture.index is not None:
        coords[dims[1]] = list(mixture.index)
    levels = {f"levels of {name}": list(map(str, own)) for name, own in mixture.levels.items()}
    return xr.DataArray(values, dims=dims, coords=coords, attrs=levels)
