"""A database is read as a stream, can never be written, and no error repeats a value of it."""

import datetime
import ipaddress
import json
import os
import re
import sqlite3
import ssl
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from contextlib import closing
from itertools import islice
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from client.config import parse_config
from client.connectors.compose import compose, open_connector
from client.connectors.record import Record
from client.connectors.sql import read_password
from client.connectors.statement import check_select
from client.sources import AnyData, SqlSection
from privacy.errors import ConfigError
from tests.client.postgres import PASSWORD, Server

CANARY = "canary-4111"
SITE = """
[site]
name = "s"
coordinator = "localhost:1"
[data]
num_units = 100
{data}
[budget]
epsilon = 8
delta = 1e-5
"""
NOTES = 'query = "SELECT id, patient, note, diagnosis FROM notes ORDER BY id"'
TEXTS = 'prompt = "{note}"\nlabel = "{diagnosis}"\nrecord_id = "id"\nunit_id = "patient"'


def data_of(toml: str, folder: Path = Path("/")) -> AnyData:
    return parse_config(SITE.format(data=toml), folder=folder).data


def read(toml: str, folder: Path = Path("/")) -> list[Record]:
    data = data_of(toml, folder)
    return list(compose(data, open_connector(data).records()))


def refused(toml: str, folder: Path = Path("/")) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        read(toml, folder)
    assert CANARY not in str(caught.value) + caught.value.hint
    assert PASSWORD not in str(caught.value) + caught.value.hint
    assert caught.value.__suppress_context__ or caught.value.__context__ is None
    return caught.value


def fill_sqlite(path: Path, num_rows: int = 3) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE notes (id INTEGER, patient TEXT, note TEXT, diagnosis)")
        connection.executemany(
            "INSERT INTO notes VALUES (?, ?, ?, ?)",
            [(i, f"p{i // 2}", f"note {i}", ("flu", "cold")[i % 2]) for i in range(num_rows)],
        )
    connection.close()


# Where another lexer than the server's sees a string or a comment, the server sees statements.
ENDING_THE_TRANSACTION = (
    "SELECT id, note AS a$x$ FROM notes; COMMIT; BEGIN READ WRITE; "
    "DELETE FROM notes WHERE id = 1; COMMIT; SELECT 1 AS b$x$",
    "SELECT id FROM notes -- x\r; COMMIT; BEGIN READ WRITE; "
    "INSERT INTO notes (id) VALUES (9); COMMIT",
)


# ── the query ──────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "query",
    [
        "SELECT 1",
        "select a from b;",
        "select a from b ; ; \n",
        " -- first, the notes\nSELECT 'DROP TABLE' AS \"update\" FROM b /* , */ ",
        "WITH x AS (SELECT 1) SELECT $$delete$$, E'it\\'s' FROM x",
        "SELECT created_at, last_update FROM b WHERE note LIKE '%x%' AND t::date > '2020-01-01'",
    ],
)
def test_one_select_is_taken_as_it_is(query: str) -> None:
    assert check_select(query) == query.strip().rstrip("; ")


@pytest.mark.parametrize(
    "query",
    [
        "",
        "DELETE FROM notes",
        "SELECT 1; DROP TABLE notes",
        "SELECT 1; --",
        "WITH x AS (DELETE FROM notes RETURNING *) SELECT * FROM x",
        "SELECT * INTO copies FROM notes",
        "SELECT * FROM notes FOR UPDATE",
        "COPY notes TO PROGRAM 'sh'",
        "EXPLAIN ANALYZE DELETE FROM notes",
        "(SELECT 1)",
        "SELECT 'open",
        "SELECT 1 /* open",
        "SELECT /* a /* b */ ; DROP TABLE notes */ 1",
        "SELECT /* a /* b */ 1 */ 1",
        "-- x\rCOPY (\nSELECT 1\n-- \r) TO PROGRAM 'sh'",
        "SELECT a$x$, id FROM notes FOR UPDATE AS b$x$",
        *ENDING_THE_TRANSACTION,
    ],
)
def test_anything_but_one_select_is_refused_before_a_connection(query: str) -> None:
    with pytest.raises(ConfigError, match="expected one SELECT"):
        check_select(query)


