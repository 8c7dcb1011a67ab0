"""Our trees, tiles, notes and cosignatures are those of programs that we did not write.

Three sources: the examples in the C2SP specifications; `vectors/tlog.json`, which Go's own
transparency log packages made (`vectors/main.go`); and `proofbundle`, an implementation in Python
by other people, on values drawn anew at each run.
"""

import hashlib
import json
import warnings
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA44PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from privacy.audit.checkpoint import Checkpoint, log_key, open_checkpoint, sign_checkpoint
from privacy.audit.cosignature import Algorithm, CosigningKey, check_signed, cosigned_at
from privacy.audit.merkle import (
    Edge,
    Tree,
    leaf_hash,
    verify_consistency,
    verify_inclusion,
)
from privacy.audit.note import Note, NoteKey, SignatureType
from privacy.audit.proof import Proof
from privacy.audit.tiles import TileReader, mend_tiles, tile_path, tiles_between, write_tiles
from privacy.errors import ConfigError, TamperError, VerificationError
from privacy.pki.identity import SigningKey

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from proofbundle import checkpoint as other_checkpoint
    from proofbundle import merkle as other_merkle
    from proofbundle import tlogproof as other_proof

GO: dict[str, Any] = json.loads((Path(__file__).parent / "vectors" / "tlog.json").read_text())
GO_SIZE = 70_000

# The examples of C2SP's signed-note, tlog-checkpoint and tlog-cosignature.
NOTE_KEY = "example.com/foo+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k"
NOTE = (
    "This is an example message.\n\n— example.com/foo Uw2QOkn8srV1yJGh2VYRlL1Tnagv1YEq6TfXppzi2ONn"
    "cAlTgK7Ztg1ERYNZXsYjOBH3mFXmRKuwHjG1Yu72IneyaQM=\n"
)
COSIGNED = (
    "example.com/behind-the-sofa\n20852163\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n\n"
    "— example.com/behind-the-sofa Az3grlgtzPICa5OS8npVmf1Myq/5IZniMp+ZJurmRDeOoRDe4URYN7u5/Zhcyv2"
    "q1gGzGku9nTo+zyWE+xeMcTOAYQ8=\n"
    "— witness.example.com/w1 jWbPPwAAAABkGFDLEZMHwSRaJNiIDoe9DYn/zXcrtPHeolMI5OWXEhZCB9dlrDJsX3b2"
    "oyin1nPZqhf5nNo0xUe+mbIUBkBIfZ+qnA==\n"
)
# litewitness's test data: this seed is the key of the log example.com/mldsa-log, id b5df45c5.
MLDSA_SEED = bytes.fromhex("2886adc2b0eabfce67c0472939127998bf886cf256bfee8ba76a253fce1146e0")


@pytest.fixture(scope="module")
def tree() -> Tree:
    """The tree that the vectors are of: the entries are their own numbers."""
    grown = Tree()
    for number in range(GO_SIZE):
        grown.append(leaf_hash(str(number).encode()))
    return grown


def unhex(path: list[str]) -> list[bytes]:
    return [bytes.fromhex(part) for part in path]


def test_the_specification_s_note_verifies() -> None:
    key = NoteKey.parse(NOTE_KEY)
    assert key.vkey == NOTE_KEY
    note = Note.parse(NOTE)
    assert str(note) == NOTE
    assert check_signed(note, key)
    with pytest.raises(VerificationError):
        check_signed(Note.parse(NOTE.replace("example message", "other message")), key)


def test_the_specification_s_cosigned_checkpoint_reads_as_it_says() -> None:
    note = Note.parse(COSIGNED)
    assert str(note) == COSIGNED
    witness = note.signatures[1]
    assert (witness.name, witness.key_id.hex()) == ("witness.example.com/w1", "8d66cf3f")
    assert int.from_bytes(witness.signature[:8], "big") == 1679315147
    assert len(witness.signature) == 8 + 64


def test_a_published_ml_dsa_key_has_its_published_id() -> None:
    private = MLDSA44PrivateKey.from_seed_bytes(MLDSA_SEED)
    key = CosigningKey("example.com/mldsa-log", private).public
    assert key.key_id.hex() == "b5df45c5"
    assert key.vkey.startswith(
        "example.com/mldsa-log+b5df45c5+BuhtcL97l3dcitjZ8Y9J54gmQ1TWn/BMF0y"
    )


