"""Explicit assignments summed out: a program with a site ``z`` as one without it.

The program is run once with every value of z at once, along a new leftmost axis, as NumPyro's own
parallel enumeration does; so whatever uses z by broadcasting or indexing gains that axis. Each
observed site that has it is a mixture given the observed sites before it: by the chain rule the
first is sum_k w_k f(x | k), and those after it have for weights the responsibilities so far. Their
product is the joint density with z summed out, and sampling them in turn samples the joint.

No funsor; knows NumPyro's messages, nothing of graphs or of inference.
"""

from collections.abc import Callable
from functools import wraps
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from numpyro import handlers
from numpyro.distributions import constraints
from numpyro.distributions.distribution import validation_enabled
from numpyro.primitives import Messenger

from bayesmix.groups import by_group, indexed, to_rows
from bayesmix.missing import Incomplete, declared, holes_in, integrated
from bayesmix.parameters import peel

OBSERVED, UNOBSERVED = "_observed", "_unobserved"  # what NumPyro makes of a site with obs_mask
IMPOSSIBLE = -1e30  # log weight of a cluster that a row's label rules out


def marginalize(program: Callable[..., Any]) -> Callable[..., Any]:
    """The same NumPyro program with its assignment site summed out.

    For programs with one latent ``numpyro.sample("z", dist.Categorical(w))``, in the plate of the
    observations or of groups of them, and observed sites that use z. The result has the same sites
    but z, no discrete latent ones, and the same arguments: use it with MCMC, SVI, Predictive or
    ``log_density``; funsor is not needed. Observed sites keep their names and shapes; with several,
    each is conditional on those before it, so that together they have the joint density.

    Partial labels, ``obs=labels, obs_mask=labels >= 0``, are kept: a row with a label has the
    log density log w[label] + log f(x | label). Missing cells that the program declares
    (infer={"missing": "marginal"}) are integrated out. A program with neither comes back as it is.

    Raises ValueError, when run, for uses of z that have no such sum.
    """

    @wraps(program)
    def marginal(*args: Any, **kwargs: Any) -> Any:
        with validation_enabled(is_validate=False):
            sites = _survey(program, args, kwargs)
        name = assignment_of(sites)
        if name is None:
            return integrated(program)(*args, **kwargs)
        summed = SumOut(name, nesting(sites), grouped=is_grouped(sites, name), holes=True)
        with summed:
            result = program(*args, **kwargs)
        summed.check()
        return result

    return marginal


def assignment_of(sites: dict[str, Any]) -> str | None:
    """Name of the latent Categorical site of a trace, or None; ValueError for more than one.

    Where some are declared with infer={"enumerate": "parallel"}, only those count.
    """
    names = [name for name, site in sites.items() if is_assignment(site)]
    declared = [n for n in names if (sites[n]["infer"] or {}).get("enumerate") == "parallel"]
    names = declared or names
    if len(names) > 1:
        quoted = ", ".join(repr(name.removesuffix(UNOBSERVED)) for name in names)
        raise ValueError(
            f"the program has {len(names)} assignment sites ({quoted}): bayesmix sums out one; "
            "write their combinations as the categories of a single site"
        )
    return names[0] if names else None


def is_assignment(site: dict[str, Any]) -> bool:
    """Whether a message is a latent Categorical site."""
    if site["type"] != "sample" or site["is_observed"]:
        return False
    return isinstance(peel(site["fn"]), dist.CategoricalProbs | dist.CategoricalLogits)


def row_axes(site: dict[str, Any]) -> tuple[int, ...]:
    """The axes of an assignment, counted from the right: its plates, or else its whole batch."""
    frames = sorted(frame.dim for frame in site["cond_indep_stack"])
    return tuple(frames) or tuple(range(-len(site["fn"].batch_shape), 0))


def nesting(sites: dict[str, Any]) -> int:
    """How many axes plates and batches take at most: the values of z go to the left of them."""
    used = [site for site in sites.values() if site["type"] == "sample"]
    used = [site for site in used if site["is_observed"] or is_assignment(site)]
    return max(len(site["fn"].batch_shape) for site in used)


