"""A site's privacy budget: what one population has spent, over all runs, models and restarts.

The protocol, in the order in which a round goes through it:

1. `reserve` writes a round down as spent before a record is read, and is durable when it returns.
   It refuses what would exceed the budget, a round that the plan does not have, and a round whose
   update has been committed.
2. The site trains and draws its noise.
3. `commit` binds the round to the one update that may leave. Only then is it sent.

A crash after 1 leaves the round reserved: the same round may be reserved again and costs nothing
more, because nothing of it has left the site. A crash after 3 leaves it committed: the same update
may be sent again, another one never. So a crash leaves a site poorer in budget, never richer.

What is stored is the releases, not an epsilon: the accountant composes all of them jointly, each
time anew.

A test of a run's adapter whose figures are to leave goes the same way, in place of a round: it is
reserved before the records are read again, and committed to the one set of noised figures.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from privacy.dp import calibrate
from privacy.dp.calibrate import Event
from privacy.dp.config import Unit
from privacy.dp.ledger_file import LedgerEntry, LedgerFile
from privacy.errors import (
    BudgetExceededError,
    ConfigError,
    InstructionRefusedError,
    PlanRefusedError,
    ReplyRefusedError,
)

if TYPE_CHECKING:
    from privacy.plan import RunPlan

_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_RUN_ID = re.compile(r"[0-9]{1,20}")
# In place of a run's number, for the tests of a plan's adapters: never a number itself.
TEST_RUN = "test"


@dataclass(frozen=True, kw_only=True, slots=True)
class PrivacySpent:
    """An (epsilon, delta) guarantee over everything released so far.

    Attributes:
      epsilon: Upper bound on the privacy loss, in nats. Not an estimate.
      delta: Probability that the bound fails; below 1 / number of units.
      unit: Whose presence is hidden.
    """

    epsilon: float
    delta: float
    unit: Unit


@dataclass(frozen=True, kw_only=True, slots=True)
class Reservation:
    """Leave to train one round, and everything from which its epsilon can be recomputed.

    Of a test, `run_id` is `TEST_RUN`, `server_round` its number, and its run all tests of the
    plan.

    Attributes:
      plan_digest: The plan.
      run_id: The run.
      server_round: Its round.
      event: What this round releases.
      prior: Everything else that the ledger holds, equal kinds together.
      delta: At which epsilon is computed: the site's own.
      epsilon_total: Of `prior` and this round.
      budget_epsilon: What the site allows.
    """

    plan_digest: str
    run_id: str
    server_round: int
    event: Event
    prior: tuple[Event, ...]
    delta: float
    epsilon_total: float
    budget_epsilon: float


class Ledger:
    """The budget of one population; any number of processes may use it at once."""

    def __init__(
        self, path: Path, *, population: str, unit: Unit, budget_epsilon: float, delta: float
    ) -> None:
        """Open the ledger at `path`, or begin it where there has never been one.

        Args:
          path: The SQLite file; its stamp is `path` with `.stamp` appended.
          population: Whose budget this is; two connectors to the same people share one.
          unit: Whom the guarantee protects, fixed when the ledger begins.
          budget_epsilon: What the site allows in all. May be changed at any time; when it falls
            below what is spent, nothing more is reserved.
          delta: At which the site accounts. May be changed, because releases are stored.

        Raises:
          ConfigError: A value is impossible, or the file is missing, damaged, older than its
            stamp, or the ledger of another population or unit.
        """
        if not population:
            raise ConfigError("expected a population's name, got nothing")
        if not (math.isfinite(budget_epsilon) and budget_epsilon > 0):
            raise ConfigError(f"expected 0 < budget epsilon < infinity, got {budget_epsilon}")
        if not 0 < delta < 1:
            raise ConfigError(f"expected 0 < budget delta < 1, got {delta}")
        self.budget_epsilon = budget_epsilon
        self.delta = delta
        self.unit = Unit(unit)
        self.population = population
        self._file = LedgerFile(path, population=population, unit=self.unit)

    def check_plan(self, plan: "RunPlan", *, run_id: str | None = None) -> None:
        """Check that the whole of `plan` fits into what is left, before anything is reserved.

        Args:
          plan: The plan.
          run_id: The plan's run, when it is not the one that its digest gives. Its rounds count
            once, as part of the plan, so that a run which has begun can be checked again.

        Raises:
          ConfigError: The plan's noise does not keep its own promise.
          PlanRefusedError: The plan protects another unit, or allows a larger delta.
          BudgetExceededError: What is spent and the whole plan together exceed the budget.
        """
        self._check_terms(plan)
        calibrate.check_mechanism(plan.mechanism, plan.rounds.num_rounds)
        entries = self._file.entries()
        run = (plan.digest, plan.run_id if run_id is None else run_id)
        others = [entry.event for entry in entries if entry.run != run]
        whole = calibrate.run_event(plan.mechanism, plan.rounds.num_rounds)
        self._check_budget(_events(entries), [*others, whole], "the plan")

    def reserve(self, plan: "RunPlan", run_id: str, server_round: int) -> Reservation:
        """Write a round down as spent; durable when this returns.

        A round that is reserved and not committed may be reserved again and costs nothing more.

        Raises:
          PlanRefusedError: The plan protects another unit, or allows a larger delta.
          InstructionRefusedError: The plan has no such round, or its update is committed.
          BudgetExceededError: The round would exceed the budget, or a lowered budget is exceeded.
        """
        self._check_terms(plan)
        if not _RUN_ID.fullmatch(run_id):
            raise ValueError(f"expected run_id of 1 to 20 digits, got {run_id!r}")
        if not 1 <= server_round <= plan.rounds.num_rounds:
            raise InstructionRefusedError(
                "round-out-of-range",
                f"expected a round from 1 to {plan.rounds.num_rounds}, got {server_round}",
            )
        key = (plan.digest, run_id, server_round)
        return self._reserve(key, calibrate.round_event(plan.mechanism))

    def reserve_test(self, plan: "RunPlan", test_number: int, event: Event) -> Reservation:
        """Write a test of a plan's adapter down as spent; durable when this returns.

        A test that is reserved and not committed may be reserved again with the same noise, and
        costs nothing more.

        Raises:
          PlanRefusedError: The plan protects another unit, or allows a larger delta.
          InstructionRefusedError: The test's figures are committed.
          BudgetExceededError: The test would exceed the budget.
          ConfigError: It was reserved with another noise.
        """
        self._check_terms(plan)
        if test_number < 1:
            raise ValueError(f"expected test_number >= 1, got {test_number}")
        return self._reserve((plan.digest, TEST_RUN, test_number), event)

    def tests(self, plan_digest: str) -> list[LedgerEntry]:
        """The tests of a plan's adapters, in their order."""
        run = (plan_digest, TEST_RUN)
        return [entry for entry in self._file.entries() if entry.run == run]

    def total_with(self, event: Event) -> float:
        """What everything would cost together with one more release. Reserves nothing."""
        return calibrate.epsilon([*_events(self._file.entries()), event], self.delta)

    def _reserve(self, key: tuple[str, str, int], event: Event) -> Reservation:
        what = _what(key)
        with self._file.writing() as writer:
            entries = writer.entries()
            known = next((entry for entry in entries if entry.key == key), None)
            if known is not None and known.update_digest is not None:
                raise InstructionRefusedError(
                    "round-already-committed",
                    f"{what} has its update already, and may not have another",
                )
            if known is not None and known.event != event:
                raise ConfigError("the ledger holds another mechanism for a plan of this digest")
            others = [entry for entry in entries if entry is not known]
            reservation = self._reservation(key, event, others)
            if known is None:
                writer.reserve(key, event)
        # A crash here leaves the round reserved and untrained: the site is poorer, never richer.
        return reservation

    def foresee(self, plan: "RunPlan", run_id: str) -> None:
        """Work out what a run's next rounds will cost, before they are asked for."""
        entries = self._file.entries()
        in_run = [entry.event for entry in entries if entry.run == (plan.digest, run_id)]
        left = plan.rounds.num_rounds - len(in_run)
        for delta in {self.delta, plan.mechanism.delta}:
            calibrate.foresee(plan.mechanism, left, delta, in_run)
        calibrate.foresee(plan.mechanism, left, self.delta, _events(entries))

    def commit(self, reservation: Reservation, update_digest: str) -> None:
        """Bind a reserved round to the one update that may leave; durable when this returns.

        To commit the same update again changes nothing, so a crash before sending can be resumed.

        Raises:
          ReplyRefusedError: The round was never reserved, or has another update.
        """
        key = (reservation.plan_digest, reservation.run_id, reservation.server_round)
        self._commit(key, update_digest)

    def commit_test(self, plan_digest: str, test_number: int, result_digest: str) -> None:
        """Bind a reserved test to the one set of figures that may leave, as `commit` does.

        Raises:
          ReplyRefusedError: The test was never reserved, or has other figures.
        """
        self._commit((plan_digest, TEST_RUN, test_number), result_digest)

    def _commit(self, key: tuple[str, str, int], update_digest: str) -> None:
        if not _DIGEST.fullmatch(update_digest):
            raise ValueError(f"expected a digest sha256:<64 hex digits>, got {update_digest!r}")
        with self._file.writing() as writer:
            known = next((entry for entry in writer.entries() if entry.key == key), None)
            if known is None:
                raise ReplyRefusedError("round-not-reserved", f"{_what(key)} was never reserved")
            if known.update_digest is None:
                writer.commit(key, update_digest)
            elif known.update_digest != update_digest:
                raise ReplyRefusedError(
                    "second-update", f"{_what(key)} has another update already"
                )
        # A crash here leaves the round committed and unsent: this update may be sent, no other.

    def is_committed(self, plan_digest: str, run_id: str, server_round: int) -> bool:
        """Whether a round has its update."""
        key = (plan_digest, run_id, server_round)
        return any(e.key == key and e.update_digest is not None for e in self._file.entries())

    def spent(self) -> PrivacySpent:
        """What everything in the ledger costs together; a reserved round counts as spent."""
        cost = calibrate.epsilon(_events(self._file.entries()), self.delta)
        return PrivacySpent(epsilon=cost, delta=self.delta, unit=self.unit)

    def entries(self) -> list[LedgerEntry]:
        """Every round, in the order in which it was reserved."""
        return self._file.entries()

    def events(self) -> list[Event]:
        """Everything spent, equal kinds together."""
        return list(calibrate.group(_events(self._file.entries())))

    def _check_terms(self, plan: "RunPlan") -> None:
        if plan.mechanism.unit is not self.unit:
            raise PlanRefusedError(
                f"expected a plan that protects a {self.unit}, got {plan.mechanism.unit}",
                hint="ask for a plan with this unit; a ledger cannot change its unit",
            )
        if not plan.mechanism.delta <= self.delta:
            raise PlanRefusedError(
                f"expected a plan with delta <= {self.delta}, got {plan.mechanism.delta}",
                hint="ask for a plan with a smaller delta",
            )

    def _check_budget(self, spent: Sequence[Event], asked: Sequence[Event], what: str) -> float:
        total = calibrate.epsilon(asked, self.delta)
        # `not <=` and not `>`: a NaN must not pass.
        if not total <= self.budget_epsilon:
            before = calibrate.epsilon(spent, self.delta)
            raise BudgetExceededError(
                f"the budget of {self.population!r} is epsilon {self.budget_epsilon:g}, "
                f"{before:.3f} is spent, and {what} would make it {total:.3f}",
                hint="run a plan with more noise or fewer rounds, or decide on a larger budget",
                spent=before,
                asked=total,
                budget=self.budget_epsilon,
            )
        return total

    def _reservation(
        self, key: tuple[str, str, int], event: Event, others: Sequence[LedgerEntry]
    ) -> Reservation:
        before = _events(others)
        total = self._check_budget(before, [*before, event], _what(key))
        return Reservation(
            plan_digest=key[0],
            run_id=key[1],
            server_round=key[2],
            event=event,
            prior=calibrate.group(before),
            delta=self.delta,
            epsilon_total=total,
            budget_epsilon=self.budget_epsilon,
        )


def _what(key: tuple[str, str, int]) -> str:
    return f"{'test' if key[1] == TEST_RUN else 'round'} {key[2]}"


def _events(entries: Sequence[LedgerEntry]) -> list[Event]:
    return [entry.event for entry in entries]
