"""The way from this site to its coordinator, looked at step by step: `cloister-site check`.

Proxy, address, the coordinator's certificate, a greeting, the clocks: each step hides the next, so
the first fault ends the walk. A name that does not resolve hides a proxy that refuses; a wrong
clock looks like an expired certificate. Nothing of this site is shown before the other side has
proved that it is the coordinator.
"""

import base64
import ipaddress
import json
import socket
import ssl
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final
from urllib.parse import unquote, urlsplit

import grpc
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.x509.verification import PolicyBuilder, Store, Subject
from cryptography.x509.verification import VerificationError as ChainError

from privacy import transit
from privacy.errors import ConfigError, FederationError
from privacy.pki.enrolment import check_site_certificate, days_left

HELLO: Final = "/cloister.Door/Hello"
ANSWER_S: Final = 10.0
MAX_SKEW_S: Final = 60.0
RENEW_BEFORE: Final = timedelta(days=7)


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """What one check found.

    Attributes:
      name: What was looked at, a word or two.
      ok: Whether it is as it must be.
      found: What is the case, one sentence in lower case.
      advice: What to do, where there is something to do; a finding that is ok may have one too.
    """

    name: str
    ok: bool
    found: str
    advice: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Credentials:
    """What a site shows and trusts, in PEM, and the names that go with it."""

    federation: str
    site: str
    ca_pem: bytes
    certificate_pem: bytes
    key_pem: bytes
    node_key: bytes


def _now() -> datetime:
    return datetime.now(UTC)


def check_remote(
    address: str,
    credentials: Credentials,
    *,
    proxy: str = "",
    now: Callable[[], datetime] = _now,
) -> Iterator[Finding]:
    """Everything on the way to the coordinator, up to the first fault that hides the others."""
    certificate = check_certificate(credentials, at=now())
    yield certificate
    way, opened = _connect(address, proxy)
    yield way
    if opened is None:
        return
    server = _check_server(address, opened, credentials.ca_pem, at=now())
    yield server
    # Without the right server there is nobody to show our certificate to, or to ask for the time.
    if server.ok:
        yield from _check_hello(address, credentials, proxy=proxy, now=now)


def check_certificate(credentials: Credentials, *, at: datetime) -> Finding:
    """Whether the site's certificate is its own, of its authority, and valid."""
    name = "certificate"
    try:
        check_site_certificate(
            credentials.certificate_pem,
            ca_pem=credentials.ca_pem,
            federation=credentials.federation,
            site=credentials.site,
            node_key=credentials.node_key,
            at=at,
        )
    except FederationError as error:
        return Finding(
            name=name,
            ok=False,
            found=str(error),
            advice=error.hint or "enrol with the kit that was made for this site's request",
        )
    left = days_left(credentials.certificate_pem, at=at)
    return Finding(
        name=name,
        ok=True,
        found=f"valid for another {_readable(left)}",
        advice="ask the coordinator to renew it" if left < RENEW_BEFORE else "",
    )


def _connect(address: str, proxy: str) -> tuple[Finding, socket.socket | None]:
    """Open the way to the coordinator as the agent will, through the proxy where there is one."""
    try:
        host, port = transit.parse_address(address)
        url = transit.proxy_for(address, proxy)
    except ConfigError as error:
        return Finding(name="address", ok=False, found=str(error), advice=error.hint), None
    if not url:
        return _connect_directly(host, port)
    parts = urlsplit(url)
    # `proxy_for` has checked the URL: it has a host and a port.
    finding, opened = _connect_directly(parts.hostname or "", parts.port or 0, name="proxy")
    if opened is None:
        return finding, None
    status = _ask_proxy(opened, host, port, parts.username, parts.password)
    if status.split()[1:2] == ["200"]:
        found = f"the proxy {parts.hostname}:{parts.port} connects to {address}"
        return Finding(name="proxy", ok=True, found=found), opened
    opened.close()
    asks_password = status.split()[1:2] == ["407"]
    return (
        Finding(
            name="proxy",
            ok=False,
            found=f"the proxy {parts.hostname}:{parts.port} does not connect to {address}: "
            + (status or "it closes the connection"),
            advice="write the proxy as http://user:password@host:port"
            if asks_password
            else f"ask your network team to allow CONNECT to {address}",
        ),
        None,
    )


