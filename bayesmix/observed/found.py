"""What is known of the observed side besides its arrays."""

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Part:
    """One observed site of a mixture.

    components : its distributions, one per family. event_dim : axes of one row's value, those of
    plates inside the row first. lead : the cluster axis of its parameters.
    """

    name: str
    site: dict[str, Any]
    components: tuple[Any, ...]
    event_dim: int
    lead: int


@dataclass
class Found:
    """Static facts noted while the program ran.

    ``assignment`` is the site that was summed out, or None; ``by_row`` says that weights, masks or
    a component's parameters differ by row, ``masked`` that a mask lies on components; ``row_dims``
    are the names of the rows' axes; ``holes`` says that some of the data are NaN.
    """

    latent: dict[str, dict[str, Any]] = field(default_factory=dict)
    parts: tuple[Part, ...] = ()
    K: int = 0
    assignment: str | None = None
    by_row: bool = False
    masked: bool = False
    row_dims: tuple[str, ...] = ()
    holes: bool = False

    @property
    def general(self) -> bool:
        """Whether the clusters are of families of their own (MixtureGeneral)."""
        return len(self.parts[0].components) > 1
