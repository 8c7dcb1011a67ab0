"""Columns that name a person directly, by what they are called and by what stands in them.

A second line of defence: every text is masked, whatever column it is from. A column found here is
left out of a text that takes all columns, and one that a template names is refused, until
`data.keep` lists it. What is found is a guess, in both directions.
"""

import contextlib
import ipaddress
import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise

MIN_VALUES = 5
"""With fewer values a column's content says nothing."""
MAX_CHARS = 300
"""A longer value is a text, which is masked, and no identifier as a whole."""

# Words of a column's name, whichever way it is written: lastName, LAST_NAME, "Last name".
_WORDS = frozenset({
    "ssn", "nino", "mrn", "iban", "email", "mail", "phone", "telephone", "tel", "mobile",
    "cellphone", "fax", "surname", "lastname", "firstname", "forename", "forenames", "maiden",
    "passport", "address", "street", "login", "username", "password", "cvv", "cvc", "pan", "ip",
    "url", "telecom", "identifier", "dob", "birthdate", "birthday", "fullname", "familyname",
    "givenname",
})  # fmt: skip
_PAIRS = frozenset(
    (first, second)
    for first, seconds in {
        "birth": "date", "date": "birth", "social": "security", "national": "id insurance",
        "nhs": "number no", "medical": "record", "health": "plan", "account": "number no nr id",
        "card": "number no nr", "cc": "number no",
        "drivers": "license licence", "driver": "license licence",
        "license": "plate number", "licence": "plate number", "id": "card number", "tax": "id",
        "customer": "id number name", "patient": "id number name display",
        "client": "id number name",
        "full": "name", "first": "name", "last": "name", "middle": "name", "family": "name",
        "given": "name", "maiden": "name", "person": "id name", "account_holder": "name",
        "holder": "name", "debtor": "name", "creditor": "name", "contact": "name",
        "user": "id name", "employee": "id name", "physician": "name", "doctor": "name",
        "subject": "display", "author": "display", "performer": "display", "recorder": "display",
        "mothers": "maiden name", "device": "id serial", "serial": "number",
    }.items()
    for second in seconds.split()
)  # fmt: skip
_WHOLE = frozenset({
    "name", "names", "first", "last", "patient", "customer", "id", "uid", "uuid", "guid", "pid",
})  # fmt: skip
_CHINESE = (
    "姓名", "身份证", "手机", "电话", "地址", "邮箱", "银行卡", "卡号", "账号", "病历号", "住院号",
    "门诊号", "护照", "车牌", "出生日期",
)  # fmt: skip

_CONTENT = {
    "email addresses": re.compile(r"[^\s@]+@[^\s@]+\.[A-Za-z]{2,}"),
    "social security numbers": re.compile(r"\d{3}-\d{2}-\d{4}"),
    "telephone numbers": re.compile(
        r"(?=(?:\D*\d){8,15}\D*$)(?:\+\d|\(\d|\d{2,4}[ .-])[\d ().-]{6,}|1[3-9]\d{9}"
    ),
    "random ids": re.compile(r"[0-9a-fA-F]{8}-(?:[0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12}"),
    "addresses of pages": re.compile(r"https?://\S+"),
}
_DATE = re.compile(r"\d{4}[-/.]\d{1,2}[-/.]\d{1,2}.*|\d{1,2}[-/.]\d{1,2}[-/.]\d{2,4}.*")
_IBAN = re.compile(r"[A-Z]{2}\d{2}[A-Z0-9]{11,30}")
_CARD = re.compile(r"(?:\d[ -]?){12,18}\d")
_RESIDENT_ID = re.compile(r"[1-9]\d{16}[\dXx]")
_RESIDENT_WEIGHTS = (7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2)


def find_identifiers(
    columns: Sequence[str], rows: Iterable[Mapping[str, str | None]], *, named: Iterable[str] = ()
) -> dict[str, str]:
    """The columns that name a person, each with the reason, from their names and some rows.

    Args:
      columns: All columns.
      rows: Some rows; of a column with fewer than `MIN_VALUES` values only the name is looked at.
      named: Columns that are identifiers by declaration: those of the record and of the unit.
    """
    found = {name: "it names the record or the unit" for name in named if name in columns}
    for name in columns:
        if name not in found and names_a_person(name):
            found[name] = "of its name"
    kept = [dict(row) for row in rows]
    for name in columns:
        values = [value.strip() for row in kept if (value := row.get(name)) and value.strip()]
        if name not in found and len(values) >= MIN_VALUES:
            kind = content_kind(values)
            if kind:
                found[name] = f"it holds {kind}"
    return {name: found[name] for name in columns if name in found}


def names_a_person(column: str) -> bool:
    """Whether a column of this name usually holds direct identifiers."""
    if any(part in column for part in _CHINESE):
        return True
    spaced = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", " ", column)
    words = [word for word in re.split(r"[^A-Za-z]+", spaced.lower()) if word]
    if "_".join(words) in _WHOLE:
        return True
    if _WORDS & set(words):
        return True
    # "date_of_birth": the small word in between says nothing.
    telling = [word for word in words if word not in ("of", "the", "s")]
    return any(pair in _PAIRS for pair in pairwise(telling))


def content_kind(values: Sequence[str]) -> str:
    """What at least half of the values are, each as a whole; empty where that is no identifier."""
    kinds = [_kind(value) for value in values]
    for kind in dict.fromkeys(kinds):
        # One number in ten passes for a card by chance: of cards nine in ten are asked for.
        share = 0.9 if kind == "card numbers" else 0.5
        if kind and kinds.count(kind) >= share * len(values):
            return kind
    return ""


def _kind(value: str) -> str:
    if len(value) > MAX_CHARS:
        return ""
    with contextlib.suppress(ValueError):
        ipaddress.ip_address(value)
        return "IP addresses"
    if _DATE.fullmatch(value):
        return ""
    if _is_resident_id(value):
        return "resident ids"
    if _is_iban(value):
        return "IBANs"
    for kind, pattern in _CONTENT.items():
        if pattern.fullmatch(value):
            return kind
    return "card numbers" if _is_card(value) else ""


def _is_iban(value: str) -> bool:
    """ISO 13616: the rearranged number leaves 1 when divided by 97."""
    compact = value.replace(" ", "").upper()
    if not _IBAN.fullmatch(compact):
        return False
    turned = compact[4:] + compact[:4]
    return int("".join(str(int(character, 36)) for character in turned)) % 97 == 1


def _is_card(value: str) -> bool:
    """ISO/IEC 7812: the check digit of Luhn."""
    if not _CARD.fullmatch(value):
        return False
    digits = [int(character) for character in value if character.isdecimal()]
    doubled = [sum(divmod(2 * digit, 10)) for digit in digits[-2::-2]]
    return (sum(digits[-1::-2]) + sum(doubled)) % 10 == 0


def _is_resident_id(value: str) -> bool:
    """GB 11643: the last character is a checksum of the others."""
    if not _RESIDENT_ID.fullmatch(value) or not value.isascii():
        return False
    total = sum(int(d) * w for d, w in zip(value[:17], _RESIDENT_WEIGHTS, strict=True))
    return "10X98765432"[total % 11] == value[17].upper()
