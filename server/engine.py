"""Flower's Fleet service on mutual-TLS gRPC, with every caller bound to its certificate.

Flower is embedded as a library: its handlers, LinkState and ObjectStore do the work; this file
decides who may call them.

1. A call is answered only for a certificate whose key stands in the roster as an active site. The
   roster is read for every call, so a revocation acts at once, on open connections too.
2. A request is bounded by its method's limit before it is parsed.
3. A caller acts for its own node only: the node id in a request, and the sender of a message, must
   be the caller's.
4. A caller pulls only objects of instructions that were addressed to it, pushes only objects of
   replies that it announced, and never more bytes than the running plan allows.
5. No app bundle is ever served.

`EngineGrid` is an ordinary Flower Grid on the same state: what runs on it need not know who
serves.

The private names of Flower are met here and in `client/link.py` only; flwr is pinned, and a
contract test imports each.
"""

import contextlib
import json
import os
import queue
import re
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

import grpc
from flwr.app import Message, RecordDict
from flwr.app.message import remove_content_from_message
from flwr.common.constant import NOOP_ACCOUNT_NAME, NOOP_FLWR_AID, SUPERLINK_NODE_ID, SubStatus
from flwr.common.serde import message_from_proto
from flwr.proto import fleet_pb2, heartbeat_pb2, message_pb2
from flwr.server.superlink.linkstate import LinkState, LinkStateFactory
from flwr.serverapp import Grid
from flwr.supercore.constant import NOOP_FEDERATION_ID, TaskType
from flwr.supercore.error import FlowerError
from flwr.supercore.inflatable.inflatable_object import (
    get_all_nested_objects,
    get_object_id,
    get_object_tree,
    iterate_object_tree,
    no_object_id_recompute,
)
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents
from flwr.supercore.object_store import NoObjectInStoreError, ObjectStoreFactory
from flwr.supercore.run import Run
from flwr.supercore.sql_mixin import SqlMixin
from flwr.supercore.task_identity import TaskIdentity
from flwr.superlink.federation import NoOpFederationManager
from flwr.superlink.servicer.fleet import fleet_handlers

from privacy import transit, wire
from privacy.errors import FederationError, WireError
from server.roster import Roster

FLEET_SERVICE = "flwr.proto.Fleet"
DOOR_SERVICE = "cloister.Door"
# Flower's protobuf classes and gRPC's contexts carry no types that a checker could use.
Proto = Any
# Long enough that an idle site asks three times a minute, short enough for proxies that cut silent
# calls.
LONG_POLL_S = 20.0
# A waiting call looks at the roster this often, so that a revocation reaches it too.
ROSTER_CHECK_S = 1.0
TASK_HEARTBEAT_S = 10.0
SMALL_REQUEST_BYTES = 64 * 1024
MAX_OBJECTS_PER_MESSAGE = 256
# A site that lost the line announces its reply again; more often than this is none of ours.
MAX_ANNOUNCEMENTS = 16
# Objects of a reply are written together: each write alone takes as long as all of them.
MAX_HELD_BYTES = 8 * 1024 * 1024
# Entries of one round go together; one entry is at most 2 MB.
MAX_APPEND_BYTES = 4 * 1024 * 1024
_OBJECT_OVERHEAD_BYTES = 64 * 1024
_DIGEST = re.compile(rb"sha256:[0-9a-f]{64}")
_SIZE = re.compile(rb"0|[1-9][0-9]{0,14}")


class Door(Protocol):
    """What the coordinator does with the calls that are not Flower's."""

    def hello(self, site: str) -> Mapping[str, object]:
        """Who the coordinator is and what time it has."""

    def plans(self, site: str) -> list[str]:
        """Canonical texts of the plans that await this site's decision or run."""

    def append(self, site: str, lines: list[bytes]) -> Mapping[str, object]:
        """Append signed entries of the site to the log, all or none, and return the receipt."""

    def outcome(self, site: str, plan_digest: str) -> Mapping[str, object]:
        """What came of the run of a plan that this site takes part in."""

    def checkpoint(self, site: str, old_size: int) -> str:
        """What a site that saw `old_size` entries last is to cosign; empty for nothing."""

    def cosigned(self, site: str, note: str) -> bool:
        """Keep a site's cosignature; False when it is of another checkpoint than is asked for."""

    def connected(self) -> None:
        """A site has come online."""

    def refused(self, peer: str, rule: str) -> None:
        """Note that a call was refused at the door."""


