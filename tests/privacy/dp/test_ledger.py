"""The budget: spent before training, never twice, never given back, whatever crashes."""

import json
import os
import shutil
import signal
import sqlite3
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from model.config import AdapterConfig, BaseRef, TensorSpec
from privacy.dp import calibrate
from privacy.dp.calibrate import Event
from privacy.dp.config import MechanismConfig, Unit
from privacy.dp.ledger import Ledger, Reservation
from privacy.dp.ledger_file import LedgerFile
from privacy.errors import (
    BudgetExceededError,
    ConfigError,
    InstructionRefusedError,
    PlanRefusedError,
    ReplyRefusedError,
)
from privacy.masking.config import MaskingConfig
from privacy.plan import (
    ExitConfig,
    OptimizerConfig,
    RoundsConfig,
    RunPlan,
    SiteShare,
    TextConfig,
)

RUN = "7"
UPDATE = "sha256:" + "a" * 64
OTHER_UPDATE = "sha256:" + "b" * 64


def make_plan(run: str = "first", *, num_rounds: int = 3, **mechanism: object) -> RunPlan:
    fields: dict[str, object] = {
        "unit": Unit.PATIENT,
        "target_epsilon": 50.0,
        "delta": 1e-5,
        "noise_multiplier": 1.0,
        "clip_norm": 1.0,
        "sample_rate": 0.5,
        "steps_per_round": 2,
    }
    return RunPlan(
        federation="care",
        run=run,
        base=BaseRef(name="nano", digest="sha256:" + "0" * 64),
        adapter=AdapterConfig(lora_rank=1, lora_alpha=1.0),
        tensors=(TensorSpec(name="b", shape=(2, 1), trained=True),),
        initial_adapter="sha256:" + "1" * 64,
        text=TextConfig(),
        masking=MaskingConfig(),
        mechanism=MechanismConfig(**{**fields, **mechanism}),  # type: ignore[arg-type]
        optimizer=OptimizerConfig(),
        rounds=RoundsConfig(num_rounds=num_rounds, min_sites=1),
        exits=ExitConfig(max_update_norm=1.0, max_update_bytes=1000),
        sites=(SiteShare(name="north", num_units=10),),
    )


def open_ledger(path: Path, **changes: object) -> Ledger:
    fields: dict[str, object] = {
        "population": "patients",
        "unit": Unit.PATIENT,
        "budget_epsilon": 10.0,
        "delta": 1e-5,
    }
    return Ledger(path, **{**fields, **changes})  # type: ignore[arg-type]


def simple_epsilon(events: Iterable[Event], _delta: float) -> float:
    """Stands in for the accountant where a test is about the ledger: every step costs one."""
    return float(sum(event.num_steps for event in events))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "patients.sqlite"


@pytest.fixture
def simple_cost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calibrate, "epsilon", simple_epsilon)


# What a round goes through.


@pytest.mark.usefixtures("simple_cost")
def test_a_round_is_spent_when_it_is_reserved_and_before_it_is_committed(path: Path) -> None:
    ledger = open_ledger(path)
    ledger.reserve(make_plan(), RUN, 1)
    assert open_ledger(path).spent().epsilon == 2.0
    assert not ledger.is_committed(make_plan().digest, RUN, 1)


@pytest.mark.usefixtures("simple_cost")
def test_a_round_reserved_again_after_a_crash_costs_nothing_more(path: Path) -> None:
    first = open_ledger(path).reserve(make_plan(), RUN, 1)
    assert open_ledger(path).reserve(make_plan(), RUN, 1) == first
    assert open_ledger(path).spent().epsilon == 2.0


@pytest.mark.usefixtures("simple_cost")
def test_a_committed_round_is_not_reserved_again(path: Path) -> None:
    ledger = open_ledger(path)
    ledger.commit(ledger.reserve(make_plan(), RUN, 1), UPDATE)
    with pytest.raises(InstructionRefusedError) as refused:
        open_ledger(path).reserve(make_plan(), RUN, 1)
    assert refused.value.rule == "round-already-committed"
    assert ledger.is_committed(make_plan().digest, RUN, 1)


@pytest.mark.usefixtures("simple_cost")
def test_the_same_update_may_be_committed_again_and_another_may_not(path: Path) -> None:
    ledger = open_ledger(path)
    reservation = ledger.reserve(make_plan(), RUN, 1)
    ledger.commit(reservation, UPDATE)
    ledger.commit(reservation, UPDATE)
    with pytest.raises(ReplyRefusedError) as refused:
        ledger.commit(reservation, OTHER_UPDATE)
    assert refused.value.rule == "second-update"
    assert [entry.update_digest for entry in ledger.entries()] == [UPDATE]


