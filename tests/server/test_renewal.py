"""The coordinator's own certificate ends after a year, and is issued again by a command."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID
from cryptography.x509.verification import PolicyBuilder, Store

import server.cli
from privacy.pki.authority import Authority, load_tls_key

ADDRESS = "127.0.0.1:9"


@pytest.fixture
def hub(tmp_path: Path) -> Path:
    home = tmp_path / "hub"
    made = ["init", "--home", str(home), "--name", "regio", "--plain-key", "--address", ADDRESS]
    assert server.cli.main(made) == 0
    return home


def certificate(hub: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate((hub / "keys" / "tls.pem").read_bytes())


def let_end(hub: Path, *, days_left: int) -> None:
    """Put a certificate in its place that was issued earlier; negative days are over."""
    authority = Authority.load(hub / "authority", passphrase="")
    pem = authority.issue_server_certificate(
        load_tls_key(hub / "keys" / "tls.key").public_key(),
        hosts=["127.0.0.1"],
        valid_for=timedelta(days=10 + days_left, hours=1),
        at=datetime.now(UTC) - timedelta(days=10),
    )
    (hub / "keys" / "tls.pem").write_bytes(pem)


def test_a_renewed_certificate_is_of_the_same_key_and_the_same_authority(hub: Path) -> None:
    before = certificate(hub)
    assert server.cli.main(["renew", "--home", str(hub)]) == 0
    after = certificate(hub)
    assert after.serial_number != before.serial_number
    assert after.public_key() == before.public_key()
    root = x509.load_pem_x509_certificate((hub / "keys" / "ca.pem").read_bytes())
    names = after.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    verifier = PolicyBuilder().store(Store([root])).build_server_verifier(names[0])
    verifier.verify(after, [])
    usage = after.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(usage) == [ExtendedKeyUsageOID.SERVER_AUTH]


def test_it_names_the_hosts_and_the_days_that_the_file_has_now(
    hub: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = hub / "federation.toml"
    text = path.read_text().replace("hosts = []", 'hosts = ["fl.example.org"]')
    path.write_text(text.replace("server_certificate_days = 365", "server_certificate_days = 90"))
    capsys.readouterr()
    assert server.cli.main(["renew", "--home", str(hub), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told == {"days": 90, "hosts": ["127.0.0.1", "fl.example.org"]}
    renewed = certificate(hub)
    names = renewed.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["fl.example.org"]
    valid_for = renewed.not_valid_after_utc - datetime.now(UTC)
    assert timedelta(days=89) < valid_for <= timedelta(days=90)


def test_without_the_authoritys_key_the_old_certificate_stays(
    hub: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (hub / "keys" / "tls.pem").read_bytes()
    (hub / "authority" / "ca.key").rename(hub / "elsewhere")
    assert server.cli.main(["renew", "--home", str(hub)]) == 1
    assert "ca.key" in capsys.readouterr().err
    assert (hub / "keys" / "tls.pem").read_bytes() == before


def test_a_coordinator_does_not_serve_with_a_certificate_that_has_ended(
    hub: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    let_end(hub, days_left=-3)
    assert server.cli.main(["start", "--home", str(hub)]) == 1
    told = capsys.readouterr().err
    assert f"ended on {certificate(hub).not_valid_after_utc:%Y-%m-%d}" in told
    assert "cloister-coordinator renew" in told


def test_one_that_ends_soon_is_told(hub: Path, capsys: pytest.CaptureFixture[str]) -> None:
    let_end(hub, days_left=7)
    server.cli._check_certificate((hub / "keys" / "tls.pem").read_bytes())
    assert "ends in 7 days" in capsys.readouterr().err
    assert server.cli.main(["renew", "--home", str(hub)]) == 0
    capsys.readouterr()
    server.cli._check_certificate((hub / "keys" / "tls.pem").read_bytes())
    assert capsys.readouterr().err == ""
