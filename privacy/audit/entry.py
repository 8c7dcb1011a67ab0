"""One line of evidence: what happened, said and signed by the party that did it.

An entry is an in-toto Statement v1 in a DSSE envelope, one line of JSON after RFC 8785, so that
any verifier of software attestations can read it. Its rules:

- The signer is the party that acted. The coordinator cannot write a site's entry, nor a site the
  coordinator's.
- Each party counts its own entries from 0 without gaps (`sequence`), so a missing one shows.
- What the entry is about is named by digest (`subjects`): the plan, an update, an adapter.
- Each event has a closed set of typed fields (`FORMS`). Nothing else is written: no free text, and
  no figure that depends on records but such as were noised under the site's budget, or follow from
  what was so released, so an entry can stay for ever while records are erased. What must be
  provable later without being public stands as a salted digest (`commit`).
- What may name a person or be a person's words (`PERSONAL`: who decided and why, the address of a
  refused caller) stands as a commitment that its party can open, until it forgets how
  (`privacy.audit.opening`).

What a crash can leave: nothing. An entry exists when its line does; a torn line is no entry.
"""

import base64
import binascii
import hashlib
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

import rfc8785
from securesystemslib.dsse import Envelope
from securesystemslib.signer._signature import Signature

from privacy.audit.keys import Role
from privacy.dp import exposure, membership
from privacy.errors import VerificationError
from privacy.machine import DEVICES, MAX_CORES, PROCESSORS, is_packages, is_version
from privacy.masking.figures import is_over_masking, is_recall
from privacy.pki.identity import Algorithm, SigningKey, verify

MAX_ENTRY_BYTES = 2_000_000
PAYLOAD_TYPE = "application/vnd.in-toto+json"
STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
MAX_COUNT = 2**53 - 1
_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
# in-toto wants at least one subject in every statement. The signer's key is always one: so the
# payload itself says whose it is, and a signature cannot be carried over to another key.
_SIGNER = "signer"
_TYPE_PREFIX = "urn:cloister:evidence:"
_TYPE_SUFFIX = ":v1"
_TIME = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z")


class Event(StrEnum):
    """What can happen. The first block is the coordinator's to say, the second a site's."""

    FEDERATION_CREATED = "federation-created"
    SITE_ENROLLED = "site-enrolled"
    SITE_REVOKED = "site-revoked"
    PLAN_OFFERED = "plan-offered"
    RUN_STARTED = "run-started"
    UPDATE_ACCEPTED = "update-accepted"
    UPDATE_REJECTED = "update-rejected"
    ADAPTER_RELEASED = "adapter-released"
    ROUND_FAILED = "round-failed"
    RUN_FINISHED = "run-finished"
    DOOR_REFUSED = "door-refused"
    COORDINATOR_STARTED = "coordinator-started"

    AGENT_STARTED = "agent-started"
    WITNESS_ANNOUNCED = "witness-announced"
    ENTRY_SET_ASIDE = "entry-set-aside"
    PLAN_APPROVED = "plan-approved"
    PLAN_REFUSED = "plan-refused"
    DATA_MASKED = "data-masked"
    SELF_TEST_PASSED = "self-test-passed"
    TRACERS_ADDED = "tracers-added"
    BUDGET_RESERVED = "budget-reserved"
    BUDGET_COMMITTED = "budget-committed"
    BUDGET_REFUSED = "budget-refused"
    UPDATE_SENT = "update-sent"
    INSTRUCTION_REFUSED = "instruction-refused"
    REPLY_REFUSED = "reply-refused"
    EVALUATED = "evaluated"
    TEST_RESERVED = "test-reserved"
    TEST_COMMITTED = "test-committed"
    ADAPTER_TESTED = "adapter-tested"
    EXPOSURE_MEASURED = "exposure-measured"


_EVENTS = {f"{_TYPE_PREFIX}{event.value}{_TYPE_SUFFIX}": event for event in Event}


@dataclass(frozen=True, slots=True)
class Kind:
    """A type of field: what it is in words, and whether a value is one."""

    what: str
    fits: Callable[[Any], bool]