@pytest.mark.usefixtures("simple_cost")
def test_a_round_that_was_never_reserved_is_not_committed(path: Path) -> None:
    reservation = open_ledger(path).reserve(make_plan(), RUN, 1)
    with pytest.raises(ReplyRefusedError) as refused:
        open_ledger(path).commit(replace(reservation, server_round=2), UPDATE)
    assert refused.value.rule == "round-not-reserved"


@pytest.mark.usefixtures("simple_cost")
@pytest.mark.parametrize("server_round", [-1, 0, 4])
def test_a_round_that_the_plan_does_not_have_is_refused(path: Path, server_round: int) -> None:
    ledger = open_ledger(path)
    with pytest.raises(InstructionRefusedError) as refused:
        ledger.reserve(make_plan(num_rounds=3), RUN, server_round)
    assert refused.value.rule == "round-out-of-range"
    assert ledger.entries() == []


@pytest.mark.parametrize("run_id", ["", "run", "-1", "1" * 21, "1\n"])
def test_a_run_id_that_is_no_number_is_refused(path: Path, run_id: str) -> None:
    with pytest.raises(ValueError, match="run_id"):
        open_ledger(path).reserve(make_plan(), run_id, 1)


@pytest.mark.usefixtures("simple_cost")
def test_an_update_digest_of_another_form_is_refused(path: Path) -> None:
    ledger = open_ledger(path)
    reservation = ledger.reserve(make_plan(), RUN, 1)
    with pytest.raises(ValueError, match="digest"):
        ledger.commit(reservation, "sha256:short")


@pytest.mark.usefixtures("simple_cost")
def test_a_reservation_tells_what_an_auditor_needs_to_recompute_it(path: Path) -> None:
    ledger = open_ledger(path)
    earlier = make_plan("earlier", noise_multiplier=2.0)
    ledger.reserve(earlier, "1", 1)
    ledger.reserve(make_plan(), RUN, 1)
    reservation = ledger.reserve(make_plan(), RUN, 2)
    assert reservation.prior == (Event(1.0, 0.5, 2), Event(2.0, 0.5, 2))
    assert reservation.epsilon_total == 6.0
    assert reservation.budget_epsilon == 10.0
    assert ledger.events() == [Event(1.0, 0.5, 4), Event(2.0, 0.5, 2)]


def test_what_is_spent_is_the_joint_composition_of_all_rounds(path: Path) -> None:
    ledger = open_ledger(path, budget_epsilon=20.0)
    for server_round in (1, 2, 3):
        ledger.reserve(make_plan(), RUN, server_round)
    together = calibrate.epsilon([Event(1.0, 0.5, 6)], 1e-5)
    assert ledger.spent().epsilon == together
    assert ledger.spent().unit is Unit.PATIENT
    assert ledger.spent().delta == 1e-5


# The budget.


@pytest.mark.usefixtures("simple_cost")
def test_a_round_beyond_the_budget_is_refused_and_not_written_down(path: Path) -> None:
    ledger = open_ledger(path, budget_epsilon=5.0)
    ledger.reserve(make_plan(), RUN, 1)
    ledger.reserve(make_plan(), RUN, 2)
    with pytest.raises(
        BudgetExceededError, match=r"epsilon 5, 4\.000 is spent, .* 6\.000"
    ) as over:
        ledger.reserve(make_plan(), RUN, 3)
    assert (over.value.spent, over.value.asked, over.value.budget) == (4.0, 6.0, 5.0)
    assert ledger.spent().epsilon == 4.0


@pytest.mark.usefixtures("simple_cost")
def test_the_budget_is_shared_by_all_runs_and_plans(path: Path) -> None:
    open_ledger(path).reserve(make_plan("first", steps_per_round=6), "1", 1)
    with pytest.raises(BudgetExceededError):
        open_ledger(path).reserve(make_plan("second", steps_per_round=6), "2", 1)


@pytest.mark.usefixtures("simple_cost")
def test_the_same_plan_under_another_run_id_spends_again(path: Path) -> None:
    ledger = open_ledger(path)
    ledger.reserve(make_plan(), "1", 1)
    ledger.reserve(make_plan(), "2", 1)
    assert ledger.spent().epsilon == 4.0


