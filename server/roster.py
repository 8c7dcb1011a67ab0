"""Who takes part: the enrolled sites, their two public keys, and whether they were revoked.

A SQLite database of mode 0600. The running coordinator asks it on every call, so that a revocation
by another process acts on the next call of an open connection. Nothing is ever deleted: a revoked
key stays known, so that it cannot come back under another name.
"""

import os
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from privacy.errors import ConfigError
from privacy.pki.identity import algorithm_of, check_name

_SCHEMA = """
CREATE TABLE IF NOT EXISTS enrolment (
  id INTEGER PRIMARY KEY,
  site TEXT NOT NULL,
  node_key BLOB NOT NULL UNIQUE,
  signing_key BLOB NOT NULL UNIQUE,
  certificate_serial TEXT NOT NULL,
  num_units INTEGER NOT NULL,
  enrolled_at TEXT NOT NULL,
  revoked_at TEXT
);
CREATE UNIQUE INDEX IF NOT EXISTS one_active ON enrolment (site) WHERE revoked_at IS NULL;
"""
_COLUMNS = "site, node_key, signing_key, certificate_serial, num_units, enrolled_at, revoked_at"


@dataclass(frozen=True, kw_only=True, slots=True)
class Enrolment:
    """A site as it was let in.

    Attributes:
      site: Its name.
      node_key: Public key of its TLS certificate, DER of the SubjectPublicKeyInfo: its identity on
        the wire, and Flower's node key.
      signing_key: Raw public key, Ed25519 or ML-DSA-44, that signs its updates and evidence.
      certificate_serial: Serial number of its newest certificate, in hex.
      num_units: Number of training units that it has declared.
      enrolled_at: When it was first let in.
      revoked_at: When it was shut out, or None.
    """

    site: str
    node_key: bytes
    signing_key: bytes
    certificate_serial: str
    num_units: int
    enrolled_at: datetime
    revoked_at: datetime | None

    @property
    def active(self) -> bool:
        """Whether the site may take part."""
        return self.revoked_at is None


