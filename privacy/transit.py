"""The only wire between institutions: gRPC under mutual TLS 1.3.

Rules, each with a test:

- Both sides show a certificate of the consortium's authority; there is no other root, and no
  plaintext port.
- TLS 1.3 or nothing (`privacy/__init__.py` says how); certificates are ECDSA, because that is what
  makes it so.
- The client's certificate names the caller: its public key is the site's identity, never a header.
- A message is measured by its announced length and refused before it is read.
- A site opens one connection outwards, through an HTTP CONNECT proxy where there is one; TLS runs
  from end to end inside.

What happens when the line breaks: keep-alive pings notice within half a minute, and the client
connects again with growing pauses of at most `MAX_RECONNECT_S`.
"""

import ipaddress
from datetime import datetime
from functools import lru_cache
from typing import Final
from urllib.parse import urlsplit

import grpc
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from privacy import GRPC_IS_TLS13_ONLY
from privacy.errors import ConfigError, WireError

# Flower cuts arrays into objects of 5 MiB, and a plan has at most 1 MB: more than this is never
# sent by one of ours.
MAX_MESSAGE_BYTES: Final = 16 * 1024 * 1024
MAX_METADATA_BYTES: Final = 16 * 1024
MAX_CONNECTIONS: Final = 1024
MAX_RECONNECT_S: Final = 15.0
_KEEPALIVE_S: Final = 20.0
_ANSWER_S: Final = 10.0


def parse_address(address: str) -> tuple[str, int]:
    """Host and port of `host:port`, `1.2.3.4:port` or `[::1]:port`; the host without brackets.

    Raises:
      ConfigError: Not of that form, or with a scheme, a path or a user.
    """
    try:
        parts = urlsplit("//" + address)
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port = None, None
    plain = address.isascii() and not set(address) & set("/@?# \t\r\n\\")
    if not plain or not host or port is None:
        raise ConfigError(
            f"expected an address of the form host:port, got {address!r}",
            hint="write it without https://, for example coordinator.example.org:9092",
        )
    return host, port


def is_loopback(address: str) -> bool:
    """Whether `address` (`host:port`) stays on this machine."""
    host, _ = parse_address(address)
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def server_credentials(
    *, ca_pem: bytes, certificate_pem: bytes, key_pem: bytes
) -> grpc.ServerCredentials:
    """Credentials of a server that lets in only clients with a certificate of `ca_pem`.

    Raises:
      ConfigError: The certificate is not ECDSA, or gRPC in this process would speak TLS 1.2.
    """
    _require_tls13(ca_pem, certificate_pem)
    return grpc.ssl_server_credentials(
        [(key_pem, certificate_pem)], root_certificates=ca_pem, require_client_auth=True
    )


def server_options() -> list[tuple[str, int | str]]:
    """Options for `grpc.server`: limits on what a stranger or a site can make the server hold."""
    return [
        ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
        ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
        ("grpc.max_metadata_size", MAX_METADATA_BYTES),
        ("grpc.max_concurrent_streams", 64),
        ("grpc.max_allowed_incoming_connections", MAX_CONNECTIONS),
        # A connection that never finishes its handshake holds its place for no longer than this.
        ("grpc.server_handshake_timeout_ms", int(_ANSWER_S * 1000)),
        ("grpc.keepalive_time_ms", int(_KEEPALIVE_S * 1000)),
        ("grpc.keepalive_timeout_ms", int(_ANSWER_S * 1000)),
        ("grpc.keepalive_permit_without_calls", 1),
        # Without this the server takes the clients' keep-alive pings for an attack and hangs up.
        ("grpc.http2.min_ping_interval_without_data_ms", int(_KEEPALIVE_S * 1000 / 2)),
        # Otherwise a second coordinator could open the same port and take half of the calls.
        ("grpc.so_reuseport", 0),
    ]


def channel(
    address: str, *, ca_pem: bytes, certificate_pem: bytes, key_pem: bytes, proxy: str = ""
) -> grpc.Channel:
    """A channel to the coordinator at `address`; it connects on the first call, and again.

    Args:
      address: `host:port`; the server's certificate must name this host.
      ca_pem: The only root that is trusted.
      certificate_pem: This site's certificate.
      key_pem: Its private key.
      proxy: `http://[user:password@]host:port` of an HTTP CONNECT proxy; `direct` for none; empty
        for what the environment says (`https_proxy`, `no_proxy`), except that a loopback address
        never goes through the environment's proxy.

    Raises:
      ConfigError: The address or proxy is malformed, the certificate is not ECDSA, or gRPC would
        speak TLS 1.2.
    """
    _require_tls13(ca_pem, certificate_pem)
    parse_address(address)
    options: list[tuple[str, int | str]] = [
        ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
        ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
        ("grpc.max_metadata_size", MAX_METADATA_BYTES),
        ("grpc.keepalive_time_ms", int(_KEEPALIVE_S * 1000)),
        ("grpc.keepalive_timeout_ms", int(_ANSWER_S * 1000)),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.max_pings_without_data", 0),
        ("grpc.initial_reconnect_backoff_ms", 250),
        # Named a backoff, it is also how long one attempt to connect may take.
        ("grpc.min_reconnect_backoff_ms", 5000),
        ("grpc.max_reconnect_backoff_ms", int(MAX_RECONNECT_S * 1000)),
        # Two channels of one process must not share a connection: they may be two parties.
        ("grpc.use_local_subchannel_pool", 1),
        # A TXT record in somebody's DNS must not configure the channel.
        ("grpc.service_config_disable_resolution", 1),
        ("grpc.enable_retries", 0),
        *_proxy_options(address, proxy),
    ]
    credentials = grpc.ssl_channel_credentials(ca_pem, key_pem, certificate_pem)
    return grpc.secure_channel(address, credentials, options)


