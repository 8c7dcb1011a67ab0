"""What a site has decided, said and sent: one SQLite file of mode 0600, durable at every step.

- *Decisions*: plans that a person approved or refused, by digest.
- *Entries*: the site's own evidence, signed here, numbered without gaps, kept for ever, and sent
  to the coordinator's log in their order. An entry is in this file before it is anywhere else.
- *Refusals*: an entry that the log refused, and why. It holds back all behind it, until a person
  sets it aside: then it is kept here, and an entry that names its digest takes its number.
- *Outbox*: each reply that left or may leave, byte for byte, so that a round that is asked for
  twice is answered twice with the same bytes and never trained twice.
- *Points*: how good the adapters of rounds were on held-out units. They go to `results.json`.
"""

import contextlib
import json
import os
import secrets
import sqlite3
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from client.curve import Point
from privacy.audit.entry import Entry, Event, commit, format_time, make_entry, parse_entry
from privacy.dp.ledger import TEST_RUN, Ledger
from privacy.errors import ConfigError
from privacy.pki.identity import SigningKey
from privacy.plan import RunPlan

# Half of what the coordinator takes in one call; an entry alone may be larger.
MAX_BATCH_BYTES = 2 * 1024 * 1024
_SCHEMA = """
CREATE TABLE IF NOT EXISTS decision (
  plan_digest TEXT PRIMARY KEY,
  plan BLOB NOT NULL,
  approved INTEGER NOT NULL,
  decided_at TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS entry (
  sequence INTEGER PRIMARY KEY,
  event TEXT NOT NULL,
  plan_digest TEXT,
  server_round INTEGER,
  line BLOB NOT NULL,
  log_index INTEGER
);
CREATE INDEX IF NOT EXISTS entry_about ON entry (plan_digest, server_round, event);
CREATE TABLE IF NOT EXISTS refusal (
  sequence INTEGER PRIMARY KEY,
  reason TEXT NOT NULL,
  refused_at TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS set_aside (
  sequence INTEGER NOT NULL,
  line BLOB NOT NULL,
  reason TEXT NOT NULL,
  set_aside_at TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS commitment (
  digest TEXT PRIMARY KEY,
  salt BLOB NOT NULL,
  content TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS traffic (
  id INTEGER PRIMARY KEY CHECK (id = 1),
  bytes_up INTEGER NOT NULL,
  bytes_down INTEGER NOT NULL
);
CREATE TABLE IF NOT EXISTS point (
  plan_digest TEXT NOT NULL,
  server_round INTEGER NOT NULL,
  adapter TEXT NOT NULL,
  loss REAL NOT NULL,
  accuracy REAL NOT NULL,
  num_examples INTEGER NOT NULL,
  PRIMARY KEY (plan_digest, server_round)
);
CREATE TABLE IF NOT EXISTS outbox (
  plan_digest TEXT NOT NULL,
  kind TEXT NOT NULL,
  server_round INTEGER NOT NULL,
  update_digest TEXT NOT NULL,
  num_bytes INTEGER NOT NULL,
  content BLOB NOT NULL,
  made_at TEXT NOT NULL,
  sent_at TEXT,
  PRIMARY KEY (plan_digest, kind, server_round)
);
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Sent:
    """A reply that left the site, or may.

    Attributes:
      plan_digest: The plan under which it was asked for.
      kind: `train`, `evaluate`, `test` for the figures of a test, `exposure` for ranks of tracers.
      server_round: The round, or the test's number; 1 for ranks.
      update_digest: Digest of the update, of the figures, or of the ranks.
      num_bytes: Size of the serialized reply.
      made_at: When it passed the door.
      sent_at: When the coordinator had all of it; None before.
    """

    plan_digest: str
    kind: str
    server_round: int
    update_digest: str
    num_bytes: int
    made_at: str
    sent_at: str | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Refusal:
    """An entry that the coordinator's log refused.

    Attributes:
      entry: It.
      reason: What the log said.
      at: When it said so first, or when a person set the entry aside.
    """

    entry: Entry
    reason: str
    at: str


class Journal:
    """The journal in the file `path`, made when it is missing. Safe for threads and processes."""

    def __init__(self, path: Path, key: SigningKey, site: str) -> None:
        self._path = path
        self._key = key
        self._site = site
        self._lock = threading.RLock()
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
        self._connection = sqlite3.connect(
            path, isolation_level=None, check_same_thread=False, timeout=30
        )
        with self._guarded():
            self._connection.execute("PRAGMA journal_mode = WAL")
            self._connection.execute("PRAGMA synchronous = FULL")
            self._connection.execute("PRAGMA secure_delete = ON")
            self._connection.executescript(_SCHEMA)

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._connection.close()

    # -- decisions -----------------------------------------------------------------------------

    def decide(self, plan: RunPlan, *, approved: bool) -> None:
        """Remember a person's decision on a plan; the newest counts."""
        with self._guarded():
            self._connection.execute(
                "INSERT OR REPLACE INTO decision VALUES (?, ?, ?, ?)",
                (plan.digest, plan.canonical(), approved, _now()),
            )

    def approved_plan(self, digest: str) -> RunPlan | None:
        """The approved plan with this digest, None when it was refused or never decided on."""
        with self._guarded():
            row = self._connection.execute(
                "SELECT plan FROM decision WHERE plan_digest = ? AND approved = 1", (digest,)
            ).fetchone()
        return None if row is None else RunPlan.parse(row[0])

    def approved_plans(self) -> list[RunPlan]:
        """Every plan that is approved, in the order of the decisions."""
        with self._guarded():
            rows = self._connection.execute(
                "SELECT plan FROM decision WHERE approved = 1 ORDER BY decided_at, rowid"
            ).fetchall()
        return [RunPlan.parse(row[0]) for row in rows]

    def decision(self, digest: str) -> bool | None:
        """Whether a plan was approved (True) or refused (False); None for neither."""
        with self._guarded():
            row = self._connection.execute(
                "SELECT approved FROM decision WHERE plan_digest = ?", (digest,)
            ).fetchone()
        return None if row is None else bool(row[0])

    # -- entries -------------------------------------------------------------------------------

    def record(
        self, event: Event, subjects: Mapping[str, str] | None = None, **fields: object
    ) -> None:
        """Sign an entry with the next number and keep it; `flush` sends it."""
        with self._guarded(), self._transaction():
            (sequence,) = self._connection.execute(
                "SELECT coalesce(max(sequence) + 1, 0) FROM entry"
            ).fetchone()
            line = make_entry(
                self._key,
                self._site,
                event,
                sequence=sequence,
                at=datetime.now(UTC),
                subjects=subjects,
                predicate=fields,
            )
            self._connection.execute(
                "INSERT INTO entry VALUES (?, ?, ?, ?, ?, NULL)",
                (
                    sequence,
                    str(event),
                    (subjects or {}).get("plan"),
                    fields.get("server_round", fields.get("test_number")),
                    line,
                ),
            )

    def flush(self, send: Callable[[Sequence[bytes]], Sequence[int]]) -> int:
        """Send every entry that the log does not hold yet, in order; returns how many.

        `send` returns the entries' places in the log. A crash between sending and marking sends
        them again, and the log answers with the places that it gave before.

        Raises:
          ConfigError: The log refuses an entry. Which one and why is noted; those before it were
            sent, those behind it were not.
        """
        with self._guarded():
            rows = self._connection.execute(
                "SELECT sequence, line FROM entry WHERE log_index IS NULL ORDER BY sequence"
            ).fetchall()
        for batch in _batches([(sequence, bytes(line)) for sequence, line in rows]):
            try:
                indices = send([line for _, line in batch])
            except ConfigError:
                # One of them: each alone says which.
                for row in batch:
                    self._send_alone(row, send)
            else:
                self._mark(batch, indices)
        return len(rows)

    def _mark(self, batch: Sequence[tuple[int, bytes]], indices: Sequence[int]) -> None:
        """Note the places in the log of entries that it took."""
        with self._guarded(), self._transaction():
            for index, (sequence, _) in zip(indices, batch, strict=True):
                self._connection.execute(
                    "UPDATE entry SET log_index = ? WHERE sequence = ?", (index, sequence)
                )
                self._connection.execute("DELETE FROM refusal WHERE sequence = ?", (sequence,))

    def _send_alone(
        self, row: tuple[int, bytes], send: Callable[[Sequence[bytes]], Sequence[int]]
    ) -> None:
        sequence, line = row
        try:
            indices = send([line])
        except ConfigError as error:
            with self._guarded():
                self._connection.execute(
                    "INSERT OR IGNORE INTO refusal VALUES (?, ?, ?)",
                    (sequence, str(error), _now()),
                )
            raise ConfigError(
                f"the log does not take entry {sequence} of this site,"
                f" {parse_entry(line).event}: {error}",
                hint="cloister-site journal shows it, and how to go on without losing it",
            ) from None
        self._mark([row], indices)

    def newest(self, event: Event) -> Entry | None:
        """The newest entry of this event, None before the first."""
        with self._guarded():
            row = self._connection.execute(
                "SELECT line FROM entry WHERE event = ? ORDER BY sequence DESC LIMIT 1",
                (str(event),),
            ).fetchone()
        return None if row is None else parse_entry(bytes(row[0]))

    def refused(self) -> Refusal | None:
        """The entry that the log refused and that holds back all behind it, None for none."""
        with self._guarded():
            row = self._connection.execute(
                "SELECT entry.line, refusal.reason, refusal.refused_at FROM refusal"
                " JOIN entry USING (sequence) WHERE entry.log_index IS NULL"
                " ORDER BY sequence LIMIT 1"
            ).fetchone()
        return None if row is None else _refusal(row)

    def set_aside(
        self, sequence: int, send: Callable[[Sequence[bytes]], Sequence[int]]
    ) -> Entry | None:
        """Keep the refused entry beside the others, and say in its place that this was done.

        The new entry has the number of the refused one, so those behind it stay as they are. The
        refused one is sent once more before: the log may have taken it since, and its answer may
        have been lost. It would refuse every other entry of that number for ever.

        Returns:
          The new entry; None where the log has the old one by now.

        Raises:
          ConfigError: The log did not refuse the entry of that number.
          TransportError: The log cannot be asked; nothing was changed.
        """
        refused = self.refused()
        if refused is not None and refused.entry.sequence == sequence:
            row = (sequence, refused.entry.line)
            try:
                indices = send([refused.entry.line])
            except ConfigError:
                return self._replace(sequence)
            self._mark([row], indices)
            return None
        return self._replace(sequence)

    def _replace(self, sequence: int) -> Entry:
        """Put another entry in the place of a refused one, which is kept."""
        with self._guarded(), self._transaction():
            row = self._connection.execute(
                "SELECT entry.line, refusal.reason, refusal.refused_at FROM refusal"
                " JOIN entry USING (sequence) WHERE entry.log_index IS NULL AND sequence = ?",
                (sequence,),
            ).fetchone()
            if row is None:
                raise ConfigError(
                    f"expected the number of an entry that the log refused, got {sequence}",
                    hint="cloister-site journal shows it, if there is one",
                )
            refused = _refusal(row)
            if refused.entry.event is Event.ENTRY_SET_ASIDE:
                raise ConfigError(
                    "expected an entry about what this site did, got one that sets another aside",
                    hint="have the coordinator say why its log takes nothing of this site",
                )
            line = make_entry(
                self._key,
                self._site,
                Event.ENTRY_SET_ASIDE,
                sequence=sequence,
                at=datetime.now(UTC),
                subjects={"entry": refused.entry.digest},
                predicate={"refused_event": str(refused.entry.event)},
            )
            self._connection.execute(
                "INSERT INTO set_aside VALUES (?, ?, ?, ?)",
                (sequence, refused.entry.line, refused.reason, _now()),
            )
            self._connection.execute("DELETE FROM refusal WHERE sequence = ?", (sequence,))
            self._connection.execute(
                "UPDATE entry SET event = ?, plan_digest = NULL, server_round = NULL, line = ?"
                " WHERE sequence = ?",
                (str(Event.ENTRY_SET_ASIDE), line, sequence),
            )
        return parse_entry(line)

    def set_aside_entries(self) -> tuple[Refusal, ...]:
        """Every entry that was set aside, in the order in which it was."""
        with self._guarded():
            rows = self._connection.execute(
                "SELECT line, reason, set_aside_at FROM set_aside ORDER BY rowid"
            ).fetchall()
        return tuple(_refusal(row) for row in rows)

    def check_ledger(self, ledger: Ledger) -> None:
        """Check that `ledger` holds every round and test that was said to be reserved here.

        Raises:
          ConfigError: It does not: it was lost, or is another population's.
        """
        held = {entry.key for entry in ledger.entries()}
        written = [parse_entry(line) for line, _ in self.lines()]
        # What was set aside was done all the same.
        written += [refused.entry for refused in self.set_aside_entries()]
        for entry in written:
            if entry.event in (Event.BUDGET_RESERVED, Event.TEST_RESERVED):
                said, plan = entry.predicate, entry.subjects["plan"]
                place, what = (plan, said["run_id"], said.get("server_round", 0)), "round"
                if entry.event is Event.TEST_RESERVED:
                    place, what = (plan, TEST_RUN, said["test_number"]), "test"
                if place not in held:
                    raise ConfigError(
                        f"expected {what} {place[2]} of {plan} in the ledger of population "
                        f"{ledger.population}, got none: this site has spent it",
                        hint="restore the folder ledger/ from a copy; another population needs a "
                        "site folder and an enrolment of its own",
                    )

    def lines(self) -> list[tuple[bytes, int | None]]:
        """Every entry with its place in the coordinator's log, None before it is there."""
        with self._guarded():
            return [
                (bytes(row[0]), row[1])
                for row in self._connection.execute(
                    "SELECT line, log_index FROM entry ORDER BY sequence"
                )
            ]

    def about(self, event: Event, plan_digest: str, *, in_log: bool = False) -> list[Entry]:
        """Every entry of this event about this plan, in the order in which they were made.

        Args:
          event: What they are about.
          plan_digest: The plan.
          in_log: Only those that the log has taken.
        """
        with self._guarded():
            rows = self._connection.execute(
                "SELECT line FROM entry WHERE plan_digest = ? AND event = ?"
                " AND (log_index IS NOT NULL OR NOT ?) ORDER BY sequence",
                (plan_digest, str(event), in_log),
            ).fetchall()
        return [parse_entry(bytes(row[0])) for row in rows]

    def find(self, event: Event, plan_digest: str, server_round: int) -> Entry | None:
        """The entry of this event about this round of this plan, None before it was made.

        Of an event of a test, `server_round` is the test's number.
        """
        with self._guarded():
            row = self._connection.execute(
                "SELECT line FROM entry WHERE plan_digest = ? AND server_round = ? AND event = ?",
                (plan_digest, server_round, str(event)),
            ).fetchone()
        return None if row is None else parse_entry(bytes(row[0]))

    def commit_to(self, values: Mapping[str, object]) -> str:
        """A salted digest of `values`, which an entry may carry; salt and values stay here."""
        salt = secrets.token_bytes(32)
        digest = commit(values, salt)
        with self._guarded():
            self._connection.execute(
                "INSERT INTO commitment VALUES (?, ?, ?)", (digest, salt, json.dumps(values))
            )
        return digest

    def count_traffic(self, *, up: int = 0, down: int = 0) -> tuple[int, int]:
        """Add to the bytes of records sent and received; returns the sums so far."""
        with self._guarded():
            self._connection.execute(
                "INSERT INTO traffic VALUES (1, ?, ?) ON CONFLICT (id) DO UPDATE SET"
                " bytes_up = bytes_up + excluded.bytes_up,"
                " bytes_down = bytes_down + excluded.bytes_down",
                (up, down),
            )
            row = self._connection.execute("SELECT bytes_up, bytes_down FROM traffic").fetchone()
        return int(row[0]), int(row[1])

    def keep_point(self, plan_digest: str, point: Point) -> None:
        """Keep what was measured of a round's adapter; a second measurement takes its place."""
        with self._guarded():
            self._connection.execute(
                "INSERT OR REPLACE INTO point VALUES (?, ?, ?, ?, ?, ?)",
                (
                    plan_digest,
                    point.server_round,
                    point.adapter,
                    point.loss,
                    point.accuracy,
                    point.num_examples,
                ),
            )

    def points(self, plan_digest: str) -> tuple[Point, ...]:
        """What was measured of a run's adapters, by round."""
        with self._guarded():
            rows = self._connection.execute(
                "SELECT server_round, adapter, loss, accuracy, num_examples FROM point"
                " WHERE plan_digest = ? ORDER BY server_round",
                (plan_digest,),
            ).fetchall()
        return tuple(
            Point(
                server_round=row[0],
                adapter=row[1],
                loss=row[2],
                accuracy=row[3],
                num_examples=row[4],
            )
            for row in rows
        )

    # -- outbox --------------------------------------------------------------------------------

    def put(
        self, plan_digest: str, kind: str, server_round: int, update_digest: str, content: bytes
    ) -> None:
        """Keep a checked and signed reply before it is sent.

        Raises:
          ConfigError: A reply to this round is kept already: a second one never leaves.
        """
        with self._guarded():
            try:
                self._connection.execute(
                    "INSERT INTO outbox VALUES (?, ?, ?, ?, ?, ?, ?, NULL)",
                    (
                        plan_digest,
                        kind,
                        server_round,
                        update_digest,
                        len(content),
                        content,
                        _now(),
                    ),
                )
            except sqlite3.IntegrityError:
                raise ConfigError(
                    f"a reply to round {server_round} of {plan_digest} is kept already"
                ) from None

    def get(self, plan_digest: str, kind: str, server_round: int) -> tuple[bytes, str] | None:
        """The kept reply to a round and the digest of its update, None when there is none."""
        with self._guarded():
            row = self._connection.execute(
                "SELECT content, update_digest FROM outbox"
                " WHERE plan_digest = ? AND kind = ? AND server_round = ?",
                (plan_digest, kind, server_round),
            ).fetchone()
        return None if row is None else (bytes(row[0]), str(row[1]))

    def mark_sent(self, plan_digest: str, kind: str, server_round: int) -> bool:
        """Note that a reply left the site; True the first time."""
        with self._guarded():
            cursor = self._connection.execute(
                "UPDATE outbox SET sent_at = ? WHERE plan_digest = ? AND kind = ?"
                " AND server_round = ? AND sent_at IS NULL",
                (_now(), plan_digest, kind, server_round),
            )
            return cursor.rowcount == 1

    def sent(self) -> tuple[Sent, ...]:
        """Everything that left the site or may, in the order in which it was made."""
        with self._guarded():
            rows = self._connection.execute(
                "SELECT plan_digest, kind, server_round, update_digest, num_bytes, made_at,"
                " sent_at FROM outbox ORDER BY made_at, rowid"
            ).fetchall()
        return tuple(
            Sent(
                plan_digest=row[0],
                kind=row[1],
                server_round=row[2],
                update_digest=row[3],
                num_bytes=row[4],
                made_at=row[5],
                sent_at=row[6],
            )
            for row in rows
        )

    # -- the file ------------------------------------------------------------------------------

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            with contextlib.suppress(sqlite3.Error):
                self._connection.execute("ROLLBACK")
            raise
        # A crash before this line leaves no entry and no gap; after it, the entry is on disk.
        self._connection.execute("COMMIT")

    @contextmanager
    def _guarded(self) -> Iterator[None]:
        with self._lock:
            try:
                yield
            except sqlite3.IntegrityError:
                raise
            except sqlite3.Error as error:
                raise ConfigError(
                    f"cannot use {self._path}: {error}",
                    hint="restore the site's journal from a copy; without it nothing leaves",
                ) from error


def _refusal(row: tuple[bytes, str, str]) -> Refusal:
    return Refusal(entry=parse_entry(bytes(row[0])), reason=row[1], at=row[2])


def _batches(rows: list[tuple[int, bytes]]) -> Iterator[list[tuple[int, bytes]]]:
    """The rows in their order, as many together as one call may carry."""
    batch: list[tuple[int, bytes]] = []
    num_bytes = 0
    for sequence, line in rows:
        num_bytes += len(line) + 1
        if batch and num_bytes > MAX_BATCH_BYTES:
            yield batch
            batch, num_bytes = [], len(line) + 1
        batch.append((sequence, line))
    if batch:
        yield batch


def _now() -> str:
    return format_time(datetime.now(UTC))
