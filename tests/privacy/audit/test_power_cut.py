"""Whatever a power cut leaves on disk, no acknowledged entry is lost and no wrong tree appears.

The disk here is the unkind one that POSIX allows: what was not synced may be there, half there,
zeros, or a hole with later bytes behind it; a rename is the old file or the new one until the
folder is synced.
"""

import errno
import itertools
import json
import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import pytest

from privacy.audit.checkpoint import open_checkpoint
from privacy.audit.entry import Event, make_entry
from privacy.audit.keys import PartyKey, Role
from privacy.audit.log import CHECKPOINT, CHECKPOINTS, ENTRIES, Log
from privacy.audit.merkle import Tree, leaf_hash
from privacy.audit.tiles import TileReader
from privacy.audit.verify import verify_log
from privacy.errors import TamperError
from privacy.pki.identity import SigningKey

KEY = SigningKey.generate()
OWN = PartyKey(party="coordinator", role=Role.COORDINATOR, public_key=KEY.public_key)
ORIGIN = "cloister/lakeside"
AT = datetime(2026, 11, 20, 8, 0, tzinfo=UTC)


def entry(sequence: int) -> bytes:
    event, predicate = Event.FEDERATION_CREATED, {"federation": "lakeside"}
    if sequence:
        event = Event.DOOR_REFUSED
        predicate = {"rule": "wrong-node-key", "site": "bank_a"}
    return make_entry(KEY, "coordinator", event, sequence=sequence, at=AT, predicate=predicate)


ALL = [entry(sequence) for sequence in range(12)]


@dataclass
class Cut:
    """What may be on disk at one moment.

    Attributes:
      choices: For each file the contents of which one is left; None for no file.
      acknowledged: How many entries somebody was told of.
    """

    choices: dict[str, list[bytes | None]]
    acknowledged: int


@dataclass
class Disk:
    """Watches the syncs and renames below `folder`, and notes every state that a cut may leave."""

    folder: Path
    tear: Callable[[bytes, bytes], list[bytes]]
    named: dict[str, bytes] = field(default_factory=dict)
    synced: dict[str, bytes] = field(default_factory=dict)
    replaced: dict[str, bytes | None] = field(default_factory=dict)
    acknowledged: int = 0
    cuts: list[Cut] = field(default_factory=list)

    def fsync(self, descriptor: int) -> None:
        """A sync: before it anything goes, after it what was written is there."""
        self.cut()
        path = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            if path == self.folder:
                self.named = {name: self.synced.get(name, b"") for name in self._names()}
                self.replaced = {}
        elif path.parent == self.folder:
            self.synced[path.name] = path.read_bytes()
            if path.name in self.named:
                self.named[path.name] = self.synced[path.name]
        self.cut()

    def replace(self, source: str | Path, target: str | Path) -> None:
        """A rename: after it, the old file or the new one."""
        old, new = Path(source).name, Path(target).name
        if Path(target).parent == self.folder:
            self.replaced.setdefault(new, self.named.get(new))
            self.synced[new] = self.synced.pop(old, b"")
        _REPLACE(source, target)
        self.cut()

    def cut(self) -> None:
        """Note what may be left if the power went now."""
        choices: dict[str, list[bytes | None]] = {}
        for name in {*self._names(), *self.named}:
            if name.endswith(".new"):
                continue
            path = self.folder / name
            now = path.read_bytes() if path.exists() else b""
            known = self.synced.get(name, b"")
            found: list[bytes | None] = [now, *self.tear(known, now)]
            if name in self.replaced:
                # Its content was synced before the rename; the name is what is in doubt.
                found = [now, self.replaced[name]]
            elif name not in self.named:
                found.append(None)
            choices[name] = list(dict.fromkeys(found))
        self.cuts.append(Cut(choices, self.acknowledged))

    def _names(self) -> list[str]:
        return [path.name for path in self.folder.iterdir() if path.is_file()]


_REPLACE = os.replace


def every_byte(known: bytes, now: bytes) -> list[bytes]:
    """The last write, cut off at each byte."""
    if not now.startswith(known):
        return [known]
    return [now[:end] for end in range(len(known), len(now))]


