"""A reward's card: what is known of it before its weights are loaded.

Each file of rewards declares one `Card` for each version. Licences, size estimates, the keys of
`config.weights` and the tables of docs/rewards.md are made from the cards.
"""

import dataclasses

from miro_jax.pretrained.card import NetworkCard

UNKNOWN = "unknown"


@dataclasses.dataclass(frozen=True)
class Licence:
    """The licence of one file or repository of weights.

    Only a licence that is published with the files counts; the licence of the code beside them is
    no licence of the weights. This helps to choose rewards and is no legal advice.

    Attributes:
      weights: hub id or file. name: of the licence, or UNKNOWN.
      commercial: whether it allows commercial use, None if that is unknown.
      note: where this comes from, or what is known.
    """

    weights: str
    name: str
    commercial: bool | None
    note: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Card(NetworkCard):
    """One version of a published reward.

    Attributes:
      version: of the reward.
      judges: what it judges, for the table.
      licences: of all weights that it loads.
      scale: the raw scale, in words.
      stored_offset, stored_divisor: the stored scale is (score + offset) / divisor.
      preprocessing: how images are brought to the network's size, in words.
      needs_caption: False if the score does not depend on the caption.
      synthetic_form: "long" or "short": which synthetic caption it judges.
    """

    version: str
    judges: str
    licences: tuple[Licence, ...]
    scale: str
    stored_offset: float = 0
    stored_divisor: float = 1
    preprocessing: str
    needs_caption: bool = True
    synthetic_form: str = "short"

    @property
    def identity(self) -> str:
        """`name@version`."""
        return f"{self.name}@{self.version}"

    @property
    def stored(self) -> str:
        """The stored scale, as a formula."""
        score = f"(score + {self.stored_offset:g})" if self.stored_offset else "score"
        return score if self.stored_divisor == 1 else f"{score} / {self.stored_divisor:g}"

    def why_not_commercial(self) -> str:
        """Return why the weights are not known to allow commercial use; "" if they do allow it."""
        for licence in self.licences:
            if licence.commercial is False:
                return f"{licence.name} of {licence.weights} forbids commercial use"
            if licence.commercial is None:
                return f"the licence of {licence.weights} is unknown: {licence.note}"
        return ""
