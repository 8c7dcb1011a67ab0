"""What crosses a site's boundary: it comes back as it was written, or not at all."""

import dataclasses
import io
from collections.abc import Callable

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from flwr.common.serde import recorddict_from_proto, recorddict_to_proto
from flwr.proto.recorddict_pb2 import RecordDict as RecordDictProto
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from model.config import AdapterConfig, BaseRef, TensorSpec
from model.tensors import packed_digest
from privacy import wire
from privacy.dp.config import MechanismConfig, Unit
from privacy.errors import InstructionRefusedError, ReplyRefusedError, RuleError
from privacy.masking.config import MaskingConfig
from privacy.pki.identity import SigningKey
from privacy.plan import (
    ExitConfig,
    OptimizerConfig,
    RoundsConfig,
    RunPlan,
    SiteShare,
    TextConfig,
)

SPECS = (
    TensorSpec(name="layer.lora_A.weight", shape=(2, 3), trained=False),
    TensorSpec(name="layer.lora_B.weight", shape=(4, 2), trained=True),
)
INITIAL = np.arange(14, dtype=np.float32)
KEY = SigningKey.generate()
PLAN = RunPlan(
    federation="regio",
    run="triage",
    base=BaseRef(name="nano", digest="sha256:" + "0" * 64),
    adapter=AdapterConfig(lora_rank=2, lora_alpha=4),
    tensors=SPECS,
    initial_adapter=packed_digest(SPECS, INITIAL),
    text=TextConfig(),
    masking=MaskingConfig(),
    mechanism=MechanismConfig(
        unit=Unit.RECORD,
        target_epsilon=8.0,
        delta=1e-3,
        noise_multiplier=2.0,
        clip_norm=1.0,
        sample_rate=0.1,
        steps_per_round=3,
    ),
    optimizer=OptimizerConfig(),
    rounds=RoundsConfig(num_rounds=5, min_sites=1),
    exits=ExitConfig(max_update_norm=100.0, max_update_bytes=10_000, metrics=("num_steps",)),
    sites=(SiteShare(name="a", num_units=100),),
)
BOTH = dataclasses.replace(
    PLAN,
    adapter=AdapterConfig(lora_rank=2, lora_alpha=4, train="AB"),
    tensors=tuple(dataclasses.replace(spec, trained=True) for spec in SPECS),
)
LOWER = dataclasses.replace(PLAN, sites=(SiteShare(name="a", num_units=100, lora_rank=1),))
UPDATES = st.lists(st.floats(-30, 30, width=32, allow_nan=False), min_size=8, max_size=8).map(
    lambda values: np.array(values, dtype=np.float32)
)
QUICK = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def make_reply(update: np.ndarray, server_round: int = 2) -> wire.Reply:
    """A signed reply without fault."""
    reply = wire.Reply(
        kind="train",
        plan=PLAN.digest,
        server_round=server_round,
        site="a",
        update=update,
        update_digest=packed_digest(PLAN.trained_tensors, update),
        metrics={"num_steps": 3},
    )
    return wire.sign_reply(reply, KEY)


def accept(content: RecordDict, server_round: int = 2) -> wire.Reply:
    """Read a reply as the coordinator does, with its signature."""
    reply = wire.read_reply(content, kind="train", server_round=server_round, site="a", plan=PLAN)
    wire.verify_reply(reply, KEY.public_key)
    return reply


@QUICK
@given(update=UPDATES, server_round=st.integers(1, 5))
def test_a_reply_comes_back_as_it_was_written(update: np.ndarray, server_round: int) -> None:
    reply = make_reply(update, server_round)
    written = recorddict_to_proto(wire.write_reply(reply, PLAN)).SerializeToString()
    content = recorddict_from_proto(RecordDictProto.FromString(written))
    read = accept(content, server_round)
    assert read.update is not None
    assert read.update.tobytes() == update.tobytes()
    for field in ("kind", "plan", "server_round", "site", "update_digest", "signature"):
        assert getattr(read, field) == getattr(reply, field)
    assert dict(read.metrics) == {"num_steps": 3}


@QUICK
@given(data=st.data())
def test_no_changed_byte_of_a_reply_passes_as_other_content(data: st.DataObject) -> None:
    update = np.arange(8, dtype=np.float32)
    reply = make_reply(update)
    written = bytearray(recorddict_to_proto(wire.write_reply(reply, PLAN)).SerializeToString())
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, len(written) - 1))
        written[place] = data.draw(st.integers(0, 255))
    try:
        content = recorddict_from_proto(RecordDictProto.FromString(bytes(written)))
    except wire.UNREADABLE:
        return
    try:
        read = accept(content)
    except ReplyRefusedError:
        return
    # What is accepted is what was signed: a change that means nothing (such as a name's order).
    assert read.update is not None
    assert read.update.tobytes() == update.tobytes()
    assert read.signed_bytes() == reply.signed_bytes()


