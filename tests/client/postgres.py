"""A real PostgreSQL server in a temporary folder, for as long as a test needs it.

Debian keeps `initdb` and `pg_ctl` out of the path; the server refuses to run as root, so that
tests which run as root start it as `postgres`, whom its package makes.
"""

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

PASSWORD = "correct horse"  # noqa: S105 - of a server that lives for seconds
ADMIN = "admin"


def server_binaries() -> Path | None:
    """The folder of `initdb` and `pg_ctl`, None where no server is installed."""
    found = shutil.which("initdb")
    if found and shutil.which("pg_ctl"):
        return Path(found).resolve().parent
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    return next((folder for folder in folders if (folder / "initdb").exists()), None)


@dataclass(frozen=True, kw_only=True, slots=True)
class Server:
    """A running server."""

    port: int
    folder: Path
    binaries: Path

    def url(self, user: str = ADMIN, database: str = "postgres") -> str:
        """Its address for `site.toml`."""
        return f"postgresql://{user}@127.0.0.1:{self.port}/{database}"

    def run(self, *statements: str) -> object:
        """Run statements as the administrator, and return the first value of the last one."""
        import pg8000.dbapi

        connection = pg8000.dbapi.connect(
            user=ADMIN,
            password=PASSWORD,
            host="127.0.0.1",
            port=self.port,
            database="postgres",
            ssl_context=False,
        )
        connection.autocommit = True
        try:
            cursor = connection.cursor()
            for statement in statements:
                cursor.execute(statement)
            row = cursor.fetchone() if cursor.description else None
            return row[0] if row else None
        finally:
            connection.close()

    @contextmanager
    def speaking_tls(self, certificate: bytes, key: bytes) -> Iterator[None]:
        """Take TLS connections too, with this certificate."""
        for name, content in (("server.crt", certificate), ("server.key", key)):
            path = self.folder / "data" / name
            path.write_bytes(content)
            path.chmod(0o600)
            if os.geteuid() == 0:
                shutil.chown(path, _server_user())
        try:
            self._switch("ALTER SYSTEM SET ssl = on", "on")
            yield
        finally:
            self._switch("ALTER SYSTEM RESET ssl", "off")

    def _switch(self, statement: str, expected: str) -> None:
        self.run(statement)
        self.control("reload")
        # The server takes the signal when it comes to it.
        for _ in range(100):
            if self.run("SHOW ssl") == expected:
                return
            time.sleep(0.05)
        raise TimeoutError(statement)

    def start(self) -> None:
        """Start it, and wait until it takes connections."""
        options = f"-p {self.port} -h 127.0.0.1 -k {self.folder} -F -c logging_collector=off"
        self.control("-w", "-l", str(self.folder / "log"), "-o", options, "start")

    def die(self) -> None:
        """End it as a crash does: every connection breaks off."""
        self.control("-m", "immediate", "stop")

    def control(self, *arguments: str) -> None:
        """Call `pg_ctl` on it."""
        _run([self.binaries / "pg_ctl", "-D", self.folder / "data", *arguments])


@contextmanager
def running(binaries: Path) -> Iterator[Server]:
    """A fresh server on a free port of 127.0.0.1; it and its folder are gone afterwards."""
    # In /tmp, because the path of a socket in it must be short.
    folder = Path(tempfile.mkdtemp(prefix="cloister-pg-", dir="/tmp"))
    try:
        password = folder / "password"
        password.write_text(PASSWORD)
        if os.geteuid() == 0:
            for path in (folder, password):
                shutil.chown(path, _server_user())
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        initdb = [binaries / "initdb", "-D", folder / "data", "-U", ADMIN, "-A", "scram-sha-256"]
        _run([*initdb, "--pwfile", password, "--no-sync", "-E", "UTF8", "--locale", "C"])
        server = Server(port=port, folder=folder, binaries=binaries)
        server.start()
        try:
            yield server
        finally:
            # A test may have ended it itself.
            with suppress(subprocess.CalledProcessError):
                server.die()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _server_user() -> str:
    # Not `nobody` where there is another: tests of the sandbox act as that one at the same time.
    try:
        return pwd.getpwnam("postgres").pw_name
    except KeyError:
        return "nobody"


def _run(command: list[object]) -> None:
    user = _server_user() if os.geteuid() == 0 else None
    subprocess.run(
        [str(part) for part in command],
        check=True,
        user=user,
        extra_groups=[] if user else None,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd="/",
    )
