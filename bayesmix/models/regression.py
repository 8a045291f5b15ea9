"""Mixtures of regressions: each cluster has its own line, on the scale of its family's link.

The program takes the covariates and the response. Coefficients may be common to all clusters,
weights may depend on covariates of their own, rows may have offsets and numbers of trials, and all
rows of a group may share one assignment. How the arguments are read from a table is the business of
``bayesmix.models.design``.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
from numpyro.distributions import constraints

from bayesmix.carry import once
from bayesmix.missing import may_have_holes
from bayesmix.models.design import prepare_arguments
from bayesmix.models.inputs import Program, cluster_count, one_of
from bayesmix.models.moments import CONCENTRATION
from bayesmix.models.summaries import MISSING, mean, total, variance

FAMILIES = ("normal", "poisson", "bernoulli", "binomial")
PRIORS = ("default", "flat")
REACH = 2.5  # default: prior standard deviation of a coefficient, in standard units


def regression(
    K: int,
    *,
    family: str = "normal",
    shared: Sequence[Any] = (),
    prior: str = "default",
) -> Program:
    """A mixture of K regressions: the NumPyro program `program(X, y, ...)`.

        program = bm.models.regression(2, family="poisson", shared=["age"])
        em = bm.EM(program).run(key, X, y, offset=np.log(hours), gating=Z, groups=person)

    family : of y given X: "normal" (identity link), "poisson" (log link), "bernoulli" (0 and 1) or
        "binomial" (successes out of `trials`; logit link).
    shared : columns of X, by name or number, whose coefficients all clusters have in common.
    prior : "default" or "flat" (maximum likelihood; not for NUTS).

    The program's arguments:

    X : covariates (N, P) or (N,), an array or a DataFrame; None for intercepts alone. There is an
        intercept without a column for it. A text column, or a pandas Categorical, stands for one
        indicator of each category but the first, as in R.
    y : response (N,). A missing one (NaN) is integrated out: its row tells nothing about the lines,
        and its cluster is known as far as weights and groups tell. Covariates must be known.
    offset : known part of the linear predictor (N,), such as the log of an exposure.
    trials : numbers of trials (N,), or one for all, for "binomial".
    gating : covariates Z (N, Q) of the weights (concomitant variables, mixture of experts):
        p(z = k | Z) = softmax(gate' [1, Z])_k.
    groups : labels (N,); rows with the same label share one assignment (repeated measurements).
        Groups may differ in size. Gating covariates must then be the same in all rows of a group.

    Sites: `weights` (K,), or `gate` (1 + Q, K), whose rows sum to 0 over the clusters; `intercept`
    (K,), the linear predictor at X = 0; `coef` (K, P), of the columns that are not shared;
    `coef_shared`; and `var` (K,), the residual variance, for "normal". The names of X's columns are
    coordinates of the results.

    Default priors, with m, s the column means and standard deviations of X:

        coef[k, j]            ~ Normal(0, 2.5 t / s_j)
        intercept[k] | coef   ~ Normal(c - m . coef[k], 2.5 t), a prior on the prediction at X = m
        var                   ~ InverseGamma(3/2, v / (2 K^2)), v the residual variance of one line
        gate                  ~ zero-sum Normal, 2.5 / standard deviation of the column of Z
        weights               ~ Dirichlet(2, ...)

    with t = sd(y) and c = mean(y) for "normal"; t = 1 and c the link of the overall rate for the
    others. They do not depend on the units of X and y nor on where their zeros lie. v is at least
    1/1000 of y's variance. Source of 2.5 in standard units: Gelman, Jakulin, Pittau & Su (2008), A
    weakly informative default prior distribution for logistic and other regression models, Annals
    of Applied Statistics 2, 1360-1383 (there Cauchy).

    The same arguments give the same program object, so that nothing compiles twice. Raises
    ValueError, naming column and row, for arguments that do not fit together.
    """
    names = (shared,) if isinstance(shared, str | int) else tuple(shared)
    return _regression(
        cluster_count(K),
        one_of("family", family, FAMILIES),
        names,
        one_of("prior", prior, PRIORS),
    )


@once
def _regression(K: int, family: str, shared: tuple[Any, ...], prior: str) -> Program:
    default = prior == "default"

    def program(
        X: Any,
        y: Any,
        *,
        offset: Any = None,
        trials: Any = None,
        gating: Any = None,
        groups: Any = None,
        common: Sequence[int] = (),
        group_count: int | None = None,
        levels: Any = None,
        coords: Any = None,
    ) -> None:
        """See `bayesmix.models.regression`; `common`: the numbers of X's shared columns."""
        X, y = jnp.asarray(X, float), jnp.asarray(y)
        own = [column for column in range(X.shape[1]) if column not in common]
        offset = jnp.zeros(len(y)) if offset is None else jnp.asarray(offset, float)
        centre, unit = _standard_units(family, y, offset, trials)

        mixing = _mixing(K, gating, prior)
        slopes = _coefficients(X, unit, default)
        shift = jnp.zeros(())  # the columns' part of the prediction at X = m
        eta = offset[:, None]
        if common:
            with numpyro.plate("shared_covariate", len(common)):
                both = numpyro.sample("coef_shared", slopes(jnp.array(common)))
            eta = eta + (X[:, jnp.array(common)] @ both)[:, None]
            shift = shift + X.mean(0)[jnp.array(common)] @ both
        if own:
            with numpyro.plate("cluster", K, dim=-2), numpyro.plate("covariate", len(own), dim=-1):
                coef = numpyro.sample("coef", slopes(jnp.array(own)))
            eta = eta + X[:, jnp.array(own)] @ coef.T
            shift = shift + coef @ X.mean(0)[jnp.array(own)]
        with numpyro.plate("cluster", K):
            at_zero = dist.Normal(centre - shift, REACH * unit)
            intercept = numpyro.sample("intercept", at_zero if default else _flat())
            if family == "normal":
                residual = _residual_variance(X, y - offset) / (2 * K**2)
                spread = dist.InverseGamma(1.5, residual)
                var = numpyro.sample("var", spread if default else _flat(constraints.positive))
                scale = jnp.sqrt(var)
            else:
                scale = jnp.zeros(K)
        eta = eta + intercept

        rows = jnp.arange(len(y))
        if groups is None:
            with numpyro.plate("obs_id", len(y)):
                z = numpyro.sample("z", mixing, infer={"enumerate": "parallel"})
                response = _response(family, eta[rows, z], scale[z], trials)
                numpyro.sample("y", response, obs=y, infer=MISSING)
            return
        count = int(jnp.max(groups)) + 1 if group_count is None else group_count
        with numpyro.plate("group", count):
            z = numpyro.sample("z", mixing, infer={"enumerate": "parallel"})
        with numpyro.plate("obs_id", len(y)):
            mine = z[groups]
            response = _response(family, eta[rows, mine], scale[mine], trials)
            numpyro.sample("y", response, obs=y, infer=MISSING)

    def prepare(
        X: Any,
        y: Any = None,
        *,
        offset: Any = None,
        trials: Any = None,
        gating: Any = None,
        groups: Any = None,
        levels: Any = None,
    ) -> Any:
        """The program's arguments as numbers, with the names and categories they stand for."""
        given = {"offset": offset, "trials": trials, "gating": gating, "groups": groups}
        return prepare_arguments(family, shared, prior, X, y, levels=levels, **given)

    program.prepare = prepare  # type: ignore[attr-defined]
    program.__name__ = program.__qualname__ = f"regression_{family}_{prior}"
    return program


def _mixing(K: int, gating: Any, prior: str) -> dist.Distribution:
    """The distribution of the assignments: the same for all rows, or a softmax of covariates."""
    if gating is None:
        weights = numpyro.sample("weights", dist.Dirichlet(jnp.full(K, CONCENTRATION[prior])))
        return dist.Categorical(probs=weights)
    Z = jnp.asarray(gating, float)
    ones = jnp.ones((len(Z), 1))
    spread = REACH / jnp.concatenate([jnp.ones(1), Z.std(0, ddof=1)])
    if prior == "default":
        gates = dist.TransformedDistribution(
            dist.Normal(0.0, spread[:, None]).expand([1 + Z.shape[1], K - 1]).to_event(1),
            dist.transforms.ZeroSumTransform(1),
        )
    else:
        gates = dist.ImproperUniform(constraints.zero_sum(1), (), (K,))
    with numpyro.plate("gating", 1 + Z.shape[1]):
        gate = numpyro.sample("gate", gates, infer={"event_dims": ["cluster"]})
    return dist.Categorical(logits=jnp.concatenate([ones, Z], 1) @ gate)


def _response(family: str, eta: jax.Array, scale: jax.Array, trials: Any) -> dist.Distribution:
    """The distribution of y at linear predictor ``eta``."""
    match family:
        case "normal":
            return dist.Normal(eta, scale)
        case "poisson":
            return dist.Poisson(jnp.exp(eta))
        case "bernoulli":
            return dist.Bernoulli(logits=eta)
    return dist.Binomial(trials, logits=eta)


def _coefficients(
    X: jax.Array, unit: jax.Array, default: bool
) -> Callable[[jax.Array], dist.Distribution]:
    """The prior of the coefficients of some columns."""

    def prior(columns: jax.Array) -> dist.Distribution:
        return dist.Normal(0.0, REACH * unit / X[:, columns].std(0, ddof=1)) if default else _flat()

    return prior


def _flat(support: constraints.Constraint = constraints.real) -> dist.Distribution:
    return dist.ImproperUniform(support, (), ())


def _standard_units(family: str, y: jax.Array, offset: jax.Array, trials: Any) -> Any:
    """Where the linear predictor lies on average, and its unit; of rows with a response."""
    if family == "normal":
        rest = y - offset
        return mean(rest), jnp.sqrt(variance(rest))
    successes = total(y) + 0.5
    if family == "poisson":
        return jnp.log(successes / _with_response(jnp.exp(offset), y).sum()), jnp.ones(())
    tries = jnp.ones(len(y)) if trials is None else jnp.asarray(trials, float)
    share = successes / (1 + _with_response(tries, y).sum())
    return jnp.log(share / (1 - share)) - offset.mean(), jnp.ones(())


def _with_response(values: jax.Array, y: jax.Array) -> jax.Array:
    """Values by row, 0 where the response is missing."""
    if not may_have_holes(y):
        return values
    seen = ~jnp.isnan(y)
    return jnp.where(seen.reshape(seen.shape + (1,) * (values.ndim - 1)), values, 0.0)


def _residual_variance(X: jax.Array, y: jax.Array) -> jax.Array:
    """Residual variance of one least-squares line through all rows, kept off 0."""
    count = _with_response(jnp.ones(len(y)), y).sum()
    centred = _with_response(y - mean(y), y)
    if X.shape[1]:
        middle = _with_response(X, y).sum(0) / count
        units = _with_response((X - middle) / X.std(0), y)
        rest = centred - units @ jnp.linalg.pinv(units.T @ units / count) @ (
            units.T @ centred / count
        )
    else:
        rest = centred
    return jnp.maximum(jnp.sum(rest**2) / count, 1e-3 * jnp.sum(centred**2) / count)
