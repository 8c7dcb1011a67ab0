"""Two copies of a log differ where they first differ, and a fork is told from a broken copy."""

import json
import os
import shutil
from pathlib import Path

import pytest

from privacy.audit.checkpoint import Checkpoint, sign_checkpoint
from privacy.audit.compare import compare_logs
from privacy.audit.entry import Event
from privacy.audit.log import CHECKPOINT, CHECKPOINTS, COSIGNED, ENTRIES, Log
from privacy.audit.sample import draw, rank
from privacy.errors import ConfigError
from privacy.pki.identity import SigningKey
from tests.privacy.evidence import COORDINATOR, Federation


@pytest.fixture(autouse=True)
def no_sync(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda _: None)


@pytest.fixture
def federation(tmp_path: Path) -> Federation:
    made = Federation(tmp_path / "ours")
    made.begin()
    return made


def copy(federation: Federation, name: str = "theirs") -> Path:
    return Path(shutil.copytree(federation.folder, federation.folder.parent / name))


def test_a_copy_is_the_same(federation: Federation) -> None:
    found = compare_logs(federation.folder, copy(federation), federation.ring)
    assert (found.differs, found.first_difference, found.is_fork) == (False, None, False)
    assert found.ours.checkpoint == found.theirs.checkpoint
    assert found.ours.is_signed
    assert found.theirs.is_whole


@pytest.mark.parametrize("swapped", [False, True])
def test_an_older_copy_is_only_older(federation: Federation, swapped: bool) -> None:
    older = copy(federation)
    federation.reserve("bank_a", 1)
    pair = (older, federation.folder) if swapped else (federation.folder, older)
    found = compare_logs(*pair, federation.ring)
    assert (found.differs, found.is_fork) == (False, False)
    assert abs(found.ours.checkpoint.size - found.theirs.checkpoint.size) == 1


def test_two_ways_to_go_on_are_a_fork_from_there(federation: Federation) -> None:
    theirs = copy(federation)
    size = federation.log.size
    federation.say(COORDINATOR, Event.SITE_REVOKED, site="bank_a")
    # The same operator, with the same key, goes on in the copy as if nothing had been said.
    federation.log.close()
    key = federation.keys[COORDINATOR]
    federation.log = Log(theirs, key, "cloister/lakeside", federation.ring)
    federation.say(COORDINATOR, Event.SITE_REVOKED, site="hospital_a")
    federation.say(COORDINATOR, Event.SITE_REVOKED, site="hospital_b")
    found = compare_logs(federation.folder, theirs, federation.ring)
    assert (found.first_difference, found.differs, found.is_fork) == (size, True, True)


def forked_note(federation: Federation, size: int, key: SigningKey | None = None) -> str:
    """Another root of the same size, signed by the operator."""
    other = Checkpoint(origin="cloister/lakeside", size=size, root=bytes(32))
    return sign_checkpoint(other, key or federation.keys[COORDINATOR])


@pytest.mark.parametrize("name", [CHECKPOINT, COSIGNED, CHECKPOINTS])
@pytest.mark.parametrize("swapped", [False, True])
def test_two_signed_roots_of_one_size_are_a_fork_whatever_the_entries_say(
    federation: Federation, name: str, swapped: bool
) -> None:
    theirs = copy(federation)
    size = federation.log.size - (name == CHECKPOINTS)
    note = forked_note(federation, size)
    with (theirs / name).open("a" if name == CHECKPOINTS else "w", encoding="utf-8") as opened:
        opened.write(json.dumps(note) + "\n" if name == CHECKPOINTS else note)
    pair = (theirs, federation.folder) if swapped else (federation.folder, theirs)
    found = compare_logs(*pair, federation.ring)
    assert (found.first_difference, found.differs, found.is_fork) == (None, True, True)


def test_a_root_that_the_operator_did_not_sign_proves_nothing(federation: Federation) -> None:
    theirs = copy(federation)
    note = forked_note(federation, federation.log.size, SigningKey.generate())
    (theirs / COSIGNED).write_text(note, encoding="utf-8")
    found = compare_logs(federation.folder, theirs, federation.ring)
    assert (found.differs, found.is_fork) == (False, False)


def test_a_broken_copy_is_no_fork(federation: Federation) -> None:
    theirs = copy(federation)
    lines = (theirs / ENTRIES).read_bytes().split(b"\n")
    lines[4] = lines[4].replace(b"A", b"B", 1)
    (theirs / ENTRIES).write_bytes(b"\n".join(lines))
    found = compare_logs(federation.folder, theirs, federation.ring)
    assert (found.first_difference, found.is_fork, found.theirs.is_whole) == (4, False, False)


def test_a_checkpoint_that_somebody_kept_is_enough(federation: Federation, tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    kept.write_bytes((federation.folder / CHECKPOINT).read_bytes())
    federation.reserve("bank_a", 1)
    found = compare_logs(federation.folder, kept, federation.ring)
    assert (found.differs, found.theirs.is_whole) == (False, None)


def test_a_checkpoint_of_nobody_proves_nothing(federation: Federation, tmp_path: Path) -> None:
    stranger = Federation(tmp_path / "stranger")
    stranger.begin()
    found = compare_logs(federation.folder, stranger.folder / CHECKPOINT, federation.ring)
    assert (found.differs, found.theirs.is_signed, found.is_fork) == (True, False, False)


def test_what_is_no_log_is_an_error(federation: Federation, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="expected a log's folder, got"):
        compare_logs(federation.folder, tmp_path / "nowhere", federation.ring)
    (tmp_path / "note").write_text("hello")
    with pytest.raises(ConfigError, match="expected a checkpoint in"):
        compare_logs(federation.folder, tmp_path / "note", federation.ring)


def test_a_sample_is_drawn_by_its_seed_alone() -> None:
    # By hand: printf 'cloister-audit sample v1\nseed\n7\n' | sha256sum
    assert rank("seed", 7).hex() == (
        "5af0a48927efb7243780f72cee4abe3378a07cd9f3eff308b589754caad9de43"
    )
    drawn = draw(range(100), seed="2026-11-20", count=5)
    assert drawn == draw(reversed(range(100)), seed="2026-11-20", count=5)
    assert drawn == sorted(drawn)
    assert set(drawn) < set(draw(range(100), seed="2026-11-20", count=6))
    assert drawn != draw(range(100), seed="2026-11-21", count=5)
    assert draw(range(3), seed="s", count=9) == [0, 1, 2]


def test_every_entry_can_be_drawn() -> None:
    seen = {index for seed in range(60) for index in draw(range(20), seed=str(seed), count=3)}
    assert seen == set(range(20))


@pytest.mark.parametrize(("seed", "count"), [("s", 0), ("two\nlines", 1)])
def test_a_sample_that_means_nothing_is_refused(seed: str, count: int) -> None:
    with pytest.raises(ValueError, match="expected a"):
        draw(range(3), seed=seed, count=count)
