"""What holds for any text, under all types, in both languages and all three modes."""

from collections.abc import Callable
from functools import cache

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from privacy.masking.canaries import LabelledNote, clean, planted, stands_in
from privacy.masking.config import ENTITY_TYPES, LANGUAGES, MODES, MaskingConfig
from privacy.masking.detect import Detector
from privacy.masking.mask import Masked
from privacy.masking.masker import Masker
from privacy.masking.surrogates import SurrogateKey

# Every rule of every type runs on each example, and other tests run beside.
pytestmark = pytest.mark.timeout(240)
QUICK = settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])

KEY = SurrogateKey(bytes(range(32)))
# Each of them is invisible, or is read as nothing where digits are.
INVISIBLE = "\u200b\u200c\u200d\u2060\ufeff\u00ad\u034f\ufe0f\u115f\u3164\u180e\U000e0020"
MARKS = "\u0301\u0336\u20e3"
ZEROS = "0\uff10\u0660\u0966\U0001d7ce"
BESIDE = ("", " ", "\U0001f600", "e\u0301 ", "\u202e", "卡", "。", "\U0002000b", "\ud800", "\n")

notes = st.sampled_from([note for language in LANGUAGES for note in planted(language)])
pieces = st.one_of(
    notes.map(lambda note: note.text),
    notes.map(lambda note: note.text[note.spans[0][0] : note.spans[0][1]]),
    st.sampled_from([note.text for language in LANGUAGES for note in clean(language)]),
    st.sampled_from([f"[{kind}]" for kind in ENTITY_TYPES] + ["[...]", "[**Name**]", "XXXX"]),
    st.sampled_from(BESIDE),
    st.text(st.characters(), max_size=4),
)
texts = st.one_of(st.text(st.characters(), max_size=60), st.lists(pieces, max_size=6).map("".join))


@cache
def masker(mode: str) -> Masker:
    """Of all types and both languages."""
    config = MaskingConfig(languages=LANGUAGES, mode=mode)
    return Masker(config, KEY if mode == "surrogate" else None)


@pytest.fixture(scope="module", autouse=True)
def _lists_are_read() -> None:
    for mode in MODES:
        masker(mode).mask("Jane Doe, 张三")


def shapes(value: str, draw: Callable[[st.SearchStrategy[str]], str]) -> str:
    """`value` as it may be written to hide its digits."""
    hidden = []
    for sign in value:
        if sign.isascii() and sign.isdigit():
            zero = draw(st.sampled_from(ZEROS))
            hidden.append(chr(ord(zero) + int(sign)))
            hidden.append(draw(st.sampled_from(["", "", "", *MARKS])))
        else:
            hidden.append(sign)
        hidden.append(draw(st.sampled_from(["", "", "", *INVISIBLE])))
    return "".join(hidden)


@pytest.mark.parametrize("mode", MODES)
@given(text=texts)
@QUICK
def test_masking_never_changes_text_outside_spans_and_spans_are_offsets(
    mode: str, text: str
) -> None:
    masked = masker(mode).mask(text, subject="p")
    rest, end = masked.text, 0
    for span in masked.spans:
        assert end <= span.start < span.end <= len(text)
        assert span.entity_type in ENTITY_TYPES
        outside = text[end : span.start]
        # What stands for a span holds no part of what is outside: it follows from value and key.
        assert rest.startswith(outside)
        rest = rest[len(outside) :]
        value = text[span.start : span.end]
        made = _stand_in(mode, value, span.entity_type)
        assert rest.startswith(made)
        rest, end = rest[len(made) :], span.end
    assert rest == text[end:]


def _stand_in(mode: str, value: str, entity_type: str) -> str:
    if mode == "placeholder":
        return f"[{entity_type}]"
    if mode == "redact":
        return "[...]"
    surrogates = masker(mode)._replacer._surrogates
    assert surrogates is not None
    return surrogates.of(entity_type, value, subject="p")


@pytest.mark.parametrize("mode", ["placeholder", "redact"])
@given(text=texts)
@QUICK
def test_masking_twice_is_masking_once(mode: str, text: str) -> None:
    once = masker(mode).mask(text)
    again = masker(mode).mask(once.text)
    assert again == Masked(once.text, ())


@given(text=texts)
@QUICK
def test_surrogates_are_the_same_again_and_never_bring_a_value_back(text: str) -> None:
    once = masker("surrogate").mask(text, subject="p")
    assert masker("surrogate").mask(text, subject="p") == once
    # All modes find the same.
    assert masker("redact").mask(text).spans == once.spans


@given(st.lists(st.integers(0, 0x10FFFF).map(chr), max_size=30).map("".join))
@example("".join(map(chr, range(0xD7F0, 0xE010))))
@example("\ue000\ue001[PERSON]\ue000")
@QUICK
def test_no_code_point_makes_it_fail(text: str) -> None:
    for mode in MODES:
        masker(mode).mask(text)


@given(notes, st.sampled_from(BESIDE), st.sampled_from(BESIDE), st.data())
@QUICK
def test_nothing_written_around_or_inside_its_digits_hides_a_value(
    note: LabelledNote, before: str, after: str, data: st.DataObject
) -> None:
    ((start, end, _),) = note.spans
    value = note.text[start:end]
    if not found(note.text, start, end):
        # What is missed as it stands is in the recall of the log.
        return
    hidden = shapes(value, data.draw)
    # A line of its own keeps what is beside it from being part of the sentence.
    head = f"{before}\n{note.text[:start]}"
    text = f"{head}{hidden}{note.text[end:]}\n{after}"
    assert found(text, len(head), len(head) + len(hidden)), ascii(text)


def found(text: str, start: int, end: int) -> bool:
    """Whether the letters and digits at a place are masked in every mode and stand nowhere."""
    signs = [place for place in range(start, end) if text[place].isalnum()]
    for mode in MODES:
        masked = masker(mode).mask(text)
        covered = {place for span in masked.spans for place in range(span.start, span.end)}
        visible = [place for place in signs if text[place] not in INVISIBLE]
        if not covered.issuperset(visible) or stands_in(text[start:end], masked.text):
            return False
    return True


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("\U0001f600\U0001f600 4111111111111111 ok", "4111111111111111"),
        ("e\u0301e\u0301 ４１１１ 1111 １１１１ 1111。", "４１１１ 1111 １１１１ 1111"),
        ("\ufeff4111\u200b1111\u200d1111\u20601111!", "4111\u200b1111\u200d1111\u20601111"),
        ("\U0002000b身份证11010519491231002X，", "11010519491231002X"),
        (
            "卡4\u03361\u03361\u03361\u0336111111111111。",
            "4\u03361\u03361\u03361\u0336111111111111",
        ),
    ],
)
def test_a_span_begins_and_ends_at_the_value(text: str, value: str) -> None:
    (span,) = Detector(
        MaskingConfig(languages=LANGUAGES, entity_types=("CREDIT_CARD", "RESIDENT_ID"))
    ).find(text)
    said = text[span.start : span.end]
    assert said.rstrip("\u0336") == value.rstrip("\u0336")
