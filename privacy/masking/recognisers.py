r"""What personal data looks like in English text: patterns and checksums, by entity type.

A digit's neighbours decide where a number ends, never `\b`: to Python a Han character and a digit
are both word characters, so `\b` sees no boundary between them and finds nothing. Patterns are
written in ASCII; `find` also reads a copy of the text in which other scripts' digits, full-width
characters, and unusual spaces and hyphens have become their ASCII likes and invisible characters
are gone, so that a number pasted from a web page is still a number.

Where a rule must choose, it masks: a needless `[DATE]` costs a little meaning, a missed one a
person's privacy.
"""

import ipaddress
import re
import unicodedata
from collections.abc import Callable, Iterator, Sequence

from privacy.masking.checksums import IBAN_LENGTHS, iban_holds, luhn_holds
from privacy.masking.mask import Span

Place = tuple[int, int]
Finder = Callable[[str], Iterator[Place]]

_ANY = re.ASCII | re.IGNORECASE
# Latin, Greek, Cyrillic and neighbours may stand inside an address; a Han character beside one
# belongs to the sentence.
_LETTER = r"A-Za-z0-9\u00c0-\u1fff"
_MONTH = (
    r"(?:Jan(?:uary)?|Feb(?:ruary)?|Mar(?:ch)?|Apr(?:il)?|(?-i:May|MAY)|June?|July?|"
    r"Aug(?:ust)?|Sep(?:t(?:ember)?)?|Oct(?:ober)?|Nov(?:ember)?|Dec(?:ember)?)\.?"
)
_TLD = r"(?:com|org|net|edu|gov|mil|int|info|biz|io|health|bank|(?:co|org|ac|gov|nhs|ltd)\.uk)"
_DIGIT_RUN = re.compile(r"[0-9]+(?:[ \t\n.\-]{1,3}[0-9]+)*")


def find(text: str, entity_types: Sequence[str]) -> list[Span]:
    """Every place in `text` that looks like one of `entity_types`; places may overlap."""
    spans = _find_ascii(text, entity_types)
    if not text.isascii():
        plain, positions = _plain(text)
        if plain != text:
            spans += [
                Span(
                    positions[span.start],
                    positions[span.end - 1] + 1,
                    span.entity_type,
                    span.score,
                )
                for span in _find_ascii(plain, entity_types)
            ]
    return spans


def _find_ascii(text: str, entity_types: Sequence[str]) -> list[Span]:
    if not _MAY_MATCH.search(text):
        return []
    return [
        Span(start, end, entity_type, score)
        for entity_type in entity_types
        for score, finder in RULES[entity_type]
        for start, end in finder(text)
    ]


# What every rule needs; most labels and many sentences have none of it. A test holds the two
# together.
_MAY_MATCH = re.compile(rf"[0-9@]|://|www\.|\.{_TLD}|:[0-9a-f]{{0,4}}:", _ANY)


class _PlainCharacters(dict[int, int]):
    """Code point to its ASCII like, filled as characters are met; itself where there is none."""

    def __missing__(self, code: int) -> int:
        character = chr(code)
        decimal = unicodedata.decimal(character, None)
        category = unicodedata.category(character)
        if decimal is not None:
            plain = ord("0") + decimal
        elif 0xFF01 <= code <= 0xFF5E:
            plain = code - 0xFF01 + 0x21
        elif category == "Zs":
            plain = ord(" ")
        elif category == "Pd" or code == 0x2212:
            plain = ord("-")
        elif category == "Cf":
            plain = _INVISIBLE
        else:
            plain = code
        self[code] = plain
        return plain


_INVISIBLE = 0x200B
_PLAIN = _PlainCharacters()


def _plain(text: str) -> tuple[str, Sequence[int]]:
    """`text` in plain characters, and for each of them its position in `text`."""
    plain = text.translate(_PLAIN)
    if chr(_INVISIBLE) not in plain:
        return plain, range(len(plain))
    positions = [place for place, character in enumerate(plain) if ord(character) != _INVISIBLE]
    return "".join(plain[place] for place in positions), positions


def _pattern(
    pattern: str, *, check: Callable[[str], bool] | None = None, needs: str = "", flags: int = _ANY
) -> Finder:
    """A finder of `pattern`, or of its group `value`, where `check` holds."""
    compiled = re.compile(pattern, flags)
    group = "value" if "value" in compiled.groupindex else 0

    def finder(text: str) -> Iterator[Place]:
        if needs not in text:
            return
        match = compiled.search(text)
        while match:
            start, end = match.span(group)
            good = check is None or check(text[start:end])
            if good:
                yield start, end
            # What fails the check may hide what passes: go on one character later.
            match = compiled.search(text, match.end() if good else match.start() + 1)

    return finder


