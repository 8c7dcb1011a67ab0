"""Attack a run's adapter with this site's own units; let noised counts out if a person says so.

`examine` runs the attacks in the closed room and writes exact figures into the site's folder.
`release` also spends budget, in the order of a round; each step is durable before the next:

1. The coordinator can be reached and says that the run released this adapter, so that the log
   takes what follows.
2. The ledger reserves the test. A crash from here on leaves it spent.
3. The log takes the reservation, before a record is read.
4. The attacks run; each count gets noise.
5. The noised counts are kept in the journal. A crash before this line draws other noise: the
   first has been seen by nobody.
6. The ledger commits their digest, the journal says so, then they leave as an entry of the log.

A test that was cut off goes on where it was, and costs nothing more. Only one agent or one release
runs at a time: a round that is reserved between two entries of a test would have to stand in both.
"""

import json
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, Final, Self

import numpy as np

from client.framing import frame
from client.home import SiteHome, file_digest
from client.journal import Journal
from client.link import Link
from client.outcome import Outcome
from client.room import make_worker
from client.worker import Worker
from model.tensors import Packed, packed_digest, read_adapter_folder
from privacy.audit.entry import Event, format_time
from privacy.dp import calibrate, membership
from privacy.dp.ledger import Ledger
from privacy.errors import (
    BudgetExceededError,
    ConfigError,
    TrainingError,
    VerificationError,
)
from privacy.plan import RunPlan

KIND: Final = "test"

Say = Callable[[Mapping[str, object]], None]


