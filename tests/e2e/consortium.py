"""A consortium of real processes on this machine: what people would type, typed by a test."""

import contextlib
import gzip
import io
import json
import os
import re
import selectors
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from client.cli import main as site_main
from deploy.demo import generate
from privacy.audit.entry import Entry, Event, parse_entry
from privacy.cli import main as audit_main
from server.cli import main as coordinator_main
from server.config import load
from server.control import control
from tests.e2e import probe

BIN = Path(sys.executable).parent
FEDERATION = "lakeside"
SITES = ("clinic", "bank")
NUM_ROWS = 60
NUM_UNITS = 40
# Written into the plans, because to look for it takes seconds: enough for four rounds.
NOISE = 0.6
PASSPHRASE = "correct horse battery staple"  # noqa: S105  of a test's authority
# On a machine that does much else, every wait may be made longer by a factor.
PATIENCE = float(os.environ.get("CLOISTER_TEST_PATIENCE", "1"))
READY_S = 60.0 * PATIENCE
# A command that decides on a plan loads the recognisers and waits for the plan, on a busy machine.
CALL_S = 240.0 * PATIENCE
ENDED = ("finished", "failed", "stopped")

PLAN = """\
run = "{run}"

[masking]
languages = {languages}

[privacy]
unit = "{unit}"
target_epsilon = {epsilon}
delta = 1e-3
noise_multiplier = {noise}
sample_rate = 0.2
steps_per_round = 1

[rounds]
num_rounds = {num_rounds}
min_sites = {min_sites}
deadline_s = {deadline_s}

[exits]
metrics = ["num_steps"]

[exposure]
tracers = {tracers}
"""


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What a command left: exit status, the JSON on its stdout, its talk on stderr."""

    status: int
    result: Any
    talk: str


class Process:
    """A running command that tells JSON on its stdout."""

    def __init__(self, argv: Sequence[str], log: Path, environment: Mapping[str, str]) -> None:
        with log.open("ab") as errors:
            self._process = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                env=dict(environment),
                start_new_session=True,
            )
        self._log = log
        self.told: list[dict[str, Any]] = []
        self._news = threading.Condition()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    @property
    def status(self) -> int | None:
        """Its exit status, None while it runs."""
        return self._process.poll()

    def _read(self) -> None:
        text = ""
        for line in self._process.stdout or ():
            text += line
            try:
                document = json.loads(text)
            except ValueError:
                continue  # a document of several lines, not whole yet
            text = ""
            with self._news:
                self.told.append(document)
                self._news.notify_all()
        with self._news:
            self._news.notify_all()

    def await_told(
        self,
        wanted: Callable[[Mapping[str, Any]], bool],
        *,
        after: int = 0,
        timeout_s: float = READY_S,
    ) -> Mapping[str, Any]:
        """Wait for the first document from number `after` on that is `wanted`."""
        deadline = time.monotonic() + timeout_s
        with self._news:
            place = after
            while True:
                for document in self.told[place:]:
                    if wanted(document):
                        return document
                place = max(place, len(self.told))
                left = deadline - time.monotonic()
                assert left > 0, f"not told in {timeout_s} s: {self.told[after:]}"
                alive = self._reader.is_alive()
                assert alive, f"it ended: {self.told[after:]} {self._log.read_text()[-2000:]}"
                self._news.wait(left)

    def await_stage(self, stage: str, *, after: int = 0, **fields: object) -> Mapping[str, Any]:
        """Wait until an agent tells a stage, with these fields."""
        wanted = {"stage": stage, **fields}
        return self.await_told(lambda d: wanted.items() <= d.items(), after=after)

    def send(self, number: signal.Signals) -> None:
        """Send a signal to this process alone."""
        self._process.send_signal(number)

    def kill(self) -> None:
        """End this process alone as `kill -9` does, and wait for it."""
        self._process.kill()
        self.wait()

    def wait(self, timeout_s: float = 30.0 * PATIENCE) -> int:
        """Wait until it has ended; returns its exit status."""
        status = self._process.wait(timeout_s)
        self._reader.join(timeout_s)
        if self._process.stdout is not None:
            self._process.stdout.close()
        return status

    def end(self) -> None:
        """End it, and its whole session if it does not end by itself."""
        if self.status is None:
            self.send(signal.SIGCONT)
            self.send(signal.SIGTERM)
            try:
                self.wait(15)
            except subprocess.TimeoutExpired:
                os.killpg(self.pid, signal.SIGKILL)
        self.wait()


def await_end(pids: Sequence[int], timeout_s: float = 10.0) -> list[int]:
    """Wait until processes have ended; returns those that have not."""
    deadline = time.monotonic() + timeout_s
    with selectors.DefaultSelector() as selector, contextlib.ExitStack() as opened:
        waiting = set()
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                descriptor = os.pidfd_open(pid)
                opened.callback(os.close, descriptor)
                selector.register(descriptor, selectors.EVENT_READ, pid)
                waiting.add(pid)
        while waiting and (left := deadline - time.monotonic()) > 0:
            for key, _ in selector.select(left):
                selector.unregister(key.fileobj)
                waiting.discard(key.data)
    return sorted(waiting)


def await_client_app(agent: Process) -> int:
    """Wait until the ClientApp of an agent has been started; nothing tells of that moment."""
    pause = threading.Event()
    deadline = time.monotonic() + READY_S
    while not (found := probe.client_apps(agent.pid)):
        assert time.monotonic() < deadline, "no ClientApp was started"
        pause.wait(0.01)
    return found[0]


def rule_told(agent: Process, server_round: int) -> str:
    """The rule by which an agent lost a round; it is told after the round's start."""
    agent.await_stage("starting", server_round=server_round)
    place = next(
        number
        for number, told in enumerate(agent.told)
        if told.get("stage") == "starting" and told.get("server_round") == server_round
    )
    return str(agent.await_told(lambda told: "rule" in told, after=place)["rule"])


