"""The training process as the agent sees it: a warm child that turns a request into a reply.

The agent holds the keys and imports no torch; the child holds torch and, by `client.sandbox`, no
keys and no network. They speak over two pipes in frames: eight bytes of length, one byte of kind,
the content. The child's own output goes nowhere, because a third-party traceback may carry the
text of a record; for the same reason a failure comes back as names and line numbers:

- a FederationError tells its message, which by rule carries no record text;
- any other exception tells its type and the innermost line of our own packages, never its text,
  and ends the child;
- what the agent cannot read ends the child too. The next call starts a fresh one.

Start the program with `Worker(argv, ...)` and let it call `serve(make_handler)`.
"""

import contextlib
import json
import os
import re
import select
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType, TracebackType
from typing import Final, NoReturn, Self

from client import sandbox
from client.sandbox import SandboxReport, SandboxSettings
from privacy.errors import ConfigError, FederationError, RuleError, TrainingError

Progress = Mapping[str, object]
Handler = Callable[[bytes, Callable[[Progress], None]], bytes]

_HEADER: Final = struct.Struct("!QB")
_REQUEST, _REPLY, _PROGRESS, _FAILURE = b"Q"[0], b"R"[0], b"P"[0], b"F"[0]
_MAX_BYTES: Final = {
    _REQUEST: 1024 * 1024 * 1024,
    _REPLY: 1024 * 1024 * 1024,
    _PROGRESS: 8 * 1024,
    _FAILURE: 8 * 1024,
}
_FDS_VARIABLE: Final = "CLOISTER_WORKER_FDS"
# `client.connectors.feed` reads it on both sides; the agent's side may not import a connector.
_FEED_VARIABLE: Final = "CLOISTER_FEED_FD"
_PACKAGES: Final = frozenset({"client", "model", "privacy", "server"})
_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_.:-]{0,63}")
_PLACE: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_.]{0,120}:[0-9]{1,7}|")
_MAX_MESSAGE_CHARS: Final = 500
_MEMORY_RULE: Final = "memory-limit"
_ENDING_S: Final = 5.0

# What a library needs to run; everything else of the agent's environment (tokens, proxies,
# passwords) stays outside.
_INHERITED: Final = (
    "PATH", "LANG", "LC_ALL", "TZ", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "LD_LIBRARY_PATH",
    "CUDA_HOME", "CUDA_VISIBLE_DEVICES", "NVIDIA_VISIBLE_DEVICES", "NVIDIA_DRIVER_CAPABILITIES",
)  # fmt: skip
_QUIET: Final = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "DO_NOT_TRACK": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "PYTHONSAFEPATH": "1",  # a file in the current folder cannot stand in for a module
    "PYTHONDONTWRITEBYTECODE": "1",
}


class WorkerTimeoutError(TrainingError):
    """The training process did not answer in time and was ended."""


class WorkerUnprotectedError(TrainingError):
    """This platform lacks a protection that was demanded; the program saw no request."""

    def __init__(self, lacking: Sequence[str]) -> None:
        super().__init__(
            f"expected a training process with {', '.join(lacking)}, this platform has no way",
            hint="use a kernel with user namespaces or Landlock, or set require_sandbox = false",
        )


class WorkerProtocolError(TrainingError):
    """The training process wrote something that is no frame and was ended."""


class WorkerDiedError(TrainingError):
    """The training process ended without an answer.

    Attributes:
      exit_status: Its exit status, or None when a signal ended it.
      signal: The signal's number, or None.
    """

    def __init__(self, returncode: int | None) -> None:
        self.exit_status: int | None = None
        self.signal: int | None = None
        hint = ""
        if returncode is None:
            message = "the training process was stopped before it answered"
        elif returncode < 0 or returncode > sandbox.KILLED_BY:
            self.signal = -returncode if returncode < 0 else returncode - sandbox.KILLED_BY
            message = f"the training process was ended by signal {_signal_name(self.signal)}"
            hint = "memory has often run out: allow more in [compute] memory_limit_mb"
        else:
            self.exit_status = returncode
            message = f"the training process ended with exit status {returncode} and no answer"
        super().__init__(message, hint=hint)


