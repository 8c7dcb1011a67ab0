"""Two parties' copies of one log, side by side: where they first differ, and what that proves.

A copy that lacks the newest entries is only older. Two copies of which neither begins the other
are a fork: if each hashes to a checkpoint that the log's operator signed, the operator signed two
histories, and the two copies together prove it to anyone. So do two signed roots of one size
anywhere in the two copies, histories of checkpoints included, whatever the entries say.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import zip_longest
from pathlib import Path

from privacy.audit.checkpoint import Checkpoint, parse_checkpoint
from privacy.audit.history import read_history
from privacy.audit.keys import KeyRing
from privacy.audit.log import CHECKPOINT, CHECKPOINTS, COSIGNED, ENTRIES, no_log
from privacy.audit.merkle import Edge, leaf_hash
from privacy.audit.note import Note
from privacy.audit.store import read_lines
from privacy.audit.verify import open_by_operator
from privacy.errors import ConfigError, TamperError, VerificationError


@dataclass(frozen=True, kw_only=True, slots=True)
class Copy:
    """One party's copy.

    Attributes:
      path: Its folder, or the file of a checkpoint.
      checkpoint: What it says that the log's operator signed.
      is_signed: The signature is good.
      is_whole: It holds the entries that the checkpoint is over. None for a checkpoint alone.
    """

    path: Path
    checkpoint: Checkpoint
    is_signed: bool
    is_whole: bool | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """What two copies have in common.

    Attributes:
      ours: The first copy.
      theirs: The second.
      first_difference: Number of the first entry that differs, None when one copy begins the
        other, or when it cannot be told because one is a checkpoint alone.
      differs: Neither copy begins the other, or the operator signed two roots of one size.
      is_fork: That is proved to be the operator's doing.
    """

    ours: Copy
    theirs: Copy
    first_difference: int | None
    differs: bool
    is_fork: bool


def compare_logs(ours: Path, theirs: Path, keys: KeyRing) -> Comparison:
    """Compare two copies of a log, each a folder or the file of a checkpoint.

    Raises:
      ConfigError: One of them is no log, they are of different logs, or two checkpoints alone are
        over different sizes.
      TamperError: Our own copy is shorter than its checkpoint says.
    """
    one, two = _open(ours, keys), _open(theirs, keys)
    if one[0].origin != two[0].origin:
        raise ConfigError(
            f"expected two copies of {one[0].origin!r}, got one of {two[0].origin!r}"
        )
    sizes = (one[0].size, two[0].size)
    if not ours.is_dir() and not theirs.is_dir() and sizes[0] != sizes[1]:
        raise ConfigError(
            f"expected two checkpoints of one size, got {sizes[0]} and {sizes[1]} entries",
            hint="compare each with a copy of the log: cloister-audit compare LOG CHECKPOINT",
        )
    edges = (Edge(), Edge())
    roots: tuple[dict[int, bytes], dict[int, bytes]] = ({}, {})
    first = None
    for pair in zip_longest(_lines(ours), _lines(theirs)):
        for edge, root, line in zip(edges, roots, pair, strict=True):
            if line is not None:
                edge.append(leaf_hash(line))
                if edge.size in sizes:
                    root[edge.size] = edge.root()
        if first is None and None not in pair and pair[0] != pair[1]:
            first = max(edges[0].size, edges[1].size) - 1
    for root in roots:
        root[0] = Edge().root()
    copies = [
        Copy(
            path=path,
            checkpoint=checkpoint,
            is_signed=is_signed,
            is_whole=root.get(checkpoint.size) == checkpoint.root if path.is_dir() else None,
        )
        for path, (checkpoint, is_signed), root in zip(
            (ours, theirs), (one, two), roots, strict=True
        )
    ]
    if not ours.is_dir() and theirs.is_dir():
        # The same question the other way round.
        found = compare_logs(theirs, ours, keys)
        return replace(found, ours=found.theirs, theirs=found.ours)
    if not ours.is_dir():
        differs = one[0].root != two[0].root
    elif theirs.is_dir():
        differs = first is not None
    elif two[0].size > edges[0].size:
        raise TamperError(
            f"expected at least {two[0].size} entries in {ours}, as {theirs} is over, got"
            f" {edges[0].size}",
            hint="copy the log again; if it stays shorter, entries were taken away",
            entry=edges[0].size,
        )
    else:
        differs = roots[0][two[0].size] != two[0].root
    is_fork = differs and all(copy.is_signed and copy.is_whole is not False for copy in copies)
    if _contradict(_signed(ours, keys), _signed(theirs, keys)):
        # Two signed roots of one size prove it, whatever became of the entries.
        differs = is_fork = True
    return Comparison(
        ours=copies[0],
        theirs=copies[1],
        first_difference=first,
        differs=differs,
        is_fork=is_fork,
    )


def _open(path: Path, keys: KeyRing) -> tuple[Checkpoint, bool]:
    """The checkpoint of a copy, and whether the log's operator signed it."""
    file = path / CHECKPOINT if path.is_dir() else path
    try:
        note = file.read_text(encoding="utf-8")
        checkpoint = parse_checkpoint(Note.parse(note).text)
    except OSError as error:
        raise no_log(path, file, error.strerror) from None
    except (UnicodeDecodeError, VerificationError) as error:
        raise ConfigError(f"expected a checkpoint in {file}: {error}") from None
    try:
        open_by_operator(note, keys)
    except VerificationError:
        return checkpoint, False
    return checkpoint, True


def _signed(path: Path, keys: KeyRing) -> dict[tuple[str, int], set[bytes]]:
    """Every root in a copy that the log's operator signed, by the log's name and size."""
    if path.is_dir():
        files = [file for name in (CHECKPOINT, COSIGNED) if (file := path / name).exists()]
    else:
        files = [path]
    roots: dict[tuple[str, int], set[bytes]] = {}
    try:
        notes = [file.read_text(encoding="utf-8", errors="replace") for file in files]
        notes += read_history(path / CHECKPOINTS) if path.is_dir() else []
    except OSError as error:
        raise no_log(path, error.filename, error.strerror) from None
    for note in notes:
        try:
            found = open_by_operator(note, keys)
        except VerificationError:
            continue  # what the operator did not sign is no proof against it
        roots.setdefault((found.origin, found.size), set()).add(found.root)
    return roots


def _contradict(
    ours: dict[tuple[str, int], set[bytes]], theirs: dict[tuple[str, int], set[bytes]]
) -> bool:
    """Whether the operator signed two roots of one size."""
    return any(
        len(ours.get(place, set()) | theirs.get(place, set())) > 1 for place in ours | theirs
    )


def _lines(path: Path) -> Iterator[bytes]:
    return read_lines(path / ENTRIES) if path.is_dir() else iter(())
