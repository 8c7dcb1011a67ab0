"""Personal values behind salted commitments, and the private file that can open them.

Who approved a plan, and why, may have to be proved for years, and may have to be erased tomorrow.
An entry can do the first only if it never changes, and the second only if the value is not in it.
So:

- An entry carries `hmac-sha256:` and HMAC-SHA-256 under a salt of 32 random bytes over the party,
  the event, the field and the value. The salt is the HMAC's key and always of that length, so two
  openings of one commitment would be a collision of SHA-256.
- Salt and value lie in one file of the party that acted, mode 0600, and nowhere else. They are on
  disk before the entry is made: a crash in between leaves an opening without an entry, never the
  reverse.
- To forget is to delete salt and value. Without the salt nobody can check a guess, however few
  values are likely, and the entry, its signature, the tree and every proof stay as they are.

What may still hold a forgotten value: backups, snapshots and copies of the file, and blocks that
the file system or an SSD has not written over yet.
"""

import errno
import fcntl
import hashlib
import hmac
import json
import os
import re
import secrets
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import rfc8785

from privacy.audit.entry import Entry, Event, format_time, personal_fields
from privacy.durable import replace_private, sync_folder
from privacy.errors import ConfigError, VerificationError

OPENINGS = "openings.jsonl"
SALT_BYTES = 32
MAX_VALUE = 1000
# More than any line has.
_TAIL_BYTES = 65_536
_PREFIX = "hmac-sha256:"
_COMMITMENT = re.compile(_PREFIX + r"[0-9a-f]{64}")
_CONTEXT = "cloister personal field v1"
_FIELDS = ("commitment", "party", "event", "field", "value", "salt", "made_at")


@dataclass(frozen=True, kw_only=True, slots=True)
class Opening:
    """What opens one commitment.

    Attributes:
      party: Who committed to it.
      event: In an entry of which event.
      field: In which field of it.
      value: The personal value.
      salt: 32 random bytes.
      made_at: When, in UTC.
    """

    party: str
    event: Event
    field: str
    value: str
    salt: bytes
    made_at: str

    @property
    def commitment(self) -> str:
        """What the entry carries."""
        return commitment(
            self.value, self.salt, party=self.party, event=self.event, field=self.field
        )

    @property
    def line(self) -> bytes:
        """The opening as it stands in the file."""
        return (
            json.dumps(
                {
                    "commitment": self.commitment,
                    "party": self.party,
                    "event": self.event.value,
                    "field": self.field,
                    "value": self.value,
                    "salt": self.salt.hex(),
                    "made_at": self.made_at,
                },
                ensure_ascii=False,
            ).encode()
            + b"\n"
        )


def commitment(value: str, salt: bytes, *, party: str, event: Event, field: str) -> str:
    """The commitment to `value` under `salt`.

    Raises:
      ValueError: The salt has another length than 32 bytes: a shorter one could be guessed, and
        HMAC takes a longer one for its hash.
    """
    if len(salt) != SALT_BYTES:
        raise ValueError(f"expected a salt of {SALT_BYTES} bytes, got {len(salt)}")
    said: list[Any] = [_CONTEXT, party, event.value, field, value]
    content: bytes = rfc8785.dumps(said)
    return _PREFIX + hmac.new(salt, content, hashlib.sha256).hexdigest()


def is_commitment(text: str) -> bool:
    """Whether `text` is spelled as a commitment is."""
    return bool(_COMMITMENT.fullmatch(text))


def check_value(value: str, what: str) -> None:
    """Check a personal value before it is kept, or shown on somebody's terminal.

    Raises:
      ConfigError: It is empty, very long, or holds control characters; the value is not repeated.
    """
    if not 1 <= len(value) <= MAX_VALUE or not value.isprintable() or value != value.strip():
        raise ConfigError(
            f"expected {what} of 1 to {MAX_VALUE} printable characters in one line, without blanks"
            f" around it, got {len(value)} characters"
        )


