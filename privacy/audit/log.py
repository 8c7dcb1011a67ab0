"""The log of a federation: a folder that only grows.

```
entries.jsonl      one signed entry a line, in the order in which the log took them
checkpoint         the newest signed statement of size and root
checkpoints.jsonl  every checkpoint so far, so that an auditor can tell where a log was changed
keys.json          the parties' public keys, a copy for convenience
```

Rules:

- An entry is acknowledged after it is on disk. What was acknowledged is never changed or dropped.
- Only a known key signs, only events of its role, and each key's entries come in the order of
  their `sequence`.
- The same entry twice is the same entry: a party that lost the acknowledgement sends it again and
  gets its receipt.
- One process writes. A second one is refused while the first lives.
- On opening, entries must still hash to the last checkpoint. A log that does not is never
  continued.
"""

import fcntl
import json
import os
import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from privacy.audit.checkpoint import Checkpoint, open_checkpoint, sign_checkpoint
from privacy.audit.entry import Entry, parse_entry, verify_entry
from privacy.audit.keys import KeyRing, PartyKey
from privacy.audit.merkle import Tree, leaf_hash
from privacy.durable import replace_file
from privacy.errors import ConfigError, TamperError, VerificationError
from privacy.pki.identity import SigningKey

ENTRIES = "entries.jsonl"
CHECKPOINT = "checkpoint"
CHECKPOINTS = "checkpoints.jsonl"
KEYS = "keys.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class Receipt:
    """What whoever appended an entry keeps.

    Attributes:
      index: Number of the entry in the log, from 0.
      size: Number of entries at the checkpoint.
      root: Root of the tree at the checkpoint.
      checkpoint: The signed note.
    """

    index: int
    size: int
    root: bytes
    checkpoint: str


