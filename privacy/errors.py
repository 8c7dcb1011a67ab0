"""Errors a caller may want to catch.

FederationError
├── ConfigError            a file or a plan says something impossible
│   └── OwnNotesError      masking falls short on the site's own labelled notes
├── PlanRefusedError       this site's policy does not allow the plan
├── RuleError              a rule of the institution's door was broken
│   ├── InstructionRefusedError   an instruction does not fit an approved plan
│   └── ReplyRefusedError         a reply does not fit the plan and may not leave the site
├── BudgetExceededError    the next release would spend more than the site allows
├── MaskingError           personal data may still be present
│   ├── RecallError        too few of the planted examples are found
│   └── OverMaskingError   something is masked in too many sentences without personal data
├── TrainingError          private training cannot start or did not end
├── TransportError         the other side cannot be reached
├── WireError              a message is malformed, replayed or from the wrong party
└── VerificationError      a signature, proof or digest does not check out
    └── TamperError        a log does not hash to its signed tree head

A message says what was expected and what came, in lower case, and never carries the text of a
record. `hint` says what the reader can do next.
"""


class FederationError(Exception):
    """Something an operator can act on.

    Attributes:
      hint: What to do next, one sentence in lower case, or an empty string.
    """

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


class ConfigError(FederationError):
    """A file or a plan says something impossible."""


class OwnNotesError(ConfigError):
    """Masking falls short on the site's own labelled notes.

    What it says follows from records: it is for a person at the site, never for a log, and its
    name is no rule that a refusal may give.
    """


class PlanRefusedError(FederationError):
    """This site's policy does not allow the plan."""


class RuleError(FederationError):
    """A rule of the door was broken.

    Attributes:
      rule: Short name of the rule, the only thing that is told to the other side.
    """

    def __init__(self, rule: str, message: str, *, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.rule = rule


class InstructionRefusedError(RuleError):
    """An instruction does not fit an approved plan."""


class ReplyRefusedError(RuleError):
    """A reply does not fit the plan and may not leave the site."""


class BudgetExceededError(FederationError):
    """The next release would spend more than the site allows.

    Attributes:
      spent: Epsilon of everything released so far.
      asked: What it would become; may be infinite.
      budget: What the site allows.
    """

    def __init__(
        self,
        message: str,
        *,
        hint: str = "",
        spent: float = 0.0,
        asked: float = 0.0,
        budget: float = 0.0,
    ) -> None:
        super().__init__(message, hint=hint)
        self.spent = spent
        self.asked = asked
        self.budget = budget


class MaskingError(FederationError):
    """Personal data may still be present."""


class RecallError(MaskingError):
    """Too few of the planted examples are found."""


class OverMaskingError(MaskingError):
    """Something is masked in too many sentences without personal data: little would be learnt."""


class TrainingError(FederationError):
    """Private training cannot start or did not end."""


class TransportError(FederationError):
    """The other side cannot be reached."""


class WireError(FederationError):
    """A message is malformed, replayed or from the wrong party."""


class VerificationError(FederationError):
    """A signature, proof or digest does not check out.

    Attributes:
      entry: Number of the first wrong entry of a log, or None where no single entry is to blame.
    """

    def __init__(self, message: str, *, hint: str = "", entry: int | None = None) -> None:
        super().__init__(message, hint=hint)
        self.entry = entry


class TamperError(VerificationError):
    """A log does not hash to its signed tree head."""
