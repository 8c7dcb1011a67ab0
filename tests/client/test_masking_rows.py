"""Rows are masked whole, spans are told against the original, errors name a line and no text."""

import json
from functools import cache
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from client.masking.rows import RowMasker, RowSettings, RowStats, parse_row
from privacy.errors import ConfigError, MaskingError
from privacy.masking.config import MaskingConfig
from privacy.masking.surrogates import SurrogateKey

CARD = "4111 1111 1111 1111"
SECRET = "Erika Mustermann"  # noqa: S105 - stands for the text of a record
# The recognisers' libraries take long to load where other tests run beside.
pytestmark = pytest.mark.timeout(240)

TYPES = ("CREDIT_CARD", "DATE", "EMAIL", "PHONE")


@cache
def masker(mode: str = "placeholder", **changes: Any) -> RowMasker:  # noqa: ANN401
    key = SurrogateKey(bytes(32)) if mode == "surrogate" else None
    masking = MaskingConfig(entity_types=TYPES, mode=mode)
    return RowMasker(RowSettings(masking=masking, key=key, **changes))


def masked(row: object, stats: RowStats | None = None, **changes: Any) -> dict[str, object]:  # noqa: ANN401
    line = json.dumps(row).encode()
    made = masker(**changes).mask_line(line, 1, stats or RowStats())
    assert made.endswith(b"\n")
    assert made.count(b"\n") == 1
    return dict(json.loads(made))


def test_every_text_and_number_at_any_depth_is_masked() -> None:
    row = {
        "a": f"paid by {CARD}",
        "b": 4111111111111111,
        "c": [{"d": "jane@example.org", "e": [True, None, 7, 1.5]}],
    }
    assert masked(row) == {
        "a": "paid by [CREDIT_CARD]",
        "b": "[CREDIT_CARD]",
        "c": [{"d": "[EMAIL]", "e": [True, None, 7, 1.5]}],
    }


def test_only_what_is_named_is_kept() -> None:
    row = {"id": "jane@example.org", "text": "jane@example.org"}
    assert masked(row, keep=("id",)) == {"id": "jane@example.org", "text": "[EMAIL]"}
    assert masked(row)["id"] == "[EMAIL]"


def test_spans_are_offsets_into_the_original() -> None:
    text = f"卡\U0001f600 {CARD} and jane@example.org."
    made = masked({"text": text, "n": CARD}, spans_of="text")
    assert made["text"] == text
    assert made["n"] == CARD
    assert made["masked"] == "卡\U0001f600 [CREDIT_CARD] and [EMAIL]."
    assert [(text[s["start"] : s["end"]], s["type"]) for s in made["spans"]] == [  # type: ignore[attr-defined]
        (CARD, "CREDIT_CARD"),
        ("jane@example.org", "EMAIL"),
    ]
    assert all(0 < s["score"] <= 1 for s in made["spans"])  # type: ignore[attr-defined]


def test_dates_of_one_subject_move_together_across_rows() -> None:
    rows = [{"unit_id": "p1", "text": day} for day in ("2019-03-14", "2019-03-20")]
    days = [str(masked(row, mode="surrogate")["text"]) for row in rows]
    assert int(days[1][-2:]) - int(days[0][-2:]) in (6, -22, -23, -24, -25)
    other = masked({"unit_id": "p2", "text": "2019-03-14"}, mode="surrogate")["text"]
    assert other != days[0]
    named = {"who": "p1", "text": "2019-03-14"}
    assert masked(named, mode="surrogate", subject="who")["text"] == days[0]


def test_figures_are_counted() -> None:
    stats = RowStats()
    masked({"a": CARD, "b": "xx"}, stats)
    assert (stats.num_rows, stats.num_characters, stats.num_masked_characters) == (1, 21, 19)
    assert stats.num_masked == {"CREDIT_CARD": 1}


@cache
def full_masker(**changes: Any) -> RowMasker:  # noqa: ANN401
    return RowMasker(RowSettings(masking=MaskingConfig(languages=("en", "zh")), **changes))