def make_openings(party: str, event: Event, values: Mapping[str, str]) -> list[Opening]:
    """Openings with fresh salts for the fields that are given; an empty value is none.

    Raises:
      ConfigError: A value is unfit.
      ValueError: The event has no such personal field.
    """
    given = {field: value for field, value in values.items() if value}
    unknown = sorted(set(given) - set(personal_fields(event)))
    if unknown:
        raise ValueError(f"{event}: expected personal fields of the event, got {unknown}")
    for field, value in given.items():
        check_value(value, field)
    return [
        Opening(
            party=party,
            event=event,
            field=field,
            value=value,
            salt=secrets.token_bytes(SALT_BYTES),
            made_at=format_time(datetime.now(UTC)),
        )
        for field, value in sorted(given.items())
    ]


class Openings:
    """The openings of one party, in the file `path`. Safe for threads and processes.

    Args:
      path: Made with the first opening, mode 0600. Beside it a lock file, which holds nothing.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def commit(self, party: str, event: Event, values: Mapping[str, str]) -> dict[str, str]:
        """Keep values durably and return their commitments, for the entry that is made next.

        Raises:
          ConfigError: A value is unfit, or the file cannot be written: then no entry may be made.
        """
        made = make_openings(party, event, values)
        if made:
            self._add(made)
        return {opening.field: opening.commitment for opening in made}

    def read(self) -> dict[str, Opening]:
        """Every opening by its commitment; none when there is no file.

        Raises:
          ConfigError: The file cannot be read or a line is no opening.
          VerificationError: A line's value and salt do not open its commitment.
        """
        # Without the lock: a rewritten file takes the place of the old one at once, and an auditor
        # may not be allowed to write here.
        return self._read()

    def forget(self, commitments: Collection[str]) -> list[Opening]:
        """Delete salt and value of these commitments, durably; returns what was deleted.

        When this returns, the file in its place holds the others only. A crash before leaves the
        file as it was, one after leaves the new one. What a crash cut off at the end was never an
        opening, and stays as it is.

        Raises:
          ConfigError: The file cannot be read or written, or a line is no opening: what is meant
            may stand there, so nothing is forgotten.
          VerificationError: A line's value and salt do not open its commitment; the same.
        """
        wanted = set(commitments)
        with self._alone():
            whole, tail = self._lines()
            gone = {name: opening for _, name, opening in whole if name in wanted}
            kept = [line + b"\n" for line, name, _ in whole if name not in wanted]
            last = _parsed(tail)
            if last is not None and last.commitment in wanted:
                gone[last.commitment] = last
            else:
                kept.append(tail)
            if gone:
                try:
                    replace_private(self.path, b"".join(kept))
                    sync_folder(self.path.parent)
                except OSError as error:
                    raise ConfigError(f"cannot write {self.path}: {error.strerror}") from None
            return [gone[name] for name in sorted(gone)]

    def torn(self) -> int | None:
        """Number of the last line, from 1, where a crash cut it off; None where none is."""
        *whole, tail = self._content().split(b"\n")
        return len(whole) + 1 if tail and _parsed(tail) is None else None

    def _add(self, openings: Iterable[Opening]) -> None:
        with self._alone():
            try:
                descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
                try:
                    os.fchmod(descriptor, 0o600)
                    is_new = os.fstat(descriptor).st_size == 0
                    _append(descriptor, b"".join(opening.line for opening in openings))
                finally:
                    os.close(descriptor)
                if is_new:
                    sync_folder(self.path.parent)
            except OSError as error:
                raise ConfigError(
                    f"cannot write {self.path}: {error.strerror}",
                    hint="nothing was signed; make room or correct the folder's rights",
                ) from None

    def _content(self) -> bytes:
        try:
            return self.path.read_bytes()
        except FileNotFoundError:
            return b""
        except OSError as error:
            raise ConfigError(f"cannot read {self.path}: {error.strerror}") from None

    def _read(self) -> dict[str, Opening]:
        whole, tail = self._lines()
        found = {name: opening for _, name, opening in whole}
        # An editor may have left out the last line's end. A torn write is no opening, and no entry
        # was made for it.
        last = _parsed(tail)
        return found if last is None else {**found, last.commitment: last}

    def _lines(self) -> tuple[list[tuple[bytes, str, Opening]], bytes]:
        """Each whole line with its commitment and what it says, and what follows the last one."""
        *whole, tail = self._content().split(b"\n")
        found = []
        for number, line in enumerate(whole, 1):
            opening = _parse(line, f"line {number} of {self.path}")
            found.append((line, opening.commitment, opening))
        return found, tail

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Keep one process from adding what another one's rewriting would lose."""
        lock = self.path.with_name(self.path.name + ".lock")
        try:
            descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise ConfigError(f"cannot open {lock}: {error.strerror}") from None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)


