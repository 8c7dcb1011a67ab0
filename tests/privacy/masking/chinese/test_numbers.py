"""China's identifiers: published numbers first, then any neighbour, then what is none."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from privacy.masking.checksums import resident_id_holds, social_credit_code_holds
from privacy.masking.config import ENTITY_TYPES
from privacy.masking.mask import mask, merge
from privacy.masking.recognisers import find

# The examples that GB 11643-1999 and GB 32100-2015 print.
RESIDENT_ID = "11010519491231002X"
CREDIT_CODE = "91350100M000100Y43"

EXAMPLES = {
    "CREDIT_CARD": (
        "6222021234567890128",
        "6228480402564890018",
        "6222 0212 3456 7890 128",
        "4111 1111 1111 1111",
    ),
    "PASSPORT": (
        "E12345678",
        "EA1234567",
        "G12345678",
        "PE1234567",
        "C12345678",
        "CA1234567",
        "H12345678",
        "M1234567890",
        "USA310078010101",
        "A123456(7)",
    ),
    "PHONE": (
        "13812345678",
        "138 1234 5678",
        "138-1234-5678",
        "+86 13812345678",
        "+86-138-1234-5678",
        "008613812345678",
        "86 19912345678",
        "010-88886666",
        "(0571)88886666",
        "0755 2688 8888",
        "021-62345678转801",
        "+86 10 8888 6666",
        "400-810-8888",
        "4008108888",
    ),
    "RESIDENT_ID": (
        RESIDENT_ID,
        "11010519491231002x",
        "440524188001010014",
        "110105 19491231 002X",
        "110105491231002",
        # Permanent residence card of foreigners, the form since 2023: it begins with a nine.
        "911124198108030024",
    ),
    "SOCIAL_CREDIT_CODE": (CREDIT_CODE,),
    "VEHICLE": (
        "京A12345",
        "粤B·12345",
        "沪AD12345",
        "苏E12345F",
        "川A1B2C3",
        "湘A1234学",
        "粤Z1234港",
        "浙A 8K888",
        "使014578",
        "WJ京12345",
    ),
}
CASES = [(kind, text) for kind, texts in EXAMPLES.items() for text in texts]
# A province's short name before a code may be part of a plate, digits of a number.
_PART_OF_A_NUMBER = (
    "转号京津沪渝冀豫云辽黑湘皖鲁新苏浙赣鄂桂甘晋蒙陕吉闽贵粤青藏川宁琼使"
    "元万岁天次个例年月级期港澳学警挂领分一二三四五六七八九十"
)
HAN = st.characters(min_codepoint=0x4E00, max_codepoint=0x9FFF).filter(
    lambda sign: sign not in _PART_OF_A_NUMBER
)
FULL_WIDTH = {ord(str(digit)): 0xFF10 + digit for digit in range(10)}


def masked(text: str, *kinds: str) -> str:
    return mask(text, merge(find(text, kinds or ENTITY_TYPES, ("zh",))))


def test_the_published_examples_pass_their_checksums() -> None:
    assert resident_id_holds(RESIDENT_ID)
    assert resident_id_holds("440524188001010014".replace("1880", "1980")) is False
    assert social_credit_code_holds(CREDIT_CODE)
    # The standard's own example of a code that fails: its check sign is Z where 3 is due.
    assert not social_credit_code_holds("91350100M000100Y4Z")


@pytest.mark.parametrize(("kind", "text"), CASES)
def test_each_form_is_found_whole_between_han_characters(kind: str, text: str) -> None:
    assert masked(f"其为{text}，已记录", kind) == f"其为[{kind}]，已记录"
    assert masked(f"其为{text}已记录", kind) == f"其为[{kind}]已记录"


@pytest.mark.parametrize(("kind", "text"), CASES)
def test_each_form_has_the_right_type_among_all(kind: str, text: str) -> None:
    assert f"[{kind}]" in masked(f"记录：{text}。")


@settings(deadline=None)
@given(st.sampled_from(CASES), HAN, HAN)
def test_no_han_neighbour_hides_an_identifier(
    case: tuple[str, str], left: str, right: str
) -> None:
    kind, text = case
    assert masked(f"{left}{text}{right}", kind) == f"{left}[{kind}]{right}"


@pytest.mark.parametrize(("kind", "text"), CASES)
def test_full_width_digits_and_invisible_characters_hide_nothing(kind: str, text: str) -> None:
    assert masked(f"其为{text.translate(FULL_WIDTH)}，", kind) == f"其为[{kind}]，"
    hidden = "\u200b".join(text)
    assert masked(f"其为{hidden}，", kind) == f"其为[{kind}]，"


@pytest.mark.parametrize(
    "text",
    [
        "血压120/80mmHg，心率72次/分，体温36.8℃，白细胞5.6×10^9/L",
        "2000-3000元/月，增长12.5%，第3季度营收1280万元",
        "约5*4*2cm大小，淋巴结1/15见癌转移，CEA 3.21ng/ml",
        "T12椎体，L4/5椎间盘，HbA1c 6.8%，CD4细胞350个",
        "给予奥沙利铂200mg d1，亚叶酸钙0.3g d2-6",
        "12号染色体，3号床，5号楼梯",
    ],
)
def test_measurements_and_amounts_stay(text: str) -> None:
    assert masked(text) == text


def test_a_wrong_check_character_still_hides_a_birthday() -> None:
    assert masked("证件110105194912310021，") == "证件[RESIDENT_ID]，"


def test_a_covered_resident_id_is_masked_whole() -> None:
    assert masked("证件110105********002X。") == "证件[RESIDENT_ID]。"


@pytest.mark.parametrize("number", ["110105491331002", "990105491231002"])
def test_fifteen_digits_without_a_date_or_a_province_are_no_resident_id(number: str) -> None:
    assert masked(number, "RESIDENT_ID") == number
