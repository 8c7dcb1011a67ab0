"""The consortium's certificate authority: one root key, two kinds of leaves.

Rules:

- Every key is EC P-256, the authority's, the coordinator's and the sites' (`privacy/__init__.py`
  says what depends on it).
- A leaf is either a server (`serverAuth`, host names) or a site (`clientAuth`, one URI that names
  federation and site), never both: a site's certificate cannot pose as the coordinator.
- There is no intermediate and no list of revoked certificates: a site is shut out through the
  coordinator's roster, which acts at once, and its certificate ends soon by itself.
- A site's private key is never here: a request carries its public key and proves its possession.

The clock is an argument. Validity begins `BACKDATED` early, for clocks that run behind.
"""

import ipaddress
import os
import re
from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ec import (
    SECP256R1,
    EllipticCurvePrivateKey,
    EllipticCurvePublicKey,
    generate_private_key,
)
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from privacy.errors import ConfigError, VerificationError
from privacy.pki.identity import check_name, fingerprint, write_private

CERTIFICATE_FILE: Final = "ca.pem"
KEY_FILE: Final = "ca.key"
BACKDATED: Final = timedelta(minutes=5)
AUTHORITY_VALID_FOR: Final = timedelta(days=3650)
MIN_PASSPHRASE: Final = 12
_COMMON_NAME = "Cloister authority"
_SALT_LINE = re.compile(rb"\Ascrypt-salt: ([0-9a-f]{32})\n")


def generate_tls_key() -> EllipticCurvePrivateKey:
    """A fresh TLS key, EC P-256."""
    return generate_private_key(SECP256R1())


def save_tls_key(key: EllipticCurvePrivateKey, path: Path) -> None:
    """Write `key` as PKCS #8 PEM to a new file of mode 0600.

    Raises:
      ConfigError: The file exists.
    """
    write_private(path, key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))


def load_tls_key(path: Path) -> EllipticCurvePrivateKey:
    """Read a key that `save_tls_key` wrote.

    Raises:
      ConfigError: The file is missing or holds no EC P-256 private key.
    """
    try:
        key = load_pem_private_key(path.read_bytes(), password=None)
    except (OSError, ValueError, TypeError) as error:
        raise ConfigError(
            f"expected an EC P-256 private key in {path}, got {type(error).__name__}"
        ) from error
    if not (isinstance(key, EllipticCurvePrivateKey) and isinstance(key.curve, SECP256R1)):
        raise ConfigError(f"expected an EC P-256 private key in {path}, got another kind")
    return key


def public_der(certificate_or_key: x509.Certificate | EllipticCurvePrivateKey) -> bytes:
    """The public key, DER of its SubjectPublicKeyInfo: how the roster names a node."""
    key = certificate_or_key.public_key()
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def site_uri(federation: str, site: str) -> str:
    """The URI by which a certificate names a site of a federation."""
    return f"urn:cloister:{federation}:site:{site}"


def named_site(certificate: x509.Certificate) -> tuple[str, str]:
    """Federation and site that `certificate` names.

    Raises:
      VerificationError: It is not a site's certificate.
    """
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        names = x509.SubjectAlternativeName([])
    uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    parts = uris[0].split(":") if len(uris) == 1 and len(names) == 1 else []
    if len(parts) != 5 or parts[:2] != ["urn", "cloister"] or parts[3] != "site":
        raise VerificationError("expected a certificate that names one site of a federation")
    return parts[2], parts[4]


def serial(certificate: x509.Certificate) -> str:
    """The certificate's serial number in hex, as roster and log write it."""
    return f"{certificate.serial_number:x}"


def authority_fingerprint(ca_pem: bytes) -> str:
    """SHA-256 of the authority's certificate, in groups, to be compared by voice."""
    certificate = x509.load_pem_x509_certificate(ca_pem)
    return fingerprint(certificate.public_bytes(Encoding.DER))


