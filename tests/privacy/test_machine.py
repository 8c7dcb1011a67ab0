"""What a party says that it runs on: closed forms, and nothing of a host."""

import os
import platform
import socket
import subprocess
import sys
from importlib import metadata
from typing import Any

import pytest

from privacy import machine
from privacy.audit.entry import FORMS, Event
from privacy.machine import PACKAGES, is_packages, runs_on

STARTS = (Event.AGENT_STARTED, Event.COORDINATOR_STARTED)


@pytest.mark.parametrize("event", STARTS)
@pytest.mark.parametrize("device", ["cpu", "cuda", "cuda:7"])
def test_what_is_said_fits_the_entry(event: Event, device: str) -> None:
    said = runs_on(device)
    assert said.keys() == FORMS[event].fields.keys()
    assert all(kind.fits(said[name]) for name, kind in FORMS[event].fields.items())
    assert said["device"] == device[:4].rstrip(":")


def test_versions_are_those_that_are_installed() -> None:
    said = runs_on()
    found = dict(said["packages"])
    assert {"flwr", "torch", "transformers", "presidio-analyzer"} <= set(found) <= set(PACKAGES)
    assert all(metadata.version(name) == version for name, version in found.items())
    assert said["python"] == platform.python_version()
    assert said["num_cores"] == len(os.sched_getaffinity(0))


def test_nothing_that_computes_is_imported_to_say_so() -> None:
    code = (
        "import sys; from privacy.machine import runs_on; runs_on();"
        "print(sorted({'torch', 'transformers', 'flwr', 'spacy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_name_of_this_host_is_not_among_it() -> None:
    assert socket.gethostname() not in repr(runs_on())


@pytest.mark.parametrize(
    "name", ["", "Jane-Roe", "1.0 of Jane", "MRN-0012345678", "1" * 65, "1.0\n"]
)
def test_a_build_that_somebody_named_freely_is_not_repeated_and_stops_nobody(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(machine, "version", lambda _: name)
    monkeypatch.setattr(platform, "machine", lambda: name)
    said = runs_on()
    assert {version for _, version in said["packages"]} == {"unknown"}
    assert said["processor"] == "other"


@pytest.mark.parametrize(
    ("found", "said"),
    [
        ("2.13.0+cpu", "2.13.0+cpu"),
        ("2.13.0+cu128", "2.13.0+cu128"),
        ("5.0.0rc1", "5.0.0rc1"),
        ("2.4.0+st-marys-radiology.jane-roe", "2.4.0"),
        ("2.4.0+jane", "2.4.0"),
    ],
)
def test_of_a_build_only_what_is_published_is_said(
    monkeypatch: pytest.MonkeyPatch, found: str, said: str
) -> None:
    monkeypatch.setattr(machine, "version", lambda _: found)
    assert {version for _, version in runs_on()["packages"]} == {said}


def test_a_package_that_is_not_installed_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def version(name: str) -> str:
        if name == "spacy":
            raise metadata.PackageNotFoundError
        return "1"

    monkeypatch.setattr(machine, "version", version)
    assert [name for name, _ in runs_on()["packages"]] == [p for p in PACKAGES if p != "spacy"]


@pytest.mark.parametrize(
    "value",
    [
        [],
        [["torch", ""]],
        [["torch"]],
        [["torch", "1", "2"]],
        [["jane-roe", "1"]],
        [["torch", "2"], ["flwr", "1"]],
        [["torch", "1"], ["torch", "2"]],
        [["torch", 2]],
        {"torch": "2"},
        "torch",
        [[["torch"], "1"]],
        [["torch", "Jane-Roe"]],
        [["torch", "2.4.0+st-marys"]],
    ],
)
def test_packages_of_another_form_are_none(value: Any) -> None:  # noqa: ANN401  any JSON
    assert not is_packages(value)
