"""A log keeps what it acknowledged, in order, through crashes, and refuses the rest."""

import os
import shutil
import signal
import subprocess
import sys
import threading
from datetime import UTC, datetime
from pathlib import Path

import pytest

from privacy.audit.checkpoint import open_checkpoint
from privacy.audit.entry import Event, make_entry, parse_entry
from privacy.audit.keys import KeyRing, PartyKey, Role
from privacy.audit.log import CHECKPOINT, ENTRIES, KEYS, Log
from privacy.audit.merkle import leaf_hash, verify_consistency, verify_inclusion
from privacy.audit.tiles import TileReader
from privacy.errors import ConfigError, TamperError, VerificationError
from privacy.pki.identity import SigningKey
from tests.privacy.evidence import runs_on

COORDINATOR = SigningKey.generate()
SITE = SigningKey.generate()
PARTIES = [
    PartyKey(party="coordinator", role=Role.COORDINATOR, public_key=COORDINATOR.public_key),
    PartyKey(party="bank_a", role=Role.SITE, public_key=SITE.public_key),
]
AT = datetime(2026, 11, 20, 8, 0, tzinfo=UTC)
ORIGIN = "cloister/lakeside"


def open_log(folder: Path) -> Log:
    return Log(folder, COORDINATOR, ORIGIN, PARTIES)


def started(sequence: int, version: str = "0.1.0") -> bytes:
    return make_entry(
        SITE,
        "bank_a",
        Event.AGENT_STARTED,
        sequence=sequence,
        at=AT,
        predicate=runs_on(version),
    )


def test_an_entry_gets_a_receipt_that_proves_its_place(tmp_path: Path) -> None:
    with open_log(tmp_path) as log:
        for sequence in range(4):
            log.append(started(sequence))
        receipt = log.append(started(4))
        line = started(2)
        checkpoint = open_checkpoint(receipt.checkpoint, COORDINATOR.public_key)
        assert (checkpoint.size, checkpoint.root) == (receipt.size, receipt.root) == (5, log.root)
        verify_inclusion(
            leaf_hash(line), index=2, size=5, path=log.inclusion(2, 5), root=receipt.root
        )


def test_the_log_proves_to_a_witness_that_it_only_grew(tmp_path: Path) -> None:
    with open_log(tmp_path) as log:
        old = log.append(started(0))
        new = log.extend([started(sequence) for sequence in range(1, 9)])[-1]
        verify_consistency(
            old_size=old.size,
            old_root=old.root,
            new_size=new.size,
            new_root=new.root,
            path=log.consistency(old.size, new.size),
        )


def test_a_log_goes_on_where_it_was_closed(tmp_path: Path) -> None:
    with open_log(tmp_path) as log:
        log.append(started(0))
        root = log.root
    with Log(tmp_path, COORDINATOR, ORIGIN) as log:
        assert (log.size, log.root) == (1, root)
        assert log.next_sequence(SITE.key_id) == 1
        assert log.append(started(1)).index == 1
        assert log.lines(1) == [started(1)]


def test_a_log_of_the_version_before_opens_and_gets_its_tiles(tmp_path: Path) -> None:
    with open_log(tmp_path) as log:
        log.extend([started(0), started(1)])
        root = log.root
    shutil.rmtree(tmp_path / "tile")
    with open_log(tmp_path) as log:
        assert log.lines() == [started(0), started(1)]
        assert TileReader(tmp_path, 2).root() == root
        assert log.append(started(2)).index == 2


def test_what_a_power_cut_left_behind_the_checkpoint_is_no_reason_to_stop(tmp_path: Path) -> None:
    with open_log(tmp_path) as log:
        log.append(started(0))
    with (tmp_path / ENTRIES).open("ab") as entries:
        entries.write(started(1) + b"\n" + bytes(700) + b"\n" + started(2) + b"\n")
    with open_log(tmp_path) as log:
        assert log.lines() == [started(0), started(1)]
        assert log.append(started(2)).index == 2


def test_entries_that_their_caller_checked_are_still_numbered(tmp_path: Path) -> None:
    with open_log(tmp_path) as log:
        entries = [parse_entry(started(sequence)) for sequence in range(3)]
        assert [r.index for r in log.extend_checked([*entries, entries[1]])] == [0, 1, 2, 1]
        with pytest.raises(VerificationError, match="missing before it"):
            log.extend_checked([parse_entry(started(4))])
        assert log.size == 3


