"""A training process that can reach nobody is handed the records by one that cannot train."""

import os
import signal
import socket
import sqlite3
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from client.config import format_config
from client.connectors.feed import FD_VARIABLE, FedRecords, FeedEndedError, inherited, serve
from client.home import SiteHome
from client.room import make_worker
from client.worker import Feed, Worker, WorkerFailedError
from privacy.errors import ConfigError
from tests.client.postgres import PASSWORD, Server
from tests.client.sources import config_of

TEXTS = 'prompt = "{note}"\nlabel = "{diagnosis}"\nrecord_id = "id"\nunit_id = "patient"'
QUERY = "SELECT id, patient, note, diagnosis FROM notes ORDER BY id"
SQLITE = f'kind = "sql"\nurl = "sqlite:///ehr.sqlite"\nquery = "{QUERY}"\n{TEXTS}'


@pytest.fixture
def fed(tmp_path: Path) -> Iterator[FedRecords]:
    """Records of a database in this process, with a thread in place of the reading process."""
    near, far = socket.socketpair()
    data = config_of(SQLITE, tmp_path).data
    with near, far.makefile("rb") as requests, far.makefile("wb") as answers:
        thread = threading.Thread(target=serve, args=(data, requests, answers))
        thread.start()
        yield FedRecords(near.fileno())
        near.shutdown(socket.SHUT_RDWR)
        far.shutdown(socket.SHUT_RDWR)
        thread.join()
    far.close()


def fill(folder: Path, num_rows: int = 3) -> None:
    with sqlite3.connect(folder / "ehr.sqlite") as connection:
        connection.execute("CREATE TABLE notes (id INTEGER, patient TEXT, note TEXT, diagnosis)")
        connection.executemany(
            "INSERT INTO notes VALUES (?, ?, ?, ?)",
            [(i, "p", f"note \n{i} 诊断", "flu") for i in range(num_rows)],
        )
    connection.close()


def test_records_pass_as_often_as_they_are_asked_for(tmp_path: Path, fed: FedRecords) -> None:
    fill(tmp_path)
    for _ in range(3):
        records = list(fed.records("db"))
        assert [r.record_id for r in records] == ["0", "1", "2"]
        assert records[1].fields["prompt"] == "note \n1 诊断"
        assert records[1].place.endswith("row 2 of the query")


def test_what_was_not_read_to_its_end_is_skipped(tmp_path: Path, fed: FedRecords) -> None:
    fill(tmp_path, 1000)
    assert next(fed.records("db")).record_id == "0"
    assert len(list(fed.records("db"))) == 1000


def test_an_error_of_the_source_passes_with_its_hint(tmp_path: Path, fed: FedRecords) -> None:
    with pytest.raises(ConfigError, match="does not exist") as caught:
        list(fed.records("db"))
    assert "data.url" in caught.value.hint
    fill(tmp_path)
    assert len(list(fed.records("db"))) == 3


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b'{"begin": 1}\n',
        b'{"begin": 1}\n{"record": ["u", "r", "p", {}]}\n{"end": 2}\n',
        b'{"begin": 1}\n{"record": ["u", "r", "p", {}]}\n{"end"',
    ],
)
def test_half_a_table_is_no_table(answer: bytes) -> None:
    near, far = socket.socketpair()
    with near:
        far.sendall(answer)
        far.close()
        with pytest.raises(FeedEndedError):
            list(FedRecords(near.fileno()).records("db"))


def test_without_a_pipe_a_process_reads_for_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(FD_VARIABLE, raising=False)
    assert inherited() is None


