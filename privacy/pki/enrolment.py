"""How a site is let in: a request goes one way, a kit comes back, people compare fingerprints.

1. The site makes its TLS key and its signing key where it runs; neither ever leaves.
2. Its *request* carries both public keys, its name and the number of units it declares. The TLS
key
   signs the certificate request, which names the signing key; the signing key signs all of it.
3. The coordinator's operator and the site's compare the request's fingerprint by voice, and
   the operator approves. Without this step whoever carries the request could have replaced it.
4. The *kit* carries the authority's certificate, the site's own one, the coordinator's address and
   signing key, and the roster, signed with the coordinator's signing key. The site compares the
   kit's fingerprint by voice too: it stands for the authority and the coordinator's key.

Both are canonical JSON (RFC 8785), so that equal content is equal bytes, and hold no secret.
"""

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from typing import Annotated, Final, Literal, TypeVar

import rfc8785
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.verification import PolicyBuilder, Store
from cryptography.x509.verification import VerificationError as ChainError
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from privacy.errors import ConfigError, VerificationError
from privacy.pki.authority import make_csr, named_site, public_der, read_csr
from privacy.pki.identity import (
    Algorithm,
    SigningKey,
    algorithm_of,
    check_name,
    fingerprint,
    key_id,
    parse_algorithm,
    verify,
)

MAX_REQUEST_BYTES: Final = 20_000
MAX_KIT_BYTES: Final = 1_000_000
MAX_UNITS: Final = 10**12
_REQUEST_CONTEXT = b"cloister enrolment request v1\n"
_KIT_CONTEXT = b"cloister enrolment kit v1\n"


def _checked_name(value: str) -> str:
    check_name(value)
    return value


def _checked_time(value: str) -> str:
    if not re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", value):
        raise ValueError("expected a time like 2030-01-31T12:00:00Z")
    datetime.fromisoformat(value)
    return value


def _checked_algorithm(value: str) -> str:
    try:
        return parse_algorithm(value).value
    except ConfigError as error:
        raise ValueError(str(error)) from None


_Name = Annotated[str, AfterValidator(_checked_name)]
# Ed25519, or ML-DSA-44.
_Key = Annotated[str, Field(pattern=r"^(?:[0-9a-f]{64}|[0-9a-f]{2624})\z")]
_Signature = Annotated[str, Field(pattern=r"^(?:[0-9a-f]{128}|[0-9a-f]{4840})\z")]
_Time = Annotated[str, AfterValidator(_checked_time)]


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


_Body = TypeVar("_Body", bound=_Strict)


class _RequestBody(_Strict):
    kind: Literal["cloister-enrolment-request"] = "cloister-enrolment-request"
    version: Literal[1] = 1
    federation: _Name
    site: _Name
    csr_pem: str
    algorithm: Annotated[str, AfterValidator(_checked_algorithm)] | None = None
    signing_key: _Key
    num_units: int = Field(ge=1, le=MAX_UNITS)


class _Request(_RequestBody):
    signature: _Signature


class _Member(_Strict):
    name: _Name
    signing_key: _Key


class _KitBody(_Strict):
    kind: Literal["cloister-enrolment-kit"] = "cloister-enrolment-kit"
    version: Literal[1] = 1
    federation: _Name
    site: _Name
    address: str
    ca_pem: str
    certificate_pem: str
    coordinator_key: _Key
    roster: list[_Member]
    issued_at: _Time


class _Kit(_KitBody):
    signature: _Signature


@dataclass(frozen=True, kw_only=True, slots=True)
class EnrolmentRequest:
    """A request whose two proofs of possession were checked.

    Attributes:
      federation: Which federation the site wants to join.
      site: The name it asks for.
      csr_pem: Its certificate request.
      node_key: Public TLS key, DER of the SubjectPublicKeyInfo.
      signing_key: Raw public key; `algorithm` tells its kind.
      num_units: Number of training units that it declares in public.
      fingerprint: What is compared by voice before the request is approved.
    """

    federation: str
    site: str
    csr_pem: bytes
    node_key: bytes
    signing_key: bytes
    num_units: int
    fingerprint: str

    @property
    def algorithm(self) -> Algorithm:
        """How the site signs."""
        return algorithm_of(self.signing_key)


@dataclass(frozen=True, kw_only=True, slots=True)
class Member:
    """A site of the roster: its name and its raw public key."""

    name: str
    signing_key: bytes


@dataclass(frozen=True, kw_only=True, slots=True)
class EnrolmentKit:
    """What a site needs to take part; all of it public.

    Attributes:
      federation: Name of the federation.
      site: Whose kit this is.
      address: `host:port` of the coordinator.
      ca_pem: The authority's certificate, the only root to trust.
      certificate_pem: The site's certificate.
      coordinator_key: Raw public key of the coordinator.
      roster: The sites that were enrolled when the kit was issued, this one among them.
      issued_at: When.
    """

    federation: str
    site: str
    address: str
    ca_pem: bytes
    certificate_pem: bytes
    coordinator_key: bytes
    roster: tuple[Member, ...]
    issued_at: datetime

    @property
    def fingerprint(self) -> str:
        """What is compared by voice, the same in each kit: the authority and the coordinator."""
        return coordinator_fingerprint(self.ca_pem, self.coordinator_key)


