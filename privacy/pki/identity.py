"""A party's signing key, one a party, made where it is used and never sent.

Evidence and messages are signed with it; the TLS key is another one, because gRPC's TLS stack
takes neither kind of certificate. Two algorithms:

- Ed25519 (RFC 8032): small and quick, read by every tool of today.
- ML-DSA-44 (FIPS 204): a quantum computer does not break it. Keys of 1312 bytes, signatures of
  2420.

A public key's length tells its algorithm, and a key signs with that one only, so no signature can
be taken for one of the other kind.
"""

import hashlib
import os
import re
from enum import StrEnum
from functools import lru_cache
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA44PrivateKey, MLDSA44PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from privacy.errors import ConfigError, VerificationError

_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")


class Algorithm(StrEnum):
    """How a key signs; the later one is the stronger."""

    ED25519 = "ed25519"
    ML_DSA_44 = "ml-dsa-44"

    @property
    def public_key_bytes(self) -> int:
        """Length of a raw public key."""
        return 32 if self is Algorithm.ED25519 else 1312

    @property
    def signature_bytes(self) -> int:
        """Length of a signature."""
        return 64 if self is Algorithm.ED25519 else 2420

    def is_weaker_than(self, other: "Algorithm") -> bool:
        """Whether to go from `other` to this one would be a step back."""
        order = list(Algorithm)
        return order.index(self) < order.index(other)


def parse_algorithm(name: object) -> Algorithm:
    """The algorithm of that name.

    Raises:
      ConfigError: There is none.
    """
    known = [algorithm.value for algorithm in Algorithm]
    if name not in known:
        raise ConfigError(f"expected a signature algorithm of {', '.join(known)}, got {name!r}")
    return Algorithm(str(name))


def algorithm_of(public_key: bytes) -> Algorithm:
    """With which algorithm the owner of a raw public key signs.

    Raises:
      ValueError: It is a key of neither.
    """
    for algorithm in Algorithm:
        if len(public_key) == algorithm.public_key_bytes:
            return algorithm
    sizes = " or ".join(f"{a.public_key_bytes} ({a})" for a in Algorithm)
    raise ValueError(f"expected a public key of {sizes} bytes, got {len(public_key)}")


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
    """SHA-256 of a raw public key, in hex: how logs name a signer."""
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
    """A private key. `public_key` is its raw public bytes, `algorithm` how it signs."""

    def __init__(self, private_key: Ed25519PrivateKey | MLDSA44PrivateKey) -> None:
        self._private_key = private_key
        self.public_key: bytes = private_key.public_key().public_bytes_raw()
        self.algorithm = algorithm_of(self.public_key)
        self.key_id = key_id(self.public_key)

    @classmethod
    def generate(cls, algorithm: Algorithm = Algorithm.ED25519) -> "SigningKey":
        """A fresh key from the operating system's generator."""
        if algorithm is Algorithm.ED25519:
            return cls(Ed25519PrivateKey.generate())
        return cls(MLDSA44PrivateKey.generate())

    @classmethod
    def load(cls, path: Path, algorithm: Algorithm | None = None) -> "SigningKey":
        """Read a key that `save` wrote.

        Raises:
          ConfigError: The file is missing or holds no private key of a known algorithm, or of
            another one than `algorithm`.
        """
        try:
            loaded = load_pem_private_key(path.read_bytes(), password=None)
        except (OSError, ValueError, TypeError) as error:
            raise ConfigError(
                f"expected an Ed25519 or ML-DSA-44 private key in {path}, got"
                f" {type(error).__name__}"
            ) from error
        if not isinstance(loaded, Ed25519PrivateKey | MLDSA44PrivateKey):
            raise ConfigError(
                f"expected an Ed25519 or ML-DSA-44 private key in {path}, got"
                f" {type(loaded).__name__}"
            )
        key = cls(loaded)
        if algorithm is not None and key.algorithm is not algorithm:
            raise ConfigError(
                f"expected a key of {algorithm} in {path}, as the settings say, got one of"
                f" {key.algorithm}",
                hint="correct signature_algorithm in the settings; a key keeps its algorithm",
            )
        return key

    def save(self, path: Path) -> None:
        """Write the key as PKCS #8 PEM to a new file of mode 0600."""
        write_private(
            path,
            self._private_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
        )

    @property
    def private_key(self) -> Ed25519PrivateKey | MLDSA44PrivateKey:
        """The key itself, for a signature of another form."""
        return self._private_key

    def sign(self, message: bytes) -> bytes:
        """The signature of `message`, 64 or 2420 bytes."""
        return self._private_key.sign(message)


@lru_cache(maxsize=1024)
def _load_public(public_key: bytes) -> Ed25519PublicKey | MLDSA44PublicKey:
    """A log holds many entries by few keys, and to load one takes a third of a check."""
    if algorithm_of(public_key) is Algorithm.ED25519:
        return Ed25519PublicKey.from_public_bytes(public_key)
    return MLDSA44PublicKey.from_public_bytes(public_key)


def verify(public_key: bytes, message: bytes, signature: bytes) -> None:
    """Check that the owner of `public_key` signed `message`, with the key's own algorithm.

    Raises:
      VerificationError: The signature does not verify, or key or signature are malformed.
    """
    try:
        algorithm = algorithm_of(public_key)
        if len(signature) != algorithm.signature_bytes:
            raise VerificationError(
                f"expected a signature of {algorithm} by key {key_id(public_key)[:16]}, of"
                f" {algorithm.signature_bytes} bytes, got {len(signature)}: it does not verify"
            )
        _load_public(public_key).verify(signature, message)
    except (InvalidSignature, ValueError) as error:
        raise VerificationError(
            f"signature by key {key_id(public_key)[:16]} does not verify"
        ) from error
