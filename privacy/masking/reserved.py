"""Made-up identifiers that can be nobody's: in a reserved range, or with a check digit that fails.

Each function takes a `Draw` and the value whose place is taken, and keeps its punctuation.
"""

import re
import unicodedata

from privacy.masking.checksums import iban_holds, luhn_holds
from privacy.masking.draw import Draw
from privacy.masking.plain import plain

_MIN_CARD, _MAX_CARD = 12, 19
_RESIDENT_CHECK = "10X98765432"
_CREDIT_CODE = "0123456789ABCDEFGHJKLMNPQRTUWXY"
_UPPER = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_TOKEN = "abcdefghijkmnpqrstuvwxyz23456789"  # noqa: S105 - an alphabet, no secret
_EXTENSION = re.compile(r"(?i)[ ,;]*(?:ext\.?|extension|x|转)[ .:]*[0-9]+$")


def plain_text(value: str) -> str:
    """`value` as the rules read it: nothing invisible, no marks on digits, digits in ASCII."""
    return plain(unicodedata.normalize("NFKC", value))[0]


def alphanumerics(text: str) -> str:
    """The letters and digits of `text`."""
    return "".join(character for character in text if character.isalnum())


def in_shape(shape: str, characters: str) -> str:
    """`shape` with its letters and digits replaced in order by `characters`.

    What is left over stands at the end; a shape that is longer ends where they end.
    """
    left = iter(characters)
    pieces = []
    for character in shape:
        if not character.isalnum():
            pieces.append(character)
            continue
        following = next(left, None)
        if following is None:
            break
        pieces.append(following)
    return "".join([*pieces, *left])


def no_card(draw: Draw, length: int, head: str = "") -> str:
    """`length` digits that begin with `head`; not one stretch of them is a card number.

    Each of the eight lengths that a card number may have forbids one digit at each place, so one
    is always left.
    """
    digits = head[:length]
    while len(digits) < length:
        allowed = [d for d in "0123456789" if not _ends_a_card(digits + d)]
        digits += draw.pick(allowed)
    return digits


def _ends_a_card(digits: str) -> bool:
    return any(
        luhn_holds(digits[-length:])
        for length in range(_MIN_CARD, min(_MAX_CARD, len(digits)) + 1)
    )


def card(draw: Draw, value: str) -> str:
    """No Luhn check holds, and cards of industry 0 are not issued by banks."""
    text = plain_text(value)
    return in_shape(text, no_card(draw, len(alphanumerics(text)), "0"))


def ssn(draw: Draw, value: str) -> str:
    """Area 000, which was never assigned and is no taxpayer number either."""
    text = plain_text(value)
    length = len(alphanumerics(text))
    return in_shape(text, ("000" + draw.digits(length))[:length])


def iban(draw: Draw, value: str) -> str:
    """Country and length stay; check digits 00 or 01 are never given out, and fail modulo 97."""
    text = plain_text(value).upper()
    old = alphanumerics(text)
    body = "".join(
        str(draw.below(10)) if character.isdecimal() else draw.pick(_UPPER)
        for character in old[4:]
    )
    made = old[:2] + "00" + body
    # Two neighbouring check digits cannot both hold.
    return in_shape(text, old[:2] + "01" + body if iban_holds(made) else made)


def swift(draw: Draw, value: str) -> str:
    """Country ZZ is nobody's by ISO 3166, and a location that ends with 0 is a test code."""
    text = plain_text(value)
    letters = "".join(draw.pick(_UPPER) for _ in range(4))
    code = f"{letters}ZZ{draw.pick(_UPPER)}0" + "".join(draw.pick(_UPPER) for _ in range(3))
    return in_shape(text, code[: 11 if len(alphanumerics(text)) > 8 else 8])


def routing_number(draw: Draw, value: str) -> str:
    """Prefix 99, which the Federal Reserve does not assign, and a failing check digit."""
    text = plain_text(value)
    digits = "99" + draw.digits(6)
    check = -sum(int(d) * w for d, w in zip(digits, (3, 7, 1, 3, 7, 1, 3, 7), strict=True)) % 10
    return in_shape(text, digits + str((check + 1 + draw.below(9)) % 10))


