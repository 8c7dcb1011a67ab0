"""Recall on planted examples: right statistics, one signed set, and a gate that holds."""

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from privacy.errors import ConfigError, MaskingError, OverMaskingError
from privacy.masking import canaries
from privacy.masking.canaries import (
    LabelledNote,
    Measured,
    check_over_masking,
    check_recall,
    check_said,
    clean,
    measure,
    notes_of,
    num_clean,
    num_planted,
    planted,
    read_notes,
    set_digest,
    stands_in,
)
from privacy.masking.checksums import iban_holds, luhn_holds, social_credit_code_holds
from privacy.masking.config import ENTITY_TYPES, LANGUAGES, MODES, MaskingConfig
from privacy.masking.figures import (
    OWN,
    OverMasking,
    Recall,
    is_over_masking,
    is_recall,
    parse_over_masking,
    parse_recalls,
    wilson,
)
from privacy.masking.mask import Masked, Span, mask
from privacy.masking.masker import Masker
from privacy.masking.planted import chinese, english
from privacy.masking.replace import Replacer
from privacy.masking.surrogates import SurrogateKey

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


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_type_of_a_plan_is_measured_in_each_of_its_languages(language: str) -> None:
    assert num_planted([language], ENTITY_TYPES) == {(t, language): 40 for t in ENTITY_TYPES}


def test_planted_cards_ibans_and_credit_codes_pass_their_checks() -> None:
    for planted_by_type in (english.CANARIES, chinese.CANARIES):
        assert all(map(social_credit_code_holds, planted_by_type["SOCIAL_CREDIT_CODE"][0]))
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


def mask_all(text: str) -> Masked:
    return Masked("[PERSON]", (Span(0, len(text), "PERSON", 1.0),))


def mask_nothing(text: str) -> Masked:
    return Masked(text, ())


def by_placeholders(text: str, spans: Sequence[Span]) -> Masked:
    return Masked(mask(text, spans), tuple(spans))


def test_a_canary_counts_when_all_of_it_is_masked_under_whatever_type() -> None:
    note = LabelledNote("en", "Call 555-0143 now", ((5, 13, "PHONE"),))
    whole = [Span(5, 13, "PHONE", 1.0)]
    halves = [Span(5, 9, "PHONE", 1.0), Span(9, 13, "DATE", 1.0)]
    for spans, found, typed in (
        (whole, 1, 1),
        (halves, 1, 0),
        (halves[:1], 0, 0),
        ([], 0, 0),
        ([Span(5, 12, "PHONE", 1.0)], 0, 0),
    ):
        measured = measure(lambda text, s=spans: by_placeholders(text, s), [note], ["PHONE"])  # type: ignore[misc]
        assert measured.recalls == (Recall("PHONE", "en", 1, found, typed),)


def test_a_value_that_the_replacement_leaves_behind_is_not_found() -> None:
    note = LabelledNote("en", "Call 555-0143 now", ((5, 13, "PHONE"),))
    whole = (Span(5, 13, "PHONE", 1.0),)
    for left in ("Call 555-0143 now", "Call x5550143 now", "Call ５５５ 01\u200b43 now"):
        (recall,) = measure(lambda _, t=left: Masked(t, whole), [note], ["PHONE"]).recalls  # type: ignore[misc]
        assert recall.num_found == 0
    (recall,) = measure(lambda _: Masked("Call 555-0199 now", whole), [note], ["PHONE"]).recalls
    assert recall.num_found == 1


@pytest.mark.parametrize(
    ("value", "text", "stands"),
    [
        ("737", "CVV2737", False),
        ("737", "the code 737.", True),
        ("737", "安全码737。", True),
        ("张三", "患者张 三", True),
        ("4111 1111", "x41111111y", True),
        ("-", "a - b", False),
    ],
)
def test_a_short_value_is_looked_for_as_a_word(value: str, text: str, stands: bool) -> None:
    assert stands_in(value, text) is stands


def test_types_that_the_plan_does_not_mask_are_not_measured() -> None:
    measured = measure(mask_all, planted("en"), ["DATE"])
    assert measured == Measured((Recall("DATE", "en", 40, 40, 0),))


def test_who_masks_everything_finds_everything_and_is_refused() -> None:
    measured = measure(mask_all, notes_of(["en"]), ENTITY_TYPES)
    check_recall(measured.recalls, 1.0)
    with pytest.raises(OverMaskingError, match=r"\(en\), got 1\.000 .*100 of 100") as caught:
        check_over_masking(measured.over_masking, MaskingConfig().max_over_masking)
    assert "no record was read" in caught.value.hint