VALUES = st.one_of(
    st.integers(-5, 5),
    st.floats(allow_nan=True),
    st.text(max_size=5),
    st.binary(max_size=5),
    st.booleans(),
    st.lists(st.integers(-5, 5), max_size=3),
)


@QUICK
@given(
    record=st.sampled_from(["reply", "metrics", "update", "other"]),
    field=st.sampled_from(
        (
            *("version", "plan", "server_round", "site", "update_digest", "manifest"),
            *("signature", "num_steps", "packed", "x"),
        )
    ),
    value=VALUES,
)
def test_no_changed_field_of_a_reply_passes_as_other_content(
    record: str, field: str, value: object
) -> None:
    reply = make_reply(np.ones(8, dtype=np.float32))
    content = wire.write_reply(reply, PLAN)
    try:
        if record not in content:
            content[record] = ConfigRecord({field: value})  # type: ignore[dict-item]
        else:
            content[record][field] = value  # type: ignore[assignment]
    except (TypeError, ValueError):
        return
    try:
        read = accept(content)
    except ReplyRefusedError:
        return
    assert read.signed_bytes() == reply.signed_bytes()
    assert read.update is not None
    assert (read.update == 1).all()


@QUICK
@given(
    field=st.sampled_from(
        ["version", "plan", "server_round", "adapter_digest", "manifest", "metrics", "x"]
    ),
    value=VALUES,
)
def test_no_changed_field_of_an_instruction_passes_as_another_instruction(
    field: str, value: object
) -> None:
    content = make_instruction()
    try:
        content.config_records["instruction"][field] = value  # type: ignore[assignment]
    except (TypeError, ValueError):
        return
    try:
        read = wire.read_instruction(content, "train", PLAN)
    except InstructionRefusedError:
        return
    assert 1 <= read.server_round <= 5
    assert set(read.metrics) <= {"num_steps"}
    assert read.adapter.tobytes() == INITIAL.tobytes()


def make_instruction(server_round: int = 1) -> RecordDict:
    """An instruction without fault."""
    return wire.write_instruction(
        wire.Instruction(
            kind="train",
            plan=PLAN.digest,
            server_round=server_round,
            adapter=INITIAL,
            metrics=("num_steps",),
        ),
        PLAN,
    )


def test_an_instruction_comes_back_as_it_was_written() -> None:
    read = wire.read_instruction(make_instruction(), "train", PLAN)
    assert (read.kind, read.plan, read.server_round) == ("train", PLAN.digest, 1)
    assert read.metrics == ("num_steps",)
    assert read.adapter.tobytes() == INITIAL.tobytes()


def test_an_evaluation_carries_no_number() -> None:
    reply = wire.Reply(
        kind="evaluate",
        plan=PLAN.digest,
        server_round=5,
        site="a",
        update=None,
        update_digest=wire.NO_UPDATE,
        metrics={},
    )
    content = wire.write_reply(wire.sign_reply(reply, KEY), PLAN)
    assert set(content) == {"reply"}
    read = wire.read_reply(content, kind="evaluate", server_round=5, site="a", plan=PLAN)
    wire.verify_reply(read, KEY.public_key)
    content["metrics"] = MetricRecord({"accuracy": 0.9})
    with pytest.raises(ReplyRefusedError) as refused:
        wire.read_reply(content, kind="evaluate", server_round=5, site="a", plan=PLAN)
    assert refused.value.rule == "unexpected-records"


def test_a_pickled_array_is_never_unpickled() -> None:
    opened: list[int] = []

    class Bomb:
        def __reduce__(self) -> tuple[Callable[[int], None], tuple[int]]:
            return opened.append, (1,)

    buffer = io.BytesIO()
    np.save(buffer, np.array([Bomb()], dtype=object), allow_pickle=True)
    array = Array(dtype="object", shape=(1,), stype="numpy.ndarray", data=buffer.getvalue())
    for content, read in (
        (wire.write_reply(make_reply(np.ones(8, dtype=np.float32)), PLAN), accept),
        (make_instruction(), lambda c: wire.read_instruction(c, "train", PLAN)),
    ):
        content["update" if "update" in content else "adapter"] = ArrayRecord({"packed": array})
        with pytest.raises(RuleError) as refused:
            read(content)
        assert refused.value.rule == "tensor-shape"
    assert opened == []


def test_bytes_behind_the_array_are_too_many_or_unread() -> None:
    reply = make_reply(np.ones(8, dtype=np.float32))
    content = wire.write_reply(reply, PLAN)
    packed = content.array_records["update"]["packed"]
    packed.data += b"secret" * 60
    with pytest.raises(ReplyRefusedError) as refused:
        accept(content)
    assert refused.value.rule == "tensor-shape"