def a_few(known: bytes, now: bytes) -> list[bytes]:
    """The last write cut off around each line's end, as zeros, and with holes."""
    if not now.startswith(known):
        return [known]
    begin, fresh = len(known), now[len(known) :]
    ends = [begin + place + 1 for place, byte in enumerate(fresh) if byte == 10]
    places = {
        min(max(place, begin), len(now))
        for end in [begin, *ends]
        for place in (end - 1, end, end + 1, end + 300)
    }
    torn = [now[:place] for place in sorted(places)]
    zeros = [known + bytes(len(fresh))]
    holes = [now[:begin] + bytes(end - begin) + now[end:] for end in ends] + [
        now[: end - 100] + bytes(100) + now[end:] for end in ends if end - 100 >= begin
    ]
    return [known, *torn, *zeros, *holes]


@pytest.fixture
def unkind(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Callable[..., Disk]]:
    def watch(tear: Callable[[bytes, bytes], list[bytes]]) -> Disk:
        disk = Disk(tmp_path / "log", tear)
        disk.folder.mkdir(mode=0o700)
        monkeypatch.setattr(os, "fsync", disk.fsync)
        monkeypatch.setattr(os, "replace", disk.replace)
        return disk

    yield watch
    monkeypatch.undo()


def write(disk: Disk, batches: list[int]) -> None:
    """Append batches to a log, opening it anew for each, and note what is acknowledged."""
    for num in batches:
        with Log(disk.folder, KEY, ORIGIN, [OWN]) as log:
            begin = log.size
            log.extend(ALL[begin : begin + num])
            disk.acknowledged = log.size
            disk.cut()


def states(cut: Cut) -> Iterator[dict[str, bytes | None]]:
    """Each file in each state while the others are as new or as old as they may be."""
    for pick in (0, -1):
        base = {name: found[pick] for name, found in cut.choices.items()}
        for name, found in cut.choices.items():
            for content in found:
                yield base | {name: content}


def check(state: dict[str, bytes | None], folder: Path, cut: Cut) -> None:
    """Start on what is left, and go on."""
    folder.mkdir(mode=0o700)
    for name, content in state.items():
        if content is not None:
            (folder / name).write_bytes(content)
    with Log(folder, KEY, ORIGIN, [OWN]) as log:
        assert log.size >= cut.acknowledged
        assert log.lines() == ALL[: log.size]
        tree = Tree()
        for line in ALL[: log.size]:
            tree.append(leaf_hash(line))
        signed = open_checkpoint(log.checkpoint, KEY.public_key)
        assert (signed.size, signed.root) == (log.size, tree.root())
        assert TileReader(folder, log.size).root() == tree.root()
        assert log.append(ALL[log.size]).index == log.size - 1
        size = log.size
    with Log(folder, KEY, ORIGIN, [OWN]) as log:
        assert log.lines() == ALL[:size]
    assert len(verify_log(folder).entries) == size