def test_the_same_entry_twice_is_one_entry_with_one_receipt(tmp_path: Path) -> None:
    with open_log(tmp_path) as log:
        first = log.append(started(0))
        log.append(started(1))
        again = log.append(started(0))
        assert again.index == first.index == 0
        assert log.size == 2
        both = log.extend([started(2), started(2)])
        assert [receipt.index for receipt in both] == [2, 2]


def test_a_torn_last_line_is_dropped(tmp_path: Path) -> None:
    with open_log(tmp_path) as log:
        log.append(started(0))
    with (tmp_path / ENTRIES).open("ab") as entries:
        entries.write(started(1)[:100])
    with open_log(tmp_path) as log:
        assert log.size == 1
        assert log.append(started(1)).index == 1
        assert log.lines() == [started(0), started(1)]


def test_a_crash_before_the_checkpoint_loses_nothing(tmp_path: Path) -> None:
    with open_log(tmp_path) as log:
        log.append(started(0))
    with (tmp_path / ENTRIES).open("ab") as entries:
        entries.write(started(1) + b"\n")
    with open_log(tmp_path) as log:
        assert log.size == 2
        assert open_checkpoint(log.checkpoint, COORDINATOR.public_key).size == 2


def test_a_full_disk_leaves_no_half_entry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with open_log(tmp_path) as log:
        log.append(started(0))

        def full(_: int) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space"):
            log.append(started(1))
        monkeypatch.undo()
        assert log.size == 1
        assert log.append(started(1)).index == 1
        assert log.lines() == [started(0), started(1)]


@pytest.mark.parametrize("damage", ["edit", "drop", "empty"])
def test_a_log_that_was_changed_is_never_continued(tmp_path: Path, damage: str) -> None:
    with open_log(tmp_path) as log:
        log.extend([started(0), started(1)])
    replacement = {
        "edit": started(0) + b"\n" + started(1, "6.6.6") + b"\n",
        "drop": started(0) + b"\n",
        "empty": b"",
    }
    (tmp_path / ENTRIES).write_bytes(replacement[damage])
    with pytest.raises(TamperError):
        open_log(tmp_path)


def test_a_log_without_its_checkpoint_is_never_continued(tmp_path: Path) -> None:
    with open_log(tmp_path) as log:
        log.append(started(0))
    (tmp_path / CHECKPOINT).unlink()
    with pytest.raises(TamperError, match="expected a checkpoint"):
        open_log(tmp_path)


def test_another_log_s_folder_is_refused(tmp_path: Path) -> None:
    open_log(tmp_path).close()
    with pytest.raises(ConfigError, match="expected the log"):
        Log(tmp_path, COORDINATOR, "cloister/elsewhere")


def test_a_second_writer_is_refused(tmp_path: Path) -> None:
    with open_log(tmp_path), pytest.raises(ConfigError, match="another process"):
        open_log(tmp_path)
    open_log(tmp_path).close()


def test_an_unknown_signer_is_refused(tmp_path: Path) -> None:
    stranger = make_entry(
        SigningKey.generate(),
        "bank_a",
        Event.AGENT_STARTED,
        sequence=0,
        at=AT,
        predicate=runs_on(),
    )
    with open_log(tmp_path) as log, pytest.raises(VerificationError, match="unknown key"):
        log.append(stranger)


def test_an_event_of_another_role_is_refused(tmp_path: Path) -> None:
    line = make_entry(
        SITE, "bank_a", Event.SITE_REVOKED, sequence=0, at=AT, predicate={"site": "bank_b"}
    )
    with open_log(tmp_path) as log, pytest.raises(VerificationError, match="not a site's to say"):
        log.append(line)


def test_a_gap_and_a_used_number_are_refused_and_nothing_is_kept(tmp_path: Path) -> None:
    with open_log(tmp_path) as log:
        log.append(started(0))
        with pytest.raises(VerificationError, match="missing before it"):
            log.append(started(2))
        with pytest.raises(VerificationError, match="had that number already"):
            log.append(started(0, "6.6.6"))
        with pytest.raises(VerificationError, match="missing before it"):
            log.extend([started(1), started(3)])
        assert log.size == 1
        assert log.append(started(1)).index == 1


