"""The commands of cloister-audit about personal values: openings, forget, and what show opens."""

import argparse
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path

from privacy.audit.entry import Entry, parse_entry, verify_entry
from privacy.audit.keys import KeyRing
from privacy.audit.log import ENTRIES, keys_with, no_log
from privacy.audit.opening import Opening, Openings, commitments_in, is_commitment, open_entry
from privacy.audit.store import read_lines
from privacy.console import OK, Parser, UsageError, add_keys, result, result_json, say
from privacy.errors import ConfigError, VerificationError

_MAX_DIGITS = 18  # more than any log has entries, and what a counter holds


def add_parsers(commands: "argparse._SubParsersAction[Parser]") -> None:
    """Add `openings` and `forget`."""
    listed = commands.add_parser(
        "openings",
        help="list the personal values that a party keeps behind its commitments",
        description="Check and print the openings in FILE: who decided, why, and who was refused."
        " It prints personal data to this terminal, because it was asked to.",
        example="cloister-audit openings openings.jsonl",
    )
    listed.add_argument("openings", type=Path, metavar="FILE", help="the party's openings.jsonl")
    listed.add_argument("--json", action="store_true", help="the result as JSON")

    forget = commands.add_parser(
        "forget",
        help="delete personal values and their salts; the log stays as it is and verifies",
        description="Delete for good what opens the commitments of entries: value and salt. The"
        " entries, their signatures, the tree and all proofs stay as they are. Backups and copies"
        " of FILE are yours to delete. All that is named is forgotten or, where FILE keeps nothing"
        " of one of them or holds a line that cannot be read, none: exit code 1.",
        example="cloister-audit forget 17 --log log --openings openings.jsonl\n"
        "cloister-audit forget hmac-sha256:3f2a... --openings openings.jsonl",
    )
    forget.add_argument(
        "entries",
        nargs="+",
        metavar="ENTRY",
        help="number of an entry in --log, or a commitment as `openings` lists it",
    )
    forget.add_argument(
        "--openings", type=Path, required=True, metavar="FILE", help="the party's openings.jsonl"
    )
    forget.add_argument("--log", type=Path, metavar="LOG", help="the log's folder, for numbers")
    add_keys(forget)
    forget.add_argument("--json", action="store_true", help="the result as JSON")


def list_openings(args: argparse.Namespace) -> int:
    """Print what a party can open."""
    kept = _existing(args.openings).read()
    if args.json:
        result_json([_as_json(name, opening) for name, opening in kept.items()])
        return OK
    for name, opening in kept.items():
        result(
            f"{opening.made_at}  {opening.party:<16} {opening.event.value:<19} {opening.field}"
            f" {opening.value!r}  {name}"
        )
    return OK


def forget(args: argparse.Namespace) -> int:
    """Delete what opens commitments: of all that is named, or of none.

    A person who asked to be forgotten is told so on this command's word. So it fails where one
    name finds nothing, and where a line cannot be read: what is meant may stand there.
    """
    openings = _existing(args.openings)
    kept = _readable(openings)
    wanted = _wanted(args.entries, args.log, args.keys, kept)
    _check_found(wanted, kept, args.openings)
    gone = openings.forget({name for found in wanted.values() for name in found})
    deleted = {opening.commitment for opening in gone}
    # Fields of one entry can be forgotten one by one, by their commitments.
    left = {name: what for found in wanted.values() for name, what in found.items()}
    missing = [name for name in left if name not in deleted]
    # What was deleted is not said again.
    if args.json:
        result_json({"forgotten": sorted(deleted), "not_kept_here": missing})
    else:
        for opening in gone:
            result(f"forgotten: {opening.field} of {opening.party}'s {opening.event.value}")
        result(f"{len(gone)} forgotten for good")
    torn = openings.torn()
    if torn is not None:
        say(f"WARNING: kept as it is, because it was never written whole: line {torn}")
    for name in missing:
        say(f"note: {args.openings} keeps nothing of {left[name]}")
    if gone:
        say(f"note: delete the backups and copies of {args.openings} too; none is made here")
    return OK


class Opener:
    """Opens entries for `show`, and remembers which openings no entry asked for."""

    def __init__(self, path: Path) -> None:
        self._openings = _existing(path).read()
        self._unused = set(self._openings)

    def values(self, entry: Entry) -> dict[str, str]:
        """The personal values of an entry, checked against its commitments.

        Raises:
          VerificationError: An opening is of another entry.
        """
        self._unused -= set(commitments_in(entry).values())
        return open_entry(entry, self._openings)

    def left(self) -> list[str]:
        """The commitments that stood in no entry that was asked for."""
        return sorted(self._unused)


