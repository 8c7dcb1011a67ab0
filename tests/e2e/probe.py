"""What a process does and what a folder holds, as the kernel and the bytes tell it."""

import base64
import contextlib
import json
import os
import shutil
import signal
import sqlite3
import struct
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import numpy as np

_LISTENING = 0x0A
_H2_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_H2_DATA, _H2_PADDED = 0, 0x08
_HEAD_BYTES = 6
_CHUNK_BYTES = 8_000_000


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
        "HEXADECIMAL": raw.hex().upper().encode(),
        "reversed": raw[::-1],
        "full width": "".join(map(_wide, text)).encode(),
        "escaped for JSON": json.dumps(text)[1:-1].encode(),
        "escaped for an address": quote(text, safe="").encode(),
        "GB 18030": text.encode("gb18030"),
    }
    for shift in range(3):
        # The characters at both ends also depend on the neighbours' bits.
        whole = base64.b64encode(b"\0" * shift + raw)
        first, last = (0, 2, 3)[shift], len(whole) - 4 * bool((shift + len(raw)) % 3)
        found[f"base64 at {shift}"] = whole[first:last]
        found[f"URL base64 at {shift}"] = whole[first:last].replace(b"+", b"-").replace(b"/", b"_")
    return found


def _wide(character: str) -> str:
    """The full-width form of a character that has one."""
    return chr(ord(character) + 0xFEE0) if "!" <= character <= "~" else character


def token_bytes(ids: Iterable[int]) -> dict[str, bytes]:
    """The bytes as which token ids could stand in a tensor or a list."""
    numbers = list(ids)
    packed = {
        f"tokens as {code}": struct.pack(f"<{len(numbers)}{code}", *numbers) for code in "HIqfd"
    }
    return packed | {
        f"tokens as {form}": joint.join(map(str, numbers)).encode()
        for form, joint in (("JSON", ", "), ("short JSON", ","))
    }


def files(root: Path, *, without: Iterable[Path] = ()) -> Iterator[Path]:
    """Every regular file under `root`, but for the folders `without`."""
    left_out = set(without)
    for folder, names, leaves in os.walk(root):
        names[:] = [name for name in names if Path(folder) / name not in left_out]
        for leaf in leaves:
            path = Path(folder) / leaf
            if path.is_file() and not path.is_symlink():
                yield path


