"""Enrolment: what a request proves, what a kit proves, and what a thief of either cannot do."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

import pytest
import rfc8785
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from hypothesis import given
from hypothesis import strategies as st

from privacy.errors import ConfigError, FederationError, VerificationError
from privacy.pki import enrolment
from privacy.pki.authority import generate_tls_key, make_csr, public_der
from privacy.pki.enrolment import Member, make_kit, make_request, read_kit, read_request
from privacy.pki.identity import Algorithm, SigningKey
from tests.privacy.conftest import NOW, Consortium

COORDINATOR = SigningKey.generate()


@dataclass(frozen=True, kw_only=True)
class Site:
    """A site's two private keys."""

    tls_key: EllipticCurvePrivateKey
    signing_key: SigningKey

    def request(self, site: str = "clinic", *, num_units: int = 100) -> bytes:
        """Its request to join the federation `testing`."""
        return make_request(
            federation="testing",
            site=site,
            tls_key=self.tls_key,
            signing_key=self.signing_key,
            num_units=num_units,
        )


def new_site() -> Site:
    return Site(tls_key=generate_tls_key(), signing_key=SigningKey.generate())


def approve(
    consortium: Consortium, request: bytes, *, coordinator: SigningKey = COORDINATOR
) -> bytes:
    read = read_request(request)
    certificate_pem = consortium.authority.issue_site_certificate(
        read.csr_pem, site=read.site, valid_for=timedelta(days=30), at=NOW
    )
    return make_kit(
        site=read.site,
        federation="testing",
        address="coordinator.example.org:9092",
        ca_pem=consortium.authority.ca_pem,
        certificate_pem=certificate_pem,
        roster=[
            Member(name=read.site, signing_key=read.signing_key),
            Member(name="bank", signing_key=bytes(32)),
        ],
        signing_key=coordinator,
        at=NOW,
    )


def changed(content: bytes, **fields: object) -> bytes:
    return rfc8785.dumps(json.loads(content) | fields)


def resigned(kit: bytes, coordinator: SigningKey = COORDINATOR, **fields: object) -> bytes:
    """The kit with other fields, signed anew as the coordinator itself could."""
    body = json.loads(kit) | {"coordinator_key": coordinator.public_key.hex()} | fields
    del body["signature"]
    signature = coordinator.sign(b"cloister enrolment kit v1\n" + rfc8785.dumps(body)).hex()
    return rfc8785.dumps(body | {"signature": signature})


def test_a_request_says_what_the_site_wrote() -> None:
    site = new_site()
    request = read_request(site.request(), federation="testing")
    assert request.site == "clinic"
    assert request.federation == "testing"
    assert request.num_units == 100
    assert request.node_key == public_der(site.tls_key)
    assert request.signing_key == site.signing_key.public_key


def test_a_request_holds_no_private_key() -> None:
    site = new_site()
    scalar = site.tls_key.private_numbers().private_value
    content = site.request()
    assert b"PRIVATE" not in content
    assert f"{scalar:x}".encode() not in content


@pytest.mark.parametrize(
    ("field", "value"),
    [("site", "bank"), ("num_units", 101), ("federation", "other"), ("signing_key", "ab" * 32)],
)
def test_an_edited_request_is_refused(field: str, value: object) -> None:
    with pytest.raises(VerificationError):
        read_request(changed(new_site().request(), **{field: value}))


def test_a_foreign_certificate_request_cannot_be_put_beside_a_signing_key() -> None:
    victim, thief = new_site(), new_site()
    csr_pem = json.loads(victim.request())["csr_pem"]
    body = json.loads(thief.request()) | {"csr_pem": csr_pem}
    del body["signature"]
    signature = thief.signing_key.sign(
        b"cloister enrolment request v1\n" + rfc8785.dumps(body)
    ).hex()
    with pytest.raises(VerificationError, match="another signing key"):
        read_request(rfc8785.dumps(body | {"signature": signature}))


