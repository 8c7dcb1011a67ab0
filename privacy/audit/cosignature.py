"""What a witness signs: that the log it saw last grew into this one, and when.

The format is C2SP's `tlog-cosignature`: one more signature line under the log's checkpoint. Two
algorithms: Ed25519, which every tool of today reads, and ML-DSA-44 (FIPS 204), which a quantum
computer does not break. A witness signs with one of them, under one name, with a key of its own.
"""

from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA44PrivateKey, MLDSA44PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from privacy.audit.checkpoint import parse_checkpoint
from privacy.audit.note import Note, NoteKey, NoteSignature, SignatureType
from privacy.errors import ConfigError, VerificationError
from privacy.pki.identity import verify, write_private

_TIME_BYTES = 8
_MAX_TIME = 2**63 - 1
_LABEL = b"subtree/v1\n\0"


class Algorithm(StrEnum):
    """How a witness signs."""

    ED25519 = "ed25519"
    ML_DSA_44 = "ml-dsa-44"


_TYPES = {
    Algorithm.ED25519: SignatureType.COSIGNATURE_ED25519,
    Algorithm.ML_DSA_44: SignatureType.COSIGNATURE_MLDSA44,
}


class CosigningKey:
    """A witness's private key and the name under which it signs. `public` is the other half.

    Raises:
      ValueError: The name has a space or a plus sign.
    """

    def __init__(self, name: str, private_key: Ed25519PrivateKey | MLDSA44PrivateKey) -> None:
        algorithm = (
            Algorithm.ED25519
            if isinstance(private_key, Ed25519PrivateKey)
            else Algorithm.ML_DSA_44
        )
        self._private_key = private_key
        self.algorithm = algorithm
        self.public = NoteKey(
            name=name,
            type=_TYPES[algorithm],
            public_key=private_key.public_key().public_bytes_raw(),
        )

    @classmethod
    def generate(cls, name: str, algorithm: Algorithm = Algorithm.ED25519) -> "CosigningKey":
        """A fresh key from the operating system's generator."""
        if algorithm is Algorithm.ED25519:
            return cls(name, Ed25519PrivateKey.generate())
        return cls(name, MLDSA44PrivateKey.generate())

    @classmethod
    def load(cls, path: Path, name: str) -> "CosigningKey":
        """Read a key that `save` wrote.

        Raises:
          ConfigError: The file is missing or holds no key of a known algorithm.
        """
        try:
            loaded = load_pem_private_key(path.read_bytes(), password=None)
        except (OSError, ValueError, TypeError) as error:
            raise ConfigError(
                f"expected a witness's private key in {path}, got {type(error).__name__}"
            ) from error
        if not isinstance(loaded, Ed25519PrivateKey | MLDSA44PrivateKey):
            raise ConfigError(
                f"expected an Ed25519 or ML-DSA-44 key in {path}, got {type(loaded).__name__}"
            )
        return cls(name, loaded)

    def save(self, path: Path) -> None:
        """Write the key as PKCS #8 PEM to a new file of mode 0600."""
        write_private(
            path,
            self._private_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
        )

    def cosign(self, text: str, at: datetime) -> NoteSignature:
        """Sign a checkpoint's text. Whether it may be signed, `privacy.audit.witness` decides.

        Raises:
          VerificationError: The text is no checkpoint, or has lines that cannot be signed.
          ValueError: The time has no zone.
        """
        if at.tzinfo is None:
            raise ValueError("expected an aware time, got one without a zone")
        time = int(at.timestamp())
        signature = self._private_key.sign(_message(self.public, text, time))
        return NoteSignature(
            name=self.public.name,
            key_id=self.public.key_id,
            signature=time.to_bytes(_TIME_BYTES, "big") + signature,
        )


def cosigned_at(note: Note, key: NoteKey) -> datetime | None:
    """When the owner of `key` cosigned `note`; None when it did not.

    Raises:
      VerificationError: A line names the key, but its signature does not verify.
    """
    newest: datetime | None = None
    for found in note.by(key):
        time = int.from_bytes(found.signature[:_TIME_BYTES], "big")
        if len(found.signature) <= _TIME_BYTES or time > _MAX_TIME:
            raise VerificationError(f"expected a time in the cosignature of {key.name}")
        _check(key, _message(key, note.text, time), found.signature[_TIME_BYTES:])
        try:
            at = datetime.fromtimestamp(time, UTC)
        except (OverflowError, ValueError, OSError):
            raise VerificationError(f"expected a time in the cosignature of {key.name}") from None
        newest = at if newest is None else max(newest, at)
    return newest


def check_signed(note: Note, key: NoteKey) -> bool:
    """Whether the log that owns `key` signed `note`.

    Raises:
      VerificationError: A line names the key, but its signature does not verify.
    """
    if key.type is not SignatureType.ED25519:
        return cosigned_at(note, key) is not None
    found = note.by(key)
    for signature in found:
        verify(key.public_key, note.text.encode(), signature.signature)
    return bool(found)


def _message(key: NoteKey, text: str, time: int) -> bytes:
    """The bytes that are signed."""
    if key.type is SignatureType.COSIGNATURE_ED25519:
        return f"cosignature/v1\ntime {time}\n{text}".encode()
    checkpoint = parse_checkpoint(text)
    if checkpoint.text != text:
        # They would not be signed, and yet stand above the signature.
        raise VerificationError("expected a checkpoint of three lines, got more")
    return b"".join(
        (
            _LABEL,
            _short(key.name),
            time.to_bytes(8, "big"),
            _short(checkpoint.origin),
            (0).to_bytes(8, "big"),
            checkpoint.size.to_bytes(8, "big"),
            checkpoint.root,
        )
    )


def _short(text: str) -> bytes:
    content = text.encode()
    if not 1 <= len(content) <= 255:
        raise VerificationError(f"expected a name of 1 to 255 bytes, got {len(content)}")
    return len(content).to_bytes(1, "big") + content


def _check(key: NoteKey, message: bytes, signature: bytes) -> None:
    if key.type is SignatureType.COSIGNATURE_ED25519:
        verify(key.public_key, message, signature)
        return
    try:
        MLDSA44PublicKey.from_public_bytes(key.public_key).verify(signature, message)
    except (InvalidSignature, ValueError) as error:
        raise VerificationError(f"the cosignature of {key.name} does not verify") from error
