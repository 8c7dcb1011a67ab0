"""Tracers at a site: pinned before training, looked for with the same key, told for nothing."""

import json
import stat
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest

from client import disclosure, exposed
from client.agent import Agent
from client.cli import main
from client.disclosure import AdapterTest
from client.exposed import KIND, ExposureTest
from client.framing import unframe
from client.journal import Journal
from client.link import Link
from client.tracers import digest, make_tracers
from privacy.audit.entry import Entry, Event, parse_entry
from privacy.audit.verify import verify_log
from privacy.dp import exposure
from privacy.errors import ConfigError, FederationError, ReplyRefusedError, TransportError
from privacy.plan import ExposureConfig, RunPlan
from tests.federation.test_disclosure import Attacker
from tests.federation.world import Federation, Site, quiet_plan
from tests.privacy.evidence import runs_on

RANKS = [2, 600, 1024]


class Ranker:
    """Stands in for the room that ranks; what it answers may be spoilt."""

    def __init__(self) -> None:
        self.headers: list[dict[str, Any]] = []
        self.answer: object = {"ranks": RANKS}
        self.before: Callable[[], None] = lambda: None

    def call(
        self,
        request: bytes,
        *,
        timeout_s: float,
        on_progress: Callable[[Mapping[str, object]], None],
    ) -> bytes:
        """Answer as `client.exposure` would."""
        self.headers.append(unframe(request)[0])
        self.before()
        return json.dumps(self.answer).encode()

    def stop(self) -> None:
        """Nothing is to be stopped."""


# Where a release is cut off: what is not done any more, and how far it was.
CUTS: dict[str, tuple[type, str]] = {
    "before the secrets are ranked": (Ranker, "call"),
    "ranked, kept nowhere": (Journal, "put"),
    "kept, not said": (Journal, "record"),
    "all but told": (Journal, "mark_sent"),
}


def traced_plan(name: str = "", num_rounds: int = 1) -> RunPlan:
    return quiet_plan(
        f"traced {name}", "ab", exposure=ExposureConfig(tracers=3), num_rounds=num_rounds
    )


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Federation]:
    """A federation after one run with tracers and one without, with its agents stopped."""
    with Federation(tmp_path_factory.mktemp("traced")).serving() as made:
        for number, name in enumerate("ab"):
            made.enrol(name, float(number + 1)).start()
        for name in ("", *CUTS):
            assert made.run(traced_plan(name)).state == "finished"
        assert made.run(quiet_plan("plain", "ab")).state == "finished"
        for site in made.sites.values():
            site.stop()
        yield made


@pytest.fixture
def site(world: Federation) -> Site:
    return world.sites["a"]


@pytest.fixture
def ranker() -> Ranker:
    return Ranker()


def told(site: Site, event: Event, plan: RunPlan | None = None) -> list[Entry]:
    journal = site.home.journal()
    try:
        entries = [parse_entry(line) for line, _ in journal.lines()]
    finally:
        journal.close()
    digest = (plan or traced_plan()).digest
    return [e for e in entries if e.event is event and e.subjects.get("plan") == digest]


def release(site: Site, ranker: Ranker, plan: RunPlan | None = None) -> list[int]:
    """What the command does."""
    with (
        AdapterTest(site.home, (plan or traced_plan()).digest) as test,
        ExposureTest(test, ranker) as traced,  # type: ignore[arg-type]
    ):
        link = Link(site.home.channel())
        try:
            return traced.release(link, lambda _: None)
        finally:
            link.close()


# -- in training ---------------------------------------------------------------------------------


def test_each_site_pins_its_own_tracers_before_it_spends_anything(world: Federation) -> None:
    pinned = set()
    for name, site in world.sites.items():
        (added,) = told(site, Event.TRACERS_ADDED)
        (reserved,) = told(site, Event.BUDGET_RESERVED)
        assert added.sequence < reserved.sequence
        assert added.predicate["num_tracers"] == 3
        path = site.home.exposure_key_path
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        tracers = make_tracers(path.read_bytes(), traced_plan(), name)
        assert added.subjects["tracers"] == digest(tracers)
        pinned.add(added.subjects["tracers"])
    assert len(pinned) == 2
    verify_log(world.config.log_folder)


def test_a_run_without_tracers_pins_none(site: Site) -> None:
    assert told(site, Event.TRACERS_ADDED, quiet_plan("plain", "ab")) == []


def test_a_site_that_restarts_goes_on_with_the_same_tracers(site: Site) -> None:
    key = site.home.exposure_key_path.read_bytes()
    agent = Agent(site.home, lambda _: None, site.trainer)  # type: ignore[arg-type]
    agent._add_tracers(traced_plan())
    assert site.home.exposure_key_path.read_bytes() == key
    assert len(told(site, Event.TRACERS_ADDED)) == 1


