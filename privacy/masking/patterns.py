r"""What finders in all languages are made of: patterns, digit groups, checksums.

A digit's neighbours decide where a number ends, never `\b`: to Python a Han character and a digit
are both word characters, so `\b` sees no boundary between them and finds nothing. Patterns are
written in ASCII and meet plain text (`privacy/masking/plain.py`).
"""

import ipaddress
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache

from privacy.masking.checksums import IBAN_LENGTHS, iban_holds, luhn_holds

Place = tuple[int, int]
Finder = Callable[[str], Iterator[Place]]
# Entity type to scored finders.
Rules = Mapping[str, tuple[tuple[float, Finder], ...]]

ANY = re.ASCII | re.IGNORECASE
# Where a number begins and ends.
BEFORE, AFTER = r"(?<![0-9])", r"(?![0-9])"
# Latin, Greek, Cyrillic and neighbours may stand inside an address; a Han character beside one
# belongs to the sentence.
LETTER = r"A-Za-z0-9\u00c0-\u1fff"
_DIGITS = re.compile(r"[0-9]+")
_DIVIDERS = " \t\n.,-/()"
_SEPARATOR = re.compile(r"[ \t\n.\-]{1,3}")
_FEW = 8


def pattern(
    pattern: str,
    *,
    check: Callable[[str], bool] | None = None,
    needs: str = "",
    likely: str = "",
    words: Sequence[str] = (),
    flags: int = ANY,
) -> Finder:
    """A finder of `pattern`, or of its group `value`, where `check` holds.

    Where `needs` is not in the text, or none of `words` in its small letters, or the cheaper
    pattern `likely` finds nothing, the text is not searched.
    """
    compiled = re.compile(pattern, flags)
    quick = re.compile(likely, flags) if likely else None
    group = "value" if "value" in compiled.groupindex else 0

    def finder(text: str) -> Iterator[Place]:
        if needs not in text or (quick and not quick.search(text)):
            return
        if words and not any_in(lowered(text), words):
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


@lru_cache(maxsize=2)
def digit_runs(text: str) -> tuple[tuple[int, int, int], ...]:
    """Runs of digits: start, end, and the digits from here to the end of the group of runs.

    Runs stand in one group while at most three signs such as a space or a hyphen divide them. Most
    rules need more digits than most groups have: they are asked only where it can matter.
    """
    runs: list[tuple[int, int, int]] = []
    later, total = -9, 0
    for match in reversed(list(_DIGITS.finditer(text))):
        start, end = match.span()
        near = later - end <= 3 and not text[end:later].strip(_DIVIDERS)
        total = end - start + (total if near else 0)
        runs.append((start, end, total))
        later = start
    return tuple(reversed(runs))


@lru_cache(maxsize=2)
def lowered(text: str) -> str:
    """`text` in small letters, each at its place."""
    low = text.lower()
    if len(low) == len(text):
        return low
    # One letter of a few became two: positions would shift.
    return "".join(c.lower() if len(c.lower()) == 1 else c for c in text)


def any_in(text: str, words: Sequence[str]) -> bool:
    """Whether one of `words` stands in `text`: much faster than a pattern of them."""
    # A loop: of a generator each step costs more than the search.
    for word in words:  # noqa: SIM110
        if word in text:
            return True
    return False


def last_word(text: str, end: int) -> str:
    """The word before `end`, where a space and at most a comma divide them; else nothing."""
    before = text[max(0, end - 24) : end]
    if before[-1:] != " ":
        return ""
    word = before.rstrip(" ").rstrip(",;").rpartition(" ")[2]
    word = word.rpartition("\n")[2].lstrip("(\"'")
    return word if word.isalpha() else ""


def numbered(
    pattern: str,
    *,
    least: int = 1,
    lead: str = "",
    back: str = "",
    reach: int = 60,
    check: Callable[[str], bool] | None = None,
    flags: int = ANY,
    runs: Callable[[str], Sequence[tuple[int, int, int]]] = digit_runs,
) -> Finder:
    """A finder of `pattern` where a run of digits begins.

    Args:
      pattern: Matched from the first digit, or from the signs of `lead` before it.
      least: Number of digits that the group must have from here on.
      lead: Signs before the digits that belong to what is found, such as `+` and `(`.
      back: What must stand directly before; its group `value`, where it has one, belongs to it.
      reach: How many characters before the digits `back` may begin.
      check: Must hold for what `pattern` matched.
      flags: Of both patterns.
      runs: Those of `digit_runs` that can matter.
    """
    compiled = re.compile(pattern, flags)
    behind = re.compile(f"(?:{back})$", flags) if back else None
    matches = compiled.match

    def finder(text: str) -> Iterator[Place]:
        free = 0
        for start, _, digits in runs(text):
            if digits < least or start < free:
                continue
            begin = start
            if lead:
                while begin > free and text[begin - 1] in lead:
                    begin -= 1
            match = matches(text, begin)
            while match is None and begin < start:
                begin += 1
                match = compiled.match(text, begin)
            if match is None or (check is not None and not check(match[0])):
                continue
            begin = match.start()
            if behind:
                before = behind.search(text, max(0, begin - reach), begin)
                if before is None:
                    continue
                if "value" in behind.groupindex:
                    begin = before.start("value")
            free = match.end()
            yield begin, free

    return finder


