"""A witness of a log: it remembers the last checkpoint it saw, and signs what extends it.

Rules:

- A checkpoint is cosigned only after the log's own signature on it was checked, and a proof that
  it begins with all entries of the last one. A shorter log, or another one of the same size, is
  refused for ever: whoever signed both has shown two histories.
- What was seen is on disk before a cosignature leaves. A crash in between leaves a witness that
  signs the same checkpoint again when it is asked again.
- The memory is made once, on purpose. A witness that lost it refuses, because it could no longer
  tell a fork from a beginning.
- A checkpoint that forks from the one that was seen is kept beside the memory, with that one: the
  log's signatures on both prove the fork. Nothing else is kept there, so nothing can crowd it out.

What is asked is C2SP's `tlog-witness` request: the size that the log believes was seen last, a
consistency proof from there, and the checkpoint.
"""

import base64
import contextlib
import fcntl
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from privacy.audit.checkpoint import Checkpoint, parse_checkpoint
from privacy.audit.cosignature import CosigningKey, check_signed
from privacy.audit.merkle import EMPTY_ROOT, HASH_BYTES, verify_consistency
from privacy.audit.note import Note, NoteKey, NoteSignature, decode_base64
from privacy.durable import replace_file, sync_folder
from privacy.errors import ConfigError, TamperError, VerificationError

_OLD = re.compile(r"old (0|[1-9][0-9]{0,14})")
_MAX_PATH = 63
# A log asks with its own line, not with those of all other witnesses.
_MAX_REQUEST = 100_000 + 8192
_MAX_REFUSED = 1 << 20
REFUSED = ".refused"


class StaleError(VerificationError):
    """The log asked from another size than the witness saw last (C2SP: 409).

    Attributes:
      size: What the witness saw last: ask again from there.
    """

    def __init__(self, size: int, problem: str) -> None:
        super().__init__(problem)
        self.size = size


@dataclass(frozen=True, kw_only=True, slots=True)
class Seen:
    """The newest checkpoint that a witness cosigned.

    Attributes:
      size: Its entries.
      root: Its root.
      note: The checkpoint with the log's signature; empty at size 0.
    """

    size: int = 0
    root: bytes = EMPTY_ROOT
    note: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """What a log asks of a witness.

    Attributes:
      old_size: The size that the witness saw last, as the log believes.
      path: Consistency proof from there to the checkpoint.
      checkpoint: The checkpoint with the log's signature.
    """

    old_size: int
    path: tuple[bytes, ...]
    checkpoint: str

    def __str__(self) -> str:
        lines = [f"old {self.old_size}", *(base64.b64encode(part).decode() for part in self.path)]
        return "\n".join(lines) + "\n\n" + self.checkpoint

    @classmethod
    def parse(cls, text: str) -> "Request":
        """Read a request.

        Raises:
          VerificationError: It is none.
        """
        head, separator, checkpoint = text[:_MAX_REQUEST].partition("\n\n")
        old, *lines = head.split("\n")
        match = _OLD.fullmatch(old)
        if len(text) > _MAX_REQUEST or not separator or not match or len(lines) > _MAX_PATH:
            raise VerificationError("expected 'old SIZE', at most 63 hashes and a checkpoint")
        path = tuple(decode_base64(line, "a hash") for line in lines)
        if any(len(part) != HASH_BYTES for part in path):
            raise VerificationError(f"expected hashes of {HASH_BYTES} bytes")
        return cls(old_size=int(match[1]), path=path, checkpoint=checkpoint)


def open_signed(note: str, log: NoteKey) -> Checkpoint:
    """The checkpoint in `note`, after the log's name and signature were checked.

    Raises:
      VerificationError: It is another log's, or not signed by this one.
    """
    parsed = Note.parse(note)
    checkpoint = parse_checkpoint(parsed.text)
    if checkpoint.origin != log.name:
        raise VerificationError(
            f"expected a checkpoint of {log.name!r}, got one of {checkpoint.origin!r}"
        )
    if not check_signed(parsed, log):
        raise VerificationError(f"expected a checkpoint signed by {log.name!r}, got none")
    return checkpoint