@pytest.mark.usefixtures("simple_cost")
def test_a_lowered_budget_stops_what_has_begun(path: Path) -> None:
    ledger = open_ledger(path)
    ledger.reserve(make_plan(), RUN, 1)
    ledger.reserve(make_plan(), RUN, 2)
    lowered = open_ledger(path, budget_epsilon=3.0)
    for server_round in (2, 3):
        with pytest.raises(BudgetExceededError):
            lowered.reserve(make_plan(), RUN, server_round)
    assert lowered.spent().epsilon == 4.0


@pytest.mark.usefixtures("simple_cost")
def test_a_plan_is_refused_when_its_whole_length_does_not_fit(path: Path) -> None:
    ledger = open_ledger(path, budget_epsilon=5.0)
    ledger.check_plan(make_plan(num_rounds=2))
    with pytest.raises(BudgetExceededError, match="the plan would make it 6"):
        ledger.check_plan(make_plan(num_rounds=3))
    ledger.reserve(make_plan("other"), RUN, 1)
    with pytest.raises(BudgetExceededError, match=r"2\.000 is spent"):
        ledger.check_plan(make_plan(num_rounds=2))


@pytest.mark.usefixtures("simple_cost")
def test_a_plan_that_has_begun_is_counted_once_when_it_is_checked_again(path: Path) -> None:
    ledger = open_ledger(path, budget_epsilon=6.0)
    plan = make_plan(num_rounds=3)
    for server_round in (1, 2):
        ledger.reserve(plan, plan.run_id, server_round)
        ledger.check_plan(plan)
    ledger.reserve(plan, "8", 1)
    with pytest.raises(BudgetExceededError):
        ledger.check_plan(plan)


def test_a_plan_whose_noise_breaks_its_promise_is_refused(path: Path) -> None:
    with pytest.raises(ConfigError, match=r"expected epsilon <= 1\.0 over 3 rounds"):
        open_ledger(path).check_plan(make_plan(target_epsilon=1.0))


def test_a_plan_for_another_unit_is_refused(path: Path) -> None:
    ledger = open_ledger(path)
    plan = make_plan(unit=Unit.RECORD)
    with pytest.raises(PlanRefusedError, match="expected a plan that protects a patient"):
        ledger.check_plan(plan)
    with pytest.raises(PlanRefusedError):
        ledger.reserve(plan, RUN, 1)


def test_a_plan_with_a_larger_delta_is_refused(path: Path) -> None:
    ledger = open_ledger(path)
    plan = make_plan(delta=1e-4)
    with pytest.raises(PlanRefusedError, match="delta <= 1e-05"):
        ledger.check_plan(plan)
    with pytest.raises(PlanRefusedError):
        ledger.reserve(plan, RUN, 1)


def test_a_plan_with_hardly_any_noise_is_refused_whatever_the_budget(path: Path) -> None:
    ledger = open_ledger(path, budget_epsilon=1e9)
    with pytest.raises(BudgetExceededError) as over:
        ledger.reserve(make_plan(noise_multiplier=0.01), RUN, 1)
    assert over.value.asked == float("inf")


