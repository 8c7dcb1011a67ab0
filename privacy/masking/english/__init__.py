"""What personal data looks like in English text."""

from collections.abc import Iterator

from privacy.masking.english import codes, structured
from privacy.masking.english.names import find_names
from privacy.masking.english.places import addresses
from privacy.masking.patterns import Place, Rules


def _persons(text: str) -> Iterator[Place]:
    return iter(find_names(text)[0])


def _places(text: str) -> Iterator[Place]:
    return iter(find_names(text)[1])


RULES: Rules = {
    **structured.RULES,
    **{kind: (*structured.RULES.get(kind, ()), *rules) for kind, rules in codes.RULES.items()},
    "LOCATION": ((0.6, addresses), (0.4, _places)),
    "PERSON": ((0.4, _persons),),
}
