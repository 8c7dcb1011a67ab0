"""What a witness signs: that the log it saw last grew into this one, and when.

The format is C2SP's `tlog-cosignature`: one more signature line under the log's checkpoint. Two
algorithms: Ed25519, which every tool of today reads, and ML-DSA-44 (FIPS 204), which a quantum
computer does not break. A witness signs with one of them, under one name, with a key of its own.
"""

from datetime import UTC, datetime
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA44PrivateKey

from privacy.audit.checkpoint import check_line, has_time, signed_bytes
from privacy.audit.note import Note, NoteKey, NoteSignature, SignatureType
from privacy.errors import VerificationError
from privacy.pki.identity import Algorithm, SigningKey

__all__ = ["Algorithm", "CosigningKey", "check_signed", "cosigned_at"]

_TIME_BYTES = 8

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
        self._private_key = private_key
        self._key = SigningKey(private_key)
        self.algorithm = self._key.algorithm
        self.public = NoteKey(
            name=name, type=_TYPES[self.algorithm], public_key=self._key.public_key
        )

    @classmethod
    def generate(cls, name: str, algorithm: Algorithm = Algorithm.ED25519) -> "CosigningKey":
        """A fresh key from the operating system's generator."""
        return cls._of(name, SigningKey.generate(algorithm))

    @classmethod
    def load(cls, path: Path, name: str, algorithm: Algorithm | None = None) -> "CosigningKey":
        """Read a key that `save` wrote.

        Raises:
          ConfigError: The file is missing or holds no key of a known algorithm, or of another one
            than `algorithm`.
        """
        return cls._of(name, SigningKey.load(path, algorithm))

    @classmethod
    def _of(cls, name: str, key: SigningKey) -> "CosigningKey":
        return cls(name, key.private_key)

    def save(self, path: Path) -> None:
        """Write the key as PKCS #8 PEM to a new file of mode 0600."""
        self._key.save(path)

    def cosign(self, text: str, at: datetime) -> NoteSignature:
        """Sign a checkpoint's text. Whether it may be signed, `privacy.audit.witness` decides.

        Raises:
          VerificationError: The text is no checkpoint, or has lines that cannot be signed.
          ValueError: The time has no zone.
        """
        if at.tzinfo is None:
            raise ValueError("expected an aware time, got one without a zone")
        time = int(at.timestamp())
        signature = self._key.sign(signed_bytes(self.public, text, time))
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
        time = check_line(key, note.text, found.signature)
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
    if has_time(key):
        return cosigned_at(note, key) is not None
    found = note.by(key)
    for signature in found:
        check_line(key, note.text, signature.signature)
    return bool(found)
