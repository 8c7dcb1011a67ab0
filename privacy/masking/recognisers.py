"""Everything that the rules of the chosen languages find in a text.

Where a rule must choose, it masks: a needless `[DATE]` costs a little meaning, a missed one a
person's privacy.
"""

from collections.abc import Sequence

from privacy.masking import chinese, english, formats
from privacy.masking.mask import Span
from privacy.masking.patterns import Rules
from privacy.masking.plain import plain

# What stands in every language, and what each adds.
EVERY_LANGUAGE: Rules = formats.RULES
LANGUAGE_RULES: dict[str, Rules] = {"en": english.RULES, "zh": chinese.RULES}


def find(text: str, entity_types: Sequence[str], languages: Sequence[str] = ("en",)) -> list[Span]:
    """Every place in `text` that looks like one of `entity_types`; places may overlap.

    Raises:
      KeyError: There are no rules for a language.
    """
    rules = [EVERY_LANGUAGE, *(LANGUAGE_RULES[language] for language in languages)]
    readable, positions = plain(text)
    return [
        Span(positions[start], positions[end - 1] + 1, entity_type, score)
        for of_language in rules
        for entity_type in entity_types
        for score, finder in of_language.get(entity_type, ())
        for start, end in finder(readable)
    ]
