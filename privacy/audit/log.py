"""The log of a federation: a folder that only grows.

```
entries.jsonl        one signed entry a line, in the order in which the log took them
checkpoint           the newest signed statement of size and root
checkpoint.cosigned  the newest one that witnesses signed too, with their signatures
checkpoints.jsonl    every checkpoint so far, so that an auditor can tell where a log was changed
tile/                the tree's hashes as C2SP tiles, for proofs; they follow from the entries
keys.json            the parties' public keys, a copy for convenience
```

Rules:

- An entry is acknowledged after it and a checkpoint that covers it are on disk. What was
  acknowledged is never changed or dropped.
- Only a known key signs, only events of its role, and each key's entries come in the order of
  their `sequence`.
- The same entry twice is the same entry: a party that lost the acknowledgement sends it again and
  gets its receipt.
- One process writes. A second one is refused while the first lives.
- On opening, entries must still hash to the last checkpoint. A log that does not is never
  continued. Behind it stands what nobody was told of: whole and good entries are kept, and from
  the first that is not, all is dropped.
"""

import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Self

from privacy.audit.checkpoint import Checkpoint, log_key, open_checkpoint, sign_checkpoint
from privacy.audit.cosignature import cosigned_at
from privacy.audit.entry import Entry, parse_entry, peek, verify_entry
from privacy.audit.history import append_checkpoint, mend_history
from privacy.audit.keys import KeyRing, PartyKey
from privacy.audit.merkle import leaf_hash
from privacy.audit.note import MAX_NOTE_BYTES, Note, NoteKey, NoteSignature
from privacy.audit.store import ENTRIES, Store
from privacy.audit.witness import Request, open_signed
from privacy.durable import replace_file, sync_folder
from privacy.errors import ConfigError, TamperError, VerificationError
from privacy.pki.identity import SigningKey

__all__ = [
    "CHECKPOINT",
    "CHECKPOINTS",
    "COSIGNED",
    "ENTRIES",
    "KEYS",
    "Log",
    "Receipt",
    "check_sequence",
    "check_signer",
    "keys_with",
    "no_log",
]

CHECKPOINT = "checkpoint"
COSIGNED = "checkpoint.cosigned"
CHECKPOINTS = "checkpoints.jsonl"
KEYS = "keys.json"


def no_log(path: Path, missing: object, why: str | None) -> ConfigError:
    """What is said of a folder that was named as a log's and is none."""
    return ConfigError(
        f"expected a log's folder, got {path}: cannot read {missing}: {why}",
        hint=f"a log's folder holds {ENTRIES}, {CHECKPOINT} and {KEYS}; a coordinator's is log/ in"
        " its folder",
    )


