"""An entry says what its form allows, in one spelling, signed by whoever says it."""

import base64
import contextlib
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
import rfc8785
from hypothesis import given, settings
from hypothesis import strategies as st
from securesystemslib.dsse import Envelope

from privacy.audit.entry import (
    FORMS,
    Entry,
    Event,
    _load,
    commit,
    make_entry,
    parse_entry,
    verify_entry,
)
from privacy.dp import membership
from privacy.dp.membership import num_cells
from privacy.errors import VerificationError
from privacy.pki.identity import SigningKey
from tests.privacy.evidence import runs_on

KEY = SigningKey.generate()
AT = datetime(2026, 11, 20, 8, 0, tzinfo=UTC)
DIGEST = "sha256:" + "ab" * 32

SAMPLES: dict[str, object] = {
    "federation": "lakeside",
    "site": "bank_a",
    "signing_key": "0f" * 32,
    "certificate_serial": "1a2b",
    "num_units": 400,
    "plan": {"version": 1},
    "run_id": "7",
    "server_round": 2,
    "update_bytes": 51_234,
    "rule": "norm-too-large",
    "sites": ["bank_a", "bank_b"],
    "num_updates": 2,
    "num_rounds": 3,
    "peer": "hmac-sha256:" + "cd" * 32,
    "by": "hmac-sha256:" + "ce" * 32,
    "reason": "hmac-sha256:" + "cf" * 32,
    "algorithm": "ed25519",
    "version": "0.1.0+local",
    "witness_key": "cloister/lakeside/bank_a+1a2b3c4d+" + "BAcHBwcH" * 6,
    "refused_event": "plan-approved",
    "entity_types": ["DATE", "EMAIL"],
    "commitment": DIGEST,
    "recall": [["DATE", "en", 40, 39, 38], ["DATE", "zh", 40, 40, 40]],
    "over_masking": [["en", 100, 1], ["zh", 100, 0]],
    "noise_multiplier": 1.1,
    "sample_rate": 0.05,
    "num_steps": 6,
    "delta": 1e-5,
    "epsilon_run": 1.5,
    "epsilon_total": 2.5,
    "budget_epsilon": 8.0,
    "prior": [[1.1, 0.05, 12]],
    "asked": 9.0,
    "spent": 2.5,
    "budget": 8.0,
    "test_number": 1,
    "num_releases": 2,
    "epsilon_test": 0.5,
    "num_tracers": 3,
    **runs_on(),
    "num_candidates": 1024,
    "ranks": [1, 512, 1024],
    **{name: [3, -1] + [0] * (num_cells(name) - 2) for name in membership.FIELDS},
}


def sample(event: Event) -> tuple[dict[str, str], dict[str, Any]]:
    """Subjects and fields as an event wants them."""
    form = FORMS[event]
    return dict.fromkeys(form.subjects, DIGEST), {name: SAMPLES[name] for name in form.fields}


def entry_of(event: Event, **changes: object) -> bytes:
    subjects, fields = sample(event)
    return make_entry(
        KEY, "bank_a", event, sequence=3, at=AT, subjects=subjects, predicate=fields | changes
    )


def resigned(line: bytes, change: Callable[[dict[str, Any]], None]) -> bytes:
    """The entry with a changed statement, signed again by the same key."""
    statement = json.loads(base64.b64decode(json.loads(line)["payload"]))
    change(statement)
    payload = rfc8785.dumps(statement)
    envelope = Envelope(payload, "application/vnd.in-toto+json", {})
    signed: dict[str, Any] = {
        "payload": base64.b64encode(payload).decode(),
        "payloadType": envelope.payload_type,
        "signatures": [
            {"keyid": KEY.key_id, "sig": base64.b64encode(KEY.sign(envelope.pae())).decode()}
        ],
    }
    return rfc8785.dumps(signed)


def test_the_envelope_is_signed_as_dsse_prescribes() -> None:
    # The example of the DSSE protocol, for the bytes that are signed.
    envelope = Envelope(b"hello world", "http://example.com/HelloWorld", {})
    assert envelope.pae() == b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"


def test_an_entry_is_an_in_toto_statement() -> None:
    envelope = json.loads(entry_of(Event.PLAN_APPROVED))
    statement = json.loads(base64.b64decode(envelope["payload"]))
    assert envelope["payloadType"] == "application/vnd.in-toto+json"
    assert statement["_type"] == "https://in-toto.io/Statement/v1"
    assert statement["predicateType"] == "urn:cloister:evidence:plan-approved:v1"
    assert statement["subject"] == [
        {"name": "plan", "digest": {"sha256": "ab" * 32}},
        {"name": "signer", "digest": {"sha256": KEY.key_id}},
    ]


