"""Dates and high ages as Chinese text writes them, in digits of any kind and of either calendar.

A year alone stays: it is the one date element that may. Durations (3个月, 5天) stay too.
"""

from privacy.masking.patterns import AFTER, BEFORE, Rules, is_date, pattern

_HAN_DIGIT = "〇○零0一二三四五六七八九"
_HAN_1_9 = "一二三四五六七八九"
_YEAR = rf"(?:[0-9]{{4}}|[0-9]{{2}}|[{_HAN_DIGIT}]{{4}}|[{_HAN_DIGIT}]{{2}})"
_LONG_YEAR = rf"(?:[0-9]{{4}}|[{_HAN_DIGIT}]{{4}})"
_THIS_YEAR = "[今去明前后当同本次翌]"
_MONTH = rf"(?:1[0-2]|0?[1-9]|十[一二]?|正|元|腊|冬|[{_HAN_1_9}])"
_DAY = rf"(?:3[01]|[12][0-9]|0?[1-9]|三十一?|(?:二?十|廿)[{_HAN_1_9}]?|[{_HAN_1_9}])"
_LUNAR_DAY = rf"(?:初[{_HAN_1_9}十]|[十廿卅][{_HAN_1_9}]|十|[二三]十|[一二]十[{_HAN_1_9}])"
_MONTH_NUMBER = r"(?:1[0-2]|0?[1-9])"
_DAY_NUMBER = r"(?:0?[1-9]|[12][0-9]|3[01])"
_NO_NUMBER = rf"(?<![0-9.{_HAN_1_9}十])"
_SINCE = "(?<=[于在自从至到])"
# `3月` is a date, `3月余`, `3月后` and `3个月` are durations.
_NO_DURATION = "(?![0-9余多来馀前后内间大龄婴之以])"
_PART = "[ ]?(?:初|上旬|中旬|下旬|底|末|中)"
# More days of the same month: 5月3日至8日, 5月3、4、5日.
_MORE_DAYS = rf"(?:[ ]?[至到~\-—、,及和][ ]?{_DAY}[日号])*"
_UNITS = r"(?![0-9/.\-]| ?[分小天周个次倍年%mcd元万岁公毫℃°度厘月点以左多段期号级kghlU×*x])"
_NO_DAY = "(?!线|楼|院|室|门|床|方|位)"
_HIGH_AGE = "(?:9[0-9]|1[0-3][0-9])"
_NO_LOWER = rf"(?<![{_HAN_1_9}百千第〇零])"
_YEARS_OLD = "[几多余来]?[ ]?[周虚足]?[ ]?岁"

RULES: Rules = {
    "AGE": (
        (0.8, pattern(rf"{BEFORE}{_HIGH_AGE}[ ]?{_YEARS_OLD}", needs="岁")),
        (
            0.8,
            pattern(
                r"(?:年龄|高龄|享年|终年|现年|岁数)[是为约:\s(]{0,3}"
                rf"(?P<value>{_HIGH_AGE}(?![0-9.%]))"
            ),
        ),
        (
            0.8,
            pattern(
                rf"{_NO_LOWER}(?:九十[{_HAN_1_9}]?|一?百[零〇{_HAN_1_9}十]{{0,3}}){_YEARS_OLD}",
                needs="岁",
            ),
        ),
        (0.7, pattern(rf"{_NO_LOWER}九旬|期颐之?年")),
    ),
    "DATE": (
        (
            0.9,
            pattern(
                rf"{_NO_NUMBER}(?:(?:民国|公元|西元)[ ]?)?(?:{_YEAR}|{_THIS_YEAR})[ ]?年"
                rf"(?:农历|阴历)?[ ]?{_MONTH}[ ]?月份?[ ]?(?:{_DAY}[ ]?[日号]|{_LUNAR_DAY})"
                rf"{_MORE_DAYS}",
                needs="年",
            ),
        ),
        (
            0.85,
            pattern(
                rf"{_NO_NUMBER}(?:{_LONG_YEAR}[ ]?|{_THIS_YEAR})年[ ]?"
                rf"(?:{_MONTH}[ ]?月份?(?:{_PART})?|年?[初底末]|[春夏秋冬][季天])",
                needs="年",
            ),
        ),
        (
            0.7,
            pattern(
                rf"{_SINCE}(?P<value>[0-9]{{2}}[ ]?年[ ]?{_MONTH}[ ]?月份?{_NO_DURATION})",
                needs="年",
            ),
        ),
        (
            0.85,
            pattern(rf"{_NO_NUMBER}{_MONTH}[ ]?月份?[ ]?{_DAY}[ ]?[日号]{_MORE_DAYS}", needs="月"),
        ),
        (
            0.85,
            pattern(
                rf"(?:农历|阴历|旧历)?闰?{_MONTH}月{_LUNAR_DAY}(?![{_HAN_1_9}十])", needs="月"
            ),
        ),
        (
            0.7,
            pattern(
                rf"大年(?:初[{_HAN_1_9}十]|三十)|(?:农历|阴历)除夕|农历.{{0,2}}月初?[{_HAN_1_9}十]"
            ),
        ),
        (
            0.6,
            pattern(
                rf"(?<=[于在自从至到月])(?P<value>{_MONTH_NUMBER}月份?(?:{_PART})?){_NO_DURATION}",
                needs="月",
            ),
        ),
        (0.6, pattern(rf"[本当同上下次翌该]月[ ]?(?P<value>{_DAY}[ ]?[日号])", needs="月")),
        (0.6, pattern(rf"{_SINCE}[ ]?(?P<value>{_DAY_NUMBER}[日号]){_NO_DAY}")),
        (
            0.85,
            pattern(
                rf"{BEFORE}[0-9]{{4}}(?P<s> ?[/.\-] ?)[0-9]{{1,2}}(?P=s)[0-9]{{1,2}}{AFTER}",
                check=is_date,
            ),
        ),
        (
            0.8,
            pattern(
                rf"{BEFORE}[0-9]{{1,2}}(?P<s>[/\-])[0-9]{{1,2}}(?P=s)"
                rf"(?:[0-9]{{4}}|[0-9]{{2}}){AFTER}",
                check=is_date,
            ),
        ),
        (
            0.8,
            pattern(
                rf"{BEFORE}(?:[0-9]{{1,2}}\.[0-9]{{1,2}}\.[0-9]{{4}}|"
                rf"[0-9]{{2}}\.[0-9]{{2}}\.[0-9]{{2}})(?![0-9]|\.[0-9])",
                check=is_date,
                needs=".",
            ),
        ),
        (
            0.7,
            pattern(
                rf"{BEFORE}[0-9]{{2}}(?P<s>[/\-]){_MONTH_NUMBER}(?P=s){_DAY_NUMBER}"
                r"(?![0-9]|[/\-][0-9])"
            ),
        ),
        (
            0.7,
            pattern(
                rf"{BEFORE}(?:19|20)[0-9]{{2}}[/.\-](?:0[1-9]|1[0-2]|[1-9])(?![0-9.%/]|-[0-9])"
            ),
        ),
        (0.6, pattern(rf"{BEFORE}(?:19|20)[0-9]{{6}}{AFTER}", check=is_date)),
        (
            0.5,
            pattern(
                rf"{_SINCE}[ ]?(?P<value>{_MONTH_NUMBER}"
                rf"(?:[/\-]{_DAY_NUMBER}|\.(?:0[1-9]|[12][0-9]|3[01]))){_UNITS}"
            ),
        ),
    ),
}
