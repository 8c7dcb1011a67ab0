"""The room in which training runs: no keys, no network, no way to outlive the agent.

The agent starts this file as a script (`python -I -S client/sandbox.py SETTINGS`); it closes the
room from inside and only then becomes the training program, so that no line of that program, and
none of its libraries, runs outside. Therefore it imports nothing but the standard library. Three
processes stand between agent and program, two of them asleep:

    agent --lifeline pipe--> keeper --SIGKILL on its death--> first (process 1 of its namespace)
    --same--> program

The strongest means that the platform has is tried first, and what came of it is reported, never
assumed:

1. Namespaces (user, mount, network, process, IPC): a folder of keys is covered by an empty
   read-only file system, the network has no interface, other processes do not exist, and whatever
   the program starts dies with `first`.
2. Where a container forbids namespaces: Landlock hides the folders, and descendants are collected
   by the keeper.
3. Always: a seccomp filter against sockets and against looking into other processes, no
   capabilities, no new privileges, no core dump, a limit on memory.

What it does not do: root without capabilities still owns root's files, so run the agent as a user
of its own; and memory that is shared with the GPU or lies in files is not counted.

Sources: namespaces(7), landlock(7), seccomp(2), capabilities(7), pid_namespaces(7).
"""

import contextlib
import ctypes
import errno
import json
import os
import platform
import resource
import select
import shutil
import signal
import socket
import struct
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NoReturn

_LIBC = ctypes.CDLL(None, use_errno=True)

_NEW_MOUNT, _NEW_IPC, _NEW_USER, _NEW_PID, _NEW_NET = (
    0x20000,
    0x8000000,
    0x10000000,
    0x20000000,
    0x40000000,
)
_MS_RDONLY, _MS_NOSUID, _MS_NODEV, _MS_NOEXEC, _MS_REC, _MS_PRIVATE = (
    0x1,
    0x2,
    0x4,
    0x8,
    0x4000,
    0x40000,
)
_QUIET_MOUNT = _MS_NOSUID | _MS_NODEV | _MS_NOEXEC

_PR_SET_PDEATHSIG, _PR_SET_SECCOMP, _PR_CAPBSET_DROP = 1, 22, 24
_PR_SET_CHILD_SUBREAPER, _PR_SET_NO_NEW_PRIVS, _PR_CAP_AMBIENT = 36, 38, 47
_SECCOMP_MODE_FILTER, _PR_CAP_AMBIENT_CLEAR_ALL, _LAST_CAPABILITY = 2, 4, 63

# By machine: the audit name of its system calls, and the numbers of those that are refused.
# io_uring opens sockets without the system call socket; the last four read the memory or the
# descriptors of another process of the same user.
_SECCOMP_ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_SOCKET_CALL = {"x86_64": 41, "aarch64": 198}
_NETWORK_CALLS = {"x86_64": (42, 425), "aarch64": (203, 425)}  # connect, io_uring_setup
_PROCESS_CALLS = {"x86_64": (101, 310, 311, 438), "aarch64": (117, 270, 271, 438)}
_KEYRING_CALLS = {"x86_64": (248, 249, 250), "aarch64": (217, 218, 219)}

_LANDLOCK_CREATE, _LANDLOCK_ADD, _LANDLOCK_RESTRICT = 444, 445, 446
_LANDLOCK_READ = 0b1101  # execute, read a file, list a folder
_LANDLOCK_FILE = (
    0b100_0000_0000_0111  # what may be allowed on a single file: execute, write, read, truncate
)
_LANDLOCK_SCOPES = 0b11  # abstract sockets and signals of others

