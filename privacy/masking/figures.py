"""What a site says of its masking: recall of planted values, and how much is masked needlessly.

Both are counts of the same planted sentences at every site, so they may leave it. Shares are given
with their Wilson interval (E. B. Wilson, 1927): of 40 found in 40, the truth may still be 91 %.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from privacy.masking.config import ENTITY_TYPES, LANGUAGES

# Of the standard normal distribution: 95 % lie within.
_Z = 1.959963984540054
_MOST = 1_000_000
OWN = "own"


@dataclass(frozen=True, slots=True, order=True)
class Recall:
    """How many values of a type were masked whole.

    Attributes:
      entity_type: The type.
      source: A language, or `OWN`.
      num_planted: How many there were.
      num_found: How many of them were masked whole, under whatever type, and are gone.
      num_typed: How many of those under their own type, all of them.
    """

    entity_type: str
    source: str
    num_planted: int
    num_found: int
    num_typed: int

    @property
    def share(self) -> float:
        """Recall, the best guess."""
        return self.num_found / self.num_planted

    @property
    def interval(self) -> tuple[float, float]:
        """Where the true share lies, with 95 % confidence."""
        return wilson(self.num_found, self.num_planted)

    def as_list(self) -> list[object]:
        """As it stands in the log."""
        return [
            self.entity_type, self.source, self.num_planted, self.num_found, self.num_typed
        ]  # fmt: skip


@dataclass(frozen=True, slots=True, order=True)
class OverMasking:
    """In how many sentences without personal data something was masked.

    Attributes:
      source: A language, or `OWN`.
      num_clean: How many such sentences there were.
      num_masked: In how many of them something was masked.
    """

    source: str
    num_clean: int
    num_masked: int

    @property
    def share(self) -> float:
        """Over-masking, the best guess."""
        return self.num_masked / self.num_clean

    @property
    def interval(self) -> tuple[float, float]:
        """Where the true share lies, with 95 % confidence."""
        return wilson(self.num_masked, self.num_clean)

    def as_list(self) -> list[object]:
        """As it stands in the log."""
        return [self.source, self.num_clean, self.num_masked]


def wilson(num_found: int, num_planted: int) -> tuple[float, float]:
    """The 95 % score interval of a share, without continuity correction.

    Source: Wilson 1927; method 3 of Newcombe 1998.

    Raises:
      ValueError: More were found than there are, or there are none.
    """
    if not 0 <= num_found <= num_planted or num_planted == 0:
        raise ValueError(f"expected 0 to {num_planted} of at least one, got {num_found}")
    share, n = num_found / num_planted, num_planted
    middle = share + _Z * _Z / (2 * n)
    half = _Z * math.sqrt(share * (1 - share) / n + _Z * _Z / (4 * n * n))
    whole = 1 + _Z * _Z / n
    low = 0.0 if num_found == 0 else (middle - half) / whole
    high = 1.0 if num_found == n else (middle + half) / whole
    return low, high


def is_recall(row: object) -> bool:
    """Whether `row` is `[entity type, language, planted, found, found as that type]`."""
    return (
        isinstance(row, list)
        and len(row) == 5
        and row[0] in ENTITY_TYPES
        and row[1] in LANGUAGES
        and all(type(count) is int for count in row[2:])
        and 0 <= row[4] <= row[3] <= row[2] <= _MOST
        and row[2] > 0
    )


def is_over_masking(row: object) -> bool:
    """Whether `row` is `[language, clean sentences, of them masked]`, as the log holds it."""
    return (
        isinstance(row, list)
        and len(row) == 3
        and row[0] in LANGUAGES
        and all(type(count) is int for count in row[1:])
        and 0 <= row[2] <= row[1] <= _MOST
        and row[1] > 0
    )


def parse_recalls(rows: Iterable[Sequence[object]]) -> list[Recall]:
    """Recalls as the log has them.

    Raises:
      ValueError: A row is none.
    """
    recalls = []
    for row in rows:
        if not is_recall(row):
            raise ValueError("expected [entity type, language, planted, found, found as it]")
        planted, found, typed = (int(str(count)) for count in row[2:])
        recalls.append(Recall(str(row[0]), str(row[1]), planted, found, typed))
    return recalls


def parse_over_masking(rows: Iterable[Sequence[object]]) -> list[OverMasking]:
    """Figures of over-masking as the log has them.

    Raises:
      ValueError: A row is none.
    """
    figures = []
    for row in rows:
        if not is_over_masking(row):
            raise ValueError("expected [language, clean sentences, of them masked]")
        num_clean, num_masked = (int(str(count)) for count in row[1:])
        figures.append(OverMasking(str(row[0]), num_clean, num_masked))
    return figures
