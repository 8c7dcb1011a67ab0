"""Numbers and codes as English text writes them; `dates.py` has the dates."""

import re
from collections.abc import Iterator

from privacy.masking.checksums import routing_holds
from privacy.masking.english.numbers import cued_as, secrets
from privacy.masking.patterns import (
    AFTER,
    Finder,
    Place,
    Rules,
    any_in,
    lowered,
    numbered,
    pattern,
    trunk_phone,
)

_NO_AMOUNT = r"(?![A-Z0-9]|\.[0-9]| ?%)"
_VALUE = r"(?=[A-Z0-9/\-]{4})(?=[A-Z0-9/\-]*[0-9]{3})[A-Z0-9]++(?:[/\-][A-Z0-9]++)*+" + _NO_AMOUNT
_EXTENSION = r"(?:[ ,;]{0,2}(?:ext\.?|extension|x)[ .:]{0,2}[0-9]{1,6})?"
_LETTER_BEFORE = r"(?<![A-Z])"


def _last_four(found: str) -> bool:
    return len(found) in (3, 4)


_SWIFT = re.compile(r"(?<![A-Z0-9])[A-Z]{4}[A-Z]{2}[A-Z0-9]{2}(?:[A-Z0-9]{3})?(?![A-Z0-9])")
_SWIFT_CUE = re.compile(r"swift|(?<![a-z])bic(?![a-z])")


def _swift(text: str) -> Iterator[Place]:
    """Eight or eleven capitals within a line of the words SWIFT or BIC."""
    low = lowered(text)
    if not any_in(low, ("swift", "bic")):
        return
    for cue in _SWIFT_CUE.finditer(low):
        for match in _SWIFT.finditer(text, max(0, cue.start() - 24), cue.end() + 60):
            if match[0] not in _NO_SWIFT:
                yield match.span()


_NO_SWIFT = frozenset({"TRANSFER", "PAYMENTS", "CURRENCY", "TRANSACTION", "BENEFICIARY"})
_ROUTED = numbered(r"[0-9]{9}(?![0-9])", least=9, check=routing_holds)


def _routing(text: str) -> Iterator[Place]:
    if any_in(lowered(text), ("routing", "aba", "rtn", "transit", "wire")):
        yield from _ROUTED(text)


_NINO = numbered(
    r"[0-9]{2}(?P<s> ?)[0-9]{2}(?P=s)[0-9]{2}(?P=s)[A-D](?![A-Z0-9])",
    least=6,
    back=r"(?<![A-Z0-9])(?P<value>(?!BG|GB|KN|NK|NT|TN|ZZ)[A-CEGHJ-PR-TW-Z][A-CEGHJ-NPR-TW-Z] ?)",
    reach=4,
    flags=0,
)
_PLATE = numbered(
    r"[A-Z0-9]{1,4}[ \-]?[A-Z0-9]{1,4}(?![A-Z0-9])",
    least=1,
    back=r"(?:licen[cs]e plates?|number plates?|car registration|vehicle registration|plate)"
    r"(?: (?:number|no|tag))?\.?"
    r"(?: is| was)?[:# ]{1,3}(?:[A-Z]{2} )?(?P<value>[A-Z0-9]{0,4}[ \-]?)",
    reach=48,
)
_SPELLED = (
    r"(?:ninety|one hundred)(?:[ \-](?:one|two|three|four|five|six|seven|eight|nine))?"
    r"(?=[ \-]years?[ \-]olds?)"
)
_OLD = r"(?:9[0-9]|1[0-2][0-9])"


def _rules(*finders: tuple[float, Finder]) -> tuple[tuple[float, Finder], ...]:
    return finders