def test_a_party_can_join_later(tmp_path: Path) -> None:
    with Log(tmp_path, COORDINATOR, ORIGIN, PARTIES[:1]) as log:
        with pytest.raises(VerificationError, match="unknown key"):
            log.append(started(0))
        log.add_party(PARTIES[1])
        log.append(started(0))
    assert list(KeyRing.load(tmp_path / KEYS)) == PARTIES


def test_threads_get_one_place_each(tmp_path: Path) -> None:
    keys = [SigningKey.generate() for _ in range(8)]
    parties = [
        PartyKey(party=f"site_{number}", role=Role.SITE, public_key=key.public_key)
        for number, key in enumerate(keys)
    ]
    seen: list[int] = []
    with Log(tmp_path, COORDINATOR, ORIGIN, parties) as log:

        def write(number: int) -> None:
            for sequence in range(5):
                line = make_entry(
                    keys[number],
                    f"site_{number}",
                    Event.AGENT_STARTED,
                    sequence=sequence,
                    at=AT,
                    predicate=runs_on(),
                )
                seen.append(log.append(line).index)

        threads = [threading.Thread(target=write, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert sorted(seen) == list(range(40))
    open_log(tmp_path).close()


WRITER = """
import sys
from datetime import UTC, datetime
from pathlib import Path
from privacy.audit.entry import Event, make_entry
from privacy.audit.keys import PartyKey, Role
from privacy.audit.log import Log
from privacy.pki.identity import SigningKey

folder = Path(sys.argv[1])
key = SigningKey.load(folder / "key.pem")
own = PartyKey(party="coordinator", role=Role.COORDINATOR, public_key=key.public_key)
with Log(folder / "log", key, "cloister/lakeside", [own]) as log:
    batch = int(sys.argv[2])
    for begin in range(0, 100_000, batch):
        lines = [
            make_entry(
                key, "coordinator", Event.SITE_REVOKED, sequence=sequence,
                at=datetime.now(UTC), predicate={"site": "bank_a"},
            )
            for sequence in range(begin, begin + batch)
        ]
        print(log.extend(lines)[-1].size, flush=True)
"""


@pytest.mark.parametrize("batch", [1, 40])
def test_what_was_acknowledged_survives_kill_9(tmp_path: Path, batch: int) -> None:
    key = SigningKey.generate()
    key.save(tmp_path / "key.pem")
    with subprocess.Popen(
        [sys.executable, "-c", WRITER, str(tmp_path), str(batch)],
        stdout=subprocess.PIPE,
        text=True,
    ) as writer:
        stdout = writer.stdout
        assert stdout is not None
        seen = [int(stdout.readline()) for _ in range(20)]
        writer.send_signal(signal.SIGKILL)
        seen += [int(line) for line in stdout.read().splitlines() if line]
    with Log(tmp_path / "log", key, ORIGIN) as log:
        assert log.size >= max(seen)
        assert log.next_sequence(key.key_id) == log.size


def test_the_log_s_files_are_its_owner_s_only(tmp_path: Path) -> None:
    open_log(tmp_path / "log").close()
    assert (tmp_path / "log").stat().st_mode & 0o777 == 0o700
    assert (tmp_path / "log" / ENTRIES).stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        "{}",
        '{"parties": [{}]}',
        '{"parties": [{"party": "a", "role": "king", "public_key": "' + "00" * 32 + '"}]}',
        '{"parties": [{"party": "a", "role": "site", "public_key": "zz"}]}',
    ],
)
def test_keys_that_are_none_are_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / KEYS).write_text(content)
    with pytest.raises(ConfigError):
        KeyRing.load(tmp_path / KEYS)


def test_one_key_cannot_be_two_parties_nor_one_name_two_roles() -> None:
    ring = KeyRing(PARTIES)
    with pytest.raises(ConfigError, match="one party and one role"):
        ring.add(PartyKey(party="bank_b", role=Role.SITE, public_key=SITE.public_key))
    with pytest.raises(ConfigError, match="one party and one role"):
        ring.add(PartyKey(party="coordinator", role=Role.SITE, public_key=bytes(32)))
    with pytest.raises(ConfigError, match="one coordinator"):
        ring.add(PartyKey(party="other", role=Role.COORDINATOR, public_key=bytes(32)))
