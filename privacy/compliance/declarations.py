"""What a person says of controls that no log can show: `declarations.toml`.

`write_sheet` makes an empty sheet with one table a control; a person fills it in and signs it with
`cloister-audit sign`. An answer is shown as a person's word, never as evidence. Where the sheet
names a log, it must be the one of the report: a word given about one run is not one about another.
"""

import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path

from privacy.compliance.regimes import Control, Regime
from privacy.errors import ConfigError

MAX_BYTES = 500_000
MAX_STATEMENT = 2000
_TOP = {"federation", "log", "name", "role", "date", "control"}
_CONTROL = {"id", "applies", "statement"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Declaration:
    """A person's word on one control.

    Attributes:
      control: Its id.
      applies: False says that it does not apply here.
      statement: What is declared, or why it does not apply.
      signed: Whether the signature of the sheet was checked.
    """

    control: str
    applies: bool
    statement: str
    signed: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Sheet:
    """A filled sheet.

    Attributes:
      federation: Whose.
      log: Origin of the log.
      name: Who declares.
      role: In which office.
      date: When.
      declarations: By control id; controls left empty are not among them.
      signed_by: Fingerprint of the key whose signature was checked, or an empty string.
    """

    federation: str
    log: str
    name: str
    role: str
    date: date
    declarations: Mapping[str, Declaration]
    signed_by: str = ""

    def signed(self, key: str) -> "Sheet":
        """The sheet, once its signature by the key of this fingerprint was checked."""
        rows = {id_: replace(row, signed=True) for id_, row in self.declarations.items()}
        return replace(self, declarations=rows, signed_by=key)


def read_sheet(path: Path, controls: Iterable[str]) -> Sheet:
    """Read a sheet.

    Args:
      path: The file.
      controls: Ids of the regimes that the report is about.

    Raises:
      ConfigError: The file is none, names an unknown control, or a person left out who they are.
    """
    try:
        content = path.read_bytes()
        if len(content) > MAX_BYTES:
            raise ConfigError(f"{path}: expected at most {MAX_BYTES} bytes, got {len(content)}")
        # Editors on Windows put a mark before the text, which is no part of it.
        text = content.decode("utf-8-sig")
        loaded = tomllib.loads(text)
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise ConfigError(
            f"{path}, line {line}: expected UTF-8", hint="save the file as UTF-8"
        ) from None
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        # The message would quote what a person wrote; the place is enough.
        found = re.search(r"line ([0-9]+)", str(error))
        where = f", line {found[1]}" if found else ""
        raise ConfigError(f"{path}{where}: expected TOML") from None
    return _Reader(path, text).sheet(loaded, frozenset(controls))


class _Reader:
    def __init__(self, path: Path, text: str) -> None:
        self._path = path
        self._lines = text.split("\n")

    def _problem(self, message: str, value: str = "", hint: str = "") -> ConfigError:
        """The error, at the first line that holds `value`."""
        for number, line in enumerate(self._lines, 1):
            if value and value in line:
                return ConfigError(f"{self._path}, line {number}: {message}", hint=hint)
        return ConfigError(f"{self._path}: {message}", hint=hint)

    def sheet(self, loaded: Mapping[str, object], controls: frozenset[str]) -> Sheet:
        for name in sorted(set(loaded) - _TOP):
            raise self._problem(f"expected {', '.join(sorted(_TOP))}; got {name!r}", name)
        for name in sorted(_TOP - {"control"} - set(loaded)):
            raise self._problem(f"expected {name!r}, it is missing")
        who = {key: loaded[key] for key in ("federation", "log", "name", "role")}
        for key, value in who.items():
            if not isinstance(value, str) or not value.strip() or len(value) > 200:
                raise self._problem(
                    f"expected {key} to be filled in",
                    f"{key} =",
                    hint="a declaration is somebody's: say who, in which office, and when",
                )
        if type(loaded["date"]) is not date:
            raise self._problem("expected date as a TOML date, 2026-11-20", "date =")
        rows = loaded.get("control", [])
        if not isinstance(rows, list):
            raise self._problem("expected [[control]] tables", "control")
        declared: dict[str, Declaration] = {}
        for row in rows:
            found = self._control(row, controls)
            if found.control in declared:
                raise self._problem(f"expected {found.control!r} once, got it twice")
            declared[found.control] = found
        return Sheet(
            **{key: str(value) for key, value in who.items()},
            date=loaded["date"],
            declarations={id_: row for id_, row in declared.items() if row.statement},
        )

    def _control(self, row: object, controls: frozenset[str]) -> Declaration:
        if not isinstance(row, dict) or set(row) != _CONTROL:
            raise self._problem("expected id, applies and statement in each [[control]]")
        control, applies, statement = row["id"], row["applies"], row["statement"]
        if control not in controls:
            raise self._problem(
                f"expected a control of the report's regimes, got {control!r}",
                f'"{control}"',
                hint="name its regime with --regime, or take the control out",
            )
        if type(applies) is not bool or not isinstance(statement, str):
            raise self._problem("expected applies true or false, statement a text", control)
        if len(statement) > MAX_STATEMENT or "\0" in statement:
            raise self._problem(f"expected at most {MAX_STATEMENT} characters", control)
        if not applies and not statement.strip():
            raise self._problem(f"expected a reason why {control!r} does not apply", control)
        return Declaration(control=control, applies=applies, statement=statement.strip())


def write_sheet(regimes: Iterable[Regime], *, federation: str, log: str, language: str) -> str:
    """An empty sheet, with what each control asks and what no log shows as comments."""
    lines = [
        "# What a person declares where no log can show it. An empty statement declares nothing.",
        "# applies = false needs the reason as its statement. Sign the file: cloister-audit sign",
        f'federation = "{federation}"',
        f'log = "{log}"',
        'name = ""',
        'role = ""',
        'date = ""  # 2026-11-20, without quotes',
    ]
    for regime in regimes:
        lines += ["", f"# {regime.name[language]}: {regime.source}"]
        for control in regime.controls:
            lines += ["", *_table(control, language)]
    return "\n".join(lines) + "\n"


def _table(control: Control, language: str) -> list[str]:
    return [
        f"# {control.ref}: {control.asks[language]}",
        f"# {control.missing[language]}",
        "[[control]]",
        f'id = "{control.id}"',
        "applies = true",
        'statement = ""',
    ]
