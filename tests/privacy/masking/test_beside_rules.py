"""A model beside the rules takes nothing from them, whatever it marks."""

import re
import zlib
from collections.abc import Iterator
from functools import cache

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from privacy.masking import models
from privacy.masking.canaries import planted
from privacy.masking.config import MaskingConfig
from privacy.masking.detect import Detector
from privacy.masking.mask import Span, mask

QUICK = settings(deadline=None, max_examples=80, suppress_health_check=[HealthCheck.too_slow])

CUES = {
    "en": [
        "Fax",
        "Contact",
        "Call",
        "Phone:",
        "Contact:",
        "reached",
        "at",
        "MRN",
        "password:",
        "SSN",
        "ABA",
        "routing",
        "SWIFT",
        "VIN",
        "license",
        "plate",
        "member",
        "ID",
        "age",
        "aged",
        "Dr.",
        "my",
        "name",
        "is",
        "lives",
        "in",
        "and",
        "on",
        "the",
        "ending",
        "in",
    ],
    "zh": [
        "传真",
        "电话：",
        "联系人：",
        "病历号",
        "密码是",
        "护照号",
        "联行号",
        "SWIFT代码",
        "患者",
        "现住",
        "年龄：",
        "医保卡号",
        "于",
    ],
}
NAMES = {
    "en": [
        "Chicago",
        "Emily",
        "Carter",
        "Springfield",
        "Murphy",
        "mark",
        "wright",
        "Hope",
        "April",
        "Anna",
    ],
    "zh": ["张三", "欧阳志远", "刘建国", "北京市", "杭州市西湖区", "Anna"],
}
# Texts in which the model took the cue before the rules had read it.
LOST = (
    "Fax Chicago +44 121000248 1632 4821 960983.",
    "Contact: 165-16-7999 info-desk@clinic.example.com MORGA753116SM9IJ BE68539007547034",
    "Contact: Sept 3rd, 2018 R.ROE@EXAMPLE.ORG https://www.example.org/a?b=c 88-120-443",
)


def texts(language: str) -> st.SearchStrategy[str]:
    """Values of the planted examples, words that rules read before them, and names."""
    notes = planted(language)
    values = sorted({note.text[slice(*note.spans[0][:2])] for note in notes})
    words = [word for note in notes for word in note.text.split()]
    piece = st.one_of(
        st.sampled_from(values),
        st.sampled_from(CUES[language]),
        st.sampled_from(NAMES[language]),
        st.sampled_from(words),
        st.sampled_from(["[PERSON]", "[...]", "XXXX", "\ue000"]),
    )
    parts = st.tuples(piece, st.sampled_from([" ", " ", ", ", "; ", "\n", ": ", ""]))
    return st.lists(parts, max_size=9).map(lambda all_: "".join(a + b for a, b in all_))


def adversary(seed: int) -> models.Model:
    """Marks arbitrary words and halves of words, the same ones in the same text."""

    def find(text: str) -> Iterator[Span]:
        for match in re.finditer(r"\w+[:.]?|[^\w\s]", text):
            draw = zlib.crc32(f"{seed} {match.start()} {match[0]}".encode("utf-8", "replace"))
            start, end = match.span()
            if draw % 3 == 0:
                middle = (start + end + 1) // 2
                end = middle if draw % 2 else end
                yield Span(start, end, ("PERSON", "LOCATION", "DATE")[draw // 6 % 3], 0.6)

    return find


@cache
def rules(language: str) -> Detector:
    return Detector(MaskingConfig(languages=(language,)))


@cache
def beside(language: str, model: str) -> Detector:
    """The bundled model, which needs English; or the adversary with its seed."""
    languages = ("en", "zh") if model == "bundled" and language == "zh" else (language,)
    config = MaskingConfig(languages=languages)
    if model == "bundled":
        return Detector(config, ner="bundled")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(models, "load_model", lambda ner: adversary(int(model)))
        return Detector(config, ner="bundled" if language == "en" else "spacy:none")


@cache
def without(language: str, model: str) -> Detector:
    """The rules of the same languages as `beside`."""
    both = model == "bundled" and language == "zh"
    return Detector(MaskingConfig(languages=("en", "zh"))) if both else rules(language)


@pytest.fixture(scope="module", autouse=True)
def _lists_are_read() -> None:
    for language in ("en", "zh"):
        for model in ("bundled", "1", "2"):
            beside(language, model).find("Jane Doe, 张三")


def places(detector: Detector, text: str, field: str) -> set[int]:
    spans = detector.find(text, field)
    return {place for span in spans for place in range(span.start, span.end)}


@pytest.mark.parametrize("model", ["bundled", "1", "2"])
@pytest.mark.parametrize("language", ["en", "zh"])
@given(data=st.data(), field=st.sampled_from(["", "", "phone", "patient_name"]))
@QUICK
def test_every_character_that_the_rules_mask_is_masked_beside_a_model(
    language: str, model: str, data: st.DataObject, field: str
) -> None:
    text = data.draw(texts(language))
    alone = places(without(language, model), text, field)
    assert alone <= places(beside(language, model), text, field)


@pytest.mark.parametrize("text", LOST)
@pytest.mark.parametrize("model", ["bundled", "1", "2"])
def test_a_cue_that_the_model_takes_hides_no_number(model: str, text: str) -> None:
    assert places(rules("en"), text, "") <= places(beside("en", model), text, "")


@pytest.mark.parametrize("model", ["bundled", "1", "2"])
@pytest.mark.parametrize("language", ["en", "zh"])
@given(data=st.data())
@QUICK
def test_the_rest_is_unchanged(language: str, model: str, data: st.DataObject) -> None:
    text = data.draw(texts(language))
    spans = beside(language, model).find(text)
    pieces, end = [], 0
    for span in spans:
        assert end <= span.start < span.end <= len(text)
        pieces += [text[end : span.start], f"[{span.entity_type}]"]
        end = span.end
    assert mask(text, spans) == "".join(pieces) + text[end:]


@pytest.mark.parametrize("language", ["en", "zh"])
@given(data=st.data())
@example(data=None)
@QUICK
def test_masking_twice_is_masking_once(language: str, data: st.DataObject | None) -> None:
    detector = beside(language, "bundled")
    for text in LOST if data is None else (data.draw(texts(language)),):
        once = mask(text, detector.find(text))
        assert mask(once, detector.find(once)) == once
