"""Whether the priors keep the log joint bounded, in words.

A cluster that shrinks onto a single value (or onto a line) sends its density to infinity like a
power of its scale. A prior that vanishes at 0 faster than any power (InverseGamma on a variance,
LogNormal on a scale, InverseWishart on a covariance) outweighs that; one that is positive at 0, or
vanishes like a power, does not in general: with tied values no power is enough. The same holds at
infinity for a concentration (von Mises, Gamma, Beta, ...), which is about one over a variance.
"""

import math

from bayesmix.program import Link, Mixture, Site

SPREADS = {
    "scale": "scale",
    "covariance_matrix": "covariance",
    "scale_tril": "covariance",
    "precision_matrix": "precision",
    "volume": "volume",
    "cov_diag": "variance",
}
VANISHING = {
    ("identity", "InverseGamma"),
    ("identity", "LogNormal"),
    ("identity", "InverseWishart"),
    ("identity", "Wishart"),
    ("identity", "LogUniform"),
    ("sqrt", "InverseGamma"),
    ("sqrt", "LogNormal"),
    ("sqrt", "LogUniform"),
    ("sqrt", "ScaledInvChi2"),
    ("rsqrt", "Gamma"),
    ("rsqrt", "LogNormal"),
    ("exp", "Normal"),
    ("cholesky", "InverseWishart"),
}
NARROWING = {
    "VonMises": ("concentration",),
    "Gamma": ("concentration",),
    "InverseGamma": ("concentration",),
    "Weibull": ("concentration",),
    "BetaProportion": ("concentration",),
    "Beta": ("concentration1", "concentration0"),
    "Dirichlet": ("concentration",),
}
HEAVY = {"HalfCauchy", "InverseGamma", "Pareto", "Cauchy", "StudentT"}  # tails like a power
POSITIVE_AT_ZERO = {"HalfNormal", "HalfCauchy", "Exponential", "Uniform", "TruncatedNormal"}


def boundedness(mixture: Mixture) -> list[str]:
    """One sentence for each prior that leaves the log joint without a maximum; [] if none does."""
    return [
        sentence for site in mixture.sites.values() if (sentence := _sentence(mixture, site)) != ""
    ]


def _sentence(mixture: Mixture, site: Site) -> str:
    if site.prior in ("LKJCholesky", "LKJ"):
        return _correlations(site)
    if any(link.leaf.split("[")[0] == "df" for link in site.links):
        return _heavy_tails(mixture, site)
    if any(_is_concentration(mixture, link) for link in site.links):
        return _narrow(mixture, site)
    spread = next((link for link in site.links if _is_spread(mixture, link)), None)
    if spread is None or not _own_spread(mixture, site) or (spread.map, site.prior) in VANISHING:
        return ""
    if spread.map is None and not _at_zero(site):
        return ""
    what = SPREADS[spread.leaf.split("[")[0]]
    if site.improper:
        reason = "has no lower limit"
    elif site.prior in POSITIVE_AT_ZERO:
        reason = "is positive at 0"
    else:
        reason = "does not vanish fast enough at 0"
    if what == "scale":
        remedy = f"{site.name} ~ LogNormal(...), or a variance ~ InverseGamma(...)"
        return _collapse(site, reason, "a cluster on a single value", remedy)
    gentle = f"{site.name} ~ InverseGamma(...)"
    remedy = gentle if what in ("volume", "variance") else "a covariance ~ InverseWishart(...)"
    return _collapse(site, reason, "a cluster on a line or a single point", remedy)


def _correlations(site: Site) -> str:
    if site.cluster_axis is None or not site.links:
        return ""
    remedy = "a covariance ~ InverseWishart(...)"
    return _collapse(site, "lets correlations reach 1", "a cluster on a line", remedy)


def _heavy_tails(mixture: Mixture, site: Site) -> str:
    """Degrees of freedom df near 0: the density at loc itself grows like df^(1 - D / 2)."""
    fast = {"LogNormal", "InverseGamma", "LogUniform"}
    D = math.prod(mixture.event_shape)
    proper = site.prior in fast or not (site.improper or site.prior in POSITIVE_AT_ZERO | {"Gamma"})
    if D < 3 or site.cluster_axis is None or proper:
        return ""
    reason = "has no lower limit" if site.improper else "does not vanish fast enough at 0"
    remedy = f"{site.name} ~ LogNormal(...)"
    return _collapse(site, reason, "a cluster on a single row, with tails without end,", remedy)


def _narrow(mixture: Mixture, site: Site) -> str:
    """A concentration without end puts all of a cluster's density on one value."""
    if not (site.improper or site.prior in HEAVY) or not _own_spread(mixture, site):
        return ""
    reason = "has no upper limit" if site.improper else "falls only like a power"
    return _collapse(site, reason, "a cluster on a single value", f"{site.name} ~ Gamma(...)")


def _is_concentration(mixture: Mixture, link: Link) -> bool:
    leaf = link.leaf.partition("[")[0]
    return link.map in ("identity", "exp") and leaf in NARROWING.get(_family(mixture, link), ())


def _is_spread(mixture: Mixture, link: Link) -> bool:
    """Whether the link feeds a spread; a Weibull's scale is where it lies, not how wide it is."""
    leaf = link.leaf.partition("[")[0]
    return leaf in SPREADS and _family(mixture, link) != "Weibull"


def _family(mixture: Mixture, link: Link) -> str:
    """The family of the observed site that a link feeds; of a hurdle the one behind it."""
    part = link.leaf.partition("[")[2].removesuffix("]")
    owner = next((site for site in mixture.observed if site.name == part), mixture.observed[0])
    return owner.family.removeprefix("Hurdle")


def _own_spread(mixture: Mixture, site: Site) -> bool:
    """A spread that all clusters share cannot go to 0 unless all clusters are single values."""
    return site.cluster_axis is not None or mixture.general


def _at_zero(site: Site) -> bool:
    return site.improper or site.prior in POSITIVE_AT_ZERO | {"Gamma", "HalfStudentT"}


def _collapse(site: Site, reason: str, where: str, remedy: str) -> str:
    prior = "flat" if site.improper else site.prior
    return (
        f"the prior on {site.name!r} ({prior}) {reason}, so the log joint has no maximum: {where} "
        "sends it to infinity. The best regular mode is returned; for a proper MAP use a prior "
        f"that vanishes there, for example {remedy}"
    )
