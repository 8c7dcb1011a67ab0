"""Check a whole log from public keys alone, and name the first entry that is wrong.

Four questions are asked of every entry, in this order:

1. Is it an entry, and did the party that it names sign it, in its role?
2. Is it the entry that the log's operator once signed for, in this place?
3. Is it that party's next one?
4. Does it follow from what came before?

The fourth holds the protocol's promises: `privacy.audit.rules`. Where the log's own tiles still
hash to a signed root, they tell which entry is not the one that was signed for; else it is only
known to lie between two checkpoints.

What this cannot show: that what an entry says is true of the world, and that nothing happened
outside the log. A log cut off at an older checkpoint, history and all, looks like a shorter log:
compare with a checkpoint that another party kept.
"""

import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from privacy.audit.checkpoint import Checkpoint, log_key, open_checkpoint, parse_checkpoint
from privacy.audit.entry import Entry
from privacy.audit.history import read_history
from privacy.audit.keys import KeyRing
from privacy.audit.log import (
    CHECKPOINT,
    CHECKPOINTS,
    COSIGNED,
    ENTRIES,
    check_sequence,
    keys_with,
    no_log,
)
from privacy.audit.merkle import Edge, leaf_hash
from privacy.audit.note import Note, NoteKey
from privacy.audit.policy import Cosigned, Policy
from privacy.audit.reader import Read, read_entries
from privacy.audit.rules import Accountant, Rules
from privacy.audit.store import read_lines
from privacy.audit.tiles import TileReader
from privacy.dp import calibrate
from privacy.errors import ConfigError, TamperError, VerificationError
from privacy.plan import RunPlan

# A living writer signs for an entry within this time.
_SIGNING_S = 1.0


@dataclass(frozen=True, kw_only=True, slots=True)
class VerifiedLog:
    """A log in which every entry checked out.

    Attributes:
      checkpoint: What its operator signed.
      entries: All entries; their place is their number.
      keys: The keys that were used.
      keys_from_log: The keys came with the log, so they prove only that it is consistent in
        itself.
      plans: Every plan that was offered, by digest.
      num_checkpoints: How many older checkpoints were compared as well.
      cosigned: The checkpoint that the policy's witnesses cosigned; None without a policy.
      witnesses: The witness key that each site announced under its own signature, by site.
    """

    checkpoint: Checkpoint
    entries: tuple[Entry, ...]
    keys: KeyRing
    keys_from_log: bool
    plans: Mapping[str, RunPlan]
    num_checkpoints: int
    cosigned: Cosigned | None = None
    witnesses: Mapping[str, NoteKey] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class CheckedLog:
    """What is known of a log after every entry checked out.

    Attributes:
      checkpoint: What its operator signed.
      keys: The keys that were used.
      keys_from_log: The keys came with the log, so they prove only that it is consistent in
        itself.
      plans: Every plan that was offered, by digest.
      num_checkpoints: How many older checkpoints were compared as well.
      cosigned: The checkpoint that the policy's witnesses cosigned; None without a policy.
      witnesses: The witness key that each site announced under its own signature, by site.
    """

    checkpoint: Checkpoint
    keys: KeyRing
    keys_from_log: bool
    plans: Mapping[str, RunPlan]
    num_checkpoints: int
    cosigned: Cosigned | None
    witnesses: Mapping[str, NoteKey]


Visitor = Callable[[int, Entry], None]
_NOTHING: Read = (b"", None, None)


def verify_log(
    folder: Path,
    keys: KeyRing | None = None,
    *,
    policy: Policy | None = None,
    accountant: Accountant = calibrate.epsilon,
) -> VerifiedLog:
    """Check the log in `folder` and return it with all its entries; see `check_log`."""
    entries: list[Entry] = []
    checked = check_log(
        folder,
        keys,
        policy=policy,
        accountant=accountant,
        visit=lambda _, entry: entries.append(entry),
    )
    return VerifiedLog(
        checkpoint=checked.checkpoint,
        entries=tuple(entries),
        keys=checked.keys,
        keys_from_log=checked.keys_from_log,
        plans=checked.plans,
        num_checkpoints=checked.num_checkpoints,
        cosigned=checked.cosigned,
        witnesses=checked.witnesses,
    )


