"""Each fault on the way to the coordinator is named, and says what to do next."""

import json
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import grpc
import pytest

from client import reach
from client.reach import Credentials, Finding, check_certificate, check_remote, judge_clock
from privacy.pki.authority import public_der
from tests.privacy.conftest import NOW, Consortium, Party
from tests.privacy.loopback import ConnectProxy, serving_on_loopback

pytestmark = pytest.mark.enable_socket


def credentials(party: Party, *, federation: str = "testing", site: str = "clinic") -> Credentials:
    return Credentials(
        federation=federation,
        site=site,
        ca_pem=party.ca_pem,
        certificate_pem=party.certificate_pem,
        key_pem=party.key_pem,
        node_key=public_der(party.key),
    )


@contextmanager
def coordinator(
    server: Party,
    *,
    federation: str = "testing",
    ahead: timedelta = timedelta(0),
    refusal: str = "",
) -> Iterator[int]:
    """A coordinator that can do nothing but greet."""

    def hello(_: bytes, context: grpc.ServicerContext) -> bytes:
        if refusal:
            context.abort(grpc.StatusCode.UNAUTHENTICATED, refusal)
        time = (datetime.now(UTC) + ahead).strftime("%Y-%m-%dT%H:%M:%SZ")
        return json.dumps({"federation": federation, "time": time, "version": "1.2"}).encode()

    handler = grpc.method_handlers_generic_handler(
        "cloister.Door", {"Hello": grpc.unary_unary_rpc_method_handler(hello)}
    )
    with serving_on_loopback(server, handler) as port:
        yield port


