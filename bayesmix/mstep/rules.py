"""Which update EM uses for each site: the registry of closed forms, and the plan.

A rule is a closed-form argmax of Q over one site, the others held fixed. It is registered by what
it applies to: the family of the components, the parameter the site feeds and through which map, and
the site's prior. The plan of a mixture is a sequence of blocks updated in turn with the newest
values of the others (ECM); sites without a rule share one last block, ascended on the N-free Q.
A rule that does not fit is never forced: the general ascent is always right.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import jax

from bayesmix.density import Data, Density, Turn, density_of
from bayesmix.density.layout import kinked_sites, line_columns
from bayesmix.families import Family
from bayesmix.families.lines import Lines
from bayesmix.families.partial import CellWise, counted
from bayesmix.families.product import Product, Slot
from bayesmix.graph import axes, core, degree, multiple_of
from bayesmix.mstep.lines import line_sites
from bayesmix.mstep.newton import turns_of
from bayesmix.program import Link, Mixture, Params, Site
from bayesmix.sweep import Statistics, count_statistics


@dataclass(frozen=True)
class Child:
    """A location whose prior the site at hand scales: loc | var ~ Normal(m, var / kappa).

    ``link`` is the location's own link to the components.
    """

    site: str
    link: Link


@dataclass(frozen=True)
class Target:
    """What a rule updates: the site, its shape, its link, and the location it scales, if any.

    ``site`` is the observed site that it feeds, where there are several.
    """

    name: str
    shape: tuple[int, ...]
    link: Link
    child: Child | None
    site: str = ""


@dataclass(frozen=True)
class Context:
    """What a rule may look at, at the newest parameters.

    ``counts`` (K, D): the expected numbers of observed cells, where single cells are missing.
    """

    density: Density
    params: Params
    statistics: Any
    data: Data
    slot: Slot | None = None
    counts: jax.Array | None = None

    def prior(self, site: str) -> dict[str, jax.Array]:
        return self.density.prior(site, self.params, self.data)

    def leaves(self) -> dict[str, jax.Array]:
        leaves = self.density.leaves(self.params, self.data)
        return leaves if self.slot is None else self.slot.own(leaves)

    def at(self, target: "Target") -> "Context":
        """What a rule for the target may look at: in a product, its own site's columns."""
        family, site = self.density.family, target.site
        if family is None:
            return self
        if not isinstance(family, Product) or not site:
            mass, features = self.statistics
            features, counts = counted(family, features)
            return replace(self, statistics=Statistics(mass, features), counts=counts)
        slot = next(slot for slot in family.slots if slot.site == site)
        mass, features = self.statistics
        features, counts = counted(slot.family, features[:, slot.features])
        rows = self.data.rows._replace(
            shift=self.data.rows.shift[slot.columns], scale=self.data.rows.scale[slot.columns]
        )
        return Context(
            self.density,
            self.params,
            Statistics(mass, features),
            self.data._replace(rows=rows),
            slot,
            counts,
        )


Update = Callable[[Target, Context], jax.Array]


@dataclass(frozen=True)
class Rule:
    """A registered closed form and the sentence that describes it.

    ``by_cell``: it counts cells one by one, so that it stays right where some are missing.
    """

    update: Update
    text: str
    child_prior: str | None = None
    known: tuple[str, ...] = ()
    by_cell: bool = False
    own: bool = False


@dataclass(frozen=True)
class Block:
    """Sites updated together. ``kind`` is "closed", "newton" or "ascent".

    ``turns``: how Newton's Hessian is taken.
    """

    sites: tuple[str, ...]
    kind: str
    text: str
    target: Target | None = None
    update: Update | None = None
    turns: tuple[Turn, ...] = ()

    def describe(self) -> str:
        return f"{', '.join(self.sites)}: {self.text}"


@dataclass(frozen=True)
class Plan:
    """The blocks of one EM step in their order; hashable, so static under jit."""

    blocks: tuple[Block, ...]

    @property
    def ascent(self) -> tuple[str, ...]:
        """Sites without a closed form."""
        return next((block.sites for block in self.blocks if block.kind != "closed"), ())

    @property
    def turns(self) -> tuple[Turn, ...]:
        """How the Hessian of Newton's M-step is taken; () where there is none."""
        return next((block.turns for block in self.blocks if block.kind == "newton"), ())

    def __str__(self) -> str:
        return "\n".join(block.describe() for block in self.blocks)


