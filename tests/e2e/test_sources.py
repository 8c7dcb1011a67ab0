"""Sites that keep their records in PostgreSQL, in FHIR and in Parquet train together.

The database dies twice in the middle of the run: while nobody reads, so that the next process
finds nobody to ask, and while it hands over rows. Each time that site loses one round with one
clear error; what it had read is not used, no round is spent twice, and once the database is back
the site goes on by itself. Values of every type stand in the records of all three, in English and
Chinese.
"""

import base64
import json
import os
import re
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tokenizers import Tokenizer

from model.base import nano_folder
from privacy.audit.entry import Event
from privacy.audit.keys import KeyRing
from privacy.audit.verify import verify_log
from privacy.wire import NO_UPDATE
from tests.client.postgres import PASSWORD, Server, running, server_binaries
from tests.e2e import planting, probe
from tests.e2e.conftest import SITE_BUDGET, Enrolled
from tests.e2e.consortium import (
    FEDERATION,
    NUM_UNITS,
    PATIENCE,
    READY_S,
    Consortium,
    Process,
    await_client_app,
    rows,
    rule_told,
)

SITES = ("clinic", "bank", "hospital")
ROUNDS = [1, 2, 3, 4, 5]
WHOLE, UNREAD, GONE, CUT_OFF, BACK = ROUNDS
LOST = [GONE, CUT_OFF]
NUM_RECORDS = 52

POSTGRESQL = """\
kind = "sql"
url = "{url}"
password_file = "{password}"
query = "SELECT id, person, note, ward FROM to_train_on"
record_id = "id"
unit_id = "person"
prompt = "{{note}}"
label = "{{ward}}"
fetch_rows = 5
"""
PARQUET = """\
kind = "parquet"
path = "data/notes.parquet"
record_id = "id"
unit_id = "person"
prompt = "{note}"
label = "{ward}"
"""
FHIR = """\
kind = "fhir"
path = "data/export"
resource = "DocumentReference"
prompt = "{gender}: {text}"
label = "{ward}"
"""
FHIR_FIELDS = """
[data.fields]
text = "content.attachment"
ward = "type.coding[0].display"
gender = "Patient.gender"
"""
SHARED = """\
unit = "person"
num_units = {num_units}
"""


# -- the three sources ---------------------------------------------------------------------------


def use_source(made: Consortium, site: str, keys: str, more: str = "") -> None:
    """Put a section of docs/connectors.md in the place of `[data]`, as a person does."""
    path = made.site(site) / "site.toml"
    head, _, rest = path.read_text().partition("[data]\n")
    _, bracket, tail = rest.partition("\n[")
    shared = SHARED.format(num_units=NUM_UNITS)
    path.write_text(f"{head}[data]\n{keys}{shared}{more}{bracket}{tail}")


def person(number: int) -> str:
    """Whose record it is; some people have two."""
    return f"p{number % 45}"


def fill_postgresql(server: Server, records: Sequence[Mapping[str, str]]) -> None:
    """A table, a view of it, and a role that may read the view and nothing else."""
    text = base64.b64encode(
        json.dumps(
            [
                {"id": i, "person": person(i), "note": r["prompt"], "ward": r["label"]}
                for i, r in enumerate(records)
            ]
        ).encode()
    ).decode()
    decoded = f"convert_from(decode('{text}', 'base64'), 'UTF8')::json"
    server.run(
        "CREATE TABLE notes (id int, person text, note text, ward text)",
        "INSERT INTO notes SELECT * FROM "  # noqa: S608
        f"json_populate_recordset(null::notes, {decoded})",
        f"CREATE ROLE reader LOGIN PASSWORD '{PASSWORD}'",
    )
    show(server, "0")


def show(server: Server, delay_s: str) -> None:
    """Make the view, which waits before each row but the first twenty."""
    server.run(
        "DROP VIEW IF EXISTS to_train_on",
        "CREATE VIEW to_train_on AS SELECT id, person, note, ward FROM notes "  # noqa: S608
        f"WHERE pg_sleep(CASE WHEN id < 20 THEN 0 ELSE {delay_s} END) IS NOT NULL",
        "GRANT SELECT ON to_train_on TO reader",
    )


