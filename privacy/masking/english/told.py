"""Names that the word before them gives away: `his daughter Peaches`, `thanks Kev`."""

import re
from collections.abc import Iterator

from privacy.masking.english.areas import CAPITAL
from privacy.masking.english.beside import CAPITALISED, NO_PART, NOBODY, joins, may_name
from privacy.masking.english.words import Words, plain_word, read_list
from privacy.masking.patterns import Place, any_in

_RELATIVES = (
    "daughter", "son", "wife", "husband", "brother", "sister", "mother", "father", "mom", "mum",
    "dad", "aunt", "auntie", "uncle", "cousin", "niece", "nephew", "grandson", "granddaughter",
    "grandmother", "grandfather", "friend", "mate", "boyfriend", "girlfriend", "fiance",
    "fianc\u00e9", "fiancee", "fianc\u00e9e", "partner", "neighbor", "neighbour", "roommate",
    "flatmate", "colleague", "boss", "nanny", "carer", "twin",
)  # fmt: skip
_GREETINGS = (
    "hi", "hey", "hello", "dear", "thanks", "thank you", "cheers", "birthday", "goodbye",
    "congrats", "congratulations",
)  # fmt: skip
_ABBREVIATED = (
    "Sgt", "Capt", "Lt", "Col", "Maj", "Gen", "Cpl", "Pvt", "Rev", "Sen", "Rep", "Gov", "Hon",
    "Fr", "Br", "Mme", "Supt", "Insp",
)  # fmt: skip
_RANKS = (
    "Sergeant", "Captain", "Lieutenant", "Colonel", "Admiral", "Judge", "Justice", "Pastor",
    "Reverend", "Officer", "Detective", "Inspector", "Constable", "Nurse", "Coach", "Uncle",
    "Aunt", "Auntie", "Senator", "Congressman", "Congresswoman", "Governor", "President",
    "Chancellor", "Chaplain", "Sir", "Dame", "Lord", "Lady", "Madame", "Monsieur", "Se\u00f1or",
    "Se\u00f1ora", "Frau", "Herr", "Sister", "Brother", "Saint", "Pope", "King", "Queen",
    "Prince", "Princess", "PM", "MP", "Lil",
)  # fmt: skip
_ON_STAGE = ("DJ", "VJ", "MC")
_RELATED = re.compile(
    rf"(?<![\w])(?:(?:{'|'.join(_RELATIVES)})s?,?(?: is| was| called| named)?|"
    rf"(?:{'|'.join(f'[{cue[0].upper()}{cue[0]}]{cue[1:]}' for cue in _GREETINGS)})),?$"
)
_RANKED = re.compile(
    rf"(?<![\w])(?:(?:(?:{'|'.join(_ABBREVIATED)})\.?|(?<![0-9] )(?:{'|'.join(_RANKS)})) )+"
    r"(?:de |van |von )?$"
)
_STAGED = re.compile(rf"(?<![\w])(?:{'|'.join(_ON_STAGE)}) $")
_CAPITAL_NEXT = re.compile(rf" (?=[{CAPITAL}])")
_NAME = re.compile(CAPITALISED)
# The words before the space, without sign: of most capitalised words none of them stands there.
_CUES = frozenset(
    word.rpartition(" ")[2].lower()
    for word in (
        *_RELATIVES, *(relative + "s" for relative in _RELATIVES), *_GREETINGS, *_ABBREVIATED,
        *_RANKS, *_ON_STAGE, "is", "was", "called", "named", "de", "van", "von",
    )
)  # fmt: skip
_LONGEST = 40
_LAST_LETTERS = re.compile(r"[^\W\d_]+$")
# With a small letter these are words: `hey will you`, `thanks hope`.
_GIVEN = read_list("given") - {
    "art", "bill", "cash", "chance", "charity", "faith", "grant", "hope", "jan", "mark", "may",
    "will",
}  # fmt: skip
_REACH = 40
# `hey tanner`: what is a name and seldom a word.
_NAMES = (read_list("first") | read_list("last")) - read_list("common") - {"buddy", "doc"}


def told(text: str, small: frozenset[str], lists: Words) -> Iterator[Place]:
    """Who is related, greeted or of a rank; `small` are the words of `text` in small letters."""
    for gap in _CAPITAL_NEXT.finditer(text):
        space, start = gap.span()
        # Longer than any cue is a sequence or the like: it would be searched at each letter.
        cue = text[max(text.rfind(" ", 0, space) + 1, space - _LONGEST) : space]
        cue = cue.rstrip(".,").lower()
        if not cue.isalpha():
            letters = _LAST_LETTERS.search(cue)
            cue = letters[0] if letters else ""
        if cue not in _CUES:
            continue
        name = _NAME.match(text, start)
        if name is None:
            continue
        begin = max(0, start - _REACH)
        key = plain_word(name[0])
        if _RELATED.search(text, begin, space):
            if joins(name[0]) and key not in NOBODY and may_name(key, lists):
                yield name.span()
            continue
        rank = _RANKED.search(text, begin, start)
        if rank and key.strip("x") and key not in NO_PART and may_name(key, lists):
            yield rank.start(), name.end()
        stage = None if rank else _STAGED.search(text, begin, start)
        if stage and not text[max(0, stage.start() - 60) : name.end()].isupper():
            yield stage.start(), name.end()
    for word in sorted((small & _GIVEN) | (small & lists.slips) | (small & _NAMES)):
        start = text.find(f" {word}")
        while start >= 0:
            end = start + 1 + len(word)
            ends = not (
                text[end : end + 1].isalnum() or text[end : end + 1] in ("_", "'", "\u2019")
            )
            if ends and _RELATED.search(text, max(0, start - _REACH), start):
                yield start + 1, end
            start = text.find(f" {word}", end)


def speakers(text: str, lists: Words) -> Iterator[Place]:
    """`"We go," says Frosty`, `Brown: "No."`: who says what stands in quotation marks."""
    if not any_in(text, _QUOTES):
        return
    for word in _SAYING:
        place = text.find(word)
        while place >= 0:
            match = _SAYS.match(text, place + len(word))
            if match and _QUOTED.search(text, max(0, place - 4), place):
                key = plain_word(match[1])
                if key not in NOBODY and key not in NO_PART and may_name(key, lists):
                    yield match.start(1), match.end()
            place = text.find(word, place + 1)
    colon = text.find(":")
    while colon >= 0:
        match = _OPENS.match(text, colon + 1) and _SPEAKER.search(
            text, max(0, colon - _REACH), colon
        )
        if match and match[1].lower() in _SPEAKERS:
            yield match.span(1)
        colon = text.find(":", colon + 1)


_QUOTES = ('"', "\u201d", "\u201c")
_SAYING = (" say", " said", " ask", " repl", " add", " expl")
_QUOTED = re.compile(r"[,.!?]\\?[\"\u201d]$")
_SAYS = re.compile(
    r"(?:s|ed|ies|ied|ains|ained|) "
    rf"([^\W\d_][\w'\u2019\-]+)(?: {CAPITALISED}){{0,2}}(?=[.,;:\"\n]|$| [a-z])"
)
_OPENS = re.compile(r" ?\\?[\"\u201c]")
_SPEAKER = re.compile(r"(?<![\w'\u2019])([A-Za-z][a-z]{2,15})$")
_SPEAKERS = (read_list("given") | read_list("family") | _NAMES) - {"may", "jan"}