def described(entry: Entry, values: Mapping[str, str]) -> str:
    """What is opened of an entry, for a person; empty where it has no personal field."""
    parts = [
        f"{name} {values[name]!r}" if name in values else f"{name}: not opened"
        for name in commitments_in(entry)
    ]
    return f"  [{', '.join(parts)}]" if parts else ""


def _as_json(name: str, opening: Opening) -> dict[str, str]:
    return {
        "commitment": name,
        "party": opening.party,
        "event": opening.event.value,
        "field": opening.field,
        "value": opening.value,
        "made_at": opening.made_at,
    }


def _existing(path: Path) -> Openings:
    # A mistyped path must not read as "nothing is kept here".
    if not path.is_file():
        raise ConfigError(
            f"expected a file of openings, got none at {path}",
            hint="a site's is openings.jsonl in its folder, a coordinator's state/openings.jsonl",
        )
    return Openings(path)


def _readable(openings: Openings) -> dict[str, Opening]:
    """Every opening of a file in which each line is one.

    A line that a crash cut off was never an opening, and no entry was made for it.
    """
    try:
        return openings.read()
    except (ConfigError, VerificationError) as error:
        raise ConfigError(
            f"{error}; nothing was forgotten",
            hint="what you want to be forgotten may stand there: restore that line from a copy, or"
            " take it out of the file",
        ) from None


def _check_found(
    wanted: Mapping[str, Mapping[str, str]], kept: Mapping[str, Opening], path: Path
) -> None:
    """Check that the file keeps something of all that a person named."""
    lost = [name for name, found in wanted.items() if not kept.keys() & found.keys()]
    if lost:
        raise ConfigError(
            f"expected openings of {', '.join(lost)} in {path}, got none; nothing was forgotten",
            hint="another party keeps them, or they were forgotten before: name the others only",
        )


def _wanted(
    entries: Iterable[str], log: Path | None, keys: Path | None, kept: Mapping[str, Opening]
) -> dict[str, dict[str, str]]:
    """What a person named -> its commitments, each with what it is; all found before any goes."""
    wanted: dict[str, dict[str, str]] = {}
    numbers = []
    for text in entries:
        if is_commitment(text):
            wanted[text] = {text: text}
        elif text.isdecimal() and text.isascii() and len(text) <= _MAX_DIGITS:
            numbers.append(int(text))
        else:
            raise UsageError(f"expected an entry's number or a commitment, got {text[:80]!r}")
    if numbers and log is None:
        raise UsageError("expected --log LOG with entries' numbers, got none")
    if log is not None and numbers:
        ring = KeyRing.load(keys) if keys else keys_with(log)
        for number in numbers:
            wanted[f"entry {number}"] = _of_entry(log, number, ring, kept)
    return wanted


def _of_entry(
    log: Path, number: int, keys: KeyRing, kept: Mapping[str, Opening]
) -> dict[str, str]:
    """The commitments of an entry that its party signed, and for which they were made.

    Another's log may hold another entry under that number, with the commitment of somebody who
    is not meant: what is deleted then is gone.
    """
    line = next(islice(_lines(log), number, None), None)
    if line is None:
        raise ConfigError(f"expected entry {number} in {log}, got a shorter log")
    try:
        entry = parse_entry(line)
        key = keys.find(entry.key_id)
        if key is None or key.party != entry.party:
            raise VerificationError(  # noqa: TRY301
                f"expected a key of {entry.party} among the known ones, got another"
            )
        verify_entry(entry, key.public_key)
        open_entry(entry, kept)
        found = commitments_in(entry)
    except VerificationError as error:
        raise VerificationError(f"entry {number}: {error}", entry=number) from None
    if not found:
        raise ConfigError(f"expected a personal field in entry {number}, got none: nothing to do")
    return {name: f"{field} of entry {number}" for field, name in found.items()}


def _lines(log: Path) -> Iterator[bytes]:
    try:
        yield from read_lines(log / ENTRIES)
    except OSError as error:
        raise no_log(log, log / ENTRIES, error.strerror) from None


HANDLERS = {"openings": list_openings, "forget": forget}