def _digit_groups(text: str) -> Iterator[list[Place]]:
    """Runs of digit groups that stand one to three separators apart."""
    for run in _DIGIT_RUN.finditer(text):
        if run.end() - run.start() > 8:
            yield [
                (run.start() + group.start(), run.start() + group.end())
                for group in re.finditer(r"[0-9]+", run.group())
            ]


def _windows(groups: Sequence[Place], most: int) -> Iterator[tuple[int, int, int]]:
    """Every window of at most `most` digits, longest first: first and last group, digits."""
    for first in range(len(groups)):
        windows = []
        digits = 0
        for last in range(first, len(groups)):
            digits += groups[last][1] - groups[last][0]
            if digits > most:
                break
            windows.append((first, last, digits))
        yield from reversed(windows)


def _card(text: str) -> Iterator[Place]:
    """12 to 19 digits that pass Luhn, in groups as cards print them or in none."""
    for groups in _digit_groups(text):
        free = 0
        for first, last, digits in _windows(groups, 19):
            sizes = [end - start for start, end in groups[first : last + 1]]
            if first < free or digits < 12 or sizes[0] < 4 or min(sizes[:-1], default=4) < 3:
                continue
            if luhn_holds("".join(text[start:end] for start, end in groups[first : last + 1])):
                free = last + 1
                yield groups[first][0], groups[last][1]


def _trunk_phone(text: str) -> Iterator[Place]:
    """9 to 12 digits in groups, the first of which begins with the trunk prefix 0."""
    for groups in _digit_groups(text):
        free = 0
        for first, last, digits in _windows(groups, 12):
            start = groups[first][0]
            if first < free or last == first or digits < 9 or text[start] != "0":
                continue
            if groups[first][1] - start in (2, 3, 4, 5) and text[start + 1] != "0":
                free = last + 1
                yield start, groups[last][1]


_IBAN_START = re.compile(r"(?=([A-Z]{2})[0-9]{2})", _ANY)


def _iban(text: str) -> Iterator[Place]:
    """The country's number of letters and digits, with spaces or hyphens between."""
    free = 0
    for match in _IBAN_START.finditer(text):
        length = IBAN_LENGTHS.get(match[1].upper())
        if length is None or match.start() < free:
            continue
        taken = re.compile(rf"(?:[A-Z0-9][ \-]{{0,2}}){{{length - 1}}}[A-Z0-9](?![0-9])", _ANY)
        found = taken.match(text, match.start())
        if found and _is_iban(found.group()):
            free = found.end()
            yield found.span()


def _is_iban(text: str) -> bool:
    """Whether the checksum holds, and it is no sentence: one in 97 would hold by chance."""
    iban = re.sub(r"[ \-]", "", text)
    in_fours = all(len(group) % 4 == 0 for group in re.split(r"[ \-]+", text)[:-1])
    num_digits = sum(character.isdigit() for character in iban)
    return iban_holds(iban) and (in_fours or num_digits * 2 >= len(iban))


_IPV6 = re.compile(
    r"(?<![0-9A-Z:.])[0-9A-F:]*:[0-9A-F:]*:[0-9A-F:]*(?:[0-9]{1,3}(?:\.[0-9]{1,3}){3})?", _ANY
)


def _ipv6(text: str) -> Iterator[Place]:
    """What the standard library reads as an IPv6 address, with at least one number in it."""
    if ":" not in text:
        return
    for match in _IPV6.finditer(text):
        # A colon after an address belongs to the sentence.
        for address in (match.group(), match.group().rstrip(":")):
            try:
                ipaddress.IPv6Address(address)
            except ValueError:
                continue
            if address.strip(":"):
                yield match.start(), match.start() + len(address)
                break


def _is_date(text: str) -> bool:
    """Whether the numbers can be year, month, day, or month and day in either order and year."""
    numbers = [int(number) for number in re.findall(r"[0-9]+", text)]
    if len(text) == 8 and len(numbers) == 1:
        numbers = [int(text[:4]), int(text[4:6]), int(text[6:])]
    first, second, third = numbers
    if first > 31:
        return 1 <= second <= 12 and 1 <= third <= 31
    return 1 <= min(first, second) <= 12 and 1 <= max(first, second) <= 31