CUED = {
    "account_number": ("4471-220953", "ACCOUNT_NUMBER"),
    "accountNumber": ("4471-220953", "ACCOUNT_NUMBER"),
    "customer_id": ("C-483920", "CUSTOMER_ID"),
    "cvv": ("737", "CVV"),
    "CVV": ("737", "CVV"),
    "age": ("94", "AGE"),
    "serial_number": ("SN-4829-113", "DEVICE_ID"),
    "member_id": ("WXH-48291", "HEALTH_PLAN_NUMBER"),
    "license_number": ("D482-9113", "LICENCE_NUMBER"),
    "passport_number": ("X4829113", "PASSPORT"),
    "password": ("hunter2!x", "PASSWORD"),
    "mrn": ("00482913", "RECORD_NUMBER"),
    "routing_number": ("021000021", "ROUTING_NUMBER"),
    "sort_code": ("12-34-56", "SORT_CODE"),
    "swift_code": ("DEUTDEFF500", "SWIFT"),
    "license_plate": ("7ABC123", "VEHICLE"),
    "ssn": ("078051120", "SSN"),
    "zip": ("90210", "LOCATION"),
    "账号": ("4471220953", "ACCOUNT_NUMBER"),
}


def test_a_value_is_masked_whose_cue_is_the_name_of_its_field() -> None:
    row = {name: value for name, (value, _) in CUED.items()}
    nested = {"rows": [row], "zip": 90210, "cvv": [737], "n": 737}
    once = full_masker().mask_line(json.dumps(nested).encode(), 1, RowStats())
    (made,) = json.loads(once)["rows"]
    assert list(made) == list(row)
    kept = {name: made[name] for name, (value, _) in CUED.items() if made[name][0] != "["}
    assert kept == {}
    assert json.loads(once)["zip"] == "[LOCATION]"
    assert json.loads(once)["cvv"] == ["[CVV]"]
    assert json.loads(once)["n"] == 737
    assert full_masker().mask_line(once, 1, RowStats()) == once


def test_spans_found_by_the_name_of_a_field_are_offsets_into_its_value() -> None:
    text = "4471-220953, paid by " + CARD
    line = json.dumps({"account_number": text}).encode()
    made = json.loads(full_masker(spans_of="account_number").mask_line(line, 1, RowStats()))
    found = [text[s["start"] : s["end"]] for s in made["spans"]]
    assert found == ["4471-220953", CARD]
    ((_, pieces),) = full_masker().preview(line, 1)
    assert [piece.original for piece in pieces if piece.entity_type] == found


def test_a_row_with_personal_data_in_the_name_of_a_field_is_refused_and_not_quoted() -> None:
    for row in ({"jane@example.org": 1}, {"a": [{"jane@example.org": 1}]}):
        with pytest.raises(ConfigError, match="input, line 1: expected names of fields") as caught:
            masked(row)
        assert "jane" not in str(caught.value) + caught.value.hint
    kept = {"jane@example.org": 1}
    assert masked(kept, keep=("jane@example.org",)) == kept


@pytest.mark.parametrize(
    "line",
    [
        SECRET.encode(),
        f'{{"text": "{SECRET}"'.encode(),
        f'["{SECRET}"]'.encode(),
        f'"{SECRET}"'.encode(),
        SECRET.encode("utf-16"),
        f'{{"text": "{SECRET} \\ud800"}}'.encode(),
        f'{{"text": "{SECRET}", "n": NaN}}'.encode(),
        f'{{"text": "{SECRET}", "n": 1e999}}'.encode(),
        b"[" * 100_000,
    ],
)
def test_a_line_that_is_no_row_is_named_and_not_quoted(line: bytes) -> None:
    with pytest.raises(ConfigError, match="input, line 7: expected") as caught:
        masker().mask_line(line, 7, RowStats())
    assert "Erika" not in str(caught.value)
    assert caught.value.__suppress_context__ or caught.value.__context__ is None


