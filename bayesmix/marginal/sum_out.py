"""The run of a program with every value of its assignment at once.

Each site that uses the assignment becomes an ``Assigned`` mixture; uses that have no such sum are
refused here.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpyro.primitives import Messenger

from bayesmix.groups import indexed
from bayesmix.marginal.assigned import Assigned
from bayesmix.marginal.assignment import OBSERVED, own_name, partial_labels, row_axes
from bayesmix.marginal.powers import powers_in_groups, powers_inside
from bayesmix.missing import Incomplete, declared, holes_in
from bayesmix.parameters import peel

IMPOSSIBLE = -1e30  # log weight of a cluster that a row's label rules out


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
        self.name = own_name(site_name)
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
        weighed = powers_inside(self.site, msg, shape)
        if declared(msg) and (self.holes or holes_in(msg["value"])):
            fn = Incomplete(fn)
        msg["fn"] = self.used[name] = Assigned(
            self._log_weights, fn, self.rows, shape, None, *weighed
        )

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
        weighed = powers_in_groups(self.site, msg, self.group)
        msg["fn"] = self.used[name] = Assigned(log_weights, fn, (-1,), (N,), self.group, *weighed)

    def _check_rows(self, name: str, shape: tuple[int, ...]) -> None:
        own = self.site["fn"].batch_shape
        if any(len(shape) < -axis or shape[axis] != own[axis] for axis in self.rows):
            raise ValueError(
                f"site {name!r} has the rows {shape} but the assignment {self.name!r} has {own}: "
                "give both the same plate; observations of a group stand in a plate inside it, or "
                f"index it by their group, {self.name}[group]"
            )