def write_parquet(folder: Path, records: Sequence[Mapping[str, str]]) -> None:
    """One file."""
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(
        pa.table(
            {
                "id": list(range(len(records))),
                "person": list(map(person, range(len(records)))),
                "note": [record["prompt"] for record in records],
                "ward": [record["label"] for record in records],
            }
        ),
        folder / "notes.parquet",
    )


def write_fhir(folder: Path, records: Sequence[Mapping[str, str]]) -> None:
    """A bulk export: a file of patients and one of documents."""
    (folder / "export").mkdir(parents=True, exist_ok=True)
    people = [
        {"resourceType": "Patient", "id": name, "gender": "female"}
        for name in sorted({person(number) for number in range(len(records))})
    ]
    documents = [
        {
            "resourceType": "DocumentReference",
            "id": f"d{number}",
            "subject": {"reference": f"Patient/{person(number)}"},
            "type": {"coding": [{"display": record["label"]}]},
            "content": [
                {
                    "attachment": {
                        "contentType": "text/plain; charset=utf-8",
                        "data": base64.b64encode(record["prompt"].encode()).decode(),
                    }
                }
            ],
        }
        for number, record in enumerate(records)
    ]
    for name, resources in (("Patient", people), ("DocumentReference", documents)):
        text = "".join(json.dumps(resource) + "\n" for resource in resources)
        (folder / "export" / f"{name}.ndjson").write_text(text)


def enrol(made: Consortium, name: str) -> None:
    """One more site, by the commands."""
    address = f"127.0.0.1:{made.port}"
    placeholder = made.data(name)
    placeholder.parent.mkdir(parents=True, exist_ok=True)
    placeholder.write_bytes(b"")
    asked = made.call_site(
        name, "init", "--name", name, "--federation", FEDERATION, "--coordinator", address,
        "--data", placeholder, "--units", str(NUM_UNITS), "--epsilon", str(SITE_BUDGET),
        "--delta", "1e-3",
    )  # fmt: skip
    kit = made.call_coordinator(
        "approve", asked.result["request"], "--fingerprint", asked.result["fingerprint"]
    )
    assert made.call_site(name, "enrol", kit.result["kit"], "--yes").status == 0
    made.set_in_site(name, "alone", False)


# -- the run -------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Told:
    """What came of the run.

    Attributes:
      made: The consortium; its processes have ended.
      plan: The plan.
      run: How the run ended.
      checks: What `cloister-site check` found at each site, before.
      rules: What the clinic's agent answered to the rounds that it lost.
      news: All that the clinic's agent told.
      needles: Everything planted, in every form.
    """

    made: Consortium
    plan: str
    run: Mapping[str, Any]
    checks: Mapping[str, list[Mapping[str, Any]]]
    rules: Mapping[int, str]
    news: list[dict[str, Any]]
    needles: Mapping[str, bytes]


class Held:
    """Holds a round open: one site does not answer until it is let go."""

    def __init__(self, agent: Process) -> None:
        self._agent = agent
        self._pid = 0

    def hold(self) -> None:
        """Freeze its training process, which has the next round to do."""
        self._pid = await_client_app(self._agent)
        probe.freeze(self._pid)

    def let_go(self, server_round: int) -> None:
        """Let it answer the round, and hold the next one."""
        mark = len(self._agent.told)
        probe.thaw(self._pid)
        wanted = {"stage": "sent", "kind": "train", "server_round": server_round}
        self._agent.await_told(lambda told: wanted.items() <= told.items(), after=mark)
        if server_round < BACK - 1:
            self.hold()


def await_reading(server: Server) -> None:
    """Wait until the site's query has come to a row that is slow."""
    # Its text would be that of a cursor; but nobody else sleeps there.
    query = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'"
    deadline, pause = time.monotonic() + READY_S, threading.Event()
    while not server.run(query):
        assert time.monotonic() < deadline, "nobody reads"
        pause.wait(0.02)


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """A real server."""
    binaries = server_binaries()
    if binaries is None:
        if os.environ.get("CLOISTER_REQUIRE_POSTGRESQL"):
            pytest.fail("no PostgreSQL is installed")
        pytest.skip("no PostgreSQL is installed; apt-get install postgresql")
    with running(binaries) as started:
        yield started