def test_who_masks_nothing_masks_nothing_needlessly_and_is_refused() -> None:
    measured = measure(mask_nothing, notes_of(LANGUAGES), ENTITY_TYPES)
    check_over_masking(measured.over_masking, 0.0)
    with pytest.raises(MaskingError, match="expected at least"):
        check_recall(measured.recalls, 0.1)


def test_a_sentence_is_masked_when_a_letter_or_digit_of_it_is() -> None:
    for spans, num_masked in (
        ([], 0),
        ([Span(1, 2, "AGE", 1.0)], 0),
        ([Span(0, 1, "AGE", 1.0)], 1),
    ):
        notes = [LabelledNote("en", "a b", ())]
        measured = measure(lambda text, s=spans: by_placeholders(text, s), notes, ["AGE"])  # type: ignore[misc]
        assert measured == Measured((), (OverMasking("en", 1, num_masked),))


@pytest.mark.parametrize("language", LANGUAGES)
def test_clean_sentences_are_a_hundred_and_none_is_a_canary(language: str) -> None:
    texts = {note.text for note in clean(language)}
    assert len(texts) == len(clean(language)) == num_clean([language])[language] == 100
    assert not texts & {note.text for note in planted(language)}


def test_clean_sentences_are_part_of_what_the_digest_names(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = set_digest()
    monkeypatch.setattr(canaries, "clean", lambda language: clean(language)[1:])
    assert set_digest.__wrapped__() != before


def test_the_floor_is_reached_at_the_floor_and_not_below() -> None:
    check_recall([Recall("DATE", "en", 40, 36, 0)], 0.9)
    with pytest.raises(MaskingError) as caught:
        check_recall([Recall("DATE", "en", 40, 35, 35), Recall("SSN", "en", 40, 0, 0)], 0.9)
    assert "0.9 of planted SSN (en)" in str(caught.value)
    assert "got 0.000 [0.000, 0.088], 0 of 40 and 1 more below" in str(caught.value)
    assert "no record was read" in caught.value.hint


def test_the_ceiling_is_reached_at_the_ceiling_and_not_above() -> None:
    check_over_masking([OverMasking("en", 100, 10)], 0.1)
    with pytest.raises(OverMaskingError, match=r"got 0\.110 \[0\.063, 0\.186\], 11 of 100"):
        check_over_masking([OverMasking("zh", 100, 0), OverMasking("en", 100, 11)], 0.1)


def test_nothing_measured_is_not_good_enough() -> None:
    with pytest.raises(MaskingError, match="got none"):
        check_recall([], 0.1)
    with pytest.raises(MaskingError, match="got none"):
        check_over_masking([], 0.9)


@pytest.mark.parametrize("mode", MODES)
def test_the_rules_of_both_languages_pass_at_0_95_and_0_05_in_every_mode(mode: str) -> None:
    config = MaskingConfig(languages=LANGUAGES, mode=mode)
    masker = Masker(config, SurrogateKey(bytes(32)) if mode == "surrogate" else None)
    measured = measure(masker.mask, notes_of(LANGUAGES), ENTITY_TYPES)
    check_recall(measured.recalls, 0.95)
    check_over_masking(measured.over_masking, 0.05)
    counts = {(r.entity_type, r.source): r.num_planted for r in measured.recalls}
    assert counts == num_planted(LANGUAGES, ENTITY_TYPES)


def test_surrogates_that_say_the_value_again_do_not_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Replacer, "replace", lambda self, text, spans, subject: text)
    config = MaskingConfig(entity_types=("EMAIL",), mode="surrogate")
    masker = Masker(config, SurrogateKey(bytes(32)))
    measured = measure(masker.mask, notes_of(["en"]), ["EMAIL"])
    with pytest.raises(MaskingError, match="0 of 40"):
        check_recall(measured.recalls, 0.1)


