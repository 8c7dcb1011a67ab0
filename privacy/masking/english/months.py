"""Months by their names: where they stand, and dates that stand around them in words."""

import re
from collections.abc import Iterator
from functools import lru_cache

from privacy.masking.patterns import (
    Finder,
    Place,
    any_in,
    digit_runs,
    last_word,
    lowered,
    numbered,
)

MONTH = (
    r"(?:Jan(?:uary)?|Feb(?:ruary)?|Mar(?:ch)?|Apr(?:il)?|(?-i:May|MAY)|June?|July?|"
    r"Aug(?:ust)?|Sep(?:t(?:ember)?)?|Oct(?:ober)?|Nov(?:ember)?|Dec(?:ember)?)\.?"
)
WEEKDAY = (
    r"(?:(?:Mon|Tues|Wednes|Thurs|Fri|Satur|Sun)day|(?:Mon|Tues?|Wed|Thur?s?|Fri|Sat|Sun)\.?)"
)
LETTER_BEFORE = r"(?<![A-Z])"
# `Thursday, the 5th`, `Sat - 5th June`.
ON_WEEKDAY = rf"(?:{LETTER_BEFORE}{WEEKDAY} ?[,\-]? ?(?:on )?(?:the |of )?)"
TH = r"(?: ?(?:st|nd|rd|th)(?![A-Z]))"
DAY = rf"[0-9]{{1,2}}{TH}?"
SAID_YEAR = r" (?:this|last|next) year(?![A-Z])"
_FULL_MONTH = re.compile(
    "(?:January|February|March|April|May|June|July|August|September|October|November|December)"
    "(?![A-Za-z])"
)
# Words and names too, or seldom anything but the month.
_DOUBTFUL = frozenset({"March", "May", "June", "July", "August", "April"})
_IN = frozenset(
    {"early", "late", "mid", "since", "in", "last", "next", "of", "this", "until", "by", "from"}
)
_SPELLED_DAYS = (
    "first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth",
    "eleventh", "twelfth", "teenth", "twentieth", "thirtieth",
)  # fmt: skip
_SPELLED_DAY = (
    r"(?:(?:twenty|thirty)[ \-]?)?(?:first|second|third|fourth|fifth|sixth|seventh|eighth|"
    r"ninth)|tenth|eleventh|twelfth|(?:thir|four|fif|six|seven|eigh|nine)teenth|twentieth|thirtieth"
)
_MONTHS_SAID = (
    "jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec",
)  # fmt: skip
_YEAR_SAID = rf"(?:,? (?:19|20)[0-9]{{2}}(?![0-9])|{SAID_YEAR})?"
_DAY_SAID = re.compile(
    rf"{ON_WEEKDAY}?(?<![a-z])(?:{_SPELLED_DAY})(?: day)? (?P<of>of )?$", re.IGNORECASE
)
_MONTH_SAID = re.compile(
    r"(?:january|february|march|april|may|june|july|august|september|october|november|december|"
    r"jan|feb|mar|apr|jun|jul|aug|sept?|oct|nov|dec)(?![a-z])"
)
_NEXT_DAY_SAID = re.compile(
    rf" (?P<the>the )?(?:{_SPELLED_DAY})(?![a-z])(?P<year>{_YEAR_SAID})", re.IGNORECASE
)
_YEAR_AFTER = re.compile(_YEAR_SAID, re.IGNORECASE)


@lru_cache(maxsize=2)
def _month_places(text: str) -> tuple[int, ...]:
    """Where a month may begin, by its first three letters."""
    low = lowered(text)
    places = []
    for said in _MONTHS_SAID:
        place = low.find(said)
        while place >= 0:
            places.append(place)
            place = low.find(said, place + 3)
    return tuple(sorted(places))


@lru_cache(maxsize=2)
def _near_months(text: str) -> tuple[tuple[int, int, int], ...]:
    """The runs of digits beside which a month may stand: few, and ten rules ask for them."""
    places = _month_places(text)
    near, index = [], 0
    for run in digit_runs(text) if places else ():
        while index < len(places) and places[index] < run[0] - _NEAR:
            index += 1
        if index < len(places) and places[index] <= run[1] + _NEAR:
            near.append(run)
    return tuple(near)


# Wider than every pattern below that has a month.
_NEAR = 64


def beside_month(pattern: str, *, back: str = "", reach: int = 60) -> Finder:
    """A finder of `pattern`, which has a month, where a run of digits begins beside one."""
    return numbered(pattern, back=back, reach=reach, runs=_near_months)


def months(text: str) -> Iterator[Place]:
    """A month by its name: a date element even without a day."""
    for start in _month_places(text):
        match = _FULL_MONTH.match(text, start)
        if match is None or text[start - 1 : start].isalpha():
            continue
        if match[0] not in _DOUBTFUL or last_word(text, start).lower() in _IN:
            yield match.span()


def relative(text: str) -> Iterator[Place]:
    """`two weeks after June 3rd`, `the morning of 3 June`: whole, a date like the other."""
    for place in _month_places(text):
        match = _RELATIVE.search(text, max(0, place - 64), place + 24)
        if match:
            yield match.span()


_RELATIVE = re.compile(
    rf"{LETTER_BEFORE}(?:(?:the )?(?:week|weekend|day|eve|morning|afternoon|evening|"
    r"night|end|start|beginning|middle) of|(?:(?:the|an?|one|two|three|four|"
    r"[0-9]{1,2}) )?(?:days?|weeks?|months?) (?:after|before|from|following|prior to)) "
    rf"{ON_WEEKDAY}?(?:the )?(?:{DAY} ?(?:of )?{MONTH}|{MONTH} (?:the )?{DAY})(?![A-Z0-9])",
    re.IGNORECASE,
)


def spelled(text: str) -> Iterator[Place]:
    """`Sunday the fifth of may`, `january twelfth`, `tenth Sep`."""
    low = lowered(text)
    if not any_in(low, _SPELLED_DAYS):
        return
    for place in _month_places(text):
        month = None if low[place - 1 : place].isalpha() else _MONTH_SAID.match(low, place)
        if month is None:
            continue
        # `the second may be`, `march second`: small words that need help to be months.
        doubtful = month[0] in ("may", "march", "mar") and text[place].islower()
        day = _DAY_SAID.search(low, max(0, place - 40), place)
        if day and (day["of"] or not doubtful):
            year = _YEAR_AFTER.match(low, month.end())
            yield day.start(), year.end() if year else month.end()
        after = _NEXT_DAY_SAID.match(low, month.end())
        if after and (after["the"] or after["year"] or not doubtful):
            yield place, after.end()
