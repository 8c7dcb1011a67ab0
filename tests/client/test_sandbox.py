"""What the training process cannot do: read keys, reach a network, look into the agent."""

import contextlib
import json
import os
import socket
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from client import sandbox
from client.sandbox import SandboxReport, SandboxSettings
from client.worker import Worker

TIMEOUT_S = 20.0

PROGRAM = """
import ctypes, errno, json, os, resource, socket, sys
from client.worker import serve

def attempt(action):
    try:
        return action()
    except OSError as error:
        return errno.errorcode[error.errno]

def make_handler():
    def handle(request, progress):
{body}
    return handle

serve(make_handler)
"""


class Room:
    """A worker whose program answers with what it found."""

    def __init__(self, worker: Worker) -> None:
        self.worker = worker

    def ask(self) -> Any:  # noqa: ANN401 - JSON
        """What the program found, from JSON."""
        reply = self.worker.call(b"", timeout_s=TIMEOUT_S, on_progress=lambda progress: None)
        return json.loads(reply)

    @property
    def report(self) -> SandboxReport:
        """What the sandbox says of itself."""
        report = self.worker.sandbox
        assert report is not None
        return report


Enter = Callable[..., Room]


@pytest.fixture(params=[True, False], ids=["namespaces", "fallback"])
def enter(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Enter]:
    """A maker of rooms, by namespaces and without them."""
    with contextlib.ExitStack() as stack:

        def make(
            body: str,
            *,
            hide: tuple[Path, ...] = (),
            writable: tuple[Path, ...] | None = None,
            forbid_network: bool = True,
        ) -> Room:
            program = tmp_path / "program.py"
            program.write_text(
                PROGRAM.format(body=textwrap.indent(textwrap.dedent(body), " " * 8)),
                encoding="utf-8",
            )
            worker = Worker(
                [sys.executable, str(program)],
                environment={},
                hide=hide,
                memory_limit_mb=400,
                forbid_network=forbid_network,
                writable=writable,
                use_namespaces=bool(request.param),
            )
            return Room(stack.enter_context(worker))

        yield make


def require(in_force: bool) -> None:
    """Skip where this platform allows no such protection and the report says so."""
    if not in_force:
        pytest.skip("the platform does not allow this protection, and the report says so")


# ── keys ────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    folder = tmp_path / "site" / "keys"
    folder.mkdir(parents=True)
    (folder / "signing.pem").write_text("the private key", encoding="utf-8")
    (folder.parent / "data.jsonl").write_text("a record", encoding="utf-8")
    return folder


def test_a_file_in_a_hidden_folder_cannot_be_read(enter: Enter, keys: Path) -> None:
    room = enter(
        f"""
        path = {str(keys)!r}
        return json.dumps([
            attempt(lambda: open(path + "/signing.pem").read()),
            attempt(lambda: os.listdir(path)),
            attempt(lambda: open(path + "/new", "w").close()),
            open(path + "/../data.jsonl").read(),
        ]).encode()
        """,
        hide=(keys,),
    )
    read, listed, written, beside = room.ask()
    require(room.report.keys_hidden)
    assert read in {"ENOENT", "EACCES"}
    assert listed in ([], "EACCES")
    assert written in {"EROFS", "EACCES"}
    assert beside == "a record"
    assert (keys / "signing.pem").read_text(encoding="utf-8") == "the private key"


def test_a_link_does_not_lead_into_a_hidden_folder(enter: Enter, keys: Path) -> None:
    link = keys.parent / "link"
    link.symlink_to(keys)
    room = enter(
        f"""
        path = {str(link / "signing.pem")!r}
        return json.dumps(attempt(lambda: open(path).read())).encode()
        """,
        hide=(link,),
    )
    found = room.ask()
    require(room.report.keys_hidden)
    assert found in {"ENOENT", "EACCES"}


def test_a_folder_inside_a_hidden_folder_may_be_named_too(enter: Enter, keys: Path) -> None:
    room = enter(
        f"return json.dumps(attempt(lambda: os.listdir({str(keys.parent)!r}))).encode()",
        hide=(keys, keys.parent),
    )
    found = room.ask()
    require(room.report.keys_hidden)
    assert found in ([], "EACCES")


def test_the_agents_files_cannot_be_reached_through_proc(enter: Enter, keys: Path) -> None:
    room = enter(
        f"""
        agent = "/proc/{os.getpid()}"
        return json.dumps([
            attempt(lambda: open(agent + "/root" + {str(keys / "signing.pem")!r}).read()),
            attempt(lambda: open(agent + "/environ", "rb").read().decode()),
            attempt(lambda: open(agent + "/mem", "rb").close()),
            attempt(lambda: open(agent + "/fd/0", "rb").close()),
        ]).encode()
        """,
        hide=(keys,),
    )
    found = room.ask()
    require(room.report.keys_hidden)
    assert isinstance(found, list)
    assert set(found) <= {"ENOENT", "EACCES", "EPERM"}