_SCRATCH_BYTES = 256 * 1024 * 1024
KILLED_BY = 128
"""The keeper's exit status is this plus the signal that ended the program, as a shell has it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SandboxReport:
    """Which protections are in force, as found inside the room before the training program began.

    Attributes:
      network_forbidden: No connection to any host, this one included, can be opened.
      keys_hidden: The hidden folders can be neither listed nor read.
      dies_with_parent: The program ends when the agent ends, however that happens.
      descendants_die: So does everything that the program started, whatever session it moved to (a
        process namespace).
      memory_limited: An allocation beyond the limit fails.
      writes_confined: Nothing can be written outside the scratch folder and the folders that were
        named.
    """

    network_forbidden: bool
    keys_hidden: bool
    dies_with_parent: bool
    descendants_die: bool
    memory_limited: bool
    writes_confined: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class SandboxSettings:
    """What the room must keep out, and how the agent reaches it. Paths are absolute and resolved.

    Attributes:
      argv: The training program and its arguments.
      hide: Folders the program must not see; none lies in another.
      writable: Folders it may write to beside `scratch`; None leaves writing to the file
        permissions.
      scratch: Its empty home, in memory only where namespaces are allowed.
      memory_limit_mb: Limit on private writable memory, in MiB.
      forbid_network: Whether it may open no connection.
      use_namespaces: False acts as a platform that forbids them, for tests of the fallback.
      lifeline_fd: Read end of a pipe that the agent holds open as long as it lives.
      report_fd: Write end on which the report leaves, closed when the program begins.
      program_fds: Descriptors that the program inherits.
    """

    argv: tuple[str, ...]
    hide: tuple[str, ...]
    writable: tuple[str, ...] | None
    scratch: str
    memory_limit_mb: int
    forbid_network: bool
    use_namespaces: bool
    lifeline_fd: int
    report_fd: int
    program_fds: tuple[int, ...]

    def to_json(self) -> str:
        """One line that `from_json` reads."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "SandboxSettings":
        """The settings that `to_json` wrote, from the agent's own command line."""
        fields: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value
            for name, value in json.loads(text).items()
        }
        return cls(**fields)


def _check(result: int) -> int:
    """The result of a C call.

    Raises:
      OSError: It failed; `errno` says why.
    """
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


def _prctl(option: int, *arguments: int) -> None:
    # All five are unsigned long: left to ctypes' default, the upper halves would be whatever was
    # on the stack.
    padded = (*arguments, 0, 0, 0, 0)[:4]
    _check(_LIBC.prctl(option, *(ctypes.c_ulong(argument) for argument in padded)))


def _mount(kind: str, target: str, flags: int, options: str = "") -> None:
    _check(
        _LIBC.mount(
            kind.encode(),
            os.fsencode(target),
            kind.encode(),
            ctypes.c_ulong(flags),
            options.encode(),
        )
    )


# ── namespaces ─────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, kw_only=True, slots=True)
class _Namespaces:
    """One way to be alone: each namespace that a platform may forbid is on or off.

    Attributes:
      user: A user namespace, without which only root can have the others.
      process: A process namespace, which takes all its processes along at its end.
    """

    user: bool
    process: bool

    def flags(self, *, network: bool) -> int:
        """The flags of unshare(2)."""
        chosen = _NEW_MOUNT | _NEW_IPC
        chosen |= _NEW_USER if self.user else 0
        chosen |= _NEW_PID if self.process else 0
        return chosen | (_NEW_NET if network else 0)


def _enter_namespaces(chosen: _Namespaces, settings: SandboxSettings) -> None:
    """Move this process into new namespaces and cover the folders.

    A process namespace begins with the next child. A covered folder must stay where it is: when it
    is renamed outside, the kernel lifts the cover.
    """
    user_id, group_id = os.geteuid(), os.getegid()
    _check(_LIBC.unshare(chosen.flags(network=settings.forbid_network)))
    if chosen.user:
        # Each name is mapped to itself, so that the data folder still belongs to the user who
        # reads it.
        Path("/proc/self/setgroups").write_text("deny", encoding="ascii")
        Path("/proc/self/uid_map").write_text(f"{user_id} {user_id} 1", encoding="ascii")
        Path("/proc/self/gid_map").write_text(f"{group_id} {group_id} 1", encoding="ascii")
    # Without this the covers would appear in the agent's own file system on hosts that share
    # mounts, as systemd does.
    _mount("none", "/", _MS_REC | _MS_PRIVATE)
    for folder in settings.hide:
        _mount("tmpfs", folder, _QUIET_MOUNT | _MS_RDONLY, "size=4k,mode=0555")
    _mount("tmpfs", settings.scratch, _QUIET_MOUNT, f"size={_SCRATCH_BYTES},mode=0700")


def _mount_processes() -> None:
    """Show only the processes of the new namespace: /proc leads to no file of the agent's."""
    _mount("proc", "/proc", _QUIET_MOUNT | _MS_RDONLY)


