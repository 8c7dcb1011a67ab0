"""The training process: warm between calls, bounded in time, and silent about data."""

import contextlib
import os
import select
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from client.worker import (
    Worker,
    WorkerDiedError,
    WorkerFailedError,
    WorkerProtocolError,
    WorkerTimeoutError,
    WorkerUnprotectedError,
)
from privacy.errors import ConfigError, TrainingError

SECRET = "Erika Mustermann, born 1964-08-12"  # noqa: S105 - stands for the text of a record
TIMEOUT_S = 20.0

PROGRAM = """
import ctypes, json, os, signal, subprocess, sys, time
from client.worker import serve

def in_package(source, module):
    scope = {{"__name__": module}}
    exec(compile(source, module, "exec"), scope)
    return scope

def make_handler():
    def handle(request, progress):
{body}
    return handle

serve(make_handler)
"""

Start = Callable[..., Worker]


@pytest.fixture(params=[True, False], ids=["namespaces", "fallback"])
def use_namespaces(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """A maker of workers whose handler has the given body."""
    with contextlib.ExitStack() as stack:

        def make(
            body: str,
            *,
            memory_limit_mb: int = 400,
            use_namespaces: bool = True,
            environment: Mapping[str, str] | None = None,
        ) -> Worker:
            program = tmp_path / "program.py"
            program.write_text(
                PROGRAM.format(body=textwrap.indent(textwrap.dedent(body), " " * 8)),
                encoding="utf-8",
            )
            worker = Worker(
                [sys.executable, str(program)],
                environment=environment or {},
                hide=[],
                memory_limit_mb=memory_limit_mb,
                use_namespaces=use_namespaces,
            )
            return stack.enter_context(worker)

        yield make


def call(worker: Worker, request: bytes = b"", *, timeout_s: float = TIMEOUT_S) -> bytes:
    return worker.call(request, timeout_s=timeout_s, on_progress=lambda progress: None)


def assert_ends(pid: int) -> None:
    """Fail unless process `pid`, which may be nobody's child here, ends within seconds."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        ended, _, _ = select.select([descriptor], [], [], 5)
    finally:
        os.close(descriptor)
    assert ended, f"process {pid} still lives"


def outer_pid(marker: str) -> int:
    """The process whose command line holds `marker`, as it is numbered out here."""
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit() and int(folder.name) != os.getpid():
            with contextlib.suppress(OSError):
                words = (folder / "cmdline").read_bytes().split(b"\0")
                if marker.encode() in words:
                    return int(folder.name)
    raise AssertionError(f"no process with {marker}")


# ── calls ───────────────────────────────────────────────────────────────────────────────────


def test_a_reply_comes_back_and_the_child_stays_warm(start: Start, use_namespaces: bool) -> None:
    worker = start("return request[::-1]", use_namespaces=use_namespaces)
    assert worker.pid is None
    assert call(worker, b"abc") == b"cba"
    pid = worker.pid
    assert worker.running
    assert call(worker, b"de") == b"ed"
    assert worker.pid == pid


def test_large_frames_pass_both_ways_at_once(start: Start) -> None:
    worker = start("progress({'num_bytes': len(request)}); return request[::-1]")
    request = os.urandom(1024) * (20 * 1024)
    assert call(worker, request) == request[::-1]


def test_progress_arrives_in_order_and_as_sent(start: Start) -> None:
    worker = start("""
        progress({"phase": "masking", "step": 1, "loss": 2.5})
        progress({"phase": "training", "step": 2, "loss": None})
        return b""
    """)
    seen: list[Mapping[str, object]] = []
    worker.call(b"", timeout_s=TIMEOUT_S, on_progress=seen.append)
    assert seen == [
        {"phase": "masking", "step": 1, "loss": 2.5},
        {"phase": "training", "step": 2, "loss": None},
    ]


def test_text_in_progress_is_refused_before_it_leaves_the_child(start: Start) -> None:
    worker = start(f"progress({{'note': {SECRET!r}}}); return b''")
    seen: list[Mapping[str, object]] = []
    with pytest.raises(WorkerFailedError, match="ValueError") as caught:
        worker.call(b"", timeout_s=TIMEOUT_S, on_progress=seen.append)
    assert seen == []
    assert SECRET not in str(caught.value)


def test_an_exception_in_on_progress_ends_the_child_and_goes_on(start: Start) -> None:
    worker = start("progress({'step': 1}); return b''")

    def cancel(progress: Mapping[str, object]) -> None:
        raise KeyError("cancelled")

    with pytest.raises(KeyError, match="cancelled"):
        worker.call(b"", timeout_s=TIMEOUT_S, on_progress=cancel)
    assert not worker.running


def test_stop_from_another_thread_ends_a_call_at_once(start: Start) -> None:
    worker = start("progress({'step': 1}); time.sleep(600)")
    reached = threading.Event()

    def stop() -> None:
        reached.wait(TIMEOUT_S)
        worker.stop()

    stopper = threading.Thread(target=stop)
    stopper.start()
    began_at = time.monotonic()
    with pytest.raises(WorkerDiedError, match="was stopped"):
        worker.call(b"", timeout_s=60, on_progress=lambda progress: reached.set())
    stopper.join()
    assert time.monotonic() - began_at < 10
    assert not worker.running


def test_stop_inside_on_progress_ends_the_call(start: Start) -> None:
    worker = start("progress({'step': 1}); return b''")
    with pytest.raises(WorkerDiedError, match="was stopped"):
        worker.call(b"", timeout_s=TIMEOUT_S, on_progress=lambda progress: worker.stop())


# ── ends ────────────────────────────────────────────────────────────────────────────────────


def test_a_hanging_child_is_killed_at_its_deadline(start: Start, use_namespaces: bool) -> None:
    worker = start(
        "while request == b'hang': time.sleep(1)\nreturn b'ok'",
        use_namespaces=use_namespaces,
    )
    call(worker)
    pid = worker.pid
    assert pid is not None
    began_at = time.monotonic()
    with pytest.raises(WorkerTimeoutError, match=r"0\.3 s"):
        call(worker, b"hang", timeout_s=0.3)
    assert time.monotonic() - began_at < 3
    assert not worker.running
    assert_ends(pid)
    assert call(worker) == b"ok"  # by a fresh child


def test_the_deadline_covers_a_child_that_reads_nothing(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text("import time\ntime.sleep(600)\n", encoding="utf-8")
    with (
        Worker(
            [sys.executable, str(program)], environment={}, hide=[], memory_limit_mb=400
        ) as worker,
        pytest.raises(WorkerTimeoutError),
    ):
        call(worker, bytes(5_000_000), timeout_s=0.5)


@pytest.mark.parametrize("start_new_session", [False, True])
def test_a_grandchild_dies_at_the_deadline(
    start: Start, use_namespaces: bool, start_new_session: bool, tmp_path: Path
) -> None:
    marker = f"grandchild-of-{tmp_path.name}"
    worker = start(
        f"""
        request and time.sleep(600)
        subprocess.Popen(
            [sys.executable, "-c", "import time; print(flush=True); time.sleep(600)", {marker!r}],
            stdout=subprocess.PIPE, start_new_session={start_new_session},
        ).stdout.readline()
        return b""
        """,
        use_namespaces=use_namespaces,
    )
    call(worker)
    grandchild = outer_pid(marker)
    with pytest.raises(WorkerTimeoutError):
        call(worker, b"hang", timeout_s=0.2)
    assert_ends(grandchild)


def test_a_memory_hog_is_stopped_and_the_error_says_so(start: Start, use_namespaces: bool) -> None:
    worker = start(
        "hog = []\nwhile True: hog.append(bytearray(16 * 1024 * 1024))",
        memory_limit_mb=200,
        use_namespaces=use_namespaces,
    )
    with pytest.raises(WorkerFailedError, match="memory limit of 200 MiB") as caught:
        call(worker)
    assert caught.value.rule == "memory-limit"
    assert "memory_limit_mb" in caught.value.hint
    assert not worker.running


def test_a_hog_of_small_objects_is_stopped_too(start: Start) -> None:
    worker = start("hog = []\nwhile True: hog.append(bytes(200))", memory_limit_mb=100)
    with pytest.raises(WorkerFailedError, match="memory limit of 100 MiB"):
        call(worker)


@pytest.mark.parametrize("signal_number", [signal.SIGKILL, signal.SIGSEGV, signal.SIGABRT])
def test_a_signal_is_named(
    start: Start, use_namespaces: bool, signal_number: signal.Signals
) -> None:
    worker = start(f"os.kill(os.getpid(), {signal_number})", use_namespaces=use_namespaces)
    with pytest.raises(WorkerDiedError, match=signal_number.name) as caught:
        call(worker)
    assert caught.value.signal == signal_number
    assert caught.value.exit_status is None


def test_an_exit_status_is_named_and_the_next_call_starts_afresh(
    start: Start, use_namespaces: bool
) -> None:
    worker = start("return b'ok' if request else sys.exit(3)", use_namespaces=use_namespaces)
    with pytest.raises(WorkerDiedError, match="exit status 3") as caught:
        call(worker)
    assert caught.value.exit_status == 3
    assert call(worker, b"again") == b"ok"


def test_a_child_killed_between_calls_is_replaced(start: Start) -> None:
    worker = start("return b'ok'")
    call(worker)
    killed = worker.pid
    assert killed is not None
    os.kill(killed, signal.SIGKILL)
    assert_ends(killed)
    assert call(worker) == b"ok"
    assert worker.pid != killed


def test_a_program_that_does_not_exist_is_reported(tmp_path: Path) -> None:
    missing = str(tmp_path / "no-such-program")
    with (
        Worker([missing], environment={}, hide=[], memory_limit_mb=100) as worker,
        pytest.raises(WorkerDiedError, match="exit status 127"),
    ):
        call(worker)


PARENT = """
import sys
from pathlib import Path
from client.worker import Worker
worker = Worker([sys.executable, sys.argv[1], sys.argv[2]], environment={{}}, hide=[],
                memory_limit_mb=400, use_namespaces={use_namespaces})
worker.call(b"", timeout_s=20, on_progress=lambda progress: print(worker.pid, flush=True))
"""


def test_kill_9_of_the_agent_ends_the_child_and_its_children(
    tmp_path: Path, use_namespaces: bool
) -> None:
    marker = f"program-of-{tmp_path.name}"
    body = f"""
        subprocess.Popen(
            [sys.executable, "-c", "import time; print(flush=True); time.sleep(600)",
             "below-{marker}"],
            stdout=subprocess.PIPE, start_new_session=True,
        ).stdout.readline()
        progress({{"step": 1}})
        time.sleep(600)
    """
    program = tmp_path / "program.py"
    program.write_text(
        PROGRAM.format(body=textwrap.indent(textwrap.dedent(body), " " * 8)), encoding="utf-8"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT.format(use_namespaces=use_namespaces), program, marker],
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2]), "TMPDIR": str(tmp_path)},
        text=True,
    )
    with parent:
        assert parent.stdout is not None
        keeper = int(parent.stdout.readline())
        pids = [keeper, outer_pid(marker), outer_pid(f"below-{marker}")]
        parent.kill()
        for pid in reversed(pids):
            assert_ends(pid)
    assert list(tmp_path.glob("cloister-*")) == []


def test_the_child_outlives_the_thread_that_started_it(start: Start) -> None:
    worker = start("return b'ok'")
    starter = threading.Thread(target=call, args=(worker,))
    starter.start()
    starter.join()
    pid = worker.pid
    assert call(worker) == b"ok"
    assert worker.pid == pid


# ── what a failure tells ────────────────────────────────────────────────────────────────────


def test_the_text_of_a_foreign_exception_never_arrives(start: Start) -> None:
    worker = start(f"raise RuntimeError({SECRET!r})")
    with pytest.raises(WorkerFailedError) as caught:
        call(worker)
    assert caught.value.rule == "RuntimeError"
    shown = f"{caught.value!r} {caught.value} {caught.value.hint} {caught.value.__dict__}"
    assert SECRET not in shown
    assert isinstance(caught.value, TrainingError)
    assert not worker.running


def test_the_text_of_a_chained_exception_never_arrives(start: Start) -> None:
    worker = start(f"""
        from privacy.errors import MaskingError
        try:
            raise ValueError({SECRET!r})
        except ValueError as error:
            raise MaskingError("expected a masked record, got line 7") from error
    """)
    with pytest.raises(WorkerFailedError, match="line 7") as caught:
        call(worker)
    assert SECRET not in str(caught.value)


def test_an_error_of_ours_tells_message_and_hint_and_the_child_stays_warm(start: Start) -> None:
    worker = start("""
        from privacy.errors import BudgetExceededError
        if request: return b"ok"
        raise BudgetExceededError("expected at most 8, got 9", hint="ask for less")
    """)
    with pytest.raises(WorkerFailedError, match="expected at most 8, got 9") as caught:
        call(worker)
    assert caught.value.rule == "BudgetExceededError"
    assert caught.value.hint == "ask for less"
    pid = worker.pid
    assert call(worker, b"again") == b"ok"
    assert worker.pid == pid


def test_a_broken_rule_is_told_by_its_name(start: Start) -> None:
    worker = start("""
        from privacy.errors import InstructionRefusedError
        raise InstructionRefusedError("round-out-of-range", "expected at most 30, got 31")
    """)
    with pytest.raises(WorkerFailedError) as caught:
        call(worker)
    assert caught.value.rule == "round-out-of-range"


def test_the_place_is_the_innermost_line_of_our_packages(start: Start) -> None:
    worker = start("""
        theirs = in_package("def fail(): raise KeyError('x')", "torch.nn")
        ours = in_package("\\n\\ndef step(f):\\n    f()", "model.loss")
        ours["step"](theirs["fail"])
    """)
    with pytest.raises(WorkerFailedError, match=r"KeyError at model\.loss:4") as caught:
        call(worker)
    assert caught.value.place == "model.loss:4"


def test_a_failure_while_the_handler_is_made_is_reported(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(
        "from client.worker import serve\n"
        "def make():\n    raise ModuleNotFoundError('no torch here')\n"
        "serve(make)\n",
        encoding="utf-8",
    )
    with (
        Worker(
            [sys.executable, str(program)], environment={}, hide=[], memory_limit_mb=400
        ) as worker,
        pytest.raises(WorkerFailedError, match="ModuleNotFoundError"),
    ):
        call(worker, bytes(5_000_000))


@pytest.mark.parametrize(
    "garbage",
    [
        b"Traceback (most recent call last)",
        b"\xff" * 9,
        b"\0\0\0\0\0\0\0\x02P[]",
        b"\0\0\0\0\0\0\0\x02F{}",
        b"\0\0\0\0\0\0\0\x01Pnot json",
        b"\0\0\0\0\0\x10\0\0P",
    ],
)
def test_a_garbage_frame_is_a_clear_error(start: Start, garbage: bytes) -> None:
    worker = start(f"""
        for descriptor in range(3, 200):
            try: os.write(descriptor, {garbage!r})
            except OSError: pass
        time.sleep(600)
    """)
    with pytest.raises(WorkerProtocolError, match="expected") as caught:
        call(worker)
    assert "Traceback" not in str(caught.value)
    assert not worker.running


def test_what_the_child_prints_goes_nowhere(
    start: Start, capfd: pytest.CaptureFixture[str]
) -> None:
    worker = start(f"print({SECRET!r}, flush=True); os.write(2, {SECRET!r}.encode()); return b''")
    call(worker)
    printed = capfd.readouterr()
    assert (printed.out, printed.err) == ("", "")


# ── environment ─────────────────────────────────────────────────────────────────────────────


def test_only_allowed_variables_reach_the_child(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    worker = start(
        "return json.dumps(dict(os.environ)).encode()", environment={"CLOISTER_THREADS": "2"}
    )
    reply = call(worker).decode()
    assert SECRET not in reply
    for wanted in (
        '"OMP_NUM_THREADS": "1"',
        '"CLOISTER_THREADS": "2"',
        '"FLWR_TELEMETRY_ENABLED": "0"',
        '"HF_HUB_OFFLINE": "1"',
    ):
        assert wanted in reply
    assert "CLOISTER_WORKER_FDS" not in reply


def test_the_home_of_the_child_is_empty_and_goes_with_it(start: Start) -> None:
    worker = start("""
        home = os.environ["HOME"]
        names = os.listdir(home)
        open(home + "/cache", "w").close()
        return json.dumps([home, names, os.getcwd()]).encode()
    """)
    reply = call(worker).decode()
    home = Path(reply.split('"')[1])
    assert reply == f'["{home}", [], "{home}"]'
    assert list(home.iterdir()) == []  # what was written lies in memory
    worker.stop()
    assert not home.exists()


def test_stop_leaves_no_descriptor_behind(start: Start) -> None:
    worker = start("return b''")
    call(worker)
    worker.stop()
    before = sorted(os.listdir("/proc/self/fd"))
    call(worker)
    worker.stop()
    assert sorted(os.listdir("/proc/self/fd")) == before


def test_a_folder_to_hide_must_exist(tmp_path: Path) -> None:
    before = sorted(os.listdir("/proc/self/fd"))
    worker = Worker(
        [sys.executable], environment={}, hide=[tmp_path / "keys"], memory_limit_mb=100
    )
    with pytest.raises(ConfigError, match="folder to hide"):
        call(worker)
    assert sorted(os.listdir("/proc/self/fd")) == before


def test_impossible_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="empty argv"):
        Worker([], environment={}, hide=[], memory_limit_mb=100)
    with pytest.raises(ValueError, match="at least 1 MiB"):
        Worker(["x"], environment={}, hide=[], memory_limit_mb=0)


def test_the_agents_side_imports_no_framework() -> None:
    code = (
        "import sys, client.worker\n"
        "print([m for m in ('torch', 'flwr', 'numpy') if m in sys.modules])"
    )
    result = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        check=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
    )
    assert result.stdout == "[]\n"


def test_a_program_is_not_run_without_a_protection_that_is_demanded(tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    worker = Worker(
        [sys.executable, "-c", f"open({str(marker)!r}, 'w')"],
        environment={},
        hide=[],
        memory_limit_mb=500,
        use_namespaces=False,
        demand=["descendants_die"],
    )
    with pytest.raises(WorkerUnprotectedError, match="descendants_die"):
        worker.start()
    assert not worker.running
