"""Replies that lie: told by the training process to its agent, or by an agent to the coordinator.

In each run the sites b and c lie once a round, each time otherwise, while a is honest. What a
added is what the run releases.
"""

import dataclasses
import struct
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message, MetricRecord, RecordDict
from flwr.common.serde import recorddict_from_proto, recorddict_to_proto
from flwr.proto.recorddict_pb2 import RecordDict as RecordDictProto

from client.link import Link
from client.worker import WorkerFailedError, WorkerTimeoutError
from model.tensors import packed_digest
from privacy import wire
from privacy.audit.entry import Event, parse_entry
from privacy.audit.verify import verify_log
from privacy.errors import OwnNotesError
from privacy.pki.identity import SigningKey
from privacy.plan import RoundsConfig, RunPlan
from tests.federation.world import (
    DEADLINE_S,
    NUM_TRAINED,
    PATIENCE_S,
    Federation,
    Lie,
    Trainer,
    nothing,
    quiet_plan,
)

pytestmark = pytest.mark.slow
PRIVATE_TEXT = "Jane Doe, born 1970"


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


def measuring(**metrics: int | float) -> Lie:
    """A reply with other metrics."""

    def lie(content: RecordDict) -> RecordDict:
        content["metrics"] = MetricRecord({**metrics})
        return content

    return lie


def adding(content: RecordDict) -> RecordDict:
    """A reply with a record of text beside the update."""
    content["notes"] = ConfigRecord({"first": PRIVATE_TEXT})
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
    ("the array has another name", "tensor-names", updating(ONES, PRIVATE_TEXT)),
    ("the update is missing", "unexpected-records", dropping),
    ("text stands beside it", "unexpected-records", adding),
    ("text stands inside it", "unexpected-keys", saying(note=PRIVATE_TEXT)),
    ("the version is another", "unexpected-keys", saying(version=3)),
    ("a field is missing", "unexpected-keys", saying(manifest=None)),
    ("other tensors are named", "tensor-names", saying(manifest=PRIVATE_TEXT)),
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
    (
        "it fails with text",
        "training-failed",
        failing(WorkerFailedError("x", "", PRIVATE_TEXT)),
        None,
    ),
    ("it takes too long", "deadline", failing(WorkerTimeoutError(PRIVATE_TEXT)), None),
    ("it answers with nothing", "malformed", None, lambda _answer: b""),
    ("it answers with text", "malformed", None, lambda _answer: PRIVATE_TEXT.encode() * 9),
    ("its header is no object", "malformed", None, lambda answer: header(b"[1]", answer)),
    ("its message is no message", "malformed", None, lambda answer: answer[:-9] + b"\xff" * 9),
    ("its message is an error", "unexpected-records", None, lambda answer: error_of(answer)),
]


def named(lies: Sequence[tuple[Any, ...]]) -> list[tuple[str, str]]:
    """What a lie is, and the rule that it breaks."""
    return [(lie[0], lie[1]) for lie in lies]


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
    message.error.CopyFrom(error_pb2.Error(code=1, reason=PRIVATE_TEXT))
    return answer[: 8 + size] + bytes(message.SerializeToString())


def place_of(number: int) -> tuple[str, int]:
    """Who tells a lie, and in which round."""
    return "bc"[number % 2], number // 2 + 1


@dataclasses.dataclass
class Told:
    """A run in which b and c lied."""

    federation: Federation
    plan: RunPlan

    def journal(self, number: int) -> list[tuple[Event, str]]:
        """What the liar's journal says about the round of a lie: events and rules."""
        site, server_round = place_of(number)
        journal = self.federation.sites[site].home.journal()
        entries = [parse_entry(line) for line, _ in journal.lines()]
        journal.close()
        return [
            (entry.event, entry.predicate.get("rule", ""))
            for entry in entries
            if entry.subjects.get("plan") == self.plan.digest
            and entry.predicate.get("server_round") == server_round
        ]

    def rejected(self, number: int) -> list[str]:
        """Rules by which the coordinator rejected a lie."""
        return [
            entry.predicate["rule"]
            for entry in self.federation.log()
            if entry.event is Event.UPDATE_REJECTED
            and entry.subjects["plan"] == self.plan.digest
            and (entry.predicate["site"], entry.predicate["server_round"]) == place_of(number)
        ]

    def check(self) -> None:
        """Check that a alone was added, in every round."""
        num_rounds = self.plan.rounds.num_rounds
        assert self.federation.coordinator is not None
        run = self.federation.coordinator.runs.get(self.plan.digest)
        assert run.state == "finished"
        assert [result.num_updates for result in run.rounds] == [1] * num_rounds
        np.testing.assert_allclose(
            self.federation.moved(self.plan), [1.0 * num_rounds] * NUM_TRAINED, rtol=1e-5
        )
        verify_log(self.federation.config.log_folder)