def _works(chosen: _Namespaces, settings: SandboxSettings) -> bool:
    """Whether a throw-away child can enter `chosen`: what is half entered cannot be left."""
    child = os.fork()
    if child == 0:
        with contextlib.suppress(OSError):
            _enter_namespaces(chosen, settings)
            if chosen.process:
                grandchild = os.fork()
                if grandchild == 0:
                    with contextlib.suppress(OSError):
                        _mount_processes()
                        os._exit(0)
                    os._exit(1)
                os._exit(0 if os.waitpid(grandchild, 0)[1] == 0 else 1)
            os._exit(0)
        os._exit(1)
    return os.waitpid(child, 0)[1] == 0


def _choose_namespaces(settings: SandboxSettings) -> _Namespaces | None:
    if not settings.use_namespaces:
        return None
    for process in (True, False):
        for user in (False, True):
            chosen = _Namespaces(user=user, process=process)
            if _works(chosen, settings):
                return chosen
    return None


# ── Landlock ───────────────────────────────────────────────────────────────────────────────────


def _visible(folder: str, hide: Sequence[str]) -> Iterator[str]:
    """The largest folders and files at or under `folder` that hold none of `hide`."""
    if folder in hide:
        return
    prefix = folder.rstrip("/") + "/"
    if not any(hidden.startswith(prefix) for hidden in hide):
        yield folder
        return
    with os.scandir(folder) as entries:
        # A link would lend its right to what it points at, maybe to a hidden folder; the target
        # has its own right.
        below = [entry.path for entry in entries if not entry.is_symlink()]
    for path in below:
        yield from _visible(path, hide)


def _allow(ruleset: int, path: str, rights: int) -> None:
    try:
        opened = os.open(path, os.O_PATH | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return  # it went away or cannot be reached: no right on it is needed
    try:
        if not os.path.isdir(f"/proc/self/fd/{opened}"):
            rights &= _LANDLOCK_FILE
        rule = ctypes.create_string_buffer(struct.pack("=Qi", rights, opened))
        _check(_LIBC.syscall(_LANDLOCK_ADD, ruleset, 1, ctypes.byref(rule), 0))
    finally:
        os.close(opened)


def _restrict_files(settings: SandboxSettings) -> bool:
    """Hide folders and confine writing by Landlock; False where the kernel has none.

    Files that appear later beside a hidden folder cannot be read either: rights are given to what
    exists now.
    """
    version = _LIBC.syscall(_LANDLOCK_CREATE, None, ctypes.c_size_t(0), 1)
    if version < 1:
        return False
    every_right = (1 << 13) - 1
    every_right |= (1 << 13 if version >= 2 else 0) | (1 << 14 if version >= 3 else 0)
    attributes = struct.pack("=Q", every_right)
    if version >= 6:
        attributes = struct.pack("=QQQ", every_right, 0, _LANDLOCK_SCOPES)
    buffer = ctypes.create_string_buffer(attributes, len(attributes))
    ruleset = _check(
        _LIBC.syscall(_LANDLOCK_CREATE, ctypes.byref(buffer), ctypes.c_size_t(len(attributes)), 0)
    )
    try:
        elsewhere = every_right if settings.writable is None else _LANDLOCK_READ
        for path in _visible("/", settings.hide):
            _allow(ruleset, path, elsewhere)
        for path in (settings.scratch, "/dev", *(settings.writable or ())):
            _allow(ruleset, path, every_right)
        _check(_LIBC.syscall(_LANDLOCK_RESTRICT, ruleset, 0))
    finally:
        os.close(ruleset)
    return True


# ── system calls, capabilities, limits ─────────────────────────────────────────────────────────


class _FilterProgram(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_char_p))