def test_go_s_roots_and_proofs_are_ours(tree: Tree) -> None:
    for case in GO["trees"]:
        size, root = case["size"], bytes.fromhex(case["root"])
        assert tree.root(size) == root
        for proof in case["inclusion"]:
            assert tree.inclusion(proof["index"], size) == unhex(proof["path"])
            verify_inclusion(
                tree.leaf(proof["index"]),
                index=proof["index"],
                size=size,
                path=unhex(proof["path"]),
                root=root,
            )
        for proof in case["consistency"]:
            assert tree.consistency(proof["old"], size) == unhex(proof["path"])
            verify_consistency(
                old_size=proof["old"],
                old_root=tree.root(proof["old"]),
                new_size=size,
                new_root=root,
                path=unhex(proof["path"]),
            )


def test_go_s_tiles_are_ours(tree: Tree, tmp_path: Path) -> None:
    mend_tiles(tmp_path, tree)
    for tile in GO["tiles"]:
        assert tile_path(tile["level"], tile["index"], tile["width"]) == tile["path"]
        content = (tmp_path / tile["path"]).read_bytes()
        assert hashlib.sha256(content).hexdigest() == tile["sha256"]
    for tile in GO["paths"]:
        assert tile_path(tile["level"], tile["index"], tile["width"]) == tile["path"]
    reader = TileReader(tmp_path, GO_SIZE)
    assert reader.root() == tree.root()
    for index in (0, 255, 256, 65_535, 65_536, GO_SIZE - 1):
        assert reader.inclusion(index) == tree.inclusion(index, GO_SIZE)


def test_a_tree_of_70000_has_the_tiles_that_the_specification_counts() -> None:
    tiles = list(tiles_between(0, 70_000))
    assert sum(1 for level, _, width in tiles if level == 0 and width == 256) == 273
    assert [tile for tile in tiles if tile[2] < 256] == [(0, 273, 112), (1, 1, 17), (2, 0, 1)]
    assert list(tiles_between(0, 256)) == [(0, 0, 256), (1, 0, 1)]


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(1, 300), min_size=1, max_size=6))
def test_tiles_written_step_by_step_are_those_written_at_once(
    tmp_path_factory: pytest.TempPathFactory, steps: list[int]
) -> None:
    one, other = tmp_path_factory.mktemp("tiles"), tmp_path_factory.mktemp("tiles")
    grown = Tree()
    for step in steps:
        old_size = grown.size
        for number in range(old_size, old_size + step):
            grown.append(leaf_hash(str(number).encode()))
        write_tiles(one, grown, old_size)
        assert TileReader(one, grown.size).root() == grown.root()
    mend_tiles(other, grown)
    assert files(one) == files(other)