_BEFORE, _AFTER = r"(?<![0-9])", r"(?![0-9])"
# Money, shares and measurements are no identifiers.
_NO_AMOUNT = r"(?![A-Z0-9]|\.[0-9]| ?%)"
_OCTET = r"(?:25[0-5]|2[0-4][0-9]|1[0-9]{2}|0?0?[0-9]|0?[1-9][0-9])"
_EXTENSION = r"(?:[ ,;]{0,2}(?:ext\.?|extension|x)[ .:]{0,2}[0-9]{1,6})?"
# What people write before an identifier that has no form of its own.
_CUE = (
    r"(?<![A-Z])(?:MRN|EMR|NHS|medical record|health record|record|chart|patient|hospital|file|"
    r"encounter|visit|accession|specimen|episode|member(?:ship)?|subscriber|beneficiary|insurance|medicare|medicaid|HBN|plan|policy|group|"
    r"customer|client|account|acct|a/c|loan|case|claim|complaint|application|reference|ref|"
    r"confirmation|transaction|order|invoice|ticket|tracking|routing|sort code|licen[cs]e|"
    r"passport|tax|national insurance|driver'?s? licen[cs]e|employee|badge|id)"
    r"(?:[ _\-]{0,2}(?:record|numbers?|num|nbr|nr|no|id|identifier|code|#)\.?){0,4}"
    r"[ \t]{0,2}(?:(?:is|was|:|#|=|-|\()[ \t]{0,2}){0,3}"
)
_VALUE = (
    r"(?P<value>(?=[A-Z0-9/\-]{4})(?=[A-Z0-9/\-]*[0-9]{3})"
    r"[A-Z0-9]++(?:[/\-][A-Z0-9]++)*+)" + _NO_AMOUNT
)