@pytest.mark.parametrize(
    "changes",
    [
        {"budget_epsilon": 0.0},
        {"budget_epsilon": float("inf")},
        {"budget_epsilon": float("nan")},
        {"delta": 0.0},
        {"delta": 1.0},
        {"delta": float("nan")},
        {"population": ""},
    ],
)
def test_an_impossible_budget_is_refused(path: Path, changes: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        open_ledger(path, **changes)
    assert not path.exists()


# The file.


def test_only_the_owner_can_read_the_ledger(path: Path) -> None:
    open_ledger(path)
    for part in path.parent.iterdir():
        assert stat.S_IMODE(part.stat().st_mode) == 0o600


@pytest.mark.usefixtures("simple_cost")
def test_a_ledger_that_disappeared_is_refused_and_not_begun_anew(path: Path) -> None:
    ledger = open_ledger(path)
    ledger.reserve(make_plan(), RUN, 1)
    path.unlink()
    for use in (ledger.spent, lambda: open_ledger(path)):
        with pytest.raises(ConfigError, match="is missing, but was here before"):
            use()
    with pytest.raises(ConfigError):
        ledger.reserve(make_plan(), RUN, 2)
    assert not path.exists()


@pytest.mark.usefixtures("simple_cost")
@pytest.mark.parametrize("content", [b"", b"not a database at all" * 500])
def test_a_ledger_that_was_overwritten_is_refused(path: Path, content: bytes) -> None:
    open_ledger(path).reserve(make_plan(), RUN, 1)
    path.write_bytes(content)
    with pytest.raises(ConfigError):
        open_ledger(path)
    assert path.read_bytes() == content


@pytest.mark.usefixtures("simple_cost")
def test_a_ledger_with_a_damaged_page_is_refused(path: Path) -> None:
    ledger = open_ledger(path, budget_epsilon=1000.0)
    for server_round in range(1, 30):
        ledger.reserve(make_plan(num_rounds=30), RUN, server_round)
    content = bytearray(path.read_bytes())
    content[4096 * 2 : 4096 * 3] = b"\xff" * 4096
    path.write_bytes(content)
    with pytest.raises(ConfigError):
        open_ledger(path)


@pytest.mark.usefixtures("simple_cost")
def test_an_older_copy_of_the_ledger_is_refused(path: Path, tmp_path: Path) -> None:
    ledger = open_ledger(path)
    ledger.reserve(make_plan(), RUN, 1)
    shutil.copy(path, tmp_path / "backup")
    ledger.reserve(make_plan(), RUN, 2)
    shutil.copy(tmp_path / "backup", path)
    with pytest.raises(ConfigError, match="older copy"):
        open_ledger(path)


@pytest.mark.usefixtures("simple_cost")
def test_a_copy_from_before_a_commit_is_refused(path: Path, tmp_path: Path) -> None:
    ledger = open_ledger(path)
    reservation = ledger.reserve(make_plan(), RUN, 1)
    shutil.copy(path, tmp_path / "backup")
    ledger.commit(reservation, UPDATE)
    shutil.copy(tmp_path / "backup", path)
    with pytest.raises(ConfigError, match="older copy"):
        open_ledger(path).reserve(make_plan(), RUN, 1)


def test_another_ledger_in_its_place_is_refused(path: Path, tmp_path: Path) -> None:
    open_ledger(path)
    open_ledger(tmp_path / "fresh")
    shutil.copy(tmp_path / "fresh", path)
    with pytest.raises(ConfigError, match="another ledger"):
        open_ledger(path)


def test_the_ledger_of_another_population_or_unit_is_refused(path: Path) -> None:
    open_ledger(path)
    with pytest.raises(ConfigError, match="the ledger of 'patients'"):
        open_ledger(path, population="customers")
    with pytest.raises(ConfigError, match="with unit patient"):
        open_ledger(path, unit=Unit.RECORD)


@pytest.mark.parametrize("content", ["", "{}", '{"identity": "x", "progress": "y"}', "[]"])
def test_a_damaged_stamp_is_refused(path: Path, content: str) -> None:
    open_ledger(path)
    path.with_name(path.name + ".stamp").write_text(content)
    with pytest.raises(ConfigError, match="damaged"):
        open_ledger(path)


def test_a_database_of_something_else_is_refused(path: Path) -> None:
    path.parent.mkdir()
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE notes (text TEXT)")
    connection.close()
    with pytest.raises(ConfigError):
        open_ledger(path)


@pytest.mark.usefixtures("simple_cost")
@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM spend",
        "UPDATE spend SET num_steps = 1",
        "UPDATE spend SET update_digest = NULL, committed_at = NULL",
        "INSERT INTO spend VALUES ('p', '1', 1, 0.0, 0.5, 1, 'now', NULL, NULL)",
    ],
)
def test_the_file_itself_refuses_to_take_a_spend_back(path: Path, statement: str) -> None:
    ledger = open_ledger(path)
    ledger.commit(ledger.reserve(make_plan(), RUN, 1), UPDATE)
    connection = sqlite3.connect(path)
    with pytest.raises(sqlite3.IntegrityError):
        connection.execute(statement)
    connection.close()
    assert ledger.spent().epsilon == 2.0


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"patients\.sqlite"):
        open_ledger(tmp_path / "file" / "patients.sqlite")


# Crashes, at every line that leaves something behind.


class Crashed(BaseException):
    """Stands for kill -9: nothing may catch it."""


