"""A copy of the log as static files that any monitor of tiled logs reads (C2SP `tlog-tiles`).

A bundle holds an entry's length in two bytes, so an entry of more than 65,535 bytes (a plan over
thousands of tensors) cannot stand in one: its bundle is left out and said to be. Its hash is in
the tiles like any other.
"""

from itertools import islice
from pathlib import Path

from privacy.audit.checkpoint import parse_checkpoint
from privacy.audit.log import CHECKPOINT, COSIGNED, ENTRIES, no_log
from privacy.audit.merkle import Tree, leaf_hash
from privacy.audit.note import Note
from privacy.audit.store import read_lines
from privacy.audit.tiles import (
    BUNDLES,
    MAX_BUNDLED_BYTES,
    WIDTH,
    format_bundle,
    mend_tiles,
    tile_path,
)
from privacy.errors import ConfigError, TamperError


def export_tiles(log: Path, out: Path) -> list[int]:
    """Write checkpoint, tiles and bundles of the log into the new folder `out`.

    The newest checkpoint that witnesses signed is taken, where there is one.

    Returns:
      Numbers of the entries that no bundle can hold.

    Raises:
      ConfigError: The folder holds no log, or `out` holds something already.
      TamperError: The entries are not those that were signed for.
    """
    if out.exists() and any(out.iterdir()):
        raise ConfigError(f"expected a new folder, {out} is not empty")
    try:
        source = log / (COSIGNED if (log / COSIGNED).exists() else CHECKPOINT)
        note = source.read_text(encoding="utf-8")
        checkpoint = parse_checkpoint(Note.parse(note).text)
        tree, left_out, bundle = Tree(), [], []
        for line in islice(read_lines(log / ENTRIES), checkpoint.size):
            tree.append(leaf_hash(line))
            bundle.append(line)
            if len(bundle) == WIDTH or tree.size == checkpoint.size:
                left_out += _write_bundle(out, tree.size - len(bundle), bundle)
                bundle = []
    except OSError as error:
        raise no_log(log, error.filename, error.strerror) from None
    if tree.size < checkpoint.size or tree.root() != checkpoint.root:
        raise TamperError(
            f"the entries of {log} are not those that were signed for",
            hint="run `cloister-audit verify` to find the first that differs",
        )
    out.mkdir(parents=True, exist_ok=True)
    mend_tiles(out, tree)
    (out / CHECKPOINT).write_text(note, encoding="utf-8")
    return left_out


def _write_bundle(out: Path, first: int, entries: list[bytes]) -> list[int]:
    """Write one bundle, or say which entries keep it from being written."""
    too_long = [first + i for i, line in enumerate(entries) if len(line) > MAX_BUNDLED_BYTES]
    if not too_long:
        path = out / tile_path(BUNDLES, first // WIDTH, len(entries))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(format_bundle(entries))
    return too_long