@contextmanager
def answering(answer: bytes) -> Iterator[int]:
    """A service that is no coordinator: it reads a little, says `answer` and hangs up."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(5)

        def accept() -> None:
            connection, _ = listening.accept()
            with connection:
                connection.settimeout(5)
                connection.recv(1024)
                connection.sendall(answer)

        thread = threading.Thread(target=accept)
        thread.start()
        yield listening.getsockname()[1]
        thread.join(timeout=5)


def fault(findings: Iterator[Finding]) -> Finding:
    """The one finding that is not ok; it is the last, because a fault ends the walk."""
    *before, last = findings
    assert all(finding.ok for finding in before), before
    assert not last.ok
    assert last.advice
    return last


def test_a_site_for_which_all_is_well_has_no_fault(consortium: Consortium) -> None:
    with coordinator(consortium.server()) as port:
        findings = list(check_remote(f"127.0.0.1:{port}", credentials(consortium.site())))
    assert all(finding.ok for finding in findings), findings
    assert [finding.name for finding in findings] == [
        "certificate",
        "address",
        "coordinator's certificate",
        "coordinator",
        "clock",
    ]


def test_a_malformed_address_is_explained(consortium: Consortium) -> None:
    found = fault(check_remote("https://here", credentials(consortium.site())))
    assert found.name == "address"
    assert "host:port" in found.found


def test_a_name_that_does_not_resolve_is_explained(
    consortium: Consortium, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unknown(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    found = fault(
        check_remote("nowhere.example:1", credentials(consortium.site()), proxy="direct")
    )
    assert "nowhere.example does not resolve" in found.found
    assert "site.coordinator" in found.advice


def test_a_port_where_nobody_listens_is_explained(consortium: Consortium) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
    found = fault(check_remote(f"127.0.0.1:{port}", credentials(consortium.site())))
    assert f"nothing listens on port {port}" in found.found


def test_a_firewall_that_swallows_is_explained(
    consortium: Consortium, monkeypatch: pytest.MonkeyPatch
) -> None:
    def silence(*_: object, **__: object) -> None:
        raise TimeoutError

    monkeypatch.setattr(socket, "create_connection", silence)
    found = fault(check_remote("10.0.0.1:9092", credentials(consortium.site()), proxy="direct"))
    assert "no answer from 10.0.0.1:9092" in found.found
    assert "outgoing TCP" in found.advice


def test_another_service_behind_the_address_is_explained(consortium: Consortium) -> None:
    with answering(b"HTTP/1.1 400 Bad Request\r\n\r\n") as port:
        found = fault(check_remote(f"127.0.0.1:{port}", credentials(consortium.site())))
    assert "does not speak TLS 1.3" in found.found


def test_a_proxy_that_opens_tls_is_explained(
    consortium: Consortium, new_consortium: Callable[[str], Consortium]
) -> None:
    with coordinator(new_consortium("inspection").server()) as port:
        found = fault(check_remote(f"127.0.0.1:{port}", credentials(consortium.site())))
    assert found.name == "coordinator's certificate"
    assert "inspection" in found.found
    assert "network team" in found.advice


def test_a_coordinator_under_another_name_is_explained(consortium: Consortium) -> None:
    with coordinator(consortium.server("elsewhere.example.org")) as port:
        found = fault(check_remote(f"127.0.0.1:{port}", credentials(consortium.site())))
    assert "does not name 127.0.0.1" in found.found


def test_a_site_behind_the_address_is_no_coordinator(consortium: Consortium) -> None:
    with coordinator(consortium.site("bank")) as port:
        found = fault(check_remote(f"127.0.0.1:{port}", credentials(consortium.site())))
    assert "does not name 127.0.0.1 as a coordinator" in found.found


def test_an_expired_coordinator_is_explained(consortium: Consortium) -> None:
    with coordinator(consortium.server(at=NOW - timedelta(days=60))) as port:
        found = fault(check_remote(f"127.0.0.1:{port}", credentials(consortium.site())))
    assert found.name == "coordinator's certificate"
    assert "renewed" in found.advice


def test_a_clock_before_the_coordinators_certificate_is_a_clock_fault(
    consortium: Consortium,
) -> None:
    site = consortium.site(at=NOW - timedelta(days=20))

    def yesterday() -> datetime:
        return datetime.now(UTC) - timedelta(days=1)

    with coordinator(consortium.server()) as port:
        found = fault(check_remote(f"127.0.0.1:{port}", credentials(site), now=yesterday))
    assert found.name == "clock"
    assert "timedatectl" in found.advice


@pytest.mark.parametrize(("hours", "word"), [(3, "3 hours behind"), (-3, "3 hours ahead of")])
def test_a_clock_that_differs_from_the_coordinators_is_explained(
    consortium: Consortium, hours: int, word: str
) -> None:
    with coordinator(consortium.server(), ahead=timedelta(hours=hours)) as port:
        found = fault(check_remote(f"127.0.0.1:{port}", credentials(consortium.site())))
    assert found.name == "clock"
    assert word in found.found


def test_a_slow_call_is_not_taken_for_a_wrong_clock() -> None:
    skew = timedelta(seconds=64)
    assert not judge_clock(skew, round_trip=timedelta(0)).ok
    assert judge_clock(skew, round_trip=timedelta(seconds=10)).ok
    assert judge_clock(-timedelta(seconds=59), round_trip=timedelta(0)).ok


def test_an_expired_certificate_is_named_before_anything_is_called(
    consortium: Consortium,
) -> None:
    party = consortium.site(at=NOW - timedelta(days=40))
    found = check_certificate(credentials(party), at=NOW)
    assert not found.ok
    assert "the certificate is valid from" in found.found
    assert "renew" in found.advice


def test_a_certificate_that_ends_soon_is_ok_with_advice(consortium: Consortium) -> None:
    found = check_certificate(credentials(consortium.site(days=3)), at=NOW)
    assert found.ok
    assert "renew" in found.advice
    assert not check_certificate(credentials(consortium.site(days=30)), at=NOW).advice


@pytest.mark.parametrize(("federation", "site"), [("testing", "bank"), ("elsewhere", "clinic")])
def test_a_foreign_certificate_is_explained(
    consortium: Consortium, federation: str, site: str
) -> None:
    found = check_certificate(
        credentials(consortium.site(), federation=federation, site=site), at=NOW
    )
    assert not found.ok
    assert "expected a certificate for site" in found.found
    assert found.advice


@pytest.mark.parametrize(
    ("refusal", "word"),
    [
        ("revoked", "was revoked"),
        ("not-enrolled", "does not know this site"),
        ("certificate-expired", "takes this site's certificate for expired"),
        ("surprise", "UNAUTHENTICATED"),
    ],
)
def test_a_refusal_of_the_coordinator_is_explained(
    consortium: Consortium, refusal: str, word: str
) -> None:
    with coordinator(consortium.server(), refusal=refusal) as port:
        found = fault(check_remote(f"127.0.0.1:{port}", credentials(consortium.site())))
    assert found.name == "coordinator"
    assert word in found.found


def test_a_coordinator_that_trusts_another_authority_is_explained(
    consortium: Consortium, new_consortium: Callable[[str], Consortium]
) -> None:
    # It shows the right certificate, and does not accept ours.
    server, other = consortium.server(), new_consortium("others")
    party = Party(
        key=server.key,
        key_pem=server.key_pem,
        certificate_pem=server.certificate_pem,
        ca_pem=other.authority.ca_pem,
    )
    with coordinator(party) as port:
        findings = list(check_remote(f"127.0.0.1:{port}", credentials(consortium.site())))
    assert not findings[-1].ok
    assert "hangs up when this site shows its certificate" in findings[-1].found


def test_another_federation_behind_the_address_is_explained(consortium: Consortium) -> None:
    with coordinator(consortium.server(), federation="elsewhere") as port:
        findings = list(check_remote(f"127.0.0.1:{port}", credentials(consortium.site())))
    (found,) = (finding for finding in findings if not finding.ok)
    assert "serves federation 'elsewhere'" in found.found


def test_an_answer_that_cannot_be_read_is_explained(
    consortium: Consortium, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(json, "dumps", lambda _: "[]")
    with coordinator(consortium.server()) as port:
        found = fault(check_remote(f"127.0.0.1:{port}", credentials(consortium.site())))
    assert "cannot be read" in found.found


def test_a_proxy_on_the_way_is_used_and_named(consortium: Consortium) -> None:
    with (
        coordinator(consortium.server("coordinator.example.org")) as port,
        ConnectProxy(target=port) as proxy,
    ):
        findings = list(
            check_remote(
                "coordinator.example.org:9092",
                credentials(consortium.site()),
                proxy=f"http://127.0.0.1:{proxy.port}",
            )
        )
    assert all(finding.ok for finding in findings), findings
    assert findings[1].name == "proxy"


@pytest.mark.parametrize(
    ("answer", "advice"),
    [
        (b"407 Proxy Authentication Required", "user:password"),
        (b"403 Forbidden", "allow CONNECT to coordinator.example.org:9092"),
    ],
)
def test_a_proxy_that_refuses_is_explained(
    consortium: Consortium, answer: bytes, advice: str
) -> None:
    with ConnectProxy(answer=answer) as proxy:
        found = fault(
            check_remote(
                "coordinator.example.org:9092",
                credentials(consortium.site()),
                proxy=f"http://someone:secret@127.0.0.1:{proxy.port}",
            )
        )
    assert found.name == "proxy"
    assert answer.decode() in found.found
    assert advice in found.advice
    assert "secret" not in found.found + found.advice


def test_a_proxy_that_is_not_there_is_explained(consortium: Consortium) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
    found = fault(
        check_remote(
            "coordinator.example.org:9092",
            credentials(consortium.site()),
            proxy=f"http://127.0.0.1:{port}",
        )
    )
    assert found.name == "proxy"
    assert "site.proxy" in found.advice


def test_nothing_of_the_site_is_shown_to_a_stranger(
    consortium: Consortium, new_consortium: Callable[[str], Consortium], tmp_path: Path
) -> None:
    stranger = new_consortium("strangers").server()
    (tmp_path / "server.pem").write_bytes(stranger.certificate_pem + stranger.key_pem)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "server.pem")
    context.verify_mode = ssl.CERT_OPTIONAL
    context.load_verify_locations(cadata=consortium.authority.ca_pem.decode())
    seen: list[object] = []
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(5)

        def accept() -> None:
            connection, _ = listening.accept()
            connection.settimeout(5)
            with context.wrap_socket(connection, server_side=True) as wrapped:
                seen.extend([wrapped.getpeercert(), wrapped.recv(1024)])

        thread = threading.Thread(target=accept)
        thread.start()
        address = f"127.0.0.1:{listening.getsockname()[1]}"
        fault(check_remote(address, credentials(consortium.site())))
        thread.join(timeout=5)
    assert seen == [None, b""]
    assert reach.HELLO == "/cloister.Door/Hello"
