"""What evidence costs: durable appends, and the check of a whole log, beside a plain SQLite table.

The table is what one would write without a log: one row an entry, one transaction a batch, synced
(`journal_mode=WAL`, `synchronous=FULL`). It can be rewritten by whoever has the file; that is the
difference, and these figures are its price. `pymerkle`, another Merkle tree in Python, stands
beside the tree where it is installed; it is GPL-licensed and no dependency of ours.

Everything runs in one thread. Appended are real signed entries of about a kilobyte. Appends are
measured by the clock, since they wait for the disk; checks in seconds of one core, so that what
else the machine does is not counted.
"""

import importlib
import importlib.util
import os
import sqlite3
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from privacy.audit.checkpoint import open_checkpoint
from privacy.audit.entry import Entry, Event, make_entry, parse_entry
from privacy.audit.keys import PartyKey, Role
from privacy.audit.log import ENTRIES, Log, check_sequence, check_signer
from privacy.audit.merkle import Edge, leaf_hash
from privacy.audit.store import Store, read_lines
from privacy.pki.identity import Algorithm, SigningKey

_ORIGIN = "cloister/bench"
_AT = datetime(2026, 1, 1, tzinfo=UTC)
_DIGEST = "sha256:" + "ab" * 32
_FAKE_BYTES = 988


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One measurement.

    Attributes:
      case: What was measured.
      unit: `entries/s`, more is better, or `core s`, less is better.
      ours: Cloister.
      other: What stands beside it; None where nothing does.
      ratio: `ours / other`; None where nothing stands beside it.
    """

    case: str
    unit: str
    ours: float
    other: float | None
    ratio: float | None


def rows(*, num_entries: int, num_signed: int, batch: int) -> Iterator[Row]:
    """Measure appends of `num_signed` entries and the check of `num_entries`."""
    with tempfile.TemporaryDirectory(prefix="cloister-audit-") as name:
        folder = Path(name)
        print(f"signing {num_signed} entries ...", file=sys.stderr, flush=True)
        key = SigningKey.generate()
        own = PartyKey(party="site", role=Role.SITE, public_key=key.public_key)
        entries = [parse_entry(_entry(key, number)) for number in range(num_signed)]
        yield from _appends(folder, key, own, entries, batch)
        yield from _checks(folder, key, own, entries)
        # Signing takes ML-DSA-44 fifteen times as long, so fewer are signed.
        strong = SigningKey.generate(Algorithm.ML_DSA_44)
        own = PartyKey(party="site", role=Role.SITE, public_key=strong.public_key)
        few = [parse_entry(_entry(strong, number)) for number in range(min(num_signed, 2000))]
        yield from _checks(folder, strong, own, few)
        yield from _tree(folder, num_entries, batch)


def _entry(key: SigningKey, number: int) -> bytes:
    return make_entry(
        key,
        "site",
        Event.UPDATE_SENT,
        sequence=number,
        at=_AT,
        subjects={"plan": _DIGEST, "update": _DIGEST},
        predicate={"run_id": "1", "server_round": 1, "update_bytes": 51_234},
    )


def _appends(
    folder: Path, key: SigningKey, own: PartyKey, entries: list[Entry], batch: int
) -> Iterator[Row]:
    lines = [entry.line for entry in entries]
    single = min(len(entries), 500)
    for case, size, num, whole in (
        (f"durable appends in batches of {batch}, checked before", batch, len(entries), False),
        (f"durable appends in batches of {batch}, signatures checked", batch, len(entries), True),
        ("durable appends one by one, signatures checked", 1, single, True),
    ):
        with Log(folder / f"log-{size}-{whole}", key, _ORIGIN, [own]) as log:
            began, own_began = time.perf_counter(), time.process_time()
            _fill(log, entries[:num], size, whole=whole)
            ours, own_s = time.perf_counter() - began, time.process_time() - own_began
        began = time.perf_counter()
        _fill_table(folder / f"{size}.db", lines[:num], size)
        other = time.perf_counter() - began
        yield _rate(case, num, ours, other)
        yield Row(
            case=f"{case}: a second of one core, without the waiting",
            unit="entries/s",
            ours=num / own_s,
            other=None,
            ratio=None,
        )


def _fill(log: Log, entries: list[Entry], batch: int, *, whole: bool) -> None:
    for begin in range(0, len(entries), batch):
        part = entries[begin : begin + batch]
        if whole:
            log.extend([entry.line for entry in part])
        else:
            log.extend_checked(part)


def _fill_table(path: Path, lines: list[bytes], batch: int) -> None:
    path.unlink(missing_ok=True)
    table = sqlite3.connect(path, isolation_level=None)
    table.execute("PRAGMA journal_mode = WAL")
    table.execute("PRAGMA synchronous = FULL")
    table.execute("CREATE TABLE entry (id INTEGER PRIMARY KEY, line BLOB NOT NULL)")
    for begin in range(0, len(lines), batch):
        table.execute("BEGIN")
        table.executemany(
            "INSERT INTO entry (line) VALUES (?)",
            [(line,) for line in lines[begin : begin + batch]],
        )
        table.execute("COMMIT")
    table.close()


def _checks(folder: Path, key: SigningKey, own: PartyKey, entries: list[Entry]) -> Iterator[Row]:
    """The check of every entry: form, signature, number and tree, on one core."""
    path = folder / f"signed-{key.algorithm}"
    with Log(path, key, _ORIGIN, [own]) as log:
        log.extend_checked(entries)
        keys, note = log.keys, log.checkpoint

    def check() -> None:
        edge, sequences = Edge(), dict[str, int]()
        for line in read_lines(path / ENTRIES):
            entry = parse_entry(line)
            check_signer(entry, keys)
            edge.append(leaf_hash(line))
            check_sequence(entry, sequences)
        if edge.root() != open_checkpoint(note, key.public_key).root:
            raise RuntimeError("the log did not verify")

    seconds = _timed(check)
    million = seconds / len(entries) * 1e6
    yield Row(
        case=f"whole check of a million entries by {key.algorithm} (from {len(entries)})",
        unit="core s",
        ours=million,
        other=None,
        ratio=None,
    )


def _tree(folder: Path, num_entries: int, batch: int) -> Iterator[Row]:
    """The tree part alone: read, hash, and compare the root. Entries are random bytes."""
    path = folder / "tree"
    path.mkdir()
    store = Store(path)
    table = sqlite3.connect(folder / "tree.db", isolation_level=None)
    table.execute("CREATE TABLE entry (id INTEGER PRIMARY KEY, line BLOB NOT NULL)")
    num = 0
    spent = 0.0
    while num < num_entries:
        size = min(batch, num_entries - num)
        lines = [os.urandom(_FAKE_BYTES // 2).hex().encode() for _ in range(size)]
        began, old_size = time.perf_counter(), store.size
        store.append_many([(leaf_hash(line), line) for line in lines])
        store.write_tiles(old_size)
        spent += time.perf_counter() - began
        table.execute("BEGIN")
        table.executemany("INSERT INTO entry (line) VALUES (?)", [(line,) for line in lines])
        table.execute("COMMIT")
        num += size
    root = store.tree.root()
    store.close()
    yield Row(
        case=f"store alone: durable appends in batches of {batch}, up to {num_entries}",
        unit="entries/s",
        ours=num_entries / spent,
        other=None,
        ratio=None,
    )

    def check() -> None:
        edge = Edge()
        for line in read_lines(path / ENTRIES):
            edge.append(leaf_hash(line))
        if edge.root() != root:
            raise RuntimeError("the tree did not verify")

    ours = _timed(check)
    read = _timed(lambda: sum(len(row[0]) for row in table.execute("SELECT line FROM entry")))
    table.close()
    case = f"tree of {num_entries} entries checked from disk"
    yield Row(
        case=f"{case}; SQLite only reads", unit="core s", ours=ours, other=read, ratio=ours / read
    )

    def open_again() -> None:
        again = Store(path)
        for _ in again.read():
            pass
        again.mend_tiles()
        again.close()

    yield Row(
        case=f"store of {num_entries} entries opened, tiles compared",
        unit="core s",
        ours=_timed(open_again),
        other=None,
        ratio=None,
    )
    if importlib.util.find_spec("pymerkle") is not None:
        few = min(num_entries, 100_000)
        theirs = _pymerkle(path, few)

        def grow() -> None:
            edge = Edge()
            for line, _ in zip(read_lines(path / ENTRIES), range(few), strict=False):
                edge.append(leaf_hash(line))
            edge.root()

        ours = _timed(grow)
        yield Row(
            case=f"tree over {few} entries; pymerkle in memory",
            unit="core s",
            ours=ours,
            other=theirs,
            ratio=ours / theirs,
        )


def _pymerkle(path: Path, num_entries: int) -> float:
    tree = importlib.import_module("pymerkle").InmemoryTree(algorithm="sha256")

    def grow() -> None:
        for line, _ in zip(read_lines(path / ENTRIES), range(num_entries), strict=False):
            tree.append_entry(line)
        tree.get_state()

    return _timed(grow)


def _rate(case: str, num: int, ours: float, other: float) -> Row:
    return Row(case=case, unit="entries/s", ours=num / ours, other=num / other, ratio=other / ours)


def _timed(work: Callable[[], object]) -> float:
    """Seconds of one core."""
    began = time.process_time()
    work()
    return time.process_time() - began


def line(row: Row) -> str:
    """A row for a person."""
    other = "-" if row.other is None else f"{row.other:,.2f}"
    ratio = "-" if row.ratio is None else f"{row.ratio:.3f}"
    return f"{row.case:72}  {row.unit:>9}  {row.ours:>12,.2f}  {other:>12}  {ratio:>7}"
