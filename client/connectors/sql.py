"""Records that one SELECT reads from a database: PostgreSQL, or a file of SQLite.

The rows come through a cursor of the server, `fetch_rows` at a time, so that a table of any size
fits. Nothing can be written: PostgreSQL is asked for a transaction that only reads, and that is
looked at before the query; SQLite opens its file with `mode=ro`. A database on another machine is
spoken to over TLS with its certificate verified. No error repeats what the server said about a
value: it may quote a record.
"""

import logging
import os
import re
import socket
import sqlite3
import ssl
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, unquote

from client.connectors.extras import needs
from client.connectors.record import Record, as_text, check_columns, make_record
from client.connectors.statement import check_select
from client.sources import LOOPBACK, OmopSection, SqlSection
from privacy.errors import ConfigError

if TYPE_CHECKING:
    from sqlalchemy import Connection, CursorResult, Engine

CONNECT_S = 10
# What the server says of these tells of the query and the schema only, never of a value.
_SPOKEN = {
    "42601": "syntax error",
    "42703": "no such column",
    "42P01": "no such table",
    "42883": "no such function",
    "42501": "this role may not read it",
    "3F000": "no such schema",
}
_CODES = {
    "28P01": "the user or the password is wrong",
    "28000": "this role may not log in",
    "3D000": "there is no such database",
    "25006": "it would write, and the transaction only reads",
    "57014": "the server cancelled it",
    "53300": "the server has too many connections",
    "57P01": "the server ended the connection",
    "57P03": "the server is starting or stopping",
}
_SQLITE_WORDS = re.compile(r"no such (?:column|table|function): [\w.]+|near \"\w+\": syntax error")
_QUOTED = re.compile(r"\"([^\"]*)\"")