@pytest.mark.parametrize(
    ("row", "changes", "message"),
    [
        ({"a": SECRET}, {"spans_of": "text"}, "expected field 'text' to be a string, got none"),
        ({"text": 5}, {"spans_of": "text"}, "got int"),
        ({"text": SECRET, "masked": "x"}, {"spans_of": "text"}, "expected no field masked"),
        ({"text": SECRET}, {"subject": "who"}, "expected field 'who' to name the subject"),
    ],
)
def test_a_row_without_a_field_is_named_and_not_quoted(
    row: dict[str, object], changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        masked(row, None, **changes)
    assert "Erika" not in str(caught.value)


def test_a_failing_recogniser_names_the_line(monkeypatch: pytest.MonkeyPatch) -> None:
    broken = RowMasker(RowSettings(masking=MaskingConfig(entity_types=TYPES)))

    def fail(text: str, name: str = "") -> None:
        raise MaskingError("a recogniser failed with ValueError")

    monkeypatch.setattr(broken, "_find", fail)
    with pytest.raises(MaskingError, match="input, line 3: a recogniser failed"):
        broken.mask_line(json.dumps({"a": SECRET}).encode(), 3, RowStats())


@given(st.dictionaries(st.text(max_size=5), st.text(max_size=20), max_size=4))
def test_a_row_comes_back_with_its_fields_and_masking_again_changes_nothing(
    row: dict[str, str],
) -> None:
    once = masked(row)
    assert list(once) == list(row)
    assert masked(once) == once
    assert parse_row(json.dumps(once).encode(), "") == once


def previewed(row: object, **changes: Any) -> dict[str, str]:  # noqa: ANN401
    shown = masker(**changes).preview(json.dumps(row).encode(), 1)
    return {place: "".join(piece.masked for piece in pieces) for place, pieces in shown}


def test_a_preview_shows_texts_at_any_depth_and_numbers_that_are_masked() -> None:
    row = {
        "id": "jane@example.org",
        "patient": {"email": "jane@example.org", "tall": 180, "card": 4111111111111111},
        "notes": ["fine", {"text": f"paid by {CARD}", "sure": True}, "", None],
    }
    assert previewed(row, keep=("id",)) == {
        "patient.email": "[EMAIL]",
        "patient.card": "[CREDIT_CARD]",
        "notes[0]": "fine",
        "notes[1].text": "paid by [CREDIT_CARD]",
    }
    assert previewed({"text": CARD, "other": CARD}, spans_of="text") == {"text": "[CREDIT_CARD]"}


def test_a_preview_refuses_the_row_that_masking_refuses_and_quotes_nothing() -> None:
    for row in ({f"x {CARD}": "a"}, {"a": {f"x {CARD}": 1}}):
        with pytest.raises(ConfigError, match="line 1: expected names of fields") as caught:
            previewed(row)
        assert CARD not in str(caught.value)


json_values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.sampled_from([CARD, "a b", 4111111111111111, 3])),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.sampled_from("abc"), inner, max_size=3)
    ),
    max_leaves=8,
)


def _strings(value: object) -> list[str]:
    if isinstance(value, dict | list):
        inner = value.values() if isinstance(value, dict) else value
        return [text for part in inner for text in _strings(part)]
    return [value] if isinstance(value, str) and value else []


@given(st.dictionaries(st.sampled_from("abc"), json_values, max_size=3))
@settings(deadline=None)
def test_a_preview_shows_what_masking_writes(row: dict[str, object]) -> None:
    assert list(previewed(row).values()) == _strings(masked(row))


@given(st.text(max_size=60))
def test_pieces_are_the_text_in_order(text: str) -> None:
    pieces = masker().pieces(f"{text} {CARD}", "p")
    assert "".join(piece.original for piece in pieces) == f"{text} {CARD}"
    assert pieces[-1].masked == "[CREDIT_CARD]"