def keys_with(folder: Path) -> KeyRing:
    """The parties' public keys that lie with a log.

    Raises:
      ConfigError: The folder is no log's, or it holds no keys.
    """
    # Without keys of his own an auditor would look for a file, where the folder is the mistake.
    if not (folder / ENTRIES).is_file():
        raise no_log(folder, folder / ENTRIES, "no such file")
    if not (folder / KEYS).is_file():
        raise ConfigError(
            f"expected the parties' public keys in {folder / KEYS}, got no file",
            hint="name a file of them with --keys",
        )
    return KeyRing.load(folder / KEYS)


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
        self._sequences: dict[str, int] = {}
        self._note = ""
        self._signed_size = -1
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        sync_folder(folder.parent)
        self._store = Store(folder)
        try:
            self._keys = KeyRing.load(folder / KEYS) if (folder / KEYS).exists() else KeyRing()
            for party in parties:
                self._keys.add(party)
            self._read()
            mend_history(self.folder / CHECKPOINTS)
            replace_file(folder / KEYS, self._keys.dump().encode())
            self._sign()
            self._store.mend_tiles()
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
        return self._store.size

    @property
    def root(self) -> bytes:
        """Root of the tree over all entries."""
        with self._lock:
            return self._store.tree.root()

    @property
    def checkpoint(self) -> str:
        """The newest signed note."""
        return self._note

    def close(self) -> None:
        """Let another process write the log."""
        self._store.close()

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
            return self._store.find(leaf_hash(line)) is not None

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
            entries = []
            for line in lines:
                known = self._store.find(leaf_hash(line)) is not None
                entries.append(None if known else parse_entry(line))
            for entry in entries:
                if entry is not None:
                    check_signer(entry, self._keys)
            return self._keep(
                [(leaf_hash(line), line, e) for line, e in zip(lines, entries, strict=True)]
            )

    def extend_checked(self, entries: Sequence[Entry]) -> list[Receipt]:
        """`extend` for a caller that passed each entry through `check_signer` itself.

        Raises:
          VerificationError: An entry is out of order. None was kept.
        """
        with self._lock:
            return self._keep([(leaf_hash(entry.line), entry.line, entry) for entry in entries])

    def _keep(self, asked: Sequence[tuple[bytes, bytes, Entry | None]]) -> list[Receipt]:
        fresh: dict[bytes, bytes] = {}
        sequences = dict(self._sequences)
        for leaf, line, entry in asked:
            if self._store.find(leaf) is None and leaf not in fresh and entry is not None:
                check_sequence(entry, sequences)
                fresh[leaf] = line
        old_size = self._store.size
        if fresh:
            self._store.append_many(list(fresh.items()))
            self._sequences = sequences
        self._sign()
        if fresh:
            self._store.write_tiles(old_size)
        size, root, note = self._store.size, self._store.tree.root(), self._note
        receipts = []
        for leaf, _, _ in asked:
            index = self._store.find(leaf)
            if index is None:
                raise TamperError("an entry that was kept is not in the log")
            receipts.append(Receipt(index=index, size=size, root=root, checkpoint=note))
        return receipts

    def lines(self, start: int = 0) -> list[bytes]:
        """The entries from number `start` on, as they were appended."""
        with self._lock:
            return self._store.lines(start)

    def inclusion(self, index: int, size: int) -> list[bytes]:
        """Proof that entry `index` is in the first `size`, for `merkle.verify_inclusion`."""
        with self._lock:
            return self._store.tree.inclusion(index, size)

    def consistency(self, old_size: int, new_size: int) -> list[bytes]:
        """Proof that the log only grew between two sizes, for `merkle.verify_consistency`."""
        with self._lock:
            return self._store.tree.consistency(old_size, new_size)

    def request(self, old_size: int) -> Request:
        """What to ask of a witness that saw the first `old_size` entries last.

        Raises:
          ValueError: The log never had that many entries.
        """
        with self._lock:
            size = self._signed_size
            path = self._store.tree.consistency(old_size, size) if old_size else []
            return Request(old_size=old_size, path=tuple(path), checkpoint=self._note)

    @property
    def cosigned(self) -> str:
        """The newest checkpoint with witnesses' signatures, empty when there is none."""
        path = self.folder / COSIGNED
        return path.read_text(encoding="utf-8") if path.exists() else ""

    def add_cosignatures(
        self, checkpoint: str, signatures: Iterable[NoteSignature], witnesses: Iterable[NoteKey]
    ) -> str:
        """Keep witnesses' signatures under a checkpoint of this log; returns it with them.

        They replace those that were kept: one line a witness, so the file cannot grow without
        bound. Signatures by others than `witnesses` are left out. Those of an older checkpoint
        than the newest cosigned one are not kept.

        Raises:
          VerificationError: The checkpoint is not one that this log signed, or a witness's
            signature does not verify: kept, it would spoil the note for every reader. Or there
            are more than a reader takes.
        """
        key = log_key(self.origin, self._key.public_key)
        offered = Note(text=Note.parse(checkpoint).text, signatures=tuple(signatures))
        good = [w for w in witnesses if cosigned_at(offered, w) is not None]
        with self._lock:
            signed = open_signed(checkpoint, key)
            if signed.size > self.size or self._store.tree.root(signed.size) != signed.root:
                raise VerificationError("expected a checkpoint of this log")
            own = Note.parse(checkpoint)
            note = Note(text=own.text, signatures=tuple(own.by(key)[:1])).with_signatures(
                tuple(offered.by(w)[-1] for w in good)
            )
            content = str(note).encode()
            if len(content) > MAX_NOTE_BYTES:
                raise VerificationError(
                    f"expected cosignatures of at most {MAX_NOTE_BYTES} bytes, got {len(content)}"
                )
            if self._cosigned_size(key) <= signed.size:
                replace_file(self.folder / COSIGNED, content)
            return str(note)

    def _cosigned_size(self, key: NoteKey) -> int:
        """Entries of the newest cosigned checkpoint; 0 where there is none, or none to be read."""
        try:
            return open_signed(self.cosigned, key).size
        except (VerificationError, UnicodeDecodeError):
            # Witnesses are asked again; a file that follows from others must not stop the log.
            return 0

    def _sign(self) -> None:
        size = self._store.size
        if self._signed_size == size:
            return
        checkpoint = Checkpoint(origin=self.origin, size=size, root=self._store.tree.root())
        note = sign_checkpoint(checkpoint, self._key, datetime.now(UTC))
        replace_file(self.folder / CHECKPOINT, note.encode())
        # Before anyone is told: else a power cut could bring back an older checkpoint, and what
        # stands behind a checkpoint may be dropped.
        sync_folder(self.folder)
        # Not synced: a lost line of this history costs an auditor precision, not certainty.
        append_checkpoint(self.folder / CHECKPOINTS, note)
        self._note, self._signed_size = note, size

    def _read(self) -> None:
        """Load what is there; refuse what was changed, drop what was cut off."""
        signed = self._read_checkpoint()
        size = 0 if signed is None else signed.size
        try:
            for line in self._store.read():
                if self._store.size < size:
                    # It was checked when it was taken; the root will say whether it is the same.
                    self._count(*peek(line))
                    continue
                if self._store.size == size:
                    self._compare(signed)
                entry = parse_entry(line)
                check_signer(entry, self._keys)
                check_sequence(entry, self._sequences)
        except VerificationError as error:
            if self._store.size < size:
                raise TamperError(
                    f"entry {self._store.size} of {self.folder}: {error}",
                    entry=self._store.size,
                ) from None
            if isinstance(error, TamperError):
                raise
        self._compare(signed)
        self._store.drop_rest()

    def _count(self, key_id: str, sequence: int) -> None:
        self._sequences[key_id] = sequence + 1

    def _read_checkpoint(self) -> Checkpoint | None:
        path = self.folder / CHECKPOINT
        if not path.exists():
            # The first checkpoint, of no entries, is on disk before the first entry is.
            if (self.folder / CHECKPOINTS).exists() or (self.folder / ENTRIES).stat().st_size:
                raise TamperError(f"expected a checkpoint beside the entries of {self.folder}")
            return None
        note = path.read_text(encoding="utf-8")
        signed = open_checkpoint(note, self._key.public_key)
        if signed.origin != self.origin:
            raise ConfigError(
                f"expected the log {self.origin!r} in {self.folder}, got {signed.origin!r}"
            )
        self._note, self._signed_size = note, signed.size
        return signed

    def _compare(self, signed: Checkpoint | None) -> None:
        if signed is None:
            return
        if signed.size > self.size:
            raise TamperError(
                f"expected {signed.size} entries in {self.folder}, got {self.size}",
                hint="restore the log from a copy held by another party",
                entry=self.size,
            )
        if self._store.tree.root(signed.size) != signed.root:
            raise TamperError(
                f"the entries of {self.folder} are not those that were signed for",
                hint="run `cloister-audit verify` to find the first that differs",
            )


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
