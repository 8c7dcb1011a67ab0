"""Parties of different algorithms share a log, and none of them can be made to sign weaker."""

import base64
import json
from pathlib import Path

import pytest

from privacy.audit.checkpoint import Checkpoint, log_key, open_checkpoint, sign_checkpoint
from privacy.audit.cosignature import CosigningKey, check_signed
from privacy.audit.entry import Event, parse_entry
from privacy.audit.keys import KeyRing, PartyKey, Role
from privacy.audit.log import Log
from privacy.audit.note import Note, SignatureType
from privacy.audit.policy import Policy
from privacy.audit.verify import verify_log
from privacy.errors import ConfigError, TamperError, VerificationError
from privacy.pki.identity import Algorithm, SigningKey
from tests.privacy.evidence import (
    COORDINATOR,
    START,
    Federation,
    make_plan,
    quick_accountant,
    runs_on,
)

STRONG = Algorithm.ML_DSA_44
CHECKPOINT = Checkpoint(origin="cloister/lakeside", size=7, root=bytes(range(32)))


def federation_of(folder: Path, *strong: str) -> Federation:
    sites = ("bank_a", "hospital_a")
    return Federation(
        folder,
        sites=sites,
        plan=make_plan(sites=sites, num_rounds=1),
        algorithms=dict.fromkeys(strong, STRONG),
    )


@pytest.mark.parametrize(
    "strong",
    [(), ("bank_a",), (COORDINATOR,), (COORDINATOR, "bank_a", "hospital_a")],
    ids=["none", "a-site", "the-coordinator", "all"],
)
def test_a_federation_of_any_mix_leaves_a_log_that_verifies(
    tmp_path: Path, strong: tuple[str, ...]
) -> None:
    federation = federation_of(tmp_path / "log", *strong)
    federation.run()
    federation.log.close()
    log = verify_log(federation.folder, federation.ring, accountant=quick_accountant)
    assert log.checkpoint.size == len(log.entries)
    assert {key.party for key in log.keys if key.algorithm is STRONG} == set(strong)
    for entry in log.entries:
        expected = 2420 if entry.party in strong else 64
        assert len(entry.signature) == expected
    # The copy beside the log says the same, and the log is opened again.
    assert {key.key_id for key in KeyRing.load(tmp_path / "log" / "keys.json")} == {
        key.key_id for key in federation.ring
    }
    with Log(federation.folder, federation.keys[COORDINATOR], "cloister/lakeside") as again:
        assert again.size == log.checkpoint.size


def test_a_log_of_ml_dsa_44_signs_checkpoints_as_c2sp_has_it() -> None:
    key = SigningKey.generate(STRONG)
    named = log_key(CHECKPOINT.origin, key.public_key)
    note = sign_checkpoint(CHECKPOINT, key, START)
    assert named.type is SignatureType.COSIGNATURE_MLDSA44
    assert open_checkpoint(note, key.public_key) == CHECKPOINT
    assert check_signed(Note.parse(note), named)
    (line,) = Note.parse(note).signatures
    assert int.from_bytes(line.signature[:8], "big") == int(START.timestamp())
    assert len(line.signature) == 8 + 2420
    # The same bytes as a cosigner of that name would sign.
    cosigned = CosigningKey("cloister/lakeside", key.private_key)
    assert cosigned.public == named
    assert Policy.parse(f"log {named.vkey}\nquorum none\n".encode()).logs == [named]


def test_every_changed_bit_of_such_a_checkpoint_is_found() -> None:
    key = SigningKey.generate(STRONG)
    note = sign_checkpoint(CHECKPOINT, key, START)
    for other in (note.replace("\n7\n", "\n8\n"), note.replace("lakeside\n7", "lakeside2\n7", 1)):
        with pytest.raises(VerificationError):
            open_checkpoint(other, key.public_key)
    line = Note.parse(note).signatures[0]
    for place in (0, 7, 8, len(line.signature) - 1):
        changed = bytearray(line.signature)
        changed[place] ^= 1
        spoilt = base64.b64encode(line.key_id + bytes(changed)).decode()
        with pytest.raises(VerificationError):
            open_checkpoint(f"{CHECKPOINT.text}\n— {line.name} {spoilt}\n", key.public_key)


def test_a_line_that_such_a_log_did_not_sign_for_is_refused() -> None:
    key = SigningKey.generate(STRONG)
    note = sign_checkpoint(CHECKPOINT, key, START).replace("\n\n", "\nmore\n\n", 1)
    with pytest.raises(VerificationError, match="three lines"):
        open_checkpoint(note, key.public_key)


def test_an_entry_signed_with_another_algorithm_than_enrolled_is_refused(tmp_path: Path) -> None:
    federation = federation_of(tmp_path / "log", "bank_a")
    federation.begin()
    line = federation.line("bank_a", Event.AGENT_STARTED, {}, **runs_on("0.2.0"))
    envelope = json.loads(line)
    weak = SigningKey.generate()
    signature = base64.b64encode(weak.sign(parse_entry(line).signed)).decode()
    envelope["signatures"][0]["sig"] = signature
    forged = json.dumps(envelope, sort_keys=True, separators=(",", ":")).encode()
    with pytest.raises(VerificationError, match="expected a signature of ml-dsa-44"):
        federation.log.append(forged)