@pytest.mark.parametrize(
    "query", ["SELECT 'a;b'", 'SELECT 1 AS "a;b"', "SELECT 1 -- a;b", "SELECT $$;$$", "SELECT 1;2"]
)
def test_a_semicolon_is_refused_wherever_it_stands(query: str) -> None:
    with pytest.raises(ConfigError, match="a semicolon before its end") as caught:
        check_select(query)
    assert "not even in a string" in caught.value.hint


# ── the address and the password ───────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "url",
    [
        f"postgresql://me:{CANARY}@host/db",
        f"postgresql://me@host/db?password={CANARY}",
        f"mysql://me:{CANARY}@host/db",
        f"postgresql://me:{CANARY}@host:99999/db",
        "postgresql://host/db",
        "postgresql://me@host",
        "sqlite://",
        f"//{CANARY}",
    ],
)
def test_an_address_with_a_password_is_refused_and_not_repeated(url: str) -> None:
    error = refused(f'kind = "sql"\nurl = "{url}"\n{NOTES}\n{TEXTS}')
    assert "data.url" in str(error)


def section(toml: str) -> SqlSection:
    data = data_of(f'kind = "sql"\nurl = "postgresql://me@host/db"\n{NOTES}\n{TEXTS}\n{toml}')
    assert isinstance(data, SqlSection)
    return data


def test_a_password_comes_from_the_environment_or_from_a_file_of_its_owner_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert read_password(section("")) is None
    monkeypatch.setenv("EHR_PASSWORD", PASSWORD)
    assert read_password(section('password_env = "EHR_PASSWORD"')) == PASSWORD
    with pytest.raises(ConfigError, match="variable NOT_SET"):
        read_password(section('password_env = "NOT_SET"'))
    path = tmp_path / "password"
    path.write_text(PASSWORD + "\n")
    path.chmod(0o600)
    in_file = section(f'password_file = "{path}"')
    assert read_password(in_file) == PASSWORD
    path.chmod(0o640)
    with pytest.raises(ConfigError, match="mode 0640") as caught:
        read_password(in_file)
    assert "chmod 600" in caught.value.hint
    path.unlink()
    with pytest.raises(ConfigError, match="cannot read"):
        read_password(in_file)
    with pytest.raises(ConfigError, match="got both"):
        section(f'password_env = "A"\npassword_file = "{path}"')


def test_a_database_elsewhere_is_spoken_to_over_verified_tls_unless_said_otherwise() -> None:
    def tls(toml: str) -> object:
        connector = open_connector(data_of(f'kind = "sql"\n{NOTES}\n{TEXTS}\n{toml}'))
        return connector._tls()  # type: ignore[attr-defined]

    context = tls('url = "postgresql://me@db.example.org/ehr"')
    assert isinstance(context, ssl.SSLContext)
    assert context.check_hostname
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert tls('url = "postgresql://me@127.0.0.1/ehr"') is False
    assert tls('url = "postgresql://me@db.example.org/ehr"\ntls = "off"') is False
    with pytest.raises(ConfigError, match="cannot read"):
        tls('url = "postgresql://me@db.example.org/ehr"\ntls_ca = "/not/there"')


# ── SQLite ─────────────────────────────────────────────────────────────────────────────────────


def test_rows_of_sqlite_become_records(tmp_path: Path) -> None:
    fill_sqlite(tmp_path / "ehr.sqlite")
    toml = f'kind = "sql"\nurl = "sqlite:///ehr.sqlite"\n{NOTES}\n{TEXTS}'
    records = read(toml, tmp_path)
    assert [(r.record_id, r.unit_id) for r in records] == [("0", "p0"), ("1", "p0"), ("2", "p1")]
    assert records[0].fields == {"prompt": "note 0", "completion": "flu", "label": "flu"}
    data = data_of(toml, tmp_path)
    assert "opened to read only; 4 columns: id, patient" in open_connector(data).check()