@pytest.fixture(scope="module")
def told(enrolled: Enrolled, server: Server, tmp_path_factory: pytest.TempPathFactory) -> Told:
    """The run, with both deaths of the database."""
    made = Consortium.copy(enrolled.consortium, tmp_path_factory.mktemp("sources"))
    made.sites = SITES
    seed = planting.draw_seed()
    planted = {name: planting.draw(seed + index) for index, name in enumerate(SITES)}
    records = {
        name: planting.into(rows(index)[:NUM_RECORDS], planted[name])
        for index, name in enumerate(SITES)
    }
    try:
        made.start_coordinator()
        enrol(made, "hospital")
        fill_postgresql(server, records["clinic"])
        write_parquet(made.data("bank").parent, records["bank"])
        write_fhir(made.data("hospital").parent, records["hospital"])
        # Beside site.toml: no process that reads records sees the folder of the keys.
        password = made.site("clinic") / "database.password"
        password.write_text(PASSWORD + "\n")
        password.chmod(0o600)
        use_source(made, "clinic", POSTGRESQL.format(url=server.url("reader"), password=password))
        use_source(made, "bank", PARQUET)
        use_source(made, "hospital", FHIR, FHIR_FIELDS)
        for name in SITES:
            made.set_in_site(name, "round_limit_s", 300.0 * PATIENCE)
            made.start_site(name)
        with ThreadPoolExecutor(max_workers=2) as pool:
            checks = dict(
                zip(
                    SITES,
                    pool.map(lambda n: made.call_site(n, "check").result, SITES),
                    strict=True,
                )
            )
        path = made.write_plan(
            "sources", unit="person", num_rounds=len(ROUNDS), noise=0.7,
            languages=list(planting.LANGUAGES),
        )  # fmt: skip
        plan = made.call_coordinator("run", path, "--detach").result["plan"]
        assert {answer.status for answer in made.approve(plan).values()} == {0}
        rules = break_database(made, server)
        run = made.await_run(plan)
        made.agents["clinic"].await_stage("sent", kind="evaluate")
        tokenizer = Tokenizer.from_file(str(nano_folder() / "tokenizer.json"))
        needles = {
            f"{key} ({planting.SEED_VARIABLE}={seed})": needle
            for values in planted.values()
            for value in values
            for key, needle in value.needles(tokenizer).items()
        }
    finally:
        made.end()
    return Told(
        made=made,
        plan=plan,
        run=run,
        checks=checks,
        rules=rules,
        news=made.agents["clinic"].told,
        needles=needles,
    )


def break_database(made: Consortium, server: Server) -> dict[int, str]:
    """The two deaths of the database; returns the rules by which the clinic lost its rounds.

    The bank holds each round open until what is to happen in it has happened.
    """
    clinic, bank = made.agents["clinic"], made.agents["bank"]
    held, rules = Held(bank), {}
    bank.await_stage("starting", server_round=WHOLE)
    held.hold()
    clinic.await_stage("sent", kind="train", server_round=WHOLE)
    server.die()
    held.let_go(WHOLE)
    # Its training process has what it read: it asks nobody.
    clinic.await_stage("sent", kind="train", server_round=UNREAD)
    probe.kill(await_client_app(clinic))
    held.let_go(UNREAD)
    rules[GONE] = rule_told(clinic, GONE)
    server.start()
    show(server, "0.2")
    held.let_go(GONE)
    await_reading(server)
    server.die()
    rules[CUT_OFF] = rule_told(clinic, CUT_OFF)
    server.start()
    show(server, "0")
    held.let_go(CUT_OFF)
    return rules


# -- what came of it -----------------------------------------------------------------------------


def test_check_sees_each_source_before_anything_runs(told: Told) -> None:
    for name, words in (
        ("clinic", "PostgreSQL"), ("bank", "note (string)"), ("hospital", "DocumentReference"),
    ):  # fmt: skip
        found = told.checks[name]
        assert [f["name"] for f in found if not f["ok"]] == []
        assert words in " ".join(f["found"] for f in found)