def coordinator_fingerprint(ca_pem: bytes, coordinator_key: bytes) -> str:
    """SHA-256 over the authority's certificate and the coordinator's key, in groups."""
    certificate = x509.load_pem_x509_certificate(ca_pem)
    return fingerprint(certificate.public_bytes(Encoding.DER) + coordinator_key)


def make_request(
    *,
    federation: str,
    site: str,
    tls_key: EllipticCurvePrivateKey,
    signing_key: SigningKey,
    num_units: int,
) -> bytes:
    """A site's request to be enrolled, for the coordinator's operator.

    Raises:
      ConfigError: A malformed name or number.
    """
    csr_pem = make_csr(tls_key, site=site, signing_key_id=signing_key.key_id)
    body = {
        "federation": federation,
        "site": site,
        "csr_pem": csr_pem.decode(),
        "signing_key": signing_key.public_key.hex(),
        "num_units": num_units,
    }
    if signing_key.algorithm is not Algorithm.ED25519:
        body["algorithm"] = signing_key.algorithm.value
    signed = _canonical(_validated(_RequestBody, body))
    signature = signing_key.sign(_REQUEST_CONTEXT + signed).hex()
    return _canonical(_validated(_Request, body | {"signature": signature}))


def read_request(content: bytes, *, federation: str | None = None) -> EnrolmentRequest:
    """Read a request and check that its sender holds both private keys.

    Raises:
      ConfigError: Too long, not a request, or meant for another federation.
      VerificationError: A proof of possession fails.
    """
    request = _parsed(_Request, content, MAX_REQUEST_BYTES)
    if federation is not None and request.federation != federation:
        raise ConfigError(
            f"expected a request for federation {federation!r}, got one for {request.federation!r}"
        )
    signing_key = bytes.fromhex(request.signing_key)
    said = parse_algorithm(request.algorithm or Algorithm.ED25519.value)
    if algorithm_of(signing_key) is not said:
        raise ConfigError(
            f"expected a signing key of {said}, as the request says, got one of"
            f" {algorithm_of(signing_key)}",
            hint="have the site make its request anew",
        )
    signed = rfc8785.dumps(request.model_dump(exclude={"signature"}, exclude_none=True))
    verify(signing_key, _REQUEST_CONTEXT + signed, bytes.fromhex(request.signature))
    csr_pem = request.csr_pem.encode()
    node_key = read_csr(csr_pem, site=request.site, signing_key_id=key_id(signing_key))
    return EnrolmentRequest(
        federation=request.federation,
        site=request.site,
        csr_pem=csr_pem,
        node_key=node_key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo),
        signing_key=signing_key,
        num_units=request.num_units,
        fingerprint=fingerprint(signed),
    )


def make_kit(
    *,
    site: str,
    federation: str,
    address: str,
    ca_pem: bytes,
    certificate_pem: bytes,
    roster: Sequence[Member],
    signing_key: SigningKey,
    at: datetime,
) -> bytes:
    """The kit for an approved site, signed with the coordinator's `signing_key`.

    Raises:
      ConfigError: A malformed name, address or key.
    """
    members = sorted(roster, key=lambda member: member.name)
    body = {
        "federation": federation,
        "site": site,
        "address": address,
        "ca_pem": ca_pem.decode(),
        "certificate_pem": certificate_pem.decode(),
        "coordinator_key": signing_key.public_key.hex(),
        "roster": [
            asdict(member) | {"signing_key": member.signing_key.hex()} for member in members
        ],
        "issued_at": at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
    }
    signed = rfc8785.dumps(_validated(_KitBody, body).model_dump())
    signature = signing_key.sign(_KIT_CONTEXT + signed).hex()
    return rfc8785.dumps(_validated(_Kit, body | {"signature": signature}).model_dump())


