"""What a name or place beside it makes part of it: `Kid Cudi`, `northern Kent`, `Ross, A.B.`.

A word with a capital amid small letters is written so because it names something; where a name
stands next to it, it belongs to that name. Nothing here marks a text in which nothing was found.
"""

import re
from collections.abc import Iterator, Sequence
from itertools import pairwise

from privacy.masking.english.areas import CAPITAL, MARKS
from privacy.masking.english.cues import GENERIC, JOINS_NAME, MEDICAL_NOUNS, TITLES
from privacy.masking.english.words import Words, plain_word, read_list
from privacy.masking.patterns import Place

CAPITALISED = rf"[{CAPITAL}][\w{MARKS}]*(?:['\u2019\-][\w{MARKS}]+)*"
_BEFORE = re.compile(rf"(?<![\w@#'\u2019/&.\-])({CAPITALISED})(?:(?<!\w{{5}})\.)? $")
_AFTER = re.compile(rf" ({CAPITALISED})(?![\w@])")
_MOST, _REACH = 3, 32
# What stands before a word with a capital that no sentence begins with.
_INSIDE = re.compile(r"[a-z0-9,&)\]][\"\u201d]? [\"\u201c(]?$")
_GOES_ON = re.compile(r"(?:['\u2019]s)?(?:[.,;:!?)]|$|,? [a-z&])")
_NAMES = read_list("first") | read_list("either")
NO_PART = (
    read_list("allowed") | read_list("no_names") | read_list("brands") | TITLES | MEDICAL_NOUNS
    | JOINS_NAME | GENERIC
) - _NAMES | {"chase", "danish", "easter", "french", "german", "sunday"}  # fmt: skip
NOBODY = frozenset(
    {"doctor", "company", "customer", "bank", "sir", "i'm", "i've", "i'd", "i'll", "it"}
)
_GIVEN = read_list("given") - {"april", "august", "jan", "june", "may", "will"} | {"ed"}
_FIRST_OR_LAST = read_list("given") | read_list("family")
_ENDINGS = ("ed", "ing", "ly")
_PLACE_AFTER = re.compile(
    r" (?:(?:railway|bus|train|petrol|power|police|fire) )?(?:airport|arena|avenue|bay|beach|"
    r"boulevard|bridge|campus|cathedral|castle|church|coast|county|court|courthouse|dam|district|forest|gate|"
    r"gardens?|harbou?r|heights|hills?|hotel|house|island|islands|junction|lake|lounge|mall|market|"
    r"mountains?|museum|oval|park|parliament|pass|peninsula|pier|plaza|pond|port|prison|province|"
    r"railroad|railway|region|restaurant|river|road|sea|square|stadium|state|station|street|suburbs?|"
    r"theatre|theater|tower|town|township|valley|venue|village|way|woods|zoo)(?![\w])",
    re.IGNORECASE,
)
_PLACE_BEFORE = re.compile(
    r"(?<![\w])((?:(?:[Nn]orth|[Ss]outh)(?:east|west)?(?:ern)?|[Ee]ast(?:ern)?|[Ww]est(?:ern)?|[Cc]entral|"
    r"[Dd]owntown|[Uu]pstate|[Rr]ural|[Ii]nner|[Gg]reater|"
    r"(?:County|Port|Republic|Commonwealth|Gulf|Bay|Isle|State|City|Cape|Mount|Lake|River|Fort|Glen)"
    r"(?: of(?: the)?)?)[ -])$"
)
_CROWNED = re.compile(
    r"(?<![\w])((?:(?:[Tt]he )?(?:Duke|Prince|King|Earl|Marquess|Count|Lord) and )?(?:[Tt]he )?"
    r"(?:Duke|Duchess|Earl|Countess|Count|Marquess|Prince|Princess|King|Queen|Baron|Baroness|Bishop|"
    r"Archbishop|Emperor|Sultan|Lord Mayor|Mayor|Governor) of )$"
)


def around_persons(text: str, persons: Sequence[Place], lists: Words) -> Iterator[Place]:
    """Capitalised words on either side of a name, amid small letters."""
    for start, end in persons:
        if end - start > 3 and text[start:end].isupper():
            continue
        first = _chain(text, start, end, lists)
        if first < start:
            yield first, start
        after = _AFTER.match(text, end)
        if after and joins(after[1]) and _GOES_ON.match(text, after.end()):
            yield after.span(1)
        particle = _PARTICLE.search(text, max(0, first - 12), first)
        if particle:
            yield particle.start(1), start
        yield from _behind(text, end, lists)
        yield from _other(text, first, end, lists)


def _chain(text: str, start: int, end: int, lists: Words) -> int:
    """Where the capitalised words that lead up to a name begin."""
    chain = [start]
    while len(chain) <= _MOST:
        before = _BEFORE.search(text, max(0, chain[-1] - _REACH), chain[-1])
        if before is None or not joins(before[1]):
            break
        chain.append(before.start(1))
    if _INSIDE.search(text, max(0, chain[-1] - 4), chain[-1]):
        return chain[-1]
    if plain_word(text[chain[-1] : start].strip(". ")) in _GIVEN:
        return chain[-1]
    if len(chain) == 1 or not _GOES_ON.match(text, end):
        return start
    # It begins the sentence: its capital says nothing, and a common word is no name.
    word = plain_word(text[chain[1] : start].strip(". "))
    common = word in lists.common and word not in _NAMES
    return start if common or (len(word) > 4 and word.endswith(_ENDINGS)) else chain[1]


