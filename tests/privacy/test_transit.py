"""The wire: who gets in, and over what. Real sockets on loopback, real TLS."""

import os
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent import futures
from contextlib import AbstractContextManager
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from privacy import transit
from privacy.errors import ConfigError, WireError
from privacy.pki.authority import public_der
from tests.privacy.conftest import NOW, Consortium, Party
from tests.privacy.loopback import ConnectProxy, serving_on_loopback

pytestmark = pytest.mark.enable_socket

ECHO = "/cloister.Test/Echo"
Seen = list[Any]


def echo_handler(seen: Seen) -> grpc.GenericRpcHandler:
    def echo(request: bytes, context: grpc.ServicerContext) -> bytes:
        seen.append((transit.peer_public_key(context), transit.peer_certificate(context)))
        return request

    return grpc.method_handlers_generic_handler(
        "cloister.Test", {"Echo": grpc.unary_unary_rpc_method_handler(echo)}
    )


def serving(server: Party, seen: Seen | None = None) -> AbstractContextManager[int]:
    return serving_on_loopback(server, echo_handler([] if seen is None else seen))


def call(
    address: str, site: Party, *, proxy: str = "", message: bytes = b"hello", ca_pem: bytes = b""
) -> bytes:
    with transit.channel(
        address,
        ca_pem=ca_pem or site.ca_pem,
        certificate_pem=site.certificate_pem,
        key_pem=site.key_pem,
        proxy=proxy,
    ) as channel:
        answer: bytes = channel.unary_unary(ECHO)(message, timeout=5)
        return answer


def refused(
    address: str, site: Party, *, proxy: str = "", message: bytes = b"", ca_pem: bytes = b""
) -> grpc.StatusCode:
    with pytest.raises(grpc.RpcError) as caught:
        call(address, site, proxy=proxy, message=message, ca_pem=ca_pem)
    code: grpc.StatusCode = caught.value.code()
    return code