def read_kit(
    content: bytes,
    *,
    site: str,
    tls_key: EllipticCurvePrivateKey,
    signing_key: SigningKey,
    at: datetime,
    expected_fingerprint: str = "",
) -> EnrolmentKit:
    """Read the kit of `site`, and check all that can be checked without a third party.

    That the kit comes from the right coordinator cannot: give `expected_fingerprint` as it was
    heard by voice (spaces and case do not count), or compare `EnrolmentKit.fingerprint` after.

    Raises:
      ConfigError: Too long, or not a kit.
      VerificationError: It is for another site or other keys, its certificate does not come from
        its authority or is not valid at `at`, or its signature fails.
    """
    parsed = _parsed(_Kit, content, MAX_KIT_BYTES)
    coordinator_key = bytes.fromhex(parsed.coordinator_key)
    signed = rfc8785.dumps(parsed.model_dump(exclude={"signature"}))
    verify(coordinator_key, _KIT_CONTEXT + signed, bytes.fromhex(parsed.signature))
    if parsed.site != site:
        raise VerificationError(f"expected the kit of site {site!r}, got {parsed.site!r}'s")
    kit = EnrolmentKit(
        federation=parsed.federation,
        site=parsed.site,
        address=parsed.address,
        ca_pem=parsed.ca_pem.encode(),
        certificate_pem=parsed.certificate_pem.encode(),
        coordinator_key=coordinator_key,
        roster=tuple(
            Member(name=member.name, signing_key=bytes.fromhex(member.signing_key))
            for member in parsed.roster
        ),
        issued_at=datetime.fromisoformat(parsed.issued_at),
    )
    if expected_fingerprint and _squeezed(expected_fingerprint) != _squeezed(kit.fingerprint):
        raise VerificationError(
            f"expected a kit with fingerprint {expected_fingerprint}, got {kit.fingerprint}",
            hint="do not use this kit: ask the coordinator, by voice, for the right one",
        )
    names = [member.name for member in kit.roster]
    if names != sorted(set(names)):
        raise VerificationError("expected a roster sorted by name, without repeats")
    if Member(name=site, signing_key=signing_key.public_key) not in kit.roster:
        raise VerificationError(
            "the kit's roster does not name this site with its signing key",
            hint="the request that was approved is not the one made here: make and send it anew",
        )
    check_site_certificate(
        kit.certificate_pem,
        ca_pem=kit.ca_pem,
        federation=kit.federation,
        site=site,
        node_key=public_der(tls_key),
        at=at,
    )
    return kit


def issued_at(content: bytes) -> datetime:
    """When a kit says it was issued; nothing else of it is checked.

    Raises:
      ConfigError: Too long, or not a kit.
    """
    return datetime.fromisoformat(_parsed(_Kit, content, MAX_KIT_BYTES).issued_at)


def check_site_certificate(
    certificate_pem: bytes,
    *,
    ca_pem: bytes,
    federation: str,
    site: str,
    node_key: bytes,
    at: datetime,
) -> None:
    """Check that a certificate was issued by the authority, to this site, for this key.

    Raises:
      VerificationError: Another issuer, name or key, or not valid at `at`.
      ConfigError: One of them is no certificate.
    """
    try:
        certificate = x509.load_pem_x509_certificate(certificate_pem)
        root = x509.load_pem_x509_certificate(ca_pem)
    except ValueError as error:
        raise ConfigError("expected certificates in PEM") from error
    if named_site(certificate) != (federation, site):
        raise VerificationError(
            f"expected a certificate for site {site!r} of {federation!r}, got one for "
            "{1!r} of {0!r}".format(*named_site(certificate))
        )
    if public_der(certificate) != node_key:
        raise VerificationError(
            "the certificate is for another key than this site's",
            hint="the request that was approved is not the one made here: make and send it anew",
        )
    if not certificate.not_valid_before_utc <= at <= certificate.not_valid_after_utc:
        raise VerificationError(
            f"the certificate is valid from {certificate.not_valid_before_utc:%Y-%m-%d %H:%M} to "
            f"{certificate.not_valid_after_utc:%Y-%m-%d %H:%M} UTC, and it is now "
            f"{at.astimezone(UTC):%Y-%m-%d %H:%M}",
            hint="check this machine's clock, or ask the coordinator to renew the certificate",
        )
    verifier = PolicyBuilder().store(Store([root])).time(at).build_client_verifier()
    try:
        verifier.verify(certificate, [])
    except ChainError as error:
        raise VerificationError("the certificate was not issued by the kit's authority") from error


def days_left(certificate_pem: bytes, *, at: datetime) -> timedelta:
    """How long a certificate is still valid; negative when it is over."""
    return x509.load_pem_x509_certificate(certificate_pem).not_valid_after_utc - at


def _canonical(body: _Strict) -> bytes:
    content: bytes = rfc8785.dumps(body.model_dump(exclude_none=True))
    return content


def _squeezed(text: str) -> str:
    return "".join(text.split()).lower()


def _validated(kind: type[_Body], body: object) -> _Body:
    try:
        return kind.model_validate(body)
    except ValidationError as error:
        raise _explained(error) from None


def _parsed(kind: type[_Body], content: bytes, limit: int) -> _Body:
    if len(content) > limit:
        raise ConfigError(f"expected at most {limit} bytes, got {len(content)}")
    try:
        parsed = kind.model_validate_json(content)
    except ValidationError as error:
        raise _explained(error) from None
    # Otherwise two programs could read one file as two things: a key twice, a number in two ways.
    if _canonical(parsed) != content.rstrip(b"\n"):
        raise ConfigError("expected canonical JSON (RFC 8785), with every field once and no other")
    return parsed


def _explained(error: ValidationError) -> ConfigError:
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    place = ".".join(str(part) for part in first["loc"]) or "the file"
    return ConfigError(f"{place}: {first['msg'].removeprefix('Value error, ')}")
