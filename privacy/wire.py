"""Everything that crosses a site's boundary, read strictly on both sides.

Down goes an *instruction*: train or evaluate, under one plan, in one round, from one adapter. Up
comes a *reply*: for `train` the update and nothing else but the metrics that the plan names, for
`evaluate` a receipt without numbers. Both are Flower records with exactly these keys; what is
missing, unknown or too many is refused by a rule with a name. The rule is all that the other side
learns.

    instruction   "instruction": ConfigRecord {version, plan, server_round, adapter_digest,
                  manifest, metrics}
                  "adapter": ArrayRecord {"packed": float32 (N,)}: every tensor of the plan
    reply         "reply": ConfigRecord {version, plan, server_round, site, update_digest,
                  manifest, signature}
                  "update": ArrayRecord {"packed": float32 (M,)}: the tensors that train in this
                  round, new minus old, zero beyond the site's rank; `train` only
                  "metrics": MetricRecord {key: int}: `train` only, and only keys of the plan

A site signs (site, kind, plan, round, digest of the update, metrics), so the coordinator can show
whose update it added and nobody else can send one.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import rfc8785
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

from model.config import TensorSpec
from model.tensors import manifest, packed_digest, packed_size
from privacy.errors import InstructionRefusedError, ReplyRefusedError, RuleError, VerificationError
from privacy.pki.identity import SigningKey, verify
from privacy.plan import RunPlan

Kind = Literal["train", "evaluate"]
KINDS: tuple[Kind, ...] = ("train", "evaluate")
WIRE_VERSION = 1
NO_UPDATE = "sha256:" + "0" * 64
# An .npy header is 128 bytes for a vector; more means that something else came along.
_ARRAY_OVERHEAD_BYTES = 256
_SIGNING_CONTEXT = b"cloister reply v1\n"
# What numpy.save writes for an array of simple values, and nothing else.
_NPY_HEADER = re.compile(
    rb"\x93NUMPY\x01\x00[\s\S]{2}\{'descr': '(?P<dtype>[^']{1,16})', 'fortran_order': False, "
    rb"'shape': \((?P<shape>[0-9, ]{0,60})\), \} {0,200}\n"
)
# What Flower and protobuf raise for bytes of the other side that make no message.
UNREADABLE = (
    ValueError,
    KeyError,
    TypeError,
    AttributeError,
    IndexError,
    OverflowError,
    RecursionError,
    DecodeError,
)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Instruction:
    """What the coordinator asks of a site.

    Attributes:
      kind: `train` or `evaluate`.
      plan: Digest of the plan under which it asks.
      server_round: Round, from 1; for `evaluate`, the last round.
      adapter: The global adapter, float32 (N,), every tensor of the plan in its order.
      metrics: Keys that the reply is to carry.
    """

    kind: Kind
    plan: str
    server_round: int
    adapter: np.ndarray
    metrics: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Reply:
    """What a site lets out.

    Attributes:
      kind: As asked.
      plan: As asked.
      server_round: As asked.
      site: Who replies.
      update: New minus old adapter, float32 (M,), the tensors that train in this round, in the
        plan's order, zero beyond the site's rank; None for `evaluate`.
      update_digest: Digest of the update, `NO_UPDATE` for `evaluate`.
      metrics: Numbers whose keys the plan names.
      signature: by the site's signing key over all of it; empty before signing.
    """

    kind: Kind
    plan: str
    server_round: int
    site: str
    update: np.ndarray | None
    update_digest: str
    metrics: Mapping[str, int]
    signature: bytes = b""

    def signed_bytes(self) -> bytes:
        """What the signature covers: canonical JSON behind a context of its own."""
        return _SIGNING_CONTEXT + rfc8785.dumps(
            {
                "kind": self.kind,
                "metrics": dict(self.metrics),
                "plan": self.plan,
                "server_round": self.server_round,
                "site": self.site,
                "update_digest": self.update_digest,
            }
        )


def manifest_text(specs: Sequence[TensorSpec]) -> str:
    """Names and shapes in order, as canonical JSON: what both sides take a packed array for."""
    return rfc8785.dumps(manifest(specs)).decode()


def instruction_plan(content: RecordDict) -> str:
    """The plan digest that an instruction names, before anything else of it is believed.

    Raises:
      InstructionRefusedError: There is no such field.
    """
    record = content.get("instruction")
    plan = record.get("plan") if isinstance(record, ConfigRecord) else None
    if not isinstance(plan, str):
        raise InstructionRefusedError(
            "unexpected-records", "expected an instruction that names a plan"
        )
    return plan


def write_instruction(instruction: Instruction, plan: RunPlan) -> RecordDict:
    """The Flower records of `instruction`."""
    return RecordDict(
        {
            "adapter": ArrayRecord(
                {"packed": Array(np.ascontiguousarray(instruction.adapter, dtype=np.float32))}
            ),
            "instruction": ConfigRecord(
                {
                    "version": WIRE_VERSION,
                    "plan": instruction.plan,
                    "server_round": instruction.server_round,
                    "adapter_digest": packed_digest(plan.tensors, instruction.adapter),
                    "manifest": manifest_text(plan.tensors),
                    "metrics": list(instruction.metrics),
                }
            ),
        }
    )


def read_instruction(content: RecordDict, message_type: str, plan: RunPlan) -> Instruction:
    """Check an instruction against the plan that it names, field by field.

    Raises:
      InstructionRefusedError: With the rule that it breaks: `message-type`, `unexpected-records`,
        `unexpected-keys`, `wrong-plan`, `wrong-round`, `metric-keys`, `tensor-names`,
        `tensor-shape`, `tensor-dtype`, `not-finite`, `digest-mismatch`.
    """
    refuse = InstructionRefusedError
    if message_type not in KINDS:
        raise refuse(
            "message-type", f"expected message type train or evaluate, got {message_type!r}"
        )
    kind: Kind = "train" if message_type == "train" else "evaluate"
    _check_keys(content, {"adapter": ArrayRecord, "instruction": ConfigRecord}, refuse)
    fields = _fields(
        content["instruction"],
        {
            "version": int,
            "plan": str,
            "server_round": int,
            "adapter_digest": str,
            "manifest": str,
            "metrics": list,
        },
        refuse,
    )
    server_round = fields["server_round"]
    if fields["version"] != WIRE_VERSION:
        raise refuse(
            "unexpected-keys", f"expected version {WIRE_VERSION}, got {fields['version']}"
        )
    if fields["plan"] != plan.digest:
        raise refuse("wrong-plan", f"expected plan {plan.digest}, got {fields['plan']}")
    num_rounds = plan.rounds.num_rounds
    if not 1 <= server_round <= num_rounds:
        raise refuse("wrong-round", f"expected a round from 1 to {num_rounds}, got {server_round}")
    if kind == "evaluate" and server_round != num_rounds:
        raise refuse(
            "wrong-round", f"expected evaluation in round {num_rounds}, got {server_round}"
        )
    unknown = sorted(set(map(str, fields["metrics"])) - set(plan.exits.metrics))
    if unknown:
        raise refuse(
            "metric-keys", f"expected metrics from {list(plan.exits.metrics)}, got {unknown}"
        )
    if fields["manifest"] != manifest_text(plan.tensors):
        raise refuse("tensor-names", "expected the plan's tensors, by name and shape")
    adapter = _packed(content["adapter"], plan.tensors, refuse)
    if packed_digest(plan.tensors, adapter) != fields["adapter_digest"]:
        raise refuse("digest-mismatch", "expected an adapter that matches its digest")
    if server_round == 1 and kind == "train" and fields["adapter_digest"] != plan.initial_adapter:
        raise refuse("digest-mismatch", f"expected round 1 to start from {plan.initial_adapter}")
    return Instruction(
        kind=kind,
        plan=plan.digest,
        server_round=server_round,
        adapter=adapter,
        metrics=tuple(fields["metrics"]),
    )


def write_reply(reply: Reply, plan: RunPlan) -> RecordDict:
    """The Flower records of `reply`."""
    content = RecordDict(
        {
            "reply": ConfigRecord(
                {
                    "version": WIRE_VERSION,
                    "plan": reply.plan,
                    "server_round": reply.server_round,
                    "site": reply.site,
                    "update_digest": reply.update_digest,
                    "manifest": manifest_text(plan.update_tensors(reply.server_round))
                    if reply.update is not None
                    else "[]",
                    "signature": reply.signature,
                }
            )
        }
    )
    if reply.update is not None:
        content["update"] = ArrayRecord(
            {"packed": Array(np.ascontiguousarray(reply.update, dtype=np.float32))}
        )
        content["metrics"] = MetricRecord(dict(reply.metrics))
    return content


def read_reply(
    content: RecordDict, *, kind: Kind, server_round: int, site: str, plan: RunPlan
) -> Reply:
    """Check a reply against what was asked, on its way out of a site and into the coordinator.

    Raises:
      ReplyRefusedError: With the rule that it breaks: `byte-bound`, `unexpected-records`,
        `unexpected-keys`, `wrong-plan`, `wrong-round`, `wrong-site`, `metric-keys`,
        `tensor-names`, `tensor-shape`, `tensor-dtype`, `not-finite`, `rank-bound`, `norm-bound`,
        `digest-mismatch`.
    """
    refuse = ReplyRefusedError
    num_bytes = content_bytes(content)
    if num_bytes > plan.exits.max_update_bytes:
        raise refuse(
            "byte-bound", f"expected at most {plan.exits.max_update_bytes} bytes, got {num_bytes}"
        )
    tensors = plan.update_tensors(server_round)
    kinds: dict[str, type] = {"reply": ConfigRecord}
    if kind == "train":
        kinds |= {"update": ArrayRecord, "metrics": MetricRecord}
    _check_keys(content, kinds, refuse)
    fields = _fields(
        content["reply"],
        {
            "version": int,
            "plan": str,
            "server_round": int,
            "site": str,
            "update_digest": str,
            "manifest": str,
            "signature": bytes,
        },
        refuse,
    )
    for name, rule, expected in (
        ("version", "unexpected-keys", WIRE_VERSION),
        ("plan", "wrong-plan", plan.digest),
        ("server_round", "wrong-round", server_round),
        ("site", "wrong-site", site),
        (
            "manifest",
            "tensor-names",
            manifest_text(tensors) if kind == "train" else "[]",
        ),
    ):
        if fields[name] != expected:
            raise refuse(
                rule, f"expected {name} {str(expected)[:80]!r}, got {str(fields[name])[:80]!r}"
            )
    update, metrics = None, {}
    if kind == "train":
        update = _packed(content["update"], tensors, refuse)
        mask = plan.update_mask(site, server_round)
        # By their bits: a zero with a sign would carry something out.
        if mask is not None and update[~mask].view(np.uint32).any():
            raise refuse(
                "rank-bound",
                f"expected zero beyond the first {plan.share(site).lora_rank} terms of {site}",
            )
        norm = float(np.linalg.norm(update.astype(np.float64)))
        if norm > plan.exits.max_update_norm:
            raise refuse(
                "norm-bound",
                f"expected an update of norm at most {plan.exits.max_update_norm}, got {norm:.6g}",
            )
        metrics = _metrics(content["metrics"], plan, refuse)
    digest = NO_UPDATE if update is None else packed_digest(tensors, update)
    if fields["update_digest"] != digest:
        raise refuse("digest-mismatch", "expected an update that matches its digest")
    return Reply(
        kind=kind,
        plan=plan.digest,
        server_round=server_round,
        site=site,
        update=update,
        update_digest=digest,
        metrics=metrics,
        signature=fields["signature"],
    )


def sign_reply(reply: Reply, key: SigningKey) -> Reply:
    """`reply` with the site's signature."""
    return replace(reply, signature=key.sign(reply.signed_bytes()))


