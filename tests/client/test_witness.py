"""A site cosigns a log that only grows, and stops, with the evidence kept, over any other."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

import client.witness
from client.check import check_evidence
from client.cli import main
from client.config import BudgetSection, DataSection, SiteConfig, SiteSection, format_config
from client.home import SiteHome
from client.journal import Journal
from client.witness import (
    MAX_BAD_ANSWERS,
    REFUSED,
    SEEN,
    BadAnswers,
    SiteWitness,
    StoppedError,
    check_stopped,
    make_key,
    resume,
    stopped,
)
from privacy.audit.checkpoint import log_key
from privacy.audit.cosignature import Algorithm, cosigned_at
from privacy.audit.entry import Event
from privacy.audit.note import Note, NoteKey
from privacy.audit.witness import open_signed
from privacy.errors import ConfigError, TransportError, VerificationError
from privacy.pki.authority import Authority, load_tls_key
from privacy.pki.enrolment import Member, make_kit, make_request, read_request
from privacy.pki.identity import SigningKey
from tests.privacy.audit.test_witness import OPERATOR, Operator
from tests.privacy.evidence import runs_on

ORIGIN = "cloister/regio"
LOG = log_key(ORIGIN, OPERATOR.public_key)
STRANGER = SigningKey.generate()


class Line:
    """The coordinator's two calls, answered by an operator who may lie."""

    def __init__(self, answer: Callable[[int], str]) -> None:
        self.answer = answer
        self.cosigned: list[Note] = []

    def checkpoint(self, old_size: int) -> str:
        """What is to be cosigned."""
        return self.answer(old_size)

    def cosign(self, note: str) -> bool:
        """Keep a cosignature."""
        self.cosigned.append(Note.parse(note))
        return True


class Broken(Line):
    """A line that breaks before a cosignature is over it."""

    def cosign(self, note: str) -> bool:
        """Lose it."""
        raise TransportError("lost")


def honest(operator: Operator) -> Line:
    """An operator that shows its log as it is."""
    return Line(lambda old: "" if old == operator.tree.size else ask(operator, old))


def ask(operator: Operator, old_size: int, key: SigningKey = OPERATOR) -> str:
    return str(operator.ask(old_size, key, ORIGIN))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An enrolled site's folder, made once."""
    folder = tmp_path_factory.mktemp("made")
    home = SiteHome(folder / "a")
    home.folder.mkdir()
    records = home.folder / "records.jsonl"
    records.write_text("")
    config = SiteConfig(
        site=SiteSection(name="a", coordinator="127.0.0.1:9"),
        data=DataSection(path=records, num_units=100),
        budget=BudgetSection(epsilon=8.0, delta=1e-3),
    )
    home.make_keys()
    home.config_path.write_text(format_config(config))
    now = datetime.now(UTC)
    authority = Authority.create(
        folder / "authority", federation="regio", passphrase="", at=now, plain=True
    )
    request = read_request(
        make_request(
            federation="regio",
            site="a",
            tls_key=load_tls_key(home.tls_key_path),
            signing_key=home.signing_key(),
            num_units=100,
        )
    )
    certificate = authority.issue_site_certificate(
        request.csr_pem, site="a", valid_for=timedelta(days=1), at=now
    )
    home.kit_path.write_bytes(
        make_kit(
            site="a",
            federation="regio",
            address="127.0.0.1:9",
            ca_pem=authority.ca_pem,
            certificate_pem=certificate,
            roster=[Member(name="a", signing_key=request.signing_key)],
            signing_key=OPERATOR,
            at=now,
        )
    )
    return home.folder


@pytest.fixture
def home(made: Path, tmp_path: Path) -> SiteHome:
    import shutil

    return SiteHome(Path(shutil.copytree(made, tmp_path / "a")))


@pytest.fixture
def journal(home: SiteHome) -> Iterator[Journal]:
    opened = home.journal()
    yield opened
    opened.close()


@pytest.fixture
def told() -> list[str]:
    return []


@pytest.fixture
def witness(home: SiteHome, journal: Journal, told: list[str]) -> SiteWitness:
    opened = open_witness(home, journal, told)
    opened.announce()
    return opened


