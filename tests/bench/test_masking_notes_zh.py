"""The made-up Chinese notes are marked rightly, and the rules reach their targets on them."""

from collections import Counter

import pytest

from bench.masking_notes_zh import DEV, TEST, notes
from privacy.masking.config import ENTITY_TYPES
from privacy.masking.recognisers import find

NOT_CHINESE = {"IBAN", "SORT_CODE", "SSN", "SWIFT"}


def test_the_same_seed_makes_the_same_notes_and_another_makes_others() -> None:
    assert list(notes(20, 1)) == list(notes(20, 1))
    assert list(notes(20, 1)) != list(notes(20, 2))


@pytest.mark.parametrize("templates", [DEV, TEST])
def test_every_type_is_marked_and_no_slot_is_left(templates: tuple[str, ...]) -> None:
    seen = set()
    for text, spans in notes(4 * len(templates), 3, templates=templates):
        assert "{" not in text
        end = 0
        for start, stop, kind in spans:
            assert end <= start < stop <= len(text)
            seen.add(kind)
            end = stop
    assert set(ENTITY_TYPES) - seen <= NOT_CHINESE | {"URL"}


def test_rules_were_developed_on_other_sentences_than_they_are_measured_on() -> None:
    dev = {sentence for text in DEV for sentence in text.split("。") if len(sentence) > 6}
    assert not dev & {sentence for text in TEST for sentence in text.split("。")}


def test_names_and_numbers_in_notes_are_found_to_the_share_that_the_documents_tell() -> None:
    there: Counter[str] = Counter()
    found: Counter[str] = Counter()
    for text, spans in notes(192, 11):
        masked = {
            place
            for span in find(text, ENTITY_TYPES, ("zh",))
            for place in range(span.start, span.end)
        }
        for start, stop, kind in spans:
            there[kind] += stop - start
            found[kind] += len(masked.intersection(range(start, stop)))
    assert found["PERSON"] >= 0.95 * there["PERSON"]
    for kind in set(there) - {"PERSON"}:
        assert found[kind] >= 0.995 * there[kind], kind