def check_proxy(proxy: str) -> None:
    """Check a proxy setting as `channel` takes it.

    Raises:
      ConfigError: Neither empty, nor `direct`, nor an `http://` URL of a host and port alone.
    """
    if proxy in ("", "direct"):
        return
    try:
        parts = urlsplit(proxy)
        usable = parts.scheme == "http" and parts.hostname and parts.port is not None
    except ValueError:
        usable = False
    else:
        usable = usable and parts.path in ("", "/") and not parts.query and not parts.fragment
    if not usable:
        # The value is not repeated: it may hold a password.
        raise ConfigError(
            "expected a proxy of the form http://host:port",
            hint='"" takes the proxy of the environment, "direct" takes none',
        )


def proxy_for(address: str, proxy: str) -> str:
    """URL of the proxy through which `channel` reaches `address`, or an empty string.

    Raises:
      ConfigError: The setting, or what the environment says, is malformed.
    """
    # Half of this module's import time, and only a site's agent comes here.
    from urllib.request import getproxies_environment, proxy_bypass

    check_proxy(proxy)
    if proxy:
        return "" if proxy == "direct" else proxy.rstrip("/")
    host, _ = parse_address(address)
    if is_loopback(address) or proxy_bypass(host):
        return ""
    found = getproxies_environment()
    url = found.get("https") or found.get("http") or ""
    if url and "://" not in url:
        url = "http://" + url
    try:
        check_proxy(url)
    except ConfigError as error:
        raise ConfigError(
            "expected https_proxy in the environment of the form http://host:port",
            hint='correct it, or set proxy in site.toml; "direct" takes none',
        ) from error
    return url.rstrip("/")


def _proxy_options(address: str, proxy: str) -> list[tuple[str, int | str]]:
    # Decided here and not by gRPC, which reads other variables than most programs of a site do.
    url = proxy_for(address, proxy)
    if not url:
        return [("grpc.enable_http_proxy", 0)]
    return [("grpc.enable_http_proxy", 1), ("grpc.http_proxy", url)]


def peer_certificate(context: grpc.ServicerContext) -> x509.Certificate:
    """The certificate that the caller proved in the handshake.

    Raises:
      WireError: The call came without one, so not over our credentials.
    """
    return _parsed(_peer_pem(context))


def peer_public_key(context: grpc.ServicerContext) -> bytes:
    """The caller's public key (DER of its SubjectPublicKeyInfo): its identity in the roster.

    Raises:
      WireError: The call came without a certificate.
    """
    return _public_der(_peer_pem(context))


def check_validity(certificate: x509.Certificate, *, at: datetime) -> None:
    """Check that `certificate` is valid at `at`.

    The handshake checked it too, but a connection outlives its handshake: without this check an
    open one would never expire.

    Raises:
      WireError: It is not valid yet, or not any more.
    """
    if not certificate.not_valid_before_utc <= at <= certificate.not_valid_after_utc:
        raise WireError(
            f"expected a certificate that is valid at {at:%Y-%m-%dT%H:%M:%SZ}, got one from "
            f"{certificate.not_valid_before_utc:%Y-%m-%dT%H:%M:%SZ} "
            f"to {certificate.not_valid_after_utc:%Y-%m-%dT%H:%M:%SZ}",
            hint="compare the clocks, or have the certificate renewed",
        )


def _peer_pem(context: grpc.ServicerContext) -> bytes:
    values = context.auth_context().get("x509_pem_cert", ())
    if len(values) != 1:
        raise WireError(f"expected one client certificate, got {len(values)}")
    pem: bytes = values[0]
    return pem


# Parsing costs more than a call: each open connection shows the same bytes on every call.
@lru_cache(maxsize=MAX_CONNECTIONS)
def _parsed(pem: bytes) -> x509.Certificate:
    return x509.load_pem_x509_certificate(pem)


@lru_cache(maxsize=MAX_CONNECTIONS)
def _public_der(pem: bytes) -> bytes:
    key = _parsed(pem).public_key()
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def _require_tls13(ca_pem: bytes, certificate_pem: bytes) -> None:
    if not GRPC_IS_TLS13_ONLY:
        raise ConfigError(
            "grpc was imported before the package privacy, and would accept TLS 1.2",
            hint="import privacy first",
        )
    for name, pem in (("authority", ca_pem), ("own", certificate_pem)):
        try:
            certificates = x509.load_pem_x509_certificates(pem)
        except ValueError:
            raise ConfigError(f"expected {name} certificate in PEM") from None
        for certificate in certificates:
            # With an RSA certificate the suites of TLS 1.2 that stand on gRPC's list could be
            # served.
            if not isinstance(certificate.public_key(), EllipticCurvePublicKey):
                raise ConfigError(f"expected {name} certificate with an elliptic-curve key")