def _ask_proxy(
    opened: socket.socket, host: str, port: int, user: str | None, password: str | None
) -> str:
    """Send CONNECT; the status line of the answer, printable and short, or nothing."""
    target = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    lines = [f"CONNECT {target} HTTP/1.1", f"Host: {target}"]
    if user is not None:
        pair = f"{unquote(user)}:{unquote(password or '')}".encode()
        lines.append(f"Proxy-Authorization: Basic {base64.b64encode(pair).decode()}")
    head = b""
    try:
        opened.sendall("\r\n".join([*lines, "", ""]).encode())
        # One byte at a time: what follows the head belongs to TLS.
        while not head.endswith(b"\r\n\r\n") and len(head) < 16_384:
            more = opened.recv(1)
            if not more:
                break
            head += more
    except OSError:
        pass
    line = head.split(b"\r\n", 1)[0].decode("ascii", "replace")
    return "".join(character for character in line if character.isprintable())[:100]


def _connect_directly(
    host: str, port: int, *, name: str = "address"
) -> tuple[Finding, socket.socket | None]:
    key = "site.coordinator" if name == "address" else "site.proxy"
    place = f"{host}:{port}"
    try:
        opened = socket.create_connection((host, port), timeout=ANSWER_S)
    except socket.gaierror:
        found = f"the name {host} does not resolve"
        advice = f"correct {key} in site.toml; where only a proxy resolves names, set site.proxy"
    except ConnectionRefusedError:
        found = f"{host} is there, and nothing listens on port {port}"
        advice = f"correct the port of {key} in site.toml, or have the program there started"
    except TimeoutError:
        found = f"no answer from {place} within {ANSWER_S:.0f} s"
        advice = f"ask your network team to allow outgoing TCP to {place}, or for a proxy"
    except OSError as error:
        found = f"cannot connect to {place}: {error.strerror or type(error).__name__}"
        advice = f"correct {key} in site.toml, and check this machine's network"
    else:
        finding = Finding(name=name, ok=True, found=f"{place} takes connections")
        return finding, opened
    return Finding(name=name, ok=False, found=found, advice=advice), None


def _check_server(address: str, opened: socket.socket, ca_pem: bytes, *, at: datetime) -> Finding:
    """Whether the other side is the coordinator, by the certificate that it shows."""
    name = "coordinator's certificate"
    host, _ = transit.parse_address(address)
    # We look at what anybody there shows, and show nothing: no certificate of ours, no request.
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.set_alpn_protocols(["h2"])
    try:
        with opened, context.wrap_socket(opened, server_hostname=host) as wrapped:
            der = wrapped.getpeercert(binary_form=True) or b""
    except OSError as error:
        reason = getattr(error, "reason", None) or type(error).__name__
        return Finding(
            name=name,
            ok=False,
            found=f"{address} does not speak TLS 1.3: {reason.lower().replace('_', ' ')}",
            advice="compare host and port with the coordinator's operator; "
            "a proxy that opens TLS must leave this address alone",
        )
    try:
        certificate = x509.load_der_x509_certificate(der)
        root = x509.load_pem_x509_certificate(ca_pem)
    except ValueError:
        return Finding(
            name=name,
            ok=False,
            found=f"{address} shows no usable certificate",
            advice="compare host and port with the coordinator's operator",
        )
    return _judge_server(certificate, root, host=host, at=at)


def _judge_server(
    certificate: x509.Certificate, root: x509.Certificate, *, host: str, at: datetime
) -> Finding:
    name = "coordinator's certificate"
    try:
        certificate.verify_directly_issued_by(root)
    except (InvalidSignature, ValueError, TypeError):
        issuer = certificate.issuer.rfc4514_string()[:100]
        return Finding(
            name=name,
            ok=False,
            found=f"issued by {issuer}, not by this federation's authority",
            advice="if the address is right, something on the way opens TLS: "
            "ask your network team to leave this address alone",
        )
    begins, ends = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    if not begins <= at <= ends:
        return Finding(
            name="clock" if at < begins else name,
            ok=False,
            found=f"the coordinator's certificate is valid from {begins:%Y-%m-%d %H:%M} to "
            f"{ends:%Y-%m-%d %H:%M} UTC, and this machine's clock says {at:%Y-%m-%d %H:%M}",
            advice="set this machine's clock (timedatectl); "
            "if it is right, the coordinator's certificate must be renewed",
        )
    verifier = PolicyBuilder().store(Store([root])).time(at)
    try:
        verifier.build_server_verifier(_subject(host)).verify(certificate, [])
    except ChainError:
        return Finding(
            name=name,
            ok=False,
            found=f"of this federation, and does not name {host} as a coordinator",
            advice="take the address from the enrolment kit, "
            "or have the host added to federation.toml",
        )
    return Finding(name=name, ok=True, found=f"of this federation, for {host}")


