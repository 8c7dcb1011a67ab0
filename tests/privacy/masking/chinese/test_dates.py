"""Dates and high ages in all their Chinese forms; durations and lower ages stay."""

import pytest

from privacy.masking.mask import mask, merge
from privacy.masking.recognisers import find

DATES = (
    "2023年5月3日",
    "2023 年 5 月 3 日",
    "2023年05月03日",
    "23年5月3号",
    "5月3日",
    "12月31号",
    "2023年5月",
    "2023年5月初",
    "2023年底",
    "2023年春季",
    "去年12月",
    "今年3月5日",
    "二〇二三年五月三日",
    "二○二三年十二月三十一日",
    "五月三日",
    "十二月廿五日",
    "2023-05-03",
    "2023/5/3",
    "2023.5.3",
    "2023.05",
    "23/5/3",
    "20230503",
    "农历八月十五",
    "腊月初八",
    "正月初一",
    "5月3日至8日",
    "民国38年10月1日",
)
AGES = ("92岁", "95 周岁", "101岁", "九十二岁", "九十多岁", "一百零三岁", "90余岁")


def masked(text: str) -> str:
    return mask(text, merge(find(text, ("AGE", "DATE"), ("zh",))))


@pytest.mark.parametrize("date", DATES)
def test_each_form_of_a_date_is_masked_whole(date: str) -> None:
    assert masked(f"患者于{date}，入院") == "患者于[DATE]，入院"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("本月3日手术", "本月[DATE]手术"),
        ("于10.29行手术", "于[DATE]行手术"),
        ("自11-08起", "自[DATE]起"),
        ("于5月手术", "于[DATE]手术"),
        ("年龄：92", "年龄：[AGE]"),
    ],
)
def test_a_short_form_is_masked_where_a_word_says_what_it_is(text: str, expected: str) -> None:
    assert masked(text) == expected


@pytest.mark.parametrize("age", AGES)
def test_an_age_over_89_is_masked(age: str) -> None:
    assert masked(f"患者，{age}，女") == "患者，[AGE]，女"


@pytest.mark.parametrize(
    "text",
    [
        "89岁，六十五岁，3岁半，八十九岁",
        "3月余，2个月，6月龄，近10月来，病程5年，术后第3天",
        "2019年以来，90年代，5年生存率",
        "从1-3点，体温37.4，血糖7.8，第2-3天，2~3次/日",
        "3号床，12号染色体，5号文件",
        "增长92%，心率92次/分，氧饱和度98%",
    ],
)
def test_durations_lower_ages_and_measurements_stay(text: str) -> None:
    assert masked(text) == text
