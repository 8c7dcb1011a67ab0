"""The demo as a person starts it, and what is left of it when it is stopped."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from privacy.audit.entry import Event, parse_entry
from tests.e2e import probe
from tests.e2e.consortium import SITES, await_end, environment, rows, write_rows

_IN_A_ROUND = ("starting", "loading", "masking", "masked")
ROOT = Path(__file__).resolve().parents[2]
PLAN = """\
run = "short"

[privacy]
unit = "{UNIT}"
target_epsilon = 8.0
delta = {DELTA}
noise_multiplier = 0.6
sample_rate = 0.2
steps_per_round = 1

[rounds]
num_rounds = 1
min_sites = {MIN_SITES}
"""


class Demo:
    """A demo as a person starts it in a terminal: in a process group of its own."""

    def __init__(self, folder: Path) -> None:
        self.out = folder / "out"
        self._lines: list[str] = []
        self._news = threading.Condition()
        plan = folder / "PLAN.toml"
        plan.write_text(PLAN)
        for index, name in enumerate(SITES):
            write_rows(folder / "parties" / f"{name}.jsonl.gz", rows(index)[:30])
        self.process = subprocess.Popen(
            [
                sys.executable, "-m", "deploy.demo.run", "--out", str(self.out),
                "--data", str(folder / "parties"), "--plan", str(plan),
            ],
            cwd=ROOT,
            env=environment(folder),
            stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            process_group=0,
        )  # fmt: skip
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        for line in self.process.stderr or ():
            with self._news:
                self._lines.append(line)
                self._news.notify_all()
        with self._news:
            self._news.notify_all()

    def await_line(self, wanted: Callable[[str], bool]) -> None:
        """Wait until the demo says something."""
        with self._news:
            said = self._news.wait_for(
                lambda: any(map(wanted, self._lines)) or self.process.poll() is not None, 240
            )
            assert said, self._lines
            assert self.process.poll() is None, self._lines

    def processes(self) -> list[int]:
        """Everything that the demo has started and that runs now."""
        return probe.descendants(self.process.pid)

    def wait(self) -> int:
        """Wait for its end; returns its exit status."""
        status = self.process.wait(240)
        self._reader.join(10)
        if self.process.stderr is not None:
            self.process.stderr.close()
        return status

    def end(self) -> None:
        """End it, however it stands."""
        if self.process.poll() is None:
            self.process.terminate()
        self.wait()

    @property
    def said(self) -> str:
        """All that it said."""
        return "".join(self._lines)


def strays(out: Path) -> list[list[bytes]]:
    """Processes that were told of a folder and still run."""
    commands = (probe.command_line(int(p.name)) for p in Path("/proc").glob("[0-9]*"))
    return [c for c in commands if any(os.fsencode(out) in argument for argument in c)]


@dataclass(frozen=True, kw_only=True)
class Stops:
    """A demo that was stopped in a round, and a second one in the same folder, stopped earlier.

    Attributes:
      num_processes: How many processes the first had.
      statuses: Exit statuses of both.
      said: What both said.
      left: Processes that outlived them.
      kept: Whether a file of the first was there during the second.
      events: What stood in the log of the second.
    """

    num_processes: int
    statuses: tuple[int, int]
    said: str
    left: list[object]
    kept: bool
    events: list[Event]


def stop_two_demos(folder: Path) -> Stops:
    """Stop a demo by Ctrl-C in its first round, and the next by SIGTERM once it is enrolled."""
    first = Demo(folder)
    try:
        first.await_line(lambda line: "round 1/" in line)
        running = first.processes()
        os.killpg(first.process.pid, signal.SIGINT)
        one = first.wait()
        left: list[object] = [*await_end(running), *strays(first.out)]
    finally:
        first.end()
    trace = first.out / "left-behind"
    trace.touch()
    second = Demo(folder)
    try:
        second.await_line(lambda line: "enrolled" in line)
        kept = trace.exists()
        log = (second.out / "coordinator" / "log" / "entries.jsonl").read_bytes()
        started = second.processes()
        second.process.terminate()
        two = second.wait()
        left += [*await_end(started), *strays(second.out)]
    finally:
        second.end()
    return Stops(
        num_processes=len(running),
        statuses=(one, two),
        said=first.said + second.said,
        left=left,
        kept=kept,
        events=[parse_entry(line).event for line in log.splitlines()],
    )
