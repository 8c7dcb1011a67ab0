"""A key signs with its own algorithm and no other, and the settings cannot say otherwise."""

import json
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA44PrivateKey

from privacy.errors import ConfigError, VerificationError
from privacy.pki.identity import (
    Algorithm,
    SigningKey,
    _load_public,
    algorithm_of,
    parse_algorithm,
    verify,
)

VECTORS = json.loads((Path(__file__).parent / "vectors" / "mldsa44.json").read_text())["tests"]
# RFC 8032, section 7.1, test 2.
ED25519 = (
    "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
    "72",
    "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da"
    "085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00",
)


def test_a_published_ed25519_signature_verifies() -> None:
    key, message, signature = map(bytes.fromhex, ED25519)
    verify(key, message, signature)
    with pytest.raises(VerificationError, match="does not verify"):
        verify(key, message + b"x", signature)


@pytest.mark.parametrize("vector", VECTORS)
def test_published_ml_dsa_44_keys_and_signatures_are_ours_too(vector: dict[str, str]) -> None:
    seed, public, message, context, signature = (
        bytes.fromhex(vector[name])
        for name in ("seed", "public_key", "message", "context", "signature")
    )
    key = SigningKey(MLDSA44PrivateKey.from_seed_bytes(seed))
    assert (key.public_key, key.algorithm) == (public, Algorithm.ML_DSA_44)
    _load_public(public).verify(signature, message, context)  # type: ignore[call-arg]
    # We sign under the empty context: what was signed under another one is not ours.
    with pytest.raises(VerificationError, match="does not verify"):
        verify(public, message, signature)


@pytest.mark.parametrize("algorithm", Algorithm)
def test_a_key_comes_back_from_its_file(tmp_path: Path, algorithm: Algorithm) -> None:
    key = SigningKey.generate(algorithm)
    key.save(tmp_path / "signing.key")
    loaded = SigningKey.load(tmp_path / "signing.key", algorithm)
    verify(key.public_key, b"message", loaded.sign(b"message"))
    assert (tmp_path / "signing.key").stat().st_mode & 0o777 == 0o600
    assert len(loaded.sign(b"")) == algorithm.signature_bytes


def test_a_key_of_another_algorithm_than_the_settings_say_is_refused(tmp_path: Path) -> None:
    SigningKey.generate(Algorithm.ED25519).save(tmp_path / "signing.key")
    with pytest.raises(ConfigError, match=r"expected a key of ml-dsa-44 .* got one of ed25519"):
        SigningKey.load(tmp_path / "signing.key", Algorithm.ML_DSA_44)


@pytest.mark.parametrize("name", ["rsa", "ml-dsa-65", "ED25519", "", None, 44])
def test_an_unknown_algorithm_is_one_clear_error(name: object) -> None:
    with pytest.raises(ConfigError, match="expected a signature algorithm of ed25519, ml-dsa-44"):
        parse_algorithm(name)


def test_a_signature_of_the_other_algorithm_is_refused() -> None:
    strong, weak = SigningKey.generate(Algorithm.ML_DSA_44), SigningKey.generate()
    for key, other in ((strong, weak), (weak, strong)):
        with pytest.raises(VerificationError, match=f"expected a signature of {key.algorithm}"):
            verify(key.public_key, b"message", other.sign(b"message"))


@pytest.mark.parametrize("num_bytes", [0, 31, 33, 1311, 1952])
def test_a_key_of_no_known_length_is_none(num_bytes: int) -> None:
    with pytest.raises(ValueError, match="expected a public key of 32"):
        algorithm_of(bytes(num_bytes))
    with pytest.raises(VerificationError, match="does not verify"):
        verify(bytes(num_bytes), b"message", bytes(64))