def test_a_party_never_goes_back_to_the_weaker_algorithm(tmp_path: Path) -> None:
    federation = federation_of(tmp_path / "log", "bank_a")
    federation.begin()
    weak = SigningKey.generate()
    key = PartyKey(party="bank_a", role=Role.SITE, public_key=weak.public_key)
    with pytest.raises(ConfigError, match="go on signing with ml-dsa-44, got a key of ed25519"):
        federation.log.add_party(key)
    # In the other direction a new enrolment is the way.
    better = SigningKey.generate(STRONG)
    federation.log.add_party(
        PartyKey(party="hospital_a", role=Role.SITE, public_key=better.public_key)
    )
    federation.keys["hospital_a"] = better
    federation.say(COORDINATOR, Event.SITE_REVOKED, site="hospital_a")
    federation.enrol("hospital_a")
    federation.say("hospital_a", Event.AGENT_STARTED, **runs_on("0.2.0"))
    verify_log(federation.folder, accountant=quick_accountant)


def test_a_downgrade_that_the_coordinator_wrote_into_the_log_is_named(tmp_path: Path) -> None:
    federation = federation_of(tmp_path / "log", "bank_a")
    federation.begin()
    federation.keys["bank_a"] = SigningKey.generate()
    bad = federation.enrol("bank_a")
    with pytest.raises(VerificationError, match="go on signing with ml-dsa-44") as caught:
        verify_log(federation.folder, federation.ring, accountant=quick_accountant)
    assert caught.value.entry == bad


@pytest.mark.parametrize("said", ["ed25519", "ml-dsa-44"])
def test_an_enrolment_that_names_another_algorithm_than_its_key_s_is_named(
    tmp_path: Path, said: str
) -> None:
    federation = federation_of(tmp_path / "log", *(["bank_a"] if said == "ed25519" else []))
    federation.say(COORDINATOR, Event.FEDERATION_CREATED, federation="lakeside")
    bad = federation.say(
        COORDINATOR,
        Event.SITE_ENROLLED,
        algorithm=said,
        site="bank_a",
        signing_key=federation.keys["bank_a"].public_key.hex(),
        certificate_serial="1a",
        num_units=400,
    )
    with pytest.raises(VerificationError, match=f"with a key of {said}, got one of") as caught:
        verify_log(federation.folder, federation.ring, accountant=quick_accountant)
    assert caught.value.entry == bad


def test_a_coordinator_keeps_to_one_algorithm() -> None:
    keys = [
        PartyKey(
            party=COORDINATOR,
            role=Role.COORDINATOR,
            public_key=SigningKey.generate(algorithm).public_key,
        )
        for algorithm in Algorithm
    ]
    for order in (keys, keys[::-1]):
        with pytest.raises(ConfigError, match="go on signing with"):
            KeyRing(order)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"algorithm": "rsa"}, "expected a signature algorithm of ed25519, ml-dsa-44, got 'rsa'"),
        ({"algorithm": None}, "expected a signature algorithm"),
        ({"algorithm": "ed25519"}, "expected a key of ed25519 for bank_a, got one of ml-dsa-44"),
        ({"public_key": "ab" * 1311}, "expected in"),
    ],
)
def test_a_bad_algorithm_in_keys_json_is_one_clear_error(
    tmp_path: Path, change: dict[str, object], problem: str
) -> None:
    key = SigningKey.generate(STRONG)
    party = {"party": "bank_a", "role": "site", "public_key": key.public_key.hex()}
    path = tmp_path / "keys.json"
    path.write_text(json.dumps({"parties": [party | {"algorithm": "ml-dsa-44"}]}))
    assert [known.key_id for known in KeyRing.load(path)] == [key.key_id]
    path.write_text(json.dumps({"parties": [party | {"algorithm": "ml-dsa-44"} | change]}))
    with pytest.raises(ConfigError, match=problem):
        KeyRing.load(path)
    # Without the word it would be taken for Ed25519, and is not.
    path.write_text(json.dumps({"parties": [party]}))
    with pytest.raises(ConfigError, match="expected a key of ed25519"):
        KeyRing.load(path)


def test_a_checkpoint_of_another_key_than_the_log_s_is_refused(tmp_path: Path) -> None:
    federation = federation_of(tmp_path / "log", COORDINATOR)
    federation.begin()
    signed = open_checkpoint(federation.log.checkpoint, federation.keys[COORDINATOR].public_key)
    federation.log.close()
    (tmp_path / "log" / "checkpoint").write_text(sign_checkpoint(signed, SigningKey.generate()))
    with pytest.raises((VerificationError, TamperError), match="none by that key"):
        verify_log(federation.folder, federation.ring, accountant=quick_accountant)
