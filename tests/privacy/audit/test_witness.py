"""A witness signs what extends what it saw, remembers before it signs, and refuses the rest."""

import json
import os
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from privacy.audit.checkpoint import Checkpoint, log_key, sign_checkpoint
from privacy.audit.cosignature import Algorithm, CosigningKey, cosigned_at
from privacy.audit.entry import Event, make_entry
from privacy.audit.keys import PartyKey, Role
from privacy.audit.log import Log
from privacy.audit.merkle import Tree, leaf_hash
from privacy.audit.note import Note, NoteSignature
from privacy.audit.witness import (
    REFUSED,
    Request,
    Seen,
    StaleError,
    Witness,
    advance,
    open_signed,
)
from privacy.errors import ConfigError, TamperError, VerificationError
from privacy.pki.identity import SigningKey

OPERATOR = SigningKey.generate()
ORIGIN = "cloister/lakeside"
LOG = log_key(ORIGIN, OPERATOR.public_key)
AT = datetime(2026, 11, 20, 8, 0, tzinfo=UTC)
NAME = "cloister/lakeside/hospital_a"


class Operator:
    """A log's operator who can sign whatever it likes."""

    def __init__(self, *entries: str) -> None:
        self.tree = Tree()
        for entry in entries:
            self.tree.append(leaf_hash(entry.encode()))

    def grow(self, *entries: str) -> "Operator":
        """Append entries."""
        for entry in entries:
            self.tree.append(leaf_hash(entry.encode()))
        return self

    def ask(self, old_size: int, key: SigningKey = OPERATOR, origin: str = ORIGIN) -> Request:
        """Ask a witness that saw `old_size` entries last."""
        size = self.tree.size
        checkpoint = Checkpoint(origin=origin, size=size, root=self.tree.root())
        path = self.tree.consistency(old_size, size) if 0 < old_size <= size else []
        return Request(
            old_size=old_size, path=tuple(path), checkpoint=sign_checkpoint(checkpoint, key)
        )


@pytest.fixture(params=Algorithm)
def key(request: pytest.FixtureRequest) -> CosigningKey:
    return CosigningKey.generate(NAME, request.param)


@pytest.fixture
def witness(tmp_path: Path, key: CosigningKey) -> Witness:
    Witness.create(tmp_path / "witness.json", LOG)
    return Witness(tmp_path / "witness.json", key, LOG)


def test_a_growing_log_is_cosigned_step_by_step(witness: Witness, key: CosigningKey) -> None:
    operator, old_size = Operator("a"), 0
    for step in range(5):
        request = operator.ask(old_size)
        signature = witness.cosign(request, AT)
        note = Note.parse(request.checkpoint).with_signatures((signature,))
        assert cosigned_at(note, key.public) == AT
        old_size = operator.tree.size
        operator.grow(*(f"{step}{i}" for i in range(step + 1)))
    assert witness.seen.size == old_size


def test_the_same_checkpoint_is_cosigned_again(witness: Witness) -> None:
    operator = Operator("a", "b")
    witness.cosign(operator.ask(0), AT)
    witness.cosign(operator.ask(2), AT)
    assert witness.seen.size == 2


def test_a_fork_of_the_same_size_is_refused_and_kept(witness: Witness, tmp_path: Path) -> None:
    witness.cosign(Operator("a", "b").ask(0), AT)
    forked = Operator("a", "x").ask(2)
    with pytest.raises(TamperError, match="two different logs of 2"):
        witness.cosign(forked, AT)
    (kept,) = proofs(tmp_path)
    assert kept["refused"] == forked.checkpoint
    assert open_signed(kept["seen"], LOG).root == Operator("a", "b").tree.root()
    assert witness.seen.size == 2


def proofs(folder: Path) -> list[dict[str, str]]:
    """The forks that a witness keeps."""
    path = folder / f"witness.json{REFUSED}"
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return [json.loads(line) for line in lines]


