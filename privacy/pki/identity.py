"""A party's signing key: Ed25519 (RFC 8032), one a party, made where it is used and never sent.

Evidence and messages are signed with it; the TLS key is another one, because gRPC's TLS stack
takes no Ed25519 certificates.
"""

import hashlib
import os
import re
from functools import lru_cache
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from privacy.errors import ConfigError, VerificationError

_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")


def check_name(name: str) -> None:
    """Check a name of a site, a run or a federation: it becomes a file name and a subject.

    Raises:
      ValueError: Not 1 to 63 of a-z, 0-9, `_`, `-`, beginning with a letter or digit.
    """
    if not _NAME.fullmatch(name):
        raise ValueError(
            "expected a name of 1 to 63 characters a-z 0-9 _ -, beginning with a-z or 0-9, "
            f"got {name!r}"
        )


def key_id(public_key: bytes) -> str:
    """SHA-256 of a raw 32-byte Ed25519 public key, in hex: how logs name a signer."""
    return hashlib.sha256(public_key).hexdigest()


def fingerprint(public_bytes: bytes) -> str:
    """SHA-256 of `public_bytes` in groups of four hex digits, to be compared by voice."""
    digest = hashlib.sha256(public_bytes).hexdigest()
    return " ".join(digest[i : i + 4] for i in range(0, len(digest), 4))


def write_private(path: Path, content: bytes) -> None:
    """Write `content` to a new file that only its owner can read (mode 0600).

    Raises:
      ConfigError: The file exists: a key is never overwritten, because what it signed would lose
        its signer.
    """
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        raise ConfigError(
            f"{path} exists already", hint="move the old key away before you make a new one"
        ) from None
    with os.fdopen(descriptor, "wb") as opened:
        opened.write(content)
        opened.flush()
        os.fsync(opened.fileno())


class SigningKey:
    """An Ed25519 private key. `public_key` is its 32 raw public bytes."""

    def __init__(self, private_key: Ed25519PrivateKey) -> None:
        self._private_key = private_key
        self.public_key: bytes = private_key.public_key().public_bytes_raw()
        self.key_id = key_id(self.public_key)

    @classmethod
    def generate(cls) -> "SigningKey":
        """A fresh key from the operating system's generator."""
        return cls(Ed25519PrivateKey.generate())

    @classmethod
    def load(cls, path: Path) -> "SigningKey":
        """Read a key that `save` wrote.

        Raises:
          ConfigError: The file is missing or holds no Ed25519 private key.
        """
        try:
            loaded = load_pem_private_key(path.read_bytes(), password=None)
        except (OSError, ValueError, TypeError) as error:
            raise ConfigError(
                f"expected an Ed25519 private key in {path}, got {type(error).__name__}"
            ) from error
        if not isinstance(loaded, Ed25519PrivateKey):
            raise ConfigError(
                f"expected an Ed25519 private key in {path}, got {type(loaded).__name__}"
            )
        return cls(loaded)

    def save(self, path: Path) -> None:
        """Write the key as PKCS #8 PEM to a new file of mode 0600."""
        write_private(
            path,
            self._private_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
        )

    def sign(self, message: bytes) -> bytes:
        """The 64-byte signature of `message`."""
        return self._private_key.sign(message)


@lru_cache(maxsize=1024)
def _load_public(public_key: bytes) -> Ed25519PublicKey:
    """A log holds many entries by few keys, and to load one takes a third of a check."""
    return Ed25519PublicKey.from_public_bytes(public_key)


def verify(public_key: bytes, message: bytes, signature: bytes) -> None:
    """Check that the owner of `public_key` (32 raw bytes) signed `message`.

    Raises:
      VerificationError: The signature does not verify, or key or signature are malformed.
    """
    try:
        _load_public(public_key).verify(signature, message)
    except (InvalidSignature, ValueError) as error:
        raise VerificationError(
            f"signature by key {key_id(public_key)[:16]} does not verify"
        ) from error