def open_witness(home: SiteHome, journal: Journal, told: list[str] | None = None) -> SiteWitness:
    said = told if told is not None else []
    return SiteWitness(home, home.kit(), journal, lambda **news: said.append(str(news)))


def kept(home: SiteHome, number: int = 1) -> dict[str, str]:
    """The checkpoints that were kept when the site stopped."""
    folder = home.witness_folder / f"refused-{number}"
    return {path.name: path.read_text() for path in folder.glob("*.checkpoint")}


# -- a log that only grows ------------------------------------------------------------------------


def test_each_new_checkpoint_is_cosigned_once_and_nothing_is_asked_twice(
    witness: SiteWitness,
) -> None:
    operator = Operator("a")
    line = honest(operator)
    for _ in range(3):
        witness.step(line)
        witness.step(line)
        operator.grow("b", "c")
    assert [open_size(note) for note in line.cosigned] == [1, 3, 5]
    key = NoteKey.parse(witness.vkey)
    assert key.name == "cloister/regio/a"
    assert all(cosigned_at(note, key) for note in line.cosigned)


def open_size(note: Note) -> int:
    return int(note.text.split("\n")[1])


def test_the_key_is_announced_once_under_the_site_s_own_signature(
    home: SiteHome, journal: Journal, witness: SiteWitness
) -> None:
    witness.announce()
    open_witness(home, journal).announce()
    events = [bytes(line) for line, _ in journal.lines()]
    assert len(events) == 1
    newest = journal.newest(Event.WITNESS_ANNOUNCED)
    assert newest is not None
    assert newest.predicate == {"witness_key": witness.vkey}
    assert newest.key_id == home.signing_key().key_id


@pytest.mark.parametrize("algorithm", Algorithm)
def test_the_algorithm_is_the_one_of_the_settings(
    home: SiteHome, journal: Journal, algorithm: Algorithm
) -> None:
    text = home.config_path.read_text()
    # The witness's alone; the site's own key has a setting of its own.
    before, own = text.split("[witness]")
    own = own.replace('"ed25519"', f'"{algorithm}"', 1)
    home.config_path.write_text(f"{before}[witness]{own}")
    witness = open_witness(home, journal)
    witness.announce()
    line = honest(Operator("a"))
    witness.step(line)
    assert cosigned_at(line.cosigned[0], NoteKey.parse(witness.vkey))


def test_the_private_key_and_the_folder_are_the_owner_s_alone(
    home: SiteHome, witness: SiteWitness
) -> None:
    assert home.witness_key_path.stat().st_mode & 0o777 == 0o600
    assert home.witness_folder.stat().st_mode & 0o777 == 0o700


# -- crashes --------------------------------------------------------------------------------------

KILLED = """
import os, signal, sys
from pathlib import Path
from client.home import SiteHome
from client.witness import SiteWitness
import client.witness, privacy.audit.witness as core

home, asked, where = SiteHome(Path(sys.argv[1])), sys.argv[2], sys.argv[3]

def die(*_args, **_kwargs):
    os.kill(os.getpid(), signal.SIGKILL)

class Line:
    def checkpoint(self, old_size):
        return asked
    cosign = die if where == "before it is sent" else None

if where == "before it is stored":
    core._write = die
elif where == "between store and sign":
    core.CosigningKey.cosign = die
witness = SiteWitness(home, home.kit(), home.journal(), lambda **_: None)
witness.step(Line())
"""


@pytest.mark.parametrize(
    ("where", "size"),
    [("before it is stored", 1), ("between store and sign", 3), ("before it is sent", 3)],
)
def test_a_kill_leaves_a_site_that_goes_on_and_never_signs_two_histories(
    home: SiteHome, journal: Journal, witness: SiteWitness, where: str, size: int
) -> None:
    operator = Operator("a")
    witness.step(honest(operator))
    operator.grow("b", "c")
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, str(home.folder), ask(operator, 1), where],
        check=False,
        timeout=60,
    )
    assert killed.returncode == -signal.SIGKILL
    again = open_witness(home, journal)
    assert again.seen.size == size
    # It signs what it was asked for when it is asked again, and no other history of that size.
    line = Line(lambda old: ask(operator, old))
    again.step(line)
    assert [open_size(note) for note in line.cosigned] == [3]
    other = Operator("a").grow("b", "x")
    with pytest.raises(StoppedError):
        again.step(Line(lambda old: ask(other, old)))


