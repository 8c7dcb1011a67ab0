"""The authority: what it issues, and what it refuses to."""

import stat
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from cryptography.x509.verification import PolicyBuilder, Store

from privacy.errors import ConfigError, VerificationError
from privacy.pki import authority as pki
from privacy.pki.authority import Authority, generate_tls_key, make_csr, read_csr
from tests.privacy.conftest import NOW, Consortium

DAYS_30 = timedelta(days=30)
PASSPHRASE = "correct horse battery"  # noqa: S105


def usages(certificate: x509.Certificate) -> list[x509.ObjectIdentifier]:
    return list(certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value)


def test_a_site_certificate_names_the_site_and_is_for_clients_only(
    consortium: Consortium,
) -> None:
    certificate = x509.load_pem_x509_certificate(consortium.site("clinic").certificate_pem)
    assert pki.named_site(certificate) == ("testing", "clinic")
    assert usages(certificate) == [ExtendedKeyUsageOID.CLIENT_AUTH]
    assert certificate.not_valid_after_utc == NOW + DAYS_30
    assert certificate.not_valid_before_utc == NOW - pki.BACKDATED
    assert not certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca


def test_a_server_certificate_names_hosts_and_is_for_servers_only(
    consortium: Consortium,
) -> None:
    party = consortium.server("coordinator.example.org", "10.0.0.1")
    certificate = x509.load_pem_x509_certificate(party.certificate_pem)
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["coordinator.example.org"]
    assert [str(ip) for ip in names.get_values_for_type(x509.IPAddress)] == ["10.0.0.1"]
    assert usages(certificate) == [ExtendedKeyUsageOID.SERVER_AUTH]
    with pytest.raises(VerificationError):
        pki.named_site(certificate)


def test_a_strict_verifier_accepts_both_kinds(consortium: Consortium) -> None:
    root = x509.load_pem_x509_certificate(consortium.authority.ca_pem)
    policy = PolicyBuilder().store(Store([root])).time(NOW)
    server = x509.load_pem_x509_certificate(
        consortium.server("coordinator.example.org").certificate_pem
    )
    policy.build_server_verifier(x509.DNSName("coordinator.example.org")).verify(server, [])
    site = x509.load_pem_x509_certificate(consortium.site().certificate_pem)
    policy.build_client_verifier().verify(site, [])


def test_nothing_of_a_request_but_its_key_gets_into_the_certificate(
    consortium: Consortium,
) -> None:
    key = generate_tls_key()
    names = [
        x509.DNSName("coordinator.example.org"),
        x509.UniformResourceIdentifier("urn:cloister:testing:site:bank"),
    ]
    csr_pem = (
        x509.CertificateSigningRequestBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "bank")]))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, SHA256())
        .public_bytes(Encoding.PEM)
    )
    pem = consortium.authority.issue_site_certificate(
        csr_pem, site="clinic", valid_for=DAYS_30, at=NOW
    )
    certificate = x509.load_pem_x509_certificate(pem)
    assert pki.named_site(certificate) == ("testing", "clinic")
    assert pki.public_der(certificate) == pki.public_der(key)
    assert not certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca


def test_a_request_over_another_kind_of_key_is_refused(consortium: Consortium) -> None:
    key = ec.generate_private_key(ec.SECP384R1())
    csr_pem = make_csr(key, site="clinic", signing_key_id="00")
    with pytest.raises(ConfigError, match="P-256"):
        consortium.authority.issue_site_certificate(
            csr_pem, site="clinic", valid_for=DAYS_30, at=NOW
        )


def test_a_request_that_is_not_signed_with_its_own_key_is_refused() -> None:
    honest = x509.load_pem_x509_csr(make_csr(generate_tls_key(), site="a", signing_key_id="00"))
    der = bytearray(honest.public_bytes(Encoding.DER))
    der[-1] ^= 1
    tampered = x509.load_der_x509_csr(bytes(der)).public_bytes(Encoding.PEM)
    with pytest.raises(VerificationError, match="its own key"):
        read_csr(tampered)


@pytest.mark.parametrize("content", [b"", b"-----BEGIN CERTIFICATE REQUEST-----\n", b"\xff"])
def test_what_is_no_request_is_refused(content: bytes) -> None:
    with pytest.raises(ConfigError, match="certificate request"):
        read_csr(content)


