"""Fixtures: a federation for one test, or one that all tests of a module share."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from privacy.plan import RunPlan
from tests.federation.world import Federation, make_plan, quiet_plan


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
