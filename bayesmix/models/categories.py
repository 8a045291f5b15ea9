"""Mixtures of categorical answers (latent class analysis) and of successes out of trials.

One answer for each trial, or their numbers: Categorical, Binomial and Multinomial components.

Columns are independent within a cluster. "default" priors keep every probability strictly between
0 and 1 with the weight of one observation; "flat" ones give maximum likelihood.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from jax.typing import ArrayLike

from bayesmix.carry import once
from bayesmix.missing import may_have_holes
from bayesmix.models.inputs import Program, cluster_count, one_of, rows
from bayesmix.models.moments import CONCENTRATION
from bayesmix.models.summaries import MISSING, size, total
from bayesmix.vector_mixture import VectorMixture

PRIORS = ("default", "flat")


def categorical(K: int, *, levels: int | None = None, prior: str = "default") -> Program:
    """A mixture of K Categoricals: the NumPyro program `program(x)`, codes 0, 1, ..., levels - 1.

    x : (N,) or (N, D), one column per question, all with the same categories; with several columns
        this is latent class analysis. For columns that differ in their categories, or hold text,
        use `bm.models.mixed({"region": "categorical", ...}, K)`.
    levels : number of categories; None takes the largest code of the data plus 1. Give it where new
        data may lack the last category.
    prior : "default", probs ~ Dirichlet(1 + m) with m_c = (n_c + 1/levels) / (N + 1) the column's
        share of category c: one added observation per cluster and column, answered like the column
        as a whole. "flat", Dirichlet(1): maximum likelihood.

    Sites: `weights` (K,) ~ Dirichlet(2, ...), flat: Dirichlet(1, ...), and `probs` (K, levels) or
    (K, D, levels). Raises ValueError for a code below `levels` that stands in no row of any column.

    Source of the prior: Galindo Garre & Vermunt (2006), Avoiding boundary estimates in latent class
    analysis by Bayesian posterior mode estimation, Behaviormetrika 33, 43-59; here m is kept off 0.

    The same arguments give the same program object, so that nothing compiles twice.
    """
    if levels is not None and cluster_count(levels) < 2:
        raise ValueError(f"levels must be at least 2, got {levels}")
    return _categorical(cluster_count(K), levels, one_of("prior", prior, PRIORS))


def binomial(K: int, *, prior: str = "default") -> Program:
    """A mixture of K Binomials: the NumPyro program `program(x, trials)`.

    x : successes, (N,) or (N, D), NaN where not known. trials : how many they were counted in, one
        number or by row.
    prior : "default", probs ~ Beta(1 + m, 2 - m) with m = (Σ x + 1/2) / (Σ trials + 1) the column's
        share of successes: one added trial per cluster and column. "flat", Beta(1, 1).

    Sites: `weights` (K,) ~ Dirichlet(2, ...), flat: Dirichlet(1, ...), and `probs` (K,) or (K, D).

    The same arguments give the same program object, so that nothing compiles twice.
    """
    return _binomial(cluster_count(K), one_of("prior", prior, PRIORS))


def multinomial(K: int, *, prior: str = "default") -> Program:
    """A mixture of K Multinomials: the NumPyro program `program(x)`, counts x (N, C) of C kinds.

    A row is what was counted in it of each kind (the words of a document, the answers of a person);
    how many it has in all is taken as given, and may differ by row.

    prior : "default", probs ~ Dirichlet(1 + m) with m_c = (Σ x_c + 1/C) / (Σ x + 1) the share of
        kind c: one added trial per cluster. "flat", Dirichlet(1): maximum likelihood.

    Sites: `weights` (K,) ~ Dirichlet(2, ...), flat: Dirichlet(1, ...), and `probs` (K, C). The
    program reads the largest total of a row, so new data are compiled again.

    The same arguments give the same program object, so that nothing compiles twice.
    """
    return _multinomial(cluster_count(K), one_of("prior", prior, PRIORS))


@once
def _categorical(K: int, levels: int | None, prior: str) -> Program:
    def program(x: ArrayLike) -> None:
        """A mixture of Categoricals; weights ~ Dirichlet, probs ~ Dirichlet(1 + shares)."""
        codes = whole(rows(x))
        C = number_of_levels(x) if levels is None else levels
        weights = numpyro.sample("weights", dist.Dirichlet(jnp.full(K, CONCENTRATION[prior])))
        with numpyro.plate("cluster", K):
            own = categories_prior(codes, C, prior)
            probs = numpyro.sample("probs", own.to_event(1) if codes.ndim > 1 else own)
        with numpyro.plate("obs_id", len(codes)):
            answers = dist.Categorical(probs=probs)
            components = answers.to_event(1) if codes.ndim > 1 else answers
            mixture = VectorMixture(dist.Categorical(probs=weights), components)
            numpyro.sample("x", mixture, obs=codes, infer=MISSING)

    program.__name__ = program.__qualname__ = f"categorical_{prior}"
    return program


@once
def _binomial(K: int, prior: str) -> Program:
    def program(x: ArrayLike, trials: ArrayLike) -> None:
        """A mixture of Binomials; weights ~ Dirichlet, probs ~ Beta(1 + m, 2 - m)."""
        x = rows(x)
        n = jnp.broadcast_to(jnp.asarray(trials, x.dtype), x.shape)
        tried = total(jnp.where(jnp.isnan(x), x, n))  # in the cells whose successes are known
        share = (total(x) + 0.5) / (tried + 1) if prior == "default" else jnp.zeros(x.shape[1:])
        b = 2 - share if prior == "default" else jnp.ones_like(share)
        own = dist.Beta(1 + share, b)
        weights = numpyro.sample("weights", dist.Dirichlet(jnp.full(K, CONCENTRATION[prior])))
        with numpyro.plate("cluster", K):
            probs = numpyro.sample("probs", own.to_event(1) if x.ndim > 1 else own)
        with numpyro.plate("obs_id", len(x)):
            parts = dist.Binomial(n[:, None], probs)
            components = parts.to_event(1) if x.ndim > 1 else parts
            mixture = VectorMixture(dist.Categorical(probs=weights), components)
            numpyro.sample("x", mixture, obs=x, infer=MISSING)

    program.__name__ = program.__qualname__ = f"binomial_{prior}"
    return program


@once
def _multinomial(K: int, prior: str) -> Program:
    def program(x: ArrayLike) -> None:
        """A mixture of Multinomials; weights ~ Dirichlet, probs ~ Dirichlet(1 + shares)."""
        counts = rows(x)
        if counts.ndim != 2:
            raise ValueError(
                f"x must have shape (N, C), a column for each kind, got {counts.shape}"
            )
        whole_rows = "remove the row: the counts of a Multinomial go together"
        _refuse(~np.isfinite(np.asarray(x)), np.asarray(x), whole_rows)
        most = int(np.asarray(x).sum(1).max())
        shares = (counts.sum(0) + 1 / counts.shape[1]) / (counts.sum() + 1)
        own = 1 + shares if prior == "default" else jnp.ones_like(shares)
        weights = numpyro.sample("weights", dist.Dirichlet(jnp.full(K, CONCENTRATION[prior])))
        with numpyro.plate("cluster", K):
            probs = numpyro.sample("probs", dist.Dirichlet(own))
        with numpyro.plate("obs_id", len(counts)):
            parts = dist.Multinomial(counts.sum(1)[:, None], probs, total_count_max=most)
            numpyro.sample("x", VectorMixture(dist.Categorical(probs=weights), parts), obs=counts)

    program.__name__ = program.__qualname__ = f"multinomial_{prior}"
    return program


def _refuse(bad: np.ndarray, values: np.ndarray, remedy: str) -> None:
    """Raise ValueError naming the first bad cell, if there is one."""
    if bad.any():
        cell = np.argwhere(bad)[0]
        where = f"row {cell[0]}" + (f", column {cell[1]}" if len(cell) > 1 else "")
        raise ValueError(f"site 'x': {where} is {values[tuple(cell)]}: {remedy}")


def whole(codes: jax.Array) -> jax.Array:
    """Codes as integers; as they are where some may be missing, which no integer can say."""
    return codes if may_have_holes(codes) else codes.astype(int)


def categories_prior(codes: jax.Array, levels: int, prior: str) -> Any:
    """Dirichlet on the probabilities of `levels` categories, batch shape (D,) or ()."""
    if prior == "flat":
        return dist.Dirichlet(jnp.ones((*codes.shape[1:], levels)))
    counts = (codes[..., None] == jnp.arange(levels)).sum(0)
    answers = jnp.expand_dims(size(codes), -1) if may_have_holes(codes) else len(codes)
    return dist.Dirichlet(1 + (counts + 1 / levels) / (answers + 1))


def number_of_levels(x: ArrayLike) -> int:
    """The largest code plus 1, at least 2; ValueError for codes that have gaps."""
    values = np.asarray(x)
    _refuse(np.isinf(values), values, "remove the row or the value")
    seen = sorted({int(code) for code in np.unique(values[values == values])})
    if not seen:
        raise ValueError("x has no value at all: every answer is missing")
    missing = [code for code in range(max(seen)) if code not in seen]
    if seen[0] >= 0 and missing:
        raise ValueError(
            f"x has the codes {', '.join(map(str, seen[:8]))} but no {missing[0]}: number the "
            "categories 0, 1, 2, ... without gaps, or give levels= to say how many there are"
        )
    return max(2, 1 + seen[-1])