def handshake(
    port: int, site: Party | None, *, version: ssl.TLSVersion, folder: Path, ciphers: str = ""
) -> str | None:
    """The TLS version that OpenSSL agrees with the server; raises OSError when refused."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.minimum_version = context.maximum_version = version
    context.set_alpn_protocols(["h2"])
    if ciphers:
        context.set_ciphers(ciphers)
    if site is not None:
        (folder / "site.pem").write_bytes(site.certificate_pem + site.key_pem)
        context.load_cert_chain(folder / "site.pem")
    with (
        socket.create_connection(("127.0.0.1", port), timeout=5) as plain,
        context.wrap_socket(plain) as wrapped,
    ):
        # In TLS 1.3 the client is done before the server has read its certificate: only the first
        # bytes that come back tell whether it was accepted.
        if not wrapped.recv(1):
            raise ConnectionResetError
        return wrapped.version()


def test_both_sides_know_each_other_by_their_public_keys(consortium: Consortium) -> None:
    site, seen = consortium.site("clinic"), []  # type: tuple[Party, Seen]
    with serving(consortium.server(), seen) as port:
        assert call(f"127.0.0.1:{port}", site) == b"hello"
        assert call(f"localhost:{port}", site) == b"hello"
    key, certificate = seen[0]
    assert key == public_der(site.key)
    assert certificate == x509.load_pem_x509_certificate(site.certificate_pem)


def test_a_plaintext_client_is_refused(consortium: Consortium) -> None:
    with serving(consortium.server()) as port:
        with (
            grpc.insecure_channel(f"127.0.0.1:{port}") as channel,
            pytest.raises(grpc.RpcError),
        ):
            channel.unary_unary(ECHO)(b"hello", timeout=2)
        with socket.create_connection(("127.0.0.1", port), timeout=5) as plain:
            plain.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            assert plain.recv(100)[:1] != b"H"


def test_a_client_without_a_certificate_is_refused(consortium: Consortium, tmp_path: Path) -> None:
    with serving(consortium.server()) as port:
        credentials = grpc.ssl_channel_credentials(consortium.authority.ca_pem)
        with (
            grpc.secure_channel(f"127.0.0.1:{port}", credentials) as channel,
            pytest.raises(grpc.RpcError),
        ):
            channel.unary_unary(ECHO)(b"hello", timeout=2)
        with pytest.raises(OSError, match=r"(?i)alert|reset|eof|^$"):
            handshake(port, None, version=ssl.TLSVersion.TLSv1_3, folder=tmp_path)


def test_a_client_of_another_authority_is_refused(
    consortium: Consortium, new_consortium: Callable[[str], Consortium]
) -> None:
    stranger = new_consortium("strangers").site("clinic")
    with serving(consortium.server()) as port:
        code = refused(f"127.0.0.1:{port}", stranger, ca_pem=consortium.authority.ca_pem)
    assert code is grpc.StatusCode.UNAVAILABLE


def test_an_authority_of_the_same_name_with_another_key_is_refused(
    consortium: Consortium, tmp_path: Path
) -> None:
    forged = consortium.authority.create(
        tmp_path / "forged", federation="testing", passphrase="", plain=True, at=NOW
    )
    forger = Consortium(authority=forged, now=NOW).site("clinic")
    with serving(consortium.server()) as port:
        refused(f"127.0.0.1:{port}", forger, ca_pem=consortium.authority.ca_pem)


def test_a_server_of_another_authority_is_refused(
    consortium: Consortium, new_consortium: Callable[[str], Consortium]
) -> None:
    with serving(new_consortium("strangers").server()) as port:
        refused(f"127.0.0.1:{port}", consortium.site())


def test_a_server_under_another_name_is_refused(consortium: Consortium) -> None:
    with serving(consortium.server("coordinator.example.org")) as port:
        refused(f"127.0.0.1:{port}", consortium.site())


def test_a_site_cannot_pose_as_the_coordinator(consortium: Consortium) -> None:
    with serving(consortium.site("clinic")) as port:
        refused(f"127.0.0.1:{port}", consortium.site("bank"))


def test_a_server_certificate_cannot_be_used_as_a_site(consortium: Consortium) -> None:
    with serving(consortium.server()) as port:
        refused(f"127.0.0.1:{port}", consortium.server())


def test_an_expired_certificate_is_refused(consortium: Consortium) -> None:
    expired = consortium.site(at=NOW - timedelta(days=31), days=30)
    with serving(consortium.server()) as port:
        refused(f"127.0.0.1:{port}", expired)


def test_a_certificate_that_is_not_valid_yet_is_refused(consortium: Consortium) -> None:
    early = consortium.site(at=NOW + timedelta(days=1))
    with serving(consortium.server()) as port:
        refused(f"127.0.0.1:{port}", early)


def test_an_expired_server_is_refused(consortium: Consortium) -> None:
    with serving(consortium.server(at=NOW - timedelta(days=31))) as port:
        refused(f"127.0.0.1:{port}", consortium.site())


def test_an_open_connection_expires_too(consortium: Consortium) -> None:
    certificate = x509.load_pem_x509_certificate(consortium.site(days=30).certificate_pem)
    transit.check_validity(certificate, at=NOW)
    with pytest.raises(WireError, match="expected a certificate that is valid at"):
        transit.check_validity(certificate, at=NOW + timedelta(days=30, seconds=1))
    with pytest.raises(WireError):
        transit.check_validity(certificate, at=NOW - timedelta(minutes=6))


def test_tls_1_3_is_accepted(consortium: Consortium, tmp_path: Path) -> None:
    with serving(consortium.server()) as port:
        agreed = handshake(
            port, consortium.site(), version=ssl.TLSVersion.TLSv1_3, folder=tmp_path
        )
    assert agreed == "TLSv1.3"


@pytest.mark.parametrize("ciphers", ["", "ECDHE-RSA-AES256-GCM-SHA384", "ALL:@SECLEVEL=0"])
def test_tls_1_2_is_refused(consortium: Consortium, tmp_path: Path, ciphers: str) -> None:
    with serving(consortium.server()) as port, pytest.raises(OSError, match=r"(?i)eof|alert"):
        handshake(
            port,
            consortium.site(),
            version=ssl.TLSVersion.TLSv1_2,
            folder=tmp_path,
            ciphers=ciphers,
        )


def test_the_client_refuses_a_server_that_speaks_tls_1_2_only(
    consortium: Consortium, tmp_path: Path
) -> None:
    server = consortium.server()
    (tmp_path / "server.pem").write_bytes(server.certificate_pem + server.key_pem)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(tmp_path / "server.pem")
    context.set_alpn_protocols(["h2"])
    faults: list[str] = []
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(5)

        def accept() -> None:
            connection, _ = listening.accept()
            connection.settimeout(5)
            try:
                with context.wrap_socket(connection, server_side=True) as wrapped:
                    faults.append(f"agreed on {wrapped.version()}")
            except OSError as error:
                faults.append(str(error))

        thread = threading.Thread(target=accept)
        thread.start()
        refused(f"127.0.0.1:{listening.getsockname()[1]}", consortium.site())
        thread.join(timeout=5)
    assert len(faults) == 1
    assert "no shared cipher" in faults[0].lower()


def test_it_refuses_to_work_where_grpc_came_first() -> None:
    environment = {k: v for k, v in os.environ.items() if k != "GRPC_SSL_CIPHER_SUITES"}
    program = (
        "import grpc\n"
        "from privacy import transit\n"
        "from privacy.errors import ConfigError\n"
        "try:\n"
        "    transit.server_credentials(ca_pem=b'', certificate_pem=b'', key_pem=b'')\n"
        "except ConfigError as error:\n"
        "    print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=environment,
        cwd=Path(transit.__file__).parents[1],
        capture_output=True,
        text=True,
        check=True,
        timeout=20,
    )
    assert "grpc was imported before" in done.stdout


@pytest.mark.parametrize("package", ["server", "client"])
def test_each_program_sets_the_environment_before_grpc(package: str) -> None:
    environment = {k: v for k, v in os.environ.items() if k != "GRPC_SSL_CIPHER_SUITES"}
    program = (
        f"import {package}, sys, os\n"
        "print('grpc' in sys.modules, os.environ['GRPC_SSL_CIPHER_SUITES'])"
    )
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            program,
        ],
        env=environment,
        cwd=Path(transit.__file__).parents[1],
        capture_output=True,
        text=True,
        check=True,
        timeout=20,
    )
    assert done.stdout.split() == ["False", "ECDHE-RSA-AES256-GCM-SHA384"]


def test_an_rsa_certificate_is_refused_because_it_would_allow_tls_1_2(
    consortium: Consortium,
) -> None:
    key = rsa.generate_private_key(65537, 2048)
    name = x509.Name([])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(NOW)
        .not_valid_after(NOW + timedelta(days=1))
        .sign(key, SHA256())
        .public_bytes(Encoding.PEM)
    )
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    ca_pem = consortium.authority.ca_pem
    with pytest.raises(ConfigError, match="elliptic-curve"):
        transit.server_credentials(ca_pem=ca_pem, certificate_pem=certificate, key_pem=pem)
    with pytest.raises(ConfigError, match="elliptic-curve"):
        transit.channel("a:1", ca_pem=certificate, certificate_pem=ca_pem, key_pem=pem)


def test_a_message_over_the_limit_is_refused_in_both_directions(consortium: Consortium) -> None:
    seen: Seen = []
    site = consortium.site()
    largest = transit.MAX_MESSAGE_BYTES
    with serving(consortium.server(), seen) as port:
        address = f"127.0.0.1:{port}"
        assert len(call(address, site, message=bytes(largest))) == largest
        seen.clear()
        # Our channel does not send it, and the server does not read it from one that would.
        assert (
            refused(address, site, message=bytes(largest + 1))
            is grpc.StatusCode.RESOURCE_EXHAUSTED
        )
        credentials = grpc.ssl_channel_credentials(site.ca_pem, site.key_pem, site.certificate_pem)
        options = [("grpc.max_send_message_length", -1)]
        with (
            grpc.secure_channel(address, credentials, options) as channel,
            pytest.raises(grpc.RpcError) as caught,
        ):
            channel.unary_unary(ECHO)(bytes(largest + 1), timeout=10)
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert seen == []


def test_too_much_metadata_is_refused(consortium: Consortium) -> None:
    site, seen = consortium.site(), []  # type: tuple[Party, Seen]
    with (
        serving(consortium.server(), seen) as port,
        transit.channel(
            f"127.0.0.1:{port}",
            ca_pem=site.ca_pem,
            certificate_pem=site.certificate_pem,
            key_pem=site.key_pem,
        ) as channel,
        pytest.raises(grpc.RpcError) as caught,
    ):
        channel.unary_unary(ECHO)(b"", metadata=(("x-long", "x" * 100_000),), timeout=5)
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert seen == []


def test_a_second_coordinator_cannot_open_the_same_port(consortium: Consortium) -> None:
    server = consortium.server()
    credentials = transit.server_credentials(
        ca_pem=server.ca_pem, certificate_pem=server.certificate_pem, key_pem=server.key_pem
    )
    with serving(server) as port:
        second = grpc.server(futures.ThreadPoolExecutor(1), options=transit.server_options())
        with pytest.raises(RuntimeError):
            second.add_secure_port(f"127.0.0.1:{port}", credentials)


def test_a_connect_proxy_is_used_and_tls_runs_from_end_to_end(consortium: Consortium) -> None:
    seen: Seen = []
    with (
        serving(consortium.server("coordinator.example.org"), seen) as port,
        ConnectProxy(target=port) as proxy,
    ):
        # The name resolves nowhere: only through the proxy can the call arrive.
        answer = call(
            "coordinator.example.org:9092",
            consortium.site(),
            proxy=f"http://127.0.0.1:{proxy.port}",
        )
        assert answer == b"hello"
        assert proxy.asked[0].startswith("CONNECT coordinator.example.org:9092 HTTP/1")
    assert len(seen) == 1


def test_a_proxy_password_is_sent_to_the_proxy(consortium: Consortium) -> None:
    with serving(consortium.server()) as port, ConnectProxy() as proxy:
        call(
            f"127.0.0.1:{port}",
            consortium.site(),
            proxy=f"http://user:word@127.0.0.1:{proxy.port}",
        )
        assert "Proxy-Authorization: Basic dXNlcjp3b3Jk" in proxy.asked[0]


def test_a_proxy_that_refuses_ends_in_unavailable(consortium: Consortium) -> None:
    with ConnectProxy(answer=b"403 Forbidden") as proxy:
        code = refused(
            "coordinator.example.org:9092",
            consortium.site(),
            proxy=f"http://127.0.0.1:{proxy.port}",
        )
    assert code is grpc.StatusCode.UNAVAILABLE


def test_the_proxy_of_the_environment_is_used(
    consortium: Consortium, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with (
        serving(consortium.server("coordinator.example.org")) as port,
        ConnectProxy(target=port) as proxy,
    ):
        monkeypatch.setenv("https_proxy", f"http://127.0.0.1:{proxy.port}")
        assert call("coordinator.example.org:9092", consortium.site()) == b"hello"
        assert len(proxy.asked) == 1


def test_loopback_and_direct_pass_by_the_proxy_of_the_environment(
    consortium: Consortium, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving(consortium.server()) as port, ConnectProxy() as proxy:
        monkeypatch.setenv("https_proxy", f"http://127.0.0.1:{proxy.port}")
        assert call(f"127.0.0.1:{port}", consortium.site()) == b"hello"
        assert call(f"localhost:{port}", consortium.site(), proxy="direct") == b"hello"
        assert proxy.asked == []


def test_a_client_connects_again_after_the_coordinator_was_away(consortium: Consortium) -> None:
    server, site = consortium.server(), consortium.site()
    with serving(server) as port:
        pass
    with transit.channel(
        f"127.0.0.1:{port}",
        ca_pem=site.ca_pem,
        certificate_pem=site.certificate_pem,
        key_pem=site.key_pem,
    ) as channel:
        with pytest.raises(grpc.RpcError):
            channel.unary_unary(ECHO)(b"", timeout=1)
        running = grpc.server(futures.ThreadPoolExecutor(2), options=transit.server_options())
        running.add_generic_rpc_handlers((echo_handler([]),))
        credentials = transit.server_credentials(
            ca_pem=server.ca_pem, certificate_pem=server.certificate_pem, key_pem=server.key_pem
        )
        running.add_secure_port(f"127.0.0.1:{port}", credentials)
        running.start()
        answer = channel.unary_unary(ECHO)(b"back", timeout=10, wait_for_ready=True)
        running.stop(0).wait()
    assert answer == b"back"


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, ""),
        ({"https_proxy": "http://one:1"}, "http://one:1"),
        ({"HTTPS_PROXY": "http://one:1/"}, "http://one:1"),
        ({"https_proxy": "one:1"}, "http://one:1"),
        ({"http_proxy": "http://two:2", "https_proxy": "http://one:1"}, "http://one:1"),
        ({"http_proxy": "http://two:2"}, "http://two:2"),
        ({"https_proxy": "http://one:1", "no_proxy": ".example.org"}, ""),
        ({"https_proxy": "http://one:1", "no_proxy": "other.example"}, "http://one:1"),
    ],
)
def test_the_environment_says_which_proxy(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], expected: str
) -> None:
    for name in ("http_proxy", "https_proxy", "no_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert transit.proxy_for("coordinator.example.org:9092", "") == expected
    assert transit.proxy_for("coordinator.example.org:9092", "direct") == ""
    assert transit.proxy_for("127.0.0.1:9092", "") == ""
    assert transit.proxy_for("127.0.0.1:9092", "http://own:3") == "http://own:3"


def test_an_unusable_proxy_of_the_environment_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("https_proxy", "socks5://user:secret@one:1")
    with pytest.raises(ConfigError, match="https_proxy in the environment") as caught:
        transit.proxy_for("coordinator.example.org:9092", "")
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("coordinator.example.org:9092", ("coordinator.example.org", 9092)),
        ("10.0.0.1:1", ("10.0.0.1", 1)),
        ("[::1]:9092", ("::1", 9092)),
    ],
)
def test_an_address_is_host_and_port(address: str, expected: tuple[str, int]) -> None:
    assert transit.parse_address(address) == expected


@pytest.mark.parametrize(
    "address",
    [
        "",
        "host",
        "host:",
        ":1",
        "host:x",
        "host:70000",
        "https://host:1",
        "a@b:1",
        "h:1/p",
        "h :1",
    ],
)
def test_a_malformed_address_is_refused(address: str) -> None:
    with pytest.raises(ConfigError, match="host:port"):
        transit.parse_address(address)


@pytest.mark.parametrize(
    "proxy",
    ["host:1", "https://host:1", "socks5://h:1", "http://hub", "http://h:1/x", "http://h:x"],
)
def test_a_malformed_proxy_is_refused_without_repeating_it(proxy: str) -> None:
    with pytest.raises(ConfigError) as caught:
        transit.check_proxy(proxy)
    assert proxy not in str(caught.value)


def test_a_call_without_a_certificate_has_no_peer() -> None:
    class Context:
        def auth_context(self) -> dict[str, list[bytes]]:
            return {}

    with pytest.raises(WireError, match="one client certificate"):
        transit.peer_public_key(Context())