@pytest.mark.parametrize("what", ["lost", "another"])
def test_a_key_that_is_no_longer_the_same_trains_nothing(site: Site, what: str) -> None:
    """With another one a later look would find nothing, and every adapter would look safe."""
    path = site.home.exposure_key_path
    key = path.read_bytes()
    spent = site.home.ledger().entries()
    try:
        if what == "lost":
            path.unlink()
        else:
            path.write_bytes(bytes(32))
        agent = Agent(site.home, lambda _: None, site.trainer)  # type: ignore[arg-type]
        with pytest.raises(ReplyRefusedError) as refused:
            agent._add_tracers(traced_plan())
        assert refused.value.rule == "tracers-changed"
        # A lost one is never made anew behind the first round.
        assert path.exists() == (what == "another")
    finally:
        path.write_bytes(key)
    assert site.home.ledger().entries() == spent
    assert len(told(site, Event.TRACERS_ADDED)) == 1


def test_a_round_with_another_key_is_answered_with_the_rule_and_spends_nothing(
    world: Federation,
) -> None:
    site, plan = world.sites["b"], traced_plan("twice", num_rounds=2)
    path = site.home.exposure_key_path
    key = path.read_bytes()

    def change(server_round: int) -> None:
        if server_round == 1:
            path.write_bytes(bytes(32))

    site.trainer.before = change
    for other in world.sites.values():
        other.start()
    try:
        world.run(plan)
    finally:
        for other in world.sites.values():
            other.stop()
        path.write_bytes(key)
    assert site.rules()[-1] == "tracers-changed"
    assert [e.predicate["server_round"] for e in told(site, Event.BUDGET_RESERVED, plan)] == [1]
    verify_log(world.config.log_folder)


def test_the_training_process_gets_the_key_only_where_the_plan_has_tracers(site: Site) -> None:
    agent = Agent(site.home, lambda _: None, site.trainer)  # type: ignore[arg-type]
    key = site.home.exposure_key_path.read_bytes()
    assert agent._exposure_key(traced_plan()) == {"exposure_key": key.hex()}
    assert agent._exposure_key(quiet_plan("plain", "ab")) == {}


# -- when they are looked for --------------------------------------------------------------------


def test_what_is_measured_at_home_stays_there_and_costs_nothing(
    site: Site, ranker: Ranker
) -> None:
    spent = site.home.ledger().entries()
    with (
        AdapterTest(site.home, traced_plan().digest) as test,
        ExposureTest(test, ranker) as traced,  # type: ignore[arg-type]
    ):
        assert traced.num_tracers == 3
        assert traced.measure(lambda _: None) == RANKS
    path = site.home.exposure_path
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    kept = json.loads(path.read_text())
    assert kept["ranks"] == RANKS
    assert kept["p_value"] == exposure.summarise(RANKS).p_value
    assert kept["adapter"] == told(site, Event.EVALUATED)[0].subjects["adapter"]
    assert site.home.ledger().entries() == spent
    assert told(site, Event.EXPOSURE_MEASURED) == []
    # The room gets no key that has a part in records.
    assert set(ranker.headers[0]) == {
        "site_config", "site_config_digest", "plan", "exposure_key",
    }  # fmt: skip


class Cut(Exception):  # noqa: N818  no error: the power is gone
    """The machine stops here."""


def cut(*_: object, **__: object) -> None:
    raise Cut


@pytest.mark.parametrize("point", CUTS)
def test_a_release_that_was_cut_off_goes_on_and_says_the_same_ranks_once(
    world: Federation,
    site: Site,
    ranker: Ranker,
    monkeypatch: pytest.MonkeyPatch,
    point: str,
) -> None:
    plan, spent = traced_plan(point), site.home.ledger().entries()
    with monkeypatch.context() as patched:
        patched.setattr(*CUTS[point], cut)
        with pytest.raises(Cut):
            release(site, ranker, plan)
    calls = len(ranker.headers)
    assert release(site, ranker, plan) == RANKS
    if point in ("kept, not said", "all but told"):
        assert len(ranker.headers) == calls
    # Whatever a second look would give: the ranks that were kept are the ranks.
    ranker.answer = {"ranks": [1, 1, 1]}
    assert release(site, ranker, plan) == RANKS
    (entry,) = told(site, Event.EXPOSURE_MEASURED, plan)
    assert entry.predicate["ranks"] == RANKS
    (added,) = told(site, Event.TRACERS_ADDED, plan)
    assert entry.subjects["tracers"] == added.subjects["tracers"]
    assert site.home.ledger().entries() == spent
    verify_log(world.config.log_folder)
    journal = site.home.journal()
    (sent,) = [s for s in journal.sent() if (s.kind, s.plan_digest) == (KIND, plan.digest)]
    journal.close()
    assert sent.sent_at is not None


