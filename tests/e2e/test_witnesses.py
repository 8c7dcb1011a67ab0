"""Two histories of one log, told to two sites by real processes, and how each of them notices.

The coordinator's folder is copied and brought back later, as a dishonest operator would do it, or
an honest one who restores an old copy.
"""

import json
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from client.home import SiteHome
from server.config import load
from server.control import control
from tests.e2e.conftest import Enrolled
from tests.e2e.consortium import READY_S, Consortium


def until(done: Callable[[], bool]) -> None:
    """Wait for something that no process tells of."""
    pause = threading.Event()
    deadline = time.monotonic() + READY_S
    while not done():
        assert time.monotonic() < deadline, "it did not come to that"
        pause.wait(0.1)


def all_cosigned(made: Consortium) -> bool:
    """Whether the quorum has cosigned all of the log."""
    found = control(load(made.home), "Status")
    assert found is not None
    return bool(found["witnesses"]["cosigned_entries"] == found["log_entries"])


def has_cosigned(made: Consortium, site: str, num_entries: int) -> bool:
    """Whether a site has cosigned so many entries."""
    memory = SiteHome(made.site(site)).witness_folder / "memory.json"
    return bool(json.loads(memory.read_text())["size"] == num_entries)


def stop(made: Consortium, *sites: str) -> None:
    for name in sites:
        assert made.type_site(name, "stop").status == 0
        made.agents[name].wait()
    assert made.type_coordinator("stop").status == 0
    assert made.coordinator is not None
    made.coordinator.wait()


def test_two_sites_that_are_told_two_histories_catch_it(
    enrolled: Enrolled, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    # A name of its own: the path of a socket in it may have 107 bytes.
    made = Consortium.copy(enrolled.consortium, tmp_path_factory.mktemp("fork") / "ed")
    try:
        made.start()
        until(lambda: all_cosigned(made))
        policy = tmp_path / "policy"
        shutil.copy(made.log / "policy", policy)
        keys = shutil.copy(made.log / "keys.json", tmp_path / "keys.json")
        stop(made, *made.agents)
        num_entries = len(made.entries())
        verified = made.type_audit("verify", made.log, "--policy", policy)
        assert verified.status == 0, verified.talk
        assert sorted(verified.result["cosigned"]) == ["bank", "clinic"]
        shutil.copytree(made.home, tmp_path / "kept")

        # What the clinic is told.
        made.start_coordinator()
        made.start_site("clinic")
        until(lambda: has_cosigned(made, "clinic", num_entries + 2))
        stop(made, "clinic")
        shutil.move(made.home, tmp_path / "first")
        first = tmp_path / "first" / "log"

        # What the bank is told: the same coordinator, from the copy on.
        shutil.copytree(tmp_path / "kept", made.home)
        made.start_coordinator()
        made.start_site("bank")
        until(lambda: has_cosigned(made, "bank", num_entries + 2))

        # The clinic meets the other history, and ends.
        agent = made.start_site("clinic")
        assert agent.wait(READY_S) == 1
        talk = (made.site("clinic") / "agent.log").read_text()
        assert "signed two different logs" in talk
        assert "takes no work of it" in talk
        assert made.agents["bank"].status is None
        folder = made.site("clinic") / "witness" / "refused-1"
        for copies in (
            (first, made.log),
            (made.log, folder / "seen.checkpoint"),
            (folder / "seen.checkpoint", folder / "refused.checkpoint"),
        ):
            found = made.type_audit("compare", *copies, "--keys", keys)
            assert found.status == 1
            assert found.result["fork"] is True, found
        for log in (first, made.log):
            found = made.type_audit("verify", log, "--keys", keys, "--policy", policy)
            assert found.status == 1
            assert "is not cosigned" in found.result["error"]
        # At its next start it asks nobody, until a person has decided.
        again = made.start_site("clinic")
        assert again.wait(READY_S) == 1
        shown = made.type_site("clinic", "witness")
        assert shown.result["stopped"]["folder"] == "refused-1"
    finally:
        made.end()