def _subject(host: str) -> Subject:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _check_hello(
    address: str, credentials: Credentials, *, proxy: str, now: Callable[[], datetime]
) -> Iterator[Finding]:
    """Call the coordinator as the agent will; compare its federation and its clock with ours."""
    try:
        with transit.channel(
            address,
            ca_pem=credentials.ca_pem,
            certificate_pem=credentials.certificate_pem,
            key_pem=credentials.key_pem,
            proxy=proxy,
        ) as channel:
            asked_at = now()
            raw = channel.unary_unary(HELLO)(b"", timeout=ANSWER_S)
            answered_at = now()
    except grpc.RpcError as error:
        yield _refusal(error)
        return
    except ConfigError as error:
        yield Finding(name="coordinator", ok=False, found=str(error), advice=error.hint)
        return
    try:
        hello = json.loads(raw)
        federation, version = str(hello["federation"]), str(hello["version"])
        server_at = datetime.fromisoformat(hello["time"])
        skew = server_at - (asked_at + (answered_at - asked_at) / 2)
    except (ValueError, KeyError, TypeError):
        yield Finding(
            name="coordinator",
            ok=False,
            found="the answer of the coordinator cannot be read",
            advice="compare the versions of this software here and at the coordinator",
        )
        return
    if federation != credentials.federation:
        yield Finding(
            name="coordinator",
            ok=False,
            found=f"it serves federation {federation[:63]!r}, not {credentials.federation!r}",
            advice="take the address from the enrolment kit",
        )
    else:
        yield Finding(
            name="coordinator",
            ok=True,
            found=f"federation {federation!r}, version {version[:40]!r}, knows this site",
        )
    yield judge_clock(skew, round_trip=answered_at - asked_at)


def judge_clock(skew: timedelta, *, round_trip: timedelta) -> Finding:
    """Whether this clock and the coordinator's agree: to the minute, and the call's own length."""
    seconds = skew.total_seconds()
    # The coordinator writes whole seconds.
    if abs(seconds) > MAX_SKEW_S + round_trip.total_seconds() / 2 + 1:
        side = "behind" if seconds > 0 else "ahead of"
        return Finding(
            name="clock",
            ok=False,
            found=f"this machine's clock is {_readable(abs(skew))} {side} the coordinator's",
            advice="set this machine's clock (timedatectl), or tell the coordinator",
        )
    return Finding(name="clock", ok=True, found="agrees with the coordinator's to the minute")


def _refusal(error: grpc.RpcError) -> Finding:
    code = error.code() if isinstance(error, grpc.Call) else grpc.StatusCode.UNKNOWN
    details = (error.details() or "") if isinstance(error, grpc.Call) else ""
    reasons = {
        "revoked": (
            "this site was revoked",
            "talk to the coordinator; to come back, make new keys and enrol again",
        ),
        "not-enrolled": (
            "the coordinator does not know this site",
            "send the enrolment request again, and compare fingerprints",
        ),
        "certificate-expired": (
            "the coordinator takes this site's certificate for expired",
            "compare the clocks, or ask for a new certificate",
        ),
    }
    if details in reasons:
        found, advice = reasons[details]
    elif code is grpc.StatusCode.UNAVAILABLE:
        found = "it hangs up when this site shows its certificate"
        advice = "ask the coordinator for a new kit; its authority may be another one by now"
    elif code is grpc.StatusCode.DEADLINE_EXCEEDED:
        found = f"no answer within {ANSWER_S:.0f} s"
        advice = "something on the way holds the call back: it must let HTTP/2 through"
    else:
        found = f"it answers with {code.name}"
        advice = "compare host and port with the coordinator's operator"
    return Finding(name="coordinator", ok=False, found=found, advice=advice)


def _readable(span: timedelta) -> str:
    """A span in its largest whole unit."""
    seconds = span.total_seconds()
    for size, unit in ((86_400, "days"), (3600, "hours"), (60, "minutes")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} seconds"