def _behind(text: str, end: int, lists: Words) -> Iterator[Place]:
    """`Ross, A.B. (1978)`, `Ross- Wells`, `William "Buckshot" May`."""
    if text[end : end + 2] == ", ":
        initials = _INITIALS.match(text, end)
        if initials and initials[1].replace(" ", "") not in _CREDENTIALS:
            yield initials.span(1)
        return
    if text[end : end + 1] not in (" ", "-") or text[end + 1 : end + 2].isalnum():
        return
    last = _NICKNAMED.match(text, end) or _HYPHENED.match(text, end)
    if last:
        key = plain_word(last[1])
        if key in _FIRST_OR_LAST or (joins(last[1]) and may_name(key, lists)):
            yield end, last.end()


_INITIALS = re.compile(rf", ((?:[{CAPITAL}]\. ?){{1,3}})(?![\w])")
_CREDENTIALS = frozenset(
    {"M.D.", "D.O.", "R.N.", "P.A.", "N.P.", "U.S.", "U.K.", "D.C.", "I.", "A."}
)
_NICKNAMED = re.compile(
    rf" [\"\u201c(] ?{CAPITALISED}(?: {CAPITALISED})? ?[\"\u201d)] ({CAPITALISED})(?![\w@])"
)
_HYPHENED = re.compile(rf"(?:- | -)({CAPITALISED})(?![\w@])")


def linked(text: str, persons: Sequence[Place], places: Sequence[Place]) -> Iterator[Place]:
    """`Matt di Angelo`, `cody m ross`: what stands inside a name, half of which is a place too."""
    people = frozenset(persons)
    for before, after in pairwise(sorted((*persons, *places))):
        if 0 < after[0] - before[1] <= _REACH and (before in people or after in people):
            link = _LINK.fullmatch(text, before[1], after[0])
            # Spanish and French text is full of `de la`: there only between two capitals.
            if link and (link["sure"] or _is_titled(text, before[1], after[0])):
                # No space beside a place: that one is another span.
                begin, end = link.span()
                yield begin + (before not in people), end - (after not in people)


# Not `w` and the like, which are short for words (with, cum, 's) in notes.
_LINK = re.compile(
    r" (?:(?P<sure>van|von|di|della|den|ten|ter|du|dos|bin|ibn|"
    r"(?![aixyv] |v\.|(?-i:[csw]) )[a-z]\.?)|"
    r"(?:de|del|da|der|te|la|le|al|el|zu))(?: de[nr]?| la)? ",
    re.IGNORECASE,
)


def _is_titled(text: str, end: int, start: int) -> bool:
    """Whether the words on both sides of a gap have a capital."""
    return text[text.rfind(" ", 0, end) + 1 : end].istitle() and text[start].isupper()


def _other(text: str, start: int, end: int, lists: Words) -> Iterator[Place]:
    """`Audrey & Hazel`, `Will and Kate`: who is named with another."""
    for match in (
        _AND_BEFORE.search(text, max(0, start - _REACH), start),
        _AND_AFTER.match(text, end),
    ):
        if match:
            key = plain_word(match[1])
            if joins(match[1]) and key not in NOBODY and may_name(key, lists):
                yield match.span(1)


_AND_BEFORE = re.compile(rf"(?<![\w@#'\u2019/&.\-])({CAPITALISED})(?: and| &) $")
_AND_AFTER = re.compile(rf"(?: and| &) ({CAPITALISED})(?![\w@])(?=['\u2019.,;:!?)]| [a-z&]|$)")
_PARTICLE = re.compile(
    r"(?<![\w])((?:[Vv]an|[Vv]on|[Dd]e|[Dd]i|[Dd]el|[Dd]ella|[Dd]os|[Dd]u|[Tt]er|[Zz]u|[Bb]in|[Ii]bn)"
    r" (?:de[nr]? |la )?)$"
)


def may_name(key: str, lists: Words) -> bool:
    """Whether an ordinary word in small letters is so rare, or is a name so often."""
    return key not in lists.common or key in lists.either or key in _FIRST_OR_LAST


def joins(word: str) -> bool:
    """Whether a capitalised word can be a part of a name at all."""
    return len(word) > 1 and not word.isupper() and plain_word(word) not in NO_PART


def around_places(text: str, places: Sequence[Place]) -> Iterator[Place]:
    """`northern Kent`, `Bergen railway station`."""
    for start, end in places:
        after = _PLACE_AFTER.match(text, end)
        if after:
            yield start, after.end()
        before = _PLACE_BEFORE.search(text, max(0, start - 24), start)
        if before:
            yield before.start(1), start


def crowned(text: str, places: Sequence[Place]) -> Iterator[Place]:
    """`the Duchess of Kent`: of whom there is one."""
    for start, end in places:
        if text[max(0, start - 4) : start] != " of ":
            continue
        before = _CROWNED.search(text, max(0, start - 48), start)
        if before:
            yield before.start(1), end