def test_three_kinds_of_sources_train_one_adapter(told: Told) -> None:
    assert told.run["state"] == "finished"
    updates = [r["num_updates"] for r in told.run["rounds"]]
    assert updates == [3 - (number in LOST) for number in ROUNDS]
    for name in SITES:
        results = json.loads((told.made.site(name) / "results.json").read_text())
        assert results["federated"]["loss"] > 0
        masked = [
            news["records"]
            for news in told.made.agents[name].told
            if news.get("stage") == "masked"
        ]
        # Of the database twice, once for each process that read it to its end.
        assert masked == [NUM_RECORDS] * (2 if name == "clinic" else 1)


def test_a_database_that_dies_while_nobody_reads_it_costs_nothing(told: Told) -> None:
    sent = [
        news["server_round"]
        for news in told.news
        if news.get("stage") == "sent" and news.get("kind") == "train"
    ]
    assert sent == [WHOLE, UNREAD, BACK]


def test_each_lost_round_has_one_clear_error_that_quotes_nothing(told: Told) -> None:
    assert told.rules == dict.fromkeys(LOST, "training-failed")
    reasons = [str(news["reason"]) for news in told.news if news.get("stage") == "failed"]
    gone, cut_off = reasons
    place = "127.0.0.1/postgres: "
    assert f"{place}cannot connect" in gone
    # It had handed over rows by then; they are not used.
    assert re.search(rf"{place}.* after [1-9][0-9]* rows", cut_off)
    assert "Traceback" not in gone + cut_off
    # Not a line anywhere else.
    for name in SITES:
        assert (told.made.site(name) / "agent.log").read_text() == ""


def test_no_round_is_spent_twice_and_a_lost_one_stays_spent(told: Told) -> None:
    (one,) = {spend[1:] for spend in told.made.spends("bank", told.plan)}
    for name in SITES:
        assert told.made.spends(name, told.plan) == [(number, *one) for number in ROUNDS]
    ledger = told.made.type_site("clinic", "budget").result["rounds"]
    committed = [r["update"] != NO_UPDATE for r in ledger if r["plan"] == told.plan]
    assert committed == [number not in LOST for number in ROUNDS]


def test_nothing_is_sent_of_a_table_that_was_read_in_part(told: Told) -> None:
    sent = told.made.type_site("clinic", "sent").result
    assert [(s["kind"], s["server_round"]) for s in sent if s["plan"] == told.plan] == [
        ("train", WHOLE), ("train", UNREAD), ("train", BACK), ("evaluate", BACK),
    ]  # fmt: skip
    entries = [e for e in told.made.entries(plan=told.plan) if e.party == "clinic"]
    masked = [e for e in entries if e.event is Event.DATA_MASKED]
    assert len(masked) == 2


def test_the_log_tells_of_every_round_once_and_verifies(told: Told) -> None:
    entries = told.made.entries(plan=told.plan)
    for name in SITES:
        done = [number for number in ROUNDS if name != "clinic" or number not in LOST]
        for event, rounds in (
            (Event.BUDGET_RESERVED, ROUNDS),
            (Event.BUDGET_COMMITTED, done),
            (Event.UPDATE_SENT, done),
        ):
            own = [e for e in entries if e.party == name and e.event is event]
            assert [e.predicate["server_round"] for e in own] == rounds, (name, event)
    refused = [e for e in entries if e.event is Event.REPLY_REFUSED]
    assert [(e.party, e.predicate["server_round"]) for e in refused] == [
        ("clinic", number) for number in LOST
    ]
    verify_log(told.made.log, KeyRing.load(told.made.log / "keys.json"))


def test_no_value_of_any_type_is_outside_the_sources(told: Told) -> None:
    made, search = told.made, probe.Search(told.needles)
    data = [made.data(name).parent for name in SITES]
    kept = [path.read_bytes() for folder in data[1:] for path in probe.files(folder)]
    assert kept
    assert probe.left_behind(made.root, data, search) == []
    spoken = json.dumps([agent.told for agent in made.agents.values()], ensure_ascii=False)
    assert "cannot connect" in spoken
    assert search.names(spoken.encode()) == []


def test_the_password_is_nowhere_but_in_its_file(told: Told) -> None:
    search = probe.Search(dict(probe.disguises(PASSWORD)))
    found = probe.left_behind(told.made.root, [], search)
    assert {path for path, _ in found} == {"database.password"}
