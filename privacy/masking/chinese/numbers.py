"""China's identifiers that have a form of their own: ids, phones, cards, permits, plates."""

import re
from collections.abc import Callable

from privacy.masking.checksums import resident_id_holds, social_credit_code_holds
from privacy.masking.patterns import AFTER, BEFORE, Finder, Rules, is_date, pattern

# Province-level codes of GB/T 2260.
_PROVINCES = frozenset(
    map(str, (*range(11, 16), 21, 22, 23, *range(31, 38), *range(41, 47), *range(50, 55)))
) | frozenset(map(str, (*range(61, 66), 71, 81, 82, 83)))
_PLATE_PROVINCES = "京津沪渝冀豫云辽黑湘皖鲁新苏浙赣鄂桂甘晋蒙陕吉闽贵粤青藏川宁琼"
_LOCAL = r"[2-8][0-9]{2,3}[ \-]?[0-9]{4}"
_CREDIT = "[0-9A-HJ-NPQRTUWXY]"
_EXTENSION = r"(?:[ ,;\-]{0,2}(?:转|分机|ext\.?|x)号?[ :.]{0,2}[0-9]{1,6})?"


def _bare(text: str) -> str:
    return re.sub(r"[^0-9A-Za-z]", "", text)


def _resident_id(text: str) -> bool:
    return resident_id_holds(_bare(text))


def _old_resident_id(text: str) -> bool:
    """Whether 15 digits begin with a province and hold a date: the form before 1999, unchecked."""
    return text[:2] in _PROVINCES and is_date("19" + text[6:12])


def _credit_code(text: str) -> bool:
    return social_credit_code_holds(_bare(text))


def _plate(text: str) -> bool:
    """Two digits at least: a plate, and no word behind a province's short name."""
    return sum(character.isdecimal() for character in text) >= 2


def _number(form: str, check: Callable[[str], bool] | None = None) -> Finder:
    """Digits in this form, between no other digits."""
    return pattern(rf"{BEFORE}(?:{form}){AFTER}", check=check, likely="[0-9]{3}")


def _code(form: str, check: Callable[[str], bool] | None = None) -> Finder:
    """Letters and digits in this form, between no others."""
    return pattern(rf"(?<![A-Z0-9])(?:{form})(?![A-Z0-9])", check=check, likely="[A-Z0-9][0-9]{4}")


RULES: Rules = {
    "CREDIT_CARD": (
        # UnionPay's cards, whatever the check digit says: account numbers written as cards.
        (0.6, _number("62[0-9]{14,17}")),
        (0.6, _number(r"62[0-9]{2}(?:[ \-][0-9]{4}){3}(?:[ \-][0-9]{1,3})?")),
    ),
    "PASSPORT": (
        # Passports (E, G; P, S, D of officials), permits to and from Hong Kong, Macao and Taiwan;
        # permanent residence of foreigners before 2023: nationality and twelve digits.
        (
            0.6,
            _code(
                "[EGHMCWTLK][0-9]{8}|[ECK][A-HJ-NP-Z][0-9]{7}|[DSP]E?[0-9]{7,8}|M[AB][0-9]{7}|"
                "[HM][0-9]{10}|[A-Z]{3}[0-9]{12}|[A-Z][1289][0-9]{8}"
            ),
        ),
        # Identity cards of Hong Kong and Macao, the check digit in brackets.
        (0.6, pattern(r"(?<![A-Z0-9])(?:[A-Z]{1,2}[0-9]{6}|[157][0-9]{6})\([0-9A]\)", needs="(")),
    ),
    "PHONE": (
        # Above the check digit of a card, which one in ten of them holds with 0086 before it.
        (
            0.93,
            pattern(
                rf"(?:{BEFORE}(?:\+ ?|00)?86[ \-]?|\(\+?86\)[ \-]?|{BEFORE})"
                rf"1[3-9][0-9](?:[0-9]{{8}}|[ \-][0-9]{{4}}[ \-][0-9]{{4}}){AFTER}",
                likely="[0-9]{4}",
            ),
        ),
        (
            0.8,
            pattern(
                rf"(?:\(0[1-9][0-9]{{1,2}}\) ?|{BEFORE}0[1-9][0-9]{{1,2}}[ \-]{{0,3}})"
                rf"{_LOCAL}{AFTER}{_EXTENSION}",
                likely="[0-9]{4}",
            ),
        ),
        (
            0.8,
            pattern(
                rf"(?:{BEFORE}(?:\+|00)86[ \-]?|\(\+?86\)[ \-]?)"
                rf"\(?0?[1-9][0-9]{{1,2}}\)?[ \-]{{0,2}}{_LOCAL}{AFTER}{_EXTENSION}",
                needs="86",
            ),
        ),
        (0.7, _number(r"[48]00(?:[ \-]?[0-9]{3}[ \-]?[0-9]{4}|-[0-9]{4}-[0-9]{3})")),
    ),
    "RESIDENT_ID": (
        (
            0.97,
            _code(
                r"[1-9][0-9]{5}[ \-]?(?:18|19|20)[0-9]{2}[ \-]?[01][0-9][0-3][0-9][ \-]?"
                "[0-9]{3}[0-9X]",
                check=_resident_id,
            ),
        ),
        (0.7, _number("[1-8][0-9]{7}[01][0-9][0-3][0-9]{4}", check=_old_resident_id)),
        # A slip of the pen in the check character hides no birthday.
        (
            0.55,
            _code(
                "[1-9][0-9]{5}(?:19|20)[0-9]{2}(?:0[1-9]|1[0-2])(?:0[1-9]|[12][0-9]|3[01])"
                "[0-9]{3}[0-9X]"
            ),
        ),
        # What a form leaves of it: the birthday covered.
        (0.5, _code("[1-9][0-9]{5}[*X]{8}[0-9]{3}[0-9X]")),
    ),
    "SOCIAL_CREDIT_CODE": (
        (
            0.95,
            _code(
                rf"{_CREDIT}{{2}}[0-9]{{6}}[ \-]?{_CREDIT}{{9}}[ \-]?{_CREDIT}", check=_credit_code
            ),
        ),
    ),
    "VEHICLE": (
        (
            0.8,
            pattern(
                rf"[{_PLATE_PROVINCES}][A-HJ-NP-Z][ ·・•.\-]{{0,2}}"
                r"(?:[DF][0-9A-HJ-NP-Z][0-9]{4}|[0-9]{5}[DF]|"
                r"[0-9A-HJ-NP-Z]{4}[0-9A-HJ-NP-Z挂学警港澳领])(?![A-Z0-9])",
                check=_plate,
            ),
        ),
        (0.7, pattern(rf"使[0-9]{{3}}[ ·\-]?[0-9]{{3}}{AFTER}", needs="使")),
        (
            0.7,
            pattern(
                rf"(?<![A-Z])WJ[ ·\-]?[{_PLATE_PROVINCES}]?[ ·\-]?[0-9]{{4}}[0-9XBTSHJD]"
                r"(?![A-Z0-9])",
                likely="WJ",
            ),
        ),
    ),
}
