"""The journal: what a site decided, said and sent, once each."""

import stat
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import client.journal
from client.journal import Journal
from privacy.audit.entry import Event, commit, parse_entry, verify_entry
from privacy.errors import ConfigError, TransportError
from privacy.pki.identity import SigningKey
from tests.federation.world import quiet_plan
from tests.privacy.evidence import runs_on

KEY = SigningKey.generate()
PLAN = quiet_plan("journal")
DIGEST = "sha256:" + "7" * 64


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "home" / "journal.sqlite"


@pytest.fixture
def journal(path: Path) -> Iterator[Journal]:
    opened = Journal(path, KEY, "a")
    yield opened
    opened.close()


class Log:
    """Takes entries as the coordinator does, until the line breaks."""

    def __init__(self, num_calls: int = 1000) -> None:
        self.lines: list[bytes] = []
        self.calls: list[int] = []
        self._calls_left = num_calls

    def append(self, lines: Sequence[bytes]) -> list[int]:
        """Keep lines; the answer may be lost."""
        self.lines += [line for line in lines if line not in self.lines]
        self.calls.append(len(lines))
        self._calls_left -= 1
        if self._calls_left < 0:
            raise TransportError("the answer was lost")
        return [self.lines.index(line) for line in lines]


def test_the_file_is_its_owners_alone(journal: Journal, path: Path) -> None:
    journal.record(Event.AGENT_STARTED, **runs_on("1"))
    for file in path.parent.iterdir():
        assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_entries_are_signed_and_numbered_without_gaps_by_any_thread(
    journal: Journal, path: Path
) -> None:
    second = Journal(path, KEY, "a")
    with ThreadPoolExecutor(4) as pool:
        for _ in range(10):
            pool.submit(journal.record, Event.AGENT_STARTED, **runs_on("1"))
            pool.submit(second.record, Event.AGENT_STARTED, **runs_on("2"))
    entries = [parse_entry(line) for line, _ in journal.lines()]
    assert [entry.sequence for entry in entries] == list(range(20))
    for entry in entries:
        verify_entry(entry, KEY.public_key)
    second.close()


def test_entries_of_a_round_go_in_one_call_and_each_once(journal: Journal) -> None:
    log = Log()
    for _ in range(4):
        journal.record(Event.AGENT_STARTED, **runs_on("1"))
    assert journal.flush(log.append) == 4
    assert journal.flush(log.append) == 0
    journal.record(Event.AGENT_STARTED, **runs_on("2"))
    assert journal.flush(log.append) == 1
    assert log.calls == [4, 1]
    assert [index for _, index in journal.lines()] == [0, 1, 2, 3, 4]


def test_entries_whose_receipt_was_lost_are_sent_again_in_their_order(journal: Journal) -> None:
    log = Log(num_calls=0)
    journal.record(Event.AGENT_STARTED, **runs_on("1"))
    journal.record(Event.AGENT_STARTED, **runs_on("2"))
    with pytest.raises(TransportError):
        journal.flush(log.append)
    log._calls_left = 9
    assert journal.flush(log.append) == 2
    assert log.lines == [line for line, _ in journal.lines()]