@pytest.mark.parametrize(
    "change",
    [
        {"site": "b"},
        {"server_round": 3},
        {"kind": "evaluate"},
        {"plan": "sha256:" + "1" * 64},
        {"update_digest": "sha256:" + "1" * 64},
        {"metrics": {}},
    ],
)
def test_a_signature_covers_every_part(change: dict[str, object]) -> None:
    reply = make_reply(np.ones(8, dtype=np.float32))
    wire.verify_reply(reply, KEY.public_key)
    with pytest.raises(ReplyRefusedError) as refused:
        wire.verify_reply(dataclasses.replace(reply, **change), KEY.public_key)  # type: ignore[arg-type]
    assert refused.value.rule == "signature"


def test_a_signature_over_a_reply_is_none_over_anything_else() -> None:
    assert make_reply(INITIAL[:8]).signed_bytes().startswith(b"cloister reply v1\n")


@pytest.mark.parametrize(
    "change", [lambda spec: -0.0 * spec, lambda spec: spec + np.float32(1e-7)]
)
def test_the_digest_tells_the_smallest_difference(
    change: Callable[[np.ndarray], np.ndarray],
) -> None:
    zeros = np.zeros(8, dtype=np.float32)
    other = change(zeros).astype(np.float32)
    assert packed_digest(PLAN.trained_tensors, zeros) != packed_digest(PLAN.trained_tensors, other)


@pytest.mark.parametrize(
    "header",
    [
        b"{'descr': '<f4', (",
        b"{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000000000,), }",
        b"{'descr': '<f4', 'fortran_order': False, 'shape': (10000000000000000000000,), }",
        b"{'descr': '<f4', 'fortran_order': False, 'shape': (True,), }",
        b"{[]: 1}",
        b"{'descr': '<f4', 'fortran_order': True, 'shape': (2,), }",
        b"",
    ],
)
def test_a_crafted_array_header_is_a_broken_rule_and_nothing_else(header: bytes) -> None:
    specs = (TensorSpec(name="b", shape=(2,), trained=True),)
    data = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + b"\0" * 8
    record = ArrayRecord({"packed": Array("float32", (2,), "numpy.ndarray", data)})
    with pytest.raises(ReplyRefusedError) as refused:
        wire._packed(record, specs, ReplyRefusedError)
    assert refused.value.rule == "tensor-shape"


def of_round(plan: RunPlan, server_round: int, update: np.ndarray) -> RecordDict:
    """A reply to a round of another plan."""
    reply = wire.Reply(
        kind="train",
        plan=plan.digest,
        server_round=server_round,
        site="a",
        update=update,
        update_digest=packed_digest(plan.update_tensors(server_round), update),
        metrics={},
    )
    return wire.write_reply(reply, plan)


def read_of(plan: RunPlan, server_round: int, content: RecordDict) -> np.ndarray:
    reply = wire.read_reply(content, kind="train", server_round=server_round, site="a", plan=plan)
    assert reply.update is not None
    return reply.update


@pytest.mark.parametrize(("server_round", "size"), [(1, 8), (2, 6), (3, 8), (4, 6)])
def test_an_update_holds_the_factor_whose_turn_it_is(server_round: int, size: int) -> None:
    content = of_round(BOTH, server_round, np.ones(size, dtype=np.float32))
    assert read_of(BOTH, server_round, content).shape == (size,)
    (name,) = [spec.name for spec in BOTH.update_tensors(server_round)]
    assert name == f"layer.lora_{'B' if size == 8 else 'A'}.weight"


def test_the_factor_of_another_round_does_not_leave() -> None:
    content = of_round(BOTH, 1, np.ones(8, dtype=np.float32))
    fields = content.config_records["reply"]
    fields["server_round"] = 2
    with pytest.raises(ReplyRefusedError) as refused:
        read_of(BOTH, 2, content)
    assert refused.value.rule == "tensor-names"
    fields["manifest"] = wire.manifest_text(SPECS[:1])
    with pytest.raises(ReplyRefusedError) as refused:
        read_of(BOTH, 2, content)
    assert refused.value.rule == "tensor-shape"


@pytest.mark.parametrize("value", [1.0, 1e-45, -0.0])
def test_nothing_leaves_beyond_a_sites_rank_not_even_a_sign(value: float) -> None:
    # B has four rows of two columns; a site of rank 1 trains the first column.
    inside = np.array([1, 0] * 4, dtype=np.float32)
    assert read_of(LOWER, 1, of_round(LOWER, 1, inside)).tolist() == inside.tolist()
    beyond = inside.copy()
    beyond[5] = value
    with pytest.raises(ReplyRefusedError) as refused:
        read_of(LOWER, 1, of_round(LOWER, 1, beyond))
    assert refused.value.rule == "rank-bound"
    assert read_of(PLAN, 1, of_round(PLAN, 1, beyond)).tolist() == beyond.tolist()