def test_the_cover_cannot_be_lifted(enter: Enter, keys: Path) -> None:
    room = enter(
        f"""
        libc = ctypes.CDLL(None, use_errno=True)
        path = {str(keys)!r}
        unmounted = libc.umount2(path.encode(), 2)
        libc.unshare(0x10000000 | 0x20000)
        again = libc.umount2(path.encode(), 2)
        return json.dumps([
            unmounted, again, attempt(lambda: open(path + "/signing.pem").read()),
        ]).encode()
        """,
        hide=(keys,),
    )
    unmounted, again, read = room.ask()
    require(room.report.keys_hidden)
    assert (unmounted, again) == (-1, -1)
    assert read in {"ENOENT", "EACCES"}


# ── network ─────────────────────────────────────────────────────────────────────────────────


def test_no_tcp_connection_opens_even_to_this_host(enter: Enter) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        room = enter(f"""
            def connect():
                socket.create_connection(("127.0.0.1", {port}), timeout=5).close()
            return json.dumps(attempt(connect)).encode()
        """)
        found = room.ask()
        require(room.report.network_forbidden)
        assert found in {"EACCES", "ENETUNREACH", "ECONNREFUSED"}
        listener.setblocking(False)
        with pytest.raises(BlockingIOError):
            listener.accept()


def test_no_datagram_leaves(enter: Enter) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver:
        receiver.bind(("127.0.0.1", 0))
        room = enter(f"""
            def send():
                with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
                    sender.sendto(b"x", ("127.0.0.1", {receiver.getsockname()[1]}))
            return json.dumps(attempt(send)).encode()
        """)
        found = room.ask()
        require(room.report.network_forbidden)
        assert found in {"EACCES", "ENETUNREACH"}
        receiver.setblocking(False)
        with pytest.raises(BlockingIOError):
            receiver.recv(1)


def test_a_local_service_cannot_be_asked_to_pass_on(enter: Enter, tmp_path: Path) -> None:
    path = str(tmp_path / "service.sock")
    with (
        socket.socket(socket.AF_UNIX) as listener,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver,
    ):
        listener.bind(path)
        listener.listen()
        receiver.bind(path + ".datagram")
        room = enter(f"""
            def connect():
                with socket.socket(socket.AF_UNIX) as caller:
                    caller.connect({path!r})
            def send():
                with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as caller:
                    caller.sendto(b"x", {path + ".datagram"!r})
            left, right = socket.socketpair()
            left.send(b"within the process")
            return json.dumps(
                [attempt(connect), attempt(send), right.recv(100).decode()]
            ).encode()
        """)
        found = room.ask()
        require(room.report.network_forbidden and sandbox.filters_calls())
        assert found == ["EACCES", "EACCES", "within the process"]


def test_the_network_is_left_alone_when_it_is_not_forbidden(enter: Enter) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        room = enter(
            f"""
            socket.create_connection(("127.0.0.1", {port}), timeout=5).close()
            return b"true"
            """,
            forbid_network=False,
        )
        assert room.ask() is True
        assert not room.report.network_forbidden


# ── the rest ────────────────────────────────────────────────────────────────────────────────


def test_the_report_says_what_is_in_force(enter: Enter, keys: Path) -> None:
    room = enter("return b'{}'", hide=(keys,))
    assert room.worker.sandbox is None
    room.ask()
    assert room.report.dies_with_parent
    assert room.report.memory_limited
    assert not room.report.writes_confined


def test_without_namespaces_the_report_does_not_claim_them(tmp_path: Path) -> None:
    with Worker(
        ["/bin/true"], environment={}, hide=[], memory_limit_mb=400, use_namespaces=False
    ) as worker:
        assert not worker.start().descendants_die


def test_the_process_has_no_powers_and_leaves_no_core(enter: Enter) -> None:
    room = enter("""
        status = dict(line.split(":", 1) for line in open("/proc/self/status"))
        return json.dumps([
            {name: status[name].strip() for name in ("CapPrm", "CapEff", "CapBnd", "NoNewPrivs")},
            resource.getrlimit(resource.RLIMIT_CORE),
            resource.getrlimit(resource.RLIMIT_DATA)[1] // 1024**2,
        ]).encode()
    """)
    status, core, memory_mb = room.ask()
    assert status["NoNewPrivs"] == "1"
    assert (int(status["CapPrm"], 16), int(status["CapEff"], 16)) == (0, 0)
    assert core == [0, 0]
    assert memory_mb == 400


def test_only_the_two_pipes_are_inherited(enter: Enter) -> None:
    room = enter("""
        fds = "/proc/self/fd/"
        kinds = [attempt(lambda: os.readlink(fds + name)) for name in os.listdir(fds)]
        kinds = [kind.split(":")[0] for kind in kinds if kind != "ENOENT"]
        return json.dumps(sorted(kinds)).encode()
    """)
    assert room.ask() == ["/dev/null", "/dev/null", "/dev/null", "pipe", "pipe"]


