"""Dates: `14 March 2019`, `3/14/2019`, `from 3rd to 5th of june`, `Thursday 16th`.

`may` with a small letter is a verb unless a day stands beside it and the sentence can end there.
"""

from privacy.masking.english.months import (
    DAY,
    LETTER_BEFORE,
    MONTH,
    ON_WEEKDAY,
    SAID_YEAR,
    TH,
    WEEKDAY,
    beside_month,
    months,
    relative,
    spelled,
)
from privacy.masking.patterns import AFTER, Rules, is_date, numbered

_TIME = r"(?:[T ][0-9]{1,2}:[0-9]{2}(?::[0-9]{2})?(?:\.[0-9]+)?Z?)?"
_ORDINAL = rf"[0-9]{{1,2}}{TH}"
_TO_DAY = r" ?(?:-|/|&|to|till|until|through|and|or) ?(?:the )?"
_OF = rf"(?:(?:(?:day|week|weekend|half|{WEEKDAY}) (?:of|in)|of) )"
_DAY_TOO = (
    r"(?:,? (?:(?:Mon|Tues|Wednes|Thurs|Fri|Satur|Sun)day|"
    r"(?:in the )?(?:morning|afternoon|evening)|night)(?![A-Z]))?"
)
_IN_YEAR = rf",? (?:in|of) (?:19|20)[0-9]{{2}}{AFTER}"
_YEAR = (
    rf"(?: ?[ ,\-/]{{1,2}}'?(?:[0-9]{{4}}|[0-9]{{2}}){AFTER}|{_IN_YEAR}|{SAID_YEAR})?{_DAY_TOO}"
)
_ENDS = (
    r"(?=$|[ ]?[.,;:!?)\-0-9\n]| (?:at|for|to|and|until|till|i|we|in|on|from|it|please)(?![A-Z]))"
)
_STOPS = r"(?=$|[.,;!?)\n](?![0-9])| (?:please|i|we|how|what|but|because|at|thanks)(?![A-Z]))"
# Not `3. July 18, 2007`: the number of a line.
_SURE_MONTH = (
    r"(?=(?:Jan|Feb|Apr|Ju[nl]|Aug|Sep|Oct|Nov|Dec)[a-z]*(?![a-z.]| ?[0-9]{1,2}(?![0-9])))"
)
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
                back=rf"(?P<value>{ON_WEEKDAY}?)",
                reach=24,
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
                back=rf"{LETTER_BEFORE}(?:on|dated|since|until|till|dob:?) ",
                reach=8,
            ),
        ),
        # `Thursday 16th`, `Sat 5/11`.
        (
            0.7,
            numbered(
                rf"(?:{_ORDINAL}|[0-9]{{1,2}}/[0-9]{{1,2}}(?![0-9/.%]))",
                back=rf"(?P<value>{ON_WEEKDAY})",
                reach=24,
            ),
        ),
        # `March 14th, 2019`, `Mon, June the 3rd`, `Nov/1/2019`.
        (
            0.8,
            beside_month(
                rf"(?:[0-9]{{1,2}}{TH}?(?: ?[ ,\-/]{{1,2}}(?:[0-9]{{4}}|'[0-9]{{2}}){AFTER}|"
                rf"{_IN_YEAR}|{SAID_YEAR}|{AFTER}){_DAY_TOO}|[0-9]{{4}}{AFTER})",
                back=rf"{LETTER_BEFORE}(?P<value>(?:{ON_WEEKDAY}|"
                rf"(?:19|20)[0-9]{{2}}[ ,\-/]{{1,2}})?{MONTH}[ ,\-/]{{0,3}}(?:the |of )?)",
                reach=36,
            ),
        ),
        # `14th of March`, `the 22nd, July`, `1st week of June`, `27. February`.
        (
            0.8,
            beside_month(
                rf"(?:{_ORDINAL}(?: ?,)? ?-?(?:in )?|[0-9]{{1,2}}(?:[ \-]?|\. ?{_SURE_MONTH}))"
                rf"{_OF}?{MONTH}(?![A-Z]){_YEAR}",
                back=rf"(?P<value>{ON_WEEKDAY}?)",
                reach=24,
            ),
        ),
        # `3-5 June`, `from the 3rd to the 5th of june`.
        (
            0.8,
            beside_month(
                rf"{DAY}{_TO_DAY}{DAY} ?(?:of )?{MONTH}(?![A-Z]){_YEAR}",
                back=rf"(?P<value>{ON_WEEKDAY}?)",
                reach=24,
            ),
        ),
        # `June 3rd to 5th`, `june 3-5`.
        (
            0.8,
            beside_month(
                rf"{DAY}(?: ?(?:-|to|till|until|through) ?(?:the )?{DAY}|{_TO_DAY}{_ORDINAL})"
                rf"(?![0-9:.%/A-Z]| ?(?:am|pm|mg|ml|o'clock)(?![A-Z])){_YEAR}",
                back=rf"{LETTER_BEFORE}(?P<value>{MONTH}[ \-](?:the )?)",
                reach=16,
            ),
        ),
        # `21 st june`, `13/nov/2020`.
        (
            0.8,
            beside_month(
                rf"(?:{_ORDINAL} ?(?:of )?|[0-9]{{1,2}}/){MONTH}(?![A-Z]){_YEAR}",
                back=rf"(?P<value>{ON_WEEKDAY}?)",
                reach=24,
            ),
        ),
        (
            0.7,
            beside_month(
                rf"(?:{_ORDINAL}(?: day)?(?: of may(?![A-Z])| may{_ENDS})|"
                rf"[0-9]{{1,2}}(?: of may(?![A-Z])| may(?:{_STOPS}|(?= ?,? ?20[0-9]{{2}}))))"
                rf"{_YEAR}",
                back=rf"(?P<value>{ON_WEEKDAY}?)",
                reach=24,
            ),
        ),
        (
            0.7,
            beside_month(
                rf"{_ORDINAL}{_YEAR}",
                back=rf"{LETTER_BEFORE}(?P<value>{ON_WEEKDAY}?may (?:the )?)",
                reach=26,
            ),
        ),
        (
            0.7,
            beside_month(
                rf"[0-9]{{1,2}}{_ENDS}(?![.,:][0-9])",
                back=rf"(?:{LETTER_BEFORE}(?:on|by|since|until|till|before|after|dated|of|from) |"
                rf"(?={ON_WEEKDAY}))(?P<value>{ON_WEEKDAY}?may (?:the )?)",
                reach=26,
            ),
        ),
        # `from the 16th to the 22nd`, `on the 3rd.`: of a month that goes without saying.
        (
            0.6,
            numbered(
                rf"{_ORDINAL}(?:{_TO_DAY}{_ORDINAL})?{_STOPS}",
                back=rf"{LETTER_BEFORE}(?:on|by|until|till|from|since|before|after|for|between|"
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
        (0.5, months),
        (0.6, relative),
        (0.5, spelled),
    ),
}
