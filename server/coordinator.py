"""The coordinator at work: roster, evidence log, runs and the engine, in one process.

The log has one writer. While the coordinator runs, it is that writer, and the commands `approve`,
`revoke`, `run`, `status` and `stop` speak to it over a socket file that only its owner can open.

What a crash leaves: every decision is on disk before it has an effect (roster, run store, log,
released adapter), so the next start goes on with the run at the first round that is not over.
"""

import contextlib
import json
import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import grpc
from flwr.app import Context, RecordDict
from flwr.serverapp import ServerApp

from model.tensors import Packed
from privacy import wire
from privacy.audit.entry import NAME, Event, format_time, parse_entry
from privacy.dp import calibrate
from privacy.errors import ConfigError, FederationError, ReplyRefusedError, VerificationError
from privacy.machine import runs_on
from privacy.pki.identity import SigningKey
from privacy.plan import RunPlan
from privacy.version import VERSION
from server.config import FederationConfig
from server.control import CONTROL_SERVICE, control_handler, control_path, personal
from server.engine import Engine, EngineGrid, StoppedError
from server.evidence import PARTY, Evidence
from server.registry import Registry
from server.roster import Roster
from server.runs import RoundResult, Run, RunState, RunStore
from server.status import status
from server.witnesses import Witnesses

# Refused calls of one peer and rule are written to the log this often; each is counted.
REFUSAL_LOG_S = 60.0
# The first round waits this long for approved sites that are not connected: after a restart of the
# coordinator they come back one by one.
REJOIN_S = 20.0


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
        roster: Roster,
        changed: Callable[[], None],
    ) -> None:
        self._plan = plan
        self._roster = roster
        self._store = store
        self._registry = registry
        self._evidence = evidence
        self._changed = changed
        self._accepted: dict[tuple[int, str], str] = {}
        self._over: dict[int, str | None] = {}
        self.started = False
        # Rounds and adapter of the newest entry that says the run is over.
        self.ended: tuple[int, str | None] | None = None
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
            if entry.event is Event.RUN_FINISHED:
                self.ended = entry.predicate["num_rounds"], entry.subjects.get("adapter")
            if entry.event is Event.UPDATE_ACCEPTED:
                place = (entry.predicate["server_round"], entry.predicate["site"])
                self._accepted[place] = entry.subjects["update"]
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
        plan, update = self._plan.digest, reply.update_digest
        # The roster is asked under the lock: a revocation is written there first and into the log
        # second, so no acceptance can come after its entry.
        with self._evidence.lock:
            if self._roster.active_site(site) is None:
                raise ReplyRefusedError("revoked", f"expected a site on the roster, got {site}")
            if self._evidence.sent_update(plan, server_round, site) != update:
                raise ReplyRefusedError(
                    "unlogged-update", f"expected {site} to log its update before it sends it"
                )
            # After a crash a site sends the same update again; the log has it once.
            earlier = self._accepted.get((server_round, site), update)
            if earlier != update:
                raise ReplyRefusedError("second-update", f"expected one update of {site} a round")
            if (server_round, site) in self._accepted:
                return
            self._evidence.record(
                Event.UPDATE_ACCEPTED,
                {"plan": plan, "update": update},
                run_id=self._plan.run_id,
                server_round=server_round,
                site=site,
                update_bytes=num_bytes,
            )
            self._accepted[server_round, site] = update
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