def verify_reply(reply: Reply, public_key: bytes) -> None:
    """Check that the site's key signed `reply`.

    Raises:
      ReplyRefusedError: Rule `signature`.
    """
    try:
        verify(public_key, reply.signed_bytes(), reply.signature)
    except VerificationError as error:
        raise ReplyRefusedError("signature", f"expected a reply signed by {reply.site}") from error


def content_bytes(content: RecordDict) -> int:
    """Bytes of the arrays, strings and byte strings in `content`, without parsing any of them."""
    total = 0
    for record in content.values():
        if isinstance(record, ArrayRecord):
            total += sum(len(array.data) for array in record.values())
        else:
            for value in record.values():
                total += len(value) if isinstance(value, str | bytes | list) else 8
    return total


def _check_keys(content: RecordDict, kinds: Mapping[str, type], refuse: type[RuleError]) -> None:
    """Check that `content` has exactly these records, of these kinds."""
    got = {name: type(record) for name, record in content.items()}
    if got != dict(kinds):
        names = sorted(str(name)[:40] for name in got)
        raise refuse(
            "unexpected-records", f"expected the records {sorted(kinds)}, got {names[:8]}"
        )


def _fields(record: object, kinds: Mapping[str, type], refuse: type[RuleError]) -> dict[str, Any]:
    """The values of a ConfigRecord that has exactly these fields, of these types."""
    fields: dict[str, Any] = dict(record.items()) if isinstance(record, ConfigRecord) else {}
    if {name: type(value) for name, value in fields.items()} != dict(kinds):
        raise refuse("unexpected-keys", f"expected the fields {sorted(kinds)}, each of its type")
    return fields


