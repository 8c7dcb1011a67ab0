"""Regimes as TOML files: which article asks for what, and which evidence speaks to it.

A file is written for a person who knows the law and not this code. It holds no verdict: `covers`
says how far the log can speak to the article at best, and a control never gets a better status.

Anything unexpected in a file is one error that names file and line.
"""

import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path

from privacy.errors import ConfigError

REGIMES = ("gdpr", "hipaa", "mlps", "pipl", "iso27001", "aiact", "pci", "dora", "sr26-2")
COVERS = ("whole", "part", "nothing")
# Begins with a letter, as OSCAL wants its tokens.
_ID = re.compile(r"[a-z][A-Za-z0-9.-]{0,62}")
_LANGUAGES = {"en", "zh"}
_TOP = {"id", "name", "source", "note", "control"}
_CONTROL = {"id", "ref", "asks", "covers", "evidence", "missing"}
MAX_BYTES = 200_000

Text = Mapping[str, str]


@dataclass(frozen=True, kw_only=True, slots=True)
class Control:
    """One thing that a regime asks for.

    Attributes:
      id: Unique over all regimes.
      ref: Where it stands, as it is cited.
      asks: What it asks for, in our own words, by language.
      covers: How far a log of training can show it at best, one of `COVERS`.
      evidence: Names of the queries that speak to it.
      missing: What no log shows and a person has to say, by language.
    """

    id: str
    ref: str
    asks: Text
    covers: str
    evidence: tuple[str, ...]
    missing: Text


@dataclass(frozen=True, kw_only=True, slots=True)
class Regime:
    """A law or a standard.

    Attributes:
      id: How the command line names it.
      name: By language.
      source: Its full citation.
      note: What a reader should know of its scope, by language.
      controls: In its own order.
    """

    id: str
    name: Text
    source: str
    note: Text
    controls: tuple[Control, ...]


def load_regimes(names: Iterable[str], queries: Iterable[str]) -> list[Regime]:
    """The regimes of these names: files of ours, or paths to `.toml` files of the reader's.

    Args:
      names: One of `REGIMES`, or a path that ends in `.toml`.
      queries: Every query that a control may name.

    Raises:
      ConfigError: There is no such regime, or a file is wrong; it names file and line.
    """
    known = frozenset(queries)
    loaded = [_load(name, known) for name in dict.fromkeys(names)]
    seen: set[str] = set()
    for regime in loaded:
        for control in regime.controls:
            if control.id in seen:
                raise ConfigError(f"expected control {control.id!r} in one regime, got it twice")
            seen.add(control.id)
    return loaded


def _load(name: str, queries: frozenset[str]) -> Regime:
    source: Path | Traversable
    if name.endswith(".toml"):
        source = Path(name)
    elif name in REGIMES:
        source = resources.files("privacy.compliance.regimes").joinpath(f"{name}.toml")
    else:
        raise ConfigError(
            f"expected a regime of {', '.join(REGIMES)}, got {name!r}",
            hint="or give the path of a .toml file of your own",
        )
    try:
        content = source.read_bytes()
    except OSError as error:
        raise ConfigError(f"cannot read {name}: {error.strerror}") from None
    return parse_regime(content, name if name.endswith(".toml") else f"{name}.toml", queries)


def parse_regime(content: bytes, file: str, queries: frozenset[str]) -> Regime:
    """Read a regime; `file` is how errors name it.

    Raises:
      ConfigError: It is none; names file and line.
    """
    if len(content) > MAX_BYTES:
        raise ConfigError(f"{file}: expected at most {MAX_BYTES} bytes, got {len(content)}")
    try:
        # Editors on Windows put a mark before the text, which is no part of it.
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise ConfigError(
            f"{file}, line {line}: expected UTF-8", hint="save the file as UTF-8"
        ) from None
    try:
        loaded = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        found = re.search(r"line ([0-9]+)", str(error))
        place = found[1] if found else str(text.count("\n") + 1)
        reason = str(error).split(" (at ", maxsplit=1)[0]
        raise ConfigError(f"{file}, line {place}: {reason}") from None
    reader = _Reader(file, text)
    return reader.regime(loaded, queries)