@pytest.mark.parametrize("host", ["", "a b", "*.example.org", "a/b", "x" * 64])
def test_a_malformed_host_is_refused(consortium: Consortium, host: str) -> None:
    with pytest.raises(ConfigError, match="host name"):
        consortium.authority.issue_server_certificate(
            generate_tls_key().public_key(), hosts=[host], valid_for=DAYS_30, at=NOW
        )


def test_no_certificate_outlives_the_authority(consortium: Consortium) -> None:
    csr_pem = make_csr(generate_tls_key(), site="clinic", signing_key_id="00")
    with pytest.raises(ConfigError, match="the authority ends on"):
        consortium.authority.issue_site_certificate(
            csr_pem, site="clinic", valid_for=timedelta(days=3650), at=NOW
        )


def test_the_key_is_encrypted_under_the_passphrase_and_readable_for_its_owner_only(
    tmp_path: Path,
) -> None:
    made = Authority.create(tmp_path, federation="testing", passphrase=PASSPHRASE, at=NOW)
    key_file = tmp_path / pki.KEY_FILE
    assert stat.S_IMODE(key_file.stat().st_mode) == 0o600
    assert b"ENCRYPTED PRIVATE KEY" in key_file.read_bytes()
    # The passphrase itself opens nothing: scrypt stands before the file's own weak stretching.
    pem = key_file.read_bytes().partition(b"\n")[2]
    with pytest.raises(ValueError, match=r"(?i)password|decrypt"):
        load_pem_private_key(pem, PASSPHRASE.encode())
    loaded = Authority.load(tmp_path, passphrase=PASSPHRASE)
    assert loaded.ca_pem == made.ca_pem
    assert loaded.federation == "testing"
    for wrong, match in (("", "is encrypted"), ("incorrect horse", "cannot open")):
        with pytest.raises(ConfigError, match=match):
            Authority.load(tmp_path, passphrase=wrong)


def test_a_plain_key_needs_the_explicit_flag(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="either a passphrase or a plain key"):
        Authority.create(tmp_path, federation="testing", passphrase="", at=NOW)
    with pytest.raises(ConfigError, match="either a passphrase or a plain key"):
        Authority.create(tmp_path, federation="testing", passphrase=PASSPHRASE, plain=True, at=NOW)
    with pytest.raises(ConfigError, match="at least 12"):
        Authority.create(tmp_path, federation="testing", passphrase=PASSPHRASE[:11], at=NOW)
    assert list(tmp_path.iterdir()) == []


def test_an_authority_is_never_overwritten(tmp_path: Path) -> None:
    made = Authority.create(tmp_path, federation="testing", passphrase="", plain=True, at=NOW)
    with pytest.raises(ConfigError, match="exists already"):
        Authority.create(tmp_path, federation="other", passphrase="", plain=True, at=NOW)
    assert Authority.load(tmp_path, passphrase="").ca_pem == made.ca_pem


def test_a_key_and_a_certificate_that_do_not_match_are_refused(tmp_path: Path) -> None:
    for name in ("one", "two"):
        Authority.create(tmp_path / name, federation=name, passphrase="", plain=True, at=NOW)
    (tmp_path / "one" / pki.KEY_FILE).write_bytes((tmp_path / "two" / pki.KEY_FILE).read_bytes())
    with pytest.raises(ConfigError, match="do not"):
        Authority.load(tmp_path / "one", passphrase="")


def test_a_missing_authority_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        Authority.load(tmp_path, passphrase="")
    assert "init" in caught.value.hint


def test_a_tls_key_is_read_as_it_was_written_and_for_its_owner_only(tmp_path: Path) -> None:
    key = generate_tls_key()
    pki.save_tls_key(key, tmp_path / "tls.key")
    assert stat.S_IMODE((tmp_path / "tls.key").stat().st_mode) == 0o600
    assert pki.public_der(pki.load_tls_key(tmp_path / "tls.key")) == pki.public_der(key)
    (tmp_path / "damaged.key").write_text("no key")
    for name in ("damaged.key", "missing.key"):
        with pytest.raises(ConfigError, match="EC P-256"):
            pki.load_tls_key(tmp_path / name)