def write(path: Path, rows: Sequence[object]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_a_sites_own_notes_count_apart(tmp_path: Path) -> None:
    rows = [
        {"text": SECRET, "spans": [{"start": 0, "end": 16, "type": "PERSON"}]},
        {"text": "nothing here", "spans": []},
    ]
    notes = read_notes(write(tmp_path / "notes.jsonl", rows))
    measured = measure(mask_all, [*notes, *notes_of(["en"])], ["PERSON"])
    assert measured.of(own=False) == Measured(
        (Recall("PERSON", "en", 40, 40, 40),), (OverMasking("en", 100, 100),)
    )
    assert measured.of(own=True) == Measured(
        (Recall("PERSON", OWN, 1, 1, 1),), (OverMasking(OWN, 1, 1),)
    )
    assert not is_recall(["PERSON", OWN, 1, 1, 1])
    assert not is_over_masking([OWN, 1, 1])


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
    measured = measure(mask_all, notes_of(["zh"]), ENTITY_TYPES)
    recalls, over_masking = measured.recalls, measured.over_masking
    assert tuple(parse_recalls([recall.as_list() for recall in recalls])) == recalls
    assert tuple(parse_over_masking([row.as_list() for row in over_masking])) == over_masking


@pytest.mark.parametrize(
    "row",
    [
        ["DATE", "en", 40, 40],
        ["DATE", "en", 40, 41, 40],
        ["DATE", "en", 40, 39, 40],
        ["DATE", "en", 0, 0, 0],
        ["DATE", "fr", 40, 1, 1],
        [SECRET, "en", 40, 1, 1],
        ["DATE", "en", 40.0, 1, 1],
        ["DATE", "en", True, 1, 1],
        ["DATE", "en", 40, 1, -1],
        "DATE",
    ],
)
def test_other_figures_are_none(row: list[object]) -> None:
    assert not is_recall(row)
    with pytest.raises(ValueError, match="expected"):
        parse_recalls([row])


@pytest.mark.parametrize(
    "row",
    [
        ["en", 100],
        ["fr", 100, 1],
        ["en", 0, 0],
        ["en", 100, 101],
        ["en", 100, True],
        [SECRET, 1, 1],
    ],
)
def test_other_figures_of_over_masking_are_none(row: list[object]) -> None:
    assert not is_over_masking(row)
    with pytest.raises(ValueError, match="expected"):
        parse_over_masking([row])


SAID = MaskingConfig(entity_types=("EMAIL", "PHONE"), recall_floor=0.9, max_over_masking=0.1)
GOOD = [Recall("EMAIL", "en", 40, 40, 40), Recall("PHONE", "en", 40, 36, 0)]
FEW = [OverMasking("en", 100, 10)]


def test_figures_at_floor_and_ceiling_are_taken() -> None:
    check_said(GOOD, FEW, SAID)
    check_said(GOOD, FEW, SAID, is_known=False)


@pytest.mark.parametrize(
    "recalls",
    [
        GOOD[:1],
        [],
        [*GOOD, GOOD[1]],
        GOOD[::-1],
        [GOOD[0], Recall("PHONE", "en", 39, 39, 39)],
        [GOOD[0], Recall("PHONE", "zh", 40, 40, 40)],
    ],
)
def test_figures_of_other_examples_than_the_plans_are_refused(recalls: list[Recall]) -> None:
    with pytest.raises(ValueError, match="recall of each planted type and language"):
        check_said(recalls, FEW, SAID)


@pytest.mark.parametrize(
    "figures", [[], [OverMasking("en", 99, 0)], [OverMasking("zh", 100, 0)], FEW * 2]
)
def test_figures_of_other_sentences_than_the_plans_are_refused(
    figures: list[OverMasking],
) -> None:
    with pytest.raises(ValueError, match="over-masking of each of the plan's languages"):
        check_said(GOOD, figures, SAID)


@pytest.mark.parametrize("is_known", [True, False])
def test_figures_beyond_floor_and_ceiling_are_refused_of_any_set(is_known: bool) -> None:
    low = [GOOD[0], Recall("PHONE", "en", 40, 35, 35)]
    with pytest.raises(ValueError, match=r"recall of PHONE at or above .* 0\.9, got 0\.875"):
        check_said(low, FEW, SAID, is_known=is_known)
    with pytest.raises(ValueError, match=r"over-masking \(en\) of at most .* 0\.1, got 0\.110"):
        check_said(GOOD, [OverMasking("en", 100, 11)], SAID, is_known=is_known)
    with pytest.raises(ValueError, match="recall of"):
        check_said([Recall("SSN", "en", 40, 40, 40)], FEW, SAID, is_known=is_known)


def test_of_a_set_of_another_version_counts_are_not_known() -> None:
    check_said([Recall("EMAIL", "en", 7, 7, 7)], [OverMasking("en", 9, 0)], SAID, is_known=False)
