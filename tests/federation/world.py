"""A whole federation on 127.0.0.1: real TLS, real sockets, real Flower, real databases.

Only the training process is replaced, by a trainer that a test can make lie, hang or die; the
tests of the real one start real processes.
"""

import contextlib
import hashlib
import sqlite3
import threading
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path

import grpc
import numpy as np
from flwr.app import Message, RecordDict

from client.agent import Agent
from client.config import BudgetSection, DataSection, SiteConfig, SiteSection, format_config
from client.framing import frame, unframe
from client.home import SiteHome
from client.link import Link, read_message, write_message
from client.worker import WorkerDiedError
from model.config import AdapterConfig, BaseRef, TensorSpec
from model.tensors import Packed, packed_digest, packed_size
from privacy import transit, wire
from privacy.audit.entry import Entry, Event, parse_entry
from privacy.audit.opening import Openings, open_entry
from privacy.dp.calibrate import calibrate_noise
from privacy.dp.config import MechanismConfig, Unit
from privacy.masking.canaries import num_clean, num_planted
from privacy.masking.config import MaskingConfig
from privacy.pki.authority import (
    Authority,
    generate_tls_key,
    load_tls_key,
    public_der,
    save_tls_key,
)
from privacy.pki.enrolment import Member, make_kit, make_request, read_request
from privacy.pki.identity import Algorithm, SigningKey
from privacy.plan import (
    ExitConfig,
    OptimizerConfig,
    RoundsConfig,
    RunPlan,
    SiteShare,
    TextConfig,
)
from server.app import build_app
from server.config import load, template
from server.control import control
from server.coordinator import Coordinator
from server.evidence import Evidence
from server.runs import Run, RunState

SPECS = (
    TensorSpec(name="layer.lora_A.weight", shape=(2, 3), trained=False),
    TensorSpec(name="layer.lora_B.weight", shape=(4, 2), trained=True),
)
INITIAL: Packed = np.linspace(0, 1.3, packed_size(SPECS), dtype=np.float32)
NUM_TRAINED = 8
NUM_UNITS = 100
# A round takes a second, on a busy machine many: where every site answers, no test waits for it.
DEADLINE_S = 60.0
# How long a test waits for what should have happened long ago.
PATIENCE_S = 180.0


# Flower takes a second to make its tables: the first federation makes them for all.
_EMPTY_STATE: list[bytes] = []


def make_plan(names: list[str], **changes: object) -> RunPlan:
    """A small valid plan for these sites."""
    num_rounds = int(str(changes.pop("num_rounds", 2)))
    if "mechanism" not in changes:
        changes["mechanism"] = MechanismConfig(
            unit=Unit.RECORD,
            target_epsilon=8.0,
            delta=1e-3,
            noise_multiplier=calibrate_noise(8.0, 1e-3, 0.1, num_rounds),
            clip_norm=1.0,
            sample_rate=0.1,
            steps_per_round=1,
        )
    fields: dict[str, object] = {
        "federation": "regio",
        "run": "triage",
        "base": BaseRef(name="nano", digest="sha256:" + "0" * 64),
        "adapter": AdapterConfig(lora_rank=2, lora_alpha=4),
        "tensors": SPECS,
        "initial_adapter": packed_digest(SPECS, INITIAL),
        "text": TextConfig(),
        "masking": MaskingConfig(),
        "optimizer": OptimizerConfig(),
        "rounds": RoundsConfig(num_rounds=num_rounds, min_sites=2, deadline_s=DEADLINE_S),
        "exits": ExitConfig(
            max_update_norm=100.0, max_update_bytes=50_000, metrics=("num_steps",)
        ),
        "sites": tuple(SiteShare(name=name, num_units=NUM_UNITS) for name in sorted(names)),
    }
    return RunPlan(**{**fields, **changes})  # type: ignore[arg-type]


def quiet_plan(name: str, names: str = "abc", **changes: object) -> RunPlan:
    """A plan of one round with so much noise that many of them fit into a budget."""
    mechanism = MechanismConfig(
        unit=Unit.RECORD,
        target_epsilon=2.0,
        delta=1e-3,
        noise_multiplier=40.0,
        clip_norm=1.0,
        sample_rate=0.1,
        steps_per_round=1,
    )
    run = "t" + hashlib.sha256(name.encode()).hexdigest()[:12]
    fields: dict[str, object] = {"run": run, "mechanism": mechanism, "num_rounds": 1}
    return make_plan(list(names), **{**fields, **changes})


