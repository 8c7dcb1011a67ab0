"""The coordinator's memory of its runs: plans, approvals, rounds done; it outlives kill -9.

A run goes offered -> running -> finished, failed or stopped. A round is written down when its
adapter has been released; until then it is to be done, and doing it twice is harmless, because
sites answer a round that they have done with the same bytes.
"""

import os
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from pathlib import Path

from privacy.errors import ConfigError
from privacy.plan import RunPlan

_SCHEMA = """
CREATE TABLE IF NOT EXISTS run (
  id INTEGER PRIMARY KEY,
  plan_digest TEXT NOT NULL UNIQUE,
  plan BLOB NOT NULL,
  name TEXT NOT NULL UNIQUE,
  state TEXT NOT NULL,
  flower_run_id TEXT,
  reason TEXT NOT NULL DEFAULT ''
);
CREATE TABLE IF NOT EXISTS decision (
  plan_digest TEXT NOT NULL,
  site TEXT NOT NULL,
  approved INTEGER NOT NULL,
  PRIMARY KEY (plan_digest, site)
);
CREATE TABLE IF NOT EXISTS round (
  plan_digest TEXT NOT NULL,
  server_round INTEGER NOT NULL,
  adapter TEXT,
  num_updates INTEGER NOT NULL,
  seconds REAL NOT NULL,
  PRIMARY KEY (plan_digest, server_round)
);
"""


class RunState(StrEnum):
    """Where a run stands."""

    OFFERED = "offered"
    RUNNING = "running"
    FINISHED = "finished"
    FAILED = "failed"
    STOPPED = "stopped"


@dataclass(frozen=True, kw_only=True, slots=True)
class RoundResult:
    """A round that is over.

    Attributes:
      server_round: Its number.
      adapter: Digest of the adapter it released, None when it had too few updates.
      num_updates: Updates that were added.
      seconds: How long it took.
    """

    server_round: int
    adapter: str | None
    num_updates: int
    seconds: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """A run as it stands.

    Attributes:
      plan: Its plan.
      state: Where it stands.
      flower_run_id: Flower's number of it, None before it began.
      reason: Why it failed or was stopped; empty otherwise.
      rounds: Rounds that are over.
      approved: Sites that approved the plan.
      refused: Sites that refused it.
    """

    plan: RunPlan
    state: RunState
    flower_run_id: int | None
    reason: str
    rounds: tuple[RoundResult, ...]
    approved: tuple[str, ...]
    refused: tuple[str, ...]

    @property
    def adapter(self) -> str:
        """Digest of the newest released adapter, the initial one before the first release."""
        released = [result.adapter for result in self.rounds if result.adapter is not None]
        return released[-1] if released else self.plan.initial_adapter


# A plan is asked for at every change of a run, and takes milliseconds to check.
_parse = lru_cache(maxsize=64)(RunPlan.parse)