def test_each_fork_is_kept_once_whatever_was_asked_before(
    witness: Witness, tmp_path: Path
) -> None:
    witness.cosign(Operator("a", "b").ask(0), AT)
    with pytest.raises(StaleError):
        witness.cosign(Operator("a").ask(0), AT)
    good = Operator("a", "b", "c").ask(2)
    garbage = Request(old_size=2, path=(bytes(32),), checkpoint=good.checkpoint)
    with pytest.raises(VerificationError) as caught:
        witness.cosign(garbage, AT)
    assert not isinstance(caught.value, TamperError)
    assert proofs(tmp_path) == []
    forks = [Operator("a", "x").ask(2), Operator("a", "y").ask(2)]
    stranger = CosigningKey.generate("stranger").cosign(Note.parse(forks[0].checkpoint).text, AT)
    again = Request(old_size=2, path=(), checkpoint=forks[0].checkpoint + stranger.line)
    for fork in (*forks, again, forks[1]):
        with pytest.raises(TamperError, match="two different logs"):
            witness.cosign(fork, AT)
    assert [kept["refused"] for kept in proofs(tmp_path)] == [f.checkpoint for f in forks]
    witness.cosign(good, AT)


def test_a_fork_that_is_longer_is_refused(witness: Witness) -> None:
    witness.cosign(Operator("a", "b").ask(0), AT)
    with pytest.raises(VerificationError, match="does not begin with"):
        witness.cosign(Operator("a", "x", "c", "d").ask(2), AT)
    assert witness.seen.size == 2


def test_an_older_checkpoint_is_stale_and_accuses_nobody(witness: Witness, tmp_path: Path) -> None:
    witness.cosign(Operator("a", "b", "c").ask(0), AT)
    with pytest.raises(StaleError, match="at least the 3 entries seen, got 2") as caught:
        witness.cosign(Operator("a", "b").ask(0), AT)
    assert caught.value.size == 3
    assert proofs(tmp_path) == []
    assert witness.seen.size == 3


def test_an_operator_that_believes_another_size_is_told_the_right_one(witness: Witness) -> None:
    witness.cosign(Operator("a", "b").ask(0), AT)
    with pytest.raises(StaleError) as caught:
        witness.cosign(Operator("a", "b", "c").ask(1), AT)
    assert caught.value.size == 2
    witness.cosign(Operator("a", "b", "c").ask(caught.value.size), AT)


def test_a_checkpoint_that_the_log_did_not_sign_is_refused(witness: Witness) -> None:
    with pytest.raises(VerificationError, match="got none"):
        witness.cosign(Operator("a").ask(0, key=SigningKey.generate()), AT)
    with pytest.raises(VerificationError, match="got one of 'cloister/elsewhere'"):
        witness.cosign(Operator("a").ask(0, origin="cloister/elsewhere"), AT)
    assert witness.seen == Seen()


def test_what_was_seen_is_on_disk_before_the_signature_leaves(
    tmp_path: Path, witness: Witness, key: CosigningKey, monkeypatch: pytest.MonkeyPatch
) -> None:
    def crash(text: str, at: datetime) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(key, "cosign", crash)
    with pytest.raises(KeyboardInterrupt):
        witness.cosign(Operator("a", "b").ask(0), AT)
    monkeypatch.undo()
    again = Witness(tmp_path / "witness.json", key, LOG)
    assert again.seen.size == 2
    with pytest.raises(TamperError):
        again.cosign(Operator("a", "x").ask(2), AT)


