"""The calls to the coordinator: Flower's Fleet service and the door, over one channel.

The private names of Flower are met here and in `server/engine.py` only; flwr is pinned, and a
contract test imports each.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import grpc
from flwr.app import Message, RecordDict
from flwr.app.message import remove_content_from_message
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

from client.outcome import Outcome
from privacy import wire
from privacy.errors import ConfigError, TransportError, VerificationError
from privacy.plan import RunPlan

CALL_S: Final = 30.0
# Longer than the coordinator holds a call open, so that the answer always comes first.
PULL_S: Final = 45.0
HEARTBEAT_INTERVAL_S: Final = 10.0
MAX_OBJECTS: Final = 256
MAX_INSTRUCTION_BYTES: Final = 1024 * 1024 * 1024

# Flower's protobuf classes carry no types that a checker could use.
Proto = Any


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

    def outcome(self, plan_digest: str) -> Outcome:
        """What came of the run of a plan that this site takes part in."""
        return Outcome.of(self._door("Outcome", plan_digest.encode()))

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


# -- Flower's messages as bytes -------------------------------------------------------------------
# Of bytes that make none, each raises one of `wire.UNREADABLE`.


def write_message(message: Message, *, kind: str | None = None) -> bytes:
    """A message as bytes, of another kind where one is given."""
    proto = message_to_proto(message)
    if kind is not None:
        proto.metadata.message_type = kind
    written: bytes = proto.SerializeToString()
    return written


def read_message(written: bytes) -> Message:
    """A message of its bytes."""
    return message_from_proto(message_pb2.Message.FromString(written))


def read_content(written: bytes) -> RecordDict:
    """The records of a message, whatever else it says; an error's text is not looked at."""
    return recorddict_from_proto(message_pb2.Message.FromString(written).content)


def write_records(content: RecordDict) -> bytes:
    """Records as bytes, the same for the same records."""
    written: bytes = recorddict_to_proto(content).SerializeToString(deterministic=True)
    return written


def read_records(written: bytes) -> RecordDict:
    """Records of their bytes."""
    return recorddict_from_proto(recorddict_pb2.RecordDict.FromString(written))
