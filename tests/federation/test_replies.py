"""Replies that lie: told by the training process to its agent, or by an agent to the coordinator.

In each run the site c lies once a round, each time otherwise, while a and b are honest. What a and
b added is what the run releases.
"""

import dataclasses
import struct
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message, MetricRecord, RecordDict

from client.agent import Link
from client.worker import WorkerFailedError, WorkerTimeoutError
from model.tensors import packed_digest
from privacy import wire
from privacy.audit.entry import Event, parse_entry
from privacy.audit.verify import verify_log
from privacy.pki.identity import SigningKey
from privacy.plan import RunPlan
from tests.federation.world import NUM_TRAINED, Federation, Lie, Site, quiet_plan

SECRET = "Jane Doe, born 1970"


def updating(values: np.ndarray, name: str = "packed") -> Lie:
    """A reply with other numbers, and the digest of the true ones."""

    def lie(content: RecordDict) -> RecordDict:
        content["update"] = ArrayRecord({name: Array(values)})
        return content

    return lie


def saying(**fields: object) -> Lie:
    """A reply with other fields; None takes one away."""

    def lie(content: RecordDict) -> RecordDict:
        record = dict(content.config_records["reply"]) | fields
        content["reply"] = ConfigRecord(
            {name: value for name, value in record.items() if value is not None}  # type: ignore[misc]
        )
        return content

    return lie


def measuring(**metrics: float) -> Lie:
    """A reply with other metrics."""

    def lie(content: RecordDict) -> RecordDict:
        content["metrics"] = MetricRecord(metrics)
        return content

    return lie


def adding(content: RecordDict) -> RecordDict:
    """A reply with a record of text beside the update."""
    content["notes"] = ConfigRecord({"first": SECRET})
    return content


def dropping(content: RecordDict) -> RecordDict:
    """A reply without its update."""
    del content["update"]
    return content


def failing(error: Exception) -> Callable[[int], None]:
    """A training process that fails."""

    def before(_server_round: int) -> None:
        raise error

    return before


ONES = np.ones(NUM_TRAINED, dtype=np.float32)
SHORT, LONG = ONES[:-1], np.ones(NUM_TRAINED * 40, dtype=np.float32)
INFINITE = np.append(ONES[1:], np.float32("inf"))
NAN = np.append(ONES[1:], np.float32("nan"))

# One lie for each round, and the rule that it breaks.
LIES: list[tuple[str, str, Lie]] = [
    ("a value is not a number", "not-finite", updating(NAN)),
    ("a value is infinite", "not-finite", updating(INFINITE)),
    ("a value is missing", "tensor-shape", updating(SHORT)),
    ("there are more values", "tensor-shape", updating(LONG)),
    ("the values have two axes", "tensor-shape", updating(ONES.reshape(2, 4))),
    ("the values are float16", "tensor-dtype", updating(ONES.astype("f2"))),
    ("the array has another name", "tensor-names", updating(ONES, SECRET)),
    ("the update is missing", "unexpected-records", dropping),
    ("text stands beside it", "unexpected-records", adding),
    ("text stands inside it", "unexpected-keys", saying(note=SECRET)),
    ("the version is another", "unexpected-keys", saying(version=3)),
    ("a field is missing", "unexpected-keys", saying(manifest=None)),
    ("other tensors are named", "tensor-names", saying(manifest=SECRET)),
    ("another plan is named", "wrong-plan", saying(plan="sha256:" + "3" * 64)),
    ("another round is named", "wrong-round", saying(server_round=40)),
    ("another site is named", "wrong-site", saying(site="a")),
    ("the digest is another", "digest-mismatch", saying(update_digest="sha256:" + "4" * 64)),
    ("the values are not of the digest", "digest-mismatch", updating(ONES * 5)),
    ("the norm is too large", "norm-bound", updating(ONES * 1000)),
    ("the bytes are too many", "byte-bound", saying(signature=b"x" * 60_000)),
    ("a metric is unknown", "metric-keys", measuring(num_steps=1, num_patients=17)),
    ("a metric is another number", "metric-keys", measuring(num_steps=17)),
    ("a metric is a fraction", "metric-keys", measuring(num_steps=0.17)),
]
# What only a training process can do to its agent.
FAULTS: list[tuple[str, str, Callable[[int], None] | None, Callable[[bytes], bytes] | None]] = [
    ("it fails with text", "training-failed", failing(WorkerFailedError("x", "", SECRET)), None),
    ("it takes too long", "deadline", failing(WorkerTimeoutError(SECRET)), None),
    ("it answers with nothing", "malformed", None, lambda _answer: b""),
    ("it answers with text", "malformed", None, lambda _answer: SECRET.encode() * 9),
    ("its header is no object", "malformed", None, lambda answer: header(b"[1]", answer)),
    ("its message is no message", "malformed", None, lambda answer: answer[:-9] + b"\xff" * 9),
    ("its message is an error", "unexpected-records", None, lambda answer: error_of(answer)),
]