@pytest.mark.usefixtures("simple_cost")
def test_a_crash_before_the_stamp_leaves_the_round_reserved(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = open_ledger(path)

    def crash(_self: LedgerFile) -> None:
        raise Crashed

    with monkeypatch.context() as patch:
        patch.setattr(LedgerFile, "_stamp", crash)
        with pytest.raises(Crashed):
            ledger.reserve(make_plan(), RUN, 1)
    assert open_ledger(path).spent().epsilon == 2.0
    open_ledger(path).reserve(make_plan(), RUN, 1)
    assert open_ledger(path).spent().epsilon == 2.0


@pytest.mark.usefixtures("simple_cost")
def test_a_crash_before_the_first_stamp_is_healed_at_the_next_start(path: Path) -> None:
    open_ledger(path)
    path.with_name(path.name + ".stamp").unlink()
    ledger = open_ledger(path)
    assert ledger.reserve(make_plan(), RUN, 1).epsilon_total == 2.0


def test_a_crash_that_left_an_empty_file_is_healed_at_the_next_start(path: Path) -> None:
    path.parent.mkdir()
    path.touch(mode=0o600)
    assert open_ledger(path).entries() == []


# A program that stands for an agent: it reserves rounds of a run and reports each when it is
# durable. The accountant is replaced, since importing it takes seconds.
AGENT = """
import sys
sys.path[:0] = [{tests!r}]
from pathlib import Path
from test_ledger import make_plan, open_ledger, simple_epsilon
from privacy.dp import calibrate
from privacy.errors import BudgetExceededError
calibrate.epsilon = simple_epsilon
ledger = open_ledger(Path({path!r}), budget_epsilon={budget})
print("ready", flush=True)
sys.stdin.readline()
for server_round in range(1, 1001):
    try:
        ledger.reserve(make_plan(num_rounds=1000), {run_id!r}, server_round)
    except BudgetExceededError:
        break
    print(server_round, flush=True)
"""


def start_agent(path: Path, run_id: str, budget: float) -> subprocess.Popen[str]:
    program = AGENT.format(
        tests=str(Path(__file__).parent), path=str(path), run_id=run_id, budget=budget
    )
    return subprocess.Popen(
        [sys.executable, "-c", program],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[3],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])},
    )


@pytest.mark.usefixtures("simple_cost")
def test_a_killed_process_leaves_every_round_that_it_was_granted(path: Path) -> None:
    with start_agent(path, RUN, budget=1e6) as agent:
        if agent.stdin is None or agent.stdout is None:
            pytest.fail("expected pipes")
        agent.stdin.write("\n")
        agent.stdin.flush()
        granted = 0
        for line in agent.stdout:
            if line.strip() != "ready":
                granted = int(line)
            if granted == 20:
                agent.send_signal(signal.SIGKILL)
                break
        granted += len(agent.stdout.readlines())
    entries = open_ledger(path, budget_epsilon=1e6).entries()
    # One more may have become durable before its word came out; none less.
    assert granted <= len(entries) <= granted + 1
    assert [entry.server_round for entry in entries] == list(range(1, len(entries) + 1))
    again = open_ledger(path, budget_epsilon=1e6)
    again.reserve(make_plan(num_rounds=1000), RUN, len(entries))
    assert len(again.entries()) == len(entries)


@pytest.mark.usefixtures("simple_cost")
def test_two_processes_at_once_do_not_spend_more_than_the_budget(path: Path) -> None:
    agents = [start_agent(path, run_id, budget=61.0) for run_id in ("1", "2")]
    granted = 0
    for agent in agents:
        if agent.stdout is None:
            pytest.fail("expected pipes")
        agent.stdout.readline()
    for agent in agents:
        if agent.stdin is not None:
            agent.stdin.write("\n")
            agent.stdin.flush()
    for agent in agents:
        output, _ = agent.communicate(timeout=50)
        granted += len(output.split())
        assert agent.returncode == 0
    ledger = open_ledger(path, budget_epsilon=61.0)
    assert granted == 30
    assert len(ledger.entries()) == 30
    assert ledger.spent().epsilon == 60.0
    stamp = json.loads(path.with_name(path.name + ".stamp").read_text())
    assert stamp["progress"] == 30


PLANS = [
    make_plan("first"),
    make_plan("second", noise_multiplier=2.0, steps_per_round=1),
    make_plan("third", num_rounds=1, steps_per_round=7),
]


