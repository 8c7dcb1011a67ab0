"""A relay between one site and the coordinator that writes down every byte, sealed and opened.

It holds the coordinator's TLS key and the site's, which no third party has, so it can end the
site's connection, open one of its own, and keep what went through in between. `sealed` is what
somebody on the wire sees; `opened` is what the coordinator gets.

Run as `python relay.py SETTINGS` with the JSON of `Settings`.
"""

import asyncio
import contextlib
import json
import ssl
import sys
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import BinaryIO

_READ_BYTES = 64 * 1024


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What a relay listens on, where it leads, whose keys it has, and where it writes."""

    port: int
    coordinator_port: int
    ca: str
    server_certificate: str
    server_key: str
    site_certificate: str
    site_key: str
    folder: str

    def to_json(self) -> str:
        """As the program's argument."""
        return json.dumps(asdict(self))


Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


async def _pump(
    source: asyncio.StreamReader, sink: asyncio.StreamWriter, record: BinaryIO
) -> None:
    with contextlib.suppress(OSError, ssl.SSLError):
        while content := await source.read(_READ_BYTES):
            record.write(content)
            sink.write(content)
            await sink.drain()
    sink.close()


def _between(folder: Path, port: int, tls: ssl.SSLContext | None) -> Serve:
    """Lead each connection on to `port`, and keep both directions of it in files of their own."""
    folder.mkdir(parents=True)
    connections = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        name = f"{connections:03}"
        try:
            there, to_there = await asyncio.open_connection("127.0.0.1", port, ssl=tls)
        except OSError:
            writer.close()
            return
        with (
            (folder / f"{name}.up").open("wb", buffering=0) as up,
            (folder / f"{name}.down").open("wb", buffering=0) as down,
        ):
            await asyncio.gather(_pump(reader, to_there, up), _pump(there, writer, down))

    return serve


def _tls(purpose: ssl.Purpose, ca: str, certificate: str, key: str) -> ssl.SSLContext:
    context = ssl.create_default_context(purpose, cafile=ca)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_cert_chain(certificate, key)
    context.set_alpn_protocols(["h2"])
    return context


async def main(settings: Settings) -> None:
    """Serve until the process is ended; says so on stdout once sites can connect."""
    inside = _tls(
        ssl.Purpose.CLIENT_AUTH,
        settings.ca,
        settings.server_certificate,
        settings.server_key,
    )
    onward = _tls(
        ssl.Purpose.SERVER_AUTH, settings.ca, settings.site_certificate, settings.site_key
    )
    folder = Path(settings.folder)
    opened = _between(folder / "opened", settings.coordinator_port, onward)
    inner = await asyncio.start_server(opened, "127.0.0.1", 0, ssl=inside)
    sealed = _between(folder / "sealed", inner.sockets[0].getsockname()[1], None)
    outer = await asyncio.start_server(sealed, "127.0.0.1", settings.port)
    sys.stdout.write(json.dumps({"ready": settings.port}) + "\n")
    sys.stdout.flush()
    await asyncio.gather(inner.serve_forever(), outer.serve_forever())


if __name__ == "__main__":
    asyncio.run(main(Settings(**json.loads(sys.argv[1]))))