def _metrics(record: object, plan: RunPlan, refuse: type[RuleError]) -> dict[str, int]:
    """The metrics, integers whose keys the plan names."""
    metrics: dict[str, Any] = dict(record.items()) if isinstance(record, MetricRecord) else {}
    if not set(metrics) <= set(plan.exits.metrics):
        raise refuse("metric-keys", f"expected metrics from {list(plan.exits.metrics)}")
    if any(type(value) is not int for value in metrics.values()):
        raise refuse("metric-keys", "expected metrics that are integers")
    # The only metric is a constant of the plan; any other value would carry something else out.
    if metrics.get("num_steps", plan.mechanism.steps_per_round) != plan.mechanism.steps_per_round:
        raise refuse("metric-keys", f"expected num_steps {plan.mechanism.steps_per_round}")
    return metrics


def _packed(record: object, specs: Sequence[TensorSpec], refuse: type[RuleError]) -> np.ndarray:
    """The one array of an ArrayRecord: finite float32 values, as many as `specs` add up to."""
    arrays = dict(record.items()) if isinstance(record, ArrayRecord) else {}
    if list(arrays) != ["packed"]:
        raise refuse("tensor-names", "expected one array named packed")
    array = arrays["packed"]
    size = packed_size(specs)
    if array.stype != "numpy.ndarray" or len(array.data) > 4 * size + _ARRAY_OVERHEAD_BYTES:
        raise refuse(
            "tensor-shape", f"expected {size} float32 values, got {len(array.data)} bytes"
        )
    # NumPy would evaluate the header as Python text; here it is compared, so nothing in it can
    # raise, allocate or mean anything.
    header = _NPY_HEADER.match(array.data)
    if header is None:
        raise refuse("tensor-shape", "expected a NumPy array of version 1")
    if header["dtype"] != b"<f4":
        raise refuse("tensor-dtype", f"expected float32, got {header['dtype'][:16]!r}")
    if header["shape"] != b"%d," % size or len(array.data) != header.end() + 4 * size:
        raise refuse("tensor-shape", f"expected shape ({size},), got {header['shape'][:40]!r}")
    values = np.frombuffer(array.data, dtype="<f4", offset=header.end()).astype(np.float32)
    if not np.isfinite(values).all():
        raise refuse("not-finite", "expected finite values only")
    return values
