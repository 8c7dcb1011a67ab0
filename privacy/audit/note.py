"""Text with signatures below it, and the keys that they are checked with.

The format is C2SP's `signed-note`, the keys are its `vkey`s, so programs that we did not write
read both. A note is text, an empty line, and one line a signature:

```
— cloister/lakeside <4 bytes of key id and the signature, in base64>
```

A key is `name+key id in hex+base64(type and public key)`. The type says what is signed and how:

- 1: the text, with Ed25519. A log signs its checkpoints so.
- 4: the text and a time, with Ed25519. A witness cosigns so (`privacy.audit.cosignature`).
- 6: the checkpoint and a time, with ML-DSA-44. A log or a witness signs so.
"""

import base64
import binascii
import hashlib
import re
from dataclasses import dataclass
from enum import IntEnum

from privacy.errors import ConfigError, VerificationError

# A checkpoint with the cosignatures of 1,000 sites: an ML-DSA-44 line has 3.3 kB with its name.
MAX_NOTE_BYTES = 4_000_000
KEY_ID_BYTES = 4
_KEY_NAME = re.compile(r"[^\s+]+")
_VKEY = re.compile(r"(?P<name>[^\s+]+)\+(?P<id>[0-9a-f]{8})\+(?P<key>[A-Za-z0-9+/=]+)")


class SignatureType(IntEnum):
    """What a key signs and how; the number stands before the public key wherever it is named."""

    ED25519 = 1
    COSIGNATURE_ED25519 = 4
    COSIGNATURE_MLDSA44 = 6


_KEY_BYTES = {
    SignatureType.ED25519: 32,
    SignatureType.COSIGNATURE_ED25519: 32,
    SignatureType.COSIGNATURE_MLDSA44: 1312,
}


@dataclass(frozen=True, kw_only=True, slots=True)
class NoteKey:
    """A public key that signs notes under a name.

    Attributes:
      name: Its name in signature lines.
      type: What it signs and how.
      public_key: Raw bytes.
    """

    name: str
    type: SignatureType
    public_key: bytes

    def __post_init__(self) -> None:
        """Refuse what could not stand in a signature line."""
        check_key_name(self.name)
        expected = _KEY_BYTES[self.type]
        if len(self.public_key) != expected:
            raise ValueError(f"expected a key of {expected} bytes, got {len(self.public_key)}")

    @property
    def key_id(self) -> bytes:
        """The four bytes before each signature by this key."""
        content = self.name.encode() + b"\n" + bytes([self.type]) + self.public_key
        return hashlib.sha256(content).digest()[:KEY_ID_BYTES]

    @property
    def vkey(self) -> str:
        """The key as one word, for a policy file."""
        encoded = base64.b64encode(bytes([self.type]) + self.public_key).decode()
        return f"{self.name}+{self.key_id.hex()}+{encoded}"

    @classmethod
    def parse(cls, vkey: str) -> "NoteKey":
        """Read what `vkey` gives.

        Raises:
          ConfigError: It is no key, of an unknown type, or its id is another key's.
        """
        match = _VKEY.fullmatch(vkey)
        if match is None:
            raise ConfigError("expected a key of the form name+8 hex digits+base64")
        try:
            content = decode_base64(match["key"], "the key")
            key = cls(name=match["name"], type=SignatureType(content[0]), public_key=content[1:])
        except (VerificationError, ValueError, IndexError) as error:
            raise ConfigError(f"expected the key of {match['name']} to be one: {error}") from None
        if key.key_id.hex() != match["id"]:
            raise ConfigError(
                f"expected key id {key.key_id.hex()} for the key of {key.name}, got {match['id']}",
                hint="copy the whole key again from its owner",
            )
        return key


@dataclass(frozen=True, kw_only=True, slots=True)
class NoteSignature:
    """One signature line.

    Attributes:
      name: Whose it says it is.
      key_id: Four bytes.
      signature: What follows them.
    """

    name: str
    key_id: bytes
    signature: bytes

    @property
    def line(self) -> str:
        """The line, with its end."""
        encoded = base64.b64encode(self.key_id + self.signature).decode()
        return f"— {self.name} {encoded}\n"

    def is_by(self, key: NoteKey) -> bool:
        """Whether it names this key; only a check of the signature says that it is true."""
        return self.name == key.name and self.key_id == key.key_id

    @classmethod
    def parse(cls, line: str) -> "NoteSignature":
        """Read a line without its end.

        Raises:
          VerificationError: It is no signature line.
        """
        parts = line.split(" ")
        if len(parts) != 3 or parts[0] != "—" or not _KEY_NAME.fullmatch(parts[1]):
            raise VerificationError("expected signature lines of the form '— name signature'")
        content = decode_base64(parts[2], "the signature")
        if len(content) <= KEY_ID_BYTES:
            raise VerificationError("expected a signature after its key id")
        return cls(name=parts[1], key_id=content[:KEY_ID_BYTES], signature=content[KEY_ID_BYTES:])


@dataclass(frozen=True, kw_only=True, slots=True)
class Note:
    """A text and its signatures, none of which is checked yet.

    Attributes:
      text: The text, ending in a newline.
      signatures: In their order.
    """

    text: str
    signatures: tuple[NoteSignature, ...]

    def __str__(self) -> str:
        return f"{self.text}\n{''.join(signature.line for signature in self.signatures)}"

    def by(self, key: NoteKey) -> list[NoteSignature]:
        """The signatures that name this key."""
        return [signature for signature in self.signatures if signature.is_by(key)]

    def with_signatures(self, added: "tuple[NoteSignature, ...]") -> "Note":
        """The note with more signatures; one that it has already is not repeated."""
        known = {(signature.name, signature.key_id) for signature in self.signatures}
        fresh = tuple(s for s in added if (s.name, s.key_id) not in known)
        return Note(text=self.text, signatures=self.signatures + fresh)

    @classmethod
    def parse(cls, note: str) -> "Note":
        """Read a note.

        Raises:
          VerificationError: It is too long, has other control characters than line ends, or no
            signature.
        """
        if len(note) > MAX_NOTE_BYTES or any(c < " " and c != "\n" for c in note):
            raise VerificationError("expected a checkpoint of plain lines")
        text, separator, lines = note.rpartition("\n\n")
        if not separator or not lines.endswith("\n"):
            raise VerificationError("expected a checkpoint, an empty line and signatures")
        parsed = [NoteSignature.parse(line) for line in lines.removesuffix("\n").split("\n")]
        return cls(text=text + "\n", signatures=tuple(parsed))


def check_key_name(name: str) -> None:
    """Check a name that is to stand in signature lines.

    Raises:
      ValueError: It is empty, or has a space or a plus sign.
    """
    if not _KEY_NAME.fullmatch(name):
        raise ValueError(f"expected a name without spaces and plus signs, got {name!r}")


def decode_base64(text: str, what: str) -> bytes:
    """Decode base64 in its one spelling: two spellings would be two notes with one meaning.

    Raises:
      VerificationError: It is none.
    """
    try:
        decoded = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise VerificationError(f"expected {what} in base64") from None
    if base64.b64encode(decoded).decode() != text:
        raise VerificationError(f"expected {what} in the one spelling of base64")
    return decoded