@dataclass
class _PushSession:
    """A reply on its way in: whose, to what, and which objects are still to come."""

    node_id: int
    reply_to: str
    missing: set[str]
    bytes_left: int
    held: dict[str, bytes] = field(default_factory=dict)
    held_bytes: int = 0
    num_writing: int = 0


@dataclass
class _Outstanding:
    """An instruction that waits for its reply, kept to be sent again when its site begins anew."""

    key: str
    node_id: int
    content: RecordDict
    message_type: str
    group_id: str
    ids: set[str] = field(default_factory=set)
    num_announced: int = 0
    is_complete: bool = False


class StoppedError(FederationError):
    """The run was stopped while it waited for sites; no round ends by this."""


class Refused(Exception):  # noqa: N818
    """A call breaks a rule of this file; the status goes to the caller, the rule to the log."""

    def __init__(
        self,
        rule: str,
        code: grpc.StatusCode = grpc.StatusCode.PERMISSION_DENIED,
        *,
        site: str = "",
    ) -> None:
        super().__init__(rule)
        self.rule = rule
        self.code = code
        self.site = site


class Engine:
    """The coordinator's one port beyond loopback, and the durable state behind it.

    Args:
      database: SQLite file of Flower's state, made with mode 0600.
      roster: Enrolled sites, read for every call.
      door: Handles the calls that are not Flower's.
      max_workers: Calls served at the same time; an idle site holds one.
    """

    def __init__(
        self, database: Path, roster: Roster, door: Door, *, max_workers: int = 64
    ) -> None:
        self._max_workers = max_workers
        self._database = database
        self._roster = roster
        self._door = door
        # Made before SQLite makes it, so that it is never readable by others, not even for a
        # moment.
        os.close(os.open(database, os.O_CREAT | os.O_RDWR, 0o600))
        os.chmod(database, 0o600)
        objects = ObjectStoreFactory(str(database))
        factory = LinkStateFactory(str(database), NoOpFederationManager(), objects)
        self.state: LinkState = factory.state()
        if not isinstance(self.state, SqlMixin):
            raise FederationError("expected Flower's state in SQLite")
        self._session = self.state.session
        self.store = objects.store()
        self._lock = threading.RLock()
        # Flower's calls write even where they read. Two writers at once would wait for each other
        # in SQLite's sleeps of up to 100 ms, so they queue here.
        self._writing = threading.RLock()
        self._wake: dict[int, threading.Condition] = {}
        self._nodes: dict[bytes, int] = {}
        self._sessions: dict[str, _PushSession] = {}
        self._pulled: dict[int, dict[str, set[str]]] = {}
        self._max_reply_bytes = 0
        self._grid: EngineGrid | None = None
        self._server: grpc.Server | None = None
        self._num_rings = 0
        self._stopping = threading.Event()

    # -- serving ----------------------------------------------------------------------------------

    def start(self, address: str, credentials: grpc.ServerCredentials) -> int:
        """Serve on `address` (`host:port`, port 0 for a free one) and return the port.

        Raises:
          FederationError: The address cannot be bound.
        """
        server = grpc.server(
            ThreadPoolExecutor(max_workers=self._max_workers, thread_name_prefix="fleet"),
            options=transit.server_options(),
        )
        server.add_generic_rpc_handlers((self._handlers(),))
        try:
            port = server.add_secure_port(address, credentials)
        except RuntimeError:
            port = 0
        if not port:
            raise FederationError(
                f"cannot listen on {address}",
                hint="is another coordinator on this port? change `listen` in federation.toml",
            )
        server.start()
        self._server = server
        return int(port)

    def stop(self, grace_s: float = 1.0) -> None:
        """Stop serving; what is in the database stays for the next start."""
        self._stopping.set()
        with self._lock:
            conditions = list(self._wake.values())
        for condition in conditions:
            with condition:
                condition.notify_all()
        if self._server is not None:
            self._server.stop(grace_s).wait()

    def _handlers(self) -> grpc.GenericRpcHandler:
        """Every method that is served, each behind the caller check and its byte limit."""
        fleet = fleet_pb2
        methods: dict[str, tuple[Any, Callable[..., Any], Callable[[], int]]] = {
            "RegisterNode": (fleet.RegisterNodeFleetRequest, self._register, _small),
            "ActivateNode": (fleet.ActivateNodeRequest, self._activate, _small),
            "DeactivateNode": (fleet.DeactivateNodeRequest, self._deactivate, _small),
            "SendNodeHeartbeat": (heartbeat_pb2.SendNodeHeartbeatRequest, self._heartbeat, _small),
            "PullMessages": (fleet.PullMessagesRequest, self._pull_messages, _small),
            "PushMessages": (fleet.PushMessagesRequest, self._push_messages, _small),
            "PullObject": (message_pb2.PullObjectRequest, self._pull_object, _small),
            "PushObject": (message_pb2.PushObjectRequest, self._push_object, self._object_limit),
            "ConfirmMessageReceived": (
                message_pb2.ConfirmMessageReceivedRequest,
                self._confirm,
                _small,
            ),
        }
        handlers: dict[str, grpc.RpcMethodHandler] = {}
        for name, (request_type, behaviour, limit) in methods.items():
            handlers[f"/{FLEET_SERVICE}/{name}"] = self._guarded(
                request_type.FromString, behaviour, limit, _serialize_proto
            )
        for name, behaviour, limit in (
            ("Hello", self._hello, _small),
            ("Plans", self._plans, _small),
            ("Append", self._append, lambda: MAX_APPEND_BYTES),
            ("Outcome", self._outcome, _small),
            ("Checkpoint", self._checkpoint, _small),
            ("Cosign", self._cosign, _small),
        ):
            handlers[f"/{DOOR_SERVICE}/{name}"] = self._guarded(
                bytes, behaviour, limit, _serialize_json
            )
        return _Handlers(handlers)

    def _guarded(
        self,
        parse: Callable[[bytes], Any],
        behaviour: Callable[..., Any],
        limit: Callable[[], int],
        serialize: Callable[[Any], bytes],
    ) -> grpc.RpcMethodHandler:
        """A handler that knows caller and size before it parses, and tells no more than a rule."""

        def call(raw: bytes, context: grpc.ServicerContext) -> bytes:
            site = ""
            try:
                site, public_key = self._caller(context)
                if len(raw) > limit():
                    raise Refused("request-bytes", grpc.StatusCode.RESOURCE_EXHAUSTED)  # noqa: TRY301
                try:
                    request = parse(raw)
                except Exception as error:
                    raise Refused("malformed", grpc.StatusCode.INVALID_ARGUMENT) from error
                return serialize(behaviour(request, site, public_key, context))
            except Refused as refusal:
                self._door.refused(site or refusal.site or _host(context.peer()), refusal.rule)
                context.abort(refusal.code, refusal.rule)
            except FederationError as error:
                context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
            except FlowerError as error:
                context.abort(grpc.StatusCode.FAILED_PRECONDITION, f"flower-{int(error.code)}")
            except (ValueError, KeyError, TypeError) as error:
                # A field that Flower cannot use. gRPC would tell the caller the exception's text.
                self._door.refused(site, "malformed")
                context.abort(grpc.StatusCode.INVALID_ARGUMENT, type(error).__name__)
            raise AssertionError("unreachable: abort raises")

        return grpc.unary_unary_rpc_method_handler(call)

    def _caller(self, context: grpc.ServicerContext) -> tuple[str, bytes]:
        """The active site whose certificate the caller showed, and its public key."""
        certificate = transit.peer_certificate(context)
        try:
            # A connection outlives its handshake; its certificate must not.
            transit.check_validity(certificate, at=datetime.now(UTC))
        except WireError as error:
            raise Refused("certificate-expired", grpc.StatusCode.UNAUTHENTICATED) from error
        public_key = transit.peer_public_key(context)
        return self._active_site(public_key), public_key

    def _active_site(self, public_key: bytes) -> str:
        """The site of a certificate's key, read from the roster now."""
        enrolment = self._roster.by_node_key(public_key)
        if enrolment is None:
            raise Refused("not-enrolled", grpc.StatusCode.UNAUTHENTICATED)
        if not enrolment.active:
            raise Refused("revoked", grpc.StatusCode.UNAUTHENTICATED, site=enrolment.site)
        return enrolment.site

    def _own_node(self, node_id: int, public_key: bytes) -> int:
        """Check that `node_id` is the caller's."""
        if not node_id or node_id != self._known_node(public_key):
            raise Refused("another-sites-node")
        return node_id

    def _object_limit(self) -> int:
        return self._max_reply_bytes + _OBJECT_OVERHEAD_BYTES

    # -- Flower's Fleet service -------------------------------------------------------------------

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        """All of the block's writes to Flower's state, or none; one writer at a time.

        An instruction is visible to its node from the first of several writes on; so its node
        cannot claim it before the last either.
        """
        with self._writing, self._session():
            yield

    def node_of(self, public_key: bytes) -> int:
        """The Flower node of a certificate's key, made when it is first asked for."""
        with self._transaction():
            node_id = self._known_node(public_key)
            if node_id is None:
                node_id = self.state.create_node(NOOP_FLWR_AID, NOOP_ACCOUNT_NAME, public_key, 0)
            return node_id

    def _known_node(self, public_key: bytes) -> int | None:
        """The Flower node of a certificate's key; it never changes, so Flower is asked once."""
        node_id = self._nodes.get(public_key)
        if node_id is None:
            node_id = self.state.get_node_id_by_public_key(public_key)
            if node_id is not None:
                self._nodes[public_key] = node_id
        return node_id

    def _register(self, request: Proto, site: str, public_key: bytes, _context: Proto) -> Proto:
        if request.public_key != public_key:
            raise Refused("another-sites-key")
        return fleet_pb2.RegisterNodeFleetResponse(node_id=self.node_of(public_key))

    def _activate(self, request: Proto, site: str, public_key: bytes, _context: Proto) -> Proto:
        if request.public_key != public_key:
            raise Refused("another-sites-key")
        node_id = self.node_of(public_key)
        # A site that was killed is still online here; mutual TLS says it is the same one, so it
        # need not wait.
        with self._transaction():
            self.state.deactivate_node(node_id)
            response = fleet_handlers.activate_node(request, self.state)
        with self._lock:
            self._pulled.pop(node_id, None)
        if self._grid is not None:
            self._grid.send_again(node_id)
        self._door.connected()
        return response

    def _deactivate(self, request: Proto, site: str, public_key: bytes, _context: Proto) -> Proto:
        self._own_node(request.node_id, public_key)
        with self._transaction():
            return fleet_handlers.deactivate_node(request, self.state)

    def _heartbeat(self, request: Proto, site: str, public_key: bytes, _context: Proto) -> Proto:
        self._own_node(request.node.node_id, public_key)
        with self._transaction():
            return fleet_handlers.send_node_heartbeat(request, self.state)

    def _condition(self, node_id: int) -> threading.Condition:
        with self._lock:
            return self._wake.setdefault(node_id, threading.Condition())

    def _pull_messages(
        self, request: Proto, site: str, public_key: bytes, context: Proto
    ) -> Proto:
        """Answer once there is an instruction for the caller, or empty after `LONG_POLL_S`."""
        node_id = self._own_node(request.node.node_id, public_key)
        condition = self._condition(node_id)
        deadline = time.monotonic() + LONG_POLL_S
        num_rings = self._num_rings
        with condition:
            while True:
                with self._transaction():
                    response = fleet_handlers.pull_messages(request, self.state, self.store)
                if response.messages_list:
                    break
                if self._num_rings != num_rings:
                    return response
                is_woken = False
                while not is_woken and (left := deadline - time.monotonic()) > 0:
                    is_woken = condition.wait(min(left, ROSTER_CHECK_S))
                    if self._stopping.is_set() or not context.is_active():
                        return response
                    self._active_site(public_key)
                if not is_woken:
                    return response
        with self._lock:
            pulled = self._pulled.setdefault(node_id, {})
            for message, tree in zip(
                response.messages_list, response.message_object_trees, strict=True
            ):
                pulled[message.metadata.message_id] = {
                    t.object_id for t in iterate_object_tree(tree)
                }
        return response

    def _pull_object(self, request: Proto, site: str, public_key: bytes, _context: Proto) -> Proto:
        node_id = self._own_node(request.node.node_id, public_key)
        with self._lock:
            addressed = set().union(*self._pulled.get(node_id, {}).values())
        if request.object_id not in addressed:
            raise Refused("another-sites-object")
        content = self.state.get_object(request.run_id, request.object_id)
        return message_pb2.PullObjectResponse(
            object_found=content is not None,
            object_available=bool(content),
            object_content=content or b"",
        )

    def _confirm(self, request: Proto, site: str, public_key: bytes, _context: Proto) -> Proto:
        node_id = self._own_node(request.node.node_id, public_key)
        with self._lock:
            if self._pulled.get(node_id, {}).pop(request.message_object_id, None) is None:
                raise Refused("another-sites-object")
        with self._transaction():
            return fleet_handlers.confirm_message_received(request, self.state, self.store)

    def _push_messages(
        self, request: Proto, site: str, public_key: bytes, _context: Proto
    ) -> Proto:
        """Take the announcement of one reply: whose, to what, and which objects it consists of."""
        node_id = self._own_node(request.node.node_id, public_key)
        if len(request.messages_list) != 1 or len(request.message_object_trees) != 1:
            raise Refused("malformed", grpc.StatusCode.INVALID_ARGUMENT)
        announced, tree = request.messages_list[0], request.message_object_trees[0]
        metadata = announced.metadata
        if metadata.src_node_id != node_id:
            raise Refused("another-sites-node")
        grid = self._grid
        if grid is None or not grid.awaits(metadata.reply_to_message_id, node_id):
            raise Refused("unasked-reply", grpc.StatusCode.FAILED_PRECONDITION)
        object_ids = [t.object_id for t in iterate_object_tree(tree)]
        if len(object_ids) > MAX_OBJECTS_PER_MESSAGE or tree.object_id != metadata.message_id:
            raise Refused("malformed", grpc.StatusCode.INVALID_ARGUMENT)
        # Flower keeps what stands in the announcement; content belongs into objects, where it is
        # bounded.
        if not announced.HasField("error"):
            announced.content.Clear()
            announced.content.SetInParent()
        if not grid.may_announce(metadata.reply_to_message_id):
            raise Refused("too-many-replies", grpc.StatusCode.RESOURCE_EXHAUSTED)
        with self._transaction():
            session_id = self.state.start_session(metadata.run_id)
            stored, missing = self.state.store_message_and_object_tree(
                message_from_proto(announced), tree, session_id
            )
            if not stored:
                raise Refused("malformed", grpc.StatusCode.INVALID_ARGUMENT)
        session = _PushSession(
            node_id=node_id,
            reply_to=metadata.reply_to_message_id,
            missing=set(missing),
            bytes_left=self._max_reply_bytes + _OBJECT_OVERHEAD_BYTES,
        )
        with self._lock:
            self._sessions[session_id] = session
        self._complete(session_id, session)
        return fleet_pb2.PushMessagesResponse(objects_to_push=missing, session_id=session_id)

    def _push_object(self, request: Proto, site: str, public_key: bytes, _context: Proto) -> Proto:
        node_id = self._own_node(request.node.node_id, public_key)
        with self._lock:
            session = self._sessions.get(request.session_id)
            if (
                session is None
                or session.node_id != node_id
                or request.object_id not in session.missing
            ):
                raise Refused("unannounced-object")
            session.bytes_left -= len(request.object_content)
            if session.bytes_left < 0:
                raise Refused("request-bytes", grpc.StatusCode.RESOURCE_EXHAUSTED)
            if get_object_id(request.object_content) != request.object_id:
                raise Refused("malformed", grpc.StatusCode.INVALID_ARGUMENT)
            session.missing.discard(request.object_id)
            session.held[request.object_id] = request.object_content
            session.held_bytes += len(request.object_content)
            held: dict[str, bytes] = {}
            if not session.missing or session.held_bytes > MAX_HELD_BYTES:
                held, session.held, session.held_bytes = session.held, {}, 0
            session.num_writing += bool(held)
        # A crash before this write loses what was taken: the site sends its kept reply again.
        if held:
            with self._transaction():
                stored = [
                    self.state.store_object(request.run_id, request.session_id, object_id, content)
                    for object_id, content in held.items()
                ]
            with self._lock:
                session.num_writing -= 1
            if not all(stored):
                raise Refused("malformed", grpc.StatusCode.INVALID_ARGUMENT)
            self._complete(request.session_id, session)
        return message_pb2.PushObjectResponse(stored=True)

    def _complete(self, session_id: str, session: _PushSession) -> None:
        """Hand a reply to the grid once its last object is here."""
        with self._lock:
            if session.missing or session.held or session.num_writing:
                return
            if self._sessions.pop(session_id, None) is None:
                return
        if self._grid is not None:
            self._grid.arrived(session.reply_to)

    # -- the door's other calls -------------------------------------------------------------------

    def _hello(
        self, _request: bytes, site: str, _key: bytes, _context: Proto
    ) -> Mapping[str, object]:
        return self._door.hello(site)

    def _plans(
        self, _request: bytes, site: str, _key: bytes, _context: Proto
    ) -> Mapping[str, object]:
        return {"plans": self._door.plans(site)}

    def _append(
        self, request: bytes, site: str, _key: bytes, _context: Proto
    ) -> Mapping[str, object]:
        return self._door.append(site, request.split(b"\n"))

    def _outcome(
        self, request: bytes, site: str, _key: bytes, _context: Proto
    ) -> Mapping[str, object]:
        if not _DIGEST.fullmatch(request):
            raise Refused("malformed", grpc.StatusCode.INVALID_ARGUMENT)
        return self._door.outcome(site, request.decode())

    def _checkpoint(
        self, request: bytes, site: str, _key: bytes, _context: Proto
    ) -> Mapping[str, object]:
        if not _SIZE.fullmatch(request):
            raise Refused("malformed", grpc.StatusCode.INVALID_ARGUMENT)
        return {"request": self._door.checkpoint(site, int(request))}

    def _cosign(
        self, request: bytes, site: str, _key: bytes, _context: Proto
    ) -> Mapping[str, object]:
        return {"kept": self._door.cosigned(site, request.decode())}

    def ring(self) -> None:
        """Let waiting calls return without an instruction: there is a checkpoint to see."""
        with self._lock:
            self._num_rings += 1
            conditions = list(self._wake.values())
        for condition in conditions:
            with condition:
                condition.notify_all()

    # -- runs -------------------------------------------------------------------------------------

    def online(self, public_keys: Iterable[bytes]) -> set[bytes]:
        """The certificates' keys whose nodes have been heard of lately."""
        nodes = {self._known_node(key): key for key in public_keys}
        nodes.pop(None, None)
        return {
            nodes[info.node_id]
            for info in self.state.get_node_info(node_ids=[*filter(None, nodes)])
            if info.status == "online"
        }

    @contextlib.contextmanager
    def open_run(
        self, run_id: int | None, node_ids: Callable[[], Iterable[int]], max_reply_bytes: int
    ) -> Iterator["EngineGrid"]:
        """A Grid for one run; with `run_id`, that run goes on if Flower still has it alive.

        Args:
          run_id: Flower's id of the run, None for a new one.
          node_ids: Gives the nodes that take part, whenever it is asked.
          max_reply_bytes: Largest reply that is taken from a node.
        """
        run = self._live_run(run_id)
        # Messages of before a crash are sent anew: sites answer a round that they have done with
        # the same bytes.
        with self._transaction():
            self.state.cleanup_run(run.run_id)
        task_id = run.primary_task_id or 0
        TaskIdentity.run_id = run.run_id
        TaskIdentity.node_id = SUPERLINK_NODE_ID
        TaskIdentity.task_id = task_id
        self._max_reply_bytes = max_reply_bytes
        grid = EngineGrid(self, run, node_ids)
        self._grid = grid
        ended = threading.Event()

        def keep_alive() -> None:
            while not ended.wait(TASK_HEARTBEAT_S):
                with self._transaction():
                    self.state.acknowledge_task_heartbeat(task_id)

        heartbeat = threading.Thread(target=keep_alive, name="run-heartbeat", daemon=True)
        heartbeat.start()
        try:
            yield grid
        finally:
            ended.set()
            heartbeat.join()
            self._grid = None
            self._max_reply_bytes = 0
            with self._lock:
                self._sessions.clear()
                self._pulled.clear()

    def _live_run(self, run_id: int | None) -> Run:
        """The run of this id if its task is still alive, else a new run."""
        if run_id is not None:
            found = self.state.get_run_info(run_ids=[run_id])
            if found and self.state.acknowledge_task_heartbeat(found[0].primary_task_id or 0):
                return found[0]
        new_id = self.state.create_run(
            None, None, None, {}, NOOP_FEDERATION_ID, None, NOOP_FLWR_AID, TaskType.SERVER_APP
        )
        run = self.state.get_run_info(run_ids=[new_id])[0]
        task_id = run.primary_task_id or 0
        if self.state.claim_task(task_id) is None or not self.state.activate_task(task_id):
            raise FederationError("expected Flower's state to start a run, got a refusal")
        return run

    def end_run(self, run_id: int, *, completed: bool) -> None:
        """Finish a run and remove every update byte from the database and its write-ahead log."""
        found = self.state.get_run_info(run_ids=[run_id])
        with self._transaction():
            if found:
                sub_status = SubStatus.COMPLETED if completed else SubStatus.STOPPED
                self.state.finish_task(found[0].primary_task_id or 0, sub_status, "")
            self.state.cleanup_run(run_id)
        with (
            self._writing,
            contextlib.closing(sqlite3.connect(self._database, timeout=30)) as database,
        ):
            database.execute("PRAGMA secure_delete = ON")
            database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            database.execute("VACUUM")
            database.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def push(self, message: Message) -> str:
        """Store an instruction with its objects and wake its node; returns its id."""
        with self._transaction(), no_object_id_recompute():
            message.metadata.__dict__["_message_id"] = message.object_id
            tree = get_object_tree(message)
            objects = get_all_nested_objects(message)
            message_id = message.metadata.message_id
            session_id = self.state.start_session(message.metadata.run_id)
            bare = remove_content_from_message(message)
            stored, missing = self.state.store_message_and_object_tree(bare, tree, session_id)
            if not stored:
                raise FederationError(
                    "expected Flower's state to take an instruction, got a refusal"
                )
            for object_id in missing:
                content = objects[object_id].deflate()
                if not self.state.store_object(
                    message.metadata.run_id, session_id, object_id, content
                ):
                    raise FederationError(
                        "expected Flower's object store to take an object, got a refusal"
                    )
        condition = self._condition(message.metadata.dst_node_id)
        with condition:
            condition.notify_all()
        return message_id

    def take_reply(self, run_id: int, instruction_id: str, node_id: int) -> Message | None:
        """The complete reply of a node to an instruction, removed from the state.

        None if Flower no longer has it. Objects that do not make the announced message come back
        as a reply without records, so that the reader refuses it by a rule.
        """
        with self._transaction():
            was_online = self._keep_online(node_id)
            found = self.state.get_message_res({instruction_id}, run_id)
            if not was_online:
                self.state.deactivate_node(node_id)
            # Flower makes up replies of its own where the instruction is gone.
            if not found or found[0].metadata.src_node_id != node_id:
                return None
            reply = found[0]
            message_id = reply.metadata.message_id
            contents: dict[str, bytes] = {}
            if not reply.has_error():
                with contextlib.suppress(NoObjectInStoreError):
                    contents = {
                        t.object_id: self.store.get(t.object_id) or b""
                        for t in iterate_object_tree(self.store.get_object_tree(message_id))
                    }
                    self.store.delete(message_id)
            self.state.delete_messages({instruction_id})
        if reply.has_error():
            return reply
        try:
            inflated = inflate_object_from_contents(message_id, contents)
        except wire.UNREADABLE:
            return reply
        # Who sent it is what the certificate said when it was announced, not what stands inside
        # the message.
        if not isinstance(inflated, Message) or inflated.metadata.src_node_id != node_id:
            return reply
        inflated.metadata.__dict__["_message_id"] = message_id
        inflated.metadata.__dict__["_reply_to_message_id"] = instruction_id
        return inflated

    def _keep_online(self, node_id: int) -> bool:
        """Have Flower hold a node for online, and say whether it was.

        It drops a stored reply when its node has gone offline since.
        """
        is_online = any(
            info.status == "online" for info in self.state.get_node_info(node_ids=[node_id])
        )
        if not is_online:
            self.state.acknowledge_node_heartbeat(node_id, TASK_HEARTBEAT_S)
        return is_online

    def withdraw(self, instruction_ids: Iterable[str]) -> None:
        """Forget instructions, and replies to them."""
        with self._transaction():
            self.state.delete_messages(set(instruction_ids))