def test_nothing_is_signed_that_could_not_be_remembered(
    witness: Witness, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        witness.cosign(Operator("a").ask(0), AT)
    monkeypatch.undo()
    assert witness.seen == Seen()


def test_a_witness_without_memory_signs_nothing(tmp_path: Path, key: CosigningKey) -> None:
    with pytest.raises(ConfigError, match="memory of a witness"):
        Witness(tmp_path / "witness.json", key, LOG)


def test_a_memory_is_never_made_over_another(tmp_path: Path, witness: Witness) -> None:
    witness.cosign(Operator("a").ask(0), AT)
    with pytest.raises(ConfigError, match="exists already"):
        Witness.create(tmp_path / "witness.json", LOG)


@pytest.mark.parametrize(
    "change",
    [
        lambda content: content | {"size": 1},
        lambda content: content | {"root": "00" * 32},
        lambda content: content | {"note": ""},
        lambda content: content | {"origin": "cloister/elsewhere"},
        lambda content: content | {"size": "2"},
        lambda content: {},
        lambda content: [],
    ],
)
def test_a_changed_memory_is_not_believed(
    tmp_path: Path,
    witness: Witness,
    key: CosigningKey,
    change: Callable[[dict[str, object]], object],
) -> None:
    witness.cosign(Operator("a", "b").ask(0), AT)
    path = tmp_path / "witness.json"
    path.write_text(json.dumps(change(json.loads(path.read_text()))))
    with pytest.raises(ConfigError):
        Witness(path, key, LOG)


def test_two_processes_share_one_memory(tmp_path: Path, witness: Witness) -> None:
    other = Witness(tmp_path / "witness.json", CosigningKey.generate(NAME), LOG)
    witness.cosign(Operator("a", "b").ask(0), AT)
    with pytest.raises(TamperError):
        other.cosign(Operator("a", "x").ask(0), AT)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_no_two_cosigned_checkpoints_ever_contradict_each_other(data: st.DataObject) -> None:
    """Whatever an operator with several histories asks, what is signed is one history."""
    histories = [
        [f"{name}{i}" if i >= split else str(i) for i in range(12)]
        for name, split in (("a", 12), ("b", 4), ("c", 7))
    ]
    seen, cosigned = Seen(), list[tuple[int, bytes]]()
    for _ in range(8):
        entries = data.draw(st.sampled_from(histories))
        size = data.draw(st.integers(0, 12))
        old_size = data.draw(st.one_of(st.just(seen.size), st.integers(0, 12)))
        try:
            seen = advance(seen, Operator(*entries[:size]).ask(old_size), LOG)
        except VerificationError:
            continue
        cosigned.append((seen.size, seen.root))
    assert [size for size, _ in cosigned] == sorted(size for size, _ in cosigned)
    assert any(
        all(Operator(*entries[:size]).tree.root() == root for size, root in cosigned)
        for entries in histories
    )


@given(st.text(max_size=200))
def test_garbage_is_no_request(text: str) -> None:
    with pytest.raises(VerificationError):
        Request.parse(text)


def test_a_request_comes_back_as_it_was_written() -> None:
    request = Operator("a", "b", "c").ask(2)
    assert Request.parse(str(request)) == request


def test_a_real_log_is_witnessed(tmp_path: Path, witness: Witness, key: CosigningKey) -> None:
    own = PartyKey(party="coordinator", role=Role.COORDINATOR, public_key=OPERATOR.public_key)
    with Log(tmp_path / "log", OPERATOR, ORIGIN, [own]) as log:
        for sequence in range(7):
            line = make_entry(
                OPERATOR,
                "coordinator",
                Event.SITE_REVOKED,
                sequence=sequence,
                at=AT,
                predicate={"site": "bank_a"},
            )
            log.append(line)
            if sequence % 3 == 0:
                request = log.request(witness.seen.size)
                signature = witness.cosign(Request.parse(str(request)), AT)
                log.add_cosignatures(request.checkpoint, [signature], [key.public])
        assert cosigned_at(Note.parse(log.cosigned), key.public) == AT
        with pytest.raises(VerificationError, match="a checkpoint of this log"):
            log.add_cosignatures(Operator("x").ask(0).checkpoint, [], [])
        stranger = CosigningKey.generate("stranger").cosign(Note.parse(log.checkpoint).text, AT)
        forged = NoteSignature(name=NAME, key_id=key.public.key_id, signature=stranger.signature)
        with pytest.raises(VerificationError):
            log.add_cosignatures(log.checkpoint, [forged], [key.public])
        kept = Note.parse(log.add_cosignatures(log.checkpoint, [stranger], [key.public]))
        assert len(kept.by(LOG)) == 1
        assert "stranger" not in {signature.name for signature in kept.signatures}


def test_a_saved_key_signs_as_before(tmp_path: Path, key: CosigningKey) -> None:
    key.save(tmp_path / "witness.pem")
    assert (tmp_path / "witness.pem").stat().st_mode & 0o777 == 0o600
    loaded = CosigningKey.load(tmp_path / "witness.pem", NAME)
    assert (loaded.public, loaded.algorithm) == (key.public, key.algorithm)
    (tmp_path / "other.pem").write_text("none")
    with pytest.raises(ConfigError, match="expected an Ed25519 or ML-DSA-44 private key"):
        CosigningKey.load(tmp_path / "other.pem", NAME)