def test_without_the_coordinator_nothing_is_looked_for(
    site: Site, ranker: Ranker, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise TransportError("gone")

    journal = site.home.journal()
    journal.record(Event.AGENT_STARTED, **runs_on("0"))
    journal.close()
    with monkeypatch.context() as patched:
        patched.setattr(Link, "append", refuse)
        with pytest.raises(TransportError):
            release(site, ranker)
    assert ranker.headers == []
    release(site, ranker)


def test_another_key_than_in_the_run_looks_for_nothing(site: Site, ranker: Ranker) -> None:
    path = site.home.exposure_key_path
    key = path.read_bytes()
    try:
        for content, message in ((bytes(32), "as it was in the run"), (b"short", "got 5")):
            path.write_bytes(content)
            with (
                AdapterTest(site.home, traced_plan().digest) as test,
                ExposureTest(test, ranker) as traced,  # type: ignore[arg-type]
                pytest.raises(ConfigError, match=message),
            ):
                traced.measure(lambda _: None)
    finally:
        path.write_bytes(key)
    assert ranker.headers == []


@pytest.mark.parametrize(
    "answer",
    [
        {"ranks": [1, 2]},
        {"ranks": [0, 1, 2]},
        {"ranks": [1, 2, 1025]},
        {"ranks": "Mr Smith"},
        {"note": "Mr Smith"},
        ["Mr Smith"],
    ],
)
def test_what_are_no_ranks_is_neither_kept_nor_repeated(
    site: Site, ranker: Ranker, answer: object
) -> None:
    ranker.answer = answer
    site.home.exposure_path.unlink(missing_ok=True)
    with (
        AdapterTest(site.home, traced_plan().digest) as test,
        ExposureTest(test, ranker) as traced,  # type: ignore[arg-type]
        pytest.raises(FederationError, match="ranks") as caught,
    ):
        traced.measure(lambda _: None)
    assert "Smith" not in str(caught.value)
    assert not site.home.exposure_path.exists()


# -- the command -------------------------------------------------------------------------------


@pytest.fixture
def command(site: Site, ranker: Ranker, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """`cloister-site test-privacy RUN` at the site, with stand-ins for both closed rooms."""
    rooms: list[tuple[object, ...]] = []

    def make(_: object, program: str, *, reads_records: bool = True) -> object:
        rooms.append((program, reads_records))
        return ranker if program == "client.exposure" else Attacker()

    monkeypatch.setattr(disclosure, "make_worker", make)
    monkeypatch.setattr(exposed, "make_worker", make)

    def run(plan: RunPlan, *words: str) -> int:
        status = main(["test-privacy", plan.digest, "--home", str(site.home.folder), *words])
        assert ("client.exposure", False) in rooms
        return status

    return run


def test_the_command_shows_exposure_beside_membership(
    command: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(traced_plan()) == 0
    said = capsys.readouterr()
    assert "400 members, 100 others" in said.out
    assert "exposure of 3 tracers' secrets among 1,024 each (here, exposure.json)" in said.out
    found = exposure.summarise(RANKS)
    assert f"mean {found.mean:.2f} bits, largest 9.00 of 10, p-value" in said.out
    assert "epsilon allows 4.3" in said.out
    assert "About 1.4 bits on average are chance" in said.err


def test_a_run_without_tracers_is_not_measured_and_the_command_says_so(
    command: Callable[..., int], ranker: Ranker, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = quiet_plan("plain", "ab")
    assert command(plain, "--json") == 0
    said = capsys.readouterr()
    assert json.loads(said.out)["exposure"] is None
    assert "were added in this run: exposure was not measured" in said.err
    assert command(plain, "--exposure-only") != 0
    assert "were added in this run: exposure was not measured" in capsys.readouterr().err
    assert ranker.headers == []


def test_exposure_is_released_where_no_budget_is_left(
    site: Site, command: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    spent = site.home.ledger().entries()
    known = len(told(site, Event.EXPOSURE_MEASURED))
    assert command(traced_plan(), "--release", "--exposure-only") != 0
    assert "nothing released" in capsys.readouterr().err
    assert len(told(site, Event.EXPOSURE_MEASURED)) == known
    assert command(traced_plan(), "--release", "--exposure-only", "--yes", "--json") == 0
    shown = json.loads(capsys.readouterr().out)
    assert set(shown) == {"exposure"}
    assert shown["exposure"]["ranks"] == RANKS
    # Beside noised counts that no budget pays for it is told too.
    assert command(traced_plan(), "--release", "--yes", "--epsilon", "50") != 0
    said = capsys.readouterr()
    assert "exposure of 3 tracers' secrets among 1,024 each (released, as they are)" in said.out
    assert "budget" in said.err
    assert site.home.ledger().entries() == spent
    (entry,) = told(site, Event.EXPOSURE_MEASURED)
    assert entry.predicate["ranks"] == RANKS


def test_a_release_of_both_tells_both(
    world: Federation, site: Site, command: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(traced_plan(), "--release", "--yes", "--epsilon", "0.5", "--json") == 0
    said = capsys.readouterr()
    shown = json.loads(said.out)
    assert shown["exposure"]["ranks"] == RANKS
    assert shown["counts"]
    assert "the ranks of 3 tracers' secrets, which cost nothing" in said.err
    assert len(told(site, Event.ADAPTER_TESTED)) == 1
    assert len(told(site, Event.EXPOSURE_MEASURED)) == 1
    verify_log(world.config.log_folder)
