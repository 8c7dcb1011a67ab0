"""Names where text says who somebody is, and words that only look like names."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from privacy.masking.chinese import lexicon
from privacy.masking.chinese.names import find_names
from privacy.masking.config import ENTITY_TYPES
from privacy.masking.mask import mask, merge
from privacy.masking.recognisers import find


def masked(text: str, *kinds: str) -> str:
    return mask(text, merge(find(text, kinds or ("PERSON",), ("zh",))))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("姓名：王小明  性别：男", "姓名：[PERSON]  性别：男"),
        ("姓名王小明性别男", "姓名[PERSON]性别男"),
        ("患者李秀英因腹痛入院", "患者[PERSON]因腹痛入院"),
        ("患者谢伟于2015年来院", "患者[PERSON]于2015年来院"),
        ("由张建国医师主刀", "由[PERSON]医师主刀"),
        ("其子王强陪同，其女陈静签字", "其子[PERSON]陪同，其女[PERSON]签字"),
        ("经办人：赵敏 复核：刘洋", "经办人：[PERSON] 复核：[PERSON]"),
        ("转账给李秀英5000元", "转账给[PERSON]5000元"),
        ("联系人：欧阳娜（妻子）", "联系人：[PERSON]（妻子）"),
        ("住院医师 周磊 / 主治医师 吴倩", "住院医师 [PERSON] / 主治医师 [PERSON]"),
        ("遵司马相如主任医嘱", "遵[PERSON]主任医嘱"),
    ],
)
def test_a_full_name_is_masked_and_its_surroundings_stay(text: str, expected: str) -> None:
    assert masked(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("张先生来电，李女士未接", "[PERSON]先生来电，[PERSON]女士未接"),
        ("谢谢赵医生", "谢谢[PERSON]医生"),
        ("王某某与张某发生争执", "[PERSON]与[PERSON]发生争执"),
        ("客户王××，客户李**", "客户[PERSON]，客户[PERSON]"),
        ("小王，老张", "[PERSON]，[PERSON]"),
        ("您好，我姓陈", "您好，我姓[PERSON]"),
    ],
)
def test_part_of_a_name_is_masked_where_it_is_clear(text: str, expected: str) -> None:
    assert masked(text) == expected


@pytest.mark.parametrize(
    "name",
    ["买买提·艾力", "古丽娜尔·吐尔逊", "阿卜杜拉·热依木", "迪丽热巴·迪力木拉提", "马克·扎克伯格"],
)
def test_a_name_with_a_dot_is_masked_whole(name: str) -> None:
    assert masked(f"患者{name}，男") == "患者[PERSON]，男"
    assert masked(f"患者{name.replace('·', '•')}，男") == "患者[PERSON]，男"


def test_who_is_named_once_is_masked_everywhere() -> None:
    assert masked("借款人：高畅，高畅配偶另行签字") == "借款人：[PERSON]，[PERSON]配偶另行签字"


@pytest.mark.parametrize(
    "text",
    [
        "高血压病史10年，高热3天，高敏肌钙蛋白升高",
        "黄疸，黄染，白细胞升高，白蛋白降低",
        "患者于晨起时出现腹痛，查体无特殊，平卧位",
        "全麻成功后，术程顺利，予以安返病房",
        "给予阿莫西林、孟鲁司特、利巴韦林、左氧氟沙星、雷贝拉唑",
        "贵金属、石油、金融、时间、方案、任何、许可、成功、常规、明显",
        "周一至周日营业，周期为三个月，余额不足，应还金额",
        "请向我行申请，和解协议，于是，但是，都是，那么",
        "患者：谢谢\n医生：明白\n患者：好的，谢谢医生",
        "班主任，客户经理，值班医生，管床医师，主任医师",
        "石膏固定，水肿消退，温度正常，江苏省人民医院",
    ],
)
def test_words_that_begin_like_a_name_stay(text: str) -> None:
    assert masked(text) == text


def test_a_name_split_by_invisible_characters_is_found() -> None:
    assert masked("姓名：王\u200b小\u200b明，男") == "姓名：[PERSON]，男"


@settings(deadline=None)
@given(st.text(alphabet=st.sampled_from("王李张小老阿欧阳司马明伟某·×先生，。：患者姓名于的a1 ")))
def test_names_lie_in_the_text_and_are_not_empty(text: str) -> None:
    for start, end in find_names(text):
        assert 0 <= start < end <= len(text)


def test_the_lists_are_whole() -> None:
    surnames = lexicon.read_surnames()
    assert {"王", "欧阳", "傅", "萧"} <= set(surnames)
    # Shares of people: together about one.
    assert 0.9 < sum(2.718281828**score for score in surnames.values()) < 1.1
    assert len(lexicon.read_words()) > 100_000
    assert {"杭州市", "新疆维吾尔自治区", "西湖区"} <= {
        name for names in lexicon.read_groups("places.txt").values() for name in names
    }


@pytest.mark.parametrize(
    "piece",
    [
        *"王张小·1号路市年月:",
        "王某",
        "欧阳",
        "姓名：",
        "病历号",
        "北京市",
        "建设路12号",
        "5月",
        "6222 ",
        "〇",
        "二",
        "王明伟",
        "一二",
        "阿·",
    ],
)
@pytest.mark.timeout(20)
def test_no_chinese_text_takes_long(piece: str) -> None:
    find(piece * (20_000 // len(piece)) + "。", ENTITY_TYPES, ("zh",))