def nothing(content: RecordDict) -> RecordDict:
    """Records as they are."""
    return content


def all_found(plan: RunPlan) -> list[list[object]]:
    """What a site says that finds every planted example."""
    counts = num_planted(plan.masking.languages, plan.masking.entity_types)
    return [[*key, count, count, count] for key, count in sorted(counts.items())]


def none_masked(plan: RunPlan) -> list[list[object]]:
    """What a site says that masks nothing in clean sentences."""
    return [[language, count, 0] for language, count in num_clean(plan.masking.languages).items()]


def good_figures(server_round: int) -> dict[str, float]:
    """What a measurement in this round comes to."""
    return {"loss": 9.0 / server_round, "accuracy": 1 - 0.5**server_round, "num_examples": 7}


Lie = Callable[[RecordDict], RecordDict]


class Trainer:
    """Stands in for the training process; `lie` changes the records of its reply."""

    def __init__(self, site: str, value: float) -> None:
        self.site = site
        self.value = value
        self.be_honest()
        self.num_calls = 0
        self.measured: list[int] = []
        self.pid = 1
        self.sandbox = None

    def be_honest(self) -> None:
        """Answer as asked, at once."""
        self.lie: Lie = nothing
        self.spoil: Callable[[bytes], bytes] = lambda answer: answer
        self.before: Callable[[int], None] = lambda server_round: None
        self.measure: Callable[[int], object] = good_figures
        self.stopped = threading.Event()
        self.is_busy = threading.Event()

    def hang(self, _server_round: int) -> None:
        """Hang until `stop`, like a child that is ended then."""
        self.is_busy.set()
        assert self.stopped.wait(PATIENCE_S)
        raise WorkerDiedError(None)

    def call(
        self,
        request: bytes,
        *,
        timeout_s: float,
        on_progress: Callable[[Mapping[str, object]], None],
    ) -> bytes:
        """Answer as the real process would, with `value` wherever the site trains."""
        asked, sent = unframe(request)
        plan = RunPlan.parse(asked["plan"].encode())
        message = read_message(sent)
        fields = message.content["instruction"]
        server_round = int(str(fields["server_round"]))
        kind = message.metadata.message_type
        if kind == "query":
            self.measured.append(server_round)
            nothing_said = Message(RecordDict(), reply_to=message)
            return frame({"point": self.measure(server_round)}, write_message(nothing_said))
        self.num_calls += 1
        self.before(server_round)
        tensors, update = plan.update_tensors(server_round), None
        if kind == "train":
            update = np.full(packed_size(tensors), self.value, dtype=np.float32)
            mask = plan.update_mask(self.site, server_round)
            update = update if mask is None else update * mask
        reply = wire.Reply(
            kind=kind,  # type: ignore[arg-type]
            plan=plan.digest,
            server_round=server_round,
            site=self.site,
            update=update,
            update_digest=wire.NO_UPDATE if update is None else packed_digest(tensors, update),
            metrics={"num_steps": 1} if kind == "train" else {},
        )
        content = self.lie(wire.write_reply(reply, plan))
        local = {
            "masking": {"num_records": 1, "num_masked": {}},
            "canaries": all_found(plan),
            "over_masking": none_masked(plan),
            "results": {"base": {}},
        }
        if kind == "evaluate":
            local["results"] = {"base": {}, "point": self.measure(plan.rounds.num_rounds + 1)}
        answer = Message(content, reply_to=message)
        return self.spoil(frame(local, write_message(answer)))

    def start(self) -> None:
        """Nothing is to be started."""

    def stop(self) -> None:
        """End a call that hangs."""
        self.stopped.set()