class SqlConnector:
    """The rows of a query."""

    def __init__(self, data: SqlSection | OmopSection, query: str) -> None:
        self._data = data
        self._query = check_select(query)

    def check(self) -> str:
        """Which server, as whom, and the columns of the query."""
        with self._connected() as connection, self._selected(connection) as result:
            columns = self._columns(result)
            role = _role(connection) if self._data.needs_network else "SQLite, opened to read only"
        return f"{role}; {len(columns)} columns: {', '.join(columns)}"

    def records(self) -> Iterator[Record]:
        """The rows in the query's order."""
        number = 0
        with self._connected() as connection:
            try:
                with self._selected(connection) as result:
                    columns = self._columns(result)
                    for row in result:
                        number += 1
                        place = f"{self._data.place}, row {number} of the query"
                        fields = {
                            name: as_text(value, place=place, column=name)
                            for name, value in zip(columns, row, strict=True)
                        }
                        yield make_record(fields, self._data, place)
            except _LostError as lost:
                lost.words += f", after {number} rows"
                raise

    def _columns(self, result: "CursorResult[Any]") -> tuple[str, ...]:
        columns = tuple(result.keys())
        check_columns(columns, self._data, f"{self._data.place}, the query")
        return columns

    @contextmanager
    def _selected(self, connection: "Connection") -> "Iterator[CursorResult[Any]]":
        from sqlalchemy.exc import DBAPIError, SQLAlchemyError

        options = {"stream_results": True, "yield_per": self._data.fetch_rows}
        try:
            # As the driver takes it: a colon or a percent sign is part of the query.
            with connection.exec_driver_sql(self._query, execution_options=options) as result:
                yield result
        except DBAPIError as error:
            raise _lost(error.orig, self._query) from None
        except SQLAlchemyError as error:
            raise _LostError(f"the query failed with {type(error).__name__}") from None
        except _driver_errors() as error:
            # The cursor that streams is the driver's own.
            raise _lost(error, self._query) from None
        except (ValueError, OverflowError):
            # A driver that cannot read a value quotes it.
            raise _LostError(
                "expected values that Python can hold, got another, such as the time 24:00",
                hint="convert dates, times and numbers to text in data.query",
            ) from None

    @contextmanager
    def _connected(self) -> "Iterator[Connection]":
        with needs("sql", "sqlalchemy"):
            from sqlalchemy.exc import DBAPIError
        # When a cursor cannot be closed it logs the server's words, which may quote a record.
        logging.getLogger("sqlalchemy").setLevel(logging.CRITICAL + 1)
        engine = self._postgresql() if self._data.needs_network else self._sqlite()
        errors: tuple[type[BaseException], ...] = (DBAPIError, *_driver_errors())
        try:
            connection = engine.connect()
        except errors as error:
            engine.dispose()
            lost = _lost(error.orig if isinstance(error, DBAPIError) else error)
            raise ConfigError(
                f"{self._data.place}: cannot connect: {lost.words}",
                hint="check data.url and the password's place in site.toml, and that the "
                "database can be reached from here",
            ) from None
        try:
            with connection:
                _forbid_writing(connection, self._data)
                try:
                    yield connection
                except _LostError as lost:
                    # Dropped and not handed back: a dead one would fail again on its way out.
                    connection.invalidate()
                    raise ConfigError(
                        f"{self._data.place}: {lost.words}", hint=lost.hint
                    ) from None
        finally:
            engine.dispose()

    def _sqlite(self) -> "Engine":
        from sqlalchemy import create_engine
        from sqlalchemy.pool import NullPool

        path = Path(self._data.place)
        if not path.is_file():
            raise ConfigError(f"{path} does not exist", hint="correct data.url in site.toml")
        address = f"file:{quote(str(path.resolve()))}?mode=ro"
        return create_engine(
            "sqlite://",
            creator=lambda: sqlite3.connect(address, uri=True, timeout=CONNECT_S),
            poolclass=NullPool,
        )

    def _postgresql(self) -> "Engine":
        from sqlalchemy import create_engine
        from sqlalchemy.pool import NullPool

        with needs("sql", "pg8000"):
            import pg8000.dbapi
        address, password, tls = self._data.address, read_password(self._data), self._tls()

        def connect() -> object:
            # The wait for the server and the wait for an answer are not the same.
            reached = _reach(address.hostname, address.port or 5432)
            reached.settimeout(self._data.timeout_s)
            return pg8000.dbapi.connect(
                user=unquote(address.username or ""),
                host=address.hostname,
                database=unquote(address.path[1:]),
                password=password,
                sock=reached,
                ssl_context=tls,
                application_name="cloister-site",
            )

        return create_engine(
            "postgresql+pg8000://",
            creator=connect,
            poolclass=NullPool,
            hide_parameters=True,
            execution_options={"postgresql_readonly": True},
        )

    def _tls(self) -> ssl.SSLContext | bool:
        """How to speak to the server; False in the clear, which this machine or `off` allows."""
        host = self._data.address.hostname
        if not host or host in LOOPBACK or self._data.tls == "off":
            return False
        try:
            return ssl.create_default_context(cafile=self._data.tls_ca)
        except OSError as error:
            raise ConfigError(
                f"cannot read {self._data.tls_ca}: {type(error).__name__}",
                hint="correct data.tls_ca in site.toml",
            ) from None


def _reach(host: str | None, port: int) -> socket.socket:
    if host:
        return socket.create_connection((host, port), CONNECT_S)
    reached = socket.socket(socket.AF_UNIX)
    reached.settimeout(CONNECT_S)
    try:
        reached.connect(f"/var/run/postgresql/.s.PGSQL.{port}")
    except OSError:
        reached.close()
        raise
    return reached


