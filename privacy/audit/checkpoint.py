"""A signed statement of how long a log is and what it holds: a checkpoint.

The format is C2SP's `tlog-checkpoint` in a `signed-note`: a few lines of text that other programs
can read too.

```
cloister/lakeside
42
<root in base64>

— cloister/lakeside <4 bytes of key id and the 64-byte Ed25519 signature in base64>
```

A log whose key is ML-DSA-44 signs as C2SP's `tlog-cosignature` has it, its own name being the
cosigner's: the line then holds a time too (signature type 6).

A log never signs two checkpoints of which neither is the beginning of the other. Two such
checkpoints, both with a good signature, prove that its operator showed different logs to different
people.
"""

import base64
import re
from dataclasses import dataclass
from datetime import datetime

from privacy.audit.note import Note, NoteKey, NoteSignature, SignatureType, decode_base64
from privacy.errors import VerificationError
from privacy.pki.identity import Algorithm, SigningKey, algorithm_of, verify

_SIZE = re.compile(r"0|[1-9][0-9]{0,14}")
_HASH_BYTES = 32
_TIME_BYTES = 8
_MAX_TIME = 2**63 - 1
_SUBTREE = b"subtree/v1\n\0"


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
      ValueError: The origin holds a space or a plus sign and cannot name a key, or the key is of
        no known algorithm.
    """
    is_ed25519 = algorithm_of(public_key) is Algorithm.ED25519
    type_ = SignatureType.ED25519 if is_ed25519 else SignatureType.COSIGNATURE_MLDSA44
    return NoteKey(name=origin, type=type_, public_key=public_key)


def sign_checkpoint(checkpoint: Checkpoint, key: SigningKey, at: datetime | None = None) -> str:
    """The checkpoint as a note signed with `key` under the origin's name.

    Args:
      checkpoint: What is signed.
      key: The log's.
      at: When, for an ML-DSA-44 key; by default the signature says nothing of time, as C2SP
        allows.

    Raises:
      ValueError: The origin holds a space or a plus sign and cannot name a key.
    """
    named = log_key(checkpoint.origin, key.public_key)
    time = 0 if at is None else int(at.timestamp())
    signature = key.sign(signed_bytes(named, checkpoint.text, time))
    if has_time(named):
        signature = time.to_bytes(_TIME_BYTES, "big") + signature
    line = NoteSignature(name=named.name, key_id=named.key_id, signature=signature).line
    return f"{checkpoint.text}\n{line}"


def has_time(key: NoteKey) -> bool:
    """Whether signatures by this key begin with the time at which they were made."""
    return key.type is not SignatureType.ED25519


def signed_bytes(key: NoteKey, text: str, time: int) -> bytes:
    """What a signature by `key` under the checkpoint `text` is over.

    Raises:
      VerificationError: The text is no checkpoint, or has lines that this key cannot sign.
    """
    if key.type is SignatureType.ED25519:
        return text.encode()
    if key.type is SignatureType.COSIGNATURE_ED25519:
        return f"cosignature/v1\ntime {time}\n{text}".encode()
    checkpoint = parse_checkpoint(text)
    if checkpoint.text != text:
        # They would not be signed, and yet stand above the signature.
        raise VerificationError("expected a checkpoint of three lines, got more")
    return b"".join(
        (
            _SUBTREE,
            _short(key.name),
            time.to_bytes(_TIME_BYTES, "big"),
            _short(checkpoint.origin),
            (0).to_bytes(8, "big"),
            checkpoint.size.to_bytes(8, "big"),
            checkpoint.root,
        )
    )


def check_line(key: NoteKey, text: str, signature: bytes) -> int:
    """Check a signature line by `key` under `text`; returns its time, 0 where it says none.

    Raises:
      VerificationError: It does not verify, or has no time where one belongs.
    """
    time = 0
    if has_time(key):
        time = int.from_bytes(signature[:_TIME_BYTES], "big")
        if len(signature) <= _TIME_BYTES or time > _MAX_TIME:
            raise VerificationError(f"expected a time in the signature of {key.name}")
        signature = signature[_TIME_BYTES:]
    verify(key.public_key, signed_bytes(key, text, time), signature)
    return time


def _short(text: str) -> bytes:
    content = text.encode()
    if not 1 <= len(content) <= 255:
        raise VerificationError(f"expected a name of 1 to 255 bytes, got {len(content)}")
    return len(content).to_bytes(1, "big") + content


def open_checkpoint(note: str, public_key: bytes, *, name: str | None = None) -> Checkpoint:
    """The checkpoint in `note`, after its signature by `public_key` was checked.

    Signature lines of other keys (witnesses) are passed over, as the note format demands.

    Args:
      note: A signed note.
      public_key: The log's key, raw bytes.
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
        check_line(key, parsed.text, signature.signature)
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
