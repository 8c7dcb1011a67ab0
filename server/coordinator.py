"""The coordinator at work: roster, evidence log, runs and the engine, in one process.

The log has one writer. While the coordinator runs, it is that writer, and the commands `approve`,
`revoke`, `run`, `status` and `stop` speak to it over a socket file that only its owner can open.

What a crash leaves: every decision is on disk before it has an effect (roster, run store, log,
released adapter), so the next start goes on with the run at the first round that is not over.
"""

import json
import os
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import grpc
from flwr.app import Context, RecordDict
from flwr.serverapp import ServerApp

from model.tensors import Packed
from privacy import wire
from privacy.audit.entry import Event, format_time, make_entry, parse_entry
from privacy.audit.keys import PartyKey, Role
from privacy.audit.log import Log
from privacy.errors import ConfigError, FederationError, VerificationError
from privacy.pki.identity import SigningKey
from privacy.plan import RunPlan
from privacy.version import VERSION
from server.config import FederationConfig
from server.engine import Engine
from server.registry import Registry
from server.roster import Enrolment, Roster
from server.runs import RoundResult, Run, RunState, RunStore

Answer = Any  # JSON
PARTY = "coordinator"
CONTROL_SERVICE = "cloister.Control"
# Refused calls of one peer and rule are written to the log this often; each is counted.
REFUSAL_LOG_S = 60.0


class Evidence:
    """The coordinator's entries, each signed and in the log before the call returns."""

    def __init__(self, config: FederationConfig, key: SigningKey) -> None:
        self._key = key
        self._lock = threading.Lock()
        own = PartyKey(party=PARTY, role=Role.COORDINATOR, public_key=key.public_key)
        self.log = Log(config.log_folder, key, f"cloister/{config.name}", [own])

    def record(
        self,
        event: Event,
        subjects: Mapping[str, str] | None = None,
        **fields: object,
    ) -> None:
        """Sign one entry and append it durably."""
        with self._lock:
            line = make_entry(
                self._key,
                PARTY,
                event,
                sequence=self.log.next_sequence(self._key.key_id),
                at=datetime.now(UTC),
                subjects=subjects,
                predicate=fields,
            )
            self.log.append(line)

    def enrolled(self, enrolment: Enrolment) -> None:
        """A site was let in: its key signs from now on."""
        self.log.add_party(
            PartyKey(party=enrolment.site, role=Role.SITE, public_key=enrolment.signing_key)
        )
        self.record(
            Event.SITE_ENROLLED,
            site=enrolment.site,
            signing_key=enrolment.signing_key.hex(),
            certificate_serial=enrolment.certificate_serial,
            num_units=enrolment.num_units,
        )