_rules: dict[tuple[str, str, str, str], Rule] = {}


def rule(
    family: str | tuple[str, ...],
    leaf: str,
    map: str,
    *priors: str,
    text: str,
    scales: str | None = None,
    known: tuple[str, ...] = (),
    by_cell: bool = False,
    own: bool = False,
) -> Callable[[Update], Update]:
    """Register a closed form; use as a decorator.

    family : name of the components' family, of several that share the rule, or "any" for the mixing
        weights.
    leaf, map : the parameter that the site feeds and how ("identity", "sqrt", ...).
    priors : names of the NumPyro distributions of the site's prior.
    scales : the prior (by name) of a location whose spread this site may scale; its log density is
        then part of the update.
    known : other parameters that must be fixed numbers for the rule to apply: those that are nearly
        collinear with this one, so that updates in turn would crawl and a joint ascent does not.
    by_cell : the update takes its counts from ``reduce.counts``, or needs none, and so serves
        products of which single cells are missing; others then give way to the ascent.
    own : the rule is for a site that no clusters or columns share.
    """

    def register(update: Update) -> Update:
        for name in (family,) if isinstance(family, str) else family:
            for prior in priors:
                _rules[name, leaf, map, prior] = Rule(update, text, scales, known, by_cell, own)
        return update

    return register


def plan_for(mixture: Mixture) -> Plan:
    """The plan of EM's M-step for a mixture; printing it shows one line per block."""
    if "plan" not in mixture.cache:
        with jax.enable_x64(True):
            mixture.cache["plan"] = _plan(mixture)
    return mixture.cache["plan"]


def _plan(mixture: Mixture) -> Plan:
    family = density_of(mixture).family
    closed, rest = [], []
    coefficients = line_sites(mixture)
    if coefficients:
        closed.append(Block(coefficients, "closed", "closed form, weighted least squares"))
    for name, site in mixture.sites.items():
        if name in coefficients:
            continue
        block = _closed_block(mixture, site, family)
        if block is None:
            rest.append(name)
        else:
            closed.append(block)
    order = {"weights": 0, "loc": 1}
    closed.sort(key=lambda each: order.get(_plain(each.target.link) if each.target else "loc", 2))
    if rest:
        closed.append(_climbed(mixture, tuple(rest)))
    return Plan(tuple(closed))


def _climbed(mixture: Mixture, sites: tuple[str, ...]) -> Block:
    """The block of all sites without a closed form."""
    turns, reach = turns_of(mixture, sites), _reach(mixture, density_of(mixture).family)
    if turns:
        return Block(sites, "newton", "Newton's step on Q" + reach, turns=turns)
    return Block(sites, "ascent", "ascent on Q" + reach)


def _reach(mixture: Mixture, family: Family | None) -> str:
    if family is None:
        return f"; the general sweep over {mixture.N} rows"
    eta = mixture.K * _feature_count(mixture, family)
    return f"; the data enter through {eta} statistics, not {mixture.N} rows"


def _feature_count(mixture: Mixture, family: Family) -> int:
    """Statistics of one cluster, its mass among them."""
    if isinstance(family, Product):
        return 1 + family.slots[-1].features.stop
    if isinstance(family, Lines):
        columns = line_columns(mixture)[0].shape[1]
        return 1 + columns * (columns + 1) // 2
    columns = math.prod(mixture.event_shape) * (1 + len(mixture.observed[0].given))
    return count_statistics(family, columns)


def _plain(link: Link) -> str:
    """The parameter without the observed site that it belongs to: "loc" for "loc[height]"."""
    return link.leaf.partition("[")[0]


def _owner(mixture: Mixture, link: Link, family: Family | None) -> tuple[str, str]:
    """The name of the family that a link feeds, "any" for the weights, and the observed site.

    Without a family there are rules for components with kinks, by the rows themselves.
    """
    if link.leaf == "weights":
        return "any", ""
    if family is None:
        name = link.leaf[:-1].partition("[")[2] or mixture.name
        return next(((s.family, name) for s in kinked_sites(mixture) if s.name == name), ("", ""))
    if not isinstance(family, Product):
        return (family.name if family else ""), ""
    site = link.leaf[:-1].partition("[")[2]
    return next(slot.family.name for slot in family.slots if slot.site == site), site


