"""Identifiers whose form is the same in every language: checksums, addresses of the net."""

import re
from collections.abc import Iterator

from privacy.masking.checksums import (
    luhn_holds,
    resident_id_holds,
    social_credit_code_holds,
    vin_holds,
)
from privacy.masking.patterns import (
    ANY,
    LETTER,
    Place,
    Rules,
    card,
    digit_runs,
    iban,
    ipv6,
    numbered,
    pattern,
)

_OCTET = r"(?:25[0-5]|2[0-4][0-9]|1[0-9]{2}|0?0?[0-9]|0?[1-9][0-9])"
_TLD = r"(?:com|org|net|edu|gov|mil|int|info|biz|io|health|bank|(?:co|org|ac|gov|nhs|ltd)\.uk)"
_TLD_SEEN = re.compile(rf"\.{_TLD}", ANY)
_DOMAIN = pattern(
    rf"(?<![A-Z0-9@._\-])(?:[A-Z0-9\-]+\.)+{_TLD}(?![A-Z0-9\-]|\.[A-Z0-9])"
    rf"(?:/[A-Z0-9.\-_~:/?#@!$&'()*+,;=%|]*[A-Z0-9/=&#~_$%\-]|/)?",
    needs=".",
)
_MAC = re.compile(
    # Alone, or behind the name of a field and its colon.
    r"(?:(?<![A-Z0-9:\-])|(?<=[^A-F0-9:\-]:))(?:[0-9A-F]{2}([:\-]))(?:[0-9A-F]{2}\1){4}[0-9A-F]{2}(?![A-Z0-9:\-])",
    ANY,
)
_MAC_LIKELY = re.compile(r"[:\-][0-9A-F]{2}[:\-][0-9A-F]{2}[:\-]", ANY)


def _domain(text: str) -> Iterator[Place]:
    if _TLD_SEEN.search(text):
        yield from _DOMAIN(text)


def _vin(text: str) -> Iterator[Place]:
    """17 letters and digits with a check digit in the ninth place."""
    free = 0
    for place in _mixed(text):
        if place[0] >= free and place[1] - place[0] == 17 and vin_holds(text[slice(*place)]):
            free = place[1]
            yield place


def _social_credit_code(text: str) -> Iterator[Place]:
    """18 letters and digits with a check sign at the end."""
    for start, end in _mixed(text):
        if end - start == 18 and social_credit_code_holds(text[start:end]):
            yield start, end


def _mixed(text: str) -> Iterator[Place]:
    """Stretches of letters and digits, as long as the codes above, around four digits in a row."""
    free = 0
    for start, end, _ in digit_runs(text):
        if end - start < _FEWEST or start < free:
            continue
        begin = start
        # A Han character is a letter too, and no part of a code.
        while begin > free and start - begin < _LONGEST and _SIGN.match(text, begin - 1):
            begin -= 1
        match = _CODE.match(text, begin)
        if match and text[begin:end].isascii():
            free = match.end()
            yield match.span()


_FEWEST, _LONGEST = 4, 18
_SIGN = re.compile("[A-Za-z0-9]")
_CODE = re.compile(r"(?<![A-Za-z0-9])[A-Za-z0-9]{17,18}(?![A-Za-z0-9])")


def _mac(text: str) -> Iterator[Place]:
    if _MAC_LIKELY.search(text):
        for match in _MAC.finditer(text):
            yield match.span()


RULES: Rules = {
    "CREDIT_CARD": ((0.9, card),),
    "DEVICE_ID": (
        (0.9, _mac),
        # GS1's device identifier, and an IMEI: fifteen digits with a check digit beside its name.
        (
            0.9,
            numbered(
                r"01\)[0-9]{14}(?:\([0-9]{2}\)[A-Z0-9\-]{1,20}){0,4}",
                least=14,
                back=r"(?P<value>\()",
                reach=1,
            ),
        ),
        (
            0.95,
            numbered(
                r"[0-9]{2}[ \-]?[0-9]{6}[ \-]?[0-9]{6}[ \-]?[0-9](?![0-9])",
                least=15,
                back=r"IMEI[^0-9\n]{0,12}",
                reach=16,
                check=lambda found: luhn_holds(re.sub("[^0-9]", "", found)),
            ),
        ),
    ),
    "EMAIL": (
        (
            0.95,
            pattern(
                rf"(?:(?<![{LETTER}._%+'\-])[{LETTER}._%+'\-]++|[^\W{LETTER}]{{1,64}})"
                rf"@ ?(?:[{LETTER}\-]{{1,63}}\.)+[A-Za-z\u00c0-\u1fff]{{2,24}}",
                needs="@",
                flags=0,
            ),
        ),
        # An address inside a house, or one cut short: `jdoe@mercy`.
        (
            0.6,
            pattern(
                r"(?<![A-Za-z0-9._%+'\-])[A-Za-z0-9._%+'\-]{2,64}+@[A-Za-z][A-Za-z0-9\-]{2,62}",
                needs="@",
                flags=0,
            ),
        ),
    ),
    "IBAN": ((0.95, iban),),
    "IP_ADDRESS": (
        (
            0.85,
            numbered(
                rf"(?<![0-9]\.){_OCTET}(?:\.{_OCTET}){{3}}(?![0-9]|\.[0-9])",
                least=4,
            ),
        ),
        (0.85, ipv6),
    ),
    "RESIDENT_ID": (
        (0.95, numbered(r"[1-9][0-9]{16}[0-9X](?![0-9])", least=17, check=resident_id_holds)),
    ),
    "SOCIAL_CREDIT_CODE": ((0.95, _social_credit_code),),
    "URL": (
        (
            0.8,
            pattern(
                r"(?:(?<![A-Za-z])(?:[Hh][Tt][Tt][Pp]|[Ff][Tt][Pp]|[Ww][Ss])[Ss]?://|[Ff]ile:///?|"
                r"(?<![A-Za-z0-9])[Ww]{3}\.)"
                rf"(?:\[[0-9A-Fa-f:.]+\])?[{LETTER}.\-_~:/?#@!$&'()*+,;=%|]*[{LETTER}/=&#~_$%\-]",
                words=("://", "ile:/", "www."),
                flags=0,
            ),
        ),
        (0.7, _domain),
    ),
    "VEHICLE": ((0.9, _vin),),
}