def check_all(disk: Disk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.undo()
    monkeypatch.setattr(os, "fsync", lambda _: None)
    seen: set[tuple[object, ...]] = set()
    for cut in disk.cuts:
        for state in states(cut):
            mark = (cut.acknowledged, *sorted(state.items(), key=lambda item: item[0]))
            if mark in seen:
                continue
            seen.add(mark)
            check(state, tmp_path / f"state-{len(seen)}", cut)
    return len(seen)


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_a_cut_at_any_byte_of_an_entry_loses_nothing(
    unkind: Callable[..., Disk], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = unkind(every_byte)
    write(disk, [1])
    assert check_all(disk, tmp_path, monkeypatch) > len(ALL[0])


@pytest.mark.timeout(120)
def test_a_cut_at_any_sync_loses_nothing_whatever_else_it_leaves(
    unkind: Callable[..., Disk], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = unkind(a_few)
    write(disk, [1, 4, 2])
    assert check_all(disk, tmp_path, monkeypatch) > 100


@pytest.mark.parametrize("skipped", [ENTRIES, CHECKPOINT])
def test_this_disk_would_find_a_forgotten_sync(
    unkind: Callable[..., Disk], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, skipped: str
) -> None:
    """The check itself is checked: with one kind of sync left out, something is lost."""
    disk = unkind(a_few)
    real = disk.fsync

    def forgetful(descriptor: int) -> None:
        path = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
        if path.name != skipped and not (skipped == CHECKPOINT and path == disk.folder):
            real(descriptor)

    monkeypatch.setattr(os, "fsync", forgetful)
    write(disk, [1, 2])
    with pytest.raises((AssertionError, TamperError)):
        check_all(disk, tmp_path, monkeypatch)


def test_entries_without_any_checkpoint_are_never_taken_over(tmp_path: Path) -> None:
    with Log(tmp_path, KEY, ORIGIN, [OWN]) as log:
        log.extend(ALL[:2])
    (tmp_path / CHECKPOINT).unlink()
    (tmp_path / CHECKPOINTS).unlink()
    with pytest.raises(TamperError, match="expected a checkpoint"):
        Log(tmp_path, KEY, ORIGIN, [OWN])


def test_a_missing_and_a_wrong_tile_are_written_again(tmp_path: Path) -> None:
    with Log(tmp_path, KEY, ORIGIN, [OWN]) as log:
        log.extend(ALL[:5])
        root = log.root
    tile = tmp_path / "tile/0/000.p/5"
    for content in (None, b"", bytes(160)):
        tile.unlink() if content is None else tile.write_bytes(content)
        Log(tmp_path, KEY, ORIGIN, [OWN]).close()
        assert TileReader(tmp_path, 5).root() == root


def test_only_the_newest_partial_tile_is_kept(tmp_path: Path) -> None:
    with Log(tmp_path, KEY, ORIGIN, [OWN]) as log:
        for line in ALL[:4]:
            log.append(line)
    found = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.glob("tile/**/*"))
    assert [path for path in found if (tmp_path / path).is_file()] == ["tile/0/000.p/4"]
    assert list(itertools.chain(tmp_path.glob("*.new"))) == []


@pytest.mark.parametrize(
    "end",
    [b"", bytes(60), bytes(60) + b"\n", b"\xe2\x80", b'"half\n'],
    ids=["cut", "zeros", "zeros-and-an-end", "half-a-letter", "half-a-line"],
)
def test_a_torn_history_of_checkpoints_is_mended_and_the_log_verifies(
    tmp_path: Path, end: bytes
) -> None:
    with Log(tmp_path, KEY, ORIGIN, [OWN]) as log:
        log.append(ALL[0])
        log.append(ALL[1])
    history = tmp_path / CHECKPOINTS
    history.write_bytes(history.read_bytes()[:-40] + end)
    assert len(verify_log(tmp_path).entries) == 2
    with Log(tmp_path, KEY, ORIGIN, [OWN]) as log:
        log.append(ALL[2])
    assert len(verify_log(tmp_path).entries) == 3
    # The checkpoints of 0, 1 and 3 entries; the torn one of 2 is gone.
    assert len([json.loads(line) for line in history.read_bytes().splitlines()]) == 3


def test_a_line_glued_onto_half_of_another_is_passed_over(tmp_path: Path) -> None:
    with Log(tmp_path, KEY, ORIGIN, [OWN]) as log:
        log.append(ALL[0])
        log.append(ALL[1])
    history = tmp_path / CHECKPOINTS
    first, second, third = history.read_bytes().splitlines(keepends=True)
    history.write_bytes(first + second[:-40] + third)
    assert len(verify_log(tmp_path).entries) == 2


def test_a_disk_that_fills_up_in_the_history_leaves_a_log_that_verifies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Log(tmp_path, KEY, ORIGIN, [OWN]) as log:
        log.append(ALL[0])
        real, room = os.write, [60]

        def full(descriptor: int, content: bytes) -> int:
            if Path(os.readlink(f"/proc/self/fd/{descriptor}")).name != CHECKPOINTS:
                return real(descriptor, content)
            if not room:
                raise OSError(errno.ENOSPC, "No space left on device")
            return real(descriptor, content[: room.pop()])

        monkeypatch.setattr(os, "write", full)
        with pytest.raises(OSError, match="No space"):
            log.append(ALL[1])
        assert not room
        monkeypatch.undo()
        assert log.append(ALL[1]).index == 1
    assert len(verify_log(tmp_path).entries) == 2
    history = (tmp_path / CHECKPOINTS).read_bytes().splitlines()
    assert len([json.loads(line) for line in history]) == 3
