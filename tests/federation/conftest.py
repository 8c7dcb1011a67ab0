"""Fixtures: a federation for one test, or one that all tests of a module share."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from client import disclosure, exposed
from client.cli import main
from privacy.plan import RunPlan
from tests.federation.after_run import Attacker, Ranker
from tests.federation.world import PATIENCE_S, Federation, Site, make_plan, quiet_plan


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What a test here waits for has limits of its own, which say more than the limit of all."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.timeout(4 * PATIENCE_S))


@pytest.fixture(scope="package", autouse=True)
def one_core() -> Iterator[None]:
    """Keep coordinator and sites, all threads of one interpreter, on one core.

    On several they run no faster, since one holds the interpreter's lock at a time, and on a
    virtual machine they take up to four times as long: each handing over wakes another core.
    """
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    allowed = os.sched_getaffinity(0)
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    os.sched_setaffinity(0, {sorted(allowed)[worker % len(allowed)]})
    yield
    os.sched_setaffinity(0, allowed)


@pytest.fixture
def federation(tmp_path: Path) -> Iterator[Federation]:
    """A coordinator that serves, and no sites yet."""
    with Federation(tmp_path).serving() as made:
        yield made


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Federation]:
    """A coordinator with the connected sites a, b and c, for all tests of a module.

    A test may make their trainers lie; `run` makes them honest again.
    """
    with Federation(tmp_path_factory.mktemp("federation")).serving() as made:
        for number, name in enumerate("abc"):
            made.enrol(name, float(number + 1)).start()
        yield made


@pytest.fixture
def new_plan() -> Callable[..., RunPlan]:
    """Makes a small valid plan."""
    return make_plan


@pytest.fixture
def plan(request: pytest.FixtureRequest) -> RunPlan:
    """A plan of a, b and c with one round, whose name is the test's, that costs little."""
    return quiet_plan(request.node.name)


@pytest.fixture
def site(world: Federation) -> Site:
    """Site a of a module's `world`."""
    return world.sites["a"]


@pytest.fixture
def attacker() -> Attacker:
    """Stands in for the room that attacks with records."""
    return Attacker()


@pytest.fixture
def ranker() -> Ranker:
    """Stands in for the room that ranks secrets."""
    return Ranker()


@pytest.fixture
def command(
    site: Site, attacker: Attacker, ranker: Ranker, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., int]:
    """`cloister-site test-privacy PLAN ...` at the site, with stand-ins for both closed rooms."""

    def make(_: object, program: str, *, reads_records: bool = True) -> object:
        # Who ranks secrets is given no record.
        assert reads_records == (program == "client.leakage")
        return attacker if reads_records else ranker

    monkeypatch.setattr(disclosure, "make_worker", make)
    monkeypatch.setattr(exposed, "make_worker", make)
    home = str(site.home.folder)
    return lambda plan, *words: main(["test-privacy", plan.digest, "--home", home, *words])
