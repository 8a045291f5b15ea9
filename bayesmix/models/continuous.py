"""Mixtures of Gaussians as plain NumPyro programs, with priors scaled from the data.

`gaussian` finds the program by the name of its covariance structure. Nothing of bayesmix's
inference is used here; the programs run under any NumPyro algorithm.
"""

from bayesmix.models.factors import factor_count, factored
from bayesmix.models.forms import Program, formed
from bayesmix.models.inputs import cluster_count, one_of
from bayesmix.models.structures import STRUCTURES, ellipsoidal

# mclust's names of structures that have one already.
SYNONYMS = {
    "VVV": "full",
    "EEE": "tied",
    "VVI": "diag",
    "VII": "spherical",
    "V": "full",
    "E": "tied",
}
PLAIN = ("full", "tied", "diag", "spherical")
COVARIANCES = (*PLAIN, "factor", "EII", "EEI", *STRUCTURES, *SYNONYMS)
PRIORS = ("default", "flat", "mclust")


def gaussian(
    K: int, *, covariance: str = "full", prior: str = "default", factors: int | None = None
) -> Program:
    """A mixture of K Gaussians: the NumPyro program `program(x)`, x of shape (N,) or (N, D).

    covariance : "full" (a matrix per cluster), "tied" (one matrix, shared), "diag" (a variance
        per cluster and column), "spherical" (a variance per cluster), "factor" (a few factors and
        a noise variance per column), or one of mclust's names below. For x of shape (N,) the
        components are univariate: one variance, shared if the name is "tied" or begins with E,
        else one per cluster.
    prior : "default", "flat" or "mclust", see `bayesmix.models`.
    factors : how many, with "factor" only.

    Sites: `weights` (K,), `loc` (K, D) and `cov` (K, D, D), tied (D, D); or `var` (K, D),
    spherical (K,). For x of shape (N,): `loc` (K,) and `var` (K,), tied (). `cov` and `var` are in
    squared data units. The priors are made from x: "default" and "mclust" need 2 rows or more
    and no constant column.

    mclust's names: three letters say whether volume, shape and orientation of the ellipsoids,
    Sigma = volume D A D', are Equal in all clusters or Variable; I is a ball (shape) or lies along
    the columns (orientation). "VVV", "EEE", "VVI" and "VII" are other words for "full", "tied",
    "diag" and "spherical" (and "V", "E", mclust's words for one column, for "full" and "tied"): the
    same programs. "EII" has one `var` (), "EEI" one `var` (D,). The others, "VEI", "EVI", "VEE",
    "EVE", "VVE", "EEV", "VEV" and "EVV", have the sites

    volume : (K,), E (); det(Sigma)^(1/D), in squared data units.
    shape : (K, D), E (D,); the axes' shares of the variance, each between 0 and 1, their sum 1. A
        is shape divided by its geometric mean.
    orientation : (K, D, D), E (D, D); a rotation, column d is the direction of axis d. None if I.

    Axes have no order, and no sign: a program with orientation has D! 2^(D-1) copies of
    every solution, all the same matrices Sigma. EM's answer is one of them; the chains of NUTS
    begin in the same one, and compare matrices, not axes, where two axes are nearly equal. A
    Laplace evidence counts one copy. prior="mclust" is for the structures with two names: for the
    others the published formulas do not lead to the log likelihoods that R's mclust reports, so
    that it would be another prior of that name.

    "factor": Sigma = loadings loadings' + diag(noise), with the sites `loadings` (K, D, factors),
    in data units, and `noise` (K, D), in squared data units. Rotated factors give the same Sigma;
    the loadings are those with nothing above the diagonal, which leaves the sign of each column
    open, so 2^factors copies of every solution. Fewer factors than columns; no "mclust" prior.

    The same arguments give the same program object, so that nothing compiles twice.
    """
    K = cluster_count(K)
    name = one_of("covariance", covariance, COVARIANCES)
    prior = one_of("prior", prior, PRIORS)
    structure = SYNONYMS.get(name, name)
    if factors is not None and structure != "factor":
        raise ValueError(f"factors={factors!r} is for covariance='factor', not {name!r}")
    if prior == "mclust" and structure not in PLAIN:
        raise ValueError(
            f"prior 'mclust' is not offered with covariance {name!r}, only with "
            f"{', '.join(PLAIN)}: use prior 'default' or 'flat'"
        )
    if structure == "factor":
        return factored(K, factor_count(factors), prior)
    make = ellipsoidal if structure in STRUCTURES else formed
    return make(K, structure, prior)