def check_log(
    folder: Path,
    keys: KeyRing | None = None,
    *,
    policy: Policy | None = None,
    accountant: Accountant = calibrate.epsilon,
    visit: Visitor = lambda index, entry: None,
    num_jobs: int = 1,
    also: Iterable[str] = (),
) -> CheckedLog:
    """Check the log in `folder`, one entry in memory at a time.

    Args:
      folder: As `privacy.audit.log` writes it.
      keys: The parties' public keys; by default those that lie with the log.
      policy: Whose cosignatures the log must have; by default nobody's.
      accountant: Recomputes epsilon of releases at a delta.
      visit: Gets each entry and its number once it checked out.
      num_jobs: Processes that check signatures.
      also: Further checkpoints that the log must agree with, such as stamped ones.

    Raises:
      TamperError: Entries are not those that were signed for.
      VerificationError: An entry is not its signer's, or does not follow from the earlier ones,
        or too few witnesses cosigned. It names the first wrong entry in `entry`.
      ConfigError: The folder holds no log, or the keys cannot be read.
    """
    keys_from_log = keys is None
    if keys is None:
        keys = keys_with(folder)
    try:
        # In the order opposite to that of writing, so a log may grow meanwhile.
        cosigned = None if policy is None else _read_cosigned(folder, policy, keys)
        notes = read_history(folder / CHECKPOINTS)
        history = [open_by_operator(note, keys) for note in (*notes, *also)]
        checkpoint = open_by_operator(_read_text(folder / CHECKPOINT), keys)
        roots = _compare_checkpoints(history, checkpoint)
        if cosigned is not None:
            _add_cosigned(roots, cosigned.checkpoint, checkpoint)
        lines = read_lines(folder / ENTRIES)
        signed = islice(lines, checkpoint.size)
        with closing(read_entries(signed, keys, num_jobs=num_jobs)) as entries:
            rules = _check_entries(folder, keys, checkpoint, roots, accountant, visit, entries)
        _check_end(folder, keys, checkpoint.size, lines)
    except OSError as error:
        raise no_log(folder, error.filename, error.strerror) from None
    if policy is not None:
        _check_announced(policy, checkpoint.origin, rules.witnesses)
    if cosigned is not None and cosigned.checkpoint.size < checkpoint.size:
        first = cosigned.checkpoint.size
        raise VerificationError(
            f"entry {first} is not cosigned: the quorum cosigned {first} of"
            f" {checkpoint.size} entries",
            hint="have the witnesses cosign the newest checkpoint, and copy the log again",
            entry=first,
        )
    return CheckedLog(
        checkpoint=checkpoint,
        keys=keys,
        keys_from_log=keys_from_log,
        plans=rules.plans,
        num_checkpoints=len(roots),
        cosigned=cosigned,
        witnesses=dict(rules.witnesses),
    )


def _check_entries(
    folder: Path,
    keys: KeyRing,
    checkpoint: Checkpoint,
    roots: Mapping[int, bytes],
    accountant: Accountant,
    visit: Visitor,
    entries: Iterator[Read],
) -> Rules:
    edge = Edge()
    rules = Rules(keys, accountant)
    sequences: dict[str, int] = {}
    good_size = 0
    leaves: list[bytes] = []  # of the entries since then
    while edge.size < checkpoint.size:
        index, entry = edge.size, None
        try:
            line, entry, problem = next(entries, _NOTHING)
            if not line:
                raise TamperError(
                    f"entry {index} is missing: the checkpoint signs for {checkpoint.size}"
                    f" entries, the log holds {index}",
                    hint="ask the other parties for their copies of the log",
                )
            leaves.append(leaf_hash(line))
            if entry is None or problem is not None:
                raise problem or VerificationError("expected an entry")
            edge.append(leaves[-1])
            if edge.size in roots:
                _check_root(edge, roots[edge.size], good_size)
                good_size, leaves = edge.size, []
            check_sequence(entry, sequences)
            rules.check(entry, index)
        except VerificationError as error:
            changed = _first_changed(folder, checkpoint, leaves, good_size)
            # An error of this very line says more than that it is not the one signed for.
            if changed is not None and (changed != index or error.entry is not None):
                raise _placed(_not_signed(changed, changed), changed, None) from None
            raise _placed(error, index, entry) from None
        visit(index, entry)
    return rules


def _check_announced(policy: Policy, origin: str, witnesses: Mapping[str, NoteKey]) -> None:
    """Check that a policy's witnesses that are sites have the keys that the sites announced.

    Otherwise whoever wrote the policy could cosign in their names.

    Raises:
      VerificationError: One has another key.
    """
    announced = {f"{origin}/{site}": key for site, key in witnesses.items()}
    for name, key in policy.witnesses.items():
        known = announced.get(key.name, key)
        if known != key:
            raise VerificationError(
                f"expected the witness {name} with the key {known.key_id.hex()} that"
                f" {key.name} announced in this log, got {key.key_id.hex()} in the policy",
                hint="make the policy anew with `cloister-audit policy`, from keys of the sites",
            )


def _check_end(folder: Path, keys: KeyRing, size: int, lines: Iterator[bytes]) -> None:
    """Check that no entry stands behind the newest checkpoint.

    Raises:
      TamperError: One does, and no writer is about to sign for it.
    """
    num_lines = size + sum(1 for _ in lines)
    with (folder / ENTRIES).open("rb") as opened:
        opened.seek(0, os.SEEK_END)
        if opened.tell():
            opened.seek(-1, os.SEEK_END)
            num_lines += opened.read(1) != b"\n"
    if num_lines <= size:
        return
    later = open_by_operator(_read_text(folder / CHECKPOINT), keys)
    deadline = time.monotonic() + _SIGNING_S
    while later.size < num_lines and time.monotonic() < deadline:
        # The writer may be between an entry and its checkpoint right now.
        threading.Event().wait(0.05)
        later = open_by_operator(_read_text(folder / CHECKPOINT), keys)
    if later.size < num_lines:
        raise TamperError(
            f"entry {later.size} is not signed for: the newest checkpoint ends before it",
            hint="if the coordinator was killed, start it once: it drops or signs its end",
            entry=later.size,
        )