def _text(what: str, pattern: str) -> Kind:
    compiled = re.compile(pattern)
    return Kind(what, lambda value: isinstance(value, str) and bool(compiled.fullmatch(value)))


def _is_count(value: object) -> bool:
    return type(value) is int and 0 <= value <= MAX_COUNT


def _is_number(value: object) -> bool:
    return type(value) in (int, float) and 0 <= value < float("inf")  # type: ignore[operator]


def _is_release(value: object) -> bool:
    return (
        isinstance(value, list)
        and len(value) == 3
        and all(_is_number(part) and part > 0 for part in value[:2])
        and _is_count(value[2])
        and value[2] >= 1
    )


NAME = _text("a name of a-z 0-9 _ -", _NAME.pattern)
RULE = _text("the name of a rule, a-z 0-9 _ . -", r"[a-z0-9][a-z0-9_.-]{0,62}")
RUN_ID = _text("a run's number as a string of digits", r"[0-9]{1,20}")
HEX_KEY = _text(
    "a public key of 64 (ed25519) or 2624 (ml-dsa-44) hex digits",
    r"[0-9a-f]{64}|[0-9a-f]{2624}",
)
ALGORITHM = Kind("a signature algorithm", lambda value: value in [a.value for a in Algorithm])
WITNESS_KEY = _text(
    "a witness's public key, name+8 hex digits+base64",
    r"cloister/[a-z0-9_/-]{1,140}\+[0-9a-f]{8}\+[A-Za-z0-9+/]{40,1800}={0,2}",
)
EVENT = _text("the name of an event", r"[a-z]+(-[a-z]+)*")
SERIAL = _text("a certificate's serial number in digits", r"[0-9a-fA-F]{1,64}")
VERSION = Kind("a version, as packages have it", is_version)
PACKAGES = Kind("a sorted list of [package of a closed list, version]", is_packages)
PROCESSOR = Kind(f"one of {', '.join(PROCESSORS)}", lambda value: value in list(PROCESSORS))
DEVICE = Kind(f"one of {', '.join(DEVICES)}", lambda value: value in list(DEVICES))
# Of a value that names a person or is a person's words; `privacy.audit.opening` opens it.
COMMITMENT = _text("hmac-sha256:<64 hex digits>", r"hmac-sha256:[0-9a-f]{64}")
DIGEST = _text("sha256:<64 hex digits>", _DIGEST.pattern)
COUNT = Kind("a whole number from 0", _is_count)
ROUND = Kind("a round from 1", lambda value: _is_count(value) and value >= 1)
CORES = Kind(f"1 to {MAX_CORES} cores", lambda value: _is_count(value) and 1 <= value <= MAX_CORES)
NUMBER = Kind("a number >= 0", _is_number)
PLAN = Kind("a plan as a JSON object", lambda value: isinstance(value, dict))
NAMES = Kind(
    "a sorted list of names",
    lambda value: (
        isinstance(value, list)
        and all(isinstance(name, str) and _NAME.fullmatch(name) for name in value)
        and value == sorted(set(value))
    ),
)
ENTITY_TYPES = Kind(
    "a sorted list of entity types",
    lambda value: (
        isinstance(value, list)
        and all(isinstance(name, str) and re.fullmatch(r"[A-Z_]{1,40}", name) for name in value)
        and value == sorted(set(value))
    ),
)
RECALL = Kind(
    "a list of [entity type, language, planted, found, found as that type], sorted",
    lambda value: (
        isinstance(value, list)
        and len(value) > 0
        and all(is_recall(row) for row in value)
        and value == sorted(value)
        and len({(row[0], row[1]) for row in value}) == len(value)
    ),
)
OVER_MASKING = Kind(
    "a list of [language, clean sentences, of them masked], sorted",
    lambda value: (
        isinstance(value, list)
        and len(value) > 0
        and all(is_over_masking(row) for row in value)
        and value == sorted(value)
        and len({row[0] for row in value}) == len(value)
    ),
)


