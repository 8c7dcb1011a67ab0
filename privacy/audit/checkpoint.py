"""A signed statement of how long a log is and what it holds: a checkpoint.

The format is C2SP's `tlog-checkpoint` in a `signed-note`: a few lines of text that other programs
can read too.

```
cloister/lakeside
42
<root in base64>

— cloister/lakeside <4 bytes of key id and the 64-byte Ed25519 signature in base64>
```

A log never signs two checkpoints of which neither is the beginning of the other. Two such
checkpoints, both with a good signature, prove that its operator showed different logs to different
people.
"""

import base64
import re
from dataclasses import dataclass

from privacy.audit.note import Note, NoteKey, SignatureType, decode_base64
from privacy.errors import VerificationError
from privacy.pki.identity import SigningKey, verify

_SIZE = re.compile(r"0|[1-9][0-9]{0,14}")
_HASH_BYTES = 32


@dataclass(frozen=True, kw_only=True, slots=True)
class Checkpoint:
    """What a log's operator signs.

    Attributes:
      origin: Name of the log, unique among all logs.
      size: Number of entries.
      root: Root of the Merkle tree over them, 32 bytes.
    """

    origin: str
    size: int
    root: bytes

    def __post_init__(self) -> None:
        """Refuse what would read back as another checkpoint."""
        if not self.origin or not self.origin.isprintable():
            raise ValueError(f"expected an origin of printable characters, got {self.origin!r}")
        if not _SIZE.fullmatch(str(self.size)):
            raise ValueError(f"expected a size from 0 to 10**15, got {self.size}")
        if len(self.root) != _HASH_BYTES:
            raise ValueError(f"expected a root of {_HASH_BYTES} bytes, got {len(self.root)}")

    @property
    def text(self) -> str:
        """The three lines that are signed."""
        return f"{self.origin}\n{self.size}\n{base64.b64encode(self.root).decode()}\n"


def log_key(origin: str, public_key: bytes) -> NoteKey:
    """The key with which the log of that name signs.

    Raises:
      ValueError: The origin holds a space or a plus sign and cannot name a key.
    """
    return NoteKey(name=origin, type=SignatureType.ED25519, public_key=public_key)


def sign_checkpoint(checkpoint: Checkpoint, key: SigningKey) -> str:
    """The checkpoint as a note signed with `key` under the origin's name.

    Raises:
      ValueError: The origin holds a space or a plus sign and cannot name a key.
    """
    named = log_key(checkpoint.origin, key.public_key)
    signature = named.key_id + key.sign(checkpoint.text.encode())
    return f"{checkpoint.text}\n— {named.name} {base64.b64encode(signature).decode()}\n"


def open_checkpoint(note: str, public_key: bytes, *, name: str | None = None) -> Checkpoint:
    """The checkpoint in `note`, after its signature by `public_key` was checked.

    Signature lines of other keys (witnesses) are passed over, as the note format demands.

    Args:
      note: A signed note.
      public_key: The log's Ed25519 key, 32 raw bytes.
      name: The key's name in the note, by default the note's origin.

    Raises:
      VerificationError: The note is malformed, or has no good signature by the key.
    """
    parsed = Note.parse(note)
    checkpoint = parse_checkpoint(parsed.text)
    try:
        key = log_key(checkpoint.origin if name is None else name, public_key)
    except ValueError as error:
        raise VerificationError(str(error)) from None
    found = parsed.by(key)
    for signature in found:
        verify(public_key, parsed.text.encode(), signature.signature)
    if not found:
        raise VerificationError(
            f"expected a checkpoint signed by {key.name!r}, got none by that key",
            hint="check that the log's public key is the right one",
        )
    return checkpoint


def parse_checkpoint(text: str) -> Checkpoint:
    """The checkpoint in a note's text; whose it is, only a signature says.

    Raises:
      VerificationError: It is none.
    """
    lines = text.removesuffix("\n").split("\n")
    if len(lines) < 3 or not all(lines):
        raise VerificationError("expected origin, size and root, one a line")
    origin, size, root = lines[:3]
    if not _SIZE.fullmatch(size):
        raise VerificationError("expected the number of entries in the second line")
    try:
        return Checkpoint(origin=origin, size=int(size), root=decode_base64(root, "the root"))
    except ValueError as error:
        raise VerificationError(str(error)) from None
