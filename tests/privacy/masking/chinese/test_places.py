"""Addresses from the city down to the room, and cities by their names."""

import pytest

from privacy.masking.mask import mask, merge
from privacy.masking.recognisers import find


def masked(text: str) -> str:
    return mask(text, merge(find(text, ("LOCATION",), ("zh",))))


@pytest.mark.parametrize(
    "address",
    [
        "浙江省杭州市西湖区文三路12号3幢2单元501室",
        "北京市朝阳区建国路88号",
        "上海市浦东新区世纪大道100号",
        "新疆维吾尔自治区乌鲁木齐市天山区新华北路5号",
        "四川省凉山州西昌市王家村3组",
        "河北省邯郸市永年县和店乡45号",
        "广东深圳南山区科技园路1号",
        "建设路12号",
        "幸福小区3栋2单元501室",
        "王家庄村8号",
        "3号楼2单元501",
        "长沙县",
    ],
)
def test_an_address_is_masked_whole_and_its_cue_stays(address: str) -> None:
    assert masked(f"家住{address}，已婚") == "家住[LOCATION]，已婚"
    assert masked(f"住址：{address}。") == "住址：[LOCATION]。"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("患者来自广州", "患者来自[LOCATION]"),
        ("在郑州市打工", "在[LOCATION]打工"),
        ("邮编：310012", "邮编：[LOCATION]"),
        ("籍贯：山东", "籍贯：[LOCATION]"),
        ("北京市朝阳区建国路88号 100022", "[LOCATION]"),
        ("从深圳到大连", "从[LOCATION]到[LOCATION]"),
    ],
)
def test_places_are_masked(text: str, expected: str) -> None:
    assert masked(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "第三明显好转，大同小异，合作愉快，安康，来宾，日照时间",
        "肿瘤位于胃体、胃底部，直肠上段，右肺上叶",
        "股市、城市、超市、市场价、市区、地区、小区、病区、县级医院",
        "山东省、江苏省的一些医院",
        "3号床，5号楼梯，12号染色体，第2组",
        "道路、网路、通路、旁路、电路",
    ],
)
def test_ordinary_words_stay(text: str) -> None:
    assert masked(text) == text