def _counts(name: str) -> Kind:
    what = f"{membership.num_cells(name)} noised counts, whole numbers"
    return Kind(what, lambda value: isinstance(value, list) and membership.is_counts(name, value))


RANKS = Kind(
    f"a list of ranks, whole numbers from 1 to {exposure.NUM_CANDIDATES}",
    lambda value: isinstance(value, list) and len(value) > 0 and all(map(exposure.is_rank, value)),
)
RELEASES = Kind(
    "a list of [noise_multiplier, sample_rate, num_steps]",
    lambda value: isinstance(value, list) and all(_is_release(release) for release in value),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Form:
    """What an entry of one event must hold, may hold, and who signs it.

    Attributes:
      role: Whose event it is.
      subjects: Digests that must be named.
      optional: Digests that may be named.
      fields: What the predicate must hold, each with its type.
      may: What it may hold beside that.
    """

    role: Role
    subjects: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()
    fields: Mapping[str, Kind] = field(default_factory=dict)
    may: Mapping[str, Kind] = field(default_factory=dict)


_WHICH_ROUND = {"run_id": RUN_ID, "server_round": ROUND}
# The numbers of one spend, as the site's ledger has them. `prior` are all other releases in that
# ledger, of any run, this one left out: so epsilon_total follows from this entry alone.
# epsilon_run is over the rounds of this run up to this one, at the plan's delta; epsilon_total at
# `delta`, the ledger's, which is not below the plan's.
_SPEND = {
    **_WHICH_ROUND,
    "noise_multiplier": NUMBER,
    "sample_rate": NUMBER,
    "num_steps": ROUND,
    "delta": NUMBER,
    "epsilon_run": NUMBER,
    "epsilon_total": NUMBER,
    "budget_epsilon": NUMBER,
    "prior": RELEASES,
}

_WHICH_TEST = {"run_id": RUN_ID, "test_number": ROUND}
# The same of a test of an adapter: `num_releases` Gaussian releases, of everybody. epsilon_test is
# that of this test alone, at `delta`.
_TEST = {
    **_WHICH_TEST,
    "noise_multiplier": NUMBER,
    "num_releases": ROUND,
    "delta": NUMBER,
    "epsilon_test": NUMBER,
    "epsilon_total": NUMBER,
    "budget_epsilon": NUMBER,
    "prior": RELEASES,
}


# What a party runs on; `privacy.machine` says why there is no more of it.
_RUNS_ON = {
    "version": VERSION,
    "python": VERSION,
    "packages": PACKAGES,
    "processor": PROCESSOR,
    "num_cores": CORES,
    "device": DEVICE,
}

# Who decided, and in which words why.
_DECISION = {"by": COMMITMENT, "reason": COMMITMENT}


def _coordinator(
    *subjects: str,
    optional: tuple[str, ...] = (),
    fields: Mapping[str, Kind] | None = None,
    may: Mapping[str, Kind] | None = None,
) -> Form:
    return Form(
        role=Role.COORDINATOR,
        subjects=subjects,
        optional=optional,
        fields=fields or {},
        may=may or {},
    )


def _site(
    *subjects: str,
    optional: tuple[str, ...] = (),
    fields: Mapping[str, Kind] | None = None,
    may: Mapping[str, Kind] | None = None,
) -> Form:
    return Form(
        role=Role.SITE,
        subjects=subjects,
        optional=optional,
        fields=fields or {},
        may=may or {},
    )


FORMS: Mapping[Event, Form] = {
    Event.FEDERATION_CREATED: _coordinator(fields={"federation": NAME}),
    Event.SITE_ENROLLED: _coordinator(
        fields={
            "site": NAME,
            "signing_key": HEX_KEY,
            "certificate_serial": SERIAL,
            "num_units": COUNT,
        },
        may={"algorithm": ALGORITHM, **_DECISION},
    ),
    Event.SITE_REVOKED: _coordinator(fields={"site": NAME}, may=_DECISION),
    Event.PLAN_OFFERED: _coordinator("plan", fields={"plan": PLAN}, may=_DECISION),
    Event.RUN_STARTED: _coordinator("plan", fields={"run_id": RUN_ID}),
    Event.UPDATE_ACCEPTED: _coordinator(
        "plan", "update", fields={**_WHICH_ROUND, "site": NAME, "update_bytes": COUNT}
    ),
    Event.UPDATE_REJECTED: _coordinator(
        optional=("plan", "update"), fields={**_WHICH_ROUND, "site": NAME, "rule": RULE}
    ),
    Event.ADAPTER_RELEASED: _coordinator(
        "adapter", "plan", fields={**_WHICH_ROUND, "sites": NAMES}
    ),
    Event.ROUND_FAILED: _coordinator(
        optional=("plan",), fields={**_WHICH_ROUND, "num_updates": COUNT}
    ),
    Event.RUN_FINISHED: _coordinator(
        optional=("plan", "adapter"), fields={"run_id": RUN_ID, "num_rounds": COUNT}
    ),
    Event.DOOR_REFUSED: _coordinator(
        fields={"rule": RULE}, may={"site": NAME, "peer": COMMITMENT}
    ),
    Event.COORDINATOR_STARTED: _coordinator(fields=_RUNS_ON),
    Event.AGENT_STARTED: _site(fields=_RUNS_ON),
    # Signed with the site's own key: so whoever has that one needs nobody's word for this one.
    Event.WITNESS_ANNOUNCED: _site(fields={"witness_key": WITNESS_KEY}),
    # In the place of an entry that this log refused, which the site keeps.
    Event.ENTRY_SET_ASIDE: _site("entry", fields={"refused_event": EVENT}),
    Event.PLAN_APPROVED: _site("plan", may=_DECISION),
    Event.PLAN_REFUSED: _site("plan", fields={"rule": RULE}, may=_DECISION),
    Event.DATA_MASKED: _site(
        # Both figures are of planted sentences, so they depend on no record.
        "plan",
        "canaries",
        fields={
            "entity_types": ENTITY_TYPES,
            "recall": RECALL,
            "over_masking": OVER_MASKING,
            "commitment": DIGEST,
        },
    ),
    Event.SELF_TEST_PASSED: _site("plan"),
    # What they are made of stays secret: their digest pins it before it is trained on.
    Event.TRACERS_ADDED: _site("plan", "tracers", fields={"num_tracers": ROUND}),
    Event.BUDGET_RESERVED: _site("plan", fields=_SPEND),
    Event.BUDGET_COMMITTED: _site("plan", optional=("update",), fields=_SPEND),
    Event.BUDGET_REFUSED: _site(
        optional=("plan",), fields={"asked": NUMBER, "spent": NUMBER, "budget": NUMBER}
    ),
    Event.UPDATE_SENT: _site("plan", "update", fields={**_WHICH_ROUND, "update_bytes": COUNT}),
    Event.INSTRUCTION_REFUSED: _site(
        optional=("plan",), fields={"rule": RULE, "server_round": COUNT}
    ),
    Event.REPLY_REFUSED: _site(
        optional=("plan", "update"), fields={"rule": RULE, "server_round": COUNT}
    ),
    Event.EVALUATED: _site(
        optional=("plan", "adapter"), fields={"run_id": RUN_ID, "server_round": COUNT}
    ),
    Event.TEST_RESERVED: _site("adapter", "plan", fields=_TEST),
    Event.TEST_COMMITTED: _site("adapter", "plan", "result", fields=_TEST),
    Event.ADAPTER_TESTED: _site(
        "adapter",
        "plan",
        "result",
        fields={
            **_WHICH_TEST,
            "noise_multiplier": NUMBER,
            **{name: _counts(name) for name in membership.FIELDS},
        },
    ),
    # The ranks follow from the released adapter and from made-up secrets, from no record.
    Event.EXPOSURE_MEASURED: _site(
        "adapter",
        "plan",
        "tracers",
        fields={"run_id": RUN_ID, "num_candidates": ROUND, "ranks": RANKS},
    ),
}


PERSONAL: Mapping[Event, tuple[str, ...]] = {
    event: tuple(name for name, kind in {**form.fields, **form.may}.items() if kind is COMMITMENT)
    for event, form in FORMS.items()
}


def personal_fields(event: Event) -> tuple[str, ...]:
    """The fields of an event that carry commitments to personal values."""
    return PERSONAL[event]


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """A well-formed entry. Only `verify_entry` says that it is also true to its signer.

    Attributes:
      party: Who says it.
      event: What happened.
      sequence: Number of the entry among the party's own, from 0.
      at: When, by the party's own clock (UTC, whole seconds).
      subjects: Digests of what it is about.
      predicate: The event's fields.
      key_id: Which key signed.
      digest: `sha256:` and the hash of the line.
      line: The envelope, one line without its end.
      signed: The bytes that the signature is over.
      signature: The signature.
    """

    party: str
    event: Event
    sequence: int
    at: datetime
    subjects: Mapping[str, str]
    predicate: Mapping[str, Any]
    key_id: str
    digest: str
    line: bytes
    signed: bytes
    signature: bytes

    @property
    def role(self) -> Role:
        """Whose event it is."""
        return FORMS[self.event].role


def format_time(at: datetime) -> str:
    """An aware time as ISO 8601 in UTC, whole seconds.

    Raises:
      ValueError: The time has no zone, and would mean something else elsewhere.
    """
    if at.tzinfo is None:
        raise ValueError("expected an aware time, got one without a zone")
    return at.astimezone(UTC).replace(tzinfo=None).isoformat(timespec="seconds") + "Z"


def _parse_time(text: str) -> datetime:
    if not _TIME.fullmatch(text):
        raise ValueError("expected a time as 2026-11-20T08:00:00Z")
    return datetime.fromisoformat(text.removesuffix("Z")).replace(tzinfo=UTC)


def commit(values: object, salt: bytes) -> str:
    """A digest that pins `values` (JSON) without telling them; whoever has `salt` can show both.

    Raises:
      ValueError: The salt is shorter than 32 bytes, so small counts could be found by trying.
    """
    if len(salt) < 32:
        raise ValueError(f"expected a salt of at least 32 bytes, got {len(salt)}")
    content: bytes = rfc8785.dumps(values)  # type: ignore[arg-type]
    return "sha256:" + hashlib.sha256(salt + content).hexdigest()


def make_entry(
    key: SigningKey,
    party: str,
    event: Event,
    *,
    sequence: int,
    at: datetime,
    subjects: Mapping[str, str] | None = None,
    predicate: Mapping[str, Any] | None = None,
) -> bytes:
    """The signed entry as one line, without its end.

    Raises:
      ValueError: A subject or a field is missing, unknown or of another type: nothing is signed.
    """
    subjects = subjects or {}
    predicate = predicate or {}
    _check_form(party, event, sequence, subjects, predicate)
    statement = _statement(key.key_id, party, event, sequence, at, subjects, predicate)
    envelope = Envelope(rfc8785.dumps(statement), PAYLOAD_TYPE, {})
    envelope.signatures[key.key_id] = Signature(key.key_id, key.sign(envelope.pae()).hex())
    line: bytes = rfc8785.dumps(envelope.to_dict())
    if len(line) > MAX_ENTRY_BYTES:
        raise ValueError(f"expected an entry of at most {MAX_ENTRY_BYTES} bytes, got {len(line)}")
    return line


def parse_entry(line: bytes) -> Entry:
    """Read a line and check its form. The signature is checked by `verify_entry`.

    Raises:
      VerificationError: Not an envelope with one signature in its one spelling, an unknown event,
        or a field that is missing, unknown or of another type.
    """
    payload, signer, signature = _parse_envelope(line)
    statement = _load(payload, "a statement")
    try:
        subjects = {
            subject["name"]: "sha256:" + subject["digest"]["sha256"]
            for subject in statement["subject"]
        }
        predicate = statement["predicate"]
        event = _parse_event(statement["predicateType"])
        at = _parse_time(predicate["at"])
        party, sequence, details = predicate["party"], predicate["sequence"], predicate["details"]
        del subjects[_SIGNER]
        details = dict(details.items())
        _check_form(party, event, sequence, subjects, details)
    except (KeyError, TypeError, AttributeError) as error:
        raise VerificationError(f"expected an entry, a part is missing: {error}") from None
    except ValueError as error:
        raise VerificationError(str(error)) from None
    entry = Entry(
        party=party,
        event=event,
        sequence=sequence,
        at=at,
        subjects=subjects,
        predicate=details,
        key_id=signer,
        digest="sha256:" + hashlib.sha256(line).hexdigest(),
        line=line,
        signed=_pae(payload),
        signature=signature,
    )
    # What was read is written again: a field that nobody reads, or a second spelling, makes a
    # difference here.
    if statement != _statement(signer, party, event, sequence, at, subjects, details):
        raise VerificationError("expected an in-toto statement with our fields and no others")
    return entry


def verify_entry(entry: Entry, public_key: bytes) -> None:
    """Check that the owner of `public_key` signed `entry`.

    Raises:
      VerificationError: It is signed by another key, or the signature does not verify.
    """
    verify(public_key, entry.signed, entry.signature)


def peek(line: bytes) -> tuple[str, int]:
    """Key id and sequence of an entry that was checked before; checks nothing itself.

    Raises:
      VerificationError: It is no entry.
    """
    try:
        envelope = json.loads(line)
        statement = json.loads(base64.b64decode(envelope["payload"]))
        return envelope["signatures"][0]["keyid"], statement["predicate"]["sequence"]
    except (ValueError, KeyError, TypeError, IndexError, RecursionError):
        raise VerificationError("expected an entry") from None


def _parse_event(predicate_type: str) -> Event:
    event = _EVENTS.get(predicate_type)
    if event is None:
        raise ValueError("expected an event of this version")
    return event


def _load(content: bytes, what: str) -> dict[str, Any]:
    """JSON in its one spelling: what two readers could read differently is refused."""
    try:
        loaded, canonical = _read_plainly(content)
    except _NotPlainError:
        loaded, canonical = _read_slowly(content, what)
    except (ValueError, RecursionError):
        raise VerificationError(f"expected {what} in JSON") from None
    if not isinstance(loaded, dict) or canonical != content:
        raise VerificationError(f"expected {what} in canonical JSON (RFC 8785)")
    return loaded


class _NotPlainError(Exception):
    """The JSON holds what the standard library spells in another way than RFC 8785."""


def _not_plain(_: str) -> None:
    raise _NotPlainError


def _fraction(digits: str) -> float:
    number = float(digits)
    spelled = repr(number)
    # Without an exponent and with a fraction, Python and JavaScript spell a number alike: as few
    # digits as bring it back, in plain notation. (Infinity ends in a letter.)
    if "e" in spelled or spelled.endswith((".0", "f")):
        raise _NotPlainError
    return number


def _whole_number(digits: str) -> int:
    number = int(digits)
    if abs(number) > MAX_COUNT:
        raise _NotPlainError
    return number


_PLAIN = json.JSONDecoder(
    parse_float=_fraction, parse_constant=_not_plain, parse_int=_whole_number
)
_ENCODE = json.JSONEncoder(
    sort_keys=True, separators=(",", ":"), ensure_ascii=False, check_circular=False
)


def _read_plainly(content: bytes) -> tuple[Any, bytes]:
    """The value and its canonical spelling, ten times as fast as `rfc8785` finds it.

    Over ASCII, whole numbers and fractions without an exponent the two agree: RFC 8785 sorts names
    by UTF-16 and spells fractions as JavaScript does, which differs from Python only beyond them.
    """
    if not content.isascii():
        raise _NotPlainError
    loaded = _PLAIN.decode(content.decode("ascii"))
    return loaded, _ENCODE.encode(loaded).encode()


def _read_slowly(content: bytes, what: str) -> tuple[Any, bytes]:
    try:
        loaded = json.loads(content)
        return loaded, rfc8785.dumps(loaded)
    except (ValueError, RecursionError):
        raise VerificationError(f"expected {what} in JSON") from None


def _parse_envelope(line: bytes) -> tuple[bytes, str, bytes]:
    """Payload, key id and signature of a DSSE envelope in its one spelling."""
    if len(line) > MAX_ENTRY_BYTES:
        raise VerificationError(f"expected at most {MAX_ENTRY_BYTES} bytes, got {len(line)}")
    loaded = _load(line, "an envelope")
    if set(loaded) != {"payload", "payloadType", "signatures"}:
        raise VerificationError("expected a DSSE envelope")
    signatures = loaded["signatures"]
    if (
        loaded["payloadType"] != PAYLOAD_TYPE
        or not isinstance(signatures, list)
        or len(signatures) != 1
        or not isinstance(signatures[0], dict)
        or set(signatures[0]) != {"keyid", "sig"}
        or not isinstance(signatures[0]["keyid"], str)
    ):
        raise VerificationError("expected an in-toto envelope with exactly one signature")
    payload, signature = _decode(loaded["payload"]), _decode(signatures[0]["sig"])
    return payload, signatures[0]["keyid"], signature


def _decode(text: object) -> bytes:
    """Base64 in its one spelling."""
    try:
        decoded = base64.b64decode(text, validate=True) if isinstance(text, str) else b""
    except (binascii.Error, ValueError):
        decoded = b""
    if not decoded or base64.b64encode(decoded).decode() != text:
        raise VerificationError("expected a DSSE envelope")
    return decoded


def _pae(payload: bytes) -> bytes:
    """What a DSSE signature is over."""
    head = f"DSSEv1 {len(PAYLOAD_TYPE)} {PAYLOAD_TYPE} {len(payload)} "
    return head.encode() + payload


def _statement(
    signer: str,
    party: str,
    event: Event,
    sequence: int,
    at: datetime,
    subjects: Mapping[str, str],
    predicate: Mapping[str, Any],
) -> dict[str, Any]:
    """The in-toto statement, the same dictionary for the same entry."""
    named = {_SIGNER: "sha256:" + signer, **subjects}
    return {
        "_type": STATEMENT_TYPE,
        "subject": [
            {"name": name, "digest": {"sha256": named[name].removeprefix("sha256:")}}
            for name in sorted(named)
        ],
        "predicateType": f"{_TYPE_PREFIX}{event.value}{_TYPE_SUFFIX}",
        "predicate": {
            "party": party,
            "sequence": sequence,
            "at": format_time(at),
            "details": dict(predicate),
        },
    }


def _check_form(
    party: object,
    event: Event,
    sequence: object,
    subjects: Mapping[str, object],
    predicate: Mapping[str, object],
) -> None:
    """Check an entry's parts against the event's form.

    Raises:
      ValueError: One is missing, unknown or of another type.
    """
    form = FORMS[event]
    if not NAME.fits(party):
        raise ValueError(f"{event}: expected party to be {NAME.what}")
    if not COUNT.fits(sequence):
        raise ValueError(f"{event}: expected sequence to be {COUNT.what}")
    _check_names(f"{event}: subjects", set(subjects), set(form.subjects), set(form.optional))
    for name, digest in subjects.items():
        if not DIGEST.fits(digest):
            raise ValueError(f"{event}: expected subject {name} to be {DIGEST.what}")
    _check_names(f"{event}: fields", set(predicate), set(form.fields), set(form.may))
    for kinds in (form.fields, form.may):
        for name, kind in kinds.items():
            if name in predicate and not kind.fits(predicate[name]):
                raise ValueError(f"{event}: expected {name} to be {kind.what}")


def _check_names(what: str, given: set[str], wanted: set[str], optional: set[str]) -> None:
    missing, unknown = sorted(wanted - given), sorted(given - wanted - optional)
    if missing:
        raise ValueError(f"{what}: missing {', '.join(missing)}")
    if unknown:
        raise ValueError(f"{what}: {len(unknown)} unknown, expected {sorted(wanted | optional)}")