class _Rounds:
    """The memory of one run's rounds: what stands in the log has happened, nothing else.

    A released adapter is written to the registry first, then the entry that names it; a crash in
    between leaves a folder that the repeated round names again or that nobody ever names.
    """

    def __init__(
        self,
        plan: RunPlan,
        store: RunStore,
        registry: Registry,
        evidence: Evidence,
        changed: Callable[[], None],
    ) -> None:
        self._plan = plan
        self._store = store
        self._registry = registry
        self._evidence = evidence
        self._changed = changed
        self._accepted: set[tuple[int, str]] = set()
        self._over: dict[int, str | None] = {}
        self.started = False
        self.evaluated_sites: list[str] = []
        self._read_log()

    def _read_log(self) -> None:
        """Learn from the log what had happened before a crash, and mend the run store by it."""
        known = {r.server_round for r in self._store.get(self._plan.digest).rounds}
        for line in self._evidence.log.lines():
            entry = parse_entry(line)
            if entry.party != PARTY or entry.subjects.get("plan") != self._plan.digest:
                continue
            if entry.event is Event.RUN_STARTED:
                self.started = True
            if entry.event is Event.UPDATE_ACCEPTED:
                self._accepted.add((entry.predicate["server_round"], entry.predicate["site"]))
            if entry.event in (Event.ADAPTER_RELEASED, Event.ROUND_FAILED):
                server_round = entry.predicate["server_round"]
                self._over[server_round] = entry.subjects.get("adapter")
                if server_round not in known:
                    num_updates = entry.predicate.get("num_updates")
                    if num_updates is None:
                        num_updates = len(entry.predicate["sites"])
                    self._remember(server_round, num_updates, 0.0)

    def _remember(self, server_round: int, num_updates: int, seconds: float) -> None:
        result = RoundResult(
            server_round=server_round,
            adapter=self._over[server_round],
            num_updates=num_updates,
            seconds=seconds,
        )
        self._store.end_round(self._plan.digest, result)
        self._changed()

    def finished_round(self, server_round: int) -> tuple[bool, Packed | None]:
        """See `server.strategy.RoundLog`."""
        if server_round not in self._over:
            return False, None
        adapter = self._over[server_round]
        return True, None if adapter is None else self._registry.load(adapter, self._plan)

    def accepted(self, server_round: int, site: str, reply: wire.Reply, num_bytes: int) -> None:
        """See `server.strategy.RoundLog`."""
        # After a crash a site sends the same update again; the log has it once.
        if (server_round, site) in self._accepted:
            return
        self._accepted.add((server_round, site))
        self._evidence.record(
            Event.UPDATE_ACCEPTED,
            {"plan": self._plan.digest, "update": reply.update_digest},
            run_id=self._plan.run_id,
            server_round=server_round,
            site=site,
            update_bytes=num_bytes,
        )
        self._changed()

    def rejected(self, server_round: int, site: str, rule: str) -> None:
        """See `server.strategy.RoundLog`."""
        self._evidence.record(
            Event.UPDATE_REJECTED,
            {"plan": self._plan.digest},
            run_id=self._plan.run_id,
            server_round=server_round,
            site=site,
            rule=rule,
        )
        self._changed()

    def released(
        self, server_round: int, adapter: Packed, sites: list[str], seconds: float
    ) -> None:
        """See `server.strategy.RoundLog`."""
        plan = self._plan
        digest = self._registry.release(plan.tensors, adapter, plan.adapter, plan.base.name)
        self._evidence.record(
            Event.ADAPTER_RELEASED,
            {"plan": plan.digest, "adapter": digest},
            run_id=plan.run_id,
            server_round=server_round,
            sites=sites,
        )
        self._over[server_round] = digest
        self._remember(server_round, len(sites), seconds)

    def failed(self, server_round: int, num_updates: int, seconds: float) -> None:
        """See `server.strategy.RoundLog`."""
        self._evidence.record(
            Event.ROUND_FAILED,
            {"plan": self._plan.digest},
            run_id=self._plan.run_id,
            server_round=server_round,
            num_updates=num_updates,
        )
        self._over[server_round] = None
        self._remember(server_round, num_updates, seconds)

    def evaluated(self, server_round: int, site: str) -> None:
        """See `server.strategy.RoundLog`."""
        self.evaluated_sites.append(site)
        self._changed()