def test_sqlite_cannot_be_written(tmp_path: Path) -> None:
    path = tmp_path / "ehr.sqlite"
    fill_sqlite(path)
    before = path.read_bytes()
    data = data_of(f'kind = "sql"\nurl = "sqlite:///{path}"\n{NOTES}\n{TEXTS}')
    connector = open_connector(data)
    # What the look at the query would have refused reaches the database here.
    connector._query = "DELETE FROM notes"  # type: ignore[attr-defined]
    with pytest.raises(ConfigError):
        list(connector.records())
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("SELECT absent FROM notes", "no such column: absent"),
        ("SELECT * FROM nowhere", "no such table: nowhere"),
        ("SELECT * FRM notes", "syntax error"),
        ("SELECT id, note AS id, patient FROM notes", "'id' twice"),
        ("SELECT note, diagnosis FROM notes", "'id'"),
        ("SELECT id, patient, note FROM notes", "data.completion names the column 'diagnosis'"),
        ("SELECT id, patient, x'00' AS note, 'canary-4111' AS diagnosis FROM notes", "row 1.*byt"),
    ],
)
def test_a_wrong_query_is_one_clear_error(tmp_path: Path, query: str, expected: str) -> None:
    fill_sqlite(tmp_path / "ehr.sqlite")
    error = refused(
        f"kind = 'sql'\nurl = 'sqlite:///ehr.sqlite'\nquery = \"{query}\"\n{TEXTS}", tmp_path
    )
    assert str(tmp_path / "ehr.sqlite") in str(error)
    assert re.search(expected, str(error))


@pytest.mark.parametrize("said", ["no such column: Smith", 'near "Smith": syntax error'])
def test_text_that_is_no_utf8_is_an_error_that_quotes_nothing(tmp_path: Path, said: str) -> None:
    path = tmp_path / "ehr.sqlite"
    fill_sqlite(path)
    with closing(sqlite3.connect(path)) as database:
        # What SQLite says of it ends with the text itself.
        spoilt = said.encode() + b"\xff"
        database.execute("UPDATE notes SET note = CAST(? AS TEXT) WHERE id = 2", [spoilt])
        database.commit()
    toml = f'kind = "sql"\nurl = "sqlite:///ehr.sqlite"\n{NOTES}\n{TEXTS}'
    error = refused(toml, tmp_path)
    assert re.search(r"ehr.sqlite: the query failed: OperationalError, after \d+ rows", str(error))
    assert "Smith" not in str(error)


def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    (tmp_path / "ehr.sqlite").write_text(CANARY * 100)
    toml = f'kind = "sql"\nurl = "sqlite:///ehr.sqlite"\n{NOTES}\n{TEXTS}'
    assert "DatabaseError" in str(refused(toml, tmp_path))
    (tmp_path / "ehr.sqlite").unlink()
    assert "does not exist" in str(refused(toml, tmp_path))


def test_a_missing_driver_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pg8000", None)
    monkeypatch.setitem(sys.modules, "pg8000.dbapi", None)
    error = refused(f'kind = "sql"\nurl = "postgresql://me@127.0.0.1/db"\n{NOTES}\n{TEXTS}')
    assert "needs pg8000" in str(error)
    assert "cloister[sql]" in error.hint


# ── OMOP ───────────────────────────────────────────────────────────────────────────────────────

CDM = """
CREATE TABLE {s}concept (concept_id INTEGER, concept_name TEXT);
CREATE TABLE {s}person (person_id INTEGER, gender_concept_id INTEGER, year_of_birth INTEGER);
CREATE TABLE {s}note (note_id INTEGER, person_id INTEGER, note_date DATE, note_title TEXT,
  note_text TEXT, note_class_concept_id INTEGER, note_type_concept_id INTEGER);
INSERT INTO {s}concept VALUES (1, 'Discharge summary'), (2, 'EHR note'), (8532, 'FEMALE');
INSERT INTO {s}person VALUES (7, 8532, 1950);
INSERT INTO {s}note VALUES (100, 7, '2020-01-02', 'Discharge', 'Went home well.', 1, 2),
  (101, 7, '2021-01-02', 'Letter', 'Seen again.', 1, 2)
"""


def test_notes_of_an_omop_cdm_become_records_of_persons(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "cdm.sqlite") as connection:
        connection.executescript(CDM.format(s=""))
    connection.close()
    records = read('kind = "omop"\nurl = "sqlite:///cdm.sqlite"\nunit = "patient"', tmp_path)
    assert [(r.record_id, r.unit_id) for r in records] == [("100", "7"), ("101", "7")]
    assert records[0].fields["prompt"] == "Went home well."
    assert records[0].fields["label"] == "Discharge summary"


def test_a_schema_that_is_no_name_is_refused() -> None:
    error = refused(
        'kind = "omop"\nurl = "sqlite:///cdm.sqlite"\ncdm_schema = "a; DROP TABLE note"'
    )
    assert "cdm_schema" in str(error)


