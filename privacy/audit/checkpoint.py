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
import binascii
import hashlib
import re
from dataclasses import dataclass

from privacy.errors import VerificationError
from privacy.pki.identity import SigningKey, verify

MAX_NOTE_BYTES = 100_000
_ED25519 = b"\x01"
_SIZE = re.compile(r"0|[1-9][0-9]{0,14}")
_KEY_NAME = re.compile(r"[^\s+]+")
_HASH_BYTES = 32
_ID_BYTES = 4


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


def _note_key_id(name: str, public_key: bytes) -> bytes:
    return hashlib.sha256(name.encode() + b"\n" + _ED25519 + public_key).digest()[:_ID_BYTES]


def sign_checkpoint(checkpoint: Checkpoint, key: SigningKey) -> str:
    """The checkpoint as a note signed with `key` under the origin's name.

    Raises:
      ValueError: The origin holds a space or a plus sign and cannot name a key.
    """
    name = checkpoint.origin
    if not _KEY_NAME.fullmatch(name):
        raise ValueError(f"expected an origin without spaces and plus signs, got {name!r}")
    signature = _note_key_id(name, key.public_key) + key.sign(checkpoint.text.encode())
    return f"{checkpoint.text}\n— {name} {base64.b64encode(signature).decode()}\n"


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
    if len(note) > MAX_NOTE_BYTES or any(c < " " and c != "\n" for c in note):
        raise VerificationError("expected a checkpoint of plain lines")
    text, separator, signatures = note.rpartition("\n\n")
    text += "\n"
    if not separator or not signatures.endswith("\n"):
        raise VerificationError("expected a checkpoint, an empty line and signatures")
    checkpoint = _parse_text(text)
    key_name = checkpoint.origin if name is None else name
    key_id = _note_key_id(key_name, public_key)
    found = False
    for line in signatures.removesuffix("\n").split("\n"):
        signer, signature = _parse_signature(line)
        if signer == key_name and signature[:_ID_BYTES] == key_id:
            verify(public_key, text.encode(), signature[_ID_BYTES:])
            found = True
    if not found:
        raise VerificationError(
            f"expected a checkpoint signed by {key_name!r}, got none by that key",
            hint="check that the log's public key is the right one",
        )
    return checkpoint


def _decode(text: str, what: str) -> bytes:
    try:
        decoded = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise VerificationError(f"expected {what} in base64") from None
    if base64.b64encode(decoded).decode() != text:
        raise VerificationError(f"expected {what} in the one spelling of base64")
    return decoded


def _parse_text(text: str) -> Checkpoint:
    lines = text.removesuffix("\n").split("\n")
    if len(lines) < 3 or not all(lines):
        raise VerificationError("expected origin, size and root, one a line")
    origin, size, root = lines[:3]
    if not _SIZE.fullmatch(size):
        raise VerificationError("expected the number of entries in the second line")
    try:
        return Checkpoint(origin=origin, size=int(size), root=_decode(root, "the root"))
    except ValueError as error:
        raise VerificationError(str(error)) from None


def _parse_signature(line: str) -> tuple[str, bytes]:
    parts = line.split(" ")
    if len(parts) != 3 or parts[0] != "—" or not _KEY_NAME.fullmatch(parts[1]):
        raise VerificationError("expected signature lines of the form '— name signature'")
    signature = _decode(parts[2], "the signature")
    if len(signature) <= _ID_BYTES:
        raise VerificationError("expected a signature after its key id")
    return parts[1], signature
