"""Check digits of China's identifiers."""

from datetime import date

_RESIDENT_WEIGHTS = (7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2)
_RESIDENT_CHECKS = "10X98765432"
# Province-level codes of GB/T 2260, those of permits for Hong Kong, Macao and Taiwan residents, and
# 9x of permanent residence identity cards.
_PROVINCES = frozenset(
    "11 12 13 14 15 21 22 23 31 32 33 34 35 36 37 41 42 43 44 45 46 50 51 52 53 54 "
    "61 62 63 64 65 71 81 82 83 91 92 93 94 95 96 97".split()
)
# No I, O, S, V, Z: they are read as digits.
_CREDIT_ALPHABET = "0123456789ABCDEFGHJKLMNPQRTUWXY"
_CREDIT_WEIGHTS = tuple(pow(3, place, 31) for place in range(17))


def resident_id_holds(number: str) -> bool:
    """Whether `number` is a resident identity number: 18 characters, or 15 of the old form.

    18: region, date of birth, sequence, check character. 15: region, date of birth without its
    century, sequence; it has no check character, so the region and the date must hold.

    Source: GB 11643-1999; the check character is ISO/IEC 7064, MOD 11-2.
    """
    if number[:2] not in _PROVINCES:
        return False
    if len(number) == 15:
        return number.isdecimal() and _is_birthday("19" + number[6:12])
    if len(number) != 18 or not number[:17].isdecimal() or not _is_birthday(number[6:14]):
        return False
    total = sum(
        int(digit) * weight for digit, weight in zip(number[:17], _RESIDENT_WEIGHTS, strict=True)
    )
    return _RESIDENT_CHECKS[total % 11] == number[17].upper()


def credit_code_holds(code: str) -> bool:
    """Whether `code` is a unified social credit code of a legal person or organisation.

    Source: GB 32100-2015.
    """
    code = code.upper()
    if len(code) != 18 or any(character not in _CREDIT_ALPHABET for character in code):
        return False
    total = sum(
        _CREDIT_ALPHABET.index(character) * weight
        for character, weight in zip(code[:17], _CREDIT_WEIGHTS, strict=True)
    )
    return _CREDIT_ALPHABET[-total % 31] == code[17]


def _is_birthday(digits: str) -> bool:
    try:
        date(int(digits[:4]), int(digits[4:6]), int(digits[6:]))
    except ValueError:
        return False
    return digits[:2] in ("18", "19", "20")
