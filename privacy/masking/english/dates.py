"""Dates as people say them: `from 3rd to 5th of june`, `the fifth of may`, `25th of this month`.

`may` with a small letter is a verb unless a day stands beside it and the sentence can end there.
"""

import re
from collections.abc import Iterator

from privacy.masking.patterns import AFTER, Place, Rules, any_in, lowered, numbered

_MONTH = (
    r"(?:Jan(?:uary)?|Feb(?:ruary)?|Mar(?:ch)?|Apr(?:il)?|(?-i:May|MAY)|June?|July?|"
    r"Aug(?:ust)?|Sep(?:t(?:ember)?)?|Oct(?:ober)?|Nov(?:ember)?|Dec(?:ember)?)\.?"
)
_DAY = r"[0-9]{1,2}(?: ?(?:st|nd|rd|th)(?![A-Z]))?"
_ORDINAL = r"[0-9]{1,2} ?(?:st|nd|rd|th)(?![A-Z])"
_TO_DAY = r" ?(?:-|/|&|to|till|until|through|and|or) ?(?:the )?"
_YEAR = rf"(?:[ ,\-/]{{1,2}}'?(?:[0-9]{{4}}|[0-9]{{2}}){AFTER})?"
_ENDS = r"(?=$|[ ]?[.,;:!?)\-0-9\n]| (?:at|for|to|and|until|till|i|we|in|on|from|it)(?![A-Z]))"
_LETTER_BEFORE = r"(?<![A-Z])"
_SPELLED_DAYS = (
    "first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth",
    "eleventh", "twelfth", "teenth", "twentieth", "thirtieth",
)  # fmt: skip
_SPELLED_DAY = (
    r"(?:(?:twenty|thirty)[ \-]?)?(?:first|second|third|fourth|fifth|sixth|seventh|eighth|"
    r"ninth)|tenth|eleventh|twelfth|(?:thir|four|fif|six|seven|eigh|nine)teenth|twentieth|thirtieth"
)
_MONTH_NAMES = (
    r"(?:january|february|march|april|may|june|july|august|september|october|november|december|"
    r"jan|feb|apr|jun|jul|aug|sept?|oct|nov|dec)(?![a-z])"
)
_MONTHS_SAID = (
    "january ", "february ", "march ", "april ", "may the ", "june ", "july ", "august ",
    "september ", "october ", "november ", "december ", "jan ", "feb ", "apr ", "jun ", "jul ",
    "aug ", "sep ", "sept ", "oct ", "nov ", "dec ",
)  # fmt: skip
_OF_ENDS = frozenset({"st", "nd", "rd", "th", "ay"})
_SAID_YEAR = r"(?:,? (?:19|20)[0-9]{2}(?![0-9]))?"
_DAY_SAID = re.compile(rf"(?<![a-z])(?:{_SPELLED_DAY})(?: day)?$")
_MONTH_SAID = re.compile(rf"{_MONTH_NAMES}{_SAID_YEAR}")
_NEXT_DAY_SAID = re.compile(rf"(?:the )?(?:{_SPELLED_DAY})(?![a-z]){_SAID_YEAR}")


def _spelled(text: str) -> Iterator[Place]:
    """`the fifth of may`, `january twelfth`."""
    low = lowered(text)
    if not any_in(low, _SPELLED_DAYS):
        return
    place = low.find(" of ")
    while place >= 0:
        if low[max(0, place - 2) : place] in _OF_ENDS:
            day = _DAY_SAID.search(low, max(0, place - 24), place)
            month = _MONTH_SAID.match(low, place + 4)
            if day and month:
                yield day.start(), month.end()
        place = low.find(" of ", place + 1)
    for said in _MONTHS_SAID:
        place = low.find(said)
        while place >= 0:
            after = _NEXT_DAY_SAID.match(low, place + len(said))
            if after and not "a" <= low[place - 1 : place] <= "z":
                yield place, after.end()
            place = low.find(said, place + 1)


RULES: Rules = {
    "DATE": (
        # `3-5 June`, `from the 3rd to the 5th of june`.
        (0.8, numbered(rf"{_DAY}{_TO_DAY}{_DAY} ?(?:of )?{_MONTH}(?![A-Z]){_YEAR}")),
        # `June 3rd to 5th`, `june 3-5`.
        (
            0.8,
            numbered(
                rf"{_DAY}(?: ?(?:-|to|till|until|through) ?(?:the )?{_DAY}|{_TO_DAY}{_ORDINAL})"
                rf"(?![0-9:.%/A-Z]| ?(?:am|pm|mg|ml|o'clock)(?![A-Z])){_YEAR}",
                back=rf"{_LETTER_BEFORE}(?P<value>{_MONTH}[ \-](?:the )?)",
                reach=16,
            ),
        ),
        # `21 st june`, `13/nov/2020`.
        (
            0.8,
            numbered(rf"(?:{_ORDINAL} ?(?:of )?|[0-9]{{1,2}}/){_MONTH}(?![A-Z]){_YEAR}"),
        ),
        (
            0.7,
            numbered(
                rf"(?:{_ORDINAL}(?: day)?(?: of may(?![A-Z])| may{_ENDS})|"
                rf"[0-9]{{1,2}} of may(?![A-Z])){_YEAR}"
            ),
        ),
        (
            0.7,
            numbered(
                rf"{_ORDINAL}{_YEAR}",
                back=rf"{_LETTER_BEFORE}(?P<value>may (?:the )?)",
                reach=9,
            ),
        ),
        (
            0.7,
            numbered(
                rf"[0-9]{{1,2}}{_ENDS}(?![.,:][0-9])",
                back=rf"{_LETTER_BEFORE}(?:on|since|until|till|before|after|dated|of) "
                r"(?P<value>may )",
                reach=12,
            ),
        ),
        (0.6, numbered(rf"{_ORDINAL} (?:of )?(?:this|last|next|the|each|every) month(?![A-Z])")),
        (0.5, _spelled),
    ),
}