def _closed_block(mixture: Mixture, site: Site, family: Family | None) -> Block | None:
    if len(site.links) != 1 or site.weighted or not _private(mixture, site):
        return None
    link = site.links[0]
    if isinstance(family, Lines) and _plain(link) == "loc":
        return None
    if link.map is None or not _covers(site, link):
        return None
    owner, part = _owner(mixture, link, family)
    prior = site.prior
    if prior == "Uniform" and _is_unit_interval(mixture, site):
        prior = "UnitUniform"
    found = _rules.get((owner, _plain(link), link.map, prior))
    if found is None or _estimated(mixture, found.known, part):
        return None
    if _has_gaps(family, part) and not (found.by_cell or owner == "any"):
        return None
    if found.own and None in link.axes:
        return None
    child = None
    if site.fed_priors:
        child = _child(mixture, site, found)
        if child is None:
            return None
    if not _prior_fits(mixture, site):
        return None
    target = Target(site.name, site.shape, link, child, part)
    return Block((site.name,), "closed", "closed form, " + found.text, target, found.update)


def _estimated(mixture: Mixture, leaves: tuple[str, ...], part: str) -> bool:
    """Whether any of these parameters of an observed site depends on a latent site."""
    own, end = mixture.reading.leaves[0], f"[{part}]" if part else ""
    return any(own[leaf + end].depends for leaf in leaves)


def _has_gaps(family: Family | None, site: str) -> bool:
    """Whether single cells of an observed site (the only one, or by name) are missing."""
    if isinstance(family, Product):
        family = next((slot.family for slot in family.slots if slot.site == site), None)
    return isinstance(family, CellWise)


def _private(mixture: Mixture, site: Site) -> bool:
    """Whether the site enters nothing but the components, its prior, and priors it feeds."""
    own = {site.name, *site.fed_priors}
    reading = mixture.reading
    bounds = [node for nodes in reading.supports.values() for node in nodes]
    return not any(
        site.name in node.depends for name, node in reading.terms.items() if name not in own
    ) and not any(site.name in node.depends for node in bounds)


def _covers(site: Site, link: Link) -> bool:
    """Whether every axis of the site is an axis of the parameter, so that the rest is shared."""
    present = {axis for axis in link.axes if axis is not None}
    return all(axis in present for axis, size in enumerate(site.shape) if size > 1)


def _prior_fits(mixture: Mixture, site: Site) -> bool:
    """Whether the prior's own parameters are free of the site (they may use other sites)."""
    return not any(site.name in n.depends for n in mixture.reading.priors[site.name].values())


def _is_unit_interval(mixture: Mixture, site: Site) -> bool:
    args = mixture.reading.priors[site.name]
    low, high = core(args["low"]), core(args["high"])
    return low.label == high.label == "literal" and (low.value == 0) and (high.value == 1)


def _child(mixture: Mixture, site: Site, found: Rule) -> Child | None:
    """The one location whose prior this site scales in the conjugate way, or None."""
    if found.child_prior is None or len(site.fed_priors) != 1:
        return None
    child = mixture.sites[site.fed_priors[0]]
    args = mixture.reading.priors[child.name]
    if child.prior != found.child_prior or len(child.links) != 1 or child.weighted:
        return None
    link = child.links[0]
    full = _plain(link) == "loc" and link.map == "identity" and None not in link.axes
    if not full or site.name in args["loc"].depends:
        return None
    _, bracket, part = link.leaf.partition("[")
    if site.links[0].leaf.partition("[")[2] != part:
        return None
    leaves = mixture.reading.leaves[0]
    if child.prior == "Normal":
        memo: dict[int, Any] = {}
        scale = leaves["scale" + bracket + part]
        same = axes(args["scale"], memo) == axes(scale, memo)
        power = degree(args["scale"], site.name)
        fits = same and power is not None and power == degree(scale, site.name)
    else:
        fits = "covariance_matrix" in args and multiple_of(args["covariance_matrix"]) == site.name
    return Child(child.name, link) if fits else None