class WorkerFailedError(TrainingError):
    """The training process reported a failure.

    Attributes:
      rule: The broken rule of a RuleError, `memory-limit`, or the name of the exception's type.
      place: `module:line` of the innermost frame in our packages, or an empty string.
    """

    def __init__(self, rule: str, place: str, message: str = "", *, hint: str = "") -> None:
        where = f" at {place}" if place else ""
        what = f": {message}" if message else ""
        super().__init__(f"the training process failed with {rule}{where}{what}", hint=hint)
        self.rule = rule
        self.place = place


def _signal_name(number: int) -> str:
    try:
        return f"{number} ({signal.Signals(number).name})"
    except ValueError:
        return str(number)


_NO_PROTECTION: Final = SandboxReport(
    network_forbidden=False,
    keys_hidden=False,
    dies_with_parent=False,
    descendants_die=False,
    memory_limited=False,
    writes_confined=False,
)


@dataclass(eq=False, kw_only=True, slots=True)
class _Child:
    """A running child and the agent's ends of its pipes."""

    process: subprocess.Popen[bytes]
    request_fd: int
    reply_fd: int
    lifeline_fd: int
    ended_fd: int
    scratch: str
    feeder: "_Feeder | None" = None
    report: SandboxReport = _NO_PROTECTION
    received: bytearray = field(default_factory=bytearray)
    is_cut: bool = False
    is_ended: bool = False
    _cutting: threading.Lock = field(default_factory=threading.Lock)

    def read_report(self, report_fd: int, deadline: float, timeout_s: float) -> None:
        """Wait until the sandbox is closed, and keep what it reports."""
        report = sandbox.read_report(_read_all(report_fd, deadline, timeout_s))
        if report is None:
            raise WorkerDiedError(self.await_end())
        self.report = report

    def has_ended(self) -> bool:
        """Whether the keeper ended; unreaped until `end`, so that its number stays its own."""
        try:
            state = os.waitid(os.P_PID, self.process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            return True
        return state is not None

    def await_end(self) -> int | None:
        """The exit status of a child that ends by itself; None for one that the agent ended."""
        ended_by_itself = not self.is_cut
        self._await_keeper()
        returncode = self.end()
        return returncode if ended_by_itself else None

    def cut(self) -> None:
        """Close the lifeline: the keeper ends everything. Safe from any thread, and twice."""
        with self._cutting:
            if not self.is_cut:
                self.is_cut = True
                os.close(self.lifeline_fd)

    def end(self) -> int:
        """End the child, wait until all of it is gone, and free what it held."""
        self.cut()
        if self.is_ended:
            return self.process.wait()
        self.is_ended = True
        self._await_keeper()
        # The keeper is not reaped yet, so its group still is the one we mean.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        returncode = self.process.wait()
        for descriptor in (self.request_fd, self.reply_fd, self.ended_fd):
            os.close(descriptor)
        shutil.rmtree(self.scratch, ignore_errors=True)
        if self.feeder is not None:
            self.feeder.end()
        return returncode

    def _await_keeper(self) -> None:
        poller = select.poll()
        poller.register(self.ended_fd, select.POLLIN)
        poller.poll(_ENDING_S * 1000)


@dataclass(frozen=True, kw_only=True, slots=True)
class Feed:
    """A program that stands beside the child and reads what the child may not reach.

    It runs in a room of its own that hides the same folders and lets it open connections. Child
    and program each find one end of a socket pair under `CLOISTER_FEED_FD`; nobody else has one.

    Attributes:
      argv: The program and its arguments.
      environment: Variables it needs beside the ones that every library needs.
    """

    argv: tuple[str, ...]
    environment: Mapping[str, str]


@dataclass(eq=False, kw_only=True, slots=True)
class _Feeder:
    """A running program of a `Feed`; the child's lifeline is its own too."""

    process: subprocess.Popen[bytes]
    scratch: str
    report: SandboxReport = _NO_PROTECTION

    def read_report(self, report_fd: int, deadline: float, timeout_s: float) -> None:
        """Wait until its sandbox is closed, and keep what it reports."""
        report = sandbox.read_report(_read_all(report_fd, deadline, timeout_s))
        if report is None:
            raise WorkerDiedError(self._wait())
        self.report = report

    def end(self) -> None:
        """Wait until it is gone, after the lifeline was cut."""
        self._wait()
        shutil.rmtree(self.scratch, ignore_errors=True)

    def stop(self) -> None:
        """End it while its lifeline is whole: the keeper's death takes the program along."""
        self.process.kill()
        self.end()

    def _wait(self) -> int:
        try:
            return self.process.wait(_ENDING_S)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            return self.process.wait()


class Worker:
    """Runs `argv` in a sandbox and keeps it warm; one call at a time, from any thread.

    Args:
      argv: The program, which calls `serve`; an absolute path first, such as `sys.executable`.
      environment: Variables the program needs beside the ones that every library needs.
      hide: Folders that the program must not see; they must exist.
      memory_limit_mb: Limit on the program's private memory, in MiB.
      forbid_network: False only where the program must reach the network.
      writable: Folders it may write to beside its home in memory, where the kernel can confine
        writing; None leaves writing to the file permissions.
      use_namespaces: False acts as a platform without them, for tests of the fallback.
      demand: Fields of `SandboxReport` without which the program is not run.
      feed: A program that reads for it what lies behind a network.
    """

    def __init__(
        self,
        argv: Sequence[str],
        *,
        environment: Mapping[str, str],
        hide: Sequence[Path],
        memory_limit_mb: int,
        forbid_network: bool = True,
        writable: Sequence[Path] | None = None,
        use_namespaces: bool = True,
        demand: Sequence[str] = (),
        feed: Feed | None = None,
    ) -> None:
        if not argv:
            raise ValueError("expected a program to run, got an empty argv")
        if memory_limit_mb < 1:
            raise ValueError(f"expected a memory limit of at least 1 MiB, got {memory_limit_mb}")
        self._argv = tuple(argv)
        self._environment = dict(environment)
        self._hide = tuple(hide)
        self._writable = None if writable is None else tuple(writable)
        self._memory_limit_mb = memory_limit_mb
        self._forbid_network = forbid_network
        self._use_namespaces = use_namespaces
        self._demand = tuple(demand)
        self._feed = feed
        self._child: _Child | None = None
        # Reentrant: on_progress may call stop().
        self._lock = threading.RLock()

    @property
    def pid(self) -> int | None:
        """Process id of the child's group leader, or None when no child runs."""
        child = self._child
        return None if child is None else child.process.pid

    @property
    def running(self) -> bool:
        """Whether a child is ready for a call without a start."""
        child = self._child
        return child is not None and not child.has_ended()

    @property
    def sandbox(self) -> SandboxReport | None:
        """Which protections are in force around the running child, or None when no child runs."""
        child = self._child
        return None if child is None else child.report

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    def start(self, *, timeout_s: float = 30.0) -> SandboxReport:
        """Start the child when it is not running, and return once its sandbox is closed.

        Raises:
          ConfigError: A folder to hide does not exist.
          WorkerUnprotectedError: A protection that `demand` names is not to be had here.
          WorkerDiedError: The sandbox could not be closed; nothing of the program ran.
          WorkerTimeoutError: It took longer than `timeout_s`.
        """
        with self._lock:
            if self._child is not None and self._child.has_ended():
                self.stop()
            if self._child is None:
                child = self._spawn(time.monotonic() + timeout_s, timeout_s)
                open_ = [name for name in self._demand if not getattr(child.report, name)]
                if child.feeder is not None:
                    open_ += [
                        f"{name} in the process that reads its records"
                        for name in self._demand
                        if name != "network_forbidden" and not getattr(child.feeder.report, name)
                    ]
                if open_:
                    child.end()
                    raise WorkerUnprotectedError(open_)
                self._child = child
            return self._child.report

    def call(
        self, request: bytes, *, timeout_s: float, on_progress: Callable[[Progress], None]
    ) -> bytes:
        """Send one request and return its reply; starts the child when it is not running.

        `on_progress` gets each progress message of the child: numbers and short names under short
        names. When it raises, the child is ended and the exception goes on.

        Raises:
          WorkerTimeoutError: No reply within `timeout_s`, start included; the child and its
            descendants are gone.
          WorkerDiedError: The child ended without a reply.
          WorkerFailedError: The child reported a failure; it stays warm after a FederationError.
          WorkerProtocolError: The child wrote something that is no frame; it is gone.
        """
        _check_size(_REQUEST, len(request))
        deadline = time.monotonic() + timeout_s
        with self._lock:
            self.start(timeout_s=timeout_s)
            child = self._child
            if child is None:  # stopped by another thread in between
                raise WorkerDiedError(None)
            try:
                return self._converse(child, request, deadline, timeout_s, on_progress)
            except WorkerFailedError:
                raise
            except BaseException:
                # The child is in the middle of something: what it would say next answers a call
                # that is over.
                self.stop()
                raise

    def stop(self) -> None:
        """End the child with all that it started, and wait for it.

        A call in another thread ends at once, with a WorkerDiedError.
        """
        child = self._child
        if child is not None:
            child.cut()  # outside the lock, which a call may hold for minutes
        with self._lock:
            child, self._child = self._child, None
            if child is not None:
                child.end()

    def _settings(
        self,
        scratch: str,
        lifeline_fd: int,
        report_fd: int,
        program_fds: tuple[int, ...],
        *,
        feed: Feed | None = None,
    ) -> SandboxSettings:
        """The room of the program, or of its feed."""
        hide = [folder.resolve() for folder in self._hide]
        for folder in hide:
            if not folder.is_dir():
                # It may be made later, full of keys, and the running child would see it.
                raise ConfigError(
                    f"expected a folder to hide from the training process, got {folder}"
                )
            if Path(scratch).is_relative_to(folder):
                raise ConfigError(
                    f"expected temporary files outside the hidden folder {folder}, got {scratch}",
                    hint="set TMPDIR to another folder",
                )
        outermost = [one for one in set(hide) if not any(other in one.parents for other in hide)]
        writable = self._writable
        return SandboxSettings(
            argv=self._argv if feed is None else feed.argv,
            hide=tuple(sorted(map(str, outermost))),
            writable=None
            if writable is None
            else tuple(str(folder.resolve()) for folder in writable),
            scratch=scratch,
            memory_limit_mb=self._memory_limit_mb,
            forbid_network=self._forbid_network and feed is None,
            use_namespaces=self._use_namespaces,
            lifeline_fd=lifeline_fd,
            report_fd=report_fd,
            program_fds=program_fds,
        )

    def _spawn(self, deadline: float, timeout_s: float) -> _Child:
        with contextlib.ExitStack() as ours, contextlib.ExitStack() as theirs:

            def pipe() -> tuple[int, int]:
                read_fd, write_fd = os.pipe()
                return read_fd, write_fd

            def keep(descriptor: int) -> int:
                ours.callback(os.close, descriptor)
                return descriptor

            def lend(descriptor: int) -> int:
                theirs.callback(os.close, descriptor)
                return descriptor

            scratch = str(Path(tempfile.mkdtemp(prefix="cloister-")).resolve())
            ours.callback(shutil.rmtree, scratch, ignore_errors=True)
            request_read, request_write = pipe()
            reply_read, reply_write = pipe()
            lifeline_read, lifeline_write = pipe()
            report_read, report_write = pipe()
            for descriptor in (request_write, reply_read, report_read):
                os.set_blocking(keep(descriptor), False)
            keep(lifeline_write)
            given: tuple[int, ...] = (request_read, reply_write, lifeline_read, report_write)
            for descriptor in given:
                lend(descriptor)
            environment = _environment(self._environment, scratch)
            environment[_FDS_VARIABLE] = f"{request_read},{reply_write}"
            program_fds: tuple[int, ...] = (request_read, reply_write)
            feeder, feed_report = None, -1
            if self._feed is not None:
                near, far = (lend(end.detach()) for end in socket.socketpair())
                environment[_FEED_VARIABLE] = str(near)
                program_fds, given = (*program_fds, near), (*given, near)
                feed_report, feed_report_write = pipe()
                os.set_blocking(keep(feed_report), False)
                feeder = self._start_feed(self._feed, lifeline_read, lend(feed_report_write), far)
                # Until there is a child, whose end is the feeder's too.
                ours.callback(feeder.stop)
            settings = self._settings(scratch, lifeline_read, report_write, program_fds)
            process = _launch(settings, given, environment)
            theirs.close()
            child = _Child(
                process=process,
                ended_fd=keep(os.pidfd_open(process.pid)),
                request_fd=request_write,
                reply_fd=reply_read,
                lifeline_fd=lifeline_write,
                scratch=scratch,
                feeder=feeder,
            )
            ours.pop_all()  # from here on child.end() closes them
        try:
            child.read_report(report_read, deadline, timeout_s)
            if feeder is not None:
                feeder.read_report(feed_report, deadline, timeout_s)
        except BaseException:
            child.end()
            raise
        finally:
            os.close(report_read)
            if feeder is not None:
                os.close(feed_report)
        return child

    def _start_feed(self, feed: Feed, lifeline_fd: int, report_fd: int, feed_fd: int) -> _Feeder:
        scratch = str(Path(tempfile.mkdtemp(prefix="cloister-")).resolve())
        settings = self._settings(scratch, lifeline_fd, report_fd, (feed_fd,), feed=feed)
        environment = _environment(feed.environment, scratch)
        environment[_FEED_VARIABLE] = str(feed_fd)
        process = _launch(settings, (lifeline_fd, report_fd, feed_fd), environment)
        return _Feeder(process=process, scratch=scratch)

    def _converse(
        self,
        child: _Child,
        request: bytes,
        deadline: float,
        timeout_s: float,
        on_progress: Callable[[Progress], None],
    ) -> bytes:
        """Write the request and read frames at once: either side may wait for the other."""
        unsent = [memoryview(_HEADER.pack(len(request), _REQUEST)), memoryview(request)]
        while True:
            frame = _take_frame(child.received)
            if frame is None:
                _exchange(child, unsent, deadline, timeout_s)
                continue
            kind, content = frame
            if kind == _PROGRESS:
                on_progress(_parse_progress(content))
                if self._child is not child:
                    raise WorkerDiedError(None)
            elif kind == _FAILURE:
                failure, fatal = _parse_failure(content, self._memory_limit_mb)
                if fatal or unsent:
                    self.stop()
                raise failure
            elif unsent or child.received:
                raise WorkerProtocolError(
                    "expected one reply to one request from the training process, got more"
                )
            else:
                return content


def _launch(
    settings: SandboxSettings, given: Sequence[int], environment: Mapping[str, str]
) -> subprocess.Popen[bytes]:
    """Start the script that closes a room and becomes its program."""
    # S603: argv is the site's own. A session of its own, so that a Ctrl-C at the agent is the
    # agent's to handle.
    return subprocess.Popen(  # noqa: S603
        [sys.executable, "-I", "-S", "-B", sandbox.__file__, settings.to_json()],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        pass_fds=given,
        env=dict(environment),
        cwd="/",
        start_new_session=True,
    )


def _environment(given: Mapping[str, str], scratch: str) -> dict[str, str]:
    """The program's whole environment."""
    inherited = {name: os.environ[name] for name in _INHERITED if name in os.environ}
    folders = {"HOME": scratch, "TMPDIR": scratch, "XDG_CACHE_HOME": scratch, "HF_HOME": scratch}
    root = Path(__file__).resolve().parent.parent
    # From a checkout the packages are found beside this one; installed ones are found anyway, and
    # must not come first.
    checkout = {} if root.name in {"site-packages", "dist-packages"} else {"PYTHONPATH": str(root)}
    return {"PATH": os.defpath} | inherited | _QUIET | checkout | folders | dict(given)


def _check_size(kind: int, size: int) -> None:
    if size > _MAX_BYTES[kind]:
        raise ValueError(f"expected a frame of at most {_MAX_BYTES[kind]} bytes, got {size}")


def _remaining_ms(deadline: float, timeout_s: float) -> int:
    """Milliseconds until `deadline`, at least one.

    Raises:
      WorkerTimeoutError: There are none left.
    """
    remaining_s = deadline - time.monotonic()
    if remaining_s <= 0:
        raise WorkerTimeoutError(
            f"the training process gave no answer within {timeout_s:g} s and was ended",
            hint="allow more time in [compute] round_limit_s, or more threads",
        )
    return min(int(remaining_s * 1000) + 1, 2**31 - 1)


def _read_all(descriptor: int, deadline: float, timeout_s: float) -> bytes:
    poller = select.poll()
    poller.register(descriptor, select.POLLIN)
    text = b""
    while True:
        if poller.poll(_remaining_ms(deadline, timeout_s)):
            chunk = os.read(descriptor, 65536)
            if not chunk:
                return text
            text += chunk


def _exchange(child: _Child, unsent: list[memoryview], deadline: float, timeout_s: float) -> None:
    """Wait until bytes can move, and move them in both directions.

    Raises:
      WorkerDiedError: Nothing more will come.
      WorkerTimeoutError: The deadline passed.
    """
    poller = select.poll()
    poller.register(child.reply_fd, select.POLLIN)
    poller.register(child.ended_fd, select.POLLIN)
    if unsent:
        poller.register(child.request_fd, select.POLLOUT)
    ready = dict(poller.poll(_remaining_ms(deadline, timeout_s)))
    if child.request_fd in ready:
        try:
            written = os.write(child.request_fd, unsent[0])
        except BrokenPipeError:
            poller.unregister(child.request_fd)
            ready |= dict(
                poller.poll(_remaining_ms(deadline, timeout_s))
            )  # it says why, or it ends
        else:
            unsent[0] = unsent[0][written:]
            while unsent and not unsent[0]:
                del unsent[0]
    if child.reply_fd in ready or child.ended_fd in ready:
        try:
            chunk = os.read(child.reply_fd, 1024 * 1024)
        except BlockingIOError:  # ended, and another process holds the pipe
            chunk = b""
        if not chunk:
            raise WorkerDiedError(child.await_end())
        child.received += chunk


def _take_frame(received: bytearray) -> tuple[int, bytes] | None:
    """Cut the first whole frame off `received`; None while it is incomplete."""
    if len(received) < _HEADER.size:
        return None
    size, kind = _HEADER.unpack_from(received)
    if kind not in (_REPLY, _PROGRESS, _FAILURE) or size > _MAX_BYTES[kind]:
        raise WorkerProtocolError(
            "expected a frame from the training process, got bytes that are none",
            hint="the program must write to its pipe through client.worker only",
        )
    end = _HEADER.size + size
    if len(received) < end:
        return None
    content = bytes(memoryview(received)[_HEADER.size : end])
    del received[:end]
    return kind, content


def _checked_progress(progress: object) -> dict[str, object]:
    """Progress as numbers and short names under short names.

    Raises:
      ValueError: It holds anything else, which might be text of a record.
    """
    if not isinstance(progress, Mapping) or len(progress) > 64:
        raise ValueError("expected progress as an object of at most 64 fields")
    for name, value in progress.items():
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise ValueError("expected short names of progress fields")
        if isinstance(value, str) and _NAME.fullmatch(value):
            continue
        if value is not None and not isinstance(value, bool | int | float):
            raise ValueError("expected a number or a short name in each progress field")
    return dict(progress)


def _parse_object(content: bytes, what: str) -> dict[str, object]:
    try:
        parsed = json.loads(content)
    except (ValueError, RecursionError):
        parsed = None
    if not isinstance(parsed, dict):
        raise WorkerProtocolError(f"expected {what} of the training process as a JSON object")
    return parsed


def _parse_progress(content: bytes) -> Progress:
    try:
        return _checked_progress(_parse_object(content, "progress"))
    except ValueError as error:
        raise WorkerProtocolError(f"{error} from the training process") from None


def _parse_failure(content: bytes, memory_limit_mb: int) -> tuple[WorkerFailedError, bool]:
    """The failure that a child reported, and whether the child ends with it."""
    fields = _parse_object(content, "a failure")
    texts = {name: fields.get(name) for name in ("rule", "place", "message", "hint")}
    rule, place, message, hint = (
        "".join(c if c.isprintable() else " " for c in text[:_MAX_MESSAGE_CHARS])
        if isinstance(text, str)
        else ""
        for text in texts.values()
    )
    if not _NAME.fullmatch(rule) or not _PLACE.fullmatch(place):
        raise WorkerProtocolError(
            "expected the rule and the place of a failure of the training process"
        )
    if rule == _MEMORY_RULE:
        message = f"it reached its memory limit of {memory_limit_mb} MiB"
        hint = "allow more in [compute] memory_limit_mb"
    return WorkerFailedError(rule, place, message, hint=hint), fields.get("fatal") is not False


# ── the child's side ───────────────────────────────────────────────────────────────────────────


class _Mouth:
    """Writes whole frames to the agent, from any thread."""

    def __init__(self, reply_fd: int) -> None:
        self._reply_fd = reply_fd
        self._lock = threading.Lock()

    def send(self, kind: int, content: bytes) -> None:
        _check_size(kind, len(content))
        with self._lock:
            for part in (_HEADER.pack(len(content), kind), content):
                view = memoryview(part)
                while view:
                    view = view[os.write(self._reply_fd, view) :]

    def progress(self, progress: Progress) -> None:
        self.send(_PROGRESS, json.dumps(_checked_progress(progress)).encode())

    def failure(self, error: BaseException, *, fatal: bool) -> None:
        fields: dict[str, object] = {"rule": _rule(error), "place": _place(error), "fatal": fatal}
        if isinstance(error, FederationError):
            fields |= {
                "message": str(error)[:_MAX_MESSAGE_CHARS],
                "hint": error.hint[:_MAX_MESSAGE_CHARS],
            }
        self.send(_FAILURE, json.dumps(fields).encode())


def _rule(error: BaseException) -> str:
    if isinstance(error, RuleError) and _NAME.fullmatch(error.rule):
        return error.rule
    # torch reports a refused allocation as a RuntimeError; its text is looked at here and goes no
    # further.
    refused = isinstance(error, RuntimeError) and "allocate memory" in str(error)
    if isinstance(error, MemoryError) or refused or type(error).__name__ == "OutOfMemoryError":
        return _MEMORY_RULE
    name = type(error).__name__
    return name if _NAME.fullmatch(name) else "Exception"


def _module(frame: FrameType) -> str:
    # Under `python -m` the module's name is __main__, and its specification has the real one.
    name = getattr(frame.f_globals.get("__spec__"), "name", None) or frame.f_globals.get(
        "__name__"
    )
    return name if isinstance(name, str) else ""


def _place(error: BaseException) -> str:
    """`module:line` of the innermost frame in our packages; other modules' may be made of data."""
    place, step = "", error.__traceback__
    while step is not None:
        module = _module(step.tb_frame)
        if module.partition(".")[0] in _PACKAGES and module != __name__:
            place = f"{module}:{step.tb_lineno}"
        step = step.tb_next
    return place if _PLACE.fullmatch(place) else ""


def _read_exactly(descriptor: int, size: int) -> bytearray | None:
    content = bytearray(size)
    view, filled = memoryview(content), 0
    while filled < size:
        chunk = os.readv(descriptor, [view[filled:]])
        if chunk == 0:
            return None
        filled += chunk
    return content


def _read_request(request_fd: int) -> bytes:
    """The next request; ends this process when the agent has closed the pipe."""
    header = _read_exactly(request_fd, _HEADER.size)
    if header is None:
        sys.exit(0)
    size, kind = _HEADER.unpack(header)
    if kind != _REQUEST or size > _MAX_BYTES[_REQUEST]:
        raise WorkerProtocolError("expected a request frame from the agent")
    content = _read_exactly(request_fd, size)
    if content is None:
        sys.exit(0)
    return bytes(content)


def serve(make_handler: Callable[[], Handler]) -> NoReturn:
    """Answer the agent's requests for ever; the program of a `Worker` ends here.

    `make_handler` is where torch is imported and the model is loaded: what fails there is reported
    like what fails in a call. The handler gets the request and a function that sends progress, and
    returns the reply.
    """
    request_fd, reply_fd = (int(number) for number in os.environ.pop(_FDS_VARIABLE).split(","))
    for descriptor in (request_fd, reply_fd):
        os.set_inheritable(descriptor, False)
    mouth = _Mouth(reply_fd)
    # Given back when an allocation fails, so that there is room to say so.
    ballast = [bytearray(1024 * 1024)]

    def report(
        kind: type[BaseException], error: BaseException, traceback: TracebackType | None
    ) -> None:
        ballast.clear()
        mouth.failure(error, fatal=True)

    # In place of the default hook, which would print the exception's text: after an exception that
    # nobody foresaw the process is in a state that nobody foresaw, so it reports and ends.
    sys.excepthook = report
    handle = make_handler()
    while True:
        request = _read_request(request_fd)
        try:
            reply = handle(request, mouth.progress)
        except FederationError as error:
            mouth.failure(error, fatal=False)
        else:
            mouth.send(_REPLY, reply)