class Roster:
    """The roster in the file `path`, made when it is missing. Safe for threads and processes."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        # SQLite would make the file readable for all; its journal takes over the file's mode.
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
        path.chmod(0o600)
        self._connection = sqlite3.connect(
            path, isolation_level=None, check_same_thread=False, timeout=10
        )
        try:
            with self._guarded():
                self._connection.execute("PRAGMA journal_mode = WAL")
                self._connection.execute("PRAGMA synchronous = FULL")
                self._connection.executescript(_SCHEMA)
        except ConfigError:
            self._connection.close()
            raise

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._connection.close()

    def __enter__(self) -> "Roster":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def add(
        self,
        site: str,
        *,
        node_key: bytes,
        signing_key: bytes,
        certificate_serial: str,
        num_units: int,
        at: datetime,
    ) -> Enrolment:
        """Let `site` in, or renew its certificate when it comes with the same two keys.

        Raises:
          ConfigError: The site is active with other keys, or a key belongs to another site or was
            revoked.
          ValueError: A malformed name, key, number or time.
        """
        check_name(site)
        algorithm_of(signing_key)
        if not node_key:
            raise ValueError("expected a node key, got none")
        if num_units < 1:
            raise ValueError(f"expected num_units >= 1, got {num_units}")
        with self._guarded(), self._transaction():
            self._refuse_known_keys(site, node_key, signing_key)
            self._connection.execute(
                "INSERT INTO enrolment (site, node_key, signing_key, certificate_serial,"
                " num_units, enrolled_at) VALUES (?, ?, ?, ?, ?, ?)"
                " ON CONFLICT (node_key) DO UPDATE SET"
                " certificate_serial = excluded.certificate_serial,"
                " num_units = excluded.num_units",
                (site, node_key, signing_key, certificate_serial, num_units, _written(at)),
            )
            return self._one("node_key = ?", node_key)

    def revoke(self, site: str, *, at: datetime) -> Enrolment:
        """Shut `site` out, for good with these keys; it acts on the coordinator's next call.

        Raises:
          ConfigError: No active site has this name.
        """
        with self._guarded(), self._transaction():
            found = self._rows("site = ? AND revoked_at IS NULL", site)
            if not found:
                raise ConfigError(
                    f"expected the name of an active site, got {site!r}",
                    hint="cloister-coordinator status lists them",
                )
            self._connection.execute(
                "UPDATE enrolment SET revoked_at = ? WHERE node_key = ?",
                (_written(at), found[0].node_key),
            )
            return self._one("node_key = ?", found[0].node_key)

    def is_active(self, node_key: bytes) -> bool:
        """Whether the owner of `node_key` is enrolled and not revoked, as of now.

        Raises:
          ConfigError: The roster cannot be read; the caller must refuse then.
        """
        with self._guarded():
            row = self._connection.execute(
                "SELECT 1 FROM enrolment WHERE node_key = ? AND revoked_at IS NULL", (node_key,)
            ).fetchone()
        return row is not None

    def by_node_key(self, node_key: bytes) -> Enrolment | None:
        """The enrolment with this TLS public key, active or revoked, or None for a stranger."""
        with self._guarded():
            rows = self._rows("node_key = ?", node_key)
        return rows[0] if rows else None

    def active_site(self, site: str) -> Enrolment | None:
        """The active enrolment of `site`, or None."""
        with self._guarded():
            rows = self._rows("site = ? AND revoked_at IS NULL", site)
        return rows[0] if rows else None

    def list(self) -> tuple[Enrolment, ...]:
        """Every enrolment, in the order in which they were made; revoked ones too."""
        with self._guarded():
            return self._rows("1")

    def _refuse_known_keys(self, site: str, node_key: bytes, signing_key: bytes) -> None:
        for known in self._rows("node_key = ? OR signing_key = ?", node_key, signing_key):
            if not known.active:
                raise ConfigError(
                    f"a key of this request was revoked with site {known.site!r}",
                    hint="have the site make new keys: a revoked key never comes back",
                )
            if known.site != site:
                raise ConfigError(f"a key of this request belongs to site {known.site!r}")
        algorithm = algorithm_of(signing_key)
        for known in self._rows("site = ?", site):
            before = algorithm_of(known.signing_key)
            if algorithm.is_weaker_than(before):
                raise ConfigError(
                    f"expected {site!r} to go on signing with {before}, got a key of {algorithm}",
                    hint=f"have the site make its keys with signature_algorithm = {before}",
                )
        for known in self._rows("site = ? AND revoked_at IS NULL", site):
            if (known.node_key, known.signing_key) != (node_key, signing_key):
                raise ConfigError(
                    f"site {site!r} is enrolled with other keys",
                    hint=f"cloister-coordinator revoke {site}, then approve again",
                )

    def _one(self, where: str, *values: object) -> Enrolment:
        (found,) = self._rows(where, *values)
        return found

    def _rows(self, where: str, *values: object) -> tuple[Enrolment, ...]:
        # `where` is always one of the literals above; values are bound.
        query = f"SELECT {_COLUMNS} FROM enrolment WHERE {where} ORDER BY id"  # noqa: S608
        return tuple(
            Enrolment(
                site=row[0],
                node_key=row[1],
                signing_key=row[2],
                certificate_serial=row[3],
                num_units=row[4],
                enrolled_at=_read(row[5]),
                revoked_at=None if row[6] is None else _read(row[6]),
            )
            for row in self._connection.execute(query, values)
        )

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._connection.execute("ROLLBACK")
            raise
        # A crash before this line leaves the roster as it was; after it, the change is on disk.
        self._connection.execute("COMMIT")

    @contextmanager
    def _guarded(self) -> Iterator[None]:
        with self._lock:
            try:
                yield
            except sqlite3.Error as error:
                raise ConfigError(
                    f"cannot use the roster {self.path}: {error}",
                    hint="restore it from a copy; without it nobody is let in",
                ) from error


def _written(at: datetime) -> str:
    if at.tzinfo is None:
        raise ValueError("expected an aware time, got one without a zone")
    return at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _read(text: str) -> datetime:
    return datetime.fromisoformat(text)
