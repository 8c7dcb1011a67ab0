"""A policy says which cosignatures are enough, and is refused where it could say two things."""

from datetime import UTC, datetime

import pytest

from privacy.audit.checkpoint import Checkpoint, log_key, sign_checkpoint
from privacy.audit.cosignature import Algorithm, CosigningKey
from privacy.audit.note import Note
from privacy.audit.policy import Policy
from privacy.errors import ConfigError, VerificationError
from privacy.pki.identity import SigningKey

OPERATOR = SigningKey.generate()
LOG = log_key("cloister/lakeside", OPERATOR.public_key)
AT = datetime(2026, 11, 20, 8, 0, tzinfo=UTC)
WITNESSES = {
    name: CosigningKey.generate(f"example.com/{name}", algorithm)
    for name, algorithm in [
        ("X1", Algorithm.ED25519),
        ("X2", Algorithm.ML_DSA_44),
        ("X3", Algorithm.ED25519),
        ("Y1", Algorithm.ED25519),
        ("Y2", Algorithm.ML_DSA_44),
    ]
}
LINES = "\n".join(f"witness {name} {key.public.vkey}" for name, key in WITNESSES.items())
# The example of C2SP's tlog-policy, with real keys.
EXAMPLE = f"""
# two sides

log {LOG.vkey} https://log.example.com/
{LINES}
group\tX-witnesses 2 X1 X2 X3
group Y-witnesses any Y1 Y2
group X-and-Y all X-witnesses Y-witnesses
  quorum X-and-Y
"""


def cosigned(*names: str, key: SigningKey = OPERATOR) -> str:
    checkpoint = Checkpoint(origin="cloister/lakeside", size=42, root=bytes(range(32)))
    note = Note.parse(sign_checkpoint(checkpoint, key))
    return str(note.with_signatures(tuple(WITNESSES[n].cosign(note.text, AT) for n in names)))


def test_the_specification_s_example_reads_as_it_says() -> None:
    policy = Policy.parse(EXAMPLE.encode())
    assert policy.logs == [LOG]
    assert policy.witnesses == {name: key.public for name, key in WITNESSES.items()}
    assert policy.groups["X-witnesses"].needed == 2
    assert policy.groups["Y-witnesses"].needed == 1
    assert policy.groups["X-and-Y"].needed == 2
    assert policy.quorum == "X-and-Y"


@pytest.mark.parametrize(
    ("names", "enough"),
    [
        ("X1 X2 Y1", True),
        ("X2 X3 Y2", True),
        ("X1 X2 X3 Y1 Y2", True),
        ("X1 Y1 Y2", False),
        ("X1 X2 X3", False),
        ("", False),
    ],
)
def test_the_quorum_is_counted_by_groups(names: str, enough: bool) -> None:
    policy = Policy.parse(EXAMPLE.encode())
    if enough:
        found = policy.check(cosigned(*names.split()))
        assert found.witnesses == dict.fromkeys(names.split(), AT)
        assert found.checkpoint.size == 42
    else:
        with pytest.raises(VerificationError, match="lacks its quorum 'X-and-Y'"):
            policy.check(cosigned(*names.split()))


def test_a_cosignature_of_another_checkpoint_does_not_count() -> None:
    policy = Policy.parse(EXAMPLE.encode())
    other = Note.parse(
        sign_checkpoint(Checkpoint(origin="cloister/lakeside", size=43, root=bytes(32)), OPERATOR)
    )
    stolen = Note.parse(cosigned("X1", "X2", "Y1")).signatures[1:]
    with pytest.raises(VerificationError, match="does not verify"):
        policy.check(str(other.with_signatures(stolen)))


def test_one_bad_line_of_a_known_witness_condemns_the_note() -> None:
    policy = Policy.parse(EXAMPLE.encode())
    good = cosigned("X1", "X2", "Y1")
    bad = CosigningKey.generate("example.com/X3").cosign(Note.parse(good).text, AT)
    key = WITNESSES["X3"].public
    # An unknown key under a known name is passed over, as the format demands.
    assert set(policy.check(good + bad.line).witnesses) == {"X1", "X2", "Y1"}
    named = type(bad)(name=key.name, key_id=key.key_id, signature=bad.signature)
    with pytest.raises(VerificationError, match="does not verify"):
        policy.check(str(Note.parse(good).with_signatures((named,))))