class AdapterTest:
    """A test of one run's adapter at this site.

    Args:
      home: The site's folder.
      run: The run's name or its plan's digest; empty: the only run whose adapter is here.
      worker: Runs `client.leakage`; the default is a child process of it.

    Raises:
      ConfigError: There is no such run, or its adapter was never measured here.
      VerificationError: The adapter's file is another one.
    """

    def __init__(self, home: SiteHome, run: str = "", worker: Worker | None = None) -> None:
        self.home = home
        # First: where there is no site, this says so.
        self.site = home.config().site.name
        self._config_digest = file_digest(home.config_path)
        self._worker = worker or make_worker(home, "client.leakage")
        self.journal: Journal = home.journal()
        self.ledger: Ledger = home.ledger()
        try:
            self.plan, self.adapter = _find(self.journal, run)
            self.packed = _read(home, self.plan, self.adapter)
        except BaseException:
            self.journal.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._worker.stop()
        self.journal.close()

    @property
    def limit_s(self) -> float:
        """How long attacks may take: as long as an evaluation, because each unit goes alone."""
        compute = self.home.config().compute
        return compute.round_limit_s * (self.plan.rounds.num_rounds + 2)

    @property
    def has_arrived(self) -> bool:
        """Whether the coordinator took an update of this site in time, as far as is known here.

        Where it took none, the adapter knows nothing of this site, and attacks fail.
        """
        return any(
            reply.sent_at is not None
            for reply in self.journal.sent()
            if (reply.kind, reply.plan_digest) == ("train", self.plan.digest)
        )

    # -- at home ---------------------------------------------------------------------------------

    def examine(self, say: Say) -> dict[str, Any]:
        """Run the attacks and write exact figures to `privacy_test.json`; nothing leaves.

        Raises:
          TrainingError: The closed room cannot be had, or what runs in it failed.
        """
        header: dict[str, object] = {
            "site_config": str(self.home.config_path),
            "site_config_digest": self._config_digest,
            "plan": self.plan.canonical().decode(),
            "holdout_key": self.home.holdout_key().hex(),
        }
        if self.plan.masking.mode == "surrogate":
            header["surrogate_key"] = self.home.surrogate_key().secret.hex()
        request = frame(header, self.packed.astype("<f4").tobytes())
        answer = self._worker.call(request, timeout_s=self.limit_s, on_progress=say)
        try:
            found: dict[str, Any] = dict(json.loads(answer))
            counts = {name: tuple(cells) for name, cells in dict(found["counts"]).items()}
            membership.check_counts(counts)
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            # Its text may be a record's.
            raise TrainingError(
                f"expected figures of the attacks, got {type(error).__name__}"
            ) from None
        found["counts"] = counts
        self._write(found)
        return found

    def _write(self, found: Mapping[str, Any]) -> None:
        shown = {key: value for key, value in found.items() if key != "counts"}
        self.home.write_json(
            self.home.privacy_test_path,
            {
                "site": self.site,
                "run": self.plan.run,
                "plan": self.plan.digest,
                "adapter": self.adapter,
                "unit": str(self.plan.mechanism.unit),
                "measured_at": format_time(datetime.now(UTC)),
                **shown,
            },
        )

    # -- what may leave --------------------------------------------------------------------------

    def prepare(self, target_epsilon: float) -> tuple[int, calibrate.Event]:
        """Number and releases of the test that `release` would do; spends nothing.

        A test that was cut off goes first, with the noise that it was reserved with.

        Raises:
          ConfigError: No noise reaches the target, or the ledger is not the one that the journal
            spent from.
        """
        self.journal.check_ledger(self.ledger)
        tests = self.ledger.tests(self.plan.digest)
        if tests and not self._is_told(tests[-1].server_round):
            return tests[-1].server_round, tests[-1].event
        try:
            noise_multiplier = calibrate.calibrate_noise(
                target_epsilon, self.ledger.delta, 1.0, len(membership.EDGES)
            )
        except ValueError as error:
            raise ConfigError(f"--epsilon: {error}") from None
        return len(tests) + 1, membership.event(noise_multiplier)

    def cost(self, number: int, event: calibrate.Event) -> tuple[float, float, float]:
        """Epsilon of the test alone, of everything before, and of everything with it."""
        before = self.ledger.spent().epsilon
        spent = any(e.server_round == number for e in self.ledger.tests(self.plan.digest))
        total = before if spent else self.ledger.total_with(event)
        return calibrate.epsilon([event], self.ledger.delta), before, total

    def check(self, link: Link) -> Outcome:
        """Ask the coordinator whether the log would take a test of this adapter.

        Where each round failed, the adapter here is the one that the run began with. Returns what
        came of the run: the log takes a test also where no update of this site was added.

        Raises:
          OutcomeError: The run released no adapter, or another one last.
          TransportError: The coordinator cannot be reached.
        """
        outcome = link.outcome(self.plan.digest)
        outcome.check_adapter(self.adapter)
        return outcome

    def release(
        self, number: int, event: calibrate.Event, link: Link, say: Say
    ) -> dict[str, tuple[int, ...]]:
        """Spend the budget, run the attacks, and put the noised counts into the log.

        Args:
          number: As `prepare` gives it.
          event: As `prepare` gives it.
          link: To the coordinator.
          say: Told how far the attacks are.

        Raises:
          BudgetExceededError: The site does not allow it; the log says so.
          ConfigError: The ledger is not the one that the journal spent from, or as `check` says;
            nothing is reserved.
          TrainingError: The attacks failed; the test stays spent, and may be tried again.
          TransportError: The coordinator cannot be reached; the test goes on the next time.
        """
        # An empty ledger, of another population or after a loss, would let it all be spent again.
        self.journal.check_ledger(self.ledger)
        self.journal.flush(link.append)
        kept = self.journal.get(self.plan.digest, KIND, number)
        if kept is None:
            if self.journal.find(Event.TEST_RESERVED, self.plan.digest, number) is None:
                self.check(link)
            self._reserve(number, event)
            # The log takes the reservation before a record is read: what it refuses is not done.
            self.journal.flush(link.append)
            found = self.examine(say)
            noised = membership.release(found["counts"], event.noise_multiplier)
            digest = membership.digest(event.noise_multiplier, noised)
            content = json.dumps(noised).encode()
            self.journal.put(self.plan.digest, KIND, number, digest, content)
            kept = content, digest
        counts = {name: tuple(cells) for name, cells in json.loads(kept[0]).items()}
        self._settle(number, event, counts, kept[1])
        self.journal.flush(link.append)
        for told in range(1, number + 1):
            # A crash may have come between an earlier test's last entry and this note.
            self.journal.mark_sent(self.plan.digest, KIND, told)
        return counts

    def _reserve(self, number: int, event: calibrate.Event) -> None:
        plan = self.plan
        try:
            reservation = self.ledger.reserve_test(plan, number, event)
        except BudgetExceededError as error:
            self.journal.record(
                Event.BUDGET_REFUSED,
                {"plan": plan.digest},
                asked=min(error.asked, 1e9),
                spent=error.spent,
                budget=error.budget,
            )
            raise
        if self.journal.find(Event.TEST_RESERVED, plan.digest, number) is None:
            prior = [[e.noise_multiplier, e.sample_rate, e.num_steps] for e in reservation.prior]
            self.journal.record(
                Event.TEST_RESERVED,
                {"plan": plan.digest, "adapter": self.adapter},
                run_id=plan.run_id,
                test_number=number,
                noise_multiplier=event.noise_multiplier,
                num_releases=event.num_steps,
                delta=reservation.delta,
                epsilon_test=calibrate.epsilon([event], reservation.delta),
                epsilon_total=reservation.epsilon_total,
                budget_epsilon=reservation.budget_epsilon,
                prior=prior,
            )

    def _settle(
        self, number: int, event: calibrate.Event, counts: membership.Counts, digest: str
    ) -> None:
        """Commit the kept counts and say so; after a crash, only what had not been done."""
        plan = self.plan
        reserved = self.journal.find(Event.TEST_RESERVED, plan.digest, number)
        if reserved is None:
            raise ConfigError("expected an entry of the test's reservation, got none")
        subjects = {"plan": plan.digest, "adapter": self.adapter, "result": digest}
        # The entry first: a crash between the two commits again, and the entry is there once.
        if self.journal.find(Event.TEST_COMMITTED, plan.digest, number) is None:
            self.journal.record(Event.TEST_COMMITTED, subjects, **reserved.predicate)
        self.ledger.commit_test(plan.digest, number, digest)
        if not self._is_told(number):
            self.journal.record(
                Event.ADAPTER_TESTED,
                subjects,
                run_id=plan.run_id,
                test_number=number,
                noise_multiplier=event.noise_multiplier,
                **{name: list(cells) for name, cells in counts.items()},
            )

    def _is_told(self, number: int) -> bool:
        return self.journal.find(Event.ADAPTER_TESTED, self.plan.digest, number) is not None