class _Reader:
    """Turns tables into a regime and remembers where they stand."""

    def __init__(self, file: str, text: str) -> None:
        self._file = file
        lines = text.split("\n")
        heads = re.compile(r"\s*\[\[\s*control\s*\]\]")
        self._lines = lines
        self._starts = [number for number, line in enumerate(lines, 1) if heads.match(line)]

    def _problem(self, message: str, number: int | None = None, key: str = "") -> ConfigError:
        """The error, at the line of `key` in control `number`, else at that table's own line."""
        if number is None:
            begin, end = 1, (self._starts or [len(self._lines) + 1])[0]
        else:
            place = min(number, len(self._starts) - 1)
            begin = self._starts[place] if self._starts else 1
            after = self._starts[place + 1 :]
            end = after[0] if after else len(self._lines) + 1
        # A table of another name may stand anywhere.
        heading = re.compile(rf"\s*\[+\s*{re.escape(key)}\s*[.\]]")
        if number is None and key and key not in _TOP:
            for line, text in enumerate(self._lines, 1):
                if heading.match(text):
                    return ConfigError(f"{self._file}, line {line}: {message}")
        at = begin
        for line in range(begin, end):
            if key and re.match(rf"\s*{re.escape(key)}\s*[=.]", self._lines[line - 1]):
                at = line
                break
        return ConfigError(f"{self._file}, line {at}: {message}")

    def regime(self, loaded: Mapping[str, object], queries: frozenset[str]) -> Regime:
        self._keys(loaded, _TOP)
        controls = loaded["control"]
        if not isinstance(controls, list) or not controls:
            raise self._problem("expected at least one [[control]]", key="control")
        parsed = [self._control(row, place, queries) for place, row in enumerate(controls)]
        seen: set[str] = set()
        for place, control in enumerate(parsed):
            if control.id in seen:
                raise self._problem(
                    f"expected each id once, got {control.id!r} again", place, "id"
                )
            seen.add(control.id)
        return Regime(
            id=self._id(loaded["id"], None),
            name=self._words(loaded["name"], "name"),
            source=self._text(loaded["source"], "source"),
            note=self._words(loaded["note"], "note"),
            controls=tuple(parsed),
        )

    def _control(self, row: object, place: int, queries: frozenset[str]) -> Control:
        if not isinstance(row, dict):
            raise self._problem("expected [[control]] tables", place)
        self._keys(row, _CONTROL, place)
        covers, evidence = row["covers"], row["evidence"]
        if covers not in COVERS:
            raise self._problem(
                f"expected covers to be one of {', '.join(COVERS)}, got {covers!r}",
                place,
                "covers",
            )
        if not isinstance(evidence, list):
            raise self._problem("expected evidence to be a list of names", place, "evidence")
        for name in evidence:
            if not isinstance(name, str) or name not in queries:
                raise self._problem(
                    f"expected evidence of {', '.join(sorted(queries))}; got {name!r}",
                    place,
                    "evidence",
                )
        if (covers == "nothing") != (not evidence):
            raise self._problem(
                "expected evidence exactly where covers is whole or part", place, "evidence"
            )
        return Control(
            id=self._id(row["id"], place),
            ref=self._text(row["ref"], "ref", place),
            asks=self._words(row["asks"], "asks", place),
            covers=covers,
            evidence=tuple(evidence),
            missing=self._words(row["missing"], "missing", place),
        )

    def _keys(self, row: Mapping[str, object], wanted: set[str], place: int | None = None) -> None:
        for name in sorted(set(row) - wanted):
            raise self._problem(f"expected {', '.join(sorted(wanted))}; got {name!r}", place, name)
        for name in sorted(wanted - set(row)):
            raise self._problem(f"expected {name!r}, it is missing", place)

    def _id(self, value: object, place: int | None) -> str:
        if not isinstance(value, str) or not _ID.fullmatch(value):
            raise self._problem(f"expected an id of a-z A-Z 0-9 . -, got {value!r}", place, "id")
        return value

    def _text(self, value: object, key: str, place: int | None = None) -> str:
        if not isinstance(value, str) or not value.strip() or "\n" in value:
            raise self._problem(f"expected {key} to be one line of text", place, key)
        if re.search(r"\bcompliant\b|合规的", value, re.IGNORECASE):
            raise self._problem(f"expected {key} without a verdict, got 'compliant'", place, key)
        return value

    def _words(self, value: object, key: str, place: int | None = None) -> Text:
        if not isinstance(value, dict) or set(value) != _LANGUAGES:
            raise self._problem(f"expected {key}.en and {key}.zh", place, key)
        return {name: self._text(text, key, place) for name, text in value.items()}