# ── PostgreSQL ─────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(autouse=True)
def _silent(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """No library logs what the server said: it may quote a record."""
    yield
    assert CANARY not in caplog.text
    assert "pg8000" not in caplog.text


@pytest.fixture(autouse=True)
def _password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEST_DB_PASSWORD", PASSWORD)


def postgres(server: Server, query: str = NOTES, user: str = "reader", more: str = "") -> str:
    return (
        f'kind = "sql"\nurl = "{server.url(user)}"\npassword_env = "TEST_DB_PASSWORD"\n'
        f"{query}\n{TEXTS}\n{more}"
    )


@pytest.mark.slow
def test_rows_of_postgresql_become_records(server: Server) -> None:
    records = read(postgres(server))
    assert len(records) == 3000
    assert records[7].record_id == "7"
    assert records[7].unit_id == "p3"
    assert records[7].fields == {"prompt": "note 7", "completion": "cold", "label": "cold"}


@pytest.mark.slow
def test_a_query_may_hold_percent_signs_casts_and_times(server: Server) -> None:
    query = (
        "query = \"SELECT id, patient, note || ' ' || seen::text AS note, diagnosis FROM notes "
        "WHERE note LIKE 'note 1%' AND '12:30'::time > '11:00' AND id % 2 = 0 AND id < 20\""
    )
    assert [r.fields["prompt"] for r in read(postgres(server, query))] == [
        f"note {i} 2020-01-{i + 1:02d}" for i in (10, 12, 14, 16, 18)
    ]


@pytest.mark.slow
def test_a_check_tells_server_role_and_columns(server: Server) -> None:
    seen = open_connector(data_of(postgres(server))).check()
    assert "as reader, which can only read" in seen
    assert "4 columns: id, patient, note, diagnosis" in seen
    assert "could write" in open_connector(data_of(postgres(server, user="writer"))).check()


@pytest.mark.slow
@pytest.mark.parametrize("user", ["writer", "admin"])
def test_a_role_that_can_write_is_kept_from_it(server: Server, user: str) -> None:
    query = "query = \"SELECT deletes() AS id, 'p' AS patient, note, diagnosis FROM notes\""
    error = refused(postgres(server, query, user))
    assert "SQLSTATE 25006" in str(error)
    connector = open_connector(data_of(postgres(server, user=user)))
    # What the look at the query would have refused reaches the server here.
    for statement in (
        "SELECT 1 AS id; DELETE FROM notes",
        "SELECT 1 AS id; COMMIT; SET SESSION CHARACTERISTICS AS TRANSACTION READ WRITE; "
        "BEGIN; SET TRANSACTION READ ONLY; DELETE FROM notes",
    ):
        connector._query = statement  # type: ignore[attr-defined]
        with pytest.raises(ConfigError):
            list(connector.records())
    assert len(read(postgres(server))) == 3000


@pytest.mark.slow
@pytest.mark.parametrize("query", ENDING_THE_TRANSACTION)
def test_a_query_that_ends_the_transaction_writes_nothing(server: Server, query: str) -> None:
    written = json.dumps(query)
    error = refused(postgres(server, f"query = {written}", "writer"))
    assert "a semicolon before its end" in str(error)
    assert server.run("SELECT count(*) FROM notes") == 3000


@pytest.mark.slow
@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("SELECT nothing FROM notes", "no such column.*nothing"),
        ("SELECT * FROM nowhere", "no such table.*nowhere"),
        ("SELECT * FRM notes", "syntax error"),
        ("SELECT id, patient, note, diagnosis FROM pg_authid, notes", "may not read it"),
        ("SELECT 'canary-4111'::int AS id, patient, note, diagnosis FROM notes", "SQLSTATE 22P02"),
        (
            "SELECT id, patient, note, 1 / (id - 1500) AS diagnosis FROM notes ORDER BY id",
            "SQLSTATE 22012",
        ),
        (
            "SELECT id, patient, note, diagnosis::regclass FROM notes",
            r"table \(SQLSTATE 42P01\), after",
        ),
        (
            "SELECT id, patient, note, '24:00'::time AS diagnosis FROM notes",
            "values that Python can hold",
        ),
    ],
)
def test_a_wrong_query_is_one_clear_error_of_the_server(
    server: Server, query: str, expected: str
) -> None:
    error = refused(postgres(server, f'query = "{query}"'))
    assert "127.0.0.1/postgres: " in str(error)
    assert re.search(expected, str(error))


