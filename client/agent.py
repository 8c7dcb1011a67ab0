"""The institution's door: instructions in, updates out, nothing else.

The agent holds the keys and imports no torch. It opens one outbound connection and listens
nowhere. It executes nothing that the coordinator sends: an instruction is data, checked field by
field against a plan that a person here approved, and handed to the installed ClientApp in a child
process without keys and network. What comes back is checked against the same plan before it is
signed, and it is kept before it is sent.

One round, in this order; each step is durable before the next:

1. The instruction fits an approved plan, or it is answered with the name of the rule it breaks.
2. A round that was done is answered with the same bytes.
3. The ledger reserves the round. A crash from here on leaves it spent.
4. The child trains, up to the time limit; it is killed with its children at the limit.
5. The reply fits the plan; it is signed and kept.
6. The ledger commits the digest of the update, the journal says so, then the update leaves.
7. Only now, and in time that the round has left, the child may measure the adapter that the round
   began with. What comes of it stays here; what fails costs a point of a curve, and the next
   round its start where the child dies of it.

"""

import json
import re
import secrets
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, Final

import grpc
from flwr.app import Error, Message, RecordDict

from client import tracers
from client.curve import Point, as_results, is_due
from client.framing import frame, unframe
from client.home import SiteHome, file_digest
from client.link import (
    Link,
    read_content,
    read_records,
    write_message,
    write_records,
)
from client.room import make_worker
from client.witness import BadAnswers, SiteWitness, check_stopped
from client.worker import Worker, WorkerFailedError, WorkerTimeoutError
from model.tensors import Packed, packed_digest, write_adapter_folder
from privacy import wire
from privacy.audit.entry import Event
from privacy.dp import calibrate
from privacy.dp.ledger import Reservation
from privacy.errors import (
    BudgetExceededError,
    ConfigError,
    FederationError,
    InstructionRefusedError,
    OwnNotesError,
    PlanRefusedError,
    ReplyRefusedError,
    TrainingError,
    TransportError,
    VerificationError,
)
from privacy.machine import runs_on
from privacy.masking.canaries import check_said
from privacy.masking.figures import parse_over_masking, parse_recalls
from privacy.plan import RunPlan

END_S: Final = 5.0
HEARTBEAT_S: Final = 8.0
MAX_PAUSE_S: Final = 15.0
REFUSED_CODE: Final = 1
_GROUP: Final = re.compile(r"[0-9]{1,9}")

Say = Callable[[Mapping[str, object]], None]