@pytest.mark.parametrize("event", Event)
def test_every_event_comes_back_as_it_was_made(event: Event) -> None:
    line = entry_of(event)
    entry = parse_entry(line)
    subjects, fields = sample(event)
    verify_entry(entry, KEY.public_key)
    assert b"\n" not in line
    assert (entry.party, entry.event, entry.sequence, entry.at) == ("bank_a", event, 3, AT)
    assert (entry.subjects, entry.predicate, entry.key_id) == (subjects, fields, KEY.key_id)


@pytest.mark.parametrize("event", Event)
def test_every_event_has_a_closed_set_of_fields(event: Event) -> None:
    subjects, fields = sample(event)
    with pytest.raises(ValueError, match="fields: 1 unknown"):
        entry_of(event, note="the patient is known to the bank")
    with pytest.raises(ValueError, match="subjects: 1 unknown"):
        make_entry(
            KEY,
            "bank_a",
            event,
            sequence=0,
            at=AT,
            subjects=subjects | {"patient": DIGEST},
            predicate=fields,
        )
    for missing in fields:
        with pytest.raises(ValueError, match=f"missing {missing}"):
            make_entry(
                KEY,
                "bank_a",
                event,
                sequence=0,
                at=AT,
                subjects=subjects,
                predicate={name: fields[name] for name in fields if name != missing},
            )


@given(
    st.sampled_from([(e, name) for e in Event for name in FORMS[e].fields if name != "plan"]),
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(max_value=-1),
        st.text().filter(lambda text: not text.isalnum() or not text.isascii()),
        st.floats(max_value=-0.1),
        st.just(float("nan")),
        st.just(float("inf")),
        st.just(["b", "a"]),
        st.just([[1.1, 0.05, 0]]),
        st.just({"a": "b"}),
    ),
)
def test_a_field_of_another_type_is_never_signed(place: tuple[Event, str], value: object) -> None:
    event, name = place
    if name in ("certificate_serial", "version", "python", "rule") and isinstance(value, str):
        return
    with pytest.raises(ValueError, match=f"expected {name} to be"):
        entry_of(event, **{name: value})


@pytest.mark.parametrize(
    "text",
    [
        "Mr Smith, born 1961",
        "a" * 200,
        "<script>alert(1)</script>",
        "two\nlines",
        "",
    ],
)
@pytest.mark.parametrize(
    "name",
    [
        "rule",
        "peer",
        "by",
        "reason",
        "algorithm",
        "version",
        "python",
        "processor",
        "device",
        "site",
        "certificate_serial",
    ],
)
def test_no_field_takes_free_text(name: str, text: str) -> None:
    event = next(e for e in Event if name in {**FORMS[e].fields, **FORMS[e].may})
    with pytest.raises(ValueError, match=f"expected {name} to be"):
        entry_of(event, **{name: text})


def test_another_key_s_signature_is_refused() -> None:
    entry = parse_entry(entry_of(Event.PLAN_APPROVED))
    with pytest.raises(VerificationError, match="does not verify"):
        verify_entry(entry, SigningKey.generate().public_key)


@given(st.data())
def test_no_changed_byte_passes(data: st.DataObject) -> None:
    line = entry_of(Event.UPDATE_SENT)
    place = data.draw(st.integers(0, len(line) - 1))
    changed = bytearray(line)
    changed[place] ^= data.draw(st.integers(1, 255))
    with pytest.raises(VerificationError):
        verify_entry(parse_entry(bytes(changed)), KEY.public_key)


JSON_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**60), 2**60)
    | st.floats()
    | st.text(st.characters(codec="utf-8"), max_size=8)
    | st.text(st.characters(max_codepoint=0x7F), max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3)
    ),
    max_leaves=8,
)


@settings(deadline=None)
@given(st.dictionaries(st.text(max_size=4), JSON_VALUES, max_size=4), st.booleans())
def test_the_quick_reader_takes_what_rfc_8785_takes_and_nothing_else(
    value: dict[str, object], ascii_only: bool
) -> None:
    contents = {
        json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=ascii_only).encode()
    }
    with contextlib.suppress(ValueError):
        contents.add(rfc8785.dumps(value))  # type: ignore[arg-type]
    for content in contents:
        try:
            canonical = rfc8785.dumps(json.loads(content))
        except ValueError:
            canonical = None
        if content == canonical:
            # Compared as text: -0.0 and 0.0 are equal numbers.
            assert json.dumps(_load(content, "a value")) == json.dumps(json.loads(content))
        else:
            with pytest.raises(VerificationError):
                _load(content, "a value")