class Site:
    """One site of the federation, its agent in a thread."""

    def __init__(
        self,
        folder: Path,
        name: str,
        value: float,
        algorithm: Algorithm = Algorithm.ED25519,
    ) -> None:
        self.name = name
        self.algorithm = algorithm
        self.home = SiteHome(folder)
        self.trainer = Trainer(name, value)
        self.news: list[Mapping[str, object]] = []
        self.agent: Agent | None = None
        self._thread: threading.Thread | None = None
        self.error: BaseException | None = None

    def init(self, coordinator: str) -> bytes:
        """Make the folder and the keys; returns the enrolment request."""
        self.home.folder.mkdir(parents=True)
        records = self.home.folder / "records.jsonl"
        records.write_text("")
        config = SiteConfig(
            site=SiteSection(
                name=self.name, coordinator=coordinator, signature_algorithm=self.algorithm
            ),
            data=DataSection(path=records, num_units=NUM_UNITS),
            budget=BudgetSection(epsilon=8.0, delta=1e-3),
        )
        self.home.make_keys(self.algorithm)
        self.home.config_path.write_text(format_config(config))
        return make_request(
            federation="regio",
            site=self.name,
            tls_key=load_tls_key(self.home.tls_key_path),
            signing_key=self.home.signing_key(),
            num_units=NUM_UNITS,
        )

    def decide(self, plan: RunPlan, *, approved: bool = True) -> None:
        """Approve or refuse a plan as a person here would, and tell the coordinator."""
        journal = self.home.journal()
        link = Link(self.home.channel())
        journal.decide(plan, approved=approved)
        if approved:
            journal.record(Event.PLAN_APPROVED, {"plan": plan.digest})
        else:
            journal.record(Event.PLAN_REFUSED, {"plan": plan.digest}, rule="refused-by-person")
        journal.flush(link.append)
        journal.close()
        link.close()

    def start(self) -> None:
        """Start the agent."""
        agent = Agent(self.home, self.news.append, self.trainer)  # type: ignore[arg-type]
        self.agent = agent

        def run() -> None:
            try:
                agent.run()
            except Exception as error:  # noqa: BLE001  handed to the test
                self.error = error

        self._thread = threading.Thread(target=run, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop the agent and wait for it."""
        if self.agent is not None and self._thread is not None:
            self.agent.stop()
            self._thread.join(timeout=40)
            self.agent = None

    def join(self) -> None:
        """Wait until the agent ends by itself; `error` says why it did."""
        assert self._thread is not None
        self._thread.join(timeout=PATIENCE_S)

    def kept(self, plan: RunPlan, kind: str = "train", server_round: int = 1) -> bytes | None:
        """The reply that left the site or may, None where there is none."""
        journal = self.home.journal()
        try:
            found = journal.get(plan.digest, kind, server_round)
        finally:
            journal.close()
        return None if found is None else found[0]

    def approve_alone(self, plan: RunPlan) -> None:
        """Approve a plan here without telling anybody."""
        journal = self.home.journal()
        journal.decide(plan, approved=True)
        journal.close()

    def link(self) -> Link:
        """A connection of its own, without an agent behind it."""
        link = Link(self.home.channel())
        link.activate(self.public_key)
        return link

    @property
    def public_key(self) -> bytes:
        """Of its TLS certificate: its identity."""
        return public_der(load_tls_key(self.home.tls_key_path))

    def entries(self) -> list[Event]:
        """Events in the site's own journal."""
        journal = self.home.journal()
        try:
            return [parse_entry(line).event for line, _ in journal.lines()]
        finally:
            journal.close()

    def rules(self) -> list[str]:
        """Rules that the site's journal says were broken."""
        journal = self.home.journal()
        try:
            entries = [parse_entry(line) for line, _ in journal.lines()]
        finally:
            journal.close()
        refused = (Event.INSTRUCTION_REFUSED, Event.REPLY_REFUSED, Event.PLAN_REFUSED)
        return [entry.predicate["rule"] for entry in entries if entry.event in refused]


class Federation:
    """A coordinator and its sites."""

    def __init__(self, folder: Path, algorithm: Algorithm = Algorithm.ED25519) -> None:
        self.folder = folder
        self.home = folder / "coordinator"
        self.sites: dict[str, Site] = {}
        self.coordinator: Coordinator | None = None
        self._thread: threading.Thread | None = None
        now = datetime.now(UTC)
        self.home.mkdir(parents=True)
        self.port = _free_port()
        address = f"127.0.0.1:{self.port}"
        (self.home / "federation.toml").write_text(
            template(name="regio", address=address, listen=address)
        )
        self.config = load(self.home)
        self.authority = Authority.create(
            self.config.authority_folder, federation="regio", passphrase="", at=now, plain=True
        )
        tls_key = generate_tls_key()
        save_tls_key(tls_key, self.config.keys_folder / "tls.key")
        self.certificate = self.authority.issue_server_certificate(
            tls_key.public_key(), hosts=["127.0.0.1"], valid_for=timedelta(days=1), at=now
        )
        self.key = SigningKey.generate(algorithm)
        evidence = Evidence(self.config, self.key)
        evidence.record(Event.FEDERATION_CREATED, federation="regio")
        evidence.log.close()

    @property
    def address(self) -> str:
        """Where sites connect."""
        return f"127.0.0.1:{self.port}"

    def credentials(self) -> grpc.ServerCredentials:
        """The coordinator's TLS credentials."""
        return transit.server_credentials(
            ca_pem=self.authority.ca_pem,
            certificate_pem=self.certificate,
            key_pem=(self.config.keys_folder / "tls.key").read_bytes(),
        )

    def start(self) -> None:
        """Start the coordinator and wait until it serves."""
        database = self.config.state_folder / "flower.sqlite"
        if _EMPTY_STATE and not database.exists():
            database.parent.mkdir(parents=True, exist_ok=True)
            database.write_bytes(_EMPTY_STATE[0])
        coordinator = Coordinator(self.config, self.key, self.credentials(), build_app)
        if not _EMPTY_STATE:
            with contextlib.closing(sqlite3.connect(database)) as made:
                made.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            _EMPTY_STATE.append(database.read_bytes())
        ready = threading.Event()
        self.coordinator = coordinator
        self._thread = threading.Thread(
            target=coordinator.serve, args=(lambda _port: ready.set(),), daemon=True
        )
        self._thread.start()
        assert ready.wait(10)

    def stop(self) -> None:
        """Stop the coordinator and wait for it."""
        if self.coordinator is not None and self._thread is not None:
            self.coordinator.stop()
            self._thread.join(timeout=30)
            self.coordinator = None

    def enrol(
        self, name: str, value: float = 1.0, algorithm: Algorithm = Algorithm.ED25519
    ) -> Site:
        """Make a site and enrol it."""
        site = Site(self.folder / name, name, value, algorithm)
        self.approve(site, site.init(self.address))
        self.sites[name] = site
        return site

    def approve(self, site: Site, request: bytes) -> None:
        """Approve a request, and hand its site the kit."""
        assert self.coordinator is not None
        read = read_request(request, federation="regio")
        now = datetime.now(UTC)
        certificate = self.authority.issue_site_certificate(
            read.csr_pem, site=read.site, valid_for=timedelta(days=1), at=now
        )
        self.coordinator.roster.add(
            read.site,
            node_key=read.node_key,
            signing_key=read.signing_key,
            certificate_serial="1",
            num_units=read.num_units,
            at=now,
        )
        control(self.config, "Enrolled", site=read.site)
        kit = make_kit(
            site=read.site,
            federation="regio",
            address=self.address,
            ca_pem=self.authority.ca_pem,
            certificate_pem=certificate,
            roster=[
                Member(name=e.site, signing_key=e.signing_key)
                for e in self.coordinator.roster.list()
                if e.active
            ],
            signing_key=self.key,
            at=now,
        )
        site.home.kit_path.write_bytes(kit)

    @contextlib.contextmanager
    def serving(self) -> Iterator["Federation"]:
        """Serve, and stop the sites and the coordinator in the end."""
        self.start()
        try:
            yield self
        finally:
            for site in self.sites.values():
                site.stop()
            self.stop()

    def run(self, plan: RunPlan, timeout_s: float = PATIENCE_S) -> Run:
        """Offer a plan, have its sites approve it, and wait for its end; then all are honest."""
        assert self.coordinator is not None
        self.offer(plan, wait_s=30.0)
        for share in plan.sites:
            self.sites[share.name].decide(plan)
        self.wait(plan, timeout_s)
        for site in self.sites.values():
            site.trainer.be_honest()
        return self.coordinator.runs.get(plan.digest)

    def ask(
        self,
        site: Site,
        plan: RunPlan,
        *,
        kind: str = "train",
        server_round: int = 1,
        adapter: np.ndarray = INITIAL,
        lie: Lie = nothing,
        group_id: str = "1",
        timeout_s: float = 15.0,
    ) -> Message:
        """Send an instruction past strategy and plan; returns what comes back."""
        assert self.coordinator is not None
        engine = self.coordinator.engine
        node = engine.node_of(site.public_key)
        instruction = wire.Instruction(
            kind="train",
            plan=plan.digest,
            server_round=server_round,
            adapter=adapter,
        )
        content = lie(wire.write_instruction(instruction, plan))
        with engine.open_run(None, lambda: [node], 50_000) as grid:
            message = Message(content, node, kind, group_id=group_id)
            replies = list(grid.send_and_receive([message], timeout=timeout_s))
        engine.end_run(grid.run.run_id, completed=True)
        assert len(replies) == 1
        return replies[0]

    def moved(self, plan: RunPlan) -> np.ndarray:
        """What the newest adapter of a plan adds to the initial one, trained tensors only."""
        assert self.coordinator is not None
        run = self.coordinator.runs.get(plan.digest)
        packed = self.coordinator.registry.load(run.adapter, plan)
        return (packed - INITIAL)[-NUM_TRAINED:]

    def log(self) -> list[Entry]:
        """Every entry of the coordinator's log."""
        lines = (self.config.log_folder / "entries.jsonl").read_bytes().splitlines()
        return [parse_entry(line) for line in lines]

    def refusals(self) -> list[tuple[str, str]]:
        """Peers and rules of the calls that were refused at the door; strangers' are opened."""
        openings = Openings(self.config.openings_path).read()
        return [
            (
                entry.predicate.get("site") or open_entry(entry, openings)["peer"],
                entry.predicate["rule"],
            )
            for entry in self.log()
            if entry.event is Event.DOOR_REFUSED
        ]

    def offer(self, plan: RunPlan, wait_s: float = 0.0) -> None:
        """Offer a plan to the sites; once its quorum approved, wait for the others."""
        assert self.coordinator is not None
        self.coordinator.registry.release(plan.tensors, INITIAL, plan.adapter, plan.base.name)
        control(self.config, "Offer", plan=plan.canonical().decode(), wait_s=wait_s)

    def wait(self, plan: RunPlan, timeout_s: float = PATIENCE_S) -> RunState:
        """Wait until the run of a plan is over; returns how it ended."""
        return self.wait_for(
            plan,
            lambda run: run["state"] in ("finished", "failed", "stopped"),
            timeout_s,
        )

    def wait_for(
        self,
        plan: RunPlan,
        done: Callable[[Mapping[str, object]], bool],
        timeout_s: float = PATIENCE_S,
    ) -> RunState:
        """Wait until `done` holds for the run of a plan."""
        deadline = datetime.now(UTC) + timedelta(seconds=timeout_s)
        since, run = None, None
        while datetime.now(UTC) < deadline:
            found = control(self.config, "Status", since=since, wait_s=1.0)
            since = found["version"]
            run = next(run for run in found["runs"] if run["plan"] == plan.digest)
            if done(run):
                return RunState(run["state"])
        raise AssertionError(f"the run is not there yet after {timeout_s} s: {run}")

    def events(self) -> list[tuple[str, Event]]:
        """Everything in the coordinator's log: who, what."""
        lines = (self.config.log_folder / "entries.jsonl").read_bytes().splitlines()
        entries = [parse_entry(line) for line in lines]
        return [(entry.party, entry.event) for entry in entries]

    def rejections(self) -> list[tuple[str, str]]:
        """Sites and rules of the updates that the coordinator rejected."""
        lines = (self.config.log_folder / "entries.jsonl").read_bytes().splitlines()
        return [
            (entry.predicate["site"], entry.predicate["rule"])
            for entry in map(parse_entry, lines)
            if entry.event is Event.UPDATE_REJECTED
        ]


def _free_port() -> int:
    import socket

    with contextlib.closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
