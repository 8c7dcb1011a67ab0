"""One enrolled consortium for all tests, and one run of it that many of them look at.

The run is made once, by the commands, in a network without an outside, with a relay before each
site that keeps every byte, and with words planted in every record that must never leave a site.
"""

import contextlib
import importlib
import json
import os
import secrets
import signal
import string
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from tokenizers import Tokenizer

from deploy.demo.run import Party, conclude
from model.base import nano_folder
from tests.e2e import island, planting, probe, relay
from tests.e2e.consortium import (
    FEDERATION,
    NUM_UNITS,
    PATIENCE,
    SITES,
    Answer,
    Consortium,
    Process,
    environment,
    free_port,
    rows,
    write_rows,
)
from tests.e2e.demos import Stops, stop_two_demos

SITE_BUDGET = 40.0
# All that a plan may add at sites of 40 units.
NUM_TRACERS = 2
_SYSTEM_TMP = Path("/tmp")  # noqa: S108  looked at, never written to


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Every test here starts processes, or looks at what they did."""
    for item in items:
        if "/e2e/" in str(item.path):
            item.add_marker(pytest.mark.slow)
            item.add_marker(pytest.mark.timeout(480 * PATIENCE))


@dataclass(frozen=True, kw_only=True)
class Enrolled:
    """A consortium whose sites are enrolled and whose processes have not been started.

    Attributes:
      consortium: It.
      answers: What each command answered, by command, and by `command site`.
    """

    consortium: Consortium
    answers: Mapping[str, Answer]


@pytest.fixture(scope="session")
def enrolled(tmp_path_factory: pytest.TempPathFactory) -> Enrolled:
    """Init, approval and enrolment, by the commands."""
    made = Consortium(root=tmp_path_factory.mktemp("enrolled"), port=free_port())
    address = f"127.0.0.1:{made.port}"
    answers: dict[str, Answer] = {}

    def init(name: str) -> Answer:
        write_rows(made.data(name), rows(SITES.index(name)))
        return made.call_site(
            name, "init", "--name", name, "--federation", FEDERATION, "--coordinator", address,
            "--data", made.data(name), "--units", str(NUM_UNITS),
            "--epsilon", str(SITE_BUDGET), "--delta", "1e-3",
        )  # fmt: skip

    with ThreadPoolExecutor(max_workers=2) as pool:
        created = pool.submit(
            made.call_coordinator, "init", "--name", FEDERATION, "--address", address,
            "--listen", address,
        )  # fmt: skip
        for name, answer in zip(SITES, pool.map(init, SITES), strict=True):
            answers[f"init {name}"] = answer
        answers["init"] = created.result()
        for name in SITES:
            asked = answers[f"init {name}"].result
            answers[f"approve {name}"] = made.call_coordinator(
                "approve", asked["request"], "--fingerprint", asked["fingerprint"]
            )

        def enrol(name: str) -> Answer:
            kit = answers[f"approve {name}"].result["kit"]
            fingerprint = answers["init"].result["fingerprint"]
            return made.call_site(name, "enrol", kit, "--fingerprint", fingerprint)

        for name, answer in zip(SITES, pool.map(enrol, SITES), strict=True):
            answers[f"enrol {name}"] = answer
    for name in SITES:
        path = made.site(name) / "site.toml"
        text = path.read_text().replace("alone = true", "alone = false")
        path.write_text(text.replace("\nevery = 2\n", "\nevery = 1\n"))
    return Enrolled(consortium=made, answers=answers)


@dataclass(frozen=True, kw_only=True)
class Canaries:
    """Words that stand in every record of both sites, and nowhere else in the world.

    Attributes:
      said: In the prompt; no recogniser takes it for personal data, so it is trained on.
      email: In the prompt; masked.
      phone: In the prompt; masked.
      completed: In the completion.
      labelled: In a label.
      named: In the identifier.
      source: In the name of the source.
    """

    said: str = field(default_factory=lambda: _word("said"))
    email: str = field(default_factory=lambda: f"{_word('mail')}@{_word('host')}.example")
    phone: str = field(default_factory=lambda: f"+1 415 555 {secrets.randbelow(9000) + 1000}")
    completed: str = field(default_factory=lambda: _word("done"))
    labelled: str = field(default_factory=lambda: _word("labelled"))
    named: str = field(default_factory=lambda: _word("named"))
    source: str = field(default_factory=lambda: _word("source"))

    def plant(self, records: list[dict[str, str]]) -> list[dict[str, str]]:
        """The records with the words in them; first in the prompt, whose end may be cut off."""
        planted = []
        for number, record in enumerate(records):
            changed = dict(record)
            changed["prompt"] = f"{self.said} {self.email} {self.phone} {record['prompt']}"
            changed["completion"] = f"{self.completed} {record['completion']}"
            changed["id"] = f"{self.named}-{number}"
            changed["source"] = self.source
            if number % 6 == 0:
                changed["label"] = f"{self.labelled} ward"
            planted.append(changed)
        return planted

    def needles(self) -> dict[str, bytes]:
        """Every word in every form that a file or a message could hold it in."""
        words = {name: getattr(self, name) for name in self.__dataclass_fields__}
        words["email's host"] = self.email.partition("@")[2]
        words["phone's digits"] = "".join(filter(str.isdigit, self.phone))
        return {
            f"{name}, {form}": needle
            for name, word in words.items()
            for form, needle in probe.disguises(word).items()
        }


def _word(start: str) -> str:
    return start + "".join(secrets.choice(string.ascii_lowercase) for _ in range(14))


@dataclass(frozen=True, kw_only=True)
class Story:
    """A whole run, and what was seen of it on the way.

    Attributes:
      consortium: Where it happened; its processes run on, for other tests to break.
      canaries: The words in its records.
      planted: The values of every type in the records of each site.
      needles: All of these in every form, as text and as token ids; the names hold the seed.
      answers: What the commands answered.
      sockets: TCP and UDP sockets by process: `coordinator`, each site, and `clinic ClientApp`.
      networks: Which network each of these processes lived in, as the kernel names it.
      packets: What tried to leave loopback, None where no such network could be made.
      leaked: Files outside the folder, in the system's temporary one, that hold a planted word.
      inside: What each process held in the first round: its arguments, environment, and files in
        folders of its own.
    """

    consortium: Consortium
    canaries: Canaries
    planted: Mapping[str, list[planting.Planted]]
    needles: Mapping[str, bytes]
    answers: Mapping[str, Answer]
    sockets: Mapping[str, list[probe.Socket]]
    networks: Mapping[str, str]
    packets: list[str] | None
    leaked: list[tuple[Path, str]]
    inside: Mapping[str, bytes]

    def recorded(self, site: str, layer: str, direction: str) -> dict[str, bytes]:
        """What a relay kept, a connection at a time: `sealed` or `opened`, `up` or `down`."""
        folder = self.consortium.root / "relay" / site / layer
        return {path.name: path.read_bytes() for path in sorted(folder.glob(f"*.{direction}"))}


@pytest.fixture(scope="session")
def demo_stops(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Future[Stops]]:
    """Two demos, one after the other and beside everything else: most of their time is waiting."""
    with ThreadPoolExecutor(max_workers=1) as pool:
        yield pool.submit(stop_two_demos, tmp_path_factory.mktemp("demos"))


@pytest.fixture(scope="session")
def story(
    enrolled: Enrolled,
    demo_stops: Future[Stops],  # it begins now
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Story]:
    """One run from `start` to the report, by the commands; its processes go on until the end."""
    root = tmp_path_factory.mktemp("story")
    begun = time.time()
    canaries = Canaries()
    seed = planting.draw_seed()
    planted = {name: planting.draw(seed + index) for index, name in enumerate(SITES)}
    needles = _needles(canaries, planted, seed)
    with contextlib.ExitStack() as ending:
        outside = ending.enter_context(_no_outside(root / "outside"))
        made = Consortium.copy(enrolled.consortium, root)
        made.prefix = outside.prefix if outside else ()
        for index, name in enumerate(SITES):
            made.set_in_site(name, "min_sites", 1)
            write_rows(made.data(name), canaries.plant(planting.into(rows(index), planted[name])))
            ending.callback(_relay(made, name).end)
        ending.callback(made.end)
        made.start()
        run = made.spawn(
            "cloister-coordinator", "run",
            made.write_plan("story", languages=list(planting.LANGUAGES), tracers=NUM_TRACERS),
            "--home", made.home,
            log=root / "run.log",
        )  # fmt: skip
        ending.callback(run.end)
        # Other tests need torch here, which takes seconds; a core is idle until the plan is made.
        importlib.import_module("model.adapter")
        answers = {f"approve-plan {name}": answer for name, answer in made.approve().items()}
        sockets, networks, inside = _look(made)
        answers["run"] = Answer(
            status=run.wait(120 * PATIENCE),
            result=run.told[-1] if run.told else None,
            talk=(root / "run.log").read_text(),
        )
        answers |= _ask(made)
        parties = [
            Party(
                name=name,
                data=made.data(name),
                unit="record",
                num_units=NUM_UNITS,
                home=made.site(name),
            )
            for name in SITES
        ]
        # What the demo does with a finished run: verify and report by the commands, summary.json.
        conclude(root, made.home, parties, answers["run"].result)
        answers["verify"] = made.type_audit("verify", root / "log")
        yield Story(
            consortium=made,
            canaries=canaries,
            planted=planted,
            needles=needles,
            answers=answers,
            sockets=sockets,
            networks=networks,
            packets=outside.packets() if outside else None,
            leaked=_leaks(begun, _unlike_others(canaries, planted), (root.parent,)),
            inside=inside,
        )


def _needles(
    canaries: Canaries, planted: Mapping[str, list[planting.Planted]], seed: int
) -> dict[str, bytes]:
    """Everything planted in every form; the name of each says how to draw it again."""
    tokenizer = Tokenizer.from_file(str(nano_folder() / "tokenizer.json"))
    ids = tokenizer.encode(f" {canaries.said}", add_special_tokens=False).ids
    # The tokens at both ends depend on the neighbours.
    assert len(ids) >= 6
    found = canaries.needles() | probe.token_bytes(ids[1:-1])
    for values in planted.values():
        for value in values:
            found |= {
                f"{name} ({planting.SEED_VARIABLE}={seed})": needle
                for name, needle in value.needles(tokenizer).items()
            }
    return found


def _unlike_others(
    canaries: Canaries, planted: Mapping[str, list[planting.Planted]]
) -> dict[str, bytes]:
    """What no other run on this machine could have drawn too: an age of 102 it could."""
    long = [v for values in planted.values() for v in values if v.said == v.value]
    return canaries.needles() | {
        f"{value.entity_type} ({value.language}) {value.said!r}, {form}": needle
        for value in long
        for form, needle in probe.disguises(value.said).items()
    }


def _look(
    made: Consortium,
) -> tuple[dict[str, list[probe.Socket]], dict[str, str], dict[str, bytes]]:
    """Sockets, networks and insides of every process, in the middle of the first round."""
    for agent in made.agents.values():
        agent.await_stage("masked")
    assert made.coordinator is not None
    pids = {"coordinator": made.coordinator.pid}
    pids |= {name: agent.pid for name, agent in made.agents.items()}
    (pids["clinic ClientApp"],) = probe.client_apps(made.agents["clinic"].pid)
    return (
        {name: probe.sockets(pid) for name, pid in pids.items()},
        {name: os.readlink(f"/proc/{pid}/ns/net") for name, pid in pids.items()},
        {name: probe.inside(pid) for name, pid in pids.items()},
    )


def _ask(made: Consortium) -> dict[str, Answer]:
    """Every command that looks at a finished run."""
    asked = {
        "status": lambda: made.call_coordinator("status"),
        "check": lambda: made.call_site("clinic", "check"),
        "budget clinic": lambda: made.call_site("clinic", "budget"),
        "budget bank": lambda: made.type_site("bank", "budget"),
        "sent": lambda: made.call_site("clinic", "sent"),
    }
    with ThreadPoolExecutor(max_workers=2) as pool:
        waiting = {name: pool.submit(ask) for name, ask in asked.items()}
        return {name: future.result() for name, future in waiting.items()}


def _leaks(
    begun: float, needles: Mapping[str, bytes], without: tuple[Path, ...]
) -> list[tuple[Path, str]]:
    """Files of the system's temporary folder, written since `begun`, that hold a planted word."""
    fresh = []
    for path in probe.files(_SYSTEM_TMP, without=without):
        with contextlib.suppress(OSError):
            if path.stat().st_mtime >= begun - 1:
                fresh.append(path)
    return probe.sightings(fresh, needles)