class Authority:
    """The consortium's root.

    Attributes:
      federation: Name that every certificate carries.
      certificate: The root certificate; `ca_pem` is the same in PEM.
    """

    def __init__(self, certificate: x509.Certificate, key: EllipticCurvePrivateKey) -> None:
        self.certificate = certificate
        self.ca_pem: bytes = certificate.public_bytes(Encoding.PEM)
        self.federation = _attribute(certificate.subject, NameOID.ORGANIZATION_NAME)
        self._key = key

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the root certificate, in groups."""
        return authority_fingerprint(self.ca_pem)

    @classmethod
    def create(
        cls,
        folder: Path,
        *,
        federation: str,
        passphrase: str,
        at: datetime,
        plain: bool = False,
    ) -> "Authority":
        """Make a root for `federation` and write `ca.pem` and `ca.key` (mode 0600) to `folder`.

        Args:
          folder: Made when it is missing.
          federation: Name of the consortium.
          passphrase: Encrypts the key; must be empty with `plain`.
          at: Now.
          plain: Write the key unencrypted: whoever reads the file can then enrol anyone.

        Raises:
          ConfigError: There is a root already, or the passphrase is too short or given with
            `plain`.
        """
        check_name(federation)
        if plain == bool(passphrase):
            raise ConfigError("expected either a passphrase or a plain key")
        if not plain and len(passphrase) < MIN_PASSPHRASE:
            raise ConfigError(
                f"expected a passphrase of at least {MIN_PASSPHRASE} characters",
                hint="six random words are easy to keep and hard to guess",
            )
        key = generate_private_key(SECP256R1())
        name = x509.Name(
            [
                x509.NameAttribute(NameOID.ORGANIZATION_NAME, federation),
                x509.NameAttribute(NameOID.COMMON_NAME, _COMMON_NAME),
            ]
        )
        certificate = (
            _builder(key.public_key(), name, name, at=at, valid_for=AUTHORITY_VALID_FOR)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_key_usage(for_authority=True), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False)
            .sign(key, SHA256())
        )
        write_private(folder / KEY_FILE, _sealed(key, passphrase))
        # A crash here leaves a key without a certificate: the next attempt says that the key
        # exists, and nothing was issued yet.
        certificate_file = folder / CERTIFICATE_FILE
        certificate_file.write_bytes(certificate.public_bytes(Encoding.PEM))
        certificate_file.chmod(0o644)
        return cls(certificate, key)

    @classmethod
    def load(cls, folder: Path, *, passphrase: str) -> "Authority":
        """Read the root that `create` wrote; `passphrase` is empty for a plain key.

        Raises:
          ConfigError: A file is missing or damaged, the passphrase is wrong, or key and
            certificate do not belong together.
        """
        try:
            certificate = x509.load_pem_x509_certificate((folder / CERTIFICATE_FILE).read_bytes())
            sealed = (folder / KEY_FILE).read_bytes()
        except (OSError, ValueError) as error:
            raise ConfigError(
                f"expected {CERTIFICATE_FILE} and {KEY_FILE} of an authority in {folder}",
                hint="cloister-coordinator init makes them",
            ) from error
        key = _opened(sealed, passphrase)
        if public_der(certificate) != public_der(key):
            raise ConfigError(
                f"{KEY_FILE} and {CERTIFICATE_FILE} in {folder} do not belong together"
            )
        return cls(certificate, key)

    def issue_server_certificate(
        self,
        public_key: EllipticCurvePublicKey,
        *,
        hosts: Sequence[str],
        valid_for: timedelta,
        at: datetime,
    ) -> bytes:
        """A certificate (PEM) for the coordinator under the names `hosts`.

        Raises:
          ConfigError: No host, a malformed host, or the authority ends before the certificate.
        """
        if not hosts:
            raise ConfigError("expected at least one host name for the coordinator's certificate")
        return self._issue(
            public_key,
            common_name=hosts[0][:64],
            names=[_host_name(host) for host in hosts],
            usage=ExtendedKeyUsageOID.SERVER_AUTH,
            valid_for=valid_for,
            at=at,
        )

    def issue_site_certificate(
        self, csr_pem: bytes, *, site: str, valid_for: timedelta, at: datetime
    ) -> bytes:
        """A certificate (PEM) for `site` over the key of its request, and nothing else of it.

        Raises:
          VerificationError: The request does not prove the possession of its key.
          ConfigError: The request's key is not EC P-256, or the authority ends before the
            certificate.
        """
        check_name(site)
        return self._issue(
            read_csr(csr_pem),
            common_name=site,
            names=[x509.UniformResourceIdentifier(site_uri(self.federation, site))],
            usage=ExtendedKeyUsageOID.CLIENT_AUTH,
            valid_for=valid_for,
            at=at,
        )

    def _issue(
        self,
        public_key: EllipticCurvePublicKey,
        *,
        common_name: str,
        names: Sequence[x509.GeneralName],
        usage: x509.ObjectIdentifier,
        valid_for: timedelta,
        at: datetime,
    ) -> bytes:
        if valid_for <= timedelta(0):
            raise ConfigError(f"expected a positive validity, got {valid_for}")
        if at + valid_for > self.certificate.not_valid_after_utc:
            raise ConfigError(
                f"the authority ends on {self.certificate.not_valid_after_utc:%Y-%m-%d}, before a "
                "certificate issued now would",
                hint="make a new authority and enrol the sites again",
            )
        subject = x509.Name(
            [
                x509.NameAttribute(NameOID.ORGANIZATION_NAME, self.federation),
                x509.NameAttribute(NameOID.COMMON_NAME, common_name),
            ]
        )
        own = x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key())
        certificate = (
            _builder(public_key, subject, self.certificate.subject, at=at, valid_for=valid_for)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_key_usage(for_authority=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .add_extension(own, critical=False)
            .sign(self._key, SHA256())
        )
        return certificate.public_bytes(Encoding.PEM)


def make_csr(key: EllipticCurvePrivateKey, *, site: str, signing_key_id: str) -> bytes:
    """A certificate request (PEM) for `site`, signed with `key`.

    It names the site's signing key, so that each of the two keys vouches for the other: nobody can
    put a foreign request beside a signing key of his own.
    """
    check_name(site)
    names = [x509.UniformResourceIdentifier(f"urn:cloister:signing-key:{signing_key_id}")]
    return (
        x509.CertificateSigningRequestBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, site)]))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .sign(key, SHA256())
        .public_bytes(Encoding.PEM)
    )


def read_csr(
    csr_pem: bytes, *, site: str | None = None, signing_key_id: str | None = None
) -> EllipticCurvePublicKey:
    """The public key of a certificate request; the names are compared where they are given.

    Raises:
      VerificationError: The request does not prove the possession of its key, or names another
        site or signing key.
      ConfigError: It is no request, or its key is not EC P-256.
    """
    try:
        request = x509.load_pem_x509_csr(csr_pem)
        key = request.public_key()
        proven = request.is_signature_valid
        subject = _attribute(request.subject, NameOID.COMMON_NAME)
        names = request.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (ValueError, TypeError, x509.ExtensionNotFound, x509.InvalidVersion) as error:
        raise ConfigError("expected a certificate request in PEM") from error
    if not (isinstance(key, EllipticCurvePublicKey) and isinstance(key.curve, SECP256R1)):
        raise ConfigError("expected a certificate request for an EC P-256 key")
    if not proven:
        raise VerificationError("the certificate request is not signed with its own key")
    if site is not None and subject != site:
        raise VerificationError(f"the certificate request names {subject!r}, not {site!r}")
    vouched = names.get_values_for_type(x509.UniformResourceIdentifier)
    if signing_key_id is not None and vouched != [f"urn:cloister:signing-key:{signing_key_id}"]:
        raise VerificationError("the certificate request names another signing key")
    return key


def _builder(
    public_key: EllipticCurvePublicKey,
    subject: x509.Name,
    issuer: x509.Name,
    *,
    at: datetime,
    valid_for: timedelta,
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(at - BACKDATED)
        .not_valid_after(at + valid_for)
    )


def _key_usage(*, for_authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not for_authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=for_authority,
        crl_sign=for_authority,
        encipher_only=False,
        decipher_only=False,
    )


def _host_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        pass
    if not re.fullmatch(r"(?=.{1,253}\Z)[A-Za-z0-9-]{1,63}(\.[A-Za-z0-9-]{1,63})*", host):
        raise ConfigError(f"expected a host name or an IP address, got {host!r}")
    return x509.DNSName(host.lower())


def _attribute(name: x509.Name, oid: x509.ObjectIdentifier) -> str:
    found = name.get_attributes_for_oid(oid)
    value = found[0].value if len(found) == 1 else ""
    return value if isinstance(value, str) else ""


def _sealed(key: EllipticCurvePrivateKey, passphrase: str) -> bytes:
    if not passphrase:
        return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    # PKCS #8 as the library writes it stretches a passphrase 2048 times only: scrypt goes first.
    salt = os.urandom(16)
    encryption = BestAvailableEncryption(_stretched(passphrase, salt))
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption)
    return b"scrypt-salt: " + salt.hex().encode() + b"\n" + pem


def _opened(sealed: bytes, passphrase: str) -> EllipticCurvePrivateKey:
    salt_line = _SALT_LINE.match(sealed)
    if salt_line and not passphrase:
        raise ConfigError("the authority's key is encrypted", hint="give its passphrase")
    password = _stretched(passphrase, bytes.fromhex(salt_line[1].decode())) if salt_line else None
    try:
        key = load_pem_private_key(sealed[salt_line.end() if salt_line else 0 :], password)
    except (ValueError, TypeError):
        raise ConfigError(
            "cannot open the authority's key",
            hint="the passphrase is wrong, or the file is damaged",
        ) from None
    if not isinstance(key, EllipticCurvePrivateKey):
        raise ConfigError("expected an EC private key of the authority")
    return key


def _stretched(passphrase: str, salt: bytes) -> bytes:
    derived = Scrypt(salt=salt, length=32, n=2**17, r=8, p=1).derive(passphrase.encode())
    return derived.hex().encode()