class LedgerMachine(RuleBasedStateMachine):
    """The ledger against a dictionary, through restarts, crashes and changed budgets."""

    plans = st.sampled_from(PLANS)
    run_ids = st.sampled_from(["1", "2"])
    rounds = st.integers(0, 4)

    def __init__(self) -> None:
        super().__init__()
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(calibrate, "epsilon", simple_epsilon)
        self.folder = tempfile.TemporaryDirectory()
        self.path = Path(self.folder.name) / "ledger"
        self.budget = 20.0
        self.spent: dict[tuple[str, str, int], int] = {}
        self.committed: dict[tuple[str, str, int], str] = {}
        self.reservations: list[Reservation] = []
        self.ledger = self.open()

    def open(self) -> Ledger:
        """Start an agent anew."""
        return open_ledger(self.path, budget_epsilon=self.budget)

    def teardown(self) -> None:
        """Remove the folder."""
        self.patch.undo()
        self.folder.cleanup()

    def reservable(self, plan: RunPlan, run_id: str, server_round: int) -> bool:
        """Whether the rules grant this round."""
        key = (plan.digest, run_id, server_round)
        total = sum({**self.spent, key: plan.mechanism.steps_per_round}.values())
        in_range = 1 <= server_round <= plan.rounds.num_rounds
        return in_range and key not in self.committed and total <= self.budget

    @rule(plan=plans, run_id=run_ids, server_round=rounds)
    def reserve(self, plan: RunPlan, run_id: str, server_round: int) -> None:
        """Ask for a round."""
        if self.reservable(plan, run_id, server_round):
            self.reservations.append(self.ledger.reserve(plan, run_id, server_round))
            self.spent[plan.digest, run_id, server_round] = plan.mechanism.steps_per_round
        else:
            with pytest.raises((InstructionRefusedError, BudgetExceededError)):
                self.ledger.reserve(plan, run_id, server_round)

    @rule(plan=plans, run_id=run_ids, server_round=rounds, durable=st.booleans())
    def crash_while_reserving(
        self, plan: RunPlan, run_id: str, server_round: int, *, durable: bool
    ) -> None:
        """Die before or after the round is durable."""
        if not self.reservable(plan, run_id, server_round):
            return

        def crash(*_: object) -> None:
            raise Crashed

        key = (plan.digest, run_id, server_round)
        with self.patch.context() as patch:
            if durable:
                patch.setattr(LedgerFile, "_stamp", crash)
                self.spent[key] = plan.mechanism.steps_per_round
            else:
                patch.setattr(Ledger, "_reservation", crash)
            with pytest.raises(Crashed):
                self.ledger.reserve(plan, run_id, server_round)
        self.ledger = self.open()

    @precondition(lambda self: self.reservations)
    @rule(data=st.data(), update=st.sampled_from([UPDATE, OTHER_UPDATE]))
    def commit(self, data: st.DataObject, update: str) -> None:
        """Bind a reserved round to an update."""
        reservation = data.draw(st.sampled_from(self.reservations))
        key = (reservation.plan_digest, reservation.run_id, reservation.server_round)
        if self.committed.get(key, update) == update:
            self.ledger.commit(reservation, update)
            self.committed[key] = update
        else:
            with pytest.raises(ReplyRefusedError):
                self.ledger.commit(reservation, update)

    @rule()
    def restart(self) -> None:
        """Start the agent anew."""
        self.ledger = self.open()

    @rule(budget=st.sampled_from([1.0, 5.0, 20.0, 30.0]))
    def change_the_budget(self, budget: float) -> None:
        """Edit the site's settings."""
        self.budget = budget
        self.ledger = self.open()

    @rule(plan=plans)
    def check_a_plan(self, plan: RunPlan) -> None:
        """Approve a plan or not."""
        run = (plan.digest, plan.run_id)
        others = sum(cost for key, cost in self.spent.items() if key[:2] != run)
        whole = plan.mechanism.steps_per_round * plan.rounds.num_rounds
        if others + whole <= self.budget:
            self.ledger.check_plan(plan)
        else:
            with pytest.raises(BudgetExceededError):
                self.ledger.check_plan(plan)

    @invariant()
    def the_ledger_holds_exactly_what_was_granted(self) -> None:
        """Nothing lost, nothing added, nothing twice."""
        entries = self.ledger.entries()
        assert {entry.key: entry.event.num_steps for entry in entries} == self.spent
        updates = {e.key: e.update_digest for e in entries if e.update_digest is not None}
        assert updates == self.committed
        assert self.ledger.spent().epsilon == sum(self.spent.values())


LedgerMachine.TestCase.settings = settings(
    max_examples=20,
    stateful_step_count=15,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)


class TestLedgerMachine(LedgerMachine.TestCase):  # type: ignore[misc,valid-type]
    """Hypothesis plays the agent, the operator and the power cut."""