def is_grouped(sites: dict[str, Any], name: str) -> bool:
    """Whether observed sites stand outside the assignment's plate, so that they must index it."""
    own = {frame.name for frame in sites[name]["cond_indep_stack"]}
    later = list(sites)[list(sites).index(name) + 1 :]
    outside = (
        own - {frame.name for frame in sites[other]["cond_indep_stack"]}
        for other in later
        if sites[other]["type"] == "sample" and sites[other]["is_observed"]
    )
    return any(outside)


def _survey(program: Callable[..., Any], args: Any, kwargs: Any) -> dict[str, Any]:
    """The program's sites, run on stand-ins unseen by outer handlers; only shapes are meant."""
    with handlers.block(), handlers.trace() as sites, _StandIns():
        program(*args, **kwargs)
    return sites


class _StandIns(Messenger):
    """Gives zeros for whatever would be sampled."""

    def process_message(self, msg: dict[str, Any]) -> None:
        if msg["value"] is not None:
            return
        if msg["type"] == "sample":
            shape = msg["fn"].shape(msg["kwargs"].get("sample_shape", ()))
            discrete = msg["fn"].support is not None and msg["fn"].support.is_discrete
            msg["value"] = jnp.zeros(shape, int if discrete else float)
        elif msg["type"] == "plate":
            size, part = msg["args"][:2]
            msg["value"] = jnp.arange(size if part is None else part)
        elif msg["type"] == "prng_key":
            msg["value"] = jax.random.key(0)


class Assigned(dist.Distribution):
    """An observed site of an explicit mixture, its assignment summed out.

    log_weights : log p(z = k | what was observed before), (*rows, K).
    components : the site's distribution for every value of z, batch (K, *batch).
    rows : the axes of the batch, counted from the right, along which z varies; sums over the other
        axes of the batch are part of a row, and there ``log_prob`` has length 1.
    group : where rows are of groups that share an assignment, the group of each, (N,). Then
        log_weights, densities and responsibilities are by group, (G, K), and ``log_prob`` gives
        every row its share of its group's.
    powers, shares : what the log density of each row of a group counts within the group, (N,), and
        the part of the group's log density that the row is given; where the groups are rows and
        their own rows stand in plates inside, powers have the shape of the batch, and shares,
        (*rows,), are the part that each is given. None for 1 and for even shares.
    """

    pytree_data_fields = ("log_weights", "components", "group", "powers", "shares")
    pytree_aux_fields = ("rows",)

    def __init__(
        self,
        log_weights: jax.Array,
        components: dist.Distribution,
        rows: tuple[int, ...],
        batch_shape: tuple[int, ...],
        group: Any = None,
        powers: Any = None,
        shares: Any = None,
    ) -> None:
        self.log_weights, self.components, self.rows = log_weights, components, rows
        self.group, self.powers, self.shares = group, powers, shares
        super().__init__(batch_shape, components.event_shape, validate_args=False)

    @property
    def support(self) -> constraints.Constraint:
        return self.components.support

    @property
    def mixture_size(self) -> int:
        """The number of values of the assignment, K."""
        return self.log_weights.shape[-1]

    @property
    def spare(self) -> int:
        """Axes of the components between the values of z and the batch, all of length 1."""
        return len(self.components.batch_shape) - 1 - len(self.batch_shape)

    def densities(self, value: Any) -> jax.Array:
        """log f(value | k), (*rows, K), in nats; plates within a row, or groups, are summed."""
        log_prob = self.components.log_prob(value)
        shape = (self.mixture_size, *(1,) * self.spare, *self.batch_shape)
        log_prob = jnp.broadcast_to(log_prob, shape)
        if self.powers is not None and self.group is None:
            log_prob = jnp.where(self.powers > 0, self.powers * log_prob, 0.0)
        others = tuple(a for a in range(-log_prob.ndim + 1, 0) if a not in self.rows)
        by_row = jnp.moveaxis(log_prob.sum(others), 0, -1)
        if self.group is None:
            return by_row
        if self.powers is not None:
            powers = self.powers[:, None]
            by_row = jnp.where(powers > 0, powers * by_row, 0.0)
        return by_group(by_row, self.group, len(self.log_weights))

    def component_log_probs(self, value: Any) -> jax.Array:
        """log p(z = k | before) + log f(value | k), (*rows, K), in nats."""
        return self.log_weights + self.densities(value)

    def log_prob(self, value: Any) -> jax.Array:
        terms = self.component_log_probs(value)
        terms = jnp.where(jnp.isneginf(terms), -jnp.inf, terms)  # as in MixtureSameFamily
        shape = [n if axis in self.rows else 1 for axis, n in self._axes()]
        total = jax.nn.logsumexp(terms, -1)
        if self.group is None:
            return (total if self.shares is None else total * self.shares).reshape(shape)
        if self.shares is None:
            return to_rows(total, self.group).reshape(shape)
        return (total[self.group] * self.shares).reshape(shape)

    def sample(self, key: Any, sample_shape: tuple[int, ...] = ()) -> jax.Array:
        choose, draw = jax.random.split(key)
        values = self.components.sample(draw, sample_shape)
        shape = [n if axis in self.rows else 1 for axis, n in self._axes()]
        rows = [n for axis, n in self._axes() if axis in self.rows]
        lead = (*sample_shape, *(rows if self.group is None else self.log_weights.shape[:-1]))
        chosen = jax.random.categorical(choose, self.log_weights, shape=lead)
        if self.group is not None:
            chosen = chosen[..., self.group]
        index = chosen.reshape(
            *sample_shape, *(1,) * (self.spare + 1), *shape, *(1,) * self.event_dim
        )
        picked = jnp.take_along_axis(values, index, len(sample_shape))
        return picked.reshape(*sample_shape, *self.batch_shape, *self.event_shape)

    def _axes(self) -> list[tuple[int, int]]:
        rank = len(self.batch_shape)
        return [(i - rank, n) for i, n in enumerate(self.batch_shape)]