class RunStore:
    """Runs in a SQLite file of mode 0600, safe for threads and processes."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
        self._path = path
        self._lock = threading.RLock()
        self._connection = sqlite3.connect(
            path, isolation_level=None, check_same_thread=False, timeout=10
        )
        with self._guarded():
            self._connection.execute("PRAGMA journal_mode = WAL")
            self._connection.execute("PRAGMA synchronous = FULL")
            self._connection.executescript(_SCHEMA)

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._connection.close()

    def knows(self, plan: RunPlan) -> bool:
        """Whether a plan was offered before.

        Raises:
          ConfigError: Another plan has this run's name.
        """
        with self._guarded():
            found = self._connection.execute(
                "SELECT plan_digest FROM run WHERE name = ?", (plan.run,)
            ).fetchone()
        if found is not None and found[0] != plan.digest:
            raise ConfigError(
                f"a run named {plan.run!r} exists with another plan",
                hint="give the run another name: sites approve each plan anew",
            )
        return found is not None

    def offer(self, plan: RunPlan) -> None:
        """Remember an offered plan.

        Raises:
          ConfigError: Another plan has this run's name.
        """
        if self.knows(plan):
            return
        with self._guarded():
            self._connection.execute(
                "INSERT INTO run (plan_digest, plan, name, state) VALUES (?, ?, ?, ?)",
                (plan.digest, plan.canonical(), plan.run, RunState.OFFERED),
            )

    def decide(self, plan_digest: str, site: str, *, approved: bool) -> None:
        """Remember a site's decision on a plan; the newest counts."""
        with self._guarded():
            self._connection.execute(
                "INSERT OR REPLACE INTO decision VALUES (?, ?, ?)", (plan_digest, site, approved)
            )

    def begin(self, plan_digest: str, flower_run_id: int) -> None:
        """Mark a run as running, under this number of Flower's."""
        with self._guarded():
            # A run that was stopped in the meantime stays so.
            self._connection.execute(
                "UPDATE run SET state = ?, flower_run_id = ?"
                " WHERE plan_digest = ? AND state IN (?, ?)",
                (
                    RunState.RUNNING,
                    str(flower_run_id),
                    plan_digest,
                    RunState.OFFERED,
                    RunState.RUNNING,
                ),
            )

    def end(self, plan_digest: str, state: RunState, reason: str = "") -> None:
        """Mark a run as over."""
        with self._guarded():
            self._connection.execute(
                "UPDATE run SET state = ?, reason = ? WHERE plan_digest = ?",
                (state, reason, plan_digest),
            )

    def end_round(self, plan_digest: str, result: RoundResult) -> None:
        """Remember a round that is over."""
        with self._guarded():
            self._connection.execute(
                "INSERT OR REPLACE INTO round VALUES (?, ?, ?, ?, ?)",
                (
                    plan_digest,
                    result.server_round,
                    result.adapter,
                    result.num_updates,
                    result.seconds,
                ),
            )

    def get(self, plan_digest: str) -> Run:
        """The run of a plan.

        Raises:
          ConfigError: No such plan was offered.
        """
        with self._guarded():
            row = self._connection.execute(
                "SELECT plan_digest, plan, state, flower_run_id, reason FROM run"
                " WHERE plan_digest = ?",
                (plan_digest,),
            ).fetchone()
            if row is not None:
                return self._run(*row)
        raise ConfigError(f"expected the digest of an offered plan, got {plan_digest!r}")

    def list(self) -> tuple[Run, ...]:
        """Every run, in the order of the offers."""
        with self._guarded():
            rows = self._connection.execute(
                "SELECT plan_digest, plan, state, flower_run_id, reason FROM run ORDER BY id"
            ).fetchall()
            return tuple(self._run(*row) for row in rows)

    def _run(
        self, digest: str, plan: bytes, state: str, flower_run_id: str | None, reason: str
    ) -> Run:
        rounds = self._connection.execute(
            "SELECT server_round, adapter, num_updates, seconds FROM round"
            " WHERE plan_digest = ? ORDER BY server_round",
            (digest,),
        ).fetchall()
        decisions = self._connection.execute(
            "SELECT site, approved FROM decision WHERE plan_digest = ? ORDER BY site",
            (digest,),
        ).fetchall()
        return Run(
            plan=_parse(plan),
            state=RunState(state),
            flower_run_id=None if flower_run_id is None else int(flower_run_id),
            reason=reason,
            rounds=tuple(
                RoundResult(server_round=r[0], adapter=r[1], num_updates=r[2], seconds=r[3])
                for r in rounds
            ),
            approved=tuple(site for site, approved in decisions if approved),
            refused=tuple(site for site, approved in decisions if not approved),
        )

    @contextmanager
    def _guarded(self) -> Iterator[None]:
        with self._lock:
            try:
                yield
            except sqlite3.Error as error:
                raise ConfigError(
                    f"cannot use {self._path}: {error}",
                    hint="restore the coordinator's state folder from a copy",
                ) from error
