"""Recall on planted examples: right statistics, one signed set, and a gate that holds."""

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from privacy.errors import ConfigError, MaskingError
from privacy.masking import canaries
from privacy.masking.canaries import (
    OWN,
    LabelledNote,
    Recall,
    check_recall,
    is_recall,
    measure,
    parse_recalls,
    planted,
    read_notes,
    set_digest,
    summary,
    wilson,
)
from privacy.masking.checksums import iban_holds, luhn_holds
from privacy.masking.config import ENTITY_TYPES, LANGUAGES
from privacy.masking.mask import Span
from privacy.masking.planted import chinese, english

SECRET = "Erika Mustermann"  # noqa: S105 - stands for the text of a record


# R. G. Newcombe, "Two-sided confidence intervals for the single proportion", Statistics in
# Medicine 17 (1998), table I, method 3.
@pytest.mark.parametrize(
    ("num_found", "num_planted", "low", "high"),
    [
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0000, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_intervals_are_the_published_ones(
    num_found: int, num_planted: int, low: float, high: float
) -> None:
    assert wilson(num_found, num_planted) == pytest.approx((low, high), abs=5e-5)


@given(st.integers(1, 10**6).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_an_interval_holds_its_share_and_mirrors(case: tuple[int, int]) -> None:
    found, n = case
    low, high = wilson(found, n)
    assert 0 <= low <= found / n <= high <= 1
    mirrored = wilson(n - found, n)
    assert (1 - high, 1 - low) == pytest.approx(mirrored, abs=1e-12)


@pytest.mark.parametrize(("found", "n"), [(1, 0), (0, 0), (3, 2), (-1, 2)])
def test_impossible_counts_are_refused(found: int, n: int) -> None:
    with pytest.raises(ValueError, match="expected 0 to"):
        wilson(found, n)


@pytest.mark.parametrize("language", LANGUAGES)
def test_each_canary_stands_at_its_place_and_each_type_has_forty(language: str) -> None:
    counts: dict[str, int] = {}
    source = {"en": english, "zh": chinese}[language].CANARIES
    for note in planted(language):
        ((start, end, entity_type),) = note.spans
        assert note.text[start:end] in source[entity_type][0]
        counts[entity_type] = counts.get(entity_type, 0) + 1
    assert set(counts) <= set(ENTITY_TYPES)
    assert set(counts.values()) == {40}


def test_every_type_is_planted_in_some_language() -> None:
    assert set(english.CANARIES) | set(chinese.CANARIES) == set(ENTITY_TYPES)


def test_planted_cards_and_ibans_pass_their_checks() -> None:
    for planted_by_type in (english.CANARIES, chinese.CANARIES):
        for card in planted_by_type["CREDIT_CARD"][0]:
            digits = "".join(c for c in card if c.isdecimal())
            # A UnionPay number of a Chinese bank's guide has no check digit of Luhn's.
            assert luhn_holds(digits) or digits.startswith("62"), card
        assert all(iban_holds(iban.replace(" ", "")) for iban in planted_by_type["IBAN"][0])


def test_the_digest_names_the_set(monkeypatch: pytest.MonkeyPatch) -> None:
    before = set_digest()
    assert before.startswith("sha256:")
    changed = (LabelledNote("en", "x 1", ((2, 3, "AGE"),)), *planted("en")[1:])
    monkeypatch.setattr(
        canaries, "planted", lambda language: changed if language == "en" else planted(language)
    )
    assert set_digest.__wrapped__() != before


def find_all(text: str) -> list[Span]:
    return [Span(0, len(text), "PERSON", 1.0)]


def test_a_canary_counts_when_all_of_it_is_masked_under_whatever_type() -> None:
    note = LabelledNote("en", "Call 555-0143 now", ((5, 13, "PHONE"),))
    halves = [Span(5, 9, "PHONE", 1.0), Span(9, 13, "DATE", 1.0)]
    for spans, found in ((halves, 1), (halves[:1], 0), ([], 0), ([Span(5, 12, "PHONE", 1.0)], 0)):
        assert measure(lambda _, s=spans: s, [note], ["PHONE"]) == [  # type: ignore[misc]
            Recall("PHONE", "en", 1, found)
        ]


def test_types_that_the_plan_does_not_mask_are_not_measured() -> None:
    recalls = measure(find_all, planted("en"), ["DATE", "RESIDENT_ID"])
    assert recalls == [Recall("DATE", "en", 40, 40)]


def test_the_floor_is_reached_at_the_floor_and_not_below() -> None:
    check_recall([Recall("DATE", "en", 40, 36)], 0.9)
    with pytest.raises(MaskingError) as caught:
        check_recall([Recall("DATE", "en", 40, 35), Recall("SSN", "en", 40, 0)], 0.9)
    assert "0.9 of planted SSN (en)" in str(caught.value)
    assert "got 0.000 [0.000, 0.088], 0 of 40 and 1 more below" in str(caught.value)
    assert "no record was read" in caught.value.hint


def test_nothing_measured_is_not_good_enough() -> None:
    with pytest.raises(MaskingError, match="got none"):
        check_recall([], 0.1)


def write(path: Path, rows: Sequence[object]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_a_sites_own_notes_count_apart(tmp_path: Path) -> None:
    rows = [{"text": SECRET, "spans": [{"start": 0, "end": 16, "type": "PERSON"}]}]
    notes = read_notes(write(tmp_path / "notes.jsonl", rows))
    recalls = measure(find_all, [*notes, *planted("en")], ["PERSON"])
    assert summary(recalls) == {
        "planted": [["PERSON", "en", 40, 40]],
        OWN: [["PERSON", OWN, 1, 1]],
    }
    assert not is_recall(["PERSON", OWN, 1, 1])


@pytest.mark.parametrize(
    "row",
    [
        {"text": SECRET},
        {"spans": []},
        {"text": SECRET, "spans": [{"start": 0, "end": 99, "type": "PERSON"}]},
        {"text": SECRET, "spans": [{"start": 4, "end": 4, "type": "PERSON"}]},
        {"text": SECRET, "spans": [{"start": True, "end": 4, "type": "PERSON"}]},
        {"text": SECRET, "spans": [{"start": 0, "end": 4, "type": SECRET}]},
        {"text": [SECRET], "spans": [{"start": 0, "end": 1, "type": "PERSON"}]},
        {"text": SECRET, "spans": SECRET},
        [SECRET],
        SECRET,
    ],
)
def test_a_line_that_is_no_note_is_named_and_not_quoted(tmp_path: Path, row: object) -> None:
    good = {"text": "a 1", "spans": [{"start": 2, "end": 3, "type": "AGE"}]}
    path = write(tmp_path / "notes.jsonl", [good, row])
    with pytest.raises(ConfigError, match="line 2: expected") as caught:
        read_notes(path)
    assert "Erika" not in str(caught.value)
    assert caught.value.__suppress_context__ or caught.value.__context__ is None


def test_notes_that_mark_nothing_or_are_not_there_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="at least one note with a span"):
        read_notes(write(tmp_path / "notes.jsonl", [{"text": "a", "spans": []}]))
    with pytest.raises(ConfigError, match="cannot read") as caught:
        read_notes(tmp_path / "none")
    assert "labelled_notes" in caught.value.hint


def test_figures_come_back_from_the_log_as_they_were() -> None:
    recalls = measure(find_all, planted("zh"), ENTITY_TYPES)
    assert parse_recalls([recall.as_list() for recall in recalls]) == recalls


@pytest.mark.parametrize(
    "row",
    [
        ["DATE", "en", 40],
        ["DATE", "en", 40, 41],
        ["DATE", "en", 0, 0],
        ["DATE", "fr", 40, 1],
        [SECRET, "en", 40, 1],
        ["DATE", "en", 40.0, 1],
        ["DATE", "en", True, 1],
        "DATE",
    ],
)
def test_other_figures_are_none(row: object) -> None:
    assert not is_recall(row)
    with pytest.raises(ValueError, match="expected"):
        parse_recalls([row])  # type: ignore[list-item]