def test_many_entries_go_in_several_calls(
    journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = Log()
    for _ in range(7):
        journal.record(Event.AGENT_STARTED, **runs_on("1"))
    size = len(journal.lines()[0][0]) + 1
    monkeypatch.setattr(client.journal, "MAX_BATCH_BYTES", 3 * size)
    journal.flush(log.append)
    assert log.calls == [3, 3, 1]
    monkeypatch.setattr(client.journal, "MAX_BATCH_BYTES", 1)
    journal.record(Event.AGENT_STARTED, **runs_on("1"))
    journal.flush(log.append)
    assert log.calls[-1] == 1


def test_what_is_said_and_what_the_log_took_are_told_apart(journal: Journal) -> None:
    journal.record(Event.PLAN_APPROVED, {"plan": PLAN.digest})
    assert len(journal.about(Event.PLAN_APPROVED, PLAN.digest)) == 1
    assert journal.about(Event.PLAN_APPROVED, PLAN.digest, in_log=True) == []
    journal.flush(Log().append)
    assert len(journal.about(Event.PLAN_APPROVED, PLAN.digest, in_log=True)) == 1


def test_an_entry_that_cannot_be_made_leaves_no_gap(journal: Journal) -> None:
    with pytest.raises(ValueError, match="missing"):
        journal.record(Event.PLAN_APPROVED)
    journal.record(Event.AGENT_STARTED, **runs_on("1"))
    assert parse_entry(journal.lines()[0][0]).sequence == 0


def test_a_second_reply_to_a_round_is_never_kept(journal: Journal) -> None:
    journal.put(PLAN.digest, "train", 1, DIGEST, b"first")
    with pytest.raises(ConfigError, match="kept already"):
        journal.put(PLAN.digest, "train", 1, DIGEST, b"second")
    assert journal.get(PLAN.digest, "train", 1) == (b"first", DIGEST)
    assert journal.get(PLAN.digest, "train", 2) is None
    assert journal.get(PLAN.digest, "evaluate", 1) is None


def test_what_left_is_listed_with_when_it_left(journal: Journal) -> None:
    journal.put(PLAN.digest, "train", 1, DIGEST, b"12345")
    assert [(sent.num_bytes, sent.sent_at) for sent in journal.sent()] == [(5, None)]
    assert journal.mark_sent(PLAN.digest, "train", 1)
    assert not journal.mark_sent(PLAN.digest, "train", 1)
    assert journal.sent()[0].sent_at is not None


def test_the_newest_decision_counts(journal: Journal) -> None:
    assert journal.decision(PLAN.digest) is None
    assert journal.approved_plan(PLAN.digest) is None
    journal.decide(PLAN, approved=True)
    assert journal.approved_plan(PLAN.digest) == PLAN
    journal.decide(PLAN, approved=False)
    assert journal.decision(PLAN.digest) is False
    assert journal.approved_plan(PLAN.digest) is None


def test_a_commitment_hides_its_values_and_can_be_opened(journal: Journal, path: Path) -> None:
    values = {"num_records": 17}
    digest = journal.commit_to(values)
    assert journal.commit_to(values) != digest
    salt = journal._connection.execute(
        "SELECT salt FROM commitment WHERE digest = ?", (digest,)
    ).fetchone()[0]
    assert commit(values, salt) == digest


def test_all_of_it_outlives_a_restart(journal: Journal, path: Path) -> None:
    journal.decide(PLAN, approved=True)
    journal.record(Event.PLAN_APPROVED, {"plan": PLAN.digest})
    journal.put(PLAN.digest, "train", 1, DIGEST, b"reply")
    journal.count_traffic(up=3, down=4)
    journal.close()
    again = Journal(path, KEY, "a")
    assert again.approved_plan(PLAN.digest) == PLAN
    assert again.get(PLAN.digest, "train", 1) == (b"reply", DIGEST)
    assert again.count_traffic(up=1) == (4, 4)
    assert len(again.lines()) == 1
    again.close()


def test_a_damaged_journal_is_named_and_never_begun_anew(path: Path) -> None:
    path.parent.mkdir()
    path.write_bytes(b"no database" * 100)
    with pytest.raises(ConfigError, match=r"journal\.sqlite") as damaged:
        Journal(path, KEY, "a")
    assert "nothing leaves" in damaged.value.hint
    assert path.read_bytes() == b"no database" * 100


class Picky(Log):
    """A log that refuses entries of some events, with a reason."""

    refuses: tuple[Event, ...] = (Event.PLAN_APPROVED,)

    def append(self, lines: Sequence[bytes]) -> list[int]:
        """Keep lines up to the first that is refused."""
        for line in lines:
            if parse_entry(line).event in self.refuses:
                raise ConfigError("expected a plan that was offered")
            super().append([line])
        return [self.lines.index(line) for line in lines]


def test_an_entry_that_the_log_refuses_is_named_and_holds_back_only_what_is_behind_it(
    journal: Journal,
) -> None:
    log = Picky()
    journal.record(Event.AGENT_STARTED, **runs_on("1"))
    journal.record(Event.PLAN_APPROVED, {"plan": DIGEST})
    journal.record(Event.AGENT_STARTED, **runs_on("2"))
    for _ in range(2):
        with pytest.raises(ConfigError, match="entry 1 of this site, plan-approved") as caught:
            journal.flush(log.append)
        assert "cloister-site journal" in caught.value.hint
    assert [index for _, index in journal.lines()] == [0, None, None]
    refused = journal.refused()
    assert refused is not None
    assert refused.entry.event is Event.PLAN_APPROVED
    assert refused.reason == "expected a plan that was offered"


def test_what_sets_an_entry_aside_cannot_be_set_aside_itself(journal: Journal) -> None:
    log = Picky()
    log.refuses = (Event.PLAN_APPROVED, Event.ENTRY_SET_ASIDE)
    journal.record(Event.PLAN_APPROVED, {"plan": DIGEST})
    with pytest.raises(ConfigError):
        journal.flush(log.append)
    journal.set_aside(0, log.append)
    with pytest.raises(ConfigError):
        journal.flush(log.append)
    with pytest.raises(ConfigError, match="got one that sets another aside"):
        journal.set_aside(0, log.append)


def test_setting_an_entry_aside_keeps_it_and_says_so_in_its_place(
    journal: Journal, path: Path
) -> None:
    log = Picky()
    journal.record(Event.AGENT_STARTED, **runs_on("1"))
    journal.record(Event.PLAN_APPROVED, {"plan": DIGEST})
    journal.record(Event.AGENT_STARTED, **runs_on("2"))
    before = [line for line, _ in journal.lines()]
    for sequence in (0, 1, 2):
        with pytest.raises(ConfigError, match="that the log refused"):
            journal.set_aside(sequence, log.append)
    with pytest.raises(ConfigError):
        journal.flush(log.append)
    made = journal.set_aside(1, log.append)
    with pytest.raises(ConfigError, match="that the log refused"):
        journal.set_aside(1, log.append)
    after = [line for line, _ in journal.lines()]
    assert (after[0], after[2]) == (before[0], before[2])
    assert made is not None
    verify_entry(made, KEY.public_key)
    assert made.sequence == 1
    assert made.subjects == {"entry": parse_entry(before[1]).digest}
    (aside,) = journal.set_aside_entries()
    assert aside.entry.line == before[1]
    assert journal.flush(log.append) == 2
    assert log.lines == after
    # Another process sees the same.
    second = Journal(path, KEY, "a")
    assert [found.entry.line for found in second.set_aside_entries()] == [before[1]]
    second.close()


def test_an_entry_that_the_log_takes_after_all_is_no_longer_refused(journal: Journal) -> None:
    journal.record(Event.PLAN_APPROVED, {"plan": DIGEST})
    with pytest.raises(ConfigError):
        journal.flush(Picky().append)
    journal.flush(Log().append)
    assert journal.refused() is None
    with pytest.raises(ConfigError, match="that the log refused"):
        journal.set_aside(0, Log().append)


def test_an_entry_that_the_log_holds_by_now_is_not_set_aside(journal: Journal) -> None:
    journal.record(Event.PLAN_APPROVED, {"plan": DIGEST})
    with pytest.raises(ConfigError):
        journal.flush(Picky().append)
    # The plan is offered by now, and the log's answer is lost.
    log = Log(num_calls=0)
    with pytest.raises(TransportError):
        journal.flush(log.append)
    before = journal.lines()
    with pytest.raises(TransportError):
        journal.set_aside(0, log.append)
    assert journal.lines() == before
    log._calls_left = 1
    assert journal.set_aside(0, log.append) is None
    assert journal.refused() is None
    assert journal.set_aside_entries() == ()
    assert journal.lines() == [(before[0][0], 0)]