class Agent:
    """The agent of one site.

    Args:
      home: The site's folder.
      say: Told of everything that happens, as numbers and short names.
      worker: Runs the ClientApp; the default is a child process of this module.
    """

    def __init__(self, home: SiteHome, say: Say, worker: Worker | None = None) -> None:
        self._home = home
        self._say = say
        self._config = home.config()
        # The child reads the file again; it must be the one that this ledger was opened by.
        self._config_digest = file_digest(home.config_path)
        self._site = self._config.site.name
        self._key = home.signing_key()
        self._kit = home.kit()
        self._journal = home.journal()
        self._ledger = home.ledger()
        self._holdout_key = home.holdout_key()
        self._worker = worker or make_worker(home)
        self._stopping = threading.Event()
        self._status: dict[str, object] = {"site": self._site, "state": "starting"}
        self._noted_start: tuple[int | None, str] | None = None
        self._foreseen: set[str] = set()
        # Which child trained, and how long it took; plans whose rounds are not measured any more.
        self._trained: tuple[int | None, float] = (None, 0.0)
        self._unmeasured: set[str] = set()
        self._link: Link | None = None
        self._witness: SiteWitness | None = None
        self._bad = BadAnswers()
        # Why no work may go on, from the thread that cosigns.
        self._stopped_by: FederationError | None = None
        self._telling = threading.Lock()

    def stop(self) -> None:
        """End after the call in progress; a round in progress is abandoned, and stays spent."""
        self._stopping.set()
        if self._link is not None:
            self._link.cancel_pull()
        self._worker.stop()

    def run(self) -> None:
        """Serve until `stop`; connects again for as long as it takes.

        Raises:
          VerificationError: The coordinator does not let this site in, or its log does not hold
            together and nobody has decided yet.
        """
        check_stopped(self._home)
        self._journal.check_ledger(self._ledger)
        # Its libraries take seconds to load: let them, while this site connects and waits.
        self._worker.start()
        threading.Thread(target=calibrate.load, name="accountant", daemon=True).start()
        self._journal.record(Event.AGENT_STARTED, **runs_on(self._config.compute.device))
        pause_s = 0.0
        try:
            while not self._stopping.is_set():
                try:
                    self._serve(self._home.channel())
                    pause_s = 0.0
                except TransportError as error:
                    if self._stopping.is_set():
                        break
                    # Jitter: sites that lost the same coordinator must not return in step.
                    pause_s = min(MAX_PAUSE_S, max(0.5, pause_s * 2))
                    jitter = secrets.SystemRandom().uniform(0.8, 1.2)
                    self._tell(state="waiting", reason=str(error), retry_s=round(pause_s, 1))
                    self._stopping.wait(pause_s * jitter)
        finally:
            self._worker.stop()
            self._journal.close()
            self._tell(state="stopped")
        self._check_witness()

    # -- connection ----------------------------------------------------------------------------

    def _serve(self, channel: grpc.Channel) -> None:
        """One connection, until it breaks or the agent stops."""
        link = Link(channel)
        ended = threading.Event()
        beating = threading.Thread(
            target=self._beat, args=(link, ended), name="heartbeat", daemon=True
        )
        witnessing: threading.Thread | None = None
        try:
            hello = link.hello()
            if hello.get("federation") != self._kit.federation:
                raise VerificationError(
                    f"expected federation {self._kit.federation}, got another one"
                )
            if hello.get("witness"):
                witnessing = self._start_witness(link)
            elif self._journal.newest(Event.WITNESS_ANNOUNCED) is not None:
                self._make_witness().is_not_asked()
            self._flush(link)
            link.activate(self._public_key())
            self._link = link
            beating.start()
            if witnessing is not None:
                # Not before the log has the key.
                witnessing.start()
            self._tell(state="connected")
            while not self._stopping.is_set():
                self._flush(link)
                pulled = link.pull()
                self._check_witness()
                if pulled is not None:
                    self._handle(link, *pulled)
                elif self._witness is not None:
                    # The coordinator lets a waiting call return where a checkpoint is waited for.
                    self._witness.wake(now=True)
            link.deactivate()
        finally:
            self._link = None
            ended.set()
            if self._witness is not None:
                self._witness.end()
                self._witness = None
            if witnessing is not None and witnessing.ident is not None:
                witnessing.join(timeout=END_S)
            if beating.ident is not None:
                beating.join(timeout=1.0)
            link.close()

    def _start_witness(self, link: Link) -> threading.Thread:
        """Announce the witness's key; returns the thread that will cosign over this connection."""
        witness = self._make_witness()
        witness.announce()
        if witness.seen.size:
            # Before anything else is said to it: a log that went back would refuse what is sent
            # now for reasons that hide the true one.
            witness.step(link)
        self._witness = witness
        return threading.Thread(
            target=witness.watch, args=(link, self._stop_by), name="witness", daemon=True
        )

    def _make_witness(self) -> SiteWitness:
        return SiteWitness(self._home, self._kit, self._journal, self._tell, self._bad)

    def _stop_by(self, error: FederationError) -> None:
        """Take no further work: the coordinator's log does not hold together."""
        self._stopped_by = error
        self._tell(state="stopped", reason=str(error))
        self.stop()

    def _check_witness(self) -> None:
        if self._stopped_by is not None:
            raise self._stopped_by

    def _flush(self, link: Link) -> None:
        """Send what the log does not have yet, before anything that it speaks of leaves."""
        self._check_witness()
        if self._journal.flush(link.append) and self._witness is not None:
            self._witness.wake()

    def _beat(self, link: Link, ended: threading.Event) -> None:
        while not ended.wait(HEARTBEAT_S):
            try:
                link.heartbeat()
            except TransportError:
                # The main loop may be training for long, and the line be back before it looks.
                continue
            except FederationError:
                # The main loop meets the same fault on its next call, and deals with it.
                return

    def _public_key(self) -> bytes:
        from privacy.pki.authority import load_tls_key, public_der

        return public_der(load_tls_key(self._home.tls_key_path))

    # -- one instruction -----------------------------------------------------------------------

    def _handle(self, link: Link, message: Message, num_bytes: int) -> None:
        """Answer one instruction: with the reply, or with the rule that was broken."""
        self._journal.count_traffic(down=num_bytes)
        try:
            plan, instruction = self._let_in(message)
        except InstructionRefusedError as error:
            self._refuse(link, message, Event.INSTRUCTION_REFUSED, error.rule)
            return
        try:
            kept = self._journal.get(plan.digest, instruction.kind, instruction.server_round)
            if kept is None:
                self._do(link, plan, instruction, message)
            self._settle(plan, instruction)
        except (InstructionRefusedError, ReplyRefusedError) as error:
            event = (
                Event.INSTRUCTION_REFUSED
                if isinstance(error, InstructionRefusedError)
                else Event.REPLY_REFUSED
            )
            self._refuse(link, message, event, error.rule, plan)
            return
        kept = self._journal.get(plan.digest, instruction.kind, instruction.server_round)
        if kept is None:
            raise ConfigError("expected a kept reply, got none")
        self._flush(link)
        content = read_records(kept[0])
        try:
            sent_bytes = link.push(Message(content, reply_to=message))
        except ConfigError as error:
            # The round is over, or another instruction for it is on its way.
            self._tell(state="connected", reason=str(error))
            return
        self._journal.mark_sent(plan.digest, instruction.kind, instruction.server_round)
        up, down = self._journal.count_traffic(up=sent_bytes)
        if instruction.kind == "evaluate":
            results = json.loads(self._home.results_path.read_text(encoding="utf-8"))
            results |= {"bytes_up": up, "bytes_down": down}
            self._home.write_json(self._home.results_path, results)
        self._tell(
            state="connected",
            stage="sent",
            kind=instruction.kind,
            server_round=instruction.server_round,
            bytes_up=up,
            bytes_down=down,
        )
        if instruction.kind == "train" and plan.digest not in self._foreseen:
            self._foreseen.add(plan.digest)
            threading.Thread(
                target=self._ledger.foresee,
                args=(plan, plan.run_id),
                name="accountant",
                daemon=True,
            ).start()
        if instruction.kind == "train":
            self._measure(plan, instruction, message)

    def _let_in(self, message: Message) -> tuple[RunPlan, wire.Instruction]:
        """The instruction, if it fits a plan that this site approved.

        Raises:
          InstructionRefusedError: With the rule that it breaks.
        """
        if not message.has_content():
            raise InstructionRefusedError("unexpected-records", "expected an instruction")
        digest = wire.instruction_plan(message.content)
        plan = self._journal.approved_plan(digest)
        if plan is None:
            raise InstructionRefusedError(
                "unapproved-plan", "expected a plan that this site approved"
            )
        return plan, wire.read_instruction(message.content, message.metadata.message_type, plan)

    def _do(
        self, link: Link, plan: RunPlan, instruction: wire.Instruction, message: Message
    ) -> None:
        """Train or evaluate in the child, check what comes back, sign it, keep it.

        Raises:
          InstructionRefusedError: The budget, or a round that was committed before.
          ReplyRefusedError: The child failed, took too long, or its reply does not fit; or the
            plan's tracers are no longer those of earlier rounds.
        """
        try:
            # Before anything is spent: a platform without protection trains nothing.
            self._worker.start()
        except (TrainingError, ConfigError) as error:
            self._tell(state="connected", stage="failed", reason=str(error))
            raise ReplyRefusedError("training-failed", str(error)) from error
        reservation = None
        if instruction.kind == "train":
            self._add_tracers(plan)
            reservation = self._reserve(plan, instruction.server_round)
            # The log takes the reservation before a record is read: what it refuses is not done.
            self._flush(link)
        try:
            local, content = self._ask(plan, instruction, message)
            reply = wire.read_reply(
                content,
                kind=instruction.kind,
                server_round=instruction.server_round,
                site=self._site,
                plan=plan,
            )
            signed = wire.write_reply(wire.sign_reply(reply, self._key), plan)
            # What leaves is what was checked: the records are written anew, not passed through.
            kept = write_records(signed)
            if len(kept) > plan.exits.max_update_bytes:
                raise ReplyRefusedError(  # noqa: TRY301  one rule of the door among many
                    "byte-bound",
                    f"expected at most {plan.exits.max_update_bytes} bytes, got {len(kept)}",
                )
        except ReplyRefusedError as error:
            if reservation is not None and error.rule != "stopped":
                # The coordinator learns that this attempt failed, which may depend on the noise
                # and on who was drawn. A second attempt would be a second release for one spend.
                self._ledger.commit(reservation, wire.NO_UPDATE)
            raise
        if instruction.kind == "evaluate":
            self._keep_results(plan, instruction, local)
        self._journal.put(
            plan.digest, instruction.kind, instruction.server_round, reply.update_digest, kept
        )

    def _add_tracers(self, plan: RunPlan) -> None:
        """Say once, before anything is trained, which tracers this site adds to its units.

        Raises:
          ReplyRefusedError: Their key is another one than in earlier rounds: a later look for
            their secrets would look for what nobody trained, and find nothing.
        """
        if not plan.exposure.tracers:
            return
        said = self._journal.about(Event.TRACERS_ADDED, plan.digest)
        try:
            key = self._home.exposure_key(make=not said)
        except ConfigError as error:
            self._tell(state="connected", stage="failed", reason=str(error))
            raise ReplyRefusedError("tracers-changed", str(error)) from error
        digest = tracers.digest(tracers.make_tracers(key, plan, self._site, num_secrets=1))
        if not said:
            self._journal.record(
                Event.TRACERS_ADDED,
                {"plan": plan.digest, "tracers": digest},
                num_tracers=plan.exposure.tracers,
            )
        elif said[0].subjects["tracers"] != digest:
            reason = f"expected the key in {self._home.exposure_key_path} as in earlier rounds"
            self._tell(state="connected", stage="failed", reason=reason)
            raise ReplyRefusedError("tracers-changed", reason)

    def _reserve(self, plan: RunPlan, server_round: int) -> Reservation:
        """Reserve the round in the ledger and say so, before a record is read.

        Raises:
          InstructionRefusedError: Rule `budget`, or one of the ledger's.
        """
        try:
            reservation = self._ledger.reserve(plan, plan.run_id, server_round)
        except BudgetExceededError as error:
            self._journal.record(
                Event.BUDGET_REFUSED,
                {"plan": plan.digest},
                asked=min(error.asked, 1e9),
                spent=error.spent,
                budget=error.budget,
            )
            raise InstructionRefusedError("budget", str(error)) from error
        except PlanRefusedError as error:
            raise InstructionRefusedError("ledger-terms", str(error)) from error
        if self._journal.find(Event.BUDGET_RESERVED, plan.digest, server_round) is None:
            self._journal.record(
                Event.BUDGET_RESERVED, {"plan": plan.digest}, **self._spend(plan, reservation)
            )
        return reservation

    def _spend(self, plan: RunPlan, reservation: Reservation) -> dict[str, object]:
        """A reservation as an entry says it."""
        event = reservation.event
        rounds = {
            entry.server_round
            for entry in self._ledger.entries()
            if entry.run == (plan.digest, plan.run_id)
        }
        run = calibrate.run_event(plan.mechanism, len(rounds))
        return {
            "run_id": plan.run_id,
            "server_round": reservation.server_round,
            "noise_multiplier": event.noise_multiplier,
            "sample_rate": event.sample_rate,
            "num_steps": event.num_steps,
            "delta": reservation.delta,
            "epsilon_run": calibrate.epsilon([run], plan.mechanism.delta),
            "epsilon_total": reservation.epsilon_total,
            "budget_epsilon": reservation.budget_epsilon,
            "prior": [[e.noise_multiplier, e.sample_rate, e.num_steps] for e in reservation.prior],
        }

    def _settle(self, plan: RunPlan, instruction: wire.Instruction) -> None:
        """Commit a kept update and say so; after a crash, only what had not been done.

        Raises:
          InstructionRefusedError: The ledger says that another update was committed.
        """
        server_round = instruction.server_round
        kept = self._journal.get(plan.digest, instruction.kind, server_round)
        if kept is None:
            raise ConfigError("expected a kept reply, got none")
        digest = kept[1]
        if instruction.kind == "evaluate":
            if self._journal.find(Event.EVALUATED, plan.digest, server_round) is None:
                self._journal.record(
                    Event.EVALUATED,
                    {
                        "plan": plan.digest,
                        "adapter": packed_digest(plan.tensors, instruction.adapter),
                    },
                    run_id=plan.run_id,
                    server_round=server_round,
                )
            return
        if self._ledger.is_committed(plan.digest, plan.run_id, server_round):
            self._check_committed(plan, server_round, digest)
        else:
            reservation = self._reserve(plan, server_round)
            reserved = self._journal.find(Event.BUDGET_RESERVED, plan.digest, server_round)
            if reserved is None:
                raise ConfigError("expected an entry of the reservation, got none")
            subjects = {"plan": plan.digest, "update": digest}
            # The entry first: a crash between the two commits again, and the entry is there once.
            if self._journal.find(Event.BUDGET_COMMITTED, plan.digest, server_round) is None:
                self._journal.record(Event.BUDGET_COMMITTED, subjects, **reserved.predicate)
            self._ledger.commit(reservation, digest)
            self._tell(
                stage="committed",
                server_round=server_round,
                epsilon=round(float(reserved.predicate["epsilon_total"]), 4),
                epsilon_run=round(float(reserved.predicate["epsilon_run"]), 4),
                budget=reservation.budget_epsilon,
                delta=reservation.delta,
            )
        if self._journal.find(Event.UPDATE_SENT, plan.digest, server_round) is None:
            self._journal.record(
                Event.UPDATE_SENT,
                {"plan": plan.digest, "update": digest},
                run_id=plan.run_id,
                server_round=server_round,
                update_bytes=len(kept[0]),
            )

    def _check_committed(self, plan: RunPlan, server_round: int, digest: str) -> None:
        """Check that the ledger names the update that is kept.

        Raises:
          InstructionRefusedError: It names another: a copy of the journal was put back.
        """
        key = (plan.digest, plan.run_id, server_round)
        for entry in self._ledger.entries():
            if entry.key == key and entry.update_digest != digest:
                raise InstructionRefusedError(
                    "second-update", f"expected the update that round {server_round} committed"
                )

    def _ask(
        self, plan: RunPlan, instruction: wire.Instruction, message: Message
    ) -> tuple[dict[str, Any], RecordDict]:
        """Have the child do the work; returns what stays here, and the records that may leave.

        Raises:
          ReplyRefusedError: Rule `deadline`, `stopped`, `training-failed` or `malformed`.
        """
        request = self._request(plan, write_message(message))
        limit_s = self._limit_s(plan)
        if instruction.kind == "evaluate":
            # Training alone, for comparison, is a whole run, and the base is measured too.
            limit_s = self._config.compute.round_limit_s * (plan.rounds.num_rounds + 2)
        self._tell(
            state="working",
            stage="starting",
            kind=instruction.kind,
            server_round=instruction.server_round,
            num_rounds=plan.rounds.num_rounds,
        )
        begun = time.monotonic()
        try:
            answer = self._worker.call(
                request, timeout_s=limit_s, on_progress=lambda progress: self._tell(**progress)
            )
            if instruction.kind == "train":
                self._trained = (self._worker.pid, time.monotonic() - begun)
        except TrainingError as error:
            if isinstance(error, WorkerFailedError) and error.rule == OwnNotesError.__name__:
                # Own notes are records: no entry may follow from them, not even a refusal. A
                # person has to look, and a round that was reserved may be asked for again.
                self._tell(state="stopped", stage="failed", reason=str(error))
                raise OwnNotesError(
                    f"masking falls short on this site's own labelled notes: {error}",
                    hint=error.hint,
                ) from None
            rule = "deadline" if isinstance(error, WorkerTimeoutError) else "training-failed"
            if self._stopping.is_set():
                rule = "stopped"
            self._tell(state="connected", stage="failed", reason=str(error))
            raise ReplyRefusedError(rule, str(error)) from error
        try:
            local, sent = unframe(answer)
            content = read_content(sent)
            if instruction.kind == "evaluate":
                local["results"] = dict(local["results"])
            self._note_start(plan, local)
        except wire.UNREADABLE as error:
            # Its text may be a record's.
            raise ReplyRefusedError(
                "malformed", f"expected a reply of the ClientApp, got {type(error).__name__}"
            ) from None
        return local, content

    def _request(self, plan: RunPlan, message: bytes, **more: object) -> bytes:
        """What the child is asked: a message, and what it needs to know of this site."""
        header = {
            "site_config": str(self._home.config_path),
            "site_config_digest": self._config_digest,
            "plan": plan.canonical().decode(),
            "holdout_key": self._holdout_key.hex(),
            **self._surrogate_key(plan),
            **self._exposure_key(plan),
            **more,
        }
        return frame(header, message)

    def _limit_s(self, plan: RunPlan) -> float:
        """Seconds that a round may take here."""
        return min(plan.rounds.deadline_s, self._config.compute.round_limit_s)

    def _measure(self, plan: RunPlan, instruction: wire.Instruction, message: Message) -> None:
        """Measure the adapter that a round began with, whose update has left.

        It may take half of what the round had left, because the next one waits for it, and what
        fails once is not tried again before the agent starts anew. A crash here leaves a round
        without a point: nothing else is owed for it. A child that dies of it has to load and mask
        anew, in the time of the next round.
        """
        server_round = instruction.server_round - 1
        child, trained_s = self._trained
        left_s = (self._limit_s(plan) - trained_s) / 2
        if not is_due(server_round, self._config.evaluation.every):
            return
        # A child that did not train has nothing in memory, and would mask all records for this.
        if plan.digest in self._unmeasured or child != self._worker.pid or left_s <= 0:
            return
        try:
            if server_round in {p.server_round for p in self._journal.points(plan.digest)}:
                return
            self._tell(state="working", stage="measuring", server_round=instruction.server_round)
            # Between batches it gives up by itself, and stays warm for the next round.
            query = write_message(message, kind="query")
            request = self._request(plan, query, measure_s=left_s / 2)
            answer = self._worker.call(request, timeout_s=left_s, on_progress=lambda _: None)
            said = unframe(answer)[0]["point"]
            if said is None:
                raise TrainingError("no record is held out here")  # noqa: TRY301  one way out
            digest = packed_digest(plan.tensors, instruction.adapter)
            point = Point.of(said, server_round=server_round, adapter=digest)
            self._journal.keep_point(plan.digest, point)
        except (TrainingError, ConfigError, *wire.UNREADABLE) as error:
            self._unmeasured.add(plan.digest)
            # Only our own errors' texts are free of records.
            is_ours = isinstance(error, FederationError)
            reason = str(error) if is_ours else type(error).__name__
            if not self._stopping.is_set():
                self._tell(state="connected", stage="not_measured", reason=reason)
            return
        self._tell(state="connected", stage="measured", **_newest(point))

    def _note_start(self, plan: RunPlan, local: Mapping[str, Any]) -> None:
        """Say once a child and plan that it masked the records and passed its self-test."""
        start = (self._worker.pid, plan.digest)
        if start == self._noted_start or "masking" not in local:
            return
        # Only how many it found is the child's to say: a figure that records could have a part in
        # must not leave. A plan with another set than this version's is not approved here.
        recalls = parse_recalls(local["canaries"])
        figures = parse_over_masking(local["over_masking"])
        check_said(recalls, figures, plan.masking)
        self._journal.record(
            Event.DATA_MASKED,
            {"plan": plan.digest, "canaries": plan.canaries},
            entity_types=list(plan.masking.entity_types),
            recall=[recall.as_list() for recall in recalls],
            over_masking=[figure.as_list() for figure in figures],
            commitment=self._journal.commit_to(local["masking"]),
        )
        self._journal.record(Event.SELF_TEST_PASSED, {"plan": plan.digest})
        # Last: what could not be written is written at the next answer, or no update may leave.
        self._noted_start = start

    def _surrogate_key(self, plan: RunPlan) -> dict[str, str]:
        """The key for the child, where the plan needs it."""
        if plan.masking.mode != "surrogate":
            return {}
        return {"surrogate_key": self._home.surrogate_key().secret.hex()}

    def _exposure_key(self, plan: RunPlan) -> dict[str, str]:
        """The key for the child, where the plan needs it.

        Without it the child measures and does not train: a site that missed every round has none.
        """
        if not plan.exposure.tracers:
            return {}
        try:
            return {"exposure_key": self._home.exposure_key().hex()}
        except ConfigError:
            return {}

    def _keep_results(
        self, plan: RunPlan, instruction: wire.Instruction, local: Mapping[str, Any]
    ) -> None:
        """Write what was measured on the held-out records; it stays in the site's folder."""
        spent = self._ledger.spent()
        up, down = self._journal.count_traffic()
        digest = packed_digest(plan.tensors, instruction.adapter)
        self._keep_adapter(plan, instruction.adapter, digest)
        results, every = dict(local["results"]), self._config.evaluation.every
        if (said := results.pop("point", None)) is not None:
            try:
                point = Point.of(said, server_round=plan.rounds.num_rounds, adapter=digest)
            except wire.UNREADABLE as error:
                # The run's end must not hang on it.
                self._tell(stage="not_measured", reason=type(error).__name__)
            else:
                # A crash behind this line measures it again, and keeps one.
                self._journal.keep_point(plan.digest, point)
                self._tell(**_newest(point))
        self._home.write_json(
            self._home.results_path,
            {
                "site": self._site,
                "run": plan.run,
                "plan": plan.digest,
                "adapter": digest,
                **results,
                **as_results(self._journal.points(plan.digest), every),
                "epsilon": spent.epsilon,
                "delta": spent.delta,
                "unit": str(spent.unit),
                "bytes_up": up,
                "bytes_down": down,
            },
        )

    def _keep_adapter(self, plan: RunPlan, adapter: Packed, digest: str) -> None:
        """Write the run's last adapter, to use it and to test it; all parties have it."""
        self._home.adapters_folder.mkdir(mode=0o700, exist_ok=True)
        folder = self._home.adapter_folder(digest)
        try:
            write_adapter_folder(folder, plan.tensors, adapter, plan.adapter, plan.base.name)
        except OSError as error:
            raise ReplyRefusedError(
                "adapter-not-kept", f"cannot write {folder}: {type(error).__name__}"
            ) from error

    def _refuse(
        self, link: Link, message: Message, event: Event, rule: str, plan: RunPlan | None = None
    ) -> None:
        """Say in the log which rule was broken, and tell the coordinator its name, no more."""
        group = message.metadata.group_id
        self._journal.record(
            event,
            {} if plan is None else {"plan": plan.digest},
            rule=rule,
            server_round=int(group) if _GROUP.fullmatch(group) else 0,
        )
        self._tell(state="connected", stage="refused", rule=rule)
        self._flush(link)
        error = Error(code=REFUSED_CODE, reason=rule)
        try:
            link.push(Message(error, reply_to=message))
        except ConfigError as refused:
            self._tell(state="connected", reason=str(refused))

    def _tell(self, **news: object) -> None:
        """Update status.json and tell whoever watches."""
        with self._telling:
            self._status.update(news, at=round(time.time(), 3))
            self._home.write_json(self._home.status_path, self._status)
            self._say({"site": self._site, **news})


def _newest(point: Point) -> dict[str, object]:
    """A measurement as this site's own status says it; it goes nowhere else."""
    return {
        "measured_round": point.server_round,
        "held_out_loss": round(point.loss, 4),
        "held_out_accuracy": round(point.accuracy, 4),
        "held_out_measured": point.num_examples,
    }