class Log:
    """A log open for writing, safe to use from several threads.

    Args:
      folder: Made (mode 0700) when it is missing.
      key: Signs the checkpoints.
      origin: Name of the log, unique: `cloister/<federation>` or `cloister/<federation>/<site>`.
      parties: Whose entries are taken, beside those of `keys.json`.

    Raises:
      ConfigError: Another process writes this log, or it is another log.
      TamperError: The folder's entries are not those that were signed for.
    """

    def __init__(
        self, folder: Path, key: SigningKey, origin: str, parties: Iterable[PartyKey] = ()
    ) -> None:
        self.folder = folder
        self.origin = origin
        self._key = key
        self._lock = threading.Lock()
        self._tree = Tree()
        self._index: dict[bytes, int] = {}
        self._sequences: dict[str, int] = {}
        self._note = ""
        self._signed_size = -1
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._file = _open_alone(folder / ENTRIES)
        try:
            self._keys = KeyRing.load(folder / KEYS) if (folder / KEYS).exists() else KeyRing()
            for party in parties:
                self._keys.add(party)
            self._read()
            replace_file(folder / KEYS, self._keys.dump().encode())
            self._sign()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        """The log itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the log."""
        self.close()

    @property
    def size(self) -> int:
        """Number of entries."""
        return self._tree.size

    @property
    def root(self) -> bytes:
        """Root of the tree over all entries."""
        with self._lock:
            return self._tree.root()

    @property
    def checkpoint(self) -> str:
        """The newest signed note."""
        return self._note

    def close(self) -> None:
        """Let another process write the log."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def add_party(self, party: PartyKey) -> None:
        """Take entries signed by this key from now on; a key known already changes nothing."""
        with self._lock:
            if self._keys.find(party.key_id) == party:
                return
            self._keys.add(party)
            replace_file(self.folder / KEYS, self._keys.dump().encode())

    @property
    def keys(self) -> KeyRing:
        """The parties' keys; it grows with `add_party`."""
        return self._keys

    def holds(self, line: bytes) -> bool:
        """Whether the log has this entry."""
        with self._lock:
            return leaf_hash(line) in self._index

    def sequences(self) -> dict[str, int]:
        """The next number of every key that has signed, by key id; a copy."""
        with self._lock:
            return dict(self._sequences)

    def next_sequence(self, key_id: str) -> int:
        """The number that the next entry signed by this key must carry."""
        with self._lock:
            return self._sequences.get(key_id, 0)

    def append(self, line: bytes) -> Receipt:
        """Check one entry, keep it and return its receipt; see `extend`."""
        return self.extend([line])[0]

    def extend(self, lines: Sequence[bytes]) -> list[Receipt]:
        """Check entries, keep them all durably under one checkpoint, and return their receipts.

        Entries that the log holds already keep their place.

        Raises:
          VerificationError: An entry is malformed, not signed by a known key in its role, or out
            of order. None of `lines` was kept.
        """
        with self._lock:
            leaves = [leaf_hash(line) for line in lines]
            fresh: dict[bytes, bytes] = {}
            sequences = dict(self._sequences)
            for line, leaf in zip(lines, leaves, strict=True):
                if leaf not in self._index and leaf not in fresh:
                    self._check(parse_entry(line), sequences)
                    fresh[leaf] = line
            if fresh:
                self._write(fresh)
                self._sequences = sequences
            self._sign()
            size, root = self._tree.size, self._tree.root()
            return [
                Receipt(index=self._index[leaf], size=size, root=root, checkpoint=self._note)
                for leaf in leaves
            ]

    def lines(self, start: int = 0) -> list[bytes]:
        """The entries from number `start` on, as they were appended."""
        with self._lock:
            content = (self.folder / ENTRIES).read_bytes()
        return content.split(b"\n")[start:-1]

    def inclusion(self, index: int, size: int) -> list[bytes]:
        """Proof that entry `index` is in the first `size`, for `merkle.verify_inclusion`."""
        with self._lock:
            return self._tree.inclusion(index, size)

    def consistency(self, old_size: int, new_size: int) -> list[bytes]:
        """Proof that the log only grew between two sizes, for `merkle.verify_consistency`."""
        with self._lock:
            return self._tree.consistency(old_size, new_size)

    def _check(self, entry: Entry, sequences: dict[str, int]) -> None:
        check_signer(entry, self._keys)
        check_sequence(entry, sequences)

    def _write(self, fresh: Mapping[bytes, bytes]) -> None:
        content = b"".join(line + b"\n" for line in fresh.values())
        end = os.fstat(self._file).st_size
        try:
            _write_all(self._file, content)
            os.fsync(self._file)
        except OSError:
            # A full disk must not leave half a line in front of the next entry.
            os.ftruncate(self._file, end)
            raise
        # A crash here leaves entries without a checkpoint: nobody was told, and the next start
        # signs for them.
        for leaf in fresh:
            self._index[leaf] = self._tree.size
            self._tree.append(leaf)

    def _sign(self) -> None:
        if self._signed_size == self._tree.size:
            return
        checkpoint = Checkpoint(origin=self.origin, size=self._tree.size, root=self._tree.root())
        note = sign_checkpoint(checkpoint, self._key)
        replace_file(self.folder / CHECKPOINT, note.encode())
        # Not synced: a lost line of this history costs an auditor precision, not certainty.
        with (self.folder / CHECKPOINTS).open("a", encoding="utf-8") as history:
            history.write(json.dumps(note, ensure_ascii=False) + "\n")
        self._note, self._signed_size = note, checkpoint.size

    def _read(self) -> None:
        """Load what is there; drop a torn last line, refuse everything else that does not fit."""
        content = (self.folder / ENTRIES).read_bytes()
        end = content.rfind(b"\n") + 1
        if end < len(content):
            # The last write was cut off before it was acknowledged.
            os.ftruncate(self._file, end)
            os.fsync(self._file)
        for index, line in enumerate(content[:end].split(b"\n")[:-1]):
            try:
                self._check(parse_entry(line), self._sequences)
            except VerificationError as error:
                raise TamperError(
                    f"entry {index} of {self.folder}: {error}", entry=index
                ) from None
            leaf = leaf_hash(line)
            self._index[leaf] = index
            self._tree.append(leaf)
        self._compare()

    def _compare(self) -> None:
        path = self.folder / CHECKPOINT
        if not path.exists():
            if self.size:
                raise TamperError(
                    f"expected a checkpoint beside the {self.size} entries of {self.folder}"
                )
            return
        note = path.read_text(encoding="utf-8")
        signed = open_checkpoint(note, self._key.public_key)
        if signed.origin != self.origin:
            raise ConfigError(
                f"expected the log {self.origin!r} in {self.folder}, got {signed.origin!r}"
            )
        if signed.size > self.size:
            raise TamperError(
                f"expected {signed.size} entries in {self.folder}, got {self.size}",
                hint="restore the log from a copy held by another party",
                entry=self.size,
            )
        if self._tree.root(signed.size) != signed.root:
            raise TamperError(
                f"the entries of {self.folder} are not those that were signed for",
                hint="run `cloister-audit verify` to find the first that differs",
            )
        self._note, self._signed_size = note, signed.size


def check_signer(entry: Entry, keys: KeyRing) -> None:
    """Check that a known key of the right party and role signed the entry.

    Raises:
      VerificationError: The key is unknown, is another party's, may not sign this event, or did
        not.
    """
    known = keys.find(entry.key_id)
    if known is None:
        raise VerificationError(f"signed by an unknown key, {entry.key_id[:16]}")
    if known.party != entry.party:
        raise VerificationError(f"says it is from {entry.party}, but the key is {known.party}'s")
    if known.role is not entry.role:
        raise VerificationError(f"{entry.event} is not a {known.role}'s to say")
    verify_entry(entry, known.public_key)


def check_sequence(entry: Entry, sequences: dict[str, int]) -> None:
    """Check that the entry is its key's next, and count it in `sequences` (next number by key id).

    Raises:
      VerificationError: An entry is missing before it, or its number was used already.
    """
    expected = sequences.get(entry.key_id, 0)
    if entry.sequence != expected:
        what = "is missing before it" if entry.sequence > expected else "had that number already"
        raise VerificationError(
            f"expected sequence {expected} from {entry.party}, got {entry.sequence}: an entry"
            f" {what}"
        )
    sequences[entry.key_id] = expected + 1


def _open_alone(path: Path) -> int:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise ConfigError(
            f"{path.parent} is written by another process",
            hint="stop the other process first; a log has one writer",
        ) from None
    return descriptor


def _write_all(descriptor: int, content: bytes) -> None:
    view = memoryview(content)
    while view:
        view = view[os.write(descriptor, view) :]