def test_the_quick_reader_signs_for_what_securesystemslib_signs_for() -> None:
    line = entry_of(Event.PLAN_APPROVED)
    assert parse_entry(line).signed == Envelope.from_dict(json.loads(line)).pae()


@given(st.binary(max_size=200))
def test_garbage_is_refused_and_nothing_else_happens(line: bytes) -> None:
    with pytest.raises(VerificationError):
        parse_entry(line)


@pytest.mark.parametrize(
    "line",
    [b"[" * 100_000, b"{}", b"null", b'{"payload":1}', b"NaN", b'{"a":1e999}', b"{" * 50_000],
)
def test_hostile_json_is_refused(line: bytes) -> None:
    with pytest.raises(VerificationError):
        parse_entry(line)


def _add_field(statement: dict[str, Any]) -> None:
    statement["predicate"]["details"]["note"] = "free text"


def _add_beside(statement: dict[str, Any]) -> None:
    statement["predicate"]["note"] = "free text"


def _add_to_statement(statement: dict[str, Any]) -> None:
    statement["note"] = "free text"


def _repeat_subject(statement: dict[str, Any]) -> None:
    statement["subject"].append(statement["subject"][0])


def _other_signer(statement: dict[str, Any]) -> None:
    statement["subject"][1]["digest"]["sha256"] = "00" * 32


def _other_event(statement: dict[str, Any]) -> None:
    statement["predicateType"] = "urn:cloister:evidence:plan-approved:v2"


def _local_time(statement: dict[str, Any]) -> None:
    statement["predicate"]["at"] = "2026-11-20T8:00:00Z"


def _true_for_one(statement: dict[str, Any]) -> None:
    statement["predicate"]["sequence"] = True


def _details_as_text(statement: dict[str, Any]) -> None:
    statement["predicate"]["details"] = ""


@pytest.mark.parametrize(
    "change",
    [
        _add_field,
        _add_beside,
        _add_to_statement,
        _repeat_subject,
        _other_signer,
        _other_event,
        _local_time,
        _true_for_one,
        _details_as_text,
    ],
)
def test_a_well_signed_entry_of_another_form_is_refused(
    change: Callable[[dict[str, Any]], None],
) -> None:
    with pytest.raises(VerificationError):
        parse_entry(resigned(entry_of(Event.PLAN_APPROVED), change))


def test_a_second_signature_is_refused() -> None:
    envelope = json.loads(entry_of(Event.PLAN_APPROVED))
    envelope["signatures"].append({"keyid": "ff" * 32, "sig": "AAAA"})
    with pytest.raises(VerificationError, match="exactly one signature"):
        parse_entry(rfc8785.dumps(envelope))


def test_a_field_beside_the_signature_is_refused() -> None:
    envelope = json.loads(entry_of(Event.PLAN_APPROVED))
    envelope["signatures"][0]["note"] = "unsigned text"
    with pytest.raises(VerificationError):
        parse_entry(rfc8785.dumps(envelope))


def test_another_spelling_of_the_same_entry_is_refused() -> None:
    line = entry_of(Event.PLAN_APPROVED)
    with pytest.raises(VerificationError, match="canonical"):
        parse_entry(line.replace(b'":', b'": ', 1))


def test_times_are_utc_and_aware() -> None:
    east = AT.astimezone(timezone(timedelta(hours=8)))
    version = runs_on()
    lines = [
        make_entry(KEY, "bank_a", Event.AGENT_STARTED, sequence=0, at=at, predicate=version)
        for at in (AT, east)
    ]
    assert lines[0] == lines[1]
    with pytest.raises(ValueError, match="without a zone"):
        make_entry(
            KEY,
            "bank_a",
            Event.AGENT_STARTED,
            sequence=0,
            at=AT.replace(tzinfo=None),
            predicate=version,
        )


def test_a_commitment_hides_until_its_salt_is_shown() -> None:
    salt = bytes(range(32))
    assert commit({"EMAIL": 3}, salt) == commit({"EMAIL": 3}, salt)
    assert commit({"EMAIL": 3}, salt) != commit({"EMAIL": 3}, bytes(32))
    assert commit({"EMAIL": 3}, salt) != commit({"EMAIL": 4}, salt)
    with pytest.raises(ValueError, match="at least 32 bytes"):
        commit({"EMAIL": 3}, b"short")


def test_an_entry_cannot_be_changed_in_place() -> None:
    entry: Entry = parse_entry(entry_of(Event.PLAN_APPROVED))
    with pytest.raises(AttributeError):
        entry.sequence = 4  # type: ignore[misc]