def header(local: bytes, answer: bytes) -> bytes:
    """The answer with another part for the site itself."""
    (size,) = struct.unpack("!Q", answer[:8])
    return struct.pack("!Q", len(local)) + local + answer[8 + size :]


def error_of(answer: bytes) -> bytes:
    """An answer that carries an exception's text instead of records."""
    from flwr.proto import error_pb2, message_pb2

    (size,) = struct.unpack("!Q", answer[:8])
    message = message_pb2.Message.FromString(answer[8 + size :])
    message.ClearField("content")
    message.error.CopyFrom(error_pb2.Error(code=1, reason=SECRET))
    return answer[: 8 + size] + message.SerializeToString()


@dataclasses.dataclass
class Told:
    """A run in which c lied."""

    federation: Federation
    plan: RunPlan
    site: Site

    def journal(self, server_round: int) -> list[tuple[Event, str]]:
        """What c's journal says about a round: events and rules."""
        journal = self.site.home.journal()
        entries = [parse_entry(line) for line, _ in journal.lines()]
        journal.close()
        return [
            (entry.event, entry.predicate.get("rule", ""))
            for entry in entries
            if entry.subjects.get("plan") == self.plan.digest
            and entry.predicate.get("server_round") == server_round
        ]

    def rejected(self, server_round: int) -> list[str]:
        """Rules by which the coordinator rejected c's reply of a round."""
        return [
            entry.predicate["rule"]
            for entry in self.federation.log()
            if entry.event is Event.UPDATE_REJECTED
            and entry.subjects["plan"] == self.plan.digest
            and (entry.predicate["site"], entry.predicate["server_round"]) == ("c", server_round)
        ]

    def check(self) -> None:
        """Check that only a and b were added, in every round."""
        num_rounds = self.plan.rounds.num_rounds
        assert self.federation.coordinator is not None
        run = self.federation.coordinator.runs.get(self.plan.digest)
        assert run.state == "finished"
        assert [result.num_updates for result in run.rounds] == [2] * num_rounds
        np.testing.assert_allclose(
            self.federation.moved(self.plan), [1.5 * num_rounds] * NUM_TRAINED, rtol=1e-5
        )
        verify_log(self.federation.config.log_folder)


@pytest.fixture(scope="module")
def to_agent(shared: Federation) -> Told:
    """A run in which c's training process told every lie to its agent."""
    site = shared.sites["c"]
    plan = quiet_plan("to agent", num_rounds=len(LIES) + len(FAULTS))
    trainer = site.trainer

    def before(server_round: int) -> None:
        place = server_round - 1 - len(LIES)
        trainer.lie = LIES[server_round - 1][2] if place < 0 else trainer.lie
        if place == 0:
            trainer.lie = lambda content: content
        if place >= 0 and shared.sites["c"].agent is not None:
            _, _, fault, spoil = FAULTS[place]
            trainer.spoil = spoil or (lambda answer: answer)
            if fault is not None:
                fault(server_round)

    trainer.before = before
    shared.run(plan, timeout_s=50)
    return Told(shared, plan, site)


def test_what_a_training_process_may_not_say_is_not_added(to_agent: Told) -> None:
    to_agent.check()


@pytest.mark.parametrize(
    ("number", "rule"),
    [
        pytest.param(number, rule, id=name)
        for number, (name, rule, *_) in enumerate([*LIES, *FAULTS])
    ],
)
def test_nothing_leaves_the_site_when(to_agent: Told, number: int, rule: str) -> None:
    server_round = number + 1
    assert to_agent.journal(server_round)[:2] == [
        (Event.BUDGET_RESERVED, ""),
        (Event.REPLY_REFUSED, rule),
    ]
    assert to_agent.site.kept(to_agent.plan, "train", server_round) is None
    assert to_agent.rejected(server_round) == ["site-error"]
    # The reservation stays spent.
    spent = [entry.key for entry in to_agent.site.home.ledger().entries()]
    assert (to_agent.plan.digest, to_agent.plan.run_id, server_round) in spent


def test_no_text_of_the_training_process_is_in_any_file_of_the_coordinator(
    to_agent: Told,
) -> None:
    for path in to_agent.federation.home.rglob("*"):
        if path.is_file():
            assert SECRET.encode() not in path.read_bytes(), path