def commitments_in(entry: Entry) -> dict[str, str]:
    """The commitments to personal values that an entry carries, by field."""
    return {
        name: entry.predicate[name]
        for name in personal_fields(entry.event)
        if name in entry.predicate
    }


def open_entry(entry: Entry, openings: Mapping[str, Opening]) -> dict[str, str]:
    """The personal values of an entry that can be opened, by field.

    Raises:
      VerificationError: What opens a commitment was made for another party, event or field:
        somebody took the commitment over from another entry.
    """
    opened = {}
    for field, found in commitments_in(entry).items():
        opening = openings.get(found)
        if opening is None:
            continue
        if (opening.party, opening.event, opening.field) != (entry.party, entry.event, field):
            raise VerificationError(
                f"{field} of {entry.party}'s {entry.event} is a commitment by {opening.party} to"
                f" {opening.field} of {opening.event}"
            )
        opened[field] = opening.value
    return opened


def _append(descriptor: int, content: bytes) -> None:
    """Write behind the last whole line, and sync."""
    size = os.fstat(descriptor).st_size
    tail = min(size, _TAIL_BYTES)
    end = size - tail + os.pread(descriptor, tail, size - tail).rfind(b"\n") + 1
    if end == size - tail and tail < size:
        # Not torn by a crash: no line is that long. Nothing of it may be cut off.
        raise OSError(errno.EIO, "its end holds no line of ours")
    last = os.pread(descriptor, size - end, end)
    if _parsed(last) is not None:
        content, end = b"\n" + content, size
    try:
        # The torn end of a write that a crash cut off would spoil the next line.
        os.ftruncate(descriptor, end)
        view = memoryview(content)
        place = end
        while view:
            written = os.pwrite(descriptor, view, place)
            view, place = view[written:], place + written
        os.fsync(descriptor)
    except OSError:
        os.ftruncate(descriptor, end)
        raise


def _parsed(line: bytes) -> Opening | None:
    try:
        return _parse(line, "a line")
    except (ConfigError, VerificationError):
        return None


def _parse(line: bytes, where: str) -> Opening:
    problem = ConfigError(f"expected an opening in {where}", hint="restore the file from a copy")
    try:
        loaded = json.loads(line)
        if set(loaded) != set(_FIELDS) or not all(isinstance(v, str) for v in loaded.values()):
            raise problem
        opening = Opening(
            party=loaded["party"],
            event=Event(loaded["event"]),
            field=loaded["field"],
            value=loaded["value"],
            salt=bytes.fromhex(loaded["salt"]),
            made_at=loaded["made_at"],
        )
        check_value(opening.value, f"a value in {where}")
        matches = hmac.compare_digest(opening.commitment, loaded["commitment"])
    except (ValueError, TypeError, RecursionError):
        raise problem from None
    if not matches:
        raise VerificationError(f"value and salt in {where} do not open its commitment")
    return opening
