"""A masking configuration is never silently empty."""

import pytest

from privacy.masking.config import ENTITY_TYPES, MaskingConfig
from privacy.masking.recognisers import EVERY_LANGUAGE, LANGUAGE_RULES


@pytest.mark.parametrize(
    "entity_types", [(), ("NAME",), ("SSN", "DATE"), ("DATE", "DATE"), ("date",)]
)
def test_types_that_no_rule_covers_or_in_another_order_are_refused(
    entity_types: tuple[str, ...],
) -> None:
    with pytest.raises(ValueError, match="entity_types"):
        MaskingConfig(entity_types=entity_types)


@pytest.mark.parametrize("languages", [(), ("fr",), ("zh", "en"), ("en", "en")])
def test_languages_without_rules_or_in_another_order_are_refused(
    languages: tuple[str, ...],
) -> None:
    with pytest.raises(ValueError, match="languages"):
        MaskingConfig(languages=languages)


def test_every_type_has_a_rule_in_english() -> None:
    assert set(EVERY_LANGUAGE) | set(LANGUAGE_RULES["en"]) == set(ENTITY_TYPES)