def test_writing_outside_the_named_folders_is_refused(enter: Enter, tmp_path: Path) -> None:
    allowed = tmp_path / "allowed"
    allowed.mkdir()
    room = enter(
        f"""
        return json.dumps([
            attempt(lambda: open(path, "w").close())
            for path in ({str(tmp_path / "outside")!r}, {str(allowed / "inside")!r},
                         os.environ["HOME"] + "/cache", "/dev/null")
        ]).encode()
        """,
        writable=(allowed,),
    )
    found = room.ask()
    require(room.report.writes_confined)
    assert found == ["EACCES", None, None, None]
    assert not (tmp_path / "outside").exists()
    assert (allowed / "inside").exists()


def test_the_covers_do_not_appear_outside(enter: Enter, keys: Path) -> None:
    mounts = Path("/proc/self/mountinfo").read_text(encoding="utf-8")
    room = enter("return b'{}'", hide=(keys,))
    room.ask()
    assert Path("/proc/self/mountinfo").read_text(encoding="utf-8") == mounts


def test_settings_survive_the_command_line() -> None:
    settings = SandboxSettings(
        argv=("python", "-m", "x"),
        hide=("/keys with 'quotes'",),
        writable=None,
        scratch="/tmp/scratch",  # noqa: S108 - a name only
        memory_limit_mb=1,
        forbid_network=True,
        use_namespaces=False,
        lifeline_fd=3,
        report_fd=4,
        program_fds=(5, 6),
    )
    assert SandboxSettings.from_json(settings.to_json()) == settings


ORDINARY = """
import os, sys
from pathlib import Path
from client.worker import Worker
folder = Path(sys.argv[1])
with Worker([sys.executable, str(folder / "program.py")], environment={}, hide=[folder / "keys"],
            memory_limit_mb=400) as worker:
    print(worker.call(b"", timeout_s=20, on_progress=print).decode())
    print(worker.sandbox)
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_an_ordinary_user_gets_such_a_room_too() -> None:
    nobody = 65534
    checkout = Path(__file__).parents[2]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "keys").mkdir()
        (folder / "keys" / "signing.pem").write_text("the private key", encoding="utf-8")
        (folder / "program.py").write_text(
            PROGRAM.format(
                body=f"""
        path = {str(folder / "keys" / "signing.pem")!r}
        return json.dumps(attempt(lambda: open(path).read())).encode()
"""
            ),
            encoding="utf-8",
        )
        for path in (folder, *folder.rglob("*")):
            os.chown(path, nobody, nobody)

        def run(*arguments: str) -> subprocess.CompletedProcess[str]:
            return subprocess.run(
                ["/usr/bin/python3", *arguments],
                capture_output=True,
                text=True,
                check=False,
                user=nobody,
                group=nobody,
                extra_groups=[],
                cwd="/",
                env={"PYTHONPATH": str(checkout)},
            )

        probe = run("-c", "import sys, client; sys.exit(sys.version_info < (3, 11))")
        if probe.returncode:
            pytest.skip("no Python 3.11 or no checkout that everybody can read")
        result = run("-c", ORDINARY, str(folder))
    assert result.returncode == 0, result.stderr
    answer, report = result.stdout.splitlines()
    assert "dies_with_parent=True" in report
    if "keys_hidden=True" in report:
        assert answer in {'"ENOENT"', '"EACCES"'}
    if sandbox.filters_calls():
        assert "network_forbidden=True" in report


SLOW_KEEPER = """
import sys, time
from client import sandbox

close_all = sandbox._close_all

def slowly(*descriptors, **kept):
    time.sleep(0.5)
    close_all(*descriptors, **kept)

sandbox._close_all = slowly
sandbox.main(sandbox.SandboxSettings.from_json(sys.argv[1]))
"""


def test_a_room_whose_program_is_quick_outlives_a_slow_first_process(tmp_path: Path) -> None:
    """By then another /proc is mounted, in which the first process does not exist."""
    reading, writing = os.pipe()
    lifeline, held = os.pipe()
    settings = SandboxSettings(
        argv=(sys.executable, "-c", "pass"),
        hide=(),
        writable=None,
        scratch=str(tmp_path),
        memory_limit_mb=400,
        forbid_network=True,
        use_namespaces=True,
        lifeline_fd=lifeline,
        report_fd=writing,
        program_fds=(),
    )
    ended = subprocess.run(
        [sys.executable, "-c", SLOW_KEEPER, settings.to_json()],
        pass_fds=(lifeline, writing),
        check=False,
        timeout=30,
    )
    os.close(writing)
    assert ended.returncode == 0
    assert os.read(reading, 65536)
    for descriptor in (reading, lifeline, held):
        os.close(descriptor)
