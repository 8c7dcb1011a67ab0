"""The coordinator's door: who is let in, and what an enrolled site may not do to another."""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import grpc
import pytest
from flwr.app import Message
from flwr.common.serde import message_to_proto
from flwr.proto import fleet_pb2, heartbeat_pb2, message_pb2
from flwr.supercore.inflatable.inflatable_object import get_object_tree, iterate_object_tree

import server.engine
from client.link import Link
from privacy import transit, wire
from privacy.audit.entry import parse_entry
from privacy.errors import ConfigError, TransportError, VerificationError
from privacy.pki.authority import Authority, generate_tls_key, make_csr
from server.engine import EngineGrid
from tests.federation.world import INITIAL, Federation, Site, quiet_plan
from tests.privacy.evidence import runs_on

HELLO = "/cloister.Door/Hello"
Proto = Any


@pytest.fixture(scope="module")
def pair(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[tuple[Federation, Site, Site]]:
    """A federation with two enrolled sites and no agents."""
    with Federation(tmp_path_factory.mktemp("door")).serving() as made:
        yield made, made.enrol("victim"), made.enrol("attacker")


@pytest.fixture
def door(pair: tuple[Federation, Site, Site]) -> Federation:
    federation = pair[0]
    assert federation.coordinator is not None
    # Refusals of one kind are logged once a minute; each test is a minute of its own.
    federation.coordinator._refusals.clear()
    return federation


@pytest.fixture
def victim(pair: tuple[Federation, Site, Site]) -> Iterator[Link]:
    link = pair[1].link()
    yield link
    link.close()


@pytest.fixture
def attacker(pair: tuple[Federation, Site, Site]) -> Iterator[Link]:
    link = pair[2].link()
    yield link
    link.close()


@pytest.fixture
def grid(door: Federation, victim: Link, attacker: Link) -> Iterator[EngineGrid]:
    assert door.coordinator is not None
    nodes = [victim._node.node_id, attacker._node.node_id]
    with door.coordinator.engine.open_run(None, lambda: nodes, 50_000) as opened:
        yield opened


def stranger(
    federation: Federation, authority: Authority | None = None, *, days_ago: int = 0
) -> grpc.Channel:
    """A channel of a key that nobody enrolled, with a certificate of `authority`."""
    key = generate_tls_key()
    certificate = (authority or federation.authority).issue_site_certificate(
        make_csr(key, site="stranger", signing_key_id="0" * 64),
        site="stranger",
        valid_for=timedelta(days=1),
        at=datetime.now(UTC) - timedelta(days=days_ago),
    )
    from cryptography.hazmat.primitives.serialization import (
        Encoding,
        NoEncryption,
        PrivateFormat,
    )

    return transit.channel(
        federation.address,
        ca_pem=federation.authority.ca_pem,
        certificate_pem=certificate,
        key_pem=key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
    )


def code_of(
    channel: grpc.Channel, method: str = HELLO, request: bytes = b"{}"
) -> tuple[grpc.StatusCode, str]:
    """Status code and details of a call."""
    with channel:
        try:
            channel.unary_unary(method)(request, timeout=5)
        except grpc.RpcError as error:
            return error.code(), error.details()
    return grpc.StatusCode.OK, ""


def test_a_plaintext_client_is_cut_off(door: Federation) -> None:
    code, _ = code_of(grpc.insecure_channel(door.address))
    assert code is grpc.StatusCode.UNAVAILABLE


def test_a_client_without_a_certificate_is_cut_off(door: Federation) -> None:
    credentials = grpc.ssl_channel_credentials(root_certificates=door.authority.ca_pem)
    code, _ = code_of(grpc.secure_channel(door.address, credentials))
    assert code is grpc.StatusCode.UNAVAILABLE


def test_a_certificate_of_another_authority_is_cut_off(door: Federation, tmp_path: Path) -> None:
    other = Authority.create(
        tmp_path, federation="regio", passphrase="", at=datetime.now(UTC), plain=True
    )
    code, _ = code_of(stranger(door, other))
    assert code is grpc.StatusCode.UNAVAILABLE


def test_an_expired_certificate_is_cut_off(door: Federation) -> None:
    code, _ = code_of(stranger(door, days_ago=3))
    assert code is grpc.StatusCode.UNAVAILABLE


def test_a_certificate_that_nobody_enrolled_is_refused_and_logged(door: Federation) -> None:
    assert code_of(stranger(door)) == (grpc.StatusCode.UNAUTHENTICATED, "not-enrolled")
    assert door.refusals()[-1] == ("ipv4:127.0.0.1", "not-enrolled")
    # The address is the coordinator's to open, and in no byte of the log.
    lines = (door.config.log_folder / "entries.jsonl").read_bytes().splitlines()
    assert not any(b"127.0.0.1" in parse_entry(line).signed for line in lines)


def test_a_stranger_who_connects_anew_is_logged_once(door: Federation) -> None:
    before = len(door.refusals())
    for _ in range(3):
        code_of(stranger(door))
    assert len(door.refusals()) == before + 1


def test_an_open_connection_ends_with_its_certificate(
    door: Federation, victim: Link, monkeypatch: pytest.MonkeyPatch
) -> None:
    victim.hello()
    later = datetime.now(UTC) + timedelta(days=2)
    monkeypatch.setattr(server.engine, "datetime", SimpleNamespace(now=lambda _zone: later))
    with pytest.raises(VerificationError, match="certificate-expired"):
        victim.hello()
    monkeypatch.undo()
    assert door.refusals()[-1][1] == "certificate-expired"


def test_a_revoked_site_is_refused_on_its_open_connection_even_while_it_waits(
    door: Federation,
) -> None:
    assert door.coordinator is not None
    site = door.enrol("leaver")
    link = site.link()
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(link.pull)
        with pytest.raises(TimeoutError):
            waiting.result(timeout=0.3)
        door.coordinator.roster.revoke("leaver", at=datetime.now(UTC))
        began = time.monotonic()
        with pytest.raises(VerificationError, match="revoked"):
            waiting.result(timeout=5)
        assert time.monotonic() - began < 2
    with pytest.raises(VerificationError, match="revoked"):
        link.hello()
    link.close()
    with pytest.raises(VerificationError, match="revoked"):
        Link(site.home.channel()).hello()
    assert ("leaver", "revoked") in door.refusals()


Attack = Callable[[Link, Link, bytes], object]

ATTACKS: dict[str, tuple[str, Attack]] = {
    "beats for another node": (
        "another-sites-node",
        lambda me, you, _key: me._fleet.SendNodeHeartbeat(
            heartbeat_pb2.SendNodeHeartbeatRequest(node=you._node, heartbeat_interval=10)
        ),
    ),
    "pulls another node's instructions": (
        "another-sites-node",
        lambda me, you, _key: me._fleet.PullMessages(
            fleet_pb2.PullMessagesRequest(node=you._node)
        ),
    ),
    "takes another node offline": (
        "another-sites-node",
        lambda me, you, _key: me._fleet.DeactivateNode(
            fleet_pb2.DeactivateNodeRequest(node_id=you._node.node_id)
        ),
    ),
    "registers another's key": (
        "another-sites-key",
        lambda me, _you, key: me._fleet.RegisterNode(
            fleet_pb2.RegisterNodeFleetRequest(public_key=key)
        ),
    ),
    "activates another's key": (
        "another-sites-key",
        lambda me, _you, key: me._fleet.ActivateNode(
            fleet_pb2.ActivateNodeRequest(public_key=key, heartbeat_interval=10)
        ),
    ),
    "acts as no node at all": (
        "another-sites-node",
        lambda me, _you, _key: me._fleet.PullMessages(fleet_pb2.PullMessagesRequest()),
    ),
}


@pytest.mark.parametrize("name", ATTACKS)
def test_a_site_cannot_be_another_one(
    name: str,
    door: Federation,
    pair: tuple[Federation, Site, Site],
    victim: Link,
    attacker: Link,
) -> None:
    rule, attack = ATTACKS[name]
    with pytest.raises(grpc.RpcError) as refused:
        attack(attacker, victim, pair[1].public_key)
    assert refused.value.code() is grpc.StatusCode.PERMISSION_DENIED
    assert refused.value.details() == rule
    assert door.refusals()[-1] == ("attacker", rule)


def instruct(grid: EngineGrid, link: Link) -> str:
    """Send an instruction to a node; returns its id."""
    plan = quiet_plan("door")
    instruction = wire.Instruction(kind="train", plan=plan.digest, server_round=1, adapter=INITIAL)
    content = wire.write_instruction(instruction, plan)
    (message_id,) = grid.push_messages([Message(content, link._node.node_id, "train")])
    return message_id


def announce(grid: EngineGrid, link: Link, asked: Message, **changes: object) -> Proto:
    """Announce a reply to `asked` with changed metadata."""
    reply = Message(asked.content, reply_to=asked)
    for name, value in changes.items():
        reply.metadata.__dict__[f"_{name}"] = value
    reply.metadata.__dict__["_message_id"] = reply.object_id
    proto = message_to_proto(reply)
    proto.content.Clear()
    return link._fleet.PushMessages(
        fleet_pb2.PushMessagesRequest(
            node=link._node, messages_list=[proto], message_object_trees=[get_object_tree(reply)]
        )
    )


def test_an_instruction_is_read_and_confirmed_by_its_node_only(
    door: Federation, grid: EngineGrid, victim: Link, attacker: Link
) -> None:
    instruct(grid, victim)
    answer = victim._fleet.PullMessages(fleet_pb2.PullMessagesRequest(node=victim._node))
    (tree,) = answer.message_object_trees
    for node in iterate_object_tree(tree):
        request = message_pb2.PullObjectRequest(
            node=attacker._node, run_id=grid.run.run_id, object_id=node.object_id
        )
        with pytest.raises(grpc.RpcError, match="another-sites-object"):
            attacker._fleet.PullObject(request)
        request.node.CopyFrom(victim._node)
        assert victim._fleet.PullObject(request).object_available
    confirm = message_pb2.ConfirmMessageReceivedRequest(
        node=attacker._node, run_id=grid.run.run_id, message_object_id=tree.object_id
    )
    with pytest.raises(grpc.RpcError, match="another-sites-object"):
        attacker._fleet.ConfirmMessageReceived(confirm)
    assert door.refusals()[-1] == ("attacker", "another-sites-object")


def test_a_site_cannot_answer_for_another_or_unasked(
    door: Federation, grid: EngineGrid, victim: Link, attacker: Link
) -> None:
    instruct(grid, victim)
    pulled = victim.pull()
    assert pulled is not None
    asked = pulled[0]
    with pytest.raises(grpc.RpcError, match="another-sites-node"):
        announce(grid, attacker, asked)
    # Under its own name it was not asked.
    with pytest.raises(grpc.RpcError, match="unasked-reply"):
        announce(grid, attacker, asked, src_node_id=attacker._node.node_id)
    with pytest.raises(grpc.RpcError, match="unasked-reply"):
        announce(grid, victim, asked, reply_to_message_id="0" * 64)
    rules = [rule for peer, rule in door.refusals() if peer == "attacker"]
    assert rules[-2:] == ["another-sites-node", "unasked-reply"]


def test_an_object_is_pushed_by_who_announced_it_only(
    door: Federation, grid: EngineGrid, victim: Link, attacker: Link
) -> None:
    instruct(grid, victim)
    pulled = victim.pull()
    assert pulled is not None
    answer = announce(grid, victim, pulled[0])
    request = message_pb2.PushObjectRequest(
        node=attacker._node,
        run_id=grid.run.run_id,
        session_id=answer.session_id,
        object_id=answer.objects_to_push[0],
        object_content=b"x",
    )
    with pytest.raises(grpc.RpcError, match="unannounced-object"):
        attacker._fleet.PushObject(request)
    request.node.CopyFrom(victim._node)
    request.object_id = "0" * 64
    with pytest.raises(grpc.RpcError, match="unannounced-object"):
        victim._fleet.PushObject(request)


def test_a_reply_over_the_plans_bytes_is_refused_before_it_is_parsed(
    door: Federation, grid: EngineGrid, victim: Link
) -> None:
    instruct(grid, victim)
    pulled = victim.pull()
    assert pulled is not None
    answer = announce(grid, victim, pulled[0])
    call = victim._channel.unary_unary("/flwr.proto.Fleet/PushObject")
    # No message at all: parsed, it would be called malformed.
    with pytest.raises(grpc.RpcError, match="request-bytes"):
        call(b"\xff" * (50_000 + 70_000))
    with pytest.raises(grpc.RpcError, match="malformed"):
        call(b"\xff" * 1000)
    # Many small parts are bounded together.
    request = message_pb2.PushObjectRequest(
        node=victim._node, run_id=grid.run.run_id, session_id=answer.session_id
    )
    request.object_content = b"x" * 100_000
    request.object_id = answer.objects_to_push[0]
    with pytest.raises(grpc.RpcError, match="malformed"):
        victim._fleet.PushObject(request)
    with pytest.raises(grpc.RpcError, match="request-bytes"):
        victim._fleet.PushObject(request)


@pytest.mark.parametrize(
    "method", ["PullMessages", "SendNodeHeartbeat", "PushMessages", "RegisterNode"]
)
def test_a_large_body_is_refused_before_it_is_parsed(
    method: str, door: Federation, victim: Link
) -> None:
    call = victim._channel.unary_unary(f"/flwr.proto.Fleet/{method}")
    with pytest.raises(grpc.RpcError) as refused:
        call(b"\xff" * 70_000)
    assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert refused.value.details() == "request-bytes"
    assert door.refusals()[-1] == ("victim", "request-bytes")


def test_a_body_beyond_every_limit_is_cut_off_on_its_way(victim: Link) -> None:
    call = victim._channel.unary_unary("/cloister.Door/Append")
    with pytest.raises(grpc.RpcError) as refused:
        call(b"x" * (transit.MAX_MESSAGE_BYTES + 1))
    assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


@pytest.mark.parametrize(
    "method",
    [
        "/flwr.proto.Fleet/GetRun",
        "/flwr.proto.Fleet/GetFab",
        "/flwr.proto.Fleet/UnregisterNode",
        "/flwr.proto.Control/StartRun",
        "/flwr.proto.ServerAppIo/PushMessages",
        "/cloister.Control/Stop",
        "/cloister.Control/Enrolled",
        "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
    ],
)
def test_no_other_method_is_served(method: str, victim: Link) -> None:
    with pytest.raises(grpc.RpcError) as refused:
        victim._channel.unary_unary(method)(b"")
    assert refused.value.code() is grpc.StatusCode.UNIMPLEMENTED


def test_a_field_that_flower_cannot_use_is_no_crash(door: Federation, victim: Link) -> None:
    with pytest.raises(grpc.RpcError) as refused:
        victim._fleet.SendNodeHeartbeat(
            heartbeat_pb2.SendNodeHeartbeatRequest(
                node=victim._node, heartbeat_interval=float("nan")
            )
        )
    assert refused.value.code() is grpc.StatusCode.FAILED_PRECONDITION


def test_a_site_writes_no_entry_in_anothers_name(
    door: Federation, pair: tuple[Federation, Site, Site], attacker: Link
) -> None:
    line = pair[1].home.journal()
    from privacy.audit.entry import Event

    line.record(Event.AGENT_STARTED, **runs_on("1"))
    with pytest.raises(ConfigError, match="expected an entry of attacker"):
        line.flush(attacker.append)
    line.close()


def test_the_door_is_closed_when_the_coordinator_is_gone(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    with Federation(tmp_path_factory.mktemp("gone")).serving() as made:
        site = made.enrol("a")
        link = site.link()
        made.stop()
        with pytest.raises(TransportError):
            link.hello()
        link.close()
