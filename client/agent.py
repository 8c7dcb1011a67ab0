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

The private names of Flower are met here and in `server/engine.py` only; flwr is pinned, and a
contract test imports each.
"""

import json
import os
import re
import secrets
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Final

import grpc
from flwr.app import Context, Error, Message, RecordDict
from flwr.app.message import remove_content_from_message
from flwr.clientapp import ClientApp
from flwr.common.serde import (
    message_from_proto,
    message_to_proto,
    recorddict_from_proto,
    recorddict_to_proto,
)
from flwr.proto import fleet_pb2, fleet_pb2_grpc, heartbeat_pb2, message_pb2, recorddict_pb2
from flwr.proto.node_pb2 import Node
from flwr.supercore.inflatable.inflatable_object import (
    get_all_nested_objects,
    get_object_tree,
    iterate_object_tree,
    no_object_id_recompute,
)
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents

from client import tracers
from client.curve import Point, as_results, is_due
from client.home import SiteHome, file_digest
from client.witness import BadAnswers, SiteWitness, check_stopped
from client.worker import Feed, Worker, WorkerFailedError, WorkerTimeoutError
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
from privacy.masking.canaries import num_clean, num_planted
from privacy.masking.figures import parse_over_masking, parse_recalls
from privacy.plan import RunPlan
from privacy.version import VERSION

CALL_S: Final = 30.0
# Longer than the coordinator holds a call open, so that the answer always comes first.
PULL_S: Final = 45.0
END_S: Final = 5.0
HEARTBEAT_S: Final = 8.0
HEARTBEAT_INTERVAL_S: Final = 10.0
MAX_PAUSE_S: Final = 15.0
MAX_OBJECTS: Final = 256
MAX_INSTRUCTION_BYTES: Final = 1024 * 1024 * 1024
REFUSED_CODE: Final = 1
_HEADER: Final = struct.Struct("!Q")
_GROUP: Final = re.compile(r"[0-9]{1,9}")

# Flower's protobuf classes carry no types that a checker could use.
Proto = Any
Say = Callable[[Mapping[str, object]], None]


class Link:
    """The calls to the coordinator, over one channel.

    Raises (every method):
      TransportError: The coordinator cannot be reached, or the call failed on the way.
      VerificationError: It does not let this site in, any more or at all.
      ConfigError: It refused what was sent.
    """

    def __init__(self, channel: grpc.Channel) -> None:
        self._channel = channel
        self._fleet = fleet_pb2_grpc.FleetStub(channel)
        self._node = Node()
        self._pulling: Proto = None

    def cancel_pull(self) -> None:
        """End a `pull` that waits in another thread; it returns None."""
        if self._pulling is not None:
            self._pulling.cancel()

    def close(self) -> None:
        """Close the connection."""
        self._channel.close()

    def hello(self) -> Mapping[str, Any]:
        """Federation, time and version of the coordinator."""
        answer: Mapping[str, Any] = self._door("Hello", b"{}")
        return answer

    def plans(self) -> list[RunPlan]:
        """Plans that are offered to this site or run with it."""
        return [RunPlan.parse(text.encode()) for text in self._door("Plans", b"{}")["plans"]]

    def append(self, lines: Sequence[bytes]) -> list[int]:
        """Put entries into the log, in their order; returns their places in it."""
        return [int(index) for index in self._door("Append", b"\n".join(lines))["indices"]]

    def checkpoint(self, old_size: int) -> str:
        """A request to cosign what the log became since it had `old_size` entries, or empty."""
        return str(self._door("Checkpoint", str(old_size).encode())["request"])

    def cosign(self, note: str) -> bool:
        """Hand over a cosignature; False when another checkpoint is asked for by now."""
        return bool(self._door("Cosign", note.encode())["kept"])

    def activate(self, public_key: bytes) -> None:
        """Come online as this site's node."""
        registered = self._call(
            self._fleet.RegisterNode, fleet_pb2.RegisterNodeFleetRequest(public_key=public_key)
        )
        self._node = Node(node_id=registered.node_id)
        self._call(
            self._fleet.ActivateNode,
            fleet_pb2.ActivateNodeRequest(
                public_key=public_key, heartbeat_interval=HEARTBEAT_INTERVAL_S
            ),
        )

    def deactivate(self) -> None:
        """Go offline, so that no round waits for this site."""
        self._call(
            self._fleet.DeactivateNode,
            fleet_pb2.DeactivateNodeRequest(node_id=self._node.node_id),
        )

    def heartbeat(self) -> None:
        """Stay online."""
        self._call(
            self._fleet.SendNodeHeartbeat,
            heartbeat_pb2.SendNodeHeartbeatRequest(
                node=self._node, heartbeat_interval=HEARTBEAT_INTERVAL_S
            ),
        )

    def pull(self) -> tuple[Message, int] | None:
        """The next instruction and its size in bytes; None when there is none for a while.

        Objects that make no message come back as one without records, so that it is refused and
        answered like any other that breaks a rule.
        """
        self._pulling = self._fleet.PullMessages.future(
            fleet_pb2.PullMessagesRequest(node=self._node), timeout=PULL_S
        )
        try:
            answer = self._call(lambda *_, **__: self._pulling.result(), None)
        except grpc.FutureCancelledError:
            return None
        if not answer.messages_list:
            return None
        try:
            announced, tree = answer.messages_list[0], answer.message_object_trees[0]
            bare = message_from_proto(announced)
        except wire.UNREADABLE as error:
            raise ConfigError(
                f"expected an announced instruction, got {type(error).__name__}"
            ) from None
        object_ids = [node.object_id for node in iterate_object_tree(tree)]
        if len(object_ids) > MAX_OBJECTS:
            raise ConfigError(
                f"expected an instruction of at most {MAX_OBJECTS} objects, got {len(object_ids)}"
            )
        run_id = announced.metadata.run_id
        requests = [
            message_pb2.PullObjectRequest(node=self._node, run_id=run_id, object_id=object_id)
            for object_id in object_ids
        ]
        contents: dict[str, bytes] = {}
        num_bytes = 0
        pulls = self._together(self._fleet.PullObject, requests)
        for object_id, pulled in zip(object_ids, pulls, strict=True):
            num_bytes += len(pulled.object_content)
            if not pulled.object_available or num_bytes > MAX_INSTRUCTION_BYTES:
                raise TransportError("expected every object of an instruction, within the limit")
            contents[object_id] = pulled.object_content
        self._call(
            self._fleet.ConfirmMessageReceived,
            message_pb2.ConfirmMessageReceivedRequest(
                node=self._node, run_id=run_id, message_object_id=tree.object_id
            ),
        )
        try:
            message = inflate_object_from_contents(tree.object_id, contents)
        except wire.UNREADABLE:
            return bare, num_bytes
        if not isinstance(message, Message):
            return bare, num_bytes
        message.metadata.__dict__["_message_id"] = announced.metadata.message_id
        return message, num_bytes

    def push(self, reply: Message) -> int:
        """Send a reply; returns its size in bytes once the coordinator has all of it."""
        with no_object_id_recompute():
            reply.metadata.__dict__["_message_id"] = reply.object_id
            objects = get_all_nested_objects(reply)
            answer = self._call(
                self._fleet.PushMessages,
                fleet_pb2.PushMessagesRequest(
                    node=self._node,
                    messages_list=[message_to_proto(remove_content_from_message(reply))],
                    message_object_trees=[get_object_tree(reply)],
                ),
            )
            requests = [
                message_pb2.PushObjectRequest(
                    node=self._node,
                    run_id=reply.metadata.run_id,
                    object_id=object_id,
                    object_content=objects[object_id].deflate(),
                    session_id=answer.session_id,
                )
                for object_id in answer.objects_to_push
            ]
        for stored in self._together(self._fleet.PushObject, requests):
            if not stored.stored:
                raise TransportError("the coordinator did not keep a part of the reply")
        return sum(len(request.object_content) for request in requests)

    def _together(self, method: Proto, requests: Sequence[Proto]) -> Iterator[Proto]:
        """The answers to several calls of one method that are on their way at once, in order."""
        sending = [method.future(request, timeout=CALL_S) for request in requests]
        for waiting in sending:
            yield self._call(lambda *_, answer=waiting, **__: answer.result(), None)

    def _door(self, method: str, request: bytes) -> Proto:
        call = self._channel.unary_unary(f"/cloister.Door/{method}")
        return json.loads(self._call(call, request))

    def _call(self, method: Proto, request: Proto, *, timeout_s: float = CALL_S) -> Proto:
        try:
            return method(request, timeout=timeout_s)
        except grpc.RpcError as error:
            code, details = error.code(), str(error.details() or "")[:200]
            if code is grpc.StatusCode.UNAUTHENTICATED:
                raise VerificationError(
                    f"the coordinator does not let this site in: {details}",
                    hint="ask the coordinator whether the site was revoked or must renew",
                ) from None
            if code in (
                grpc.StatusCode.UNAVAILABLE,
                grpc.StatusCode.DEADLINE_EXCEEDED,
                grpc.StatusCode.CANCELLED,
                grpc.StatusCode.UNKNOWN,
                grpc.StatusCode.INTERNAL,
            ):
                raise TransportError(
                    f"the coordinator cannot be reached: {code.name.lower()}",
                    hint="cloister-site check says what is wrong with the connection",
                ) from None
            raise ConfigError(f"the coordinator refused a call: {details}") from None


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
        self._journal.record(Event.AGENT_STARTED, version=VERSION)
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
        content = recorddict_from_proto(recorddict_pb2.RecordDict.FromString(kept[0]))
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
            kept = recorddict_to_proto(signed).SerializeToString(deterministic=True)
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
        request = self._request(plan, message_to_proto(message))
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
            (size,) = _HEADER.unpack(answer[: _HEADER.size])
            local = dict(json.loads(answer[_HEADER.size : _HEADER.size + size]))
            proto = message_pb2.Message.FromString(answer[_HEADER.size + size :])
            content = recorddict_from_proto(proto.content)
            if instruction.kind == "evaluate":
                local["results"] = dict(local["results"])
            self._note_start(plan, local)
        except (*wire.UNREADABLE, struct.error) as error:
            # Its text may be a record's.
            raise ReplyRefusedError(
                "malformed", f"expected a reply of the ClientApp, got {type(error).__name__}"
            ) from None
        return local, content

    def _request(self, plan: RunPlan, message: Proto, **more: object) -> bytes:
        """What the child is asked: a message, and what it needs to know of this site."""
        header = json.dumps(
            {
                "site_config": str(self._home.config_path),
                "site_config_digest": self._config_digest,
                "plan": plan.canonical().decode(),
                "holdout_key": self._holdout_key.hex(),
                **self._surrogate_key(plan),
                **self._exposure_key(plan),
                **more,
            }
        ).encode()
        sent: bytes = message.SerializeToString()
        return _HEADER.pack(len(header)) + header + sent

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
        proto = message_to_proto(message)
        proto.metadata.message_type = "query"
        try:
            if server_round in {p.server_round for p in self._journal.points(plan.digest)}:
                return
            self._tell(state="working", stage="measuring", server_round=instruction.server_round)
            # Between batches it gives up by itself, and stays warm for the next round.
            request = self._request(plan, proto, measure_s=left_s / 2)
            answer = self._worker.call(request, timeout_s=left_s, on_progress=lambda _: None)
            (size,) = _HEADER.unpack(answer[: _HEADER.size])
            said = json.loads(answer[_HEADER.size : _HEADER.size + size])["point"]
            if said is None:
                raise TrainingError("no unit is held out here")  # noqa: TRY301  one way out
            digest = packed_digest(plan.tensors, instruction.adapter)
            point = Point.of(said, server_round=server_round, adapter=digest)
            self._journal.keep_point(plan.digest, point)
        except (TrainingError, ConfigError, *wire.UNREADABLE, struct.error) as error:
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
        recall = _checked_recall(plan, local["canaries"])
        over_masking = _checked_over_masking(plan, local["over_masking"])
        self._journal.record(
            Event.DATA_MASKED,
            {"plan": plan.digest, "canaries": plan.canaries},
            entity_types=list(plan.masking.entity_types),
            recall=recall,
            over_masking=over_masking,
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
        """Write what was measured on the held-out units; it stays in the site's folder."""
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


def _checked_recall(plan: RunPlan, rows: Sequence[Sequence[object]]) -> list[list[object]]:
    """The child's figures of planted examples, which go into the log.

    Only how many it found is the child's to say: a figure that records could have a part in must
    not leave.

    Raises:
      ValueError: It was asked for other examples, or says that too few were found.
    """
    recalls = parse_recalls(rows)
    masking = plan.masking
    expected = num_planted(masking.languages, masking.entity_types)
    said = [((recall.entity_type, recall.source), recall.num_planted) for recall in recalls]
    if said != sorted(expected.items()):
        raise ValueError("expected recall of the plan's planted examples")
    if any(recall.share < masking.recall_floor for recall in recalls):
        raise ValueError("expected recall above the plan's floor")
    return [recall.as_list() for recall in recalls]


def _checked_over_masking(plan: RunPlan, rows: Sequence[Sequence[object]]) -> list[list[object]]:
    """The child's figures of clean sentences, which go into the log like those of recall.

    Raises:
      ValueError: It was asked for other sentences, or says that it masked too many.
    """
    figures = parse_over_masking(rows)
    said = [(figure.source, figure.num_clean) for figure in figures]
    if said != sorted(num_clean(plan.masking.languages).items()):
        raise ValueError("expected over-masking of the plan's clean sentences")
    if any(figure.share > plan.masking.max_over_masking for figure in figures):
        raise ValueError("expected over-masking below the plan's ceiling")
    return [figure.as_list() for figure in figures]


def make_worker(
    home: SiteHome, program: str = "client.child", *, reads_records: bool = True
) -> Worker:
    """The child process of a site: `client.child`, without keys and network.

    Args:
      home: The site's folder.
      program: The module that runs in it.
      reads_records: False stands nobody beside it who reads a database for it.
    """
    config = home.config()
    threads = str(config.compute.threads)
    package_root = str(Path(__file__).resolve().parent.parent)
    return Worker(
        [sys.executable, "-m", program],
        environment={
            "OMP_NUM_THREADS": threads,
            "MKL_NUM_THREADS": threads,
            "OPENBLAS_NUM_THREADS": threads,
            "PYTHONPATH": package_root,
        },
        hide=[home.keys_folder],
        memory_limit_mb=config.compute.memory_limit_mb,
        demand=("keys_hidden", "network_forbidden") if config.compute.require_sandbox else (),
        writable=[],
        feed=_make_feed(home, package_root) if reads_records else None,
    )


def _make_feed(home: SiteHome, package_root: str) -> Feed | None:
    """Who reads a database for the training process, which may open no connection."""
    data = home.config().data
    if not data.needs_network:
        return None
    environment = {"PYTHONPATH": package_root}
    name = getattr(data, "password_env", "")
    if name:
        environment[name] = os.environ.get(name, "")
    program = (sys.executable, "-m", "client.connectors.feed", str(home.config_path.resolve()))
    return Feed(argv=program, environment=environment)


def answer(
    app: ClientApp, listened: Callable[..., AbstractContextManager[None]]
) -> Callable[[bytes, Say], bytes]:
    """In the child: a function that answers the agent's requests with a ClientApp.

    Args:
      app: The installed ClientApp.
      listened: `client.progress.listened`.
    """

    def handle(request: bytes, report: Say) -> bytes:
        (size,) = _HEADER.unpack(request[: _HEADER.size])
        header = json.loads(request[_HEADER.size : _HEADER.size + size])
        message = message_from_proto(
            message_pb2.Message.FromString(request[_HEADER.size + size :])
        )
        context = Context(
            run_id=message.metadata.run_id,
            node_id=message.metadata.dst_node_id,
            node_config=header,
            state=RecordDict(),
            run_config={},
        )
        with listened(report):
            reply = app(message, context)
        local = str(context.state.config_records["local"]["json"]).encode()
        sent: bytes = message_to_proto(reply).SerializeToString()
        return _HEADER.pack(len(local)) + local + sent

    return handle
