"""The card: what EM's single point hides, held against draws, in numbers and in words.

What does not depend on the clusters' names comes first (log joint, sorted weights, entropy),
because its R-hat is honest as it stands; parameters of single clusters come second, relabelled;
then observations, the calibration of EM's responsibilities, and partitions.

Lives here: `card` and `Card`. Rooms below: `sources` (whose draws, and their names), `numbers`,
`observations` and `partitions` (the tables), `words` (the sentences), `grids`, `text` and `page`
(how it is shown). Does not live here: fitting, relabelling, diagnosing, drawing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bayesmix.card import numbers, words
from bayesmix.card.numbers import Parameter, parameters
from bayesmix.card.observations import calibration_of, observations_of, overconfident_of
from bayesmix.card.page import html_of
from bayesmix.card.partitions import compare
from bayesmix.card.sources import in_its_place, read
from bayesmix.card.text import text_of

if TYPE_CHECKING:
    import pandas as pd

    from bayesmix.partition import Partition

__all__ = ["Card", "Parameter", "card", "parameters"]


@dataclass(frozen=True, eq=False, repr=False)
class Card:
    """EM against draws, for one program and one data set.

    invariant : one row per label-invariant quantity (log joint, sorted weights, entropy).
    parameters : one row per parameter of the posterior, clusters named as in EM. Columns of both:
        map, mean, sd, eti95_lb, eti95_ub, map_in_sd ((map - mean) / sd), r_hat, ess_bulk,
        ess_tail, mcse_mean; laplace_mean, laplace_sd, laplace_eti95_lb, laplace_eti95_ub and the
        same of bootstrap where these were given beside; and unconstrained_mode in `parameters`.
        Data units; log joint and entropy in nats.
    observations : one row per observation: em_cluster, em_prob, posterior_cluster, posterior_prob
        (averaged, of posterior_cluster), same_prob (averaged, of EM's cluster), overconfidence
        (em_prob - same_prob), em_entropy, posterior_entropy (of the averaged responsibilities,
        nats). Rows count once, whatever their weights.
    overconfident : those whose overconfidence exceeds 0.05, the worst first.
    calibration : one row per bin [low, high) of em_prob: observations, em (mean em_prob), posterior
        (mean same_prob), gap.
    partitions : one row per measure ("vi" in bits, "adjusted_rand") and partition ("em", each
        observation where it is most probable; "estimate"): to_estimate, and of the distances to
        the draws mean, mcse, q05, q25, q50, q75, q95.
    partition : the posterior's point estimate of least expected VI.
    trust : one row per part of the answer: trusted, because.
    verdict : sentences, the first is the gist. notes : what to know when reading the numbers.
    """

    invariant: pd.DataFrame
    parameters: pd.DataFrame
    observations: pd.DataFrame
    calibration: pd.DataFrame
    partitions: pd.DataFrame
    partition: Partition
    trust: pd.DataFrame
    verdict: tuple[str, ...]
    notes: tuple[str, ...]
    heading: str
    title: str
    engines: tuple[tuple[str, str], ...]
    relabelling: str
    facts: dict[str, Any]

    @property
    def overconfident(self) -> pd.DataFrame:
        """The observations about which EM is too sure, the worst first."""
        return overconfident_of(self.observations)

    def to_frame(self) -> pd.DataFrame:
        """The numbers of invariant and parameters as one DataFrame, by (kind, quantity)."""
        import pandas as pd

        tables = {"label-invariant": self.invariant, self.facts["kind"]: self.parameters}
        return pd.concat(tables, names=["kind", "quantity"])

    def to_text(self, width: int = 98, rows: int = 30) -> str:
        """The card as plain text; at most `rows` parameters and 5 observations are listed."""
        return "\n".join(text_of(self, width, rows))

    def to_html(self) -> str:
        """The card as one self-contained HTML fragment: own style, no script, no network."""
        return "".join(html_of(self))

    def __str__(self) -> str:
        return self.to_text()

    def __repr__(self) -> str:
        return self.to_text()

    def _repr_html_(self) -> str:
        return self.to_html()


def card(em: Any, *results: Any) -> Card:
    """Compare EM's result with draws for the same program and data.

    em : EMResult. results : of NUTS, SMC, `em.laplace` and `em.bootstrap`, in any order, one of
    a kind. EM is held against NUTS where it is given, else SMC, else Laplace (an answer at once),
    else the bootstrap; the others get columns beside. Where Laplace would be the answer and its
    k-hat says that it is none, NUTS is run from EM's modes and takes its place. Draws are
    relabelled here, and clusters get the names they have in EM; Laplace draws are taken by their
    importance weights. Partitions come from one assignment per draw, with a fixed key: the card
    depends on the results alone.

    Raises ValueError when two results do not answer the same question (another program, other data,
    another number of clusters), and when there are fewer than 4 draws per chain.
    """
    import pandas as pd

    sources = read(em, [*results, *in_its_place(em, results)])
    first = sources[0]
    observations = observations_of(em, first.resp)
    tables = {
        "invariant": numbers.invariant_table(em, sources),
        "parameters": numbers.parameter_table(em, sources),
        "observations": observations,
        "calibration": calibration_of(observations),
    }
    compared = compare(em, first)
    facts = words.facts_of(em, sources, tables) | compared.facts
    return Card(
        **tables,
        partitions=compared.table,
        partition=compared.estimate,
        trust=pd.DataFrame(words.parts(facts)).set_index("name").rename_axis("part"),
        verdict=tuple(words.verdict(facts)),
        notes=tuple(words.notes(em, sources, tables, facts)),
        heading=f"EM against {first.kind}",
        title=words.title_of(em.mixture),
        engines=(
            ("EM", words.em_line(em)),
            *((each.kind, words.source_line(each, facts)) for each in sources),
        ),
        relabelling=words.relabelling_line(facts),
        facts=facts,
    )
