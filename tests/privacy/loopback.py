"""A server and a proxy on 127.0.0.1, both real."""

import socket
import threading
from collections.abc import Callable, Iterator
from concurrent import futures
from contextlib import contextmanager, suppress

import grpc

from privacy import transit
from tests.privacy.conftest import Party


@contextmanager
def serving_on_loopback(server: Party, handler: grpc.GenericRpcHandler) -> Iterator[int]:
    """A server with our credentials and options on a free port of 127.0.0.1."""
    running = grpc.server(futures.ThreadPoolExecutor(2), options=transit.server_options())
    running.add_generic_rpc_handlers((handler,))
    credentials = transit.server_credentials(
        ca_pem=server.ca_pem, certificate_pem=server.certificate_pem, key_pem=server.key_pem
    )
    port = running.add_secure_port("127.0.0.1:0", credentials)
    running.start()
    try:
        yield port
    finally:
        running.stop(0).wait()


class ConnectProxy:
    """An HTTP CONNECT proxy of one page; `asked` lists what clients asked it for."""

    def __init__(self, *, answer: bytes = b"200 OK", target: int | None = None) -> None:
        self.asked: list[str] = []
        self._answer = answer
        self._target = target
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listening.getsockname()[1]
        self._sockets = [self._listening]
        self._threads: list[threading.Thread] = []
        self._start(self._accept)

    def __enter__(self) -> "ConnectProxy":
        return self

    def __exit__(self, *_: object) -> None:
        for opened in self._sockets:
            # A shutdown wakes the thread that waits on the socket; a close alone does not.
            with suppress(OSError):
                opened.shutdown(socket.SHUT_RDWR)
            opened.close()
        for thread in self._threads:
            thread.join(timeout=5)

    def _start(self, target: Callable[..., None], *arguments: socket.socket) -> None:
        thread = threading.Thread(target=target, args=arguments)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listening.accept()
            except OSError:
                return
            self._sockets.append(client)
            self._start(self._serve, client)

    def _serve(self, client: socket.socket) -> None:
        head = b""
        while b"\r\n\r\n" not in head:
            more = client.recv(4096)
            if not more:
                return
            head += more
        self.asked.append(head.decode())
        client.sendall(b"HTTP/1.1 " + self._answer + b"\r\n\r\n")
        if not self._answer.startswith(b"200"):
            client.close()
            return
        port = self._target or int(head.split()[1].rsplit(b":", 1)[1])
        server = socket.create_connection(("127.0.0.1", port))
        self._sockets.append(server)
        self._start(self._pump, client, server)
        self._start(self._pump, server, client)

    def _pump(self, source: socket.socket, sink: socket.socket) -> None:
        try:
            while content := source.recv(65536):
                sink.sendall(content)
        except OSError:
            pass