def _read_cosigned(folder: Path, policy: Policy, keys: KeyRing) -> Cosigned:
    """The newest checkpoint that the policy believes."""
    found: Cosigned | None = None
    problem: VerificationError | None = None
    for name in (COSIGNED, CHECKPOINT):
        if not (folder / name).exists():
            continue
        note = _read_text(folder / name)
        try:
            this = policy.check(note, () if policy.logs else _log_keys(note, keys))
        except VerificationError as error:
            problem = problem or error
            continue
        if found is None or this.checkpoint.size > found.checkpoint.size:
            found = this
    if found is None:
        raise problem or VerificationError(f"expected a checkpoint in {folder}, got none")
    return found


def _log_keys(note: str, keys: KeyRing) -> list[NoteKey]:
    """The coordinator's keys, under the name that the note gives its log."""
    origin = parse_checkpoint(Note.parse(note).text).origin
    try:
        return [log_key(origin, key.public_key) for key in keys.coordinator_keys()]
    except ValueError as error:
        raise VerificationError(str(error)) from None


def _add_cosigned(roots: dict[int, bytes], cosigned: Checkpoint, newest: Checkpoint) -> None:
    """Have the entries compared with what the witnesses saw, too.

    Raises:
      TamperError: The witnesses saw another log.
    """
    if cosigned.origin != newest.origin:
        raise TamperError(f"the witnesses cosigned another log, {cosigned.origin!r}")
    if cosigned.size > newest.size:
        raise TamperError(
            f"entry {newest.size} is missing: witnesses cosigned {cosigned.size} entries, the"
            f" newest checkpoint signs for {newest.size}",
            hint="ask the witnesses for their copies of the checkpoint",
            entry=newest.size,
        )
    if cosigned.size and roots.setdefault(cosigned.size, cosigned.root) != cosigned.root:
        raise TamperError(
            f"the log's operator signed two different logs of {cosigned.size} entries",
            hint="keep both checkpoints: together they prove the fork",
        )


def _placed(error: VerificationError, index: int, entry: Entry | None) -> VerificationError:
    """The same error, saying where."""
    where = index if error.entry is None else error.entry
    what = ""
    if entry is not None and where == index:
        what = f" ({entry.event} by {entry.party}, its number {entry.sequence})"
    return type(error)(f"entry {where}{what}: {error}", hint=error.hint, entry=where)


def _first_changed(
    folder: Path, checkpoint: Checkpoint, leaves: list[bytes], start: int
) -> int | None:
    """The first of the entries from `start` on that is not the one that was signed for.

    None when they all are, or when the tiles beside the log do not hash to the signed root.
    """
    edge, found = Edge(), None
    try:
        for index, leaf in enumerate(TileReader(folder, checkpoint.size).leaves()):
            edge.append(leaf)
            place = index - start
            if found is None and 0 <= place < len(leaves) and leaves[place] != leaf:
                found = index
    except ConfigError:
        return None
    return found if edge.root() == checkpoint.root else None


def _check_root(edge: Edge, root: bytes, good_size: int) -> None:
    if edge.root() != root:
        raise _not_signed(good_size, edge.size - 1)


def _not_signed(first: int, last: int) -> TamperError:
    which = "it is" if first == last else f"one of entries {first} to {last} is"
    return TamperError(
        f"{which} not what the log's operator signed for: changed, inserted, moved, or one"
        " before it taken away",
        hint="ask the other parties for their copies of the log",
        entry=first,
    )


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise VerificationError(f"expected text in {path}") from None


def open_by_operator(note: str, keys: KeyRing) -> Checkpoint:
    """The checkpoint, signed by any of the coordinator's keys.

    Raises:
      VerificationError: None of them signed it.
      ConfigError: There is no coordinator's key.
    """
    problem: VerificationError | None = None
    for key in keys.coordinator_keys():
        try:
            return open_checkpoint(note, key.public_key)
        except VerificationError as error:
            problem = error
    raise problem or ConfigError("expected a coordinator's key among the keys, got none")


def _compare_checkpoints(history: list[Checkpoint], newest: Checkpoint) -> dict[int, bytes]:
    """Roots by size; no checkpoint may contradict another."""
    roots = {newest.size: newest.root}
    for older in history:
        if older.origin != newest.origin:
            raise TamperError(f"expected checkpoints of {newest.origin!r}, got {older.origin!r}")
        if roots.setdefault(older.size, older.root) != older.root:
            raise TamperError(
                f"the log's operator signed two different logs of {older.size} entries",
                hint="keep both checkpoints: they are proof",
            )
        if older.size > newest.size:
            raise TamperError(
                f"entry {newest.size} is missing: an older checkpoint signs for {older.size}"
                f" entries, the newest for {newest.size}",
                hint="ask the other parties for their copies of the log",
                entry=newest.size,
            )
    return roots