def _find(journal: Journal, run: str) -> tuple[RunPlan, str]:
    """The plan of a run that ended here, and the digest of its last adapter."""
    ended = []
    for plan in journal.approved_plans():
        entry = journal.find(Event.EVALUATED, plan.digest, plan.rounds.num_rounds)
        if entry is not None and "adapter" in entry.subjects:
            ended.append((plan, entry.subjects["adapter"]))
    chosen = [pair for pair in ended if run in ("", pair[0].run, pair[0].digest)]
    if len(chosen) == 1:
        return chosen[0]
    listed = ", ".join(f"{plan.run} ({plan.digest[:23]})" for plan, _ in ended) or "none"
    what = f"run {run!r}" if run else "one run"
    raise ConfigError(
        f"expected {what} whose adapter was measured here, got {len(chosen)}; there are: {listed}",
        hint="name the run or its plan's digest; the agent keeps a run's last adapter when it "
        "measures it",
    )


def _read(home: SiteHome, plan: RunPlan, digest: str) -> Packed:
    folder = home.adapter_folder(digest)
    try:
        packed = read_adapter_folder(folder, plan.tensors)
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"expected the adapter in {folder}, got {type(error).__name__}",
            hint="the coordinator can hand over its copy; a folder that peft loads",
        ) from None
    if packed_digest(plan.tensors, packed) != digest:
        raise VerificationError(
            f"expected adapter {digest} in {folder}, got another one",
            hint="ask the coordinator for its copy",
        )
    if not np.isfinite(packed).all():
        raise VerificationError(f"expected finite values in {folder}")
    return packed