def advance(seen: Seen, request: Request, log: NoteKey) -> Seen:
    """What a witness that saw `seen` has seen after `request`; pure.

    Raises:
      VerificationError: The checkpoint is not the log's, or the proof does not prove that it only
        grew. That may be a longer fork, or only a bad proof: it shows nothing about the log.
      StaleError: The checkpoint is older than what was seen, or the proof begins elsewhere.
      TamperError: The log signed another root at the same size, which proves a fork.
    """
    checkpoint = open_signed(request.checkpoint, log)
    if checkpoint.size < seen.size:
        raise StaleError(
            seen.size, f"expected at least the {seen.size} entries seen, got {checkpoint.size}"
        )
    if checkpoint.size == seen.size and checkpoint.root != seen.root:
        raise TamperError(
            f"the log's operator signed two different logs of {seen.size} entries",
            hint="keep both checkpoints: together they prove the fork",
        )
    if request.old_size != seen.size:
        raise StaleError(
            seen.size,
            f"expected a proof from {seen.size} entries on, got one from {request.old_size}",
        )
    if seen.size == 0 and request.path:
        raise VerificationError("expected no proof from an empty log")
    try:
        verify_consistency(
            old_size=seen.size,
            old_root=seen.root,
            new_size=checkpoint.size,
            new_root=checkpoint.root,
            path=request.path,
        )
    except TamperError as error:
        # The path is whoever asks's, not signed: a bad one accuses nobody.
        raise VerificationError(str(error), hint=error.hint) from None
    # Of no entries there is nothing to remember, and a note would not read back as `Seen()`.
    note = request.checkpoint if checkpoint.size else ""
    return Seen(size=checkpoint.size, root=checkpoint.root, note=note)


class Witness:
    """A witness with its memory in the file `path`. Safe for threads and processes.

    Args:
      path: Made by `create`.
      key: Signs.
      log: The log that is witnessed.

    Raises:
      ConfigError: The memory is missing, unreadable, or of another log.
    """

    def __init__(self, path: Path, key: CosigningKey, log: NoteKey) -> None:
        self._path = path
        self._key = key
        self._log = log
        self._lock = threading.Lock()
        self._read()

    @classmethod
    def create(cls, path: Path, log: NoteKey) -> None:
        """Make the memory of a witness that has seen nothing yet.

        Raises:
          ConfigError: There is one already: making it anew would forget what was seen.
        """
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        if path.exists():
            raise ConfigError(f"{path} exists already; a witness never forgets")
        _write(path, log, Seen())

    @property
    def seen(self) -> Seen:
        """What was cosigned last."""
        with self._alone():
            return self._read()

    def cosign(self, request: Request, at: datetime) -> NoteSignature:
        """Check a request, remember it durably, and only then sign it.

        Raises:
          VerificationError: See `advance`; nothing is remembered, nothing signed.
        """
        with self._alone():
            seen = self._read()
            try:
                after = advance(seen, request, self._log)
            except TamperError:
                # A full disk must not hide a fork behind its own error.
                with contextlib.suppress(OSError):
                    self._keep_refused(seen, request)
                raise
            if after != seen:
                _write(self._path, self._log, after)
            # A crash here leaves a witness that has seen more than it signed, never less.
            return self._key.cosign(Note.parse(request.checkpoint).text, at)

    def _keep_refused(self, seen: Seen, request: Request) -> None:
        """Add what proves a fork: the checkpoint that was seen, and what contradicts it."""
        path = self._path.with_name(self._path.name + REFUSED)
        kept = path.read_bytes() if path.exists() else b""
        # Lines that anyone may add to a note must not make the same proof look like another.
        log = Note.parse(request.checkpoint)
        refused = str(Note(text=log.text, signatures=tuple(log.by(self._log))))
        pair = {"seen": seen.note, "refused": refused}
        line = (json.dumps(pair, ensure_ascii=False) + "\n").encode()
        # Neither asking again nor an operator that signs fork after fork may fill the disk.
        if line not in kept and len(kept) < _MAX_REFUSED:
            replace_file(path, kept + line)
            sync_folder(path.parent)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Keep other threads and processes from seeing, checking and signing in between."""
        with self._lock, self._path.with_name(self._path.name + ".lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _read(self) -> Seen:
        problem = f"expected the memory of a witness of {self._log.name!r} in {self._path}"
        hint = "restore it from a copy; a witness without memory signs nothing"
        try:
            content = json.loads(self._path.read_text(encoding="utf-8"))
            origin, size, root = content["origin"], content["size"], content["root"]
            seen = Seen(size=size, root=bytes.fromhex(root), note=content["note"])
            if seen.size:
                known = open_signed(seen.note, self._log)
                matches = (known.size, known.root) == (seen.size, seen.root)
            else:
                matches = seen == Seen()
        except OSError as error:
            raise ConfigError(f"{problem}: {error.strerror}", hint=hint) from None
        except (ValueError, KeyError, TypeError, AttributeError, VerificationError):
            raise ConfigError(problem, hint=hint) from None
        if origin != self._log.name or not matches:
            raise ConfigError(problem, hint=hint)
        return seen


def _write(path: Path, log: NoteKey, seen: Seen) -> None:
    content = {
        "origin": log.name,
        "size": seen.size,
        "root": seen.root.hex(),
        "note": seen.note,
    }
    replace_file(path, (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode())
    sync_folder(path.parent)