def test_the_fingerprint_stands_for_everything_that_is_approved() -> None:
    site = new_site()
    prints = {
        read_request(content).fingerprint
        for content in (site.request(), site.request(num_units=101), new_site().request())
    }
    assert len(prints) == 3
    assert all(len(one.split()) == 16 for one in prints)


def test_a_request_for_another_federation_is_refused() -> None:
    with pytest.raises(ConfigError, match="for federation 'elsewhere'"):
        read_request(new_site().request(), federation="elsewhere")


@pytest.mark.parametrize("num_units", [0, -1, 10**12 + 1])
def test_an_impossible_number_of_units_is_refused(num_units: int) -> None:
    with pytest.raises(ConfigError, match="num_units"):
        new_site().request(num_units=num_units)


def test_a_field_twice_or_unknown_or_spaced_otherwise_is_refused() -> None:
    content = new_site().request()
    for bad in (
        content.replace(b'"version":1', b'"version":1,"version":1'),
        changed(content, more=1),
        json.dumps(json.loads(content)).encode(),
        b"[]",
        b"",
        b"x" * (enrolment.MAX_REQUEST_BYTES + 1),
    ):
        with pytest.raises(ConfigError):
            read_request(bad)


@given(content=st.binary(max_size=200))
def test_arbitrary_bytes_are_refused_cleanly(content: bytes) -> None:
    with pytest.raises(FederationError):
        read_request(content)


def test_a_kit_gives_the_site_what_it_needs(consortium: Consortium) -> None:
    site = new_site()
    kit = read_kit(
        approve(consortium, site.request()),
        site="clinic",
        tls_key=site.tls_key,
        signing_key=site.signing_key,
        at=NOW,
    )
    assert kit.address == "coordinator.example.org:9092"
    assert kit.coordinator_key == COORDINATOR.public_key
    assert [member.name for member in kit.roster] == ["bank", "clinic"]
    assert kit.issued_at == NOW
    assert enrolment.days_left(kit.certificate_pem, at=NOW) == timedelta(days=30)


def test_every_kit_of_a_federation_has_the_same_fingerprint(consortium: Consortium) -> None:
    prints = set()
    for name in ("clinic", "ward"):
        site = new_site()
        kit = read_kit(
            approve(consortium, site.request(name)),
            site=name,
            tls_key=site.tls_key,
            signing_key=site.signing_key,
            at=NOW,
        )
        prints.add(kit.fingerprint)
    assert prints == {
        enrolment.coordinator_fingerprint(consortium.authority.ca_pem, COORDINATOR.public_key)
    }


def read_as(
    keys: Site,
    kit: bytes,
    *,
    site: str = "clinic",
    at: datetime = NOW,
    expected_fingerprint: str = "",
) -> enrolment.EnrolmentKit:
    return read_kit(
        kit,
        site=site,
        tls_key=keys.tls_key,
        signing_key=keys.signing_key,
        at=at,
        expected_fingerprint=expected_fingerprint,
    )


def test_an_edited_kit_is_refused(consortium: Consortium) -> None:
    site = new_site()
    kit = approve(consortium, site.request())
    for edited in (
        changed(kit, address="attacker.example.org:1"),
        changed(kit, roster=[]),
        changed(kit, site="bank"),
    ):
        with pytest.raises(VerificationError, match="does not verify"):
            read_as(site, edited)


def test_a_kit_of_another_coordinator_is_told_by_its_fingerprint(consortium: Consortium) -> None:
    site = new_site()
    request = site.request()
    heard = read_as(site, approve(consortium, request)).fingerprint
    forged = approve(consortium, request, coordinator=SigningKey.generate())
    with pytest.raises(VerificationError, match="expected a kit with fingerprint"):
        read_as(site, forged, expected_fingerprint=heard)
    genuine = approve(consortium, request)
    read_as(site, genuine, expected_fingerprint=heard.upper().replace(" ", ""))


