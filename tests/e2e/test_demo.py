"""`make demo`: stopped in the middle, done again in its folder, and kept off other folders."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from deploy.demo.run import main
from privacy.audit.entry import Event, parse_entry
from tests.e2e import probe
from tests.e2e.consortium import SITES, await_end, environment, rows, write_rows

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
                lambda: any(map(wanted, self._lines)) or self.process.poll() is not None, 120
            )
            assert said, self._lines
            assert self.process.poll() is None, self._lines

    def processes(self) -> list[int]:
        """Everything that the demo has started and that runs now."""
        return probe.descendants(self.process.pid)

    def wait(self) -> int:
        """Wait for its end; returns its exit status."""
        status = self.process.wait(120)
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


@pytest.fixture
def demo(tmp_path: Path) -> Iterator[Callable[[], Demo]]:
    """Starts a demo in the same folder each time."""
    started: list[Demo] = []

    def start() -> Demo:
        started.append(Demo(tmp_path))
        return started[-1]

    yield start
    for one in started:
        one.end()


def test_ctrl_c_ends_every_process_and_a_second_demo_starts_clean(
    demo: Callable[[], Demo],
) -> None:
    first = demo()
    first.await_line(lambda line: "starting" in line)
    running = first.processes()
    # The coordinator, its `run`, two agents, and at least one training process.
    assert len(running) > 4
    os.killpg(first.process.pid, signal.SIGINT)
    assert first.wait() == 130
    assert "stopped" in first.said
    assert "Traceback" not in first.said
    assert await_end(running) == []
    assert strays(first.out) == []
    left = first.out / "left-behind"
    left.touch()

    second = demo()
    second.await_line(lambda line: "enrolled" in line)
    assert not left.exists()
    lines = (second.out / "coordinator" / "log" / "entries.jsonl").read_bytes().splitlines()
    events = [parse_entry(line).event for line in lines]
    assert events == [Event.FEDERATION_CREATED, *[Event.SITE_ENROLLED] * len(SITES)]
    running = second.processes()
    second.process.terminate()
    assert second.wait() == 130
    assert await_end(running) == []
    assert strays(second.out) == []


def test_a_folder_with_other_files_is_refused_and_left_as_it_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], restored_signals: None
) -> None:
    precious = tmp_path / "thesis.tex"
    precious.write_text("twelve years")
    assert main(["--out", str(tmp_path)]) == 1
    assert capsys.readouterr().err.startswith("error: expected an empty folder")
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]
    assert precious.read_text() == "twelve years"


def test_records_in_the_folder_that_is_cleaned_are_not_lost(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], restored_signals: None
) -> None:
    out = tmp_path / "out"
    write_rows(out / "data" / "clinic.jsonl.gz", rows(0))
    (out / ".cloister-demo").touch()
    before = (out / "data" / "clinic.jsonl.gz").read_bytes()
    assert main(["--out", str(out), "--data", str(out / "data")]) == 1
    assert "error: " in capsys.readouterr().err
    assert (out / "data" / "clinic.jsonl.gz").read_bytes() == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--sites", "clinic,bnak"], "bnak.jsonl.gz"),
        (["--sites", "clinic"], "at least two sites"),
        (["--data", "nowhere"], "nowhere"),
    ],
)
def test_a_wrong_call_is_refused_before_an_earlier_demo_is_cleaned_away(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    restored_signals: None,
    arguments: list[str],
    message: str,
) -> None:
    for index, name in enumerate(SITES):
        write_rows(tmp_path / "parties" / f"{name}.jsonl.gz", rows(index))
    out = tmp_path / "out"
    out.mkdir()
    (out / ".cloister-demo").touch()
    (out / "report.html").touch()
    call = ["--out", str(out), "--data", str(tmp_path / "parties"), *arguments]
    assert main(call) == 1
    assert message in capsys.readouterr().err
    assert (out / "report.html").exists()
