"""Names of people in Chinese text, which has no spaces and no capitals.

A name is a surname and one or two characters that names are made of. Whether it is one, the
likeliest reading of the whole stretch decides: words by their share in Chinese text against names
by the shares of surname and given name, helped by what stands
beside a name (患者, 医师, 先生, 说).
`高血压` is read as a word, `高雪亚` as a name.
"""

import re
from collections.abc import Iterable, Iterator
from functools import cache

from privacy.masking.chinese import lexicon
from privacy.masking.patterns import Place, Rules, pattern

_RUN = re.compile(r"[\u4e00-\u9fff〇]+")
# Log odds of a name at any place, and what its surroundings add.
_ANYWHERE, _CUE_BEFORE, _CUE_AFTER, _ROLE, _FIELD_BEGINS, _FIELD_FILLED = (
    -3.0,
    4.5,
    4.0,
    1.5,
    3.5,
    5.0,
)
# A surname that mostly is a word of grammar, a last character that begins the next word.
_GRAMMAR_FIRST, _GRAMMAR_LAST = -4.5, -6.0
_TITLED, _FAMILIAR, _SOMEBODY = 5.5, -2.5, 3.0
_UNKNOWN_CHARACTER, _UNKNOWN_GIVEN, _PLACE = -15.0, -11.0, -12.0
_SHORT, _LONG = -1.6, -0.3
_LONGEST_WORD = 4
_NEVER = -1e9
# Less than the worst character on its own.
_HOPELESS = -15.0
_MOST_REPEATED = 64
# 姓名王小明: a form without a colon.
_FORM_WORDS = frozenset(["姓名", "户名", "签名", "签字"])

_SOMEBODY_RE = re.compile(
    r"某{1,2}[甲乙丙丁]?(?![日年月种些时地处院市省县区公医])|"
    r"[X×*＊○]{1,3}(?![X×*＊○A-Za-z0-9])"
)
_SOMEBODY_FIRST = frozenset("某X×*＊○")


class _Model:
    """The lists, looked up once."""

    def __init__(self) -> None:
        beside = lexicon.read_groups("beside_names.txt")
        places = lexicon.read_groups("places.txt")["prefecture"]
        self.words = dict.fromkeys(map(lexicon.short_name, places), _PLACE) | lexicon.read_words()
        self.surnames = lexicon.read_surnames()
        given = lexicon.read_given()
        self.alone, self.first, self.second = given["alone"], given["first"], given["second"]
        self.grammar, self.next_word = beside["grammar"], beside["next"]
        self.familiar = frozenset(
            prefix + surname for prefix in "小老阿" for surname in beside["familiar"]
        )
        self.begins = frozenset(name[0] for name in self.surnames) | frozenset("小老阿")
        self.before, self.after = beside["before"], beside["after"]
        fields = _any_of(beside["field"])
        # 姓 名: 王明, 签名(王明), 联系人:王明.
        self.field = re.compile(rf"(?:姓\s*名|{fields}|(?<!病)人)(?:签[名字])?[ :(/]{{1,4}}$")
        self.speaker = re.compile(rf"(?:{_any_of(beside['speaker'])})[ :(/]{{1,3}}$|@$")
        self.title = re.compile(rf"{_any_of(beside['title'])}|[总工氏](?![\u4e00-\u9fff])")
        self.title_first = frozenset(title[0] for title in beside["title"]) | frozenset("总工氏")
        sounds = "".join(sorted(beside["sounds"]))
        self.dotted = re.compile(rf"[{sounds}]{{1,8}}(?:[·•‧・∙⋅][{sounds}]{{1,9}}){{1,4}}")


def _any_of(words: Iterable[str]) -> str:
    return "|".join(sorted(words, key=lambda word: (-len(word), word)))


@cache
def _model() -> _Model:
    return _Model()


def find_names(text: str) -> Iterator[Place]:
    """Every stretch that reads best as a name, and what else bears the same full name."""
    if not _RUN.search(text):
        return
    found = [place for run in _RUN.finditer(text) for place in _names_in(text, *run.span())]
    yield from (dotted.span() for dotted in _model().dotted.finditer(text))
    if not found:
        return
    yield from found
    # Who is named in full once is meant wherever the same characters stand.
    words = _model().words
    full = dict.fromkeys(
        text[start:end] for start, end in found if end - start > 1 and text[start:end] not in words
    )
    known = set(found)
    for name in list(full)[:_MOST_REPEATED]:
        start = text.find(name)
        while start >= 0:
            if (start, start + len(name)) not in known:
                yield start, start + len(name)
            start = text.find(name, start + len(name))


def _names_in(text: str, begin: int, end: int) -> list[Place]:
    model = _model()
    run = text[begin:end]
    if model.begins.isdisjoint(run):
        return []
    candidates = _likely(model, text, begin, run)
    return [(begin + start, begin + stop) for start, stop in _read(model.words, run, candidates)]


def _likely(model: _Model, text: str, begin: int, run: str) -> dict[int, list[tuple[int, float]]]:
    """By their start, the names that score more than the same characters read as words.

    The others stand in no best reading, whatever is around them.
    """
    likely: dict[int, list[tuple[int, float]]] = {}
    for start, character in enumerate(run):
        if character in model.begins:
            for stop, score in _candidates(model, text, begin, run, start):
                piece = run[start:stop]
                if score > sum(
                    model.words.get(one, _UNKNOWN_CHARACTER) for one in piece
                ) and score > _as_words(model.words, piece):
                    likely.setdefault(start, []).append((stop, score))
    return likely


