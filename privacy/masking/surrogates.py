"""A made-up value of the same type in the place of a real one, decided by the site's key.

- The same value has the same surrogate everywhere inside a site and another at another site: the
  records of one patient can still be told to be of one, and two sites' texts cannot be joined.
- A surrogate is of its type, and as far as the type allows it can be nobody's
  (`privacy.masking.reserved`): not one card number passes Luhn's check, a social security number
  stands in area 000, a phone number in a range that no plan gives out. These ranges are small:
  two phone numbers may share one surrogate.
- All ages become `90+`, which is a group and no surrogate; the age 90 itself becomes `[AGE]`.
- Dates of one subject move by one number of days that follows from key and subject, so intervals
  stay and days of the week do not. What cannot be read as a date becomes `[DATE]`, and what would
  stay the same, such as a day without a year that moves by a year.
- Nothing can be turned back. But who holds the key can try values, so text with surrogates is
  pseudonymous, not anonymous, and the key stays with the site.

Masking a text with surrogates again replaces surrogates by surrogates of them: nothing that was
hidden comes back, dates move twice. Placeholders are left alone in every mode.
"""

import hashlib
import hmac
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

from privacy.masking import reserved, stand_ins
from privacy.masking.checksums import vin_holds
from privacy.masking.dates import shifted
from privacy.masking.draw import Draw
from privacy.masking.reserved import alphanumerics, plain_text

KEY_BYTES = 32
MIN_SHIFT_DAYS = 31
MAX_SHIFT_DAYS = 1460
_ATTEMPTS = 64
_CACHED_VALUES = 65_536


@dataclass(frozen=True, slots=True, repr=False)
class SurrogateKey:
    """A site's key of 32 random bytes. Neither it nor `repr` of it is ever written anywhere."""

    secret: bytes

    def __post_init__(self) -> None:
        """Refuse what could be guessed."""
        if len(self.secret) != KEY_BYTES:
            raise ValueError(f"expected a key of {KEY_BYTES} bytes, got {len(self.secret)}")

    @property
    def key_id(self) -> str:
        """Which key it is, in 16 hex digits that tell nothing about it."""
        return hmac.digest(self.secret, b"cloister surrogate key id", hashlib.sha256)[:8].hex()


class Surrogates:
    """The surrogates of one key."""

    def __init__(self, key: SurrogateKey) -> None:
        self._secret = key.secret
        self._cached = lru_cache(maxsize=_CACHED_VALUES)(self._make)

    def of(self, entity_type: str, value: str, *, subject: str) -> str:
        """What stands for `value`; the placeholder `[TYPE]` where nothing else is safe.

        Args:
          entity_type: The value's type.
          value: As it stands in the text.
          subject: Whose record it is: dates of one subject move together.
        """
        if entity_type != "DATE":
            return self._cached(entity_type, value)
        said = plain_text(value).strip()
        moved = shifted(said, self.shift_days(subject))
        # `3 May` is the same a year earlier, and a year may be the same three months earlier.
        return f"[{entity_type}]" if moved in (None, said) else str(moved)

    def shift_days(self, subject: str) -> int:
        """By how many days the dates of `subject` move: into the past, never by whole weeks."""
        # HMAC over the subject as it is: `p1` and `P-1` may be two people.
        digest = hmac.digest(
            self._secret,
            b"cloister surrogate v1\0shift\0" + subject.encode("utf-8", "surrogatepass"),
            hashlib.sha256,
        )
        shifts = [d for d in range(MIN_SHIFT_DAYS, MAX_SHIFT_DAYS + 1) if d % 7]
        return -shifts[int.from_bytes(digest[:8], "big") % len(shifts)]

    def _make(self, entity_type: str, value: str) -> str:
        old = alphanumerics(plain_text(value)).casefold()
        for attempt in range(_ATTEMPTS):
            made = self._attempt(entity_type, value, attempt)
            new = alphanumerics(made).casefold()
            if entity_type == "PERSON" and stand_ins.shares_a_word(plain_text(value), made):
                continue
            if new and new != old and (len(old) < 4 or old not in new):
                return made
        return f"[{entity_type}]"

    def _attempt(self, entity_type: str, value: str, attempt: int) -> str:
        if entity_type == "PERSON":
            return stand_ins.name(self._secret, plain_text(value), attempt)
        if entity_type == "LOCATION":
            return stand_ins.place(self._secret, plain_text(value), attempt)
        draw = Draw(self._secret, entity_type, value, attempt)
        return _MAKERS.get(entity_type, _same_shape)(draw, value)


def _same_shape(draw: Draw, value: str) -> str:
    """Digits for digits, letters for letters of the same script; no card number among them."""
    text = plain_text(value)
    num_digits = sum(character.isdecimal() for character in text)
    digits = iter(reserved.no_card(draw, num_digits))
    return "".join(
        next(digits) if c.isdecimal() else stand_ins.in_script(draw, c) if c.isalpha() else c
        for c in text
    )


def _vehicle(draw: Draw, value: str) -> str:
    """Of the same shape; what is as long as a VIN fails the VIN's check digit."""
    made = _same_shape(draw, value)
    signs = alphanumerics(made)
    if not vin_holds(signs):
        return made
    others = [sign for sign in "0123456789" if sign != signs[8]]
    return reserved.in_shape(made, signs[:8] + draw.pick(others) + signs[9:])


def _age(draw: Draw, value: str) -> str:
    """All ages over 89 are one group, as HIPAA's Safe Harbor has it."""
    del draw
    text = plain_text(value)
    return re.sub(r"[0-9]+", "90+", text, count=1) if re.search("[0-9]", text) else ""


def _password(draw: Draw, value: str) -> str:
    """Of one length and one alphabet, so that nothing of the real one is told."""
    del value
    return "".join(draw.pick("abcdefghijkmnpqrstuvwxyz") for _ in range(12))


_MAKERS: dict[str, Callable[[Draw, str], str]] = {
    "AGE": _age,
    "CREDIT_CARD": reserved.card,
    "EMAIL": reserved.email,
    "IBAN": reserved.iban,
    "IP_ADDRESS": reserved.ip_address,
    "PASSWORD": _password,
    "PHONE": reserved.phone,
    "RESIDENT_ID": reserved.resident_id,
    "ROUTING_NUMBER": reserved.routing_number,
    "SOCIAL_CREDIT_CODE": reserved.social_credit_code,
    "SORT_CODE": reserved.sort_code,
    "SSN": reserved.ssn,
    "SWIFT": reserved.swift,
    "URL": reserved.url,
    "VEHICLE": _vehicle,
}
