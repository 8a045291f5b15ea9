"""The EM-against-NUTS card: what EM's single point hides, in numbers and in words.

What does not depend on the clusters' names comes first (log joint, sorted weights, entropy),
because its R-hat is honest as it stands; parameters of single clusters come second, relabelled.

Lives here: `card` and `Card`; `numbers` has the tables, `words` the sentences, `text` and `page`
show them. Does not live here: fitting, relabelling, drawing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bayesmix.card import numbers, words
from bayesmix.card.numbers import Parameter, parameters
from bayesmix.card.page import html_of
from bayesmix.card.text import text_of

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Card", "Parameter", "card", "parameters"]


@dataclass(frozen=True, eq=False, repr=False)
class Card:
    """EM against NUTS, for one program and one data set.

    invariant : one row per label-invariant quantity (log joint, sorted weights, entropy).
    parameters : one row per parameter of the posterior, clusters named as in EM. Columns of both:
        map, mean, sd, eti95_lb, eti95_ub, map_in_sd ((map - mean) / sd), r_hat, ess_bulk,
        ess_tail, mcse_mean; and unconstrained_mode in `parameters`. Data units; log joint and
        entropy in nats.
    observations : one row per observation: em_cluster, em_prob, nuts_cluster, nuts_prob (posterior
        averaged, of nuts_cluster), same_prob (posterior-averaged, of EM's cluster), overconfidence
        (em_prob - same_prob), em_entropy, nuts_entropy (of the averaged responsibilities, nats).
    verdict : sentences, the first is the gist. notes : what to know when reading the numbers.
    """

    invariant: pd.DataFrame
    parameters: pd.DataFrame
    observations: pd.DataFrame
    verdict: tuple[str, ...]
    notes: tuple[str, ...]
    title: str
    engines: tuple[tuple[str, str], ...]
    relabelling: str
    facts: dict[str, Any]

    def to_frame(self) -> pd.DataFrame:
        """The numbers of both tables as one DataFrame, indexed by (kind, quantity)."""
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


def card(em: Any, nuts: Any) -> Card:
    """Compare EM's result with NUTS's, for the same program and data.

    em : EMResult. nuts : NUTSResult; its draws are relabelled here, and clusters get the names
    they have in EM. Raises ValueError when the two do not answer the same question (another
    program, other data, another number of clusters).
    """
    numbers.check_same_question(em, nuts)
    tree = nuts.to_datatree()
    aligned = numbers.aligned(em, nuts, tree)
    rows = list(numbers.rows_of(em, aligned.draws))
    invariant = numbers.table_of(numbers.invariant_rows(em, em.to_datatree(), tree))
    table = numbers.table_of((row.label, row.point, row.draws) for row in rows)
    table["unconstrained_mode"] = numbers.unconstrained(em, rows)
    observations = numbers.observations_of(em, aligned.resp)
    facts = words.facts_of(em, nuts, invariant, table, observations)
    facts |= {"renamed": aligned.renamed, "pivot": aligned.pivot}
    facts |= {"higher": numbers.higher(em, tree)}
    return Card(
        invariant=invariant,
        parameters=table,
        observations=observations,
        verdict=tuple(words.verdict(facts)),
        notes=tuple(words.notes(em, nuts, facts)),
        title=words.title_of(em.mixture),
        engines=(("EM", words.em_line(em)), ("NUTS", words.nuts_line(nuts, facts))),
        relabelling=words.relabelling_line(facts),
        facts=facts,
    )