class EngineGrid(Grid):
    """Flower's Grid on the engine's state, for the nodes of one run.

    Replies come one at a time, as they arrive.
    """

    def __init__(self, engine: Engine, run: Run, node_ids: Callable[[], Iterable[int]]) -> None:
        self._engine = engine
        self._run = run
        self._node_ids = node_ids
        self._lock = threading.RLock()
        self._outstanding: dict[str, _Outstanding] = {}
        self._alias: dict[str, str] = {}
        self._arrived: queue.Queue[str] = queue.Queue()
        self._stopped = threading.Event()

    def set_run(self, run: Run) -> None:
        """Refuse to change the run: a grid belongs to the run that the engine opened.

        Raises:
          ValueError: Another run than its own.
        """
        if run.run_id != self._run.run_id:
            raise ValueError(f"expected run {self._run.run_id}, got {run.run_id}")

    @property
    def run(self) -> Run:
        """The run."""
        return self._run

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        """A message to a node, as `flwr.app.Message` makes it."""
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def get_node_ids(self) -> Iterable[int]:
        """The nodes that take part."""
        return list(self._node_ids())

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Send instructions; returns the ids under which their replies are awaited."""
        keys = []
        for message in messages:
            metadata = message.metadata
            waiting = _Outstanding(
                key="",
                node_id=metadata.dst_node_id,
                content=message.content,
                message_type=metadata.message_type,
                group_id=metadata.group_id,
            )
            with self._lock:
                self._check_stopped()
                message_id = self._engine.push(message)
                waiting.key = message_id
                waiting.ids.add(message_id)
                self._outstanding[message_id] = waiting
                self._alias[message_id] = message_id
            keys.append(message_id)
        return keys

    def send_again(self, node_id: int) -> None:
        """Send a node's unanswered instructions anew: it was killed, or never got the first."""
        with self._lock:
            for waiting in self._outstanding.values():
                if waiting.node_id == node_id and not waiting.is_complete:
                    message = Message(
                        waiting.content, node_id, waiting.message_type, group_id=waiting.group_id
                    )
                    self._engine.withdraw(waiting.ids)
                    message_id = self._engine.push(message)
                    waiting.ids = {message_id}
                    waiting.num_announced = 0
                    self._alias[message_id] = waiting.key

    def awaits(self, message_id: str, node_id: int) -> bool:
        """Whether an instruction of this id to this node still waits for its reply."""
        with self._lock:
            waiting = self._outstanding.get(self._alias.get(message_id, ""))
            return waiting is not None and waiting.node_id == node_id and message_id in waiting.ids

    def may_announce(self, message_id: str) -> bool:
        """Count one more announcement of a reply; False when there were too many."""
        with self._lock:
            waiting = self._outstanding[self._alias[message_id]]
            waiting.num_announced += 1
            return waiting.num_announced <= MAX_ANNOUNCEMENTS

    def arrived(self, message_id: str) -> None:
        """Note that the reply to an instruction is complete."""
        with self._lock:
            waiting = self._outstanding.get(self._alias.get(message_id, ""))
            # Sent again in the meantime: that one will be answered.
            if waiting is None or message_id not in waiting.ids:
                return
            waiting.is_complete = True
        self._arrived.put(message_id)

    @property
    def is_stopped(self) -> bool:
        """Whether `stop` was called."""
        return self._stopped.is_set()

    def stop(self) -> None:
        """End every wait for replies by a `StoppedError`."""
        self._stopped.set()
        self._arrived.put("")

    def _check_stopped(self) -> None:
        if self._stopped.is_set():
            raise StoppedError("the run was stopped")

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """The replies that have arrived among those awaited under `message_ids`; does not wait."""
        wanted = set(message_ids)
        replies = []
        others = []
        while True:
            try:
                message_id = self._arrived.get_nowait()
            except queue.Empty:
                break
            if self._alias.get(message_id) in wanted:
                reply = self._take(message_id)
                if reply is not None:
                    replies.append(reply)
            else:
                others.append(message_id)
        for message_id in others:
            self._arrived.put(message_id)
        return replies

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """Send instructions and yield their replies as they arrive, for `timeout` seconds."""
        return self._replies(set(self.push_messages(messages)), timeout)

    def _replies(self, waiting_for: set[str], timeout: float | None) -> Iterator[Message]:
        deadline = None if timeout is None else time.monotonic() + timeout
        try:
            # A stop must not look like a round in which nobody answered.
            self._check_stopped()
            while waiting_for:
                left = None if deadline is None else deadline - time.monotonic()
                if left is not None and left <= 0:
                    break
                try:
                    message_id = self._arrived.get(timeout=left)
                except queue.Empty:
                    break
                self._check_stopped()
                key = self._alias.get(message_id)
                if key not in waiting_for:
                    continue
                reply = self._take(message_id)
                waiting_for.discard(key)
                if reply is not None:
                    yield reply
        finally:
            # An instruction whose time has passed is withdrawn: a reply to it is refused at the
            # door.
            with self._lock:
                for key in waiting_for:
                    late = self._outstanding.pop(key, None)
                    if late is not None:
                        self._engine.withdraw(late.ids)

    def _take(self, message_id: str) -> Message | None:
        with self._lock:
            waiting = self._outstanding.pop(self._alias[message_id], None)
        if waiting is None:
            return None
        return self._engine.take_reply(self._run.run_id, message_id, waiting.node_id)


class _Handlers(grpc.GenericRpcHandler):  # type: ignore[misc]
    """Serves the listed methods and no other."""

    def __init__(self, handlers: Mapping[str, grpc.RpcMethodHandler]) -> None:
        self._handlers = handlers

    def service(
        self, handler_call_details: grpc.HandlerCallDetails
    ) -> grpc.RpcMethodHandler | None:
        """The handler of a method, None (unimplemented) for any other."""
        return self._handlers.get(handler_call_details.method)


def _host(peer: str) -> str:
    """A peer (`ipv4:1.2.3.4:5`) without its port: a caller that connects anew is the same one."""
    return peer.rpartition(":")[0] or peer


def _small() -> int:
    return SMALL_REQUEST_BYTES


def _serialize_proto(message: Proto) -> bytes:
    return bytes(message.SerializeToString())


def _serialize_json(value: object) -> bytes:
    return json.dumps(value).encode()
