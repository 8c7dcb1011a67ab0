"""A quorum counts operators, and the policy that it writes asks for the same quorum."""

from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from privacy.audit.checkpoint import Checkpoint, log_key, sign_checkpoint
from privacy.audit.cosignature import CosigningKey
from privacy.audit.note import Note
from privacy.audit.policy import Policy
from privacy.audit.quorum import Quorum
from privacy.errors import ConfigError, VerificationError
from privacy.pki.identity import SigningKey

OPERATOR = SigningKey.generate()
ORIGIN = "cloister/regio"
LOG = log_key(ORIGIN, OPERATOR.public_key)
SITES = tuple("abcdef")
KEYS = {site: CosigningKey.generate(f"{ORIGIN}/{site}") for site in SITES}
WITNESSES = {site: key.public for site, key in KEYS.items()}
NOTE = sign_checkpoint(Checkpoint(origin=ORIGIN, size=7, root=b"\1" * 32), OPERATOR)
AT = datetime(2026, 11, 20, 8, 0, tzinfo=UTC)


def cosigned(sites: list[str]) -> str:
    note = Note.parse(NOTE)
    return str(note.with_signatures(tuple(KEYS[s].cosign(note.text, AT) for s in sites)))


@pytest.mark.parametrize(
    ("rule", "num_sites", "needed"),
    [
        ("majority", 1, 1),
        ("majority", 2, 2),
        ("majority", 3, 2),
        ("majority", 4, 3),
        ("all", 4, 4),
        (2, 4, 2),
        ("none", 4, 0),
        ("majority", 0, 1),
        ("all", 0, 1),
    ],
)
def test_the_rule_says_how_many(rule: str | int, num_sites: int, needed: int) -> None:
    assert Quorum.over(rule, SITES[:num_sites]).needed == needed


def test_sites_of_one_operator_count_once_and_the_log_s_own_not_at_all() -> None:
    operators = {"a": "umc", "b": "umc", "c": "coordinator"}
    quorum = Quorum.over("majority", "abcd", operators)
    assert quorum.operators == {"umc": ("a", "b"), "d": ("d",)}
    assert quorum.needed == 2
    assert not quorum.holds("abc")
    assert quorum.holds("bd")
    assert quorum.missing("a") == ["d"]


def test_no_sites_are_no_quorum() -> None:
    assert not Quorum.over("majority", "").holds("")
    with pytest.raises(ConfigError, match="no site at all"):
        Quorum.over("majority", "").policy(LOG, {})


def test_a_policy_that_would_ask_for_less_is_not_written() -> None:
    quorum = Quorum.over("all", "abc")
    with pytest.raises(ConfigError, match=r"got 2; without a witness's key: c"):
        quorum.policy(LOG, {site: WITNESSES[site] for site in "ab"})


@given(
    rule=st.sampled_from(["majority", "all", "none", 1, 2, 3]),
    num_sites=st.integers(3, 6),
    operators=st.dictionaries(
        st.sampled_from(SITES), st.sampled_from(["umc", "a", "f", "coordinator"]), max_size=4
    ),
    signed=st.lists(st.sampled_from(SITES), unique=True),
)
@settings(max_examples=60, deadline=None)
def test_the_policy_asks_for_what_the_quorum_asks_for(
    rule: str | int, num_sites: int, operators: dict[str, str], signed: list[str]
) -> None:
    quorum = Quorum.over(rule, SITES[:num_sites], operators)
    if quorum.needed > len(quorum.operators):
        with pytest.raises(ConfigError):
            quorum.policy(LOG, WITNESSES)
        return
    policy = Policy.parse(quorum.policy(LOG, WITNESSES).encode())
    if quorum.holds(signed):
        policy.check(cosigned(signed))
    else:
        with pytest.raises(VerificationError, match="lacks its quorum"):
            policy.check(cosigned(signed))


@pytest.mark.parametrize("operator", ["quorum", "none", "operators", "a"])
def test_no_name_of_an_operator_or_a_site_spoils_the_policy(operator: str) -> None:
    keys = {s: CosigningKey.generate(f"{ORIGIN}/{s}").public for s in ("none", "quorum", "a", "b")}
    for operators in ({}, {"a": operator, "b": operator}, {"none": operator, "b": operator}):
        quorum = Quorum.over("majority", keys, operators)
        policy = Policy.parse(quorum.policy(LOG, keys).encode())
        assert len(policy.witnesses) == 4


def test_two_sites_with_one_key_give_no_policy() -> None:
    with pytest.raises(ConfigError, match="expected each key once"):
        Quorum.over("majority", "ab").policy(LOG, {"a": WITNESSES["a"], "b": WITNESSES["a"]})
