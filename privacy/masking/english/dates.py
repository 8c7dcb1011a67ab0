"""Dates: `14 March 2019`, `3/14/2019`, `from 3rd to 5th of june`, `Thursday the fifth of may`.

`may` with a small letter is a verb unless a day stands beside it and the sentence can end there.
"""

import re
from collections.abc import Iterator
from functools import lru_cache

from privacy.masking.patterns import (
    AFTER,
    Finder,
    Place,
    Rules,
    any_in,
    digit_runs,
    is_date,
    last_word,
    lowered,
    numbered,
)

_MONTH = (
    r"(?:Jan(?:uary)?|Feb(?:ruary)?|Mar(?:ch)?|Apr(?:il)?|(?-i:May|MAY)|June?|July?|"
    r"Aug(?:ust)?|Sep(?:t(?:ember)?)?|Oct(?:ober)?|Nov(?:ember)?|Dec(?:ember)?)\.?"
)
_WEEKDAY = (
    r"(?:(?:Mon|Tues|Wednes|Thurs|Fri|Satur|Sun)day|(?:Mon|Tues?|Wed|Thur?s?|Fri|Sat|Sun)\.?)"
)
_TIME = r"(?:[T ][0-9]{1,2}:[0-9]{2}(?::[0-9]{2})?(?:\.[0-9]+)?Z?)?"
_LETTER_BEFORE = r"(?<![A-Z])"
# `Thursday, the 5th`, `Sat - 5th June`.
_ON_WEEKDAY = rf"(?:{_LETTER_BEFORE}{_WEEKDAY} ?[,\-]? ?(?:on )?(?:the |of )?)"
_TH = r"(?: ?(?:st|nd|rd|th)(?![A-Z]))"
_DAY = rf"[0-9]{{1,2}}{_TH}?"
_ORDINAL = rf"[0-9]{{1,2}}{_TH}"
_TO_DAY = r" ?(?:-|/|&|to|till|until|through|and|or) ?(?:the )?"
_OF = rf"(?:(?:(?:day|week|weekend|half|{_WEEKDAY}) (?:of|in)|of) )"
_SAID_YEAR = r" (?:this|last|next) year(?![A-Z])"
_DAY_TOO = (
    r"(?:,? (?:(?:Mon|Tues|Wednes|Thurs|Fri|Satur|Sun)day|"
    r"(?:in the )?(?:morning|afternoon|evening)|night)(?![A-Z]))?"
)
_IN_YEAR = rf",? (?:in|of) (?:19|20)[0-9]{{2}}{AFTER}"
_YEAR = (
    rf"(?: ?[ ,\-/]{{1,2}}'?(?:[0-9]{{4}}|[0-9]{{2}}){AFTER}|{_IN_YEAR}|{_SAID_YEAR})?{_DAY_TOO}"
)
_ENDS = (
    r"(?=$|[ ]?[.,;:!?)\-0-9\n]| (?:at|for|to|and|until|till|i|we|in|on|from|it|please)(?![A-Z]))"
)
_STOPS = r"(?=$|[.,;!?)\n](?![0-9])| (?:please|i|we|how|what|but|because|at|thanks)(?![A-Z]))"
# Not `3. July 18, 2007`: the number of a line.
_SURE_MONTH = (
    r"(?=(?:Jan|Feb|Apr|Ju[nl]|Aug|Sep|Oct|Nov|Dec)[a-z]*(?![a-z.]| ?[0-9]{1,2}(?![0-9])))"
)
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
_YEAR_SAID = rf"(?:,? (?:19|20)[0-9]{{2}}(?![0-9])|{_SAID_YEAR})?"
_DAY_SAID = re.compile(
    rf"{_ON_WEEKDAY}?(?<![a-z])(?:{_SPELLED_DAY})(?: day)? (?P<of>of )?$", re.IGNORECASE
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


def _beside_month(pattern: str, *, back: str = "", reach: int = 60) -> Finder:
    return numbered(pattern, back=back, reach=reach, runs=_near_months)


def _months(text: str) -> Iterator[Place]:
    """A month by its name: a date element even without a day."""
    for start in _month_places(text):
        match = _FULL_MONTH.match(text, start)
        if match is None or text[start - 1 : start].isalpha():
            continue
        if match[0] not in _DOUBTFUL or last_word(text, start).lower() in _IN:
            yield match.span()


def _relative(text: str) -> Iterator[Place]:
    """`two weeks after June 3rd`, `the week of 3 June`: whole, it is a date like the other."""
    for place in _month_places(text):
        match = _RELATIVE.search(text, max(0, place - 56), place + 16)
        if match:
            yield match.span()


_RELATIVE = re.compile(
    rf"{_LETTER_BEFORE}(?:(?:the )?(?:week|weekend|day) of|(?:(?:the|an?|one|two|three|four|"
    r"[0-9]{1,2}) )?(?:days?|weeks?|months?) (?:after|before|from|following|prior to)) "
    rf"{_ON_WEEKDAY}?(?:the )?(?:{_DAY} ?(?:of )?{_MONTH}|{_MONTH} (?:the )?{_DAY})(?![A-Z0-9])",
    re.IGNORECASE,
)


def _spelled(text: str) -> Iterator[Place]:
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


RULES: Rules = {
    "DATE": (
        (
            0.8,
            numbered(
                rf"[0-9]{{4}}(?P<s> ?[/.\-] ?)[0-9]{{1,2}}(?P=s)[0-9]{{1,2}}{AFTER}{_TIME}",
                least=6,
                check=is_date,
            ),
        ),
        (
            0.8,
            numbered(
                rf"[0-9]{{1,2}} ?(?P<s>[/\-]) ?[0-9]{{1,2}} ?(?P=s) ?"
                rf"(?:[0-9]{{4}}|[0-9]{{2}}){AFTER}{_TIME}",
                least=4,
                back=rf"(?P<value>{_ON_WEEKDAY}?)",
                reach=18,
                check=is_date,
            ),
        ),
        (
            0.8,
            numbered(
                rf"(?:[0-9]{{1,2}}\.[0-9]{{1,2}}\.[0-9]{{4}}|[0-9]{{2}}\.[0-9]{{2}}\.[0-9]{{2}})"
                rf"{AFTER}",
                least=6,
                check=is_date,
            ),
        ),
        (0.6, numbered(rf"(?:19|20)[0-9]{{6}}{AFTER}", least=8, check=is_date)),
        (0.6, numbered(r"(?:0?[1-9]|1[0-2])/(?:19|20)[0-9]{2}(?![0-9/])", least=5)),
        (
            0.5,
            numbered(
                r"(?:(?:0?[1-9]|1[0-2])/(?:0?[1-9]|[12][0-9]|3[01])|"
                r"(?:1[3-9]|2[0-9]|3[01])/(?:0?[1-9]|1[0-2]))(?![0-9/])",
                least=2,
                back=rf"{_LETTER_BEFORE}(?:on|dated|since|until|till|dob:?) ",
                reach=8,
            ),
        ),
        # `Thursday 16th`, `Sat 5/11`.
        (
            0.7,
            numbered(
                rf"(?:{_ORDINAL}|[0-9]{{1,2}}/[0-9]{{1,2}}(?![0-9/.%]))",
                back=rf"(?P<value>{_ON_WEEKDAY})",
                reach=18,
            ),
        ),
        # `March 14th, 2019`, `Mon, June the 3rd`, `Nov/1/2019`.
        (
            0.8,
            _beside_month(
                rf"(?:[0-9]{{1,2}}{_TH}?(?: ?[ ,\-/]{{1,2}}(?:[0-9]{{4}}|'[0-9]{{2}}){AFTER}|"
                rf"{_IN_YEAR}|{_SAID_YEAR}|{AFTER}){_DAY_TOO}|[0-9]{{4}}{AFTER})",
                back=rf"{_LETTER_BEFORE}(?P<value>(?:{_ON_WEEKDAY}|"
                rf"(?:19|20)[0-9]{{2}}[ ,\-/]{{1,2}})?{_MONTH}[ ,\-/]{{0,3}}(?:the |of )?)",
                reach=36,
            ),
        ),
        # `14th of March`, `the 22nd, July`, `1st week of June`, `27. February`.
        (
            0.8,
            _beside_month(
                rf"(?:{_ORDINAL}(?: ?,)? ?-?(?:in )?|[0-9]{{1,2}}(?:[ \-]?|\. ?{_SURE_MONTH}))"
                rf"{_OF}?{_MONTH}(?![A-Z]){_YEAR}",
                back=rf"(?P<value>{_ON_WEEKDAY}?)",
                reach=18,
            ),
        ),
        # `3-5 June`, `from the 3rd to the 5th of june`.
        (0.8, _beside_month(rf"{_DAY}{_TO_DAY}{_DAY} ?(?:of )?{_MONTH}(?![A-Z]){_YEAR}")),
        # `June 3rd to 5th`, `june 3-5`.
        (
            0.8,
            _beside_month(
                rf"{_DAY}(?: ?(?:-|to|till|until|through) ?(?:the )?{_DAY}|{_TO_DAY}{_ORDINAL})"
                rf"(?![0-9:.%/A-Z]| ?(?:am|pm|mg|ml|o'clock)(?![A-Z])){_YEAR}",
                back=rf"{_LETTER_BEFORE}(?P<value>{_MONTH}[ \-](?:the )?)",
                reach=16,
            ),
        ),
        # `21 st june`, `13/nov/2020`.
        (
            0.8,
            _beside_month(rf"(?:{_ORDINAL} ?(?:of )?|[0-9]{{1,2}}/){_MONTH}(?![A-Z]){_YEAR}"),
        ),
        (
            0.7,
            _beside_month(
                rf"(?:{_ORDINAL}(?: day)?(?: of may(?![A-Z])| may{_ENDS})|"
                rf"[0-9]{{1,2}}(?: of may(?![A-Z])| may(?:{_STOPS}|(?= ?,? ?20[0-9]{{2}}))))"
                rf"{_YEAR}",
                back=rf"(?P<value>{_ON_WEEKDAY}?)",
                reach=18,
            ),
        ),
        (
            0.7,
            _beside_month(
                rf"{_ORDINAL}{_YEAR}",
                back=rf"{_LETTER_BEFORE}(?P<value>{_ON_WEEKDAY}?may (?:the )?)",
                reach=26,
            ),
        ),
        (
            0.7,
            _beside_month(
                rf"[0-9]{{1,2}}{_ENDS}(?![.,:][0-9])",
                back=rf"(?:{_LETTER_BEFORE}(?:on|by|since|until|till|before|after|dated|of|from) |"
                rf"(?={_ON_WEEKDAY}))(?P<value>{_ON_WEEKDAY}?may (?:the )?)",
                reach=26,
            ),
        ),
        # `from the 16th to the 22nd`, `on the 3rd.`: of a month that goes without saying.
        (
            0.6,
            numbered(
                rf"{_ORDINAL}(?:{_TO_DAY}{_ORDINAL})?{_STOPS}",
                back=rf"{_LETTER_BEFORE}(?:on|by|until|till|from|since|before|after|for|between|"
                r"starting) (?:the )?",
                reach=16,
            ),
        ),
        (
            0.6,
            numbered(
                rf"(?:{_ORDINAL} (?:of )?(?:this|last|next|the|each|every)|"
                r"[0-9]{1,2} of (?:this|last|next)) month(?![A-Z])",
            ),
        ),
        (0.5, _months),
        (0.6, _relative),
        (0.5, _spelled),
    ),
}
