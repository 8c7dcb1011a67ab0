"""One entry's place in the log, provable by a file: C2SP's `tlog-proof`.

The file holds the entry's number, the hashes from it to the root, and the checkpoint with all
signatures. The entry itself travels as the file's extra data, which the format allows, so that
the file is enough; extra data is believed only after it hashes into the tree.
"""

import base64
import re
from dataclasses import dataclass

from privacy.audit.checkpoint import Checkpoint, parse_checkpoint
from privacy.audit.entry import MAX_ENTRY_BYTES
from privacy.audit.merkle import HASH_BYTES, leaf_hash, verify_inclusion
from privacy.audit.note import MAX_NOTE_BYTES, Note, decode_base64
from privacy.errors import VerificationError

SUFFIX = ".tlog-proof"
_HEADER = "c2sp.org/tlog-proof@v1"
_INDEX = re.compile(r"index (0|[1-9][0-9]{0,14})")
_MAX_PATH = 63
_MAX_BYTES = 2 * MAX_ENTRY_BYTES + MAX_NOTE_BYTES


@dataclass(frozen=True, kw_only=True, slots=True)
class Proof:
    """A proof as it stands in its file; `check` says what it proves.

    Attributes:
      index: Number of the entry.
      path: Sibling hashes from the entry to the root.
      checkpoint: A checkpoint with its signatures.
      entry: The entry's line, None when whoever checks has it.
    """

    index: int
    path: tuple[bytes, ...]
    checkpoint: str
    entry: bytes | None = None

    def __str__(self) -> str:
        lines = [_HEADER]
        if self.entry is not None:
            lines.append(f"extra {base64.b64encode(self.entry).decode()}")
        lines.append(f"index {self.index}")
        lines += [base64.b64encode(part).decode() for part in self.path]
        return "\n".join(lines) + "\n\n" + self.checkpoint

    @classmethod
    def parse(cls, text: str) -> "Proof":
        """Read a proof.

        Raises:
          VerificationError: It is none.
        """
        head, separator, checkpoint = text[:_MAX_BYTES].partition("\n\n")
        lines = head.split("\n")
        if len(text) > _MAX_BYTES or not separator or lines[0] != _HEADER:
            raise VerificationError(f"expected a proof that begins with {_HEADER}")
        Note.parse(checkpoint)
        del lines[0]
        entry = None
        if lines and lines[0].startswith("extra "):
            entry = decode_base64(lines.pop(0).removeprefix("extra "), "the extra data")
        index = lines.pop(0) if lines else ""
        match = _INDEX.fullmatch(index)
        if match is None or len(lines) > _MAX_PATH:
            raise VerificationError("expected a line 'index NUMBER' and at most 63 hashes")
        path = tuple(decode_base64(line, "a hash") for line in lines)
        if any(len(part) != HASH_BYTES for part in path):
            raise VerificationError(f"expected hashes of {HASH_BYTES} bytes")
        return cls(index=int(match[1]), path=path, checkpoint=checkpoint, entry=entry)

    def check(self, line: bytes) -> Checkpoint:
        """Check that `line` is entry `index` of the log that the checkpoint is of; returns it.

        The checkpoint's signatures are for the caller to check.

        Raises:
          TamperError: The entry does not lead to the checkpoint's root.
          VerificationError: The checkpoint is none.
        """
        checkpoint = parse_checkpoint(Note.parse(self.checkpoint).text)
        verify_inclusion(
            leaf_hash(line),
            index=self.index,
            size=checkpoint.size,
            path=self.path,
            root=checkpoint.root,
        )
        return checkpoint