def free_port() -> int:
    """A port that is free now."""
    with contextlib.closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def environment(root: Path) -> dict[str, str]:
    """The environment of the processes: a home and a place for temporary files, nothing else.

    Nothing here turns telemetry off: that is for the programs themselves to do.
    """
    for name in ("home", "tmp"):
        (root / name).mkdir(parents=True, exist_ok=True)
    return {
        "PATH": os.environ.get("PATH", os.defpath),
        "LANG": "C.UTF-8",
        "HOME": str(root / "home"),
        "TMPDIR": str(root / "tmp"),
        "CLOISTER_CA_PASSPHRASE": PASSPHRASE,
    }


def rows(index: int) -> list[dict[str, str]]:
    """Generated records of one site, each its own unit."""
    made = generate.make_rows(generate.SITES[index], num_rows=NUM_ROWS, seed=index)
    return [{k: v for k, v in row.record.items() if k != "unit_id"} for row in made]


def write_rows(path: Path, records: Sequence[Mapping[str, str]]) -> None:
    """Write records as a site keeps them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(record) + "\n" for record in records)
    path.write_bytes(gzip.compress(text.encode(), mtime=0))


@dataclass
class Consortium:
    """A coordinator and its sites under one folder.

    Attributes:
      root: The folder: `coordinator`, one folder a site, `home` and `tmp`.
      port: The coordinator's.
      sites: Names of the sites.
      prefix: Put before each command, to run it in another network.
    """

    root: Path
    port: int
    sites: tuple[str, ...] = SITES
    prefix: tuple[str, ...] = ()
    coordinator: Process | None = None
    agents: dict[str, Process] = field(default_factory=dict)

    @property
    def home(self) -> Path:
        """The coordinator's folder."""
        return self.root / "coordinator"

    @property
    def log(self) -> Path:
        """The evidence log."""
        return self.home / "log"

    def site(self, name: str) -> Path:
        """A site's folder."""
        return self.root / name

    def data(self, name: str) -> Path:
        """A site's records."""
        return self.site(name) / "data" / "records.jsonl.gz"

    @classmethod
    def copy(cls, enrolled: "Consortium", root: Path) -> "Consortium":
        """An enrolled consortium in another folder, on a port of its own."""
        made = cls(root=root, port=free_port())
        for name in ("coordinator", *SITES):
            shutil.copytree(enrolled.root / name, root / name)
        for path in (made.home / "federation.toml", *(made.site(n) / "site.toml" for n in SITES)):
            text = path.read_text()
            text = text.replace(f"127.0.0.1:{enrolled.port}", f"127.0.0.1:{made.port}")
            path.write_text(text.replace(str(enrolled.root), str(root)))
        return made

    def set_in_site(self, name: str, key: str, value: object) -> None:
        """Change one key of a site's `site.toml`, as a person does with an editor."""
        path = self.site(name) / "site.toml"
        text, changes = re.subn(
            rf"(?m)^{key} = .*$", lambda _: f"{key} = {json.dumps(value)}", path.read_text()
        )
        assert changes == 1, key
        path.write_text(text)

    # -- commands as processes -----------------------------------------------------------------

    def _argv(self, name: str, arguments: Sequence[str | Path]) -> list[str]:
        return [*self.prefix, str(BIN / name), *map(str, arguments)]

    def call(self, name: str, *arguments: str | Path, **variables: str) -> Answer:
        """Run a command with `--json` to its end."""
        done = subprocess.run(
            [*self._argv(name, arguments), "--json"],
            capture_output=True,
            text=True,
            check=False,
            stdin=subprocess.DEVNULL,
            env=environment(self.root) | variables,
            timeout=CALL_S,
        )
        result = json.loads(done.stdout) if done.stdout.strip() else None
        return Answer(status=done.returncode, result=result, talk=done.stderr)

    def call_site(self, site: str, command: str, *arguments: str | Path) -> Answer:
        """Run a command of `cloister-site`."""
        return self.call("cloister-site", command, "--home", self.site(site), *arguments)

    def call_coordinator(self, command: str, *arguments: str | Path, **variables: str) -> Answer:
        """Run a command of `cloister-coordinator`."""
        return self.call(
            "cloister-coordinator", command, "--home", self.home, *arguments, **variables
        )

    def spawn(self, name: str, *arguments: str | Path, log: Path) -> Process:
        """Start a command with `--json` that goes on running."""
        return Process([*self._argv(name, arguments), "--json"], log, environment(self.root))

    def start_coordinator(self) -> None:
        """Start the coordinator and wait until it serves."""
        if self.coordinator is not None:
            self.coordinator.wait()
        self.coordinator = self.spawn(
            "cloister-coordinator", "start", "--home", self.home,
            log=self.home / "coordinator.log",
        )  # fmt: skip
        self.coordinator.await_told(lambda told: "listening" in told)

    def start_site(self, name: str) -> Process:
        """Start a site's agent."""
        home = self.site(name)
        if name in self.agents:
            self.agents[name].wait()
        self.agents[name] = self.spawn(
            "cloister-site", "start", "--home", home, log=home / "agent.log"
        )
        return self.agents[name]

    def approve(self, plan: str = "") -> dict[str, Answer]:
        """Approve a plan at every site, or the one that is offered; by site."""

        def decide(name: str) -> Answer:
            named = (plan,) if plan else ("--wait", str(READY_S))
            return self.call_site(name, "approve-plan", *named, "--yes")

        with ThreadPoolExecutor(max_workers=len(self.sites)) as pool:
            return dict(zip(self.sites, pool.map(decide, self.sites), strict=True))

    def start(self) -> None:
        """Start everything and wait until the sites are connected."""
        self.start_coordinator()
        for name in self.sites:
            self.start_site(name)
        for agent in self.agents.values():
            agent.await_told(lambda told: told.get("state") == "connected")

    def end(self) -> None:
        """End every process."""
        for process in (*self.agents.values(), self.coordinator):
            if process is not None:
                process.end()

    def write_plan(self, run: str, **values: object) -> Path:
        """Write a PLAN.toml."""
        chosen = {
            "epsilon": 8.0, "noise": NOISE, "num_rounds": 2, "min_sites": 2,
            "deadline_s": 120.0 * PATIENCE,
            "languages": ["en"], "unit": "record", "tracers": 0,
        } | values  # fmt: skip
        path = self.root / f"{run}.toml"
        chosen["languages"] = json.dumps(chosen["languages"])
        path.write_text(PLAN.format(run=run, **chosen))
        return path

    # -- the same commands in this process, where their start is not what is tested ---------------

    def type_site(self, site: str, command: str, *arguments: str | Path) -> Answer:
        """Run a command of `cloister-site` here."""
        home = ("--home", str(self.site(site)))
        return _typed(site_main, [command, *home, *map(str, arguments)])

    def type_coordinator(self, command: str, *arguments: str | Path) -> Answer:
        """Run a command of `cloister-coordinator` here."""
        home = ("--home", str(self.home))
        return _typed(coordinator_main, [command, *home, *map(str, arguments)])

    def type_audit(self, command: str, *arguments: str | Path) -> Answer:
        """Run a command of `cloister-audit` here."""
        return _typed(audit_main, [command, *map(str, arguments)])

    def await_run(
        self,
        plan: str,
        wanted: Callable[[Mapping[str, Any]], bool] = lambda run: run["state"] in ENDED,
        timeout_s: float = 90.0 * PATIENCE,
    ) -> Mapping[str, Any]:
        """Wait until the run of a plan is as `wanted`; returns its status."""
        deadline = time.monotonic() + timeout_s
        since = None
        while True:
            found = control(load(self.home), "Status", since=since, wait_s=5.0)
            assert found is not None, "the coordinator does not run"
            run: Mapping[str, Any] = next(r for r in found["runs"] if r["plan"] == plan)
            if wanted(run):
                return run
            assert time.monotonic() < deadline, run
            since = found["version"]

    def spends(self, site: str, plan: str) -> list[tuple[int, float, float, int]]:
        """What the ledger of a site holds of a plan's rounds: round, noise, rate, steps."""
        budget = self.type_site(site, "budget").result
        return [
            (r["server_round"], r["noise_multiplier"], r["sample_rate"], r["num_steps"])
            for r in budget["rounds"]
            if r["plan"] == plan and r["kind"] == "round"
        ]

    def entries(self, event: Event | None = None, plan: str = "") -> list[Entry]:
        """The log's entries, of one event or plan where these are given."""
        lines = (self.log / "entries.jsonl").read_bytes().splitlines()
        return [
            entry
            for entry in map(parse_entry, lines)
            if event in (None, entry.event) and plan in ("", entry.subjects.get("plan"))
        ]


def _typed(main: Callable[[Sequence[str]], int], argv: Sequence[str]) -> Answer:
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            status = main([*argv, "--json"])
        except SystemExit as ended:
            status = int(ended.code or 0)
    text = out.getvalue()
    return Answer(
        status=status, result=json.loads(text) if text.strip() else None, talk=err.getvalue()
    )