def _as_words(words: dict[str, float], piece: str) -> float:
    """Score of the best reading of one to four characters as words; `_NEVER` for more."""
    best = [0.0] + [_NEVER] * len(piece)
    for start in range(len(piece)):
        for stop in range(start + 1, len(piece) + 1):
            share = words.get(piece[start:stop])
            if share is None:
                share = _UNKNOWN_CHARACTER if stop == start + 1 else _NEVER
            best[stop] = max(best[stop], best[start] + share)
    return best[-1]


def _read(
    words: dict[str, float], run: str, names: dict[int, list[tuple[int, float]]]
) -> list[Place]:
    """The names in the best reading of `run`."""
    if not names:
        return []
    length = len(run)
    # Best score of a reading that ends at each place, where its last piece begins, and where the
    # name in that piece ends (0: a word). A name may end behind the run, as 王×× does.
    best = [0.0] + [_NEVER] * length
    back = [(0, 0)] * (length + 1)
    for start in range(length):
        so_far = best[start]
        for stop in range(start + 1, min(start + _LONGEST_WORD, length) + 1):
            score = words.get(run[start:stop])
            if score is None:
                if stop > start + 1:
                    continue
                score = _UNKNOWN_CHARACTER
            if so_far + score > best[stop]:
                best[stop] = so_far + score
                back[stop] = (start, 0)
        for stop, score in names.get(start, ()):
            if so_far + score > best[min(stop, length)]:
                best[min(stop, length)] = so_far + score
                back[min(stop, length)] = (start, stop)
    found = []
    place = length
    while place:
        start, stop = back[place]
        if stop:
            found.append((start, stop))
        place = start
    return found[::-1]


def _candidates(
    model: _Model, text: str, begin: int, run: str, start: int
) -> Iterator[tuple[int, float]]:
    """Names that may begin at `start`: where each ends, and its score."""
    told, field = _before(model, text, begin, run, start)
    for size in (1, 2):
        surname = run[start : start + size]
        share = model.surnames.get(surname)
        if share is None or len(surname) < size:
            continue
        grammar = surname in model.grammar
        here = _ANYWHERE + share
        here += min(told, _ROLE) + _GRAMMAR_FIRST if grammar and not field else told
        stop = start + size
        follows = text[begin + stop : begin + stop + 1]
        if follows in _SOMEBODY_FIRST and (somebody := _SOMEBODY_RE.match(text, begin + stop)):
            if not grammar:
                yield somebody.end() - begin, here + _SOMEBODY
            continue
        if follows in model.title_first and model.title.match(text, begin + stop):
            if not grammar or start == 0:
                yield stop, here + _TITLED
            continue
        yield from _with_given(model, text, begin, run, stop, here, field)
    if run[start : start + 2] in model.familiar:
        score = _ANYWHERE + model.surnames[run[start + 1]] + _FAMILIAR + told
        yield start + 2, score + _after(model, text, begin + start + 2)


def _with_given(
    model: _Model, text: str, begin: int, run: str, place: int, here: float, field: bool
) -> Iterator[tuple[int, float]]:
    """Names of one and two characters behind a surname that scores `here`."""
    for end in range(place + 1, min(place + 2, len(run)) + 1):
        if end == place + 1:
            given = _SHORT + model.alone.get(run[place], _UNKNOWN_GIVEN)
        else:
            first = model.first.get(run[place], _UNKNOWN_GIVEN)
            given = _LONG + first + model.second.get(run[place + 1], _UNKNOWN_GIVEN)
        score = here + given
        # Nothing that could follow would save it.
        if score + _CUE_AFTER + _FIELD_FILLED < _HOPELESS * (end - place + 1):
            continue
        score += _after(model, text, begin + end)
        if field and (end == len(run) or text[begin + end : begin + end + 2] in model.after):
            score += _FIELD_FILLED
        if run[end - 1] in model.next_word:
            score += _GRAMMAR_LAST
        yield end, score


def _before(model: _Model, text: str, begin: int, run: str, start: int) -> tuple[float, bool]:
    """What stands before a name says for it, and whether that is a field of a form."""
    if start == 0:
        before = text[max(0, begin - 16) : begin]
        if model.field.search(before):
            return _FIELD_BEGINS, True
        return (_ROLE if model.speaker.search(before) else 0.5), False
    for size in (4, 3, 2):
        if start >= size and run[start - size : start] in model.before:
            return _CUE_BEFORE, run[start - size : start] in _FORM_WORDS
    return (_ROLE if run[start - 1] in model.before else 0.0), False


def _after(model: _Model, text: str, stop: int) -> float:
    if stop >= len(text) or not "\u4e00" <= text[stop] <= "\u9fff":
        return 0.5
    if text[stop : stop + 2] in model.after:
        return _CUE_AFTER
    return _ROLE if text[stop] in model.after else 0.0


RULES: Rules = {
    "PERSON": (
        (0.6, find_names),
        (
            0.6,
            pattern(r"(?:我|他|她|您|本人|免贵|贵)姓(?P<value>[\u4e00-\u9fff])(?![名氏什啥么何])"),
        ),
    ),
}
