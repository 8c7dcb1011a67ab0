"""Identifiers whose form is the same in every language: checksums, addresses of the net."""

from privacy.masking.patterns import LETTER, Rules, card, iban, ipv6, pattern

_OCTET = r"(?:25[0-5]|2[0-4][0-9]|1[0-9]{2}|0?0?[0-9]|0?[1-9][0-9])"
_TLD = r"(?:com|org|net|edu|gov|mil|int|info|biz|io|health|bank|(?:co|org|ac|gov|nhs|ltd)\.uk)"

RULES: Rules = {
    "CREDIT_CARD": ((0.9, card),),
    "EMAIL": (
        (
            0.95,
            pattern(
                rf"(?:(?<![{LETTER}._%+'\-])[{LETTER}._%+'\-]++|[^\W{LETTER}]{{1,64}})"
                rf"@(?:[{LETTER}\-]{{1,63}}\.)+[A-Za-z\u00c0-\u1fff]{{2,24}}",
                needs="@",
                flags=0,
            ),
        ),
    ),
    "IBAN": ((0.95, iban),),
    "IP_ADDRESS": (
        (
            0.85,
            pattern(
                rf"(?<![0-9])(?<![0-9]\.){_OCTET}(?:\.{_OCTET}){{3}}(?![0-9]|\.[0-9])", needs="."
            ),
        ),
        (0.85, ipv6),
    ),
    "URL": (
        (
            0.8,
            pattern(
                r"(?:(?<![A-Za-z])(?:[Hh][Tt][Tt][Pp]|[Ff][Tt][Pp]|[Ww][Ss])[Ss]?://|[Ff]ile:///?|"
                r"(?<![A-Za-z0-9])[Ww]{3}\.)"
                rf"(?:\[[0-9A-Fa-f:.]+\])?[{LETTER}.\-_~:/?#@!$&'()*+,;=%|]*[{LETTER}/=&#~_$%\-]",
                flags=0,
            ),
        ),
        (
            0.7,
            pattern(
                rf"(?<![A-Z0-9@._\-])(?:[A-Z0-9\-]+\.)+{_TLD}(?![A-Z0-9\-]|\.[A-Z0-9])"
                rf"(?:/[A-Z0-9.\-_~:/?#@!$&'()*+,;=%|]*[A-Z0-9/=&#~_$%\-]|/)?",
                needs=".",
            ),
        ),
    ),
}
