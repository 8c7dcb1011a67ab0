"""The rules for Chinese text, type by type."""

from privacy.masking.chinese import cues, dates, names, numbers, places
from privacy.masking.patterns import Finder, Rules


def _together(*parts: Rules) -> Rules:
    together: dict[str, tuple[tuple[float, Finder], ...]] = {}
    for part in parts:
        for entity_type, finders in part.items():
            together[entity_type] = together.get(entity_type, ()) + finders
    return together


RULES = _together(numbers.RULES, cues.RULES, dates.RULES, names.RULES, places.RULES)
