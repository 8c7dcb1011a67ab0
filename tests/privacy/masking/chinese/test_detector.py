"""The detector over Chinese text: any Unicode, masked once and for all, closed when blind."""

import subprocess
import sys
from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from privacy.errors import MaskingError
from privacy.masking import recognisers
from privacy.masking.config import ENTITY_TYPES, MaskingConfig
from privacy.masking.detect import Detector
from privacy.masking.mask import mask

PLANTED = (
    "11010519491231002X",
    "91350100M000100Y43",
    "13812345678",
    "010-88886666",
    "6222021234567890128",
    "京A12345",
    "E12345678",
    "2023年5月3日",
    "二〇二三年五月三日",
    "浙江省杭州市西湖区文三路12号3幢2单元501室",
    "jane.doe@example.org",
)
PIECES = (
    *PLANTED,
    "患者",
    "姓名：",
    "王小明",
    "张先生",
    "李某某",
    "买买提·艾力",
    "病历号",
    "密码：",
    "abc12345",
    "尾号",
    "北京市",
    "建设路",
    "12号",
    "92岁",
    "5月",
    "医生：谢谢",
    "[PERSON]",
    "[DATE",
    "XX/XX/2019",
    "，",
    " ",
    "：",
    "·",
    "\u200b",
    "\uff14",
    "\U00020000",
    "e\u0301",
    "7",
    "〇",
    "王",
    "于",
    "的",
)
ANY_TEXT = st.one_of(
    st.text(alphabet=st.characters()),  # lone surrogates too
    st.text(alphabet=st.characters(min_codepoint=0x4E00, max_codepoint=0x9FFF)),
    st.lists(st.one_of(st.sampled_from(PIECES), st.text(max_size=3)), max_size=14).map("".join),
)
HAN = st.text(
    alphabet=st.characters(min_codepoint=0x4E00, max_codepoint=0x9FFF).filter(
        lambda sign: (
            sign not in "京津沪渝冀豫云辽黑湘皖鲁新苏浙赣鄂桂甘晋蒙陕吉闽贵粤青藏川宁琼使元转"
        )
    ),
    min_size=1,
    max_size=8,
)


@cache
def detector() -> Detector:
    return Detector(MaskingConfig(languages=("zh",)))


def masked(text: str) -> str:
    return mask(text, detector().find(text))


@settings(deadline=None)
@given(ANY_TEXT)
def test_masking_twice_is_masking_once(text: str) -> None:
    once = masked(text)
    assert masked(once) == once


@settings(deadline=None)
@given(ANY_TEXT)
def test_spans_lie_in_the_text_in_order_and_the_rest_is_unchanged(text: str) -> None:
    spans = detector().find(text)
    pieces, end = [], 0
    for span in spans:
        assert end <= span.start < span.end <= len(text)
        assert span.entity_type in ENTITY_TYPES
        pieces += [text[end : span.start], f"[{span.entity_type}]"]
        end = span.end
    assert mask(text, spans) == "".join(pieces) + text[end:]


@settings(deadline=None)
@given(st.sampled_from(PLANTED), HAN, HAN)
def test_a_planted_value_stands_in_no_masked_text(value: str, left: str, right: str) -> None:
    assert value not in masked(f"{left}{value}{right}")


def test_what_came_masked_passes_unharmed() -> None:
    text = "患者[PERSON]于[DATE]入院，XXXX，[**Name**]，电话[PHONE]，病历号[RECORD_NUMBER]"
    assert masked(text) == text


def test_both_languages_together_find_what_each_finds() -> None:
    both = Detector(MaskingConfig(languages=("en", "zh")))
    text = "患者王小明 was seen by Dr. John Smith，手机13812345678。"
    result = mask(text, both.find(text))
    assert not any(name in result for name in ("王小明", "John", "Smith", "13812345678"))


@pytest.mark.parametrize("entity_type", ENTITY_TYPES)
def test_every_type_is_found_in_chinese_and_a_blind_rule_is_refused(
    entity_type: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = MaskingConfig(languages=("zh",), entity_types=(entity_type,))
    Detector(config)
    monkeypatch.setitem(recognisers.LANGUAGE_RULES, "zh", {})
    monkeypatch.setattr(recognisers, "EVERY_LANGUAGE", {})
    with pytest.raises(MaskingError, match=entity_type):
        Detector(config)


def test_the_word_lists_are_read_when_a_text_needs_them_and_not_before() -> None:
    program = (
        "import privacy.masking.recognisers as r, sys\n"
        "from privacy.masking.chinese import lexicon\n"
        "r.find('None here: 4111 1111 1111 1111', ('PERSON', 'LOCATION'), ('zh',))\n"
        "unread = lexicon.read_words.cache_info().misses == 0\n"
        "r.find('患者王小明', ('PERSON',), ('zh',))\n"
        "sys.exit(not (unread and lexicon.read_words.cache_info().misses == 1))"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