def _filter_steps(machine: str, *, network: bool) -> bytes:
    """The filter's program (classic BPF) for the calls of `machine`.

    Local sockets may be made, because the CUDA driver binds one, but not connected; datagram
    sockets need no connection and may not be made.
    """
    # BPF names them ld, jeq, jge, and, ret.
    load, equal, at_least, bits, answer = 0x20, 0x15, 0x35, 0x54, 0x06
    refused = [*_PROCESS_CALLS[machine], *_KEYRING_CALLS[machine]]
    refused += _NETWORK_CALLS[machine] if network else ()
    # Each step is (operation, operand, where to go when true, when false); None is the next step.
    steps: list[tuple[int, int, str | None, str | None]] = [
        (load, 4, None, None),  # the architecture
        (equal, _SECCOMP_ARCH[machine], None, "refuse"),
        (load, 0, None, None),  # the call's number
        (at_least, 0x40000000, "refuse", None),  # the same calls under the numbers of x32
        *((equal, number, "refuse", None) for number in refused),
    ]
    if network:
        steps += [
            (equal, _SOCKET_CALL[machine], None, "allow"),
            (load, 16, None, None),  # its first argument, the family
            (equal, socket.AF_UNIX, None, "refuse"),
            (load, 24, None, None),  # the type, with flags above the low four bits
            (bits, 0xF, None, None),
            (equal, socket.SOCK_DGRAM, "refuse", None),
        ]
    ends = {"allow": len(steps), "refuse": len(steps) + 1}
    steps += [(answer, 0x7FFF0000, None, None), (answer, 0x00050000 | errno.EACCES, None, None)]

    def distance(place: int, target: str | None) -> int:
        return 0 if target is None else ends[target] - place - 1

    return b"".join(
        struct.pack("=HBBI", operation, distance(place, yes), distance(place, no), operand)
        for place, (operation, operand, yes, no) in enumerate(steps)
    )


def filters_calls() -> bool:
    """Whether the numbers of this machine's system calls are known."""
    return platform.machine() in _SECCOMP_ARCH


def _refuse_calls(*, network: bool) -> bool:
    """Let connections and looks into other processes fail with EACCES.

    False where the kernel has no filter or the machine's call numbers are unknown.
    """
    if not filters_calls():
        return False
    steps = _filter_steps(platform.machine(), network=network)
    program = _FilterProgram(len(steps) // 8, steps)
    mode = ctypes.c_ulong(_SECCOMP_MODE_FILTER)
    result: int = _LIBC.prctl(_PR_SET_SECCOMP, mode, ctypes.byref(program), 0, 0)
    return result == 0


def _drop_capabilities() -> None:
    """Give up every capability for good: with some, root could lift the covers."""
    for capability in range(_LAST_CAPABILITY + 1):
        with contextlib.suppress(OSError):  # not held, or unknown to this kernel
            _prctl(_PR_CAPBSET_DROP, capability)
    with contextlib.suppress(OSError):
        _prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL)
    header = ctypes.create_string_buffer(struct.pack("=Ii", 0x20080522, 0))
    nothing = ctypes.create_string_buffer(24)
    _check(_LIBC.capset(ctypes.byref(header), ctypes.byref(nothing)))