def test_a_full_disk_signs_nothing(witness: SiteWitness, monkeypatch: pytest.MonkeyPatch) -> None:
    line = honest(Operator("a"))

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("privacy.audit.witness.replace_file", full)
    with pytest.raises(OSError, match="No space left"):
        witness.step(line)
    assert line.cosigned == []
    monkeypatch.undo()
    witness.step(line)
    assert len(line.cosigned) == 1


def test_a_lost_answer_is_asked_for_again(witness: SiteWitness) -> None:
    operator = Operator("a")
    with pytest.raises(TransportError):
        witness.step(Broken(lambda old: ask(operator, old)))
    again = Line(lambda old: ask(operator, old))
    witness.step(again)
    assert len(again.cosigned) == 1


# -- a log that does not hold together ------------------------------------------------------------


def fork(old: int) -> str:
    return ask(Operator("a", "b").grow("x"), old)


def longer_fork(old: int) -> str:
    return ask(Operator("a", "x", "c", "d"), old)


def shorter(old: int) -> str:
    return ask(Operator("a"), old)


def replayed(_old: int) -> str:
    return ask(Operator("a"), 0)


def bad_proof(old: int) -> str:
    head, _, checkpoint = ask(Operator("a", "b", "c", "d"), old).partition("\n\n")
    first, *rest = head.split("\n")
    return "\n".join([first, *reversed(rest)]) + "\n\n" + checkpoint


@pytest.mark.parametrize("lie", [fork, longer_fork, shorter, replayed, bad_proof])
def test_a_checkpoint_that_does_not_extend_the_one_seen_stops_the_site_and_both_are_kept(
    home: SiteHome, journal: Journal, witness: SiteWitness, lie: Callable[[int], str]
) -> None:
    operator = Operator("a", "b", "c")
    witness.step(honest(operator))
    line = Line(lie)
    with pytest.raises(StoppedError, match="takes no work of it") as caught:
        witness.step(line)
    assert line.cosigned == []
    assert "cloister-audit compare" in caught.value.hint
    found = kept(home)
    assert open_signed(found[SEEN], LOG).size == 3
    assert found[REFUSED] == lie(3).partition("\n\n")[2]
    # Whoever starts the agent again hears the same, until a person has decided.
    with pytest.raises(StoppedError):
        check_stopped(home)
    resume(home)
    check_stopped(home)
    # What was seen stays: the lie is refused again, the true log goes on.
    again = open_witness(home, journal)
    with pytest.raises(StoppedError):
        again.step(Line(lie))
    resume(home)
    operator.grow("d")
    true = honest(operator)
    open_witness(home, journal).step(true)
    assert [open_size(note) for note in true.cosigned] == [4]


def garbage(_old: int) -> str:
    return "old 3\n!!!\n\nnothing"


def strangers(old: int) -> str:
    return ask(Operator("a", "b", "c", "d"), old, STRANGER)


def from_elsewhere(_old: int) -> str:
    return ask(Operator("a", "b", "c", "d"), 2)


def refused(_old: int) -> str:
    raise ConfigError("the coordinator refused a call: malformed")


@pytest.mark.parametrize("lie", [garbage, strangers, from_elsewhere, refused])
def test_an_answer_that_proves_nothing_is_not_signed_and_too_many_stop_the_site(
    home: SiteHome, witness: SiteWitness, told: list[str], lie: Callable[[int], str]
) -> None:
    operator = Operator("a", "b", "c")
    witness.step(honest(operator))
    line = Line(lie)
    for _ in range(MAX_BAD_ANSWERS - 1):
        witness.step(line)
    # One good answer in between, and the count begins anew.
    witness.step(honest(operator))
    for _ in range(MAX_BAD_ANSWERS - 1):
        witness.step(line)
    assert stopped(home) is None
    with pytest.raises(StoppedError):
        witness.step(line)
    assert line.cosigned == []
    assert len(told) == 2 * MAX_BAD_ANSWERS - 1
    assert set(kept(home)) == {SEEN}


