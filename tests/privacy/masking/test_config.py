"""A masking configuration is never silently empty."""

import pytest

from privacy.masking.config import ENTITY_TYPES, MaskingConfig
from privacy.masking.recognisers import RULES


@pytest.mark.parametrize(
    "entity_types", [(), ("PERSON",), ("SSN", "DATE"), ("DATE", "DATE"), ("date",)]
)
def test_types_that_no_rule_covers_or_in_another_order_are_refused(
    entity_types: tuple[str, ...],
) -> None:
    with pytest.raises(ValueError, match="entity_types"):
        MaskingConfig(entity_types=entity_types)


def test_another_language_is_refused() -> None:
    with pytest.raises(ValueError, match="'en'"):
        MaskingConfig(language="zh")


def test_every_type_has_a_rule() -> None:
    assert set(RULES) == set(ENTITY_TYPES)