@lru_cache(maxsize=2)
def digit_groups(text: str) -> tuple[tuple[Place, ...], ...]:
    """Groups of more than eight digits in runs that one to three separators divide."""
    groups: list[tuple[Place, ...]] = []
    group: list[Place] = []
    for start, end, digits in digit_runs(text):
        if group and not _SEPARATOR.fullmatch(text, group[-1][1], start):
            groups.append(tuple(group))
            group = []
        if group or digits > _FEW:
            group.append((start, end))
    return tuple(found for found in (*groups, tuple(group)) if len(found))


def windows(groups: Sequence[Place], most: int) -> Iterator[tuple[int, int, int]]:
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


def card(text: str) -> Iterator[Place]:
    """12 to 19 digits that pass Luhn, in groups as cards print them or in none."""
    for groups in digit_groups(text):
        free = 0
        for first, last, digits in windows(groups, 19):
            sizes = [end - start for start, end in groups[first : last + 1]]
            if first < free or digits < 12 or sizes[0] < 4 or min(sizes[:-1], default=4) < 3:
                continue
            if luhn_holds("".join(text[start:end] for start, end in groups[first : last + 1])):
                free = last + 1
                yield groups[first][0], groups[last][1]


def trunk_phone(text: str) -> Iterator[Place]:
    """9 to 12 digits in groups, the first of which begins with the trunk prefix 0."""
    for groups in digit_groups(text):
        free = 0
        for first, last, digits in windows(groups, 12):
            start = groups[first][0]
            if first < free or last == first or digits < 9 or text[start] != "0":
                continue
            if groups[first][1] - start in (2, 3, 4, 5) and text[start + 1] != "0":
                free = last + 1
                yield start, groups[last][1]


def iban(text: str) -> Iterator[Place]:
    """The country's number of letters and digits, with spaces or hyphens between."""
    free = 0
    for start, _, _ in digit_runs(text):
        length = IBAN_LENGTHS.get(text[max(0, start - 2) : start].upper())
        if length is None or start - 2 < free:
            continue
        found = _taken(length - 1).match(text, start - 2)
        if found and _is_iban(found.group()):
            free = found.end()
            yield found.span()


@lru_cache
def _taken(num_more: int) -> re.Pattern[str]:
    return re.compile(rf"(?:[A-Z0-9][ \-]{{0,2}}){{{num_more}}}[A-Z0-9](?![0-9])", ANY)


def _is_iban(text: str) -> bool:
    """Whether the checksum holds, and it is no sentence: one in 97 would hold by chance."""
    iban = re.sub(r"[ \-]", "", text)
    in_fours = all(len(group) % 4 == 0 for group in re.split(r"[ \-]+", text)[:-1])
    num_digits = sum(character.isdigit() for character in iban)
    return iban_holds(iban) and (in_fours or num_digits * 2 >= len(iban))


_IPV6_LIKELY = re.compile(r":[0-9A-F]{0,4}:", ANY)
_IPV6 = re.compile(
    # Alone, or behind the name of a field and its colon.
    r"(?:(?<![0-9A-Z:.])|(?<=[^0-9A-F:.]:))[0-9A-F:]*:[0-9A-F:]*:[0-9A-F:]*(?:[0-9]{1,3}(?:\.[0-9]{1,3}){3})?",
    ANY,
)


def ipv6(text: str) -> Iterator[Place]:
    """What the standard library reads as an IPv6 address, with at least one number in it."""
    if not _IPV6_LIKELY.search(text):
        return
    for match in _IPV6.finditer(text):
        found = match.group()
        # A colon before or after an address belongs to the sentence.
        for address in (found, found.rstrip(":"), found[1:], found[1:].rstrip(":")):
            try:
                ipaddress.IPv6Address(address)
            except ValueError:
                continue
            if address.strip(":"):
                start = match.start() + found.index(address)
                yield start, start + len(address)
                break


def is_date(text: str) -> bool:
    """Whether the numbers can be year, month, day, or month and day in either order and year."""
    numbers = [int(number) for number in re.findall(r"[0-9]+", text)[:3]]
    if len(text) == 8 and len(numbers) == 1:
        numbers = [int(text[:4]), int(text[4:6]), int(text[6:])]
    first, second, third = numbers
    if first > 31:
        return 1 <= second <= 12 and 1 <= third <= 31
    return 1 <= min(first, second) <= 12 and 1 <= max(first, second) <= 31
