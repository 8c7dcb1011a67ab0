"""How the word lists of this folder were made: `python -m privacy.masking.chinese.make_lists`.

`dict.txt` comes with jieba 0.42.1 (MIT, Copyright (c) 2013 Sun Junyi), `adcodes.csv` with cpca
0.5.5 (MIT, DQinYuan); the names of divisions in it are those that the Ministry of Civil Affairs
publishes. Writes `words.txt`, `given.txt` and `places.txt`; the other lists are made by hand.

jieba itself is no dependency: it has had no release since 2020, reads a marshal file from a folder
that everybody may write to, and takes seconds to load.
"""

import argparse
import csv
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path

from privacy.masking.chinese.lexicon import read_surnames

FOLDER = Path(__file__).parent / "lists"
# Words of this many characters and at least this count are kept; longer ones decide nothing.
_LEAST_COUNT = {1: 1, 2: 3, 3: 4, 4: 5}
# Hardly ever another word: their bearers show which characters names are made of.
_CLEAR_SURNAMES = (
    "王李张刘陈杨赵吴周徐孙朱胡郭何林罗郑梁谢宋唐韩邓冯曹彭曾肖董潘袁蔡蒋杜魏"
    "苏吕丁卢姚沈姜崔谭陆范汪廖贾邹邱侯薛闫"
)
_LINE = 40


def main() -> None:
    """Write the lists into the package."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--words", type=Path, required=True)
    parser.add_argument("--divisions", type=Path, required=True)
    arguments = parser.parse_args()
    words = list(_words(arguments.words))
    given = _given(words)
    _write_given(given)
    _write_words(words, given)
    _write_places(arguments.divisions)


def _words(path: Path) -> Iterable[tuple[str, int, str]]:
    for line in path.read_text(encoding="utf-8").splitlines():
        word, count, tag = line.split(" ")
        if all("\u4e00" <= character <= "\u9fff" for character in word):
            yield word, int(count), tag


def _given(words: Iterable[tuple[str, int, str]]) -> dict[str, Counter[str]]:
    """How often each character stands alone, first or second in a given name."""
    counts: dict[str, Counter[str]] = {"alone": Counter(), "first": Counter(), "second": Counter()}
    for word, _, tag in words:
        if tag == "nr" and word[0] in _CLEAR_SURNAMES:
            if len(word) == 2:
                counts["alone"][word[1]] += 1
            elif len(word) == 3:
                counts["first"][word[1]] += 1
                counts["second"][word[2]] += 1
    return counts


def _write_given(counts: Mapping[str, Counter[str]]) -> None:
    lines = [
        "# Characters of given names by log share, alone, first or second: of the names in jieba."
    ]
    for place, counter in counts.items():
        total = sum(counter.values())
        by_score: defaultdict[float, list[str]] = defaultdict(list)
        for character, count in counter.items():
            by_score[round(math.log(count / total) * 4) / 4].append(character)
        for score, characters in sorted(by_score.items(), reverse=True):
            lines.append(f"{place} {score} {''.join(sorted(characters))}")
    (FOLDER / "given.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _write_words(words: Iterable[tuple[str, int, str]], given: Mapping[str, Counter[str]]) -> None:
    surnames = read_surnames()
    total = sum(count for _, count, _ in words)
    by_score: defaultdict[float, list[str]] = defaultdict(list)
    for word, count, tag in words:
        if count < _LEAST_COUNT.get(len(word), math.inf) or _is_name(word, tag, surnames, given):
            continue
        by_score[round(math.log(count / total) * 2) / 2].append(word)
    lines = [
        "# Words by their log share. Source: dict.txt of jieba 0.42.1, MIT, (c) 2013 Sun Junyi."
    ]
    for score, kept in sorted(by_score.items(), reverse=True):
        kept.sort()
        lines += [
            " ".join([str(score), *kept[start : start + _LINE]])
            for start in range(0, len(kept), _LINE)
        ]
    (FOLDER / "words.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _is_name(
    word: str, tag: str, surnames: Mapping[str, float], given: Mapping[str, Counter[str]]
) -> bool:
    """Whether a word is a person's name: the names are found by rule, not by heart."""
    if not tag.startswith("nr") or len(word) == 1:
        return False
    if word[:2] in surnames and len(word) > 2:
        return True
    if word[0] not in surnames:
        return False
    if word[0] in _CLEAR_SURNAMES and len(word) < 4:
        return True
    if len(word) == 2:
        return given["alone"][word[1]] >= 2
    return len(word) == 3 and given["first"][word[1]] >= 2 and given["second"][word[2]] >= 2


def _write_places(path: Path) -> None:
    """Full names of provinces, then prefectures, then counties and districts, each on lines."""
    by_level: dict[str, list[str]] = {"province": [], "prefecture": [], "county": []}
    with path.open(encoding="utf-8", newline="") as file:
        for row in sorted(csv.DictReader(file), key=lambda row: row["adcode"]):
            code, name = row["adcode"], row["name"]
            level = "province" if code[2:6] == "0000" else "county"
            if code[4:6] == "00" and level == "county":
                level = "prefecture"
            if name not in ("市辖区", "县", "省直辖县级行政区划", "自治区直辖县级行政区划"):
                by_level[level].append(name)
    lines = [
        "# Provinces, prefectures, and counties with districts: the divisions of the Ministry of",
        "# Civil Affairs, as cpca 0.5.5 (MIT) lists them.",
    ]
    for level, names in by_level.items():
        names = list(dict.fromkeys(names))
        lines += [
            " ".join([level, *names[start : start + _LINE]])
            for start in range(0, len(names), _LINE)
        ]
    (FOLDER / "places.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