RULES: Rules = {
    "ACCOUNT_NUMBER": _rules(
        (0.75, cued_as("ACCOUNT_NUMBER")),
        (
            0.5,
            numbered(
                rf"[0-9]{{3,4}}{_NO_AMOUNT}",
                back=rf"{_LETTER_BEFORE}"
                r"(?:end(?:ing|s) (?:in|with|on)|last (?:4|four)(?: digits?)?)[^0-9\n$]{1,12}",
                reach=36,
                check=_last_four,
            ),
        ),
    ),
    "AGE": _rules(
        (
            0.8,
            numbered(
                rf"{_OLD}(?=[ \-]?(?:years?|yrs?|y\.?/?o\b|y\.o\.))",
                least=2,
            ),
        ),
        (
            0.8,
            numbered(
                rf"{_OLD}(?![0-9./%])",
                least=2,
                back=rf"{_LETTER_BEFORE}(?:age[ds]?|aged|age is|age of)[ :=]{{1,3}}",
                reach=12,
            ),
        ),
        (0.8, pattern(_SPELLED, words=("ninety", "hundred"))),
    ),
    "CUSTOMER_ID": _rules((0.75, cued_as("CUSTOMER_ID"))),
    "CVV": _rules((0.85, cued_as("CVV"))),
    "DEVICE_ID": _rules((0.7, cued_as("DEVICE_ID"))),
    "HEALTH_PLAN_NUMBER": _rules((0.75, cued_as("HEALTH_PLAN_NUMBER"))),
    "LICENCE_NUMBER": _rules((0.75, cued_as("LICENCE_NUMBER"))),
    "PASSPORT": _rules((0.8, cued_as("PASSPORT"))),
    "PASSWORD": _rules((0.8, secrets)),
    "PHONE": _rules(
        (
            0.75,
            numbered(
                rf"(?:\+[ (]?|00)[1-9](?:[ .\-/()]{{0,2}}[0-9]){{6,14}}{AFTER}{_EXTENSION}",
                least=7,
                lead="+( ",
            ),
        ),
        (
            0.75,
            numbered(
                rf"(?:1[ .\-]?)?(?:\([0-9]{{3}}\)[ .\-/]{{0,2}}|[0-9]{{3}}[ .\-/]{{1,2}})"
                rf"[0-9]{{3}}[ .\-][0-9]{{4}}{AFTER}{_EXTENSION}",
                least=10,
                lead="(",
            ),
        ),
        (
            0.7,
            numbered(
                rf"\([0-9]{{2,5}}\)[ .\-/]{{0,2}}[0-9](?:[ .\-/]?[0-9]){{4,9}}{AFTER}"
                rf"{_EXTENSION}",
                least=8,
                lead="(",
            ),
        ),
        (0.6, trunk_phone),
        (0.4, numbered(rf"1?[2-9][0-9]{{2}}[2-9][0-9]{{6}}{AFTER}", least=10)),
        (
            0.4,
            numbered(
                rf"(?<![0-9]-)[0-9]{{3}}-[0-9]{{4}}(?![0-9]|-[0-9]){_EXTENSION}",
                least=7,
            ),
        ),
        (
            0.5,
            numbered(
                rf"[0-9](?:[ \-.()]{{0,2}}[0-9]){{5,14}}{AFTER}{_EXTENSION}",
                least=6,
                lead="(",
                back=rf"{_LETTER_BEFORE}(?:phone|telephone|tel|mobile|cell|fax|pager|call|text|dial|"
                r"whatsapp|contact|reached? at|number is|answering at|tfno|tlfn?o?|tel\u00e9fono|"
                r"telefono|m\u00f3vil|movil|t\u00e9l|t\u00e9l\u00e9phone|telefon|cellulare|handy)"
                r"[^0-9\n$]{0,15}",
                reach=30,
            ),
        ),
    ),
    "RECORD_NUMBER": _rules(
        (0.7, cued_as("RECORD_NUMBER")),
        (0.5, pattern(r"# ?(?P<value>" + _VALUE + ")", needs="#")),
        (
            0.5,
            numbered(
                rf"[0-9]{{6,12}}{AFTER}",
                least=6,
                back=r"(?<![A-Z0-9])(?P<value>[A-Z]{1,4}[\-#/]?)",
                reach=6,
            ),
        ),
        # No sentence needs eight digits in a row; account and card numbers do.
        (0.3, numbered(r"[0-9]{8,}", least=8)),
    ),
    "ROUTING_NUMBER": _rules((0.8, cued_as("ROUTING_NUMBER")), (0.7, _routing)),
    "SORT_CODE": _rules(
        (0.85, cued_as("SORT_CODE")),
        (0.5, numbered(r"[0-9]{2}-[0-9]{2}-[0-9]{2}(?![0-9\-])", least=6)),
    ),
    "SSN": _rules(
        (0.85, numbered(rf"[0-9]{{3}}(?P<s>[ .\-])[0-9]{{2}}(?P=s)[0-9]{{4}}{AFTER}", least=9)),
        (0.85, cued_as("SSN")),
        (0.85, _NINO),
    ),
    "SWIFT": _rules((0.8, _swift)),
    "VEHICLE": _rules((0.75, cued_as("VEHICLE")), (0.75, _PLATE)),
}