@pytest.mark.slow
def test_a_wrong_password_and_an_absent_server_are_told(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "port" not in str(refused(postgres(server).replace("/postgres", "/elsewhere")))
    monkeypatch.setenv("TEST_DB_PASSWORD", "wrong")
    assert "password is wrong" in str(refused(postgres(server)))
    nobody = postgres(server).replace(str(server.port), "1")
    assert "cannot connect" in str(refused(nobody))


def self_signed() -> tuple[bytes, bytes]:
    """A certificate of 127.0.0.1, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.datetime.now(datetime.UTC)
    address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([address]), critical=False)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    return certificate.public_bytes(serialization.Encoding.PEM), private


@pytest.mark.slow
def test_a_server_elsewhere_must_show_a_certificate_that_verifies(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As if 127.0.0.1 were another machine.
    monkeypatch.setattr("client.connectors.sql.LOOPBACK", frozenset())
    certificate, key = self_signed()
    (tmp_path / "ca.pem").write_bytes(certificate)
    trusting = f'tls_ca = "{tmp_path}/ca.pem"'
    # A server without TLS is not spoken to in the clear.
    assert "cannot connect" in str(refused(postgres(server, more=trusting)))
    encrypted = (
        'query = "SELECT 1 AS id, 1 AS patient, ssl AS note, version AS diagnosis '
        'FROM pg_stat_ssl WHERE pid = pg_backend_pid()"'
    )
    with server.speaking_tls(certificate, key):
        [record] = read(postgres(server, encrypted, more=trusting))
        assert record.fields["prompt"] == "true"
        assert "cannot connect" in str(refused(postgres(server, encrypted)))


@pytest.mark.slow
def test_a_connection_that_is_dropped_in_the_middle_is_one_error(server: Server) -> None:
    connector = open_connector(data_of(postgres(server, more="fetch_rows = 100")))
    records = connector.records()
    assert len(list(islice(records, 150))) == 150
    server.run(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
        "WHERE application_name = 'cloister-site'"
    )
    with pytest.raises(ConfigError, match=r"the connection was lost.*after \d+ rows") as caught:
        list(records)
    assert "nothing that was read is kept" in caught.value.hint


@pytest.mark.slow
def test_a_reader_that_stops_early_leaves_no_connection(server: Server) -> None:
    records = open_connector(data_of(postgres(server))).records()
    next(records)
    del records
    server.run(
        "DO $$ BEGIN IF (SELECT count(*) FROM pg_stat_activity WHERE application_name = "
        "'cloister-site') > 0 THEN RAISE 'still there'; END IF; END $$"
    )


@pytest.mark.slow
def test_a_huge_table_streams_in_bounded_memory(server: Server) -> None:
    # 100 MB of text, in a process that may not grow by a third of it.
    query = (
        "SELECT i AS id, i AS patient, repeat('x', 5000) AS note, 'a' AS diagnosis "
        "FROM generate_series(1, 20000) i"
    )
    data = postgres(server, f'query = "{query}"')
    program = textwrap.dedent(
        """
        import resource, sys
        from pathlib import Path
        from client.config import parse_config
        from client.connectors.compose import compose, open_connector
        data = parse_config(sys.argv[1], folder=Path("/")).data
        records = compose(data, open_connector(data).records())
        next(records)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        print(sum(1 for _ in records), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
        """
    )
    done = subprocess.run(
        [sys.executable, "-c", program, SITE.format(data=data)],
        check=True,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )
    num_records, grown_kb = map(int, done.stdout.split())
    assert num_records == 19_999
    assert grown_kb < 32 * 1024


@pytest.mark.slow
def test_an_omop_cdm_in_a_schema_of_its_own(server: Server) -> None:
    server.run(
        "DROP SCHEMA IF EXISTS cdm CASCADE",
        "CREATE SCHEMA cdm",
        *CDM.format(s="cdm.").split(";"),
        "GRANT USAGE ON SCHEMA cdm TO reader",
        "GRANT SELECT ON ALL TABLES IN SCHEMA cdm TO reader",
    )
    toml = (
        f'kind = "omop"\nurl = "{server.url("reader")}"\npassword_env = "TEST_DB_PASSWORD"\n'
        'cdm_schema = "cdm"\nunit = "patient"\nprompt = "{note_date} {note_text}"'
    )
    assert [r.fields["prompt"] for r in read(toml)] == [
        "2020-01-02 Went home well.",
        "2021-01-02 Seen again.",
    ]