def test_a_kit_for_another_site_or_other_keys_is_refused(consortium: Consortium) -> None:
    site, other = new_site(), new_site()
    kit = approve(consortium, site.request())
    with pytest.raises(VerificationError, match="the kit of site 'bank'"):
        read_as(site, kit, site="bank")
    with pytest.raises(VerificationError, match="another key"):
        read_as(Site(tls_key=other.tls_key, signing_key=site.signing_key), kit)
    with pytest.raises(VerificationError, match="does not name this site"):
        read_as(Site(tls_key=site.tls_key, signing_key=other.signing_key), kit)


def test_a_certificate_of_a_foreign_authority_in_a_kit_is_refused(
    consortium: Consortium, new_consortium: Callable[[str], Consortium]
) -> None:
    site = new_site()
    stranger = new_consortium("strangers").authority
    # The same federation's name, so that only the signature of the authority differs.
    stranger.federation = "testing"
    csr_pem = make_csr(site.tls_key, site="clinic", signing_key_id=site.signing_key.key_id)
    foreign = stranger.issue_site_certificate(
        csr_pem, site="clinic", valid_for=timedelta(days=30), at=NOW
    )
    kit = resigned(approve(consortium, site.request()), certificate_pem=foreign.decode())
    with pytest.raises(VerificationError, match="not issued by the kit's authority"):
        read_as(site, kit)


def test_a_kit_whose_certificate_is_over_is_refused(consortium: Consortium) -> None:
    site = new_site()
    kit = approve(consortium, site.request())
    for at in (NOW + timedelta(days=31), NOW - timedelta(days=1)):
        with pytest.raises(VerificationError, match="the certificate is valid from") as caught:
            read_as(site, kit, at=at)
        assert "clock" in caught.value.hint


def test_a_roster_out_of_order_is_refused(consortium: Consortium) -> None:
    site = new_site()
    kit = approve(consortium, site.request())
    roster = json.loads(kit)["roster"]
    with pytest.raises(VerificationError, match="sorted by name"):
        read_as(site, resigned(kit, roster=roster[::-1]))


@pytest.mark.parametrize("time", ["2030-01-31T12:00:00+00:00", "2030-13-31T12:00:00Z", "now"])
def test_a_time_in_another_form_is_refused(consortium: Consortium, time: str) -> None:
    site = new_site()
    with pytest.raises(ConfigError, match="issued_at"):
        read_as(site, resigned(approve(consortium, site.request()), issued_at=time))


@pytest.mark.parametrize("of_site", Algorithm)
@pytest.mark.parametrize("of_coordinator", Algorithm)
def test_a_site_and_a_coordinator_that_sign_differently_take_each_other_in(
    consortium: Consortium, of_site: Algorithm, of_coordinator: Algorithm
) -> None:
    site = Site(tls_key=generate_tls_key(), signing_key=SigningKey.generate(of_site))
    coordinator = SigningKey.generate(of_coordinator)
    assert read_request(site.request()).algorithm is of_site
    kit = read_kit(
        approve(consortium, site.request(), coordinator=coordinator),
        site="clinic",
        tls_key=site.tls_key,
        signing_key=site.signing_key,
        at=NOW,
    )
    assert kit.coordinator_key == coordinator.public_key


def test_a_request_of_before_there_was_a_choice_is_one_of_ed25519() -> None:
    assert "algorithm" not in json.loads(new_site().request())
    strong = Site(tls_key=generate_tls_key(), signing_key=SigningKey.generate(Algorithm.ML_DSA_44))
    assert json.loads(strong.request())["algorithm"] == "ml-dsa-44"


@pytest.mark.parametrize(
    ("algorithm", "problem"),
    [
        ("rsa", "algorithm: expected a signature algorithm of ed25519, ml-dsa-44, got 'rsa'"),
        ("ml-dsa-44", "expected a signing key of ml-dsa-44, as the request says, got one of"),
    ],
)
def test_a_request_that_names_another_algorithm_than_its_key_s_is_refused(
    algorithm: str, problem: str
) -> None:
    with pytest.raises(ConfigError, match=problem):
        read_request(changed(new_site().request(), algorithm=algorithm))
