"""A small consortium: an authority, a coordinator's certificate, and two sites' ones."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from privacy.pki.authority import Authority, generate_tls_key, make_csr

NOW = datetime.now(UTC).replace(microsecond=0)


def key_pem(key: EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


@dataclass(frozen=True, kw_only=True)
class Party:
    """A key with a certificate over it."""

    key: EllipticCurvePrivateKey
    key_pem: bytes
    certificate_pem: bytes
    ca_pem: bytes


@dataclass(frozen=True, kw_only=True)
class Consortium:
    """An authority that issues certificates for tests."""

    authority: Authority
    now: datetime

    def server(self, *hosts: str, at: datetime | None = None, days: int = 30) -> Party:
        """A certificate for the coordinator."""
        key = generate_tls_key()
        certificate_pem = self.authority.issue_server_certificate(
            key.public_key(),
            hosts=hosts or ("127.0.0.1", "localhost"),
            valid_for=timedelta(days=days),
            at=at or self.now,
        )
        return self._party(key, certificate_pem)

    def site(self, name: str = "clinic", *, at: datetime | None = None, days: int = 30) -> Party:
        """A certificate for the coordinator."""
        key = generate_tls_key()
        csr_pem = make_csr(key, site=name, signing_key_id="00" * 32)
        certificate_pem = self.authority.issue_site_certificate(
            csr_pem, site=name, valid_for=timedelta(days=days), at=at or self.now
        )
        return self._party(key, certificate_pem)

    def _party(self, key: EllipticCurvePrivateKey, certificate_pem: bytes) -> Party:
        return Party(
            key=key,
            key_pem=key_pem(key),
            certificate_pem=certificate_pem,
            ca_pem=self.authority.ca_pem,
        )


@pytest.fixture
def new_consortium(tmp_path: Path) -> Callable[[str], Consortium]:
    def make(federation: str) -> Consortium:
        authority = Authority.create(
            tmp_path / f"authority-{federation}",
            federation=federation,
            passphrase="",
            plain=True,
            at=NOW - timedelta(days=400),
        )
        return Consortium(authority=authority, now=NOW)

    return make


@pytest.fixture
def consortium(new_consortium: Callable[[str], Consortium]) -> Consortium:
    return new_consortium("testing")