class _SigningKeys(Mapping[str, bytes]):
    """Signing keys of the plan's sites that are on the roster now."""

    def __init__(self, plan: RunPlan, roster: Roster) -> None:
        self._plan = plan
        self._roster = roster

    def __getitem__(self, site: str) -> bytes:
        enrolment = self._roster.active_site(site)
        if enrolment is None:
            raise KeyError(site)
        return enrolment.signing_key

    def __iter__(self) -> Iterator[str]:
        names = (share.name for share in self._plan.sites)
        return (name for name in names if self._roster.active_site(name) is not None)

    def __len__(self) -> int:
        return sum(1 for _ in self)


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
        self.witnesses = Witnesses(config, key.public_key, self.roster, self.evidence)
        self._awaiting_witnesses = ""
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
        for ended in self.runs.list():
            # A kill between the stop of a run and its cleanup left its updates in the database.
            if ended.state not in (RunState.OFFERED, RunState.RUNNING) and ended.flower_run_id:
                self.engine.end_run(ended.flower_run_id, completed=False)
        self.port = self.engine.start(self.config.listen, self._credentials)
        control = self._serve_control()
        try:
            self.evidence.record(Event.COORDINATOR_STARTED, **runs_on())
            ready(self.port)
            while not self._stopping.is_set():
                version = self._version
                run = self._next_run()
                if run is None:
                    self._wait_for_change(1.0, version)
                else:
                    self._execute(run)
        finally:
            control.stop(0.5).wait()
            self.engine.stop()
            self.runs.close()
            self.roster.close()
            self.evidence.log.close()
            self._forget_control()

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

    def _wait_for_change(self, timeout_s: float, version: int) -> None:
        """Wait until something is newer than `version`, read before what was decided upon."""
        with self._changed:
            if self._version == version:
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
        # A site that was shut out takes part in nothing, whatever it approved before.
        names = {s.name for s in run.plan.sites if self.roster.active_site(s.name) is not None}
        approved = set(run.approved) & names
        if len(approved) < run.plan.rounds.min_sites:
            return False
        if names <= approved | set(run.refused):
            return True
        since = self._quorum_at.setdefault(run.plan.digest, time.monotonic())
        return time.monotonic() - since >= self._waits.get(run.plan.digest, 60.0)

    def _participants(self, plan: RunPlan) -> dict[int, str]:
        """Nodes of the sites that approved the plan, are not revoked, and are connected."""
        approved = set(self.runs.get(plan.digest).approved) & {s.name for s in plan.sites}
        sites = {e.node_key: e.site for e in self.roster.list() if e.active and e.site in approved}
        return {self.engine.node_of(key): sites[key] for key in self.engine.online(sites)}

    def _await_participants(
        self, plan: RunPlan, grid: EngineGrid, wait_s: float
    ) -> dict[int, str]:
        """All that could take part, the quorum after `wait_s`, or who is there at the deadline."""
        began = time.monotonic()
        while True:
            version = self._version
            nodes = self._participants(plan)
            waited_s = time.monotonic() - began
            if len(nodes) >= plan.rounds.min_sites and (
                waited_s >= wait_s or len(nodes) == self._num_expected(plan)
            ):
                return nodes
            if waited_s >= plan.rounds.deadline_s or grid.is_stopped:
                return nodes
            self._wait_for_change(1.0, version)

    def _num_expected(self, plan: RunPlan) -> int:
        """How many sites approved the plan and are not revoked."""
        approved = self.runs.get(plan.digest).approved
        return sum(
            share.name in approved and self.roster.active_site(share.name) is not None
            for share in plan.sites
        )

    def _execute(self, run: Run) -> None:
        """Run a plan's rounds from the first that is not over, to the end or to `stop`."""
        plan = run.plan
        rounds = _Rounds(plan, self.runs, self.registry, self.evidence, self.roster, self._notify)
        with self.engine.open_run(
            run.flower_run_id,
            lambda: self._participants(plan),
            plan.exits.max_update_bytes,
        ) as grid:
            if not rounds.started:
                self.evidence.record(Event.RUN_STARTED, {"plan": plan.digest}, run_id=plan.run_id)
            self._current = (plan.digest, grid, rounds)
            self.runs.begin(plan.digest, grid.run.run_id)
            if self._stopping.is_set() or self.runs.get(plan.digest).state is RunState.STOPPED:
                grid.stop()
            self._notify()
            wait_s = [REJOIN_S]

            def participants() -> dict[int, str]:
                return self._await_participants(plan, grid, wait_s.pop() if wait_s else 0.0)

            app = self._build_app(
                plan=plan,
                initial=self.registry.load(plan.initial_adapter, plan),
                participants=participants,
                keys=_SigningKeys(plan, self.roster),
                rounds=rounds,
                registry=self.registry,
            )
            context = Context(
                run_id=grid.run.run_id,
                node_id=0,
                node_config={},
                state=RecordDict(),
                run_config={},
            )
            ending, reason = RunState.FINISHED, ""
            try:
                app(grid, context)
            except StoppedError as error:
                # Of the coordinator: the run goes on at the next start. Of the run: for good.
                if self.runs.get(plan.digest).state is RunState.RUNNING:
                    return
                ending, reason = RunState.STOPPED, str(error)
            except FederationError as error:
                ending, reason = RunState.FAILED, str(error)
            finally:
                self._current = None
        self._end(plan, rounds, ending, reason, grid.run.run_id)

    def _end(
        self, plan: RunPlan, rounds: _Rounds, state: RunState, reason: str, flower_run_id: int
    ) -> None:
        run = self.runs.get(plan.digest)
        num_rounds = sum(result.adapter is not None for result in run.rounds)
        # A crash behind this entry comes here again; the log says it once.
        if rounds.ended != (num_rounds, run.adapter):
            self.evidence.record(
                Event.RUN_FINISHED,
                {"plan": plan.digest, "adapter": run.adapter},
                run_id=plan.run_id,
                num_rounds=num_rounds,
            )
        # Update bytes go first: a crash before the next line cleans up once more.
        self.engine.end_run(flower_run_id, completed=state is RunState.FINISHED)
        if state is RunState.FINISHED and not self._witnessed(plan):
            return
        self.runs.end(plan.digest, state, reason)
        self._notify()

    def _witnessed(self, plan: RunPlan) -> bool:
        """Wait until the quorum has cosigned all that led to the adapter; False when stopped.

        An adapter whose history could still be told in two ways is not handed out.
        """
        size = self.evidence.log.size
        try:
            while not self.witnesses.covers(size):
                version = self._version
                if self._awaiting_witnesses != plan.digest:
                    self._awaiting_witnesses = plan.digest
                    self._notify()
                    continue
                if self._stopping.is_set():
                    return False
                if self.runs.get(plan.digest).state is not RunState.RUNNING:
                    return False
                self.engine.ring()
                self._wait_for_change(1.0, version)
        finally:
            self._awaiting_witnesses = ""
        return True

    # -- the door (called by the engine, for an authenticated site) ------------------------------

    def hello(self, site: str) -> Mapping[str, object]:
        """See `server.engine.Door`."""
        return {
            "federation": self.config.name,
            "site": site,
            "time": format_time(datetime.now(UTC)),
            "version": VERSION,
            # A site does not announce its key to a coordinator that would refuse the entry.
            "witness": True,
        }

    def plans(self, site: str) -> list[str]:
        """See `server.engine.Door`."""
        return [
            run.plan.canonical().decode()
            for run in self.runs.list()
            if run.state in (RunState.OFFERED, RunState.RUNNING)
            and any(share.name == site for share in run.plan.sites)
        ]

    def append(self, site: str, lines: list[bytes]) -> Mapping[str, object]:
        """See `server.engine.Door`.

        Raises:
          VerificationError: Malformed, not signed by this site, out of order, or not following
            from the log so far.
        """
        entries = [parse_entry(line) for line in lines]
        for entry in entries:
            if entry.party != site:
                raise VerificationError(f"expected an entry of {site}, got one of {entry.party}")
        receipts = self.evidence.extend(lines)
        for entry in entries:
            if entry.event in (Event.PLAN_APPROVED, Event.PLAN_REFUSED):
                approved = entry.event is Event.PLAN_APPROVED
                self.runs.decide(entry.subjects["plan"], site, approved=approved)
                self._notify()
            if entry.event is Event.WITNESS_ANNOUNCED:
                self.witnesses.write_policy()
        last = receipts[-1]
        return {
            "indices": [receipt.index for receipt in receipts],
            "size": last.size,
            "root": last.root.hex(),
            "checkpoint": last.checkpoint,
        }

    def outcome(self, site: str, plan_digest: str) -> Mapping[str, object]:
        """See `server.engine.Door`.

        Raises:
          ConfigError: No such plan was offered, or it is not this site's.
        """
        plan = self.runs.get(plan_digest).plan
        if all(share.name != site for share in plan.sites):
            raise ConfigError(f"expected a plan in which {site} takes part")
        return self.evidence.outcome(plan.run_id, site)

    def checkpoint(self, site: str, old_size: int) -> str:
        """See `server.engine.Door`."""
        return self.witnesses.ask(site, old_size)

    def cosigned(self, site: str, note: str) -> bool:
        """See `server.engine.Door`."""
        is_kept = self.witnesses.take(site, note)
        if is_kept and self._awaiting_witnesses:
            self._notify()
        return is_kept

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
        # An enrolled institution by name; a stranger's address may be a person's.
        if NAME.fits(peer):
            self.evidence.record(Event.DOOR_REFUSED, rule=rule, site=peer)
        else:
            self.evidence.record(Event.DOOR_REFUSED, personal={"peer": peer}, rule=rule)

    # -- control (called by the other commands, over the socket file) ----------------------------

    def _control_path(self) -> Path:
        return control_path(self.config)

    def _forget_control(self) -> None:
        """Remove what says where the commands reach us, that of a killed coordinator too."""
        path = self._control_path()
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            control_socket = Path(json.loads(path.read_text())["address"].removeprefix("unix:"))
            control_socket.unlink(missing_ok=True)
            control_socket.parent.rmdir()
        path.unlink(missing_ok=True)

    def _serve_control(self) -> grpc.Server:
        # A socket's path is at most 107 bytes, a folder's may be longer: so it lies in a folder of
        # its own (mode 0700), and the state folder says where.
        self._forget_control()
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
        handlers = {name: control_handler(behaviour) for name, behaviour in methods.items()}
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
        calibrate.check_mechanism(plan.mechanism, plan.rounds.num_rounds)
        # Every site's claim of what a round cost is computed again: better now than in the round.
        threading.Thread(
            target=calibrate.foresee,
            args=(plan.mechanism, plan.rounds.num_rounds, plan.mechanism.delta),
            name="accountant",
            daemon=True,
        ).start()
        self._waits[plan.digest] = float(request.get("wait_s", 60.0))
        if not self.runs.knows(plan):
            # The entry first: a site may decide on the plan as soon as it is offered, and a
            # decision must not precede the offer in the log.
            self.evidence.record(
                Event.PLAN_OFFERED,
                {"plan": plan.digest},
                personal=personal(request),
                plan=json.loads(plan.canonical()),
            )
            self.runs.offer(plan)
        self._notify()
        return {"plan": plan.digest, "without_key": self.witnesses.status()["without_key"]}

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
        active = {e.node_key: e.site for e in self.roster.list() if e.active}
        return status(self.config, self.roster, self.runs, self.evidence.log.size) | {
            "version": version,
            "online": sorted(active[key] for key in self.engine.online(active)),
            "evaluated": self._current[2].evaluated_sites if self._current else [],
            "port": self.port,
            "witnesses": self.witnesses.status(),
            "awaiting_witnesses": self._awaiting_witnesses,
        }

    def _control_stop(self, _request: Mapping[str, Any]) -> Mapping[str, object]:
        self.stop()
        return {}

    def _control_stop_run(self, request: Mapping[str, Any]) -> Mapping[str, object]:
        digest = str(request["plan"])
        run = self.runs.get(digest)
        if run.state not in (RunState.OFFERED, RunState.RUNNING):
            raise ConfigError(f"expected a run that is offered or running, got one {run.state}")
        self.runs.end(digest, RunState.STOPPED, "the run was stopped")
        current = self._current
        if current is not None and current[0] == digest:
            current[1].stop()
        self._notify()
        return {}

    def _control_enrolled(self, request: Mapping[str, Any]) -> Mapping[str, object]:
        enrolment = self.roster.active_site(str(request["site"]))
        if enrolment is None:
            raise ConfigError(f"expected an enrolled site, got {request['site']!r}")
        self.evidence.enrolled(enrolment, personal(request))
        self.witnesses.write_policy()
        self._notify()
        return {}

    def _control_revoked(self, request: Mapping[str, Any]) -> Mapping[str, object]:
        self.evidence.record(
            Event.SITE_REVOKED, personal=personal(request), site=str(request["site"])
        )
        self.witnesses.write_policy()
        self._notify()
        return {}