def sort_code(draw: Draw, value: str) -> str:
    """Prefix 00, which belongs to no bank."""
    return in_shape(plain_text(value), "00" + draw.digits(4))


def resident_id(draw: Draw, value: str) -> str:
    """Region 99 does not exist, and the check character (MOD 11-2, GB 11643) is wrong."""
    text = plain_text(value)
    birth = f"{1930 + draw.below(85)}{1 + draw.below(12):02d}{1 + draw.below(28):02d}"
    if len(alphanumerics(text)) != 18:
        return in_shape(text, "99" + draw.digits(4) + birth[2:] + draw.digits(3))
    body = "99" + draw.digits(4) + birth + draw.digits(3)
    total = sum(int(digit) * pow(2, 17 - place, 11) for place, digit in enumerate(body))
    wrong = [check for check in _RESIDENT_CHECK if check != _RESIDENT_CHECK[total % 11]]
    return in_shape(text, body + draw.pick(wrong))


def social_credit_code(draw: Draw, value: str) -> str:
    """Region 99 does not exist, and the check character (modulo 31, GB 32100) is wrong."""
    body = "9199" + draw.digits(4) + "".join(draw.pick(_CREDIT_CODE) for _ in range(9))
    total = sum(_CREDIT_CODE.index(c) * pow(3, place, 31) for place, c in enumerate(body))
    right = _CREDIT_CODE[-total % 31]
    return in_shape(
        plain_text(value), body + draw.pick([check for check in _CREDIT_CODE if check != right])
    )


def email(draw: Draw, value: str) -> str:
    """An address at example.org, which is nobody's (RFC 2606)."""
    del value
    return "".join(draw.pick(_TOKEN) for _ in range(9)) + "@example.org"


def url(draw: Draw, value: str) -> str:
    """A page of example.org, with a scheme where there was one."""
    scheme = re.match(r"(?i)[a-z]+:/{2,3}", plain_text(value))
    page = "".join(draw.pick(_TOKEN) for _ in range(9))
    return f"{scheme[0].lower() if scheme else ''}www.example.org/{page}"


def ip_address(draw: Draw, value: str) -> str:
    """Of 240.0.0.0/4, which is reserved (RFC 1112), or of 2001:db8::/32 (RFC 3849)."""
    if ":" in value:
        groups = ":".join(f"{draw.below(65535) + 1:x}" for _ in range(3))
        return f"2001:db8:{groups}::{draw.below(65535) + 1:x}"
    return f"{240 + draw.below(15)}.{draw.below(256)}.{draw.below(256)}.{draw.below(256)}"


def phone(draw: Draw, value: str) -> str:
    """A number that no plan gives out.

    - North America: 555-01xx, kept for fiction, in an area code that is not in use (x9x).
    - Eleven digits in one from 1, as Chinese mobiles are: 10 and nine more; none begins so.
    - With a plus: country 999, which ITU-T keeps; nationally 00 999, the same as it is dialled.
    """
    text = plain_text(value)
    extension = _EXTENSION.search(text)
    base = text[: extension.start()] if extension else text
    rest = re.sub("[0-9]", lambda _: str(draw.below(10)), extension[0]) if extension else ""
    return in_shape(base, _phone_digits(draw, base, alphanumerics(base))) + rest


def _phone_digits(draw: Draw, base: str, digits: str) -> str:
    length, plus = len(digits), "+" in base
    fiction = f"{2 + draw.below(4)}9{draw.below(10)}55501{draw.below(100):02d}"
    if length == 7 and not plus:
        return fiction[3:]
    if length == 11 and digits[0] == "1":
        mobile = not plus and re.match("[^0-9]*1[3-9][0-9]", base)
        return "10" + draw.digits(9) if mobile else "1" + fiction
    if length == 10 and not plus and digits[0] not in "01":
        return fiction
    head = "999" if plus else "00999" if length >= 8 else "0"
    return (head + draw.digits(length))[:length]