def test_a_log_that_the_policy_does_not_know_is_refused() -> None:
    stranger = SigningKey.generate()
    note = cosigned("X1", "X2", "Y1", key=stranger)
    with pytest.raises(VerificationError, match="a key that we know"):
        Policy.parse(EXAMPLE.encode()).check(note)
    without = EXAMPLE.replace(f"log {LOG.vkey} https://log.example.com/\n", "")
    with pytest.raises(VerificationError, match="a key that we know"):
        Policy.parse(without.encode()).check(note, [LOG])
    Policy.parse(without.encode()).check(cosigned("X1", "X2", "Y1"), [LOG])


def test_a_quorum_of_nobody_asks_for_the_log_s_signature_only() -> None:
    policy = Policy.parse(f"log {LOG.vkey}\nquorum none\n".encode())
    assert policy.check(cosigned()).witnesses == {}


X1, X2 = WITNESSES["X1"].public.vkey, WITNESSES["X2"].public.vkey


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "expected a line 'quorum NAME'"),
        ("quorum X1\n", "line 1: expected a witness or group defined above"),
        (f"witness X1 {X1}\nquorum X1\nquorum X1\n", "line 3: expected one quorum"),
        (f"witness X1 {X1}\nwitness X1 {X2}\n", "line 2: expected a new name"),
        (f"witness none {X1}\nquorum none\n", "line 1: expected a new name"),
        (f"witness X1 {X1}\nwitness X2 {X1}\nquorum X1\n", "line 2: expected each key once"),
        (f"log {LOG.vkey}\nlog {LOG.vkey}\nquorum none\n", "line 2: expected each key once"),
        (f"witness X1 {LOG.vkey}\nquorum X1\n", "line 1: expected a key that signs as a witness"),
        (f"log {X1}\nquorum none\n", "line 1: expected a key that signs as a log"),
        (f"witness X1 {X1}\ngroup G 2 X1\nquorum G\n", "line 2: expected all, any, or a number"),
        (f"witness X1 {X1}\ngroup G 0 X1\nquorum G\n", "line 2: expected all, any, or a number"),
        (f"witness X1 {X1}\ngroup G any\nquorum G\n", "line 2: expected 'log KEY'"),
        (f"witness X1 {X1}\ngroup G any X1 X1\nquorum G\n", "line 2: expected 'X1' in one group"),
        (
            f"witness X1 {X1}\ngroup G any X1\ngroup H any X1\nquorum H\n",
            "line 3: expected 'X1' in one group",
        ),
        ("group G any G\nquorum G\n", "line 1: expected a witness or group defined above"),
        (f"witness X1 {X1[:-4]}\nquorum X1\n", "line 1: expected"),
        ("please\nquorum none\n", "line 1: expected 'log KEY'"),
        ("quorum none\r\n", "line 1: expected no control characters"),
    ],
    # Keys are new in every process, and a name must not be.
    ids=range(18),
)
def test_a_policy_that_could_mean_two_things_is_refused(text: str, reason: str) -> None:
    with pytest.raises(ConfigError, match="expected") as caught:
        Policy.parse(text.encode())
    assert reason in str(caught.value)


def test_a_log_does_not_vote_on_itself() -> None:
    own = CosigningKey("cloister/lakeside", OPERATOR._private_key).public.vkey
    with pytest.raises(ConfigError, match="its own witness"):
        Policy.parse(f"log {LOG.vkey}\nwitness me {own}\nquorum me\n".encode())


def test_a_log_named_only_by_the_keys_does_not_vote_on_itself() -> None:
    own = CosigningKey("cloister/lakeside", OPERATOR._private_key)
    policy = Policy.parse(f"witness me {own.public.vkey}\nquorum me\n".encode())
    note = Note.parse(cosigned())
    voted = str(note.with_signatures((own.cosign(note.text, AT),)))
    with pytest.raises(VerificationError, match="its own witness, got its key as me"):
        policy.check(voted, [LOG])
    with pytest.raises(VerificationError, match="its own witness"):
        policy.check(voted, [log_key("cloister/elsewhere", OPERATOR.public_key), LOG])