class Coordinator:
    """Everything that `cloister-coordinator start` runs.

    Args:
      config: `federation.toml`.
      key: The coordinator's signing key.
      credentials: Of its TLS certificate.
      build_app: Makes the ServerApp of a run.
    """

    def __init__(
        self,
        config: FederationConfig,
        key: SigningKey,
        credentials: grpc.ServerCredentials,
        build_app: Callable[..., ServerApp],
    ) -> None:
        self.config = config
        self._credentials = credentials
        self._build_app = build_app
        self.roster = Roster(config.roster_path)
        self.runs = RunStore(config.state_folder / "runs.sqlite")
        self.registry = Registry(config.adapters_folder)
        self.evidence = Evidence(config, key)
        self.engine = Engine(
            config.state_folder / "flower.sqlite",
            self.roster,
            self,
            max_workers=config.num_threads,
        )
        self._changed = threading.Condition()
        self._version = 0
        self._stopping = threading.Event()
        self._waits: dict[str, float] = {}
        self._quorum_at: dict[str, float] = {}
        self._refusals: dict[tuple[str, str], float] = {}
        self._current: tuple[str, Any, _Rounds] | None = None
        self.port = 0

    # -- life ----------------------------------------------------------------------------------

    def serve(self, ready: Callable[[int], None]) -> None:
        """Serve until `stop` is called; `ready` gets the port once sites can connect."""
        self.port = self.engine.start(self.config.listen, self._credentials)
        control = self._serve_control()
        try:
            ready(self.port)
            while not self._stopping.is_set():
                run = self._next_run()
                if run is None:
                    self._wait_for_change(1.0)
                else:
                    self._execute(run)
        finally:
            control.stop(0.5).wait()
            self.engine.stop()
            self.runs.close()
            self.roster.close()
            self.evidence.log.close()
            self._control_path().unlink(missing_ok=True)

    def stop(self) -> None:
        """End serving; a run in progress goes on at the next start."""
        self._stopping.set()
        current = self._current
        if current is not None:
            current[1].stop()
        self._notify()

    def _notify(self) -> None:
        with self._changed:
            self._version += 1
            self._changed.notify_all()

    def _wait_for_change(self, timeout_s: float) -> None:
        with self._changed:
            self._changed.wait(timeout_s)

    # -- runs ----------------------------------------------------------------------------------

    def _next_run(self) -> Run | None:
        """A run to execute: one that a crash interrupted, else an offered one with its quorum."""
        runs = self.runs.list()
        for run in runs:
            if run.state is RunState.RUNNING:
                return run
        for run in runs:
            if run.state is RunState.OFFERED and self._may_start(run):
                return run
        return None

    def _may_start(self, run: Run) -> bool:
        """Whether the quorum has approved, and the others have decided or had time to."""
        names = {share.name for share in run.plan.sites}
        approved = set(run.approved) & names
        if len(approved) < run.plan.rounds.min_sites:
            return False
        if names <= approved | set(run.refused):
            return True
        since = self._quorum_at.setdefault(run.plan.digest, time.monotonic())
        return time.monotonic() - since >= self._waits.get(run.plan.digest, 60.0)

    def _participants(self, plan: RunPlan) -> dict[int, str]:
        """Nodes of the sites that approved the plan, are not revoked, and are connected."""
        approved = set(self.runs.get(plan.digest).approved)
        nodes = {}
        for share in plan.sites:
            enrolment = self.roster.active_site(share.name)
            if share.name not in approved or enrolment is None:
                continue
            if self.engine.is_online(enrolment.node_key):
                nodes[self.engine.node_of(enrolment.node_key)] = share.name
        return nodes

    def _await_participants(self, plan: RunPlan) -> dict[int, str]:
        """The participants, once they are enough for the quorum or the round's deadline passed."""
        deadline = time.monotonic() + plan.rounds.deadline_s
        while True:
            nodes = self._participants(plan)
            enough = len(nodes) >= plan.rounds.min_sites
            if enough or time.monotonic() >= deadline or self._stopping.is_set():
                return nodes
            self._wait_for_change(1.0)

    def _execute(self, run: Run) -> None:
        """Run a plan's rounds from the first that is not over, to the end or to `stop`."""
        plan = run.plan
        rounds = _Rounds(plan, self.runs, self.registry, self.evidence, self._notify)
        with self.engine.open_run(
            run.flower_run_id,
            lambda: self._participants(plan),
            plan.exits.max_update_bytes,
        ) as grid:
            if not rounds.started:
                self.evidence.record(Event.RUN_STARTED, {"plan": plan.digest}, run_id=plan.run_id)
            self.runs.begin(plan.digest, grid.run.run_id)
            self._current = (plan.digest, grid, rounds)
            self._notify()
            app = self._build_app(
                plan=plan,
                initial=self.registry.load(plan.initial_adapter, plan),
                participants=lambda: self._await_participants(plan),
                keys=self._keys(plan),
                rounds=rounds,
            )
            context = Context(
                run_id=grid.run.run_id,
                node_id=0,
                node_config={},
                state=RecordDict(),
                run_config={},
            )
            try:
                app(grid, context)
            except FederationError as error:
                self._end(plan, RunState.FAILED, str(error), grid.run.run_id)
                return
            finally:
                self._current = None
        if self._stopping.is_set():
            return
        if self.runs.get(plan.digest).state is RunState.RUNNING:
            self._end(plan, RunState.FINISHED, "", grid.run.run_id)

    def _end(self, plan: RunPlan, state: RunState, reason: str, flower_run_id: int) -> None:
        run = self.runs.get(plan.digest)
        num_rounds = sum(result.adapter is not None for result in run.rounds)
        self.evidence.record(
            Event.RUN_FINISHED,
            {"plan": plan.digest, "adapter": run.adapter},
            run_id=plan.run_id,
            num_rounds=num_rounds,
        )
        self.runs.end(plan.digest, state, reason)
        self.engine.end_run(flower_run_id, completed=state is RunState.FINISHED)
        self._notify()

    def _keys(self, plan: RunPlan) -> dict[str, bytes]:
        active = {e.site: e.signing_key for e in self.roster.list() if e.active}
        return {share.name: active[share.name] for share in plan.sites if share.name in active}

    # -- the door (called by the engine, for an authenticated site) ------------------------------

    def hello(self, site: str) -> Mapping[str, object]:
        """See `server.engine.Door`."""
        return {
            "federation": self.config.name,
            "site": site,
            "time": format_time(datetime.now(UTC)),
            "version": VERSION,
        }

    def plans(self, site: str) -> list[str]:
        """See `server.engine.Door`."""
        return [
            run.plan.canonical().decode()
            for run in self.runs.list()
            if run.state in (RunState.OFFERED, RunState.RUNNING)
            and any(share.name == site for share in run.plan.sites)
        ]

    def append(self, site: str, envelope: bytes) -> Mapping[str, object]:
        """See `server.engine.Door`.

        Raises:
          VerificationError: Malformed, not signed by this site, or out of order.
        """
        entry = parse_entry(envelope)
        enrolment = self.roster.active_site(site)
        if entry.party != site or enrolment is None:
            raise VerificationError(f"expected an entry of {site}, got one of {entry.party}")
        receipt = self.evidence.log.append(envelope)
        if entry.event in (Event.PLAN_APPROVED, Event.PLAN_REFUSED):
            self.runs.decide(
                entry.subjects["plan"], site, approved=entry.event is Event.PLAN_APPROVED
            )
        self._notify()
        return {
            "index": receipt.index,
            "size": receipt.size,
            "root": receipt.root.hex(),
            "checkpoint": receipt.checkpoint,
        }

    def connected(self) -> None:
        """See `server.engine.Door`."""
        self._notify()

    def refused(self, peer: str, rule: str) -> None:
        """See `server.engine.Door`. A flood of refusals must not fill the disk."""
        now = time.monotonic()
        with self._changed:
            last = self._refusals.get((peer, rule), -REFUSAL_LOG_S)
            if now - last < REFUSAL_LOG_S:
                return
            if len(self._refusals) >= 4096:
                self._refusals.clear()
            self._refusals[peer, rule] = now
        self.evidence.record(Event.DOOR_REFUSED, rule=rule, peer=peer)

    # -- control (called by the other commands, over the socket file) ----------------------------

    def _control_path(self) -> Path:
        return control_path(self.config)

    def _serve_control(self) -> grpc.Server:
        # A socket's path is at most 107 bytes, a folder's may be longer: so it lies in a folder of
        # its own (mode 0700), and the state folder says where.
        folder = tempfile.mkdtemp(prefix="cloister-")
        address = f"unix:{folder}/control"
        server = grpc.server(ThreadPoolExecutor(max_workers=8, thread_name_prefix="control"))
        methods = {
            "Offer": self._control_offer,
            "Status": self._control_status,
            "Stop": self._control_stop,
            "StopRun": self._control_stop_run,
            "Enrolled": self._control_enrolled,
            "Revoked": self._control_revoked,
        }
        handlers = {name: _control_handler(behaviour) for name, behaviour in methods.items()}
        generic = grpc.method_handlers_generic_handler(CONTROL_SERVICE, handlers)
        server.add_generic_rpc_handlers((generic,))
        credentials = grpc.local_server_credentials(grpc.LocalConnectionType.UDS)
        server.add_secure_port(address, credentials)
        server.start()
        path = self._control_path()
        partial = path.with_suffix(".next")
        partial.write_text(json.dumps({"address": address, "pid": os.getpid()}))
        partial.chmod(0o600)
        partial.replace(path)
        return server

    def _control_offer(self, request: Mapping[str, Any]) -> Mapping[str, object]:
        plan = RunPlan.parse(str(request["plan"]).encode())
        if plan.federation != self.config.name:
            raise ConfigError(f"expected a plan of {self.config.name}, got {plan.federation}")
        for share in plan.sites:
            enrolment = self.roster.active_site(share.name)
            if enrolment is None:
                raise ConfigError(
                    f"expected enrolled sites, got {share.name}",
                    hint="cloister-coordinator status lists the sites that are enrolled",
                )
        self.registry.load(plan.initial_adapter, plan)
        self._waits[plan.digest] = float(request.get("wait_s", 60.0))
        if not self.runs.knows(plan):
            # The entry first: a site may decide on the plan as soon as it is offered, and a
            # decision must not precede the offer in the log.
            self.evidence.record(
                Event.PLAN_OFFERED, {"plan": plan.digest}, plan=json.loads(plan.canonical())
            )
            self.runs.offer(plan)
        self._notify()
        return {"plan": plan.digest}

    def _control_status(self, request: Mapping[str, Any]) -> Mapping[str, object]:
        """The state of everything, at once or when it differs from version `since`."""
        deadline = time.monotonic() + min(float(request.get("wait_s", 0.0)), 30.0)
        with self._changed:
            while self._version == request.get("since") and not self._stopping.is_set():
                left = deadline - time.monotonic()
                if left <= 0:
                    break
                self._changed.wait(left)
            version = self._version
        return status(self.config, self.roster, self.runs, self.evidence.log.size) | {
            "version": version,
            "online": [
                e.site
                for e in self.roster.list()
                if e.active and self.engine.is_online(e.node_key)
            ],
            "evaluated": self._current[2].evaluated_sites if self._current else [],
            "port": self.port,
        }

    def _control_stop(self, _request: Mapping[str, Any]) -> Mapping[str, object]:
        self.stop()
        return {}

    def _control_stop_run(self, request: Mapping[str, Any]) -> Mapping[str, object]:
        digest = str(request["plan"])
        run = self.runs.get(digest)
        if run.state not in (RunState.OFFERED, RunState.RUNNING):
            raise ConfigError(f"expected a run that is offered or running, got one {run.state}")
        self.runs.end(digest, RunState.STOPPED, "stopped by the coordinator")
        current = self._current
        if current is not None and current[0] == digest:
            current[1].stop()
        self._notify()
        return {}

    def _control_enrolled(self, request: Mapping[str, Any]) -> Mapping[str, object]:
        enrolment = self.roster.active_site(str(request["site"]))
        if enrolment is None:
            raise ConfigError(f"expected an enrolled site, got {request['site']!r}")
        self.evidence.enrolled(enrolment)
        self._notify()
        return {}

    def _control_revoked(self, request: Mapping[str, Any]) -> Mapping[str, object]:
        self.evidence.record(Event.SITE_REVOKED, site=str(request["site"]))
        self._notify()
        return {}


