"""The file under a privacy budget: a crash or a lost file never gives budget back.

Beside the file lies a stamp that says which ledger belongs here and how far it had come. A ledger
that is missing, exchanged, emptied or restored from an older copy is refused, because a fresh one
would hand out the budget a second time.
"""

import json
import os
import sqlite3
import uuid
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from privacy.dp.calibrate import Event
from privacy.dp.config import Unit
from privacy.durable import sync_folder
from privacy.errors import ConfigError

# "CLDP": what `file` and `PRAGMA application_id` show of a ledger.
_APPLICATION_ID = 0x434C4450
_FORMAT = 1
_BUSY_S = 60.0
_RESTORE = "restore it from its newest backup: without it nobody knows what is spent"
_TABLES = (
    """
    CREATE TABLE ledger (
        only_row INTEGER PRIMARY KEY CHECK (only_row = 1),
        identity TEXT NOT NULL,
        population TEXT NOT NULL,
        unit TEXT NOT NULL,
        created_at TEXT NOT NULL
    ) STRICT
    """,
    """
    CREATE TABLE spend (
        plan_digest TEXT NOT NULL,
        run_id TEXT NOT NULL,
        server_round INTEGER NOT NULL CHECK (server_round >= 1),
        noise_multiplier REAL NOT NULL CHECK (noise_multiplier > 0),
        sample_rate REAL NOT NULL CHECK (sample_rate > 0 AND sample_rate <= 1),
        num_steps INTEGER NOT NULL CHECK (num_steps >= 1),
        reserved_at TEXT NOT NULL,
        committed_at TEXT,
        update_digest TEXT,
        PRIMARY KEY (plan_digest, run_id, server_round),
        CHECK ((committed_at IS NULL) = (update_digest IS NULL))
    ) STRICT
    """,
    # No code here deletes or rewrites a spend; the file itself refuses it too.
    """
    CREATE TRIGGER spend_is_never_deleted BEFORE DELETE ON spend
    BEGIN SELECT RAISE(ABORT, 'a spend is never taken back'); END
    """,
    """
    CREATE TRIGGER spend_is_only_committed BEFORE UPDATE ON spend
    WHEN OLD.update_digest IS NOT NULL
        OR NEW.plan_digest IS NOT OLD.plan_digest OR NEW.run_id IS NOT OLD.run_id
        OR NEW.server_round IS NOT OLD.server_round
        OR NEW.noise_multiplier IS NOT OLD.noise_multiplier
        OR NEW.sample_rate IS NOT OLD.sample_rate OR NEW.num_steps IS NOT OLD.num_steps
    BEGIN SELECT RAISE(ABORT, 'a spend is only ever committed, once'); END
    """,
)
_ENTRIES = """
    SELECT plan_digest, run_id, server_round, noise_multiplier, sample_rate, num_steps,
        reserved_at, committed_at, update_digest
    FROM spend ORDER BY rowid
"""
_INSERT = "INSERT INTO spend VALUES (?, ?, ?, ?, ?, ?, ?, NULL, NULL)"
_COMMIT = """
    UPDATE spend SET committed_at = ?, update_digest = ?
    WHERE plan_digest = ? AND run_id = ? AND server_round = ?
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class LedgerEntry:
    """One round that was reserved.

    Attributes:
      plan_digest: The plan.
      run_id: The run, a decimal number.
      server_round: Its round, from 1.
      event: What the round releases.
      reserved_at: When, `YYYY-MM-DDTHH:MM:SSZ`.
      committed_at: When an update was bound to it; None as long as none was.
      update_digest: The one update that may leave for this round.
    """

    plan_digest: str
    run_id: str
    server_round: int
    event: Event
    reserved_at: str
    committed_at: str | None = None
    update_digest: str | None = None

    @property
    def run(self) -> tuple[str, str]:
        """Plan and run, to tell runs apart."""
        return self.plan_digest, self.run_id

    @property
    def key(self) -> tuple[str, str, int]:
        """Plan, run and round: what is reserved at most once."""
        return self.plan_digest, self.run_id, self.server_round


@dataclass(frozen=True, kw_only=True, slots=True)
class _Stamp:
    """Which ledger belongs here, and how many reservations and commits it had seen."""

    identity: str
    progress: int


class LedgerFile:
    """The spends of one population; any number of processes may use the file at once.

    Every method opens the file anew, so that a ledger which disappears or is exchanged while an
    agent runs is noticed at the next step.
    """

    def __init__(self, path: Path, *, population: str, unit: Unit) -> None:
        """Open the ledger at `path`, or begin it where there has never been one.

        Raises:
          ConfigError: The file is missing, damaged, older than its stamp, or the ledger of another
            population or unit.
        """
        self.path = path
        self.population = population
        self.unit = unit
        self._stamp_path = path.with_name(path.name + ".stamp")
        if self._read_stamp() is None:
            self._begin()
        self.entries()

    def entries(self) -> list[LedgerEntry]:
        """Every round, in the order in which it was reserved."""
        # The stamp is read first: whatever is written meanwhile, the ledger is not behind it.
        stamp = self._read_stamp()
        with self._connected() as connection:
            self._check(connection, stamp)
            return _read_entries(connection)

    @contextmanager
    def writing(self) -> Iterator["Writer"]:
        """Read and write alone; what was written is durable when the block has ended."""
        stamp = self._read_stamp()
        with self._connected() as connection, _transaction(connection):
            self._check(connection, stamp)
            yield Writer(connection)
        # A crash here leaves a stamp that is behind its ledger, which is allowed.
        self._stamp()

    def _begin(self) -> None:
        """Make the file and its tables, unless another process has just done so."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            os.close(os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
            sync_folder(self.path.parent)
        except FileExistsError:
            # Left alone: to close a file would drop the locks that SQLite holds on it here.
            pass
        except OSError as error:
            raise ConfigError(f"cannot create {self.path}: {error.strerror}") from error
        with self._connected() as connection:
            if connection.execute("PRAGMA journal_mode = WAL").fetchone() != ("wal",):
                raise ConfigError(
                    f"{self.path} cannot be kept durably: its file system shares no memory",
                    hint="put the ledger on a local disk",
                )
            with _transaction(connection):
                tables = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
                if tables == (0,):
                    self._create(connection)
        # A crash here leaves a ledger without a stamp, in which nothing can have been reserved.
        self._stamp()

    def _create(self, connection: sqlite3.Connection) -> None:
        for statement in _TABLES:
            connection.execute(statement)
        connection.execute(
            "INSERT INTO ledger VALUES (1, ?, ?, ?, ?)",
            (uuid.uuid4().hex, self.population, self.unit.value, _now()),
        )
        connection.execute(f"PRAGMA application_id = {_APPLICATION_ID}")
        connection.execute(f"PRAGMA user_version = {_FORMAT}")

    @contextmanager
    def _connected(self) -> Iterator[sqlite3.Connection]:
        # mode=rw: opening a ledger that is gone must fail, not make an empty one.
        address = self.path.absolute().as_uri() + "?mode=rw"
        try:
            opened = sqlite3.connect(address, uri=True, timeout=_BUSY_S, isolation_level=None)
            with closing(opened) as connection:
                connection.execute("PRAGMA synchronous = FULL")
                yield connection
        except (sqlite3.Error, OSError) as error:
            raise self._unusable(error) from error

    def _unusable(self, error: Exception) -> ConfigError:
        if not self.path.exists():
            return ConfigError(f"{self.path} is missing, but was here before", hint=_RESTORE)
        if isinstance(error, sqlite3.OperationalError) and "locked" in str(error):
            return ConfigError(
                f"{self.path} was in use by another process for {_BUSY_S:.0f} s",
                hint="stop the process that hangs; nothing was spent by this one",
            )
        return ConfigError(f"{self.path} cannot be used as a ledger: {error}", hint=_RESTORE)

    def _check(self, connection: sqlite3.Connection, stamp: _Stamp | None) -> None:
        """Refuse a file that is not this population's whole ledger, as far as it had come."""
        if connection.execute("PRAGMA quick_check(1)").fetchone() != ("ok",):
            raise ConfigError(f"{self.path} is damaged", hint=_RESTORE)
        (application_id,) = connection.execute("PRAGMA application_id").fetchone()
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        if (application_id, version) != (_APPLICATION_ID, _FORMAT):
            raise ConfigError(
                f"{self.path} is no ledger of format {_FORMAT}, or was emptied", hint=_RESTORE
            )
        identity, population, unit = connection.execute(
            "SELECT identity, population, unit FROM ledger"
        ).fetchone()
        if (population, unit) != (self.population, self.unit.value):
            raise ConfigError(
                f"{self.path} is the ledger of {population!r} with unit {unit}, "
                f"expected {self.population!r} with unit {self.unit}",
                hint="give every population a name and a ledger of its own",
            )
        if stamp is None:
            raise ConfigError(
                f"expected {self._stamp_path} beside the ledger, got nothing",
                hint="start again: a stamp that is missing at the start is written anew",
            )
        if stamp.identity != identity or stamp.progress > _progress(connection):
            raise ConfigError(
                f"{self.path} is another ledger than was here before, or an older copy of it",
                hint="restore the newest copy: an older one forgets what was spent since",
            )

    def _read_stamp(self) -> _Stamp | None:
        try:
            fields = json.loads(self._stamp_path.read_bytes())
            return _Stamp(identity=str(fields["identity"]), progress=int(fields["progress"]))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ConfigError(
                f"{self._stamp_path} is damaged or unreadable",
                hint="restore it together with its ledger",
            ) from error

    def _stamp(self) -> None:
        """Write how far the ledger has come; a crash before leaves the last stamp, true as well.

        In a transaction of its own, after what it tells of is durable: written before, a crash
        would leave a stamp ahead of its ledger. The write lock keeps two processes in order.
        """
        with self._connected() as connection, _transaction(connection):
            (identity,) = connection.execute("SELECT identity FROM ledger").fetchone()
            stamp = {"identity": identity, "progress": _progress(connection)}
            next_path = self._stamp_path.with_name(self._stamp_path.name + ".next")
            descriptor = os.open(next_path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            with os.fdopen(descriptor, "w", encoding="utf-8") as opened:
                json.dump(stamp, opened)
                opened.flush()
                os.fsync(opened.fileno())
            os.replace(next_path, self._stamp_path)
            sync_folder(self.path.parent)


class Writer:
    """A ledger under its write lock."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def entries(self) -> list[LedgerEntry]:
        """Every round, in the order in which it was reserved."""
        return _read_entries(self._connection)

    def reserve(self, key: tuple[str, str, int], event: Event) -> None:
        """Add a round."""
        spend = (event.noise_multiplier, event.sample_rate, event.num_steps, _now())
        self._connection.execute(_INSERT, (*key, *spend))

    def commit(self, key: tuple[str, str, int], update_digest: str) -> None:
        """Bind a round to its update."""
        self._connection.execute(_COMMIT, (_now(), update_digest, *key))


@contextmanager
def _transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """All or nothing, and alone: what is read in here cannot change before it is written."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
    except BaseException:
        # SQLite may have rolled back on its own, for example on a full disk.
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
    connection.execute("COMMIT")


def _read_entries(connection: sqlite3.Connection) -> list[LedgerEntry]:
    try:
        return [
            LedgerEntry(
                plan_digest=row[0],
                run_id=row[1],
                server_round=row[2],
                event=Event(*row[3:6]),
                reserved_at=row[6],
                committed_at=row[7],
                update_digest=row[8],
            )
            for row in connection.execute(_ENTRIES)
        ]
    except ValueError as error:
        raise ConfigError(
            f"the ledger holds an impossible spend: {error}", hint=_RESTORE
        ) from error


def _progress(connection: sqlite3.Connection) -> int:
    """Reservations and commits so far: grows with each, whatever their order."""
    row = connection.execute("SELECT count(*) + count(update_digest) FROM spend").fetchone()
    return int(row[0])


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
