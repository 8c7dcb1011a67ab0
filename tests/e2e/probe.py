"""What a process does and what a folder holds, as the kernel and the bytes tell it."""

import base64
import os
import signal
import struct
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

_LISTENING = 0x0A
_H2_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_H2_DATA, _H2_PADDED = 0, 0x08


@dataclass(frozen=True, kw_only=True)
class Socket:
    """A TCP or UDP socket of a process; the address as the kernel writes it."""

    protocol: str
    local: str
    local_port: int
    remote_port: int
    listening: bool


def descendants(pid: int) -> list[int]:
    """Every process that descends from `pid`, without it."""
    children = defaultdict(list)
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text(errors="replace").rpartition(")")[2].split()
            except OSError:
                continue
            children[int(fields[1])].append(int(entry.name))
    found, waiting = [], [pid]
    while waiting:
        born = children[waiting.pop()]
        found += born
        waiting += born
    return found


def command_line(pid: int) -> list[bytes]:
    """The arguments of a process; none once it has ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[:-1]
    except OSError:
        return []


def client_apps(agent_pid: int) -> list[int]:
    """The processes under an agent that run the ClientApp itself, not the room around it."""
    found = []
    for pid in descendants(agent_pid):
        match command_line(pid)[-2:]:
            case [b"-m", program] if program.startswith(b"client."):
                found.append(pid)
    return found


def kill(pid: int) -> None:
    """End a process as `kill -9` does."""
    os.kill(pid, signal.SIGKILL)


def freeze(pid: int) -> None:
    """Let a process do nothing any more, and not end."""
    os.kill(pid, signal.SIGSTOP)


def thaw(pid: int) -> None:
    """Let a frozen process go on."""
    os.kill(pid, signal.SIGCONT)


def sockets(pid: int) -> list[Socket]:
    """The TCP and UDP sockets that a process holds, in whichever network it lives."""
    inodes = set()
    for link in Path(f"/proc/{pid}/fd").iterdir():
        try:
            target = os.readlink(link)
        except OSError:
            continue
        if target.startswith("socket:["):
            inodes.add(target[8:-1])
    found = []
    for protocol in ("tcp", "tcp6", "udp", "udp6"):
        try:
            rows = Path(f"/proc/{pid}/net/{protocol}").read_text().splitlines()[1:]
        except OSError:
            continue
        for row in rows:
            fields = row.split()
            if fields[9] in inodes:
                local, _, local_port = fields[1].partition(":")
                found.append(
                    Socket(
                        protocol=protocol[:3],
                        local=local,
                        local_port=int(local_port, 16),
                        remote_port=int(fields[2].partition(":")[2], 16),
                        listening=int(fields[3], 16) == _LISTENING,
                    )
                )
    return found


def disguises(text: str) -> dict[str, bytes]:
    """The bytes as which `text` could stand in a file or a message, by the name of the form."""
    raw = text.encode()
    found = {
        "as it is": raw,
        "lower case": text.lower().encode(),
        "UTF-16": text.encode("utf-16-le"),
        "hexadecimal": raw.hex().encode(),
        "reversed": raw[::-1],
    }
    for shift in range(3):
        # The characters at both ends also depend on the neighbours' bits.
        whole = base64.b64encode(b"\0" * shift + raw)
        first, last = (0, 2, 3)[shift], len(whole) - 4 * bool((shift + len(raw)) % 3)
        found[f"base64 at {shift}"] = whole[first:last]
        found[f"URL base64 at {shift}"] = whole[first:last].replace(b"+", b"-").replace(b"/", b"_")
    return found


def token_bytes(ids: Iterable[int]) -> dict[str, bytes]:
    """The bytes as which token ids could stand in a tensor or a list."""
    numbers = list(ids)
    packed = {
        f"tokens as {code}": struct.pack(f"<{len(numbers)}{code}", *numbers) for code in "HIqfd"
    }
    return packed | {"tokens as JSON": ", ".join(map(str, numbers)).encode()}


def files(root: Path, *, without: Iterable[Path] = ()) -> Iterator[Path]:
    """Every regular file under `root`, but for the folders `without`."""
    left_out = set(without)
    for folder, names, leaves in os.walk(root):
        names[:] = [name for name in names if Path(folder) / name not in left_out]
        for leaf in leaves:
            path = Path(folder) / leaf
            if path.is_file() and not path.is_symlink():
                yield path


def sightings(paths: Iterable[Path], needles: Mapping[str, bytes]) -> list[tuple[Path, str]]:
    """Files that hold one of `needles` in their name or in their bytes, with the needle's name."""
    found = []
    for path in paths:
        try:
            content = os.fsencode(path) + b"\0" + path.read_bytes()
        except (FileNotFoundError, PermissionError):
            continue  # gone by now, or another user's, whom these processes cannot write for
        found += [(path, name) for name, needle in needles.items() if needle in content]
    return found


def streams(recorded: bytes) -> dict[int, bytes]:
    """The bodies in one direction of an HTTP/2 connection, by stream, without the framing."""
    bodies: dict[int, bytes] = defaultdict(bytes)
    place = len(_H2_PREFACE) if recorded.startswith(_H2_PREFACE) else 0
    while place + 9 <= len(recorded):
        size = int.from_bytes(recorded[place : place + 3], "big")
        kind, flags = recorded[place + 3], recorded[place + 4]
        stream = int.from_bytes(recorded[place + 5 : place + 9], "big") & 0x7FFFFFFF
        body = recorded[place + 9 : place + 9 + size]
        if kind == _H2_DATA:
            padding = body[0] if flags & _H2_PADDED else 0
            bodies[stream] += body[1 : len(body) - padding] if flags & _H2_PADDED else body
        place += 9 + size
    return dict(bodies)


def messages(body: bytes) -> Iterator[tuple[bool, bytes]]:
    """The gRPC messages of a body: whether each is compressed, and its bytes."""
    place = 0
    while place + 5 <= len(body):
        compressed, size = struct.unpack_from(">?I", body, place)
        yield compressed, body[place + 5 : place + 5 + size]
        place += 5 + size
