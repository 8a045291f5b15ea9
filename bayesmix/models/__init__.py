"""Ready-made mixture programs. Each factory returns a plain NumPyro program of the data.

Choosing a model
----------------
`gaussian(K)`
    Continuous columns. `covariance="full"` lets each cluster have its own size, shape and tilt,
    D(D+1)/2 numbers per cluster; with few rows per cluster choose less. "tied" gives all clusters
    one shape (linear boundaries). "diag" has no tilt: columns are independent within a cluster.
    "spherical" has one variance per cluster and depends on the units of the columns: use it on
    columns that share a unit. mclust's names ("VEV", ...) choose volume, shape and orientation one
    by one; "factor" lets a few factors stand for the correlations of many columns.
`student_t(K)`
    Continuous columns with outliers: the same structures with tails of their own weight.
`skew_normal(K)`
    Continuous columns whose clusters lean to one side, each column on its own.
`gaussian_noise(K, low=, high=)`
    Gaussian clusters among rows that lie anywhere in a box and belong to none.
`poisson(K)`
    Counts: events per row, one column or several.
`zero_inflated_poisson(K)`, `zero_inflated_negative_binomial(K)`
    Counts with more zeros than the rest explains.
`hurdle_poisson(K)`, `hurdle_negative_binomial(K)`
    Counts whose zeros are another matter than the rest: whether somebody goes, and how often.
`bernoulli(K)`
    Columns of 0 and 1; with several columns, latent class analysis.
`categorical(K)`
    Answers with more than two categories; with several columns, latent class analysis.
`binomial(K)`
    Successes out of a number of trials that may differ by row.
`multinomial(K)`
    Numbers of several kinds in one row: word counts, choices.
`geometric(K)`, `negative_binomial(K)`
    Failures before a success; counts that vary more than a Poisson's within a cluster.
`log_normal(K)`, `gamma(K)`, `inverse_gamma(K)`, `weibull(K)`
    Positive, skewed columns: incomes, durations, sizes. The first two differ in their tails: gamma
    for sums of many small parts, log-normal for products of many factors; inverse gamma has the
    heaviest upper tail. Weibull is usual for times to failure.
`exponential(K)`
    Waiting times for events that come at a constant rate.
`beta(K)`, `dirichlet(K)`
    One share between 0 and 1; rows of shares that sum to 1.
`von_mises(K)`
    Angles in radians.
`mixed({"height": "normal", "region": "categorical", ...}, K)`
    Columns of different kinds, read by name from a table.
`regression(K, family="normal")`
    A response given covariates, each cluster with its own line: linear, Poisson, logistic and
    binomial regression; coefficients common to all clusters, weights that depend on covariates,
    offsets, groups of rows with one assignment.

Choosing the prior of a Gaussian mixture
----------------------------------------
"default"
    Proper and scaled from the data. `weights ~ Dirichlet(2, ...)`: one added row per cluster, so no
    weight is 0 at the mode. Locations are Normal around the data's mean with 3 times the data's
    spread, whatever the cluster's own spread. Spreads are inverse Wishart (`cov`, D + 2 degrees of
    freedom) or inverse gamma (`var`, shape 3/2), with a mean that gives each cluster 1/K of the
    data's volume: their density vanishes fast enough as a cluster collapses onto a point or a line
    that the log joint is bounded, which is what makes a maximum a posteriori estimate exist. The
    data's covariance enters with its correlations damped by 10 %, so that collinear columns and
    more columns than rows are no obstacle; a constant column is, as it has no scale.
    Volumes are inverse gamma like `var`, shapes Dirichlet(2, ...) over the shares of the variance,
    orientations uniform over rotations; loadings are Normal, noise inverse gamma.
"flat"
    `Dirichlet(1, ...)` and constants: EM then gives maximum likelihood. That has no global maximum
    (a cluster on one row has infinite likelihood); EM reports the best regular local one. Not for
    NUTS: the priors are improper.
"mclust"
    The prior of R's mclust (`priorControl()`, `defaultPrior`), for comparison with it: location
    given spread is Normal with the data's mean and the cluster's covariance divided by 0.01; `cov`
    is inverse Wishart with D + 2 degrees of freedom and scale K^(-2/D) S, S the sample covariance
    (its diagonal alone where there are no more rows than columns); `var` is inverse gamma with
    shape (D + 2)/2 and scale K^(-2/D) v/2, v the mean of the columns' variances, for "diag" as for
    "spherical" (so "diag" depends on the columns' units). Weights are flat.
    Source: Fraley & Raftery (2007), Bayesian regularization for normal mixture estimation and
    model-based clustering, Journal of Classification 24, 155-181. Under "tied" the K locations
    share the one covariance, as in mclust's EEE.

Shifting x by b and multiplying it by a moves fits with "default" and "flat" along with it: loc
becomes a loc + b, variances a² var, and no responsibility changes. "full", "tied" and "diag" allow
a factor for each column; "spherical" one for all.

Missing values
--------------
Leave them NaN: the cells are integrated out, and the priors are made from the observed ones, each
column's own; covariances from the correlations of the rows that have both columns, which are all
divided by one number where they make no semidefinite matrix ("mclust": where they make no definite
one, the diagonal alone). In `regression` the response may be missing. In `binomial` successes
may be missing, trials not. Not offered for `multinomial` and `dirichlet`, whose rows have a fixed
sum that a row with a gap does not tell.

The programs take the data as their only argument; a DataFrame will do. They are ordinary functions:
read them, copy them, change a prior.
"""

from bayesmix.models.categories import binomial, categorical, multinomial
from bayesmix.models.columns import (
    beta,
    dirichlet,
    exponential,
    gamma,
    geometric,
    inverse_gamma,
    log_normal,
    negative_binomial,
    von_mises,
    weibull,
)
from bayesmix.models.continuous import gaussian
from bayesmix.models.discrete import bernoulli, poisson
from bayesmix.models.mixed import mixed
from bayesmix.models.noise import gaussian_noise
from bayesmix.models.regression import regression
from bayesmix.models.skew import skew_normal
from bayesmix.models.student import student_t
from bayesmix.models.zeros import (
    hurdle_negative_binomial,
    hurdle_poisson,
    zero_inflated_negative_binomial,
    zero_inflated_poisson,
)

__all__ = [
    "bernoulli",
    "beta",
    "binomial",
    "categorical",
    "dirichlet",
    "exponential",
    "gamma",
    "gaussian",
    "gaussian_noise",
    "geometric",
    "hurdle_negative_binomial",
    "hurdle_poisson",
    "inverse_gamma",
    "log_normal",
    "mixed",
    "multinomial",
    "negative_binomial",
    "poisson",
    "regression",
    "skew_normal",
    "student_t",
    "von_mises",
    "weibull",
    "zero_inflated_negative_binomial",
    "zero_inflated_poisson",
]