class SumOut(Messenger):
    """Runs a program with every value of its assignment at once and hides the assignment.

    site_name : the latent site of the assignment. nesting : how many axes the program's plates
    take. ``grouped``: rows use the assignment by the index of their group. ``holes``: data may be
    NaN where a site declares it. After the run, ``name`` is the assignment's own name, ``site`` its
    message, ``labels`` the site of its partial labels or None, ``used`` the mixtures of the sites
    that use it, ``group`` the index of groups or None.
    """

    def __init__(
        self,
        site_name: str,
        nesting: int,
        fn: Callable[..., Any] | None = None,
        *,
        grouped: bool = False,
        holes: bool = False,
    ) -> None:
        super().__init__(fn)
        self.site_name, self.nesting = site_name, nesting
        self.grouped, self.holes = grouped, holes
        self.group: Any = None
        self.name = site_name.removesuffix(UNOBSERVED)
        self.site: dict[str, Any] = {}
        self.labels: dict[str, Any] | None = None
        self.used: dict[str, Assigned] = {}
        self._seen: dict[str, Any] = {}
        self._log_weights: Any = None

    def process_message(self, msg: dict[str, Any]) -> None:
        if msg["type"] == "deterministic" and self.site and msg["name"] == self.name:
            msg["value"] = self._all_values()
        if msg["type"] != "sample":
            return
        if msg["name"] == self.site_name:
            self._enumerate(msg)
        elif self.site and self._enumerated(msg["fn"].batch_shape):
            self._assign(msg)
        elif msg["is_observed"] and msg["name"].endswith(OBSERVED):
            self._seen[msg["name"].removesuffix(OBSERVED)] = dict(msg)

    def postprocess_message(self, msg: dict[str, Any]) -> None:
        if msg["type"] == "sample" and msg["name"] in self.used:
            assigned = self.used[msg["name"]]  # outer handlers may have masked msg["fn"]
            terms = assigned.component_log_probs(msg["value"])
            self._log_weights = jax.nn.log_softmax(terms, -1)

    def check(self) -> None:
        """Raise ValueError if no observed site uses the assignment."""
        if not self.used:
            raise ValueError(
                f"no observed site uses the assignment {self.name!r}: index the components with "
                f"it, for example dist.Normal(loc[{self.name}], scale[{self.name}])"
            )

    @property
    def rows(self) -> tuple[int, ...]:
        """The axes, counted from the right, along which the assignment varies."""
        return row_axes(self.site)

    def _enumerate(self, msg: dict[str, Any]) -> None:
        self.site = dict(msg)
        if not msg["fn"].batch_shape:
            raise ValueError(
                f"site {self.name!r} is one assignment for all data: put it into the plate of the "
                "observations, or of the groups"
            )
        self.labels = self._seen.get(self.name)
        logits = peel(msg["fn"]).logits
        log_weights = jax.nn.log_softmax(logits)
        shared = [axis - 1 for axis in range(-logits.ndim + 1, 0) if axis not in self.rows]
        self._log_weights = log_weights.squeeze(shared)
        if self.labels is not None:
            self._log_weights = jnp.where(*self._allowed())
        msg["value"] = self._all_values()
        if self.grouped and len(self.rows) == 1:
            K = msg["value"].shape[0]
            msg["value"] = indexed(np.arange(K).reshape(msg["value"].shape), self._looked_up)
        msg["stop"] = True

    def _looked_up(self, group: Any) -> jax.Array:
        """The values of the assignment for rows of the groups ``group``, (N,)."""
        if self.group is not None and group is not self.group:
            raise ValueError(
                f"the assignment {self.name!r} is indexed in two ways: index it once, "
                f"mine = {self.name}[group], and use that"
            )
        if group.ndim != 1:
            raise ValueError(
                f"the assignment {self.name!r} is indexed by an array of shape {group.shape}: "
                "index it by the number of each row's group, (N,)"
            )
        self.group = group
        return self._all_values()

    def _allowed(self) -> tuple[Any, Any, Any]:
        """(is this row without a label?, its log weights, those of its label), for jnp.where."""
        assert self.labels is not None
        labels, mask = partial_labels(self.labels, self.site["fn"].batch_shape, self.rows)
        K = self._log_weights.shape[-1]
        certain = jnp.where(labels[..., None] == jnp.arange(K), 0.0, IMPOSSIBLE)
        return ~mask[..., None], self._log_weights, certain

    def _all_values(self) -> jax.Array:
        K = peel(self.site["fn"]).logits.shape[-1]
        return jnp.arange(K).reshape(K, *(1,) * self.nesting)

    def _enumerated(self, batch_shape: tuple[int, ...]) -> bool:
        return len(batch_shape) > self.nesting

    def _assign(self, msg: dict[str, Any]) -> None:
        """Replace the distribution of a site that uses the assignment by its mixture."""
        name, fn = msg["name"], msg["fn"]
        if msg["infer"] and msg["infer"].get("is_auxiliary"):
            raise ValueError(
                f"numpyro.factor {name!r} uses the assignment {self.name!r}: write the term as an "
                "observed site"
            )
        if self.group is not None:
            self._assign_groups(msg)
            return
        plates = {frame.dim for frame in msg["cond_indep_stack"]}
        mine = {frame.dim for frame in self.site["cond_indep_stack"]}
        if not mine <= plates:
            plate = next(f.name for f in self.site["cond_indep_stack"] if f.dim not in plates)
            raise ValueError(
                f"site {name!r} uses {self.name!r} outside of its plate {plate!r}: put the site "
                "into that plate, too (one value per row), or into a plate inside it"
            )
        shape = fn.batch_shape[1:]
        while plates and len(shape) > max(-dim for dim in plates):
            shape = shape[1:]
        self._check_rows(name, shape)
        weighed = self._weighed_inside(name, msg["scale"], shape)
        if declared(msg) and (self.holes or holes_in(msg["value"])):
            fn = Incomplete(fn)
        msg["fn"] = self.used[name] = Assigned(
            self._log_weights, fn, self.rows, shape, None, *weighed
        )

    def _weighed_inside(self, name: str, scale: Any, shape: tuple[int, ...]) -> tuple[Any, Any]:
        """The same as ``_weighed`` for rows in plates inside those of the assignment."""
        whole, rows, axes = self.site["scale"], self.site["fn"].batch_shape, range(-len(shape), 0)
        inside = tuple(a for a in axes if a not in self.rows and shape[a] > 1)
        if scale is not None and inside and (whole is None or _varies(scale, inside)):
            own = jnp.broadcast_to(1.0 if whole is None else whole, rows)
            of_rows = jnp.broadcast_to(jnp.asarray(scale, float), shape)
            total = of_rows.sum(inside, keepdims=True)
            shares = jnp.where(total > 0, own / jnp.where(total > 0, total, 1.0), 0.0)
            powers = jnp.where(own > 0, of_rows / jnp.where(own > 0, own, 1.0), 0.0)
            return powers, shares.reshape([shape[a] for a in axes if a in self.rows])
        if (scale is None) != (whole is None):
            raise ValueError(
                f"handlers.scale covers only one of {self.name!r} and {name!r}: put both inside it"
            )
        return None, None

    def _assign_groups(self, msg: dict[str, Any]) -> None:
        """The same for a site whose rows are of groups that share an assignment."""
        name, fn = msg["name"], msg["fn"]
        N, plates = len(self.group), [frame.dim for frame in msg["cond_indep_stack"]]
        if plates != [-1] or fn.batch_shape[1:] != (N,):
            raise ValueError(
                f"site {name!r} uses {self.name}[group] of {N} rows but has the shape "
                f"{fn.batch_shape[1:]}: put it into one plate of these rows"
            )
        if declared(msg) and (self.holes or holes_in(msg["value"])):
            fn = Incomplete(fn)
        G, K = self.site["fn"].batch_shape[-1], self._log_weights.shape[-1]
        log_weights = jnp.broadcast_to(self._log_weights, (G, K))
        weighed = self._weighed(name, msg["scale"], G)
        msg["fn"] = self.used[name] = Assigned(log_weights, fn, (-1,), (N,), self.group, *weighed)

    def _weighed(self, name: str, scale: Any, G: int) -> tuple[Any, Any]:
        """Powers and shares of the rows (N,) of groups, some of which handlers.scale covers.

        The weight of the assignment is the group's; what a row has beyond it counts the row within
        the group. So a row of weight 2 is one that was seen twice, and a group of weight 2, with
        all of its rows, is a group that was seen twice. NumPyro multiplies what a row is given of
        its group's log density by the row's weight.
        """
        whole = self.site["scale"]
        if scale is None and whole is None:
            return None, None
        if scale is None:
            raise ValueError(
                f"handlers.scale covers the groups of {self.name!r} but not {name!r}: put the rows "
                "inside it, too, with the weight of their group (weight[group])"
            )
        of_rows = jnp.broadcast_to(jnp.asarray(scale, float), self.group.shape)
        of_groups = jnp.broadcast_to(jnp.asarray(1.0 if whole is None else whole, float), (G,))
        own = of_groups[self.group]
        powers = jnp.where(own > 0, of_rows / jnp.where(own > 0, own, 1.0), 0.0)
        total = by_group(of_rows, self.group, G)[self.group]
        return powers, jnp.where(total > 0, own / jnp.where(total > 0, total, 1.0), 0.0)

    def _check_rows(self, name: str, shape: tuple[int, ...]) -> None:
        own = self.site["fn"].batch_shape
        if any(len(shape) < -axis or shape[axis] != own[axis] for axis in self.rows):
            raise ValueError(
                f"site {name!r} has the rows {shape} but the assignment {self.name!r} has {own}: "
                "give both the same plate; observations of a group stand in a plate inside it, or "
                f"index it by their group, {self.name}[group]"
            )


def _varies(value: Any, axes: tuple[int, ...]) -> bool:
    """Whether a value has more than one entry along one of the axes, counted from the right."""
    shape = jnp.shape(value)
    return any(-axis <= len(shape) and shape[axis] > 1 for axis in axes)


def partial_labels(
    site: dict[str, Any], batch_shape: tuple[int, ...], rows: tuple[int, ...]
) -> tuple[jax.Array, jax.Array]:
    """The labels of an assignment with obs_mask, and which rows have one: both (*rows,)."""
    fn, mask = site["fn"], jnp.array(True)
    while not isinstance(fn, dist.CategoricalProbs | dist.CategoricalLogits):
        if isinstance(fn, dist.MaskedDistribution):
            mask = mask & fn._mask
        fn = fn.base_dist
    shape = [batch_shape[axis] for axis in rows]
    return (
        jnp.broadcast_to(site["value"], batch_shape).reshape(shape),
        jnp.broadcast_to(mask, batch_shape).reshape(shape),
    )