def control_path(config: FederationConfig) -> Path:
    """The file that says where the running coordinator can be spoken to."""
    return config.state_folder / "control.json"


def control(
    config: FederationConfig, method: str, timeout_s: float = 60.0, **request: object
) -> Any:
    """Call the running coordinator.

    Returns:
      Its answer, None when no coordinator runs.

    Raises:
      ConfigError: It refuses the request.
    """
    try:
        address = json.loads(control_path(config).read_text())["address"]
    except (OSError, ValueError, KeyError):
        return None
    credentials = grpc.local_channel_credentials(grpc.LocalConnectionType.UDS)
    with grpc.secure_channel(address, credentials) as channel:
        call = channel.unary_unary(f"/{CONTROL_SERVICE}/{method}")
        try:
            answer = json.loads(call(json.dumps(request).encode(), timeout=timeout_s))
        except grpc.RpcError as error:
            if error.code() is grpc.StatusCode.UNAVAILABLE:
                return None
            raise ConfigError(f"the coordinator answered: {error.details()}") from None
    if "error" in answer:
        raise ConfigError(answer["error"], hint=answer["hint"])
    return answer["result"]


def _control_handler(
    behaviour: Callable[[Mapping[str, Any]], Mapping[str, object]],
) -> grpc.RpcMethodHandler:
    def call(raw: bytes, _context: grpc.ServicerContext) -> bytes:
        try:
            return json.dumps({"result": behaviour(json.loads(raw))}).encode()
        except FederationError as error:
            return json.dumps({"error": str(error), "hint": error.hint}).encode()

    return grpc.unary_unary_rpc_method_handler(call)


def status(
    config: FederationConfig, roster: Roster, runs: RunStore, log_entries: int
) -> dict[str, object]:
    """Sites and runs as JSON can carry them."""
    return {
        "federation": config.name,
        "address": config.address,
        "log_entries": log_entries,
        "sites": [
            {
                "site": e.site,
                "active": e.active,
                "num_units": e.num_units,
                "enrolled_at": format_time(e.enrolled_at),
            }
            for e in roster.list()
        ],
        "runs": [
            {
                "run": run.plan.run,
                "plan": run.plan.digest,
                "state": run.state,
                "reason": run.reason,
                "num_rounds": run.plan.rounds.num_rounds,
                "min_sites": run.plan.rounds.min_sites,
                "sites": [share.name for share in run.plan.sites],
                "approved": list(run.approved),
                "refused": list(run.refused),
                "rounds": [
                    {
                        "server_round": r.server_round,
                        "adapter": r.adapter,
                        "num_updates": r.num_updates,
                        "seconds": round(r.seconds, 3),
                    }
                    for r in run.rounds
                ],
                "adapter": run.adapter,
            }
            for run in runs.list()
        ],
    }
