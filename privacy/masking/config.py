"""Which personal data a run masks: part of the plan, so every site masks alike."""

from dataclasses import dataclass

ENTITY_TYPES = (
    "CREDIT_CARD",
    "DATE",
    "EMAIL",
    "IBAN",
    "IP_ADDRESS",
    "PHONE",
    "RECORD_NUMBER",
    "SSN",
    "URL",
)


@dataclass(frozen=True, kw_only=True, slots=True)
class MaskingConfig:
    """The recognisers of a run.

    Attributes:
      language: Language of the patterns, `en`.
      entity_types: What is masked, a subset of `ENTITY_TYPES` in alphabetical order; each span
        becomes `[TYPE]`.
    """

    language: str = "en"
    entity_types: tuple[str, ...] = ENTITY_TYPES

    def __post_init__(self) -> None:
        """Refuse what no recogniser covers: masking must never be silently empty."""
        if self.language != "en":
            raise ValueError(f"expected language 'en', got {self.language!r}")
        unknown = sorted(set(self.entity_types) - set(ENTITY_TYPES))
        if unknown or not self.entity_types:
            raise ValueError(
                f"expected entity_types from {', '.join(ENTITY_TYPES)}, "
                f"got {list(self.entity_types)}"
            )
        if list(self.entity_types) != sorted(set(self.entity_types)):
            raise ValueError("expected entity_types sorted and without repeats")