def read_password(data: SqlSection | OmopSection) -> str | None:
    """The password from the place that the settings name; None where they name none.

    Raises:
      ConfigError: It is not there, or others than its owner can read the file.
    """
    if data.password_env:
        password = os.environ.get(data.password_env, "")
        if not password:
            raise ConfigError(
                f"expected a password in the environment variable {data.password_env}, got none",
                hint="set it where the agent is started",
            )
        return password
    if data.password_file is None:
        return None
    path = data.password_file
    try:
        with path.open(encoding="utf-8") as opened:
            found = os.fstat(opened.fileno())
            text = opened.read(4096)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"cannot read {path}: {type(error).__name__}",
            hint="correct data.password_file in site.toml",
        ) from None
    mode = stat.S_IMODE(found.st_mode)
    if mode & 0o077:
        raise ConfigError(
            f"expected {path} for its owner only, got mode {mode:04o}", hint=f"chmod 600 {path}"
        )
    password = text.rstrip("\r\n")
    if not password:
        raise ConfigError(f"expected a password in {path}, got nothing")
    return password


class _LostError(Exception):
    """What went wrong at the database, in words that hold no value."""

    def __init__(self, words: str, *, hint: str = "") -> None:
        super().__init__(words)
        self.words = words
        self.hint = hint


def _driver_errors() -> tuple[type[BaseException], ...]:
    """What comes of a driver or of the network when SQLAlchemy does not stand between."""
    try:
        from pg8000.dbapi import Error
    except ModuleNotFoundError:
        return (OSError, sqlite3.Error)
    return (OSError, sqlite3.Error, Error)


def _lost(error: BaseException | None, query: str = "") -> _LostError:
    # pg8000 hands over the server's answer as a dict: C is SQLSTATE, M the message.
    answer = error.args[0] if error is not None and error.args else None
    if isinstance(answer, dict) and "C" in answer:
        code = str(answer["C"])
        if code in _SPOKEN:
            said = " ".join(str(answer.get("M", ""))[:200].split())
            # A value that is cast to the name of a table is quoted as one.
            from_query = all(name in query for name in _QUOTED.findall(said))
            return _LostError(
                f"{_SPOKEN[code]} (SQLSTATE {code})" + (f": {said}" if from_query else ""),
                hint="correct data.query",
            )
        words = _CODES.get(code, "the server refused the query")
        return _LostError(f"{words} (SQLSTATE {code})", hint=_hint(code))
    if isinstance(error, sqlite3.Error):
        # Only where its words begin so: `Could not decode` goes on with the text of a record.
        known = _SQLITE_WORDS.match(str(error))
        return _LostError(
            f"the query failed: {known[0] if known else type(error).__name__}",
            hint="correct data.query, and check that the file is a database and not in use",
        )
    name = "none" if error is None else type(error).__name__
    return _LostError(
        f"the connection was lost ({name})",
        hint="check the network and the server's log; nothing that was read is kept",
    )


def _hint(code: str) -> str:
    if code.startswith("57"):
        return "check the server's log; nothing that was read is kept"
    if code == "25006":
        return "data.query may only read"
    return "the server's log says which value"


def _forbid_writing(connection: "Connection", data: SqlSection | OmopSection) -> None:
    """Make sure that nothing can be written, before the query runs.

    Raises:
      ConfigError: The server does not say that the transaction only reads.
    """
    from sqlalchemy import text

    if not data.needs_network:
        connection.execute(text("PRAGMA query_only = ON"))
        return
    if connection.execute(text("SHOW transaction_read_only")).scalar() != "on":
        raise ConfigError(
            f"{data.place}: expected a transaction that only reads, got one that can write",
            hint="use a role with default_transaction_read_only = on",
        )


def _role(connection: "Connection") -> str:
    """The server's version and whether the role could write outside this transaction."""
    from sqlalchemy import text

    version = connection.execute(text("SHOW server_version")).scalar()
    found = connection.execute(
        text(
            "SELECT current_user, (SELECT rolsuper FROM pg_roles WHERE rolname = current_user) "
            "OR EXISTS (SELECT 1 FROM information_schema.table_privileges "
            "WHERE grantee = current_user AND privilege_type IN ('INSERT', 'UPDATE', 'DELETE'))"
        )
    ).one()
    able = "could write; it is kept from it, and a role that cannot is better"
    return f"PostgreSQL {version} as {found[0]}, which {able if found[1] else 'can only read'}"
