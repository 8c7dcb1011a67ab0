"""Personal data of every type, drawn anew for each run, in notes that hold it.

Values come from the generators of made-up notes in `bench`, in English and Chinese. A type that
one language has not got stands in a sentence of it all the same, so each type is planted in both.
The seed is another one each time; whoever sees a failure draws the same values with
`CLOISTER_PLANT_SEED`.
"""

import os
import secrets
import string
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from tokenizers import Tokenizer

from bench import masking_notes_en, masking_notes_zh
from privacy.masking.config import ENTITY_TYPES
from tests.e2e import probe

LANGUAGES = ("en", "zh")
SEED_VARIABLE = "CLOISTER_PLANT_SEED"
_Notes = Iterator[tuple[str, tuple[tuple[int, int, str], ...]]]
_NOTES: Mapping[str, Callable[[int, int], _Notes]] = {
    "en": masking_notes_en.notes,
    "zh": masking_notes_zh.notes,
}
_FOREIGN = {"en": "The file of today says {} and no more.", "zh": "资料里写着 {} 这一项，请核对。"}
# A value that could stand somewhere by chance is looked for together with what is around it: among
# the digits of a log there are many of six, and many words of five letters in its base64.
_MIN_BITS = 44.0
_DIGIT_BITS, _OTHER_BITS = 3.3, 6.0
_MIN_TOKENS = 5
_NUM_NOTES = 80


@dataclass(frozen=True, kw_only=True)
class Planted:
    """A note, and one value in it.

    Attributes:
      language: Of the note.
      entity_type: Of the value.
      note: The text that a record holds.
      start: Where the value begins.
      end: Where it ends.
    """

    language: str
    entity_type: str
    note: str
    start: int
    end: int

    @property
    def value(self) -> str:
        """The value alone."""
        return self.note[self.start : self.end]

    @property
    def said(self) -> str:
        """The value, with as much around it as makes it unlike anything else."""
        start, end = self.start, self.end
        while _bits(self.note[start:end]) < _MIN_BITS:
            start, end = max(0, start - 1), min(len(self.note), end + 1)
        return self.note[start:end]

    def needles(self, tokenizer: Tokenizer) -> dict[str, bytes]:
        """The value in every form, as text and as the token ids that the note has there."""
        found = probe.disguises(self.said) | probe.token_bytes(self._ids(tokenizer))
        return {
            f"{self.entity_type} ({self.language}) {self.said!r}, {form}": needle
            for form, needle in found.items()
        }

    def _ids(self, tokenizer: Tokenizer) -> list[int]:
        """Its token ids; neighbours are among them where it has few."""
        encoded = tokenizer.encode(self.note, add_special_tokens=False)
        inside = [
            place
            for place, (start, end) in enumerate(encoded.offsets)
            if start < self.end and end > self.start
        ]
        first, last = inside[0], inside[-1]
        while last - first + 1 < _MIN_TOKENS:
            first, last = max(0, first - 1), min(len(encoded.ids) - 1, last + 1)
        return list(encoded.ids[first : last + 1])


def draw_seed() -> int:
    """The seed of this run."""
    return int(os.environ.get(SEED_VARIABLE) or secrets.randbelow(2**31))


def draw(seed: int) -> list[Planted]:
    """Values of every type in both languages, each the first of its note that was not taken."""
    found = [value for language in LANGUAGES for value in _native(language, seed)]
    for language, sentence in _FOREIGN.items():
        there = {value.entity_type for value in found if value.language == language}
        for value in [v for v in found if v.language != language]:
            if value.entity_type not in there:
                there.add(value.entity_type)
                start = sentence.index("{}")
                found.append(
                    Planted(
                        language=language,
                        entity_type=value.entity_type,
                        note=sentence.format(value.value),
                        start=start,
                        end=start + len(value.value),
                    )
                )
    return found


def _native(language: str, seed: int) -> Iterator[Planted]:
    """One value of each type that the language's notes have."""
    left = set(ENTITY_TYPES)
    for note, spans in _NOTES[language](_NUM_NOTES, seed):
        for start, end, entity_type in spans:
            if entity_type in left:
                left.remove(entity_type)
                yield Planted(
                    language=language, entity_type=entity_type, note=note, start=start, end=end
                )


def into(records: Sequence[dict[str, str]], values: Sequence[Planted]) -> list[dict[str, str]]:
    """The records, with a note of the values by turns after each prompt and completion."""
    notes = list(dict.fromkeys(value.note for value in values))
    if len(notes) > len(records):
        raise ValueError(f"expected at least {len(notes)} records, got {len(records)}")
    return [
        record
        | {key: f"{record[key]}\n{notes[number % len(notes)]}" for key in ("prompt", "completion")}
        for number, record in enumerate(records)
    ]


def _bits(text: str) -> float:
    """How unlikely it is that a text stands somewhere by chance, roughly."""
    return sum(_DIGIT_BITS if letter in string.digits else _OTHER_BITS for letter in text)