def test_a_log_of_no_entries_does_not_spoil_the_memory(
    home: SiteHome, journal: Journal, witness: SiteWitness
) -> None:
    empty = Line(lambda old: ask(Operator(), old))
    witness.step(empty)
    assert empty.cosigned == []
    line = honest(Operator("a"))
    open_witness(home, journal).step(line)
    assert len(line.cosigned) == 1


def test_what_stopped_the_site_reaches_the_agent_and_ends_the_watch(
    witness: SiteWitness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client.witness, "POLL_S", 0.0)
    witness.step(honest(Operator("a", "b", "c")))
    reasons: list[Exception] = []
    witness.watch(Line(fork), reasons.append)
    assert [type(reason) for reason in reasons] == [StoppedError]


def test_being_shut_out_is_no_fault_of_the_log(
    home: SiteHome, witness: SiteWitness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client.witness, "POLL_S", 0.0)

    def shut(_old: int) -> str:
        raise VerificationError("the coordinator does not let this site in: revoked")

    reasons: list[Exception] = []
    witness.watch(Line(shut), reasons.append)
    assert reasons == []
    assert stopped(home) is None


# -- what was lost --------------------------------------------------------------------------------


def test_a_witness_without_its_memory_signs_nothing(
    home: SiteHome, journal: Journal, witness: SiteWitness
) -> None:
    witness.step(honest(Operator("a")))
    (home.witness_folder / "memory.json").unlink()
    with pytest.raises(ConfigError, match="expected the memory") as caught:
        open_witness(home, journal)
    assert "--new-key" in caught.value.hint


def test_a_lost_key_is_not_replaced_in_silence(
    home: SiteHome, journal: Journal, witness: SiteWitness
) -> None:
    home.witness_key_path.unlink()
    with pytest.raises(ConfigError, match="which this site announced"):
        open_witness(home, journal)


def test_another_key_keeps_the_memory_and_is_announced(
    home: SiteHome, journal: Journal, witness: SiteWitness
) -> None:
    operator = Operator("a", "b")
    witness.step(honest(operator))
    make_key(home)
    fresh = open_witness(home, journal)
    fresh.announce()
    assert fresh.vkey != witness.vkey
    assert fresh.seen.size == 2
    newest = journal.newest(Event.WITNESS_ANNOUNCED)
    assert newest is not None
    assert newest.predicate["witness_key"] == fresh.vkey
    with pytest.raises(StoppedError):
        fresh.step(Line(lambda old: ask(Operator("a", "x"), old)))


def test_a_memory_of_another_log_is_refused(home: SiteHome, journal: Journal) -> None:
    open_witness(home, journal)
    memory = home.witness_folder / "memory.json"
    content = json.loads(memory.read_text()) | {"origin": "cloister/other"}
    memory.write_text(json.dumps(content))
    with pytest.raises(ConfigError, match="expected the memory of a witness"):
        open_witness(home, journal)


# -- the command ----------------------------------------------------------------------------------