RULES: dict[str, tuple[tuple[float, Finder], ...]] = {
    "CREDIT_CARD": ((0.9, _card),),
    "DATE": (
        (
            0.8,
            _pattern(
                rf"{_BEFORE}[0-9]{{4}}(?P<s> ?[/.\-] ?)[0-9]{{1,2}}(?P=s)[0-9]{{1,2}}{_AFTER}",
                check=_is_date,
            ),
        ),
        (
            0.8,
            _pattern(
                rf"{_BEFORE}[0-9]{{1,2}}(?P<s> ?[/\-] ?)[0-9]{{1,2}}(?P=s)"
                rf"(?:[0-9]{{4}}|[0-9]{{2}}){_AFTER}",
                check=_is_date,
            ),
        ),
        (
            0.8,
            _pattern(
                rf"{_BEFORE}(?:[0-9]{{1,2}}\.[0-9]{{1,2}}\.[0-9]{{4}}|"
                rf"[0-9]{{2}}\.[0-9]{{2}}\.[0-9]{{2}}){_AFTER}",
                check=_is_date,
            ),
        ),
        (0.6, _pattern(rf"{_BEFORE}(?:19|20)[0-9]{{6}}{_AFTER}", check=_is_date)),
        (
            0.5,
            _pattern(
                r"(?<![A-Z])(?:on|dated) "
                r"(?P<value>(?:0?[1-9]|1[0-2])/(?:0?[1-9]|[12][0-9]|3[01]))(?![0-9/])"
            ),
        ),
        (
            0.8,
            _pattern(
                rf"(?<![A-Z]){_MONTH}[ ,\-]{{0,2}}(?:[0-9]{{1,2}}(?:st|nd|rd|th)?"
                rf"(?:[ ,\-]{{1,2}}(?:[0-9]{{4}}|'[0-9]{{2}}){_AFTER}|{_AFTER})|"
                rf"(?:of )?[0-9]{{4}}{_AFTER})"
            ),
        ),
        (
            0.8,
            _pattern(
                rf"{_BEFORE}[0-9]{{1,2}}(?:st|nd|rd|th)?[ \-]?(?:(?:day )?of )?{_MONTH}(?![A-Z])"
                rf"(?:[ ,\-]{{1,2}}'?(?:[0-9]{{4}}|[0-9]{{2}}){_AFTER})?"
            ),
        ),
    ),
    "EMAIL": (
        (
            0.95,
            _pattern(
                rf"(?:(?<![{_LETTER}._%+'\-])[{_LETTER}._%+'\-]++|[^\W{_LETTER}]{{1,64}})"
                rf"@(?:[{_LETTER}\-]{{1,63}}\.)+[A-Za-z\u00c0-\u1fff]{{2,24}}",
                needs="@",
                flags=0,
            ),
        ),
    ),
    "IBAN": ((0.95, _iban),),
    "IP_ADDRESS": (
        (
            0.85,
            _pattern(
                rf"(?<![0-9])(?<![0-9]\.){_OCTET}(?:\.{_OCTET}){{3}}(?![0-9]|\.[0-9])", needs="."
            ),
        ),
        (0.85, _ipv6),
    ),
    "PHONE": (
        (
            0.75,
            _pattern(
                rf"{_BEFORE}(?:\+[ (]?|00)[1-9](?:[ .\-/()]{{0,2}}[0-9]){{6,14}}"
                rf"{_AFTER}{_EXTENSION}"
            ),
        ),
        (
            0.75,
            _pattern(
                rf"{_BEFORE}(?:1[ .\-]?)?(?:\([0-9]{{3}}\)[ .\-/]{{0,2}}|[0-9]{{3}}[ .\-/]{{1,2}})"
                rf"[0-9]{{3}}[ .\-][0-9]{{4}}{_AFTER}{_EXTENSION}"
            ),
        ),
        (0.6, _trunk_phone),
        (0.4, _pattern(rf"{_BEFORE}1?[2-9][0-9]{{2}}[2-9][0-9]{{6}}{_AFTER}")),
        (
            0.4,
            _pattern(rf"(?<![0-9])(?<![0-9]-)[0-9]{{3}}-[0-9]{{4}}(?![0-9]|-[0-9]){_EXTENSION}"),
        ),
        (
            0.5,
            _pattern(
                r"(?<![A-Z])(?:phone|telephone|tel|mobile|cell|fax|pager|call|text|dial)"
                rf"[^0-9\n$]{{0,15}}(?P<value>[0-9](?:[ \-]?[0-9]){{6,14}}){_AFTER}"
            ),
        ),
    ),
    "RECORD_NUMBER": (
        (0.7, _pattern(_CUE + _VALUE)),
        (0.5, _pattern(r"# ?" + _VALUE, needs="#")),
        (0.5, _pattern(rf"(?<![A-Z0-9])[A-Z]{{1,4}}[\-#]?[0-9]{{6,12}}{_AFTER}")),
        (
            0.5,
            _pattern(
                r"(?<![A-Z])(?:end(?:ing|s) (?:in|with|on)|last (?:4|four)(?: digits?)?)"
                rf"[^0-9\n$]{{1,12}}(?P<value>[0-9]{{3,4}}){_NO_AMOUNT}"
            ),
        ),
        # No sentence needs eight digits in a row; account and card numbers do.
        (0.3, _pattern(rf"{_BEFORE}[0-9]{{8,}}")),
    ),
    "SSN": (
        (0.85, _pattern(rf"{_BEFORE}[0-9]{{3}}(?P<s>[ .\-])[0-9]{{2}}(?P=s)[0-9]{{4}}{_AFTER}")),
        (
            0.85,
            _pattern(
                r"(?<![A-Z])(?:SSN|SIN|ITIN|social security)"
                rf"[^0-9\n]{{0,20}}(?P<value>[0-9]{{9}}){_AFTER}"
            ),
        ),
    ),
    "URL": (
        (
            0.8,
            _pattern(
                r"(?:(?<![A-Za-z])(?:[Hh][Tt][Tt][Pp]|[Ff][Tt][Pp]|[Ww][Ss])[Ss]?://|[Ff]ile:///?|"
                r"(?<![A-Za-z0-9])[Ww]{3}\.)"
                rf"(?:\[[0-9A-Fa-f:.]+\])?[{_LETTER}.\-_~:/?#@!$&'()*+,;=%|]*[{_LETTER}/=&#~_$%\-]",
                flags=0,
            ),
        ),
        (
            0.7,
            _pattern(
                rf"(?<![A-Z0-9@._\-])(?:[A-Z0-9\-]+\.)+{_TLD}(?![A-Z0-9\-]|\.[A-Z0-9])"
                rf"(?:/[A-Z0-9.\-_~:/?#@!$&'()*+,;=%|]*[A-Z0-9/=&#~_$%\-]|/)?",
                needs=".",
            ),
        ),
    ),
}
