"""Dates moved by a number of days, written as they were written.

A date that is read wholly keeps its distance in days to every other date that is moved by the same
number. Where a part is missing the distance is as exact as what is there: `March 2019` to the
month, `14 March` within a year. `3/4/2019` can be read two ways: after a slash or hyphen the month
comes first unless it cannot be one, after a full stop the day.
"""

import re
from collections.abc import Callable
from datetime import date, timedelta
from typing import NamedTuple

_MONTHS = (
    "January", "February", "March", "April", "May", "June",
    "July", "August", "September", "October", "November", "December",
)  # fmt: skip
_YEARS = range(1600, 2401)
_WORDS = r"(?P<month>[A-Za-z]{3,9})\.?"
_DAY = r"(?P<day>\d{1,2})(?P<th>st|nd|rd|th|ST|ND|RD|TH)?"
_YEAR = r"(?P<year>\d{4}|'?\d{2})"
_TIME = r"(?P<rest>(?:[T ,]{1,2}\d{1,2}:\d{2}(?::\d{2})?(?:\.\d+)?Z?(?: ?[AaPp]\.?[Mm]\.?)?)?)"


class _Read(NamedTuple):
    """What a text says of a date; None where it says nothing."""

    year: int | None
    month: int | None
    day: int | None


_Reader = Callable[[re.Match[str]], _Read]


def _month_number(word: str) -> int | None:
    for number, name in enumerate(_MONTHS, start=1):
        if name.lower().startswith(word.lower()) or (word.lower() == "sept" and number == 9):
            return number
    return None


def _whole_year(digits: str) -> int:
    digits = digits.lstrip("'")
    if len(digits) == 4:
        return int(digits)
    return int(digits) + (2000 if int(digits) < 70 else 1900)


def _by_name(match: re.Match[str]) -> _Read:
    found = match.groupdict()
    month = found.get("month")
    number = None
    if month is not None:
        number = int(month) if month.isdecimal() else _month_number(month) or 0
    year, day = found.get("year"), found.get("day")
    return _Read(
        None if year is None else _whole_year(year), number, None if day is None else int(day)
    )


def _by_order(match: re.Match[str]) -> _Read:
    first, second = int(match["first"]), int(match["second"])
    day_first = first > 12 or (match["s"].strip() == "." and second <= 12)
    month, day = (second, first) if day_first else (first, second)
    year = match.groupdict().get("year")
    return _Read(None if year is None else _whole_year(year), month, day)


_NUMERIC = r"(?P<first>\d{1,2})(?P<s> ?[/.\-] ?)(?P<second>\d{1,2})"
_FORMS: tuple[tuple[re.Pattern[str], _Reader], ...] = tuple(
    (re.compile(form + _TIME), reader)
    for form, reader in (
        (
            r"(?P<year>\d{4}) ?(?P<s>[/.\-]) ?(?P<month>\d{1,2}) ?(?P=s) ?(?P<day>\d{1,2})",
            _by_name,
        ),
        (r"(?P<year>\d{4})(?P<month>\d{2})(?P<day>\d{2})", _by_name),
        (rf"{_NUMERIC}(?P=s){_YEAR}", _by_order),
        (_NUMERIC, _by_order),
        (rf"{_WORDS}[ ,\-]{{0,2}}{_DAY}[ ,\-]{{1,2}}{_YEAR}", _by_name),
        (rf"{_WORDS}[ ,\-]{{0,2}}(?:of )?(?P<year>\d{{4}})", _by_name),
        (rf"{_WORDS}[ ,\-]{{0,2}}{_DAY}", _by_name),
        (rf"{_DAY}[ \-]?(?:(?:day )?of )?{_WORDS}[ ,\-]{{1,2}}{_YEAR}", _by_name),
        (rf"{_DAY}[ \-]?(?:(?:day )?of )?{_WORDS}", _by_name),
        (r"(?P<year>\d{4}) ?年 ?(?P<month>\d{1,2}) ?月 ?(?P<day>\d{1,2}) ?[日号]?", _by_name),
        (r"(?P<year>\d{4}) ?年 ?(?P<month>\d{1,2}) ?月(?:份)?", _by_name),
        (r"(?P<month>\d{1,2}) ?月 ?(?P<day>\d{1,2}) ?[日号]", _by_name),
        (r"(?P<year>\d{4}) ?年?", _by_name),
    )
)


def shifted(text: str, days: int) -> str | None:
    """`text` moved by `days`, None where it is no date that can be read."""
    for form, reader in _FORMS:
        match = form.fullmatch(text)
        if match is None:
            continue
        moved = _moved(reader(match), days)
        if moved is not None:
            return _written(match, moved, by_order=reader is _by_order)
    return None


def _moved(read: _Read, days: int) -> date | None:
    # 2000 had a 29th of February.
    year = 2000 if read.year is None else read.year
    month = 7 if read.month is None else read.month
    day = 15 if read.day is None else read.day
    if year not in _YEARS:
        return None
    try:
        return date(year, month, day) + timedelta(days=days)
    except ValueError:
        return None


def _written(match: re.Match[str], moved: date, *, by_order: bool) -> str:
    """The matched text with each part that it has replaced in its own style."""
    parts: dict[str, str] = {}
    found = {name: part for name, part in match.groupdict().items() if part}
    # `2019-12-11` is of a form that has zeros, `12/11/2019` is not.
    numbers = [found[name] for name in ("first", "second", "month", "day") if name in found]
    zeros = "year" in found and match.start("year") == 0
    zeros = zeros or any(number.startswith("0") for number in numbers)

    def like(said: str, value: int) -> str:
        return str(value).zfill(len(said) if zeros else 1)

    if by_order:
        first, second = int(match["first"]), int(match["second"])
        day_first = first > 12 or (match["s"].strip() == "." and second <= 12)
        values = (moved.day, moved.month) if day_first else (moved.month, moved.day)
        for name, value in zip(("first", "second"), values, strict=True):
            parts[name] = like(found[name], value)
    if "month" in found:
        month = found["month"]
        number = like(month, moved.month)
        parts["month"] = number if month.isdecimal() else _month_like(month, moved.month)
    if "day" in found:
        parts["day"] = like(found["day"], moved.day)
    if "th" in found:
        suffix = _suffix(moved.day)
        parts["th"] = suffix.upper() if found["th"].isupper() else suffix
    if "year" in found:
        year = found["year"]
        tail = f"{moved.year % 100:02d}" if len(year) < 4 else f"{moved.year:04d}"
        parts["year"] = ("'" if year.startswith("'") else "") + tail
    pieces, end = [], 0
    for name in sorted(parts, key=lambda part: match.start(part)):
        pieces += [match.string[end : match.start(name)], parts[name]]
        end = match.end(name)
    return "".join([*pieces, match.string[end:]])


def _month_like(said: str, month: int) -> str:
    name = _MONTHS[month - 1]
    if len(said) <= 4 and _MONTHS[(_month_number(said) or 1) - 1].lower() != said.lower():
        name = name[:3]
    if said.isupper():
        return name.upper()
    return name.lower() if said.islower() else name


def _suffix(day: int) -> str:
    if 10 <= day % 100 <= 20:
        return "th"
    return {1: "st", 2: "nd", 3: "rd"}.get(day % 10, "th")