def test_the_command_shows_hands_out_and_resumes(
    home: SiteHome, witness: SiteWitness, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["witness", "--home", str(home.folder)]
    out = tmp_path / "a.checkpoint"
    assert main([*arguments, "--out", str(out)]) == 1
    assert "got none yet" in capsys.readouterr().err
    witness.step(honest(Operator("a", "b", "c")))
    assert main([*arguments, "--out", str(out)]) == 0
    assert "cosigned   3 entries" in capsys.readouterr().out
    assert open_signed(out.read_text(), LOG).size == 3
    with pytest.raises(StoppedError):
        witness.step(Line(fork))
    assert main([*arguments, "--json"]) == 1
    assert "two different logs" in json.loads(capsys.readouterr().out)["stopped"]["reason"]
    (finding,) = check_evidence(home)
    assert not finding.ok
    assert "two different logs" in finding.found
    assert main(["start", "--home", str(home.folder)]) == 1
    assert "takes no work of it" in capsys.readouterr().err
    assert main([*arguments, "--resume"]) == 0
    assert check_evidence(home) == []
    assert main([*arguments, "--resume"]) == 1
    assert (home.witness_folder / "refused-1" / "decided.json").exists()
    assert os.listdir(home.witness_folder / "refused-1")


def test_the_command_makes_another_key(
    home: SiteHome, witness: SiteWitness, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["witness", "--home", str(home.folder), "--new-key", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["key"] != witness.vkey
    assert home.witness_key_path.with_name("witness.key.old").exists()


# -- what must not keep a site from stopping ------------------------------------------------------


def test_a_folder_that_a_person_made_beside_the_evidence_hides_no_fork(
    home: SiteHome, witness: SiteWitness
) -> None:
    witness.step(honest(Operator("a", "b", "c")))
    for name in ("refused-1.bak", "refused-", "refused-01", "refused-\u0663"):
        (home.witness_folder / name).mkdir()
    with pytest.raises(StoppedError):
        witness.step(Line(fork))
    assert set(kept(home)) == {SEEN, REFUSED}


def test_a_full_disk_hides_no_fork(
    witness: SiteWitness, told: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    witness.step(honest(Operator("a", "b", "c")))

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("privacy.audit.witness.replace_file", full)
    monkeypatch.setattr(client.witness, "replace_file", full)
    with pytest.raises(StoppedError, match="two different logs"):
        witness.step(Line(fork))
    assert "No space left" in told[-1]


def test_a_fault_that_nobody_foresaw_ends_the_work(witness: SiteWitness) -> None:
    def broken(_old: int) -> str:
        raise ZeroDivisionError

    reasons: list[Exception] = []
    with pytest.raises(ZeroDivisionError):
        witness.watch(Line(broken), reasons.append)
    (reason,) = reasons
    assert "no work is taken" in str(reason)


def test_bad_answers_are_counted_from_one_connection_to_the_next(
    home: SiteHome, journal: Journal, witness: SiteWitness
) -> None:
    witness.step(honest(Operator("a", "b", "c")))
    bad = BadAnswers()
    for _ in range(MAX_BAD_ANSWERS - 1):
        SiteWitness(home, home.kit(), journal, lambda **_: None, bad).step(Line(garbage))
    last = SiteWitness(home, home.kit(), journal, lambda **_: None, bad)
    with pytest.raises(StoppedError):
        last.is_not_asked()


def test_a_coordinator_that_no_longer_asks_is_told_of_and_stops_the_site(
    witness: SiteWitness, told: list[str]
) -> None:
    for _ in range(MAX_BAD_ANSWERS - 1):
        witness.is_not_asked()
    assert "no longer asks" in told[-1]
    with pytest.raises(StoppedError):
        witness.is_not_asked()


def test_two_connections_at_once_are_no_fork(
    home: SiteHome, journal: Journal, witness: SiteWitness
) -> None:
    operator = Operator("a", "b")
    second = open_witness(home, journal)

    def overtaken(old: int) -> str:
        asked = ask(operator, old)
        operator.grow("c")
        second.step(honest(operator))
        return asked

    late = Line(overtaken)
    witness.step(late)
    assert late.cosigned == []
    assert stopped(home) is None
    assert witness.seen.size == 3


def test_the_evidence_may_have_been_moved_when_a_person_decides(
    home: SiteHome, witness: SiteWitness, tmp_path: Path
) -> None:
    witness.step(honest(Operator("a", "b", "c")))
    with pytest.raises(StoppedError):
        witness.step(Line(fork))
    (home.witness_folder / "refused-1").rename(tmp_path / "evidence")
    assert (resume(home) / "decided.json").exists()
    check_stopped(home)


def test_after_all_was_lost_a_log_without_this_site_s_entries_is_refused(
    home: SiteHome, journal: Journal, witness: SiteWitness
) -> None:
    import shutil

    operator = Operator("a", "b", "c")
    witness.step(honest(operator))
    journal.record(Event.AGENT_STARTED, **runs_on("1"))
    journal.flush(lambda lines: list(range(3, 3 + len(lines))))
    shutil.rmtree(home.witness_folder)
    make_key(home)
    fresh = open_witness(home, journal)
    fresh.announce()
    line = Line(lambda old: ask(Operator("a", "x"), old))
    for _ in range(MAX_BAD_ANSWERS - 1):
        fresh.step(line)
    with pytest.raises(StoppedError, match="expected the 5 entries"):
        fresh.step(line)
    assert line.cosigned == []
    true = honest(operator.grow("d", "e"))
    fresh.step(true)
    assert len(true.cosigned) == 1