def files(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_go_s_signed_note_opens_and_ours_is_the_same_to_the_byte() -> None:
    key = NoteKey.parse(GO["note"]["vkey"])
    assert key.type is SignatureType.ED25519
    found = open_checkpoint(GO["note"]["note"], key.public_key)
    assert (found.origin, found.size) == ("example.com/log", GO_SIZE)
    assert found.root.hex() == next(c["root"] for c in GO["trees"] if c["size"] == GO_SIZE)


@pytest.mark.parametrize("number", [0, 1])
def test_go_s_cosignatures_verify(number: int) -> None:
    key = NoteKey.parse(GO["cosigned"]["keys"][number])
    assert key.vkey == GO["cosigned"]["keys"][number]
    note = Note.parse(GO["cosigned"]["note"])
    at = datetime.fromtimestamp(GO["cosigned"]["time"], UTC)
    assert cosigned_at(note, key) == at
    with pytest.raises(VerificationError):
        cosigned_at(Note.parse(GO["cosigned"]["note"].replace("70000", "70001")), key)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_an_independent_tree_agrees_over_random_sizes(data: st.DataObject) -> None:
    entries = data.draw(st.lists(st.binary(max_size=8), min_size=1, max_size=150))
    index = data.draw(st.integers(0, len(entries) - 1))
    old = data.draw(st.integers(1, len(entries)))
    grown, edge = Tree(), Edge()
    for entry in entries:
        grown.append(leaf_hash(entry))
        edge.append(leaf_hash(entry))
    size, root = len(entries), grown.root()
    assert root == edge.root() == other_merkle.merkle_tree_hash(entries)
    path = grown.inclusion(index, size)
    assert path == other_merkle.inclusion_proof(entries, index)
    assert other_merkle.verify_inclusion(entries[index], index, size, path, root)
    steps = grown.consistency(old, size)
    assert steps == other_merkle.consistency_proof(entries, old)
    assert other_merkle.verify_consistency(old, size, steps, grown.root(old), root)


@settings(max_examples=20, deadline=None)
@given(st.binary(min_size=32, max_size=32), st.integers(0, 10**15 - 1), st.integers(0, 2**33))
def test_an_independent_parser_reads_our_checkpoints_and_cosignatures(
    root: bytes, size: int, time: int
) -> None:
    operator = SigningKey.generate()
    key = log_key("cloister/lakeside", operator.public_key)
    note = sign_checkpoint(Checkpoint(origin=key.name, size=size, root=root), operator)
    assert key.vkey == other_checkpoint.vkey(key.name, operator.public_key)
    found = other_checkpoint.verify_checkpoint(note, key.vkey)
    assert found["ok"]
    assert (found["origin"], found["tree_size"], found["root"]) == (key.name, size, root)
    at = datetime.fromtimestamp(time, UTC)
    for algorithm in Algorithm:
        witness = CosigningKey.generate(f"cloister/lakeside/{algorithm}", algorithm)
        cosigned = Note.parse(note).with_signatures((witness.cosign(Note.parse(note).text, at),))
        read = other_checkpoint.verify_cosignature(str(cosigned), witness.public.vkey)
        assert read["ok"], read
        assert read["timestamp"] == time


def test_we_read_an_independent_witness_s_cosignatures() -> None:
    operator = SigningKey.generate()
    checkpoint = Checkpoint(origin="cloister/lakeside", size=3, root=bytes(range(32)))
    note = sign_checkpoint(checkpoint, operator)
    at = datetime(2026, 11, 20, 8, 0, tzinfo=UTC)
    witness = CosigningKey.generate("w.example/ed")
    pq = CosigningKey.generate("w.example/pq", Algorithm.ML_DSA_44)
    private, pq_private = witness._private_key, pq._private_key
    note = other_checkpoint.cosign_checkpoint(note, private, "w.example/ed", int(at.timestamp()))
    note = other_checkpoint.cosign_checkpoint_mldsa(
        note, pq_private, "w.example/pq", int(at.timestamp())
    )
    assert cosigned_at(Note.parse(note), witness.public) == at
    assert cosigned_at(Note.parse(note), pq.public) == at


@settings(max_examples=20, deadline=None)
@given(st.data())
def test_an_independent_verifier_reads_our_proofs(data: st.DataObject) -> None:
    entries = [str(i).encode() for i in range(data.draw(st.integers(1, 40)))]
    index = data.draw(st.integers(0, len(entries) - 1))
    grown = Tree()
    for entry in entries:
        grown.append(leaf_hash(entry))
    operator = SigningKey.generate()
    checkpoint = Checkpoint(origin="cloister/lakeside", size=grown.size, root=grown.root())
    proof = Proof(
        index=index,
        path=tuple(grown.inclusion(index, grown.size)),
        checkpoint=sign_checkpoint(checkpoint, operator),
        entry=entries[index],
    )
    key = log_key("cloister/lakeside", operator.public_key)
    assert other_proof.verify_tlog_proof(str(proof), entries[index], key.vkey)["ok"]
    assert Proof.parse(str(proof)) == proof
    assert proof.check(entries[index]) == checkpoint
    with pytest.raises(TamperError):
        proof.check(entries[index] + b"!")


@pytest.mark.parametrize(
    "vkey",
    [
        "",
        "name",
        "name+00000000+",
        NOTE_KEY.replace("530d903a", "530d903b"),
        NOTE_KEY + "=",
        NOTE_KEY.replace("+Ae", "+BO"),
        NOTE_KEY.replace("example.com/foo", "example.com/fo o"),
    ],
)
def test_a_key_that_is_none_is_refused(vkey: str) -> None:
    with pytest.raises(ConfigError):
        NoteKey.parse(vkey)