def lying_plan(name: str, num_lies: int) -> RunPlan:
    """A plan with a round for every two lies."""
    rounds = RoundsConfig(num_rounds=-(-num_lies // 2), min_sites=1, deadline_s=DEADLINE_S)
    return quiet_plan(name, rounds=rounds)


@pytest.fixture(scope="module")
def to_agent(shared: Federation) -> Told:
    """A run in which the training processes of b and c told every lie to their agents."""
    lies = [(lie, None, None) for _, _, lie in LIES]
    faults = [(nothing, fault, spoil) for _, _, fault, spoil in FAULTS]
    told = [*lies, *faults]
    plan = lying_plan("to agent", len(told))
    for name in "bc":
        trainer = shared.sites[name].trainer

        def before(server_round: int, name: str = name, trainer: Trainer = trainer) -> None:
            number = 2 * (server_round - 1) + "bc".index(name)
            lie, fault, spoil = told[number]
            trainer.lie, trainer.spoil = lie, spoil or (lambda answer: answer)
            if fault is not None:
                fault(server_round)

        trainer.before = before
    shared.run(plan, timeout_s=PATIENCE_S)
    return Told(shared, plan)


def test_what_a_training_process_may_not_say_is_not_added(to_agent: Told) -> None:
    to_agent.check()


@pytest.mark.parametrize(
    ("number", "rule"),
    [
        pytest.param(number, rule, id=name)
        for number, (name, rule) in enumerate([*named(LIES), *named(FAULTS)])
    ],
)
def test_nothing_leaves_the_site_when(to_agent: Told, number: int, rule: str) -> None:
    name, server_round = place_of(number)
    site, plan = to_agent.federation.sites[name], to_agent.plan
    # The evaluation of the last round may follow.
    assert to_agent.journal(number)[:2] == [
        (Event.BUDGET_RESERVED, ""),
        (Event.REPLY_REFUSED, rule),
    ]
    assert site.kept(plan, "train", server_round) is None
    assert "site-error" in to_agent.rejected(number)
    # The reservation stays spent.
    spent = [entry.key for entry in site.home.ledger().entries()]
    assert (plan.digest, plan.run_id, server_round) in spent


def test_own_notes_end_the_agent_and_no_log_says_so(tmp_path: Path) -> None:
    """A refusal that they decide would be a bit about records, with no noise and no budget."""
    with Federation(tmp_path / "own").serving() as world:
        for number, name in enumerate("ab"):
            world.enrol(name, float(number + 1)).start()
        site = world.sites["a"]
        site.trainer.before = failing(
            WorkerFailedError(OwnNotesError.__name__, "", "(own), got 0.5", hint="mend them")
        )
        rounds = RoundsConfig(num_rounds=1, min_sites=1, deadline_s=DEADLINE_S)
        plan = quiet_plan("own", "ab", rounds=rounds)
        world.offer(plan, wait_s=30.0)
        for other in world.sites.values():
            other.decide(plan)
        site.join()
        assert isinstance(site.error, OwnNotesError)
        assert "(own), got 0.5" in str(site.error)
        assert site.error.hint == "mend them"
        journal = site.home.journal()
        events = [parse_entry(line).event for line, _ in journal.lines()]
        journal.close()
        assert Event.REPLY_REFUSED not in events
        assert Event.INSTRUCTION_REFUSED not in events
        # Spent, and not used up: the round may be asked for again once the notes are mended.
        (entry,) = site.home.ledger().entries()
        assert entry.update_digest is None


def test_no_text_of_the_training_process_is_in_any_file_of_the_coordinator(
    to_agent: Told,
) -> None:
    for path in to_agent.federation.home.rglob("*"):
        if path.is_file():
            assert PRIVATE_TEXT.encode() not in path.read_bytes(), path


def signed(key: SigningKey, **changes: object) -> Callable[[wire.Reply, RunPlan], RecordDict]:
    """A reply with other parts, in itself without fault, signed with `key`."""

    def forge(reply: wire.Reply, plan: RunPlan) -> RecordDict:
        other = dataclasses.replace(reply, **changes)  # type: ignore[arg-type]
        if other.update is not None:
            digest = packed_digest(plan.trained_tensors, other.update)
            other = dataclasses.replace(other, update_digest=digest)
        return wire.write_reply(wire.sign_reply(other, key), plan)

    return forge


Forgery = Callable[[wire.Reply, RunPlan, dict[str, SigningKey]], RecordDict]


def forging(**changes: object) -> Forgery:
    """A reply with other parts, in itself without fault and signed by its site."""
    return lambda reply, plan, keys: signed(keys[reply.site], **changes)(reply, plan)


# What only an agent can do: it has a key.
FORGERIES: list[tuple[str, str, Forgery]] = [
    ("another update, signed", "unlogged-update", forging(update=ONES * 5)),
    ("too large an update, signed", "norm-bound", forging(update=ONES * 1000)),
    ("signed by another site", "signature", lambda r, p, keys: signed(keys["a"])(r, p)),
    ("another site's name, signed", "wrong-site", forging(site="a")),
    ("a later round, signed", "wrong-round", forging(server_round=99)),
    ("another kind, signed", "signature", lambda r, p, k: of_kind(r, p, k[r.site])),
    ("a signature of zeros", "signature", lambda r, p, _: unsigned(r, p, bytes(64))),
    ("no signature", "signature", lambda r, p, _: unsigned(r, p, b"")),
]


def unsigned(reply: wire.Reply, plan: RunPlan, signature: bytes) -> RecordDict:
    """A reply with something in the place of its signature."""
    return wire.write_reply(dataclasses.replace(reply, signature=signature), plan)


def of_kind(reply: wire.Reply, plan: RunPlan, key: SigningKey) -> RecordDict:
    """A reply with the signature of an evaluation."""
    other = dataclasses.replace(reply, kind="evaluate")
    return unsigned(reply, plan, wire.sign_reply(other, key).signature)


FORGED = [
    *((name, rule) for name, rule, _ in FORGERIES),
    ("a replay of round 1", "wrong-round"),
    ("an error with text", "site-error"),
]


@pytest.fixture(scope="module")
def to_coordinator(shared: Federation, to_agent: Told) -> Told:
    """A run in which the agents of b and c told every lie, and kept their logs clean."""
    keys = {name: site.home.signing_key() for name, site in shared.sites.items()}
    plan = lying_plan("to coordinator", len(LIES) + len(FORGED))
    honest = Link.push
    first: dict[str, bytes] = {}

    def push(link: Link, reply: Message) -> int:
        asked = reply.content.config_records.get("reply") if reply.has_content() else None
        if asked is None or asked["site"] == "a" or "update" not in reply.content:
            return honest(link, reply)
        name, server_round = str(asked["site"]), int(str(asked["server_round"]))
        number = 2 * (server_round - 1) + "bc".index(name)
        true = wire.read_reply(
            reply.content, kind="train", server_round=server_round, site=name, plan=plan
        )
        first.setdefault(name, recorddict_to_proto(reply.content).SerializeToString())
        if number < len(LIES):
            reply.content = LIES[number][2](reply.content)
        elif number < len(LIES) + len(FORGERIES):
            reply.content = FORGERIES[number - len(LIES)][2](true, plan, keys)
        elif number == len(LIES) + len(FORGERIES):
            reply.content = recorddict_from_proto(RecordDictProto.FromString(first[name]))
        else:
            reply = failed(reply)
        return honest(link, reply)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Link, "push", push)
        shared.run(plan, timeout_s=PATIENCE_S)
    return Told(shared, plan)


def failed(reply: Message) -> Message:
    """The same reply with an error in the place of its records."""
    metadata = reply.metadata
    instruction = Message(RecordDict(), metadata.src_node_id, "train")
    error = Message(Error(code=7, reason=PRIVATE_TEXT), reply_to=instruction)
    error.metadata.__dict__.update(metadata.__dict__)
    return error


def test_what_an_agent_may_not_say_is_not_added(to_coordinator: Told) -> None:
    to_coordinator.check()


@pytest.mark.parametrize(
    ("number", "rule"),
    [
        pytest.param(number, rule, id=name)
        for number, (name, rule) in enumerate([*named(LIES), *FORGED])
    ],
)
def test_the_coordinator_rejects(to_coordinator: Told, number: int, rule: str) -> None:
    assert to_coordinator.rejected(number) == [rule]


def test_no_text_of_an_agent_is_in_any_file_of_the_coordinator(to_coordinator: Told) -> None:
    for path in to_coordinator.federation.home.rglob("*"):
        if path.is_file():
            assert PRIVATE_TEXT.encode() not in path.read_bytes(), path