def test_only_a_server_is_read_next_door_and_its_password_is_nobody_elses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def feed_of(data: str) -> Feed | None:
        (tmp_path / "site.toml").write_text(format_config(config_of(data, tmp_path)))
        worker = make_worker(SiteHome(tmp_path))
        assert not any("horse" in value for value in worker._environment.values())
        return worker._feed

    monkeypatch.setenv("EHR_PASSWORD", PASSWORD)
    assert feed_of('path = "records.jsonl"') is None
    assert feed_of(SQLITE) is None
    found = feed_of(
        SQLITE.replace("sqlite:///ehr.sqlite", "postgresql://me@db.example.org/ehr")
        + '\npassword_env = "EHR_PASSWORD"'
    )
    assert found is not None
    assert found.argv[1:] == ("-m", "client.connectors.feed", str(tmp_path / "site.toml"))
    assert found.environment["EHR_PASSWORD"] == PASSWORD


def test_the_reading_process_imports_neither_torch_nor_the_tokenizer() -> None:
    program = (
        "import sys, client.connectors.feed; "
        "sys.exit(bool({'torch', 'transformers', 'presidio_analyzer', 'flwr'} & set(sys.modules)))"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


PROGRAM = """
import os, socket
from client.worker import serve

def make_handler():
    from client.connectors import feed
    fed = feed.inherited()

    def handle(request, progress):
        try:
            socket.create_connection(("127.0.0.1", int(request)), 2)
            reached = True
        except OSError:
            reached = False
        progress({"knows": any("horse" in value for value in os.environ.values())})
        return f"{sum(1 for _ in fed.records('db'))} {reached}".encode()

    return handle

serve(make_handler)
"""


@pytest.fixture(params=[True, False], ids=["namespaces", "fallback"])
def worker(request: pytest.FixtureRequest, server: Server, tmp_path: Path) -> Iterator[Worker]:
    """A training process in its room, and the real reading process in the other."""
    keys = tmp_path / "keys"
    keys.mkdir()
    (keys / "tls.key").write_text("secret")
    (tmp_path / "program.py").write_text(textwrap.dedent(PROGRAM))
    data = f'kind = "sql"\nurl = "{server.url("reader")}"\nquery = "{QUERY}"\n{TEXTS}\n'
    (tmp_path / "site.toml").write_text(
        '[site]\nname = "s"\ncoordinator = "h:1"\n[data]\nnum_units = 100\n'
        f'{data}password_env = "EHR_PASSWORD"\n[budget]\nepsilon = 8\ndelta = 1e-5\n'
    )
    package_root = {"PYTHONPATH": str(Path(__file__).parents[2])}
    with Worker(
        [sys.executable, str(tmp_path / "program.py")],
        environment=package_root,
        hide=[keys],
        memory_limit_mb=600,
        writable=[],
        use_namespaces=request.param,
        demand=("keys_hidden", "network_forbidden"),
        feed=Feed(
            argv=(sys.executable, "-m", "client.connectors.feed", str(tmp_path / "site.toml")),
            environment={**package_root, "EHR_PASSWORD": PASSWORD},
        ),
    ) as running:
        yield running


@pytest.mark.slow
def test_a_database_is_read_for_a_process_that_can_reach_nobody(
    worker: Worker, server: Server
) -> None:
    told: list[object] = []
    request = str(server.port).encode()
    for _ in range(2):
        reply = worker.call(
            request, timeout_s=40, on_progress=lambda news: told.append(news["knows"])
        )
        assert reply == b"3000 False"
    assert told == [False, False]


@pytest.mark.slow
def test_both_processes_end_and_begin_together(worker: Worker, server: Server) -> None:
    request = str(server.port).encode()
    worker.call(request, timeout_s=40, on_progress=lambda _: None)
    child = worker._child
    assert child is not None
    assert child.feeder is not None
    keeper = child.feeder.process
    assert child.feeder.report.keys_hidden
    assert not child.feeder.report.network_forbidden
    os.kill(keeper.pid, signal.SIGKILL)
    time.sleep(0.5)
    with pytest.raises(WorkerFailedError, match="FeedEndedError"):
        worker.call(request, timeout_s=40, on_progress=lambda _: None)
    assert worker.call(request, timeout_s=40, on_progress=lambda _: None) == b"3000 False"
    feeder = worker._child.feeder.process if worker._child and worker._child.feeder else None
    assert feeder is not None
    worker.stop()
    assert feeder.poll() is not None
