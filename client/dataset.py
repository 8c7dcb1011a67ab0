"""From a site's records to token ids: the raw record's one door."""

from dataclasses import dataclass

from model.tokenizer import Example


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenizedUnit:
    """All training examples of one unit; they are clipped together.

    Attributes:
      unit_id: The site's own identifier. It never leaves the site.
      examples: Masked and tokenised records, at least one.
    """

    unit_id: str
    examples: tuple[Example, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class LabelledUnit:
    """A held-out record, masked, as text.

    Attributes:
      unit_id: The unit that it belongs to; a unit with several records stands here several times.
      prompt: Masked text, without the plan's template.
      answer: What the plan learns, `label` or `completion`, masked.
      label: The record's label, masked.
    """

    unit_id: str
    prompt: str
    answer: str
    label: str


@dataclass(frozen=True, kw_only=True, slots=True)
class MaskingStats:
    """What masking did. Counts depend on records: they stay at the site.

    Attributes:
      num_records: Records read.
      num_masked: Number of spans replaced, by entity type; every type of the plan is a key.
    """

    num_records: int
    num_masked: dict[str, int]


@dataclass(frozen=True, kw_only=True, slots=True)
class SiteDataset:
    """What training and evaluation see of a site's records.

    Attributes:
      train: Units to train on, by `unit_id`.
      held_out: Records of the other units, about one unit in five.
      labels: Label candidates: the labels seen in training, sorted.
      masking: What masking did.
    """

    train: tuple[TokenizedUnit, ...]
    held_out: tuple[LabelledUnit, ...]
    labels: tuple[str, ...]
    masking: MaskingStats

    @property
    def num_units(self) -> int:
        """True number of training units; it stays here, `data.num_units` is what was declared."""
        return len(self.train)