class Search:
    """Looks for thousands of byte strings at once.

    Six bytes of each are its anchor, those that differ most. Three small tables say which pairs of
    bytes an anchor is made of; only where three of them follow each other is anything compared.
    """

    def __init__(self, needles: Mapping[str, bytes]) -> None:
        self._anchored: dict[bytes, list[tuple[str, bytes, int]]] = defaultdict(list)
        self._pairs = [np.zeros(1 << 16, dtype=bool) for _ in range(_HEAD_BYTES // 2)]
        for name, needle in needles.items():
            if len(needle) < _HEAD_BYTES:
                raise ValueError(f"expected at least {_HEAD_BYTES} bytes of {name}")
            varied = [
                len(set(needle[at : at + _HEAD_BYTES]))
                for at in range(len(needle) - _HEAD_BYTES + 1)
            ]
            offset = varied.index(max(varied))
            anchor = needle[offset : offset + _HEAD_BYTES]
            self._anchored[anchor].append((name, needle, offset))
            for number, pairs in enumerate(self._pairs):
                pairs[int.from_bytes(anchor[2 * number : 2 * number + 2], "little")] = True

    def names(self, content: bytes) -> list[str]:
        """The names of those that stand in `content`."""
        found: set[str] = set()
        for begin in range(0, len(content), _CHUNK_BYTES):
            self._look(content, begin, found)
        return sorted(found)

    def _look(self, content: bytes, begin: int, found: set[str]) -> None:
        part = np.frombuffer(content[begin : begin + _CHUNK_BYTES + _HEAD_BYTES - 1], np.uint8)
        if part.size < _HEAD_BYTES:
            return
        pairs = part[1:].astype(np.uint16)
        pairs <<= 8
        pairs |= part[:-1]
        places = np.flatnonzero(self._pairs[0][pairs[: 1 - _HEAD_BYTES + 1]])
        for number in range(1, len(self._pairs)):
            places = places[self._pairs[number][pairs[places + 2 * number]]]
        for place in places:
            at = begin + int(place)
            for name, needle, offset in self._anchored.get(content[at : at + _HEAD_BYTES], ()):
                if at >= offset and content.startswith(needle, at - offset):
                    found.add(name)


def sightings(
    paths: Iterable[Path], needles: Mapping[str, bytes] | Search
) -> list[tuple[Path, str]]:
    """Files that hold one of `needles` in their name or in their bytes, with the needle's name."""
    search = needles if isinstance(needles, Search) else Search(needles)
    found = []
    for path in paths:
        try:
            content = os.fsencode(path) + b"\0" + path.read_bytes()
        except (FileNotFoundError, PermissionError):
            continue  # gone by now, or another user's, whom these processes cannot write for
        found += [(path, name) for name in search.names(content)]
    return found


def cells(database: Path) -> bytes:
    """Every text and blob of an SQLite database, whole: in the file, pages cut them into pieces.

    A copy is read, with what is still in the write-ahead log, so that its owner is not disturbed.
    """
    found = []
    with tempfile.TemporaryDirectory() as folder:
        for path in database.parent.glob(f"{database.name}*"):
            shutil.copyfile(path, Path(folder) / path.name)
        copy = sqlite3.connect(Path(folder) / database.name)
        copy.text_factory = bytes
        with contextlib.closing(copy):
            tables = copy.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
            for (table,) in tables:
                for row in copy.execute(f'SELECT * FROM "{table.decode()}"'):  # noqa: S608
                    found += [cell for cell in row if isinstance(cell, bytes)]
    return b"\n".join(found)


def left_behind(root: Path, data: Iterable[Path], search: Search) -> list[tuple[str, str]]:
    """Files under a folder, but for those of the records, that hold something; with its name.

    Databases are also read cell by cell: a long one is spread over their pages.
    """
    searched = list(files(root, without=data))
    found = [(path.name, name) for path, name in sightings(searched, search)]
    for path in searched:
        if path.suffix == ".sqlite":
            found += [(path.name, name) for name in search.names(cells(path))]
    return found


def inside(pid: int) -> bytes:
    """Command line, environment and temporary files of a process, as it sees them itself."""
    root = Path(f"/proc/{pid}")
    environment = (root / "environ").read_bytes()
    found = [(root / "cmdline").read_bytes(), environment]
    for variable in environment.split(b"\0"):
        name, _, folder = variable.partition(b"=")
        if name in (b"TMPDIR", b"HOME"):
            # Its own mounts: a folder in memory that nobody else can see.
            seen = Path(os.fsdecode(bytes(root / "root") + folder))
            for path in files(seen):
                with contextlib.suppress(OSError):
                    found += [os.fsencode(path.relative_to(seen)), path.read_bytes()]
    return b"\n".join(found)


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


def left_by_wire(opened: Mapping[str, bytes]) -> bytes:
    """What went up the opened connections of a site: as it was cut into frames, and whole."""
    whole = [
        message
        for recorded in opened.values()
        for body in streams(recorded).values()
        for _, message in messages(body)
    ]
    return b"\n".join([*opened.values(), *whole])


def figure_bytes(figure: float) -> dict[str, bytes]:
    """The bytes as which a measured figure could stand somewhere, in full or rounded."""
    found = {f"{figure} {form}": raw for form, raw in disguises(repr(figure)).items()}
    found[f"{figure} rounded"] = f"{figure:.4f}".encode()
    for order in "<>":
        packed = struct.pack(f"{order}d", figure)
        found[f"{figure} as {order}d"] = packed
        for shift in range(3):
            # Only what does not depend on the neighbours' bits.
            encoded = base64.b64encode(b"\0" * shift + packed)
            first, last = (0, 2, 3)[shift], len(encoded) - 4 * bool((shift + len(packed)) % 3)
            found[f"{figure} as {order}d, base64 at {shift}"] = encoded[first:last]
    return found