def signed(key: SigningKey, **changes: Any) -> Callable[[wire.Reply, RunPlan], RecordDict]:
    """A reply with other parts, in itself without fault, signed with `key`."""

    def forge(reply: wire.Reply, plan: RunPlan) -> RecordDict:
        other = dataclasses.replace(reply, **changes)
        if other.update is not None:
            digest = packed_digest(plan.trained_tensors, other.update)
            other = dataclasses.replace(other, update_digest=digest)
        return wire.write_reply(wire.sign_reply(other, key), plan)

    return forge


@pytest.fixture(scope="module")
def forgeries(
    shared: Federation,
) -> list[tuple[str, str, Callable[[wire.Reply, RunPlan], RecordDict]]]:
    """What only an agent can do: it has a key."""
    own, other = (shared.sites[name].home.signing_key() for name in "ca")
    return [
        ("another update, signed", "unlogged-update", signed(own, update=ONES * 5)),
        ("too large an update, signed", "norm-bound", signed(own, update=ONES * 1000)),
        ("signed by another site", "signature", signed(other)),
        ("another site's name, signed", "wrong-site", signed(own, site="a")),
        ("another round, signed", "wrong-round", signed(own, server_round=1)),
        ("another kind, signed", "signature", signed(own, kind="evaluate")),
    ]


@pytest.fixture(scope="module")
def to_coordinator(shared: Federation, to_agent: Told, forgeries: Any) -> Iterator[Told]:
    """A run in which c's agent told every lie to the coordinator, and kept its log clean."""
    site = shared.sites["c"]
    plan = quiet_plan("to coordinator", num_rounds=len(LIES) + len(forgeries) + 4)
    honest = Link.push
    first: list[RecordDict] = []

    def push(link: Link, reply: Message) -> int:
        asked = reply.content.config_records.get("reply") if reply.has_content() else None
        if asked is None or asked["site"] != "c" or "update" not in reply.content:
            return honest(link, reply)
        server_round = int(str(asked["server_round"]))
        place = server_round - 1
        content = reply.content
        first.append(wire.write_reply(read(content, server_round), plan))
        if place < len(LIES):
            content = LIES[place][2](content)
        elif place < len(LIES) + len(forgeries):
            content = forgeries[place - len(LIES)][2](read(content, server_round), plan)
        elif place == len(LIES) + len(forgeries):
            content = saying(signature=b"\0" * 64)(content)
        elif place == len(LIES) + len(forgeries) + 1:
            content = saying(signature=b"")(content)
        elif place == len(LIES) + len(forgeries) + 2:
            content = first[0]
        else:
            error = Message(Error(code=7, reason=SECRET), reply_to=instruction_of(reply))
            return honest(link, error)
        reply.content = content
        return honest(link, reply)

    def read(content: RecordDict, server_round: int) -> wire.Reply:
        return wire.read_reply(
            content, kind="train", server_round=server_round, site="c", plan=plan
        )

    def instruction_of(reply: Message) -> Message:
        made = Message(RecordDict(), reply.metadata.src_node_id, "train")
        metadata = reply.metadata
        made.metadata.__dict__["_message_id"] = metadata.reply_to_message_id
        made.metadata.__dict__["_src_node_id"] = metadata.dst_node_id
        made.metadata.__dict__["_run_id"] = metadata.run_id
        return made

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Link, "push", push)
        shared.run(plan, timeout_s=50)
    yield Told(shared, plan, site)


def test_what_an_agent_may_not_say_is_not_added(to_coordinator: Told) -> None:
    to_coordinator.check()


FORGED = [
    ("another update, signed", "unlogged-update"),
    ("too large an update, signed", "norm-bound"),
    ("signed by another site", "signature"),
    ("another site's name, signed", "wrong-site"),
    ("another round, signed", "wrong-round"),
    ("another kind, signed", "signature"),
    ("a signature of zeros", "signature"),
    ("no signature", "signature"),
    ("a replay of round 1", "wrong-round"),
    ("an error with text", "site-error"),
]


@pytest.mark.parametrize(
    ("number", "rule"),
    [
        pytest.param(number, rule, id=name)
        for number, (name, rule, *_) in enumerate([*LIES, *FORGED])
    ],
)
def test_the_coordinator_rejects(to_coordinator: Told, number: int, rule: str) -> None:
    assert to_coordinator.rejected(number + 1) == [rule]


def test_no_text_of_an_agent_is_in_any_file_of_the_coordinator(to_coordinator: Told) -> None:
    for path in to_coordinator.federation.home.rglob("*"):
        if path.is_file():
            assert SECRET.encode() not in path.read_bytes(), path
