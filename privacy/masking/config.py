"""Which personal data a run masks: part of the plan, so every site masks alike."""

from dataclasses import dataclass

ENTITY_TYPES = (
    "ACCOUNT_NUMBER",
    "AGE",
    "CREDIT_CARD",
    "CUSTOMER_ID",
    "CVV",
    "DATE",
    "DEVICE_ID",
    "EMAIL",
    "HEALTH_PLAN_NUMBER",
    "IBAN",
    "IP_ADDRESS",
    "LICENCE_NUMBER",
    "LOCATION",
    "PASSPORT",
    "PASSWORD",
    "PERSON",
    "PHONE",
    "RECORD_NUMBER",
    "RESIDENT_ID",
    "ROUTING_NUMBER",
    "SOCIAL_CREDIT_CODE",
    "SORT_CODE",
    "SSN",
    "SWIFT",
    "URL",
    "VEHICLE",
)
LANGUAGES = ("en", "zh")
MODES = ("placeholder", "surrogate", "redact")


@dataclass(frozen=True, kw_only=True, slots=True)
class MaskingConfig:
    """The recognisers of a run.

    Attributes:
      languages: Whose rules are applied to every text, from `LANGUAGES` in alphabetical order.
      entity_types: What is masked, a subset of `ENTITY_TYPES` in alphabetical order.
      mode: What stands in a span's place: `placeholder` its type, `[PERSON]`; `surrogate` a value
        of the type that is made up, the same for the same value inside a site; `redact` nothing
        but `[...]`.
      recall_floor: Least share of the planted canaries of each type that a site must find before
        it trains, in (0, 1].
      max_over_masking: Largest share of clean sentences in which it may mask something, in
        [0, 1); at 1 a site that masks everything would pass.
    """

    languages: tuple[str, ...] = ("en",)
    entity_types: tuple[str, ...] = ENTITY_TYPES
    mode: str = "placeholder"
    recall_floor: float = 0.9
    max_over_masking: float = 0.1

    def __post_init__(self) -> None:
        """Refuse what no recogniser covers: masking must never be silently empty."""
        _check_names("languages", self.languages, LANGUAGES)
        _check_names("entity_types", self.entity_types, ENTITY_TYPES)
        if self.mode not in MODES:
            raise ValueError(f"expected mode from {', '.join(MODES)}, got {self.mode!r}")
        if not 0 < self.recall_floor <= 1:
            raise ValueError(f"expected recall_floor in (0, 1], got {self.recall_floor}")
        if not 0 <= self.max_over_masking < 1:
            raise ValueError(f"expected max_over_masking in [0, 1), got {self.max_over_masking}")


def _check_names(field: str, names: tuple[str, ...], known: tuple[str, ...]) -> None:
    if not names or set(names) - set(known):
        raise ValueError(f"expected {field} from {', '.join(known)}, got {list(names)}")
    if list(names) != sorted(set(names)):
        raise ValueError(f"expected {field} sorted and without repeats, got {list(names)}")