# -- the network and the relays ------------------------------------------------------------------


class Outside:
    """A network in which every attempt to leave loopback is recorded and fails."""

    def __init__(self, holder: subprocess.Popen[str], record: Path, enter: list[str]) -> None:
        self._record = record
        self.prefix = ("nsenter", "--target", str(holder.pid), *enter, "--")

    def packets(self) -> list[str]:
        """What tried to leave so far, and after it one attempt of ours, as a proof of the record.

        An attempt of ours that is missing makes the record worthless, and fails.
        """
        seen = self._record.read_text().splitlines()
        probe_port = 40404
        attempt = (
            "import socket; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); "
            f"s.sendto(b'proof', ('198.51.100.7', {probe_port}))"
        )
        subprocess.run([*self.prefix, sys.executable, "-c", attempt], check=True)
        deadline = time.monotonic() + 5
        while b"proof".hex() not in self._record.read_text():
            assert time.monotonic() < deadline, "an attempt to leave was not recorded"
        return seen


@contextlib.contextmanager
def _no_outside(record: Path) -> Iterator[Outside | None]:
    """A network without an outside; None where this machine does not let us make one."""
    # As root without a new user namespace: within one, the sandbox of a site could do less.
    for enter in (["--net"], ["--user", "--preserve-credentials", "--net"]):
        flags = ["--net"] if enter == ["--net"] else ["--map-root-user", "--net"]
        try:
            holder = subprocess.Popen(
                ["unshare", *flags, sys.executable, str(island.__file__), str(record)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
            )
        except FileNotFoundError:
            break
        with holder:
            if holder.stdout is not None and holder.stdout.readline() == "ready\n":
                yield Outside(holder, record, enter)
                holder.communicate()
                return
    yield None


def _relay(made: Consortium, site: str) -> Process:
    """Put a relay between a site and the coordinator."""
    folder = made.root / "relay" / site
    folder.mkdir(parents=True)
    kit = json.loads((made.site(site) / "kit.json").read_text())
    certificate = folder / "certificate.pem"
    certificate.write_text(kit["certificate_pem"])
    port = free_port()
    keys = made.home / "keys"
    settings = relay.Settings(
        port=port,
        coordinator_port=made.port,
        ca=str(keys / "ca.pem"),
        server_certificate=str(keys / "tls.pem"),
        server_key=str(keys / "tls.key"),
        site_certificate=str(certificate),
        site_key=str(made.site(site) / "keys" / "tls.key"),
        folder=str(folder),
    )
    path = made.site(site) / "site.toml"
    path.write_text(path.read_text().replace(f":{made.port}", f":{port}"))
    argv = [*made.prefix, sys.executable, str(relay.__file__), settings.to_json()]
    running = Process(argv, folder / "relay.log", environment(made.root))
    running.await_told(lambda told: "ready" in told)
    return running


@pytest.fixture
def restored_signals() -> Iterator[None]:
    """The handlers of Ctrl-C and of a stop, as they were before the test."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)
