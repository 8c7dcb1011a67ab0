"""China's identifiers that have a form of their own: ids, phones, cards, permits, plates."""

import re

from privacy.masking.checksums import resident_id_holds, social_credit_code_holds
from privacy.masking.patterns import AFTER, BEFORE, Rules, is_date, pattern

# Province-level codes of GB/T 2260.
_PROVINCES = frozenset(
    "11 12 13 14 15 21 22 23 31 32 33 34 35 36 37 41 42 43 44 45 46 50 51 52 53 54 61 62 63 64 65 "
    "71 81 82 83".split()
)
_PLATE_PROVINCES = "京津沪渝冀豫云辽黑湘皖鲁新苏浙赣鄂桂甘晋蒙陕吉闽贵粤青藏川宁琼"
_NO_LETTER, _NO_MORE = r"(?<![A-Z0-9])", r"(?![A-Z0-9])"
_CREDIT_CHARACTER = "[0-9A-HJ-NPQRTUWXY]"
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


RULES: Rules = {
    "CREDIT_CARD": (
        # UnionPay's cards, whatever the check digit says: account numbers written as cards.
        (0.6, pattern(rf"{BEFORE}62[0-9]{{14,17}}{AFTER}")),
        (
            0.6,
            pattern(rf"{BEFORE}62[0-9]{{2}}(?:[ \-][0-9]{{4}}){{3}}(?:[ \-][0-9]{{1,3}})?{AFTER}"),
        ),
    ),
    "PASSPORT": (
        # Passports (E, G; P, S, D of officials), permits to and from Hong Kong, Macao and Taiwan.
        (
            0.6,
            pattern(
                rf"{_NO_LETTER}(?:[EGHMCWTLK][0-9]{{8}}|[ECK][A-HJ-NP-Z][0-9]{{7}}){_NO_MORE}"
            ),
        ),
        (0.6, pattern(rf"{_NO_LETTER}(?:[DSP]E?[0-9]{{7,8}}|M[AB][0-9]{{7}}){_NO_MORE}")),
        (0.6, pattern(rf"{_NO_LETTER}[HM][0-9]{{10}}{_NO_MORE}")),
        # Permanent residence of foreigners, the form before 2023: nationality and twelve digits.
        (0.6, pattern(rf"{_NO_LETTER}[A-Z]{{3}}[0-9]{{12}}{_NO_MORE}")),
        # Identity cards of Hong Kong (with its check digit in brackets), Macao and Taiwan.
        (0.6, pattern(rf"{_NO_LETTER}[A-Z]{{1,2}}[0-9]{{6}}\([0-9A]\)")),
        (0.6, pattern(rf"{BEFORE}[157][0-9]{{6}}\([0-9]\)")),
        (0.6, pattern(rf"{_NO_LETTER}[A-Z][1289][0-9]{{8}}{_NO_MORE}")),
    ),
    "PHONE": (
        (
            0.85,
            pattern(
                rf"(?:{BEFORE}(?:\+ ?|00)?86[ \-]?|\(\+?86\)[ \-]?|{BEFORE})"
                rf"1[3-9][0-9](?:[0-9]{{8}}|[ \-][0-9]{{4}}[ \-][0-9]{{4}}){AFTER}"
            ),
        ),
        (
            0.8,
            pattern(
                rf"(?:\(0[1-9][0-9]{{1,2}}\) ?|{BEFORE}0[1-9][0-9]{{1,2}}[ \-]{{0,3}})"
                rf"[2-8][0-9]{{2,3}}[ \-]?[0-9]{{4}}{AFTER}{_EXTENSION}"
            ),
        ),
        (
            0.8,
            pattern(
                rf"(?:{BEFORE}(?:\+|00)86[ \-]?|\(\+?86\)[ \-]?)\(?0?[1-9][0-9]{{1,2}}\)?[ \-]{{0,2}}"
                rf"[2-8][0-9]{{2,3}}[ \-]?[0-9]{{4}}{AFTER}{_EXTENSION}"
            ),
        ),
        (
            0.7,
            pattern(
                rf"{BEFORE}[48]00(?:[ \-]?[0-9]{{3}}[ \-]?[0-9]{{4}}|-[0-9]{{4}}-[0-9]{{3}}){AFTER}"
            ),
        ),
    ),
    "RESIDENT_ID": (
        (
            0.97,
            pattern(
                rf"{BEFORE}[1-9][0-9]{{5}}[ \-]?(?:18|19|20)[0-9]{{2}}[ \-]?[01][0-9][0-3][0-9]"
                rf"[ \-]?[0-9]{{3}}[0-9X](?![0-9A-Z])",
                check=_resident_id,
            ),
        ),
        (
            0.7,
            pattern(
                rf"{BEFORE}[1-8][0-9]{{5}}[0-9]{{2}}[01][0-9][0-3][0-9]{{4}}{AFTER}",
                check=_old_resident_id,
            ),
        ),
        # A slip of the pen in the check character hides no birthday.
        (
            0.55,
            pattern(
                rf"{BEFORE}[1-9][0-9]{{5}}(?:19|20)[0-9]{{2}}(?:0[1-9]|1[0-2])(?:0[1-9]|[12][0-9]|3[01])"
                rf"[0-9]{{3}}[0-9X](?![0-9A-Z])"
            ),
        ),
        # What a form leaves of it: the birthday covered, or only the ends.
        (0.5, pattern(rf"{BEFORE}[1-9][0-9]{{5}}[*X]{{8}}[0-9]{{3}}[0-9X](?![0-9A-Z])")),
    ),
    "SOCIAL_CREDIT_CODE": (
        (
            0.95,
            pattern(
                rf"{_NO_LETTER}{_CREDIT_CHARACTER}{{2}}[0-9]{{6}}[ \-]?{_CREDIT_CHARACTER}{{9}}[ \-]?"
                rf"{_CREDIT_CHARACTER}{_NO_MORE}",
                check=_credit_code,
            ),
        ),
    ),
    "VEHICLE": (
        (
            0.8,
            pattern(
                rf"[{_PLATE_PROVINCES}][A-HJ-NP-Z][ ·・•.\-]{{0,2}}"
                rf"(?:[DF][0-9A-HJ-NP-Z][0-9]{{4}}|[0-9]{{5}}[DF]|[0-9A-HJ-NP-Z]{{4}}"
                rf"[0-9A-HJ-NP-Z挂学警港澳领]){_NO_MORE}",
                check=_plate,
            ),
        ),
        (0.7, pattern(rf"使[0-9]{{3}}[ ·\-]?[0-9]{{3}}{AFTER}|[0-9]{{3}}[ ·\-]?[0-9]{{3}}使")),
        (
            0.7,
            pattern(
                rf"(?<![A-Z])WJ[ ·\-]?[{_PLATE_PROVINCES}]?[ ·\-]?[0-9]{{4}}[0-9XBTSHJD]{_NO_MORE}"
            ),
        ),
    ),
}