def _limit_memory(memory_limit_mb: int) -> bool:
    """Bound private writable memory, not the address space: torch reserves more than it uses."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    wanted = memory_limit_mb * 1024 * 1024
    hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
    if hard != resource.RLIM_INFINITY:
        wanted = min(wanted, hard)
    resource.setrlimit(resource.RLIMIT_DATA, (wanted, wanted))
    return resource.getrlimit(resource.RLIMIT_DATA) == (wanted, wanted)


def _prefer_as_victim() -> None:
    # When the host runs out of memory the kernel should end the training, which restarts, and not
    # the agent.
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("500", encoding="ascii")


def _is_empty(folder: str) -> bool:
    try:
        return not os.listdir(folder)
    except OSError:
        return True


# ── the three processes ────────────────────────────────────────────────────────────────────────


def _open_descriptors() -> tuple[int, ...]:
    return tuple(int(name) for name in os.listdir("/proc/self/fd"))


def _close_all(descriptors: Sequence[int], *, but: Sequence[int] = ()) -> None:
    for descriptor in set(descriptors) - {0, 1, 2, *but}:
        with contextlib.suppress(OSError):  # the one that listed them
            os.close(descriptor)


def _exit_like(status: int) -> NoReturn:
    """End with the status of a child, as the agent reads it."""
    code = os.waitstatus_to_exitcode(status)
    os._exit(code if code >= 0 else KILLED_BY - code)


def _become_program(
    settings: SandboxSettings, *, parent: int, namespaces: _Namespaces | None
) -> NoReturn:
    """Close the room, report, and exec the training program; returns to nobody."""
    try:
        _prctl(_PR_SET_NO_NEW_PRIVS, 1)
        restricted = False
        if namespaces is None or settings.writable is not None:
            restricted = _restrict_files(settings)
        memory_limited = _limit_memory(settings.memory_limit_mb)
        _drop_capabilities()
        # After the capabilities: a change of credentials clears the signal.
        _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(KILLED_BY + signal.SIGKILL)  # the parent died before the line above
        filtered = _refuse_calls(network=settings.forbid_network)
        hidden = (namespaces is not None or restricted) and all(
            _is_empty(folder) for folder in settings.hide
        )
        report = SandboxReport(
            network_forbidden=settings.forbid_network and (filtered or namespaces is not None),
            keys_hidden=hidden,
            dies_with_parent=True,
            descendants_die=namespaces is not None and namespaces.process,
            memory_limited=memory_limited,
            writes_confined=restricted and settings.writable is not None,
        )
        os.chdir(settings.scratch)
        os.write(settings.report_fd, json.dumps(asdict(report)).encode())
        for descriptor in settings.program_fds:
            os.set_inheritable(descriptor, True)
        os.set_inheritable(settings.report_fd, False)
        os.execvp(settings.argv[0], settings.argv)  # noqa: S606 - no shell is wanted
    finally:
        os._exit(127)


def _become_first(
    settings: SandboxSettings,
    *,
    namespaces: _Namespaces,
    keeper_alive: int,
    descriptors: Sequence[int],
) -> NoReturn:
    """Be process 1 of the namespace: start the program, bury its dead, take all along."""
    try:
        _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        # The parent lies outside the namespace, so getppid says 0 dead or alive; its end of this
        # pipe tells.
        if select.select([keeper_alive], [], [], 0)[0]:
            os._exit(KILLED_BY + signal.SIGKILL)
        _prefer_as_victim()
        _mount_processes()
        program = os.fork()
        if program == 0:
            _become_program(settings, parent=1, namespaces=namespaces)
        _close_all(descriptors)
        while True:
            ended, status = os.wait()
            if ended == program:
                _exit_like(status)
    finally:
        os._exit(126)


def _end_descendants() -> None:
    """Kill and bury all that is left; as subreaper this process inherits each orphan in turn."""
    own = os.getpid()
    children = Path(f"/proc/{own}/task/{own}/children")
    while True:
        with contextlib.suppress(OSError):
            for child in children.read_text(encoding="ascii").split():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(child), signal.SIGKILL)
        try:
            os.wait()
        except ChildProcessError:
            return


def _clear(scratch: str) -> None:
    """Remove the program's home, which a killed agent cannot do."""
    _LIBC.umount2(os.fsencode(scratch), 0)  # in this mount namespace; fails where there is none
    shutil.rmtree(scratch, ignore_errors=True)


def _keep(child: int, settings: SandboxSettings) -> NoReturn:
    """Sleep until the program or the agent ends, then leave no process behind."""
    child_ended = os.pidfd_open(child)
    ready, _, _ = select.select([settings.lifeline_fd, child_ended], [], [])
    if child_ended not in ready:
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    _end_descendants()
    _clear(settings.scratch)
    _exit_like(status)


def main(settings: SandboxSettings) -> NoReturn:
    """Run the program in the strongest room that this platform allows, and end as it ends."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)
    namespaces = _choose_namespaces(settings)
    if namespaces is not None:
        _enter_namespaces(namespaces, settings)
    keeper_alive, keeper_end = os.pipe()
    own = os.getpid()
    # Before the fork: process 1 mounts a /proc of its namespace over this one, in which this
    # process does not exist.
    descriptors = _open_descriptors()
    child = os.fork()
    if child == 0:
        os.close(keeper_end)
        os.close(settings.lifeline_fd)
        if namespaces is not None and namespaces.process:
            _become_first(
                settings,
                namespaces=namespaces,
                keeper_alive=keeper_alive,
                descriptors=descriptors,
            )
        _prefer_as_victim()
        _become_program(settings, parent=own, namespaces=namespaces)
    # The program's pipes must be its own: a copy here would hide its end from the agent.
    _close_all(descriptors, but=(settings.lifeline_fd, keeper_end))
    _keep(child, settings)


def read_report(text: bytes) -> SandboxReport | None:
    """The report written just before the program began, or None when it did not get that far."""
    if not text:
        return None
    fields: Mapping[str, bool] = json.loads(text)
    return SandboxReport(**fields)


if __name__ == "__main__":
    main(SandboxSettings.from_json(sys.argv[1]))
