"""What personal data looks like in English text."""

from collections.abc import Iterator

from privacy.masking.english import codes, dates, elsewhere, structured
from privacy.masking.english.names import find_names
from privacy.masking.english.places import addresses
from privacy.masking.patterns import Place, Rules


def _persons(text: str) -> Iterator[Place]:
    return iter(find_names(text)[0])


def _places(text: str) -> Iterator[Place]:
    return iter(find_names(text)[1])


def _together(*parts: Rules) -> Rules:
    kinds = {kind for part in parts for kind in part}
    return {kind: tuple(rule for part in parts for rule in part.get(kind, ())) for kind in kinds}


RULES: Rules = {
    **_together(structured.RULES, codes.RULES, dates.RULES, elsewhere.RULES),
    "LOCATION": ((0.6, addresses), (0.4, _places)),
    "PERSON": ((0.4, _persons),),
}
