"""A checkpoint that an authority stamped cannot be dated back, changed or dropped unseen."""

import json
import os
import shutil
import subprocess
import sys
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from privacy.audit.entry import Event
from privacy.audit.log import CHECKPOINT
from privacy.audit.stamp import FOLDER, read_stamps
from privacy.cli import main
from tests.privacy.evidence import COORDINATOR, Federation
from tests.privacy.tsa import Authority

# Where they must be tested, what is missing fails instead of being skipped.
IS_REQUIRED = bool(os.environ.get("CLOISTER_REQUIRE_TIMESTAMPS"))
if IS_REQUIRED:
    import rfc3161_client  # noqa: F401
decode_timestamp_response = pytest.importorskip(
    "rfc3161_client", reason="install the extra 'timestamps'"
).decode_timestamp_response
if shutil.which("openssl") is None:
    if IS_REQUIRED:
        pytest.fail("expected openssl, got none", pytrace=False)
    pytest.skip("the tests' authority is openssl ts", allow_module_level=True)


@pytest.fixture
def log(tmp_path: Path) -> Path:
    federation = Federation(tmp_path / "log")
    federation.say(COORDINATOR, Event.FEDERATION_CREATED, federation="lakeside")
    federation.enrol("bank_a")
    federation.log.close()
    (tmp_path / "keys.json").write_text(federation.ring.dump())
    return tmp_path / "log"


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "tsa")


def stamp(log: Path, authority: Authority, *options: str) -> int:
    with authority.serve() as url:
        return main(["stamp", str(log), "--tsa", url, *options])


def verify(log: Path, authority: Authority, *options: str) -> int:
    keys = ["--keys", str(log.parent / "keys.json")]
    roots = ["--timestamps", "--tsa-roots", str(authority.roots)]
    return main(["verify", str(log), *keys, *roots, *options])


def test_a_stamped_log_verifies_offline_and_says_when(
    log: Path, authority: Authority, capsys: pytest.CaptureFixture[str]
) -> None:
    begun = datetime.now(UTC).replace(microsecond=0)
    assert stamp(log, authority, "--tsa-roots", str(authority.roots), "--json") == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["size"], said["checked"]) == (2, True)
    # The server is gone: nothing is asked any more.
    assert verify(log, authority, "--json") == 0
    (found,) = json.loads(capsys.readouterr().out)["stamps"]
    assert (found["size"], found["authority"]) == (2, "CN=tsa tsa")
    assert begun <= datetime.fromisoformat(found["at"]) <= datetime.now(UTC)
    assert verify(log, authority) == 0
    assert f"stamped   2 entries by {found['at']}: CN=tsa tsa" in capsys.readouterr().out
    assert authority.num_asked == 1


def test_openssl_reads_the_stamp_as_it_lies_there(log: Path, authority: Authority) -> None:
    assert stamp(log, authority) == 0
    (answer,) = (log / FOLDER).glob("*.tsr")
    command = ["openssl", "ts", "-verify", "-in", str(answer), "-CAfile", str(authority.roots)]
    command += ["-data", str(answer.with_suffix(".checkpoint"))]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "Verification: OK" in done.stdout + done.stderr


def test_only_a_hash_of_the_checkpoint_goes_out(log: Path, authority: Authority) -> None:
    assert stamp(log, authority) == 0
    question = (authority.folder / "question.tsq").read_bytes()
    assert len(question) < 80
    assert b"cloister" not in question


def test_a_stamp_from_an_authority_that_nobody_named_is_refused(
    log: Path, authority: Authority, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert stamp(log, authority) == 0
    other = Authority(tmp_path / "other")
    assert verify(log, other) == 1
    assert "does not verify" in capsys.readouterr().err
    # Asked with its roots, it is not even kept.
    shutil.rmtree(log / FOLDER)
    assert stamp(log, authority, "--tsa-roots", str(other.roots)) == 1
    assert not (log / FOLDER).exists()


def test_an_added_certificate_cannot_lend_the_stamp_another_authority_s_name(
    log: Path, authority: Authority, capsys: pytest.CaptureFixture[str]
) -> None:
    # The certificates in a token are not signed: issuer and serial are copied, the name is not.
    authority.add_certificate("Federal Qualified TSA")
    assert stamp(log, authority) == 0
    assert verify(log, authority) == 1
    said = capsys.readouterr()
    assert "expected one certificate of its signer in" in said.err
    assert "Federal Qualified TSA" not in said.out + said.err


@pytest.mark.slow
def test_a_stamp_outlives_the_authority_s_certificate(log: Path, tmp_path: Path) -> None:
    # The certificate ends a few seconds from now; the stamp is of before.
    brief = Authority(tmp_path / "brief", valid_for=timedelta(days=1, seconds=8))
    assert stamp(log, brief, "--tsa-roots", str(brief.roots)) == 0
    threading.Event().wait(9)
    assert verify(log, brief) == 0


def test_a_stamp_over_another_checkpoint_is_refused(
    log: Path, authority: Authority, capsys: pytest.CaptureFixture[str]
) -> None:
    assert stamp(log, authority) == 0
    (answer,) = (log / FOLDER).glob("*.tsr")
    (beside,) = (log / FOLDER).glob("*.checkpoint")
    note = beside.read_text()
    beside.write_text(note.replace("\n2\n", "\n1\n", 1))
    assert verify(log, authority) == 1
    assert f"{answer.name} does not verify" in capsys.readouterr().err


def test_a_stamp_without_a_readable_checkpoint_is_named(
    log: Path, authority: Authority, capsys: pytest.CaptureFixture[str]
) -> None:
    assert stamp(log, authority) == 0
    (beside,) = (log / FOLDER).glob("*.checkpoint")
    beside.write_text("none")
    assert verify(log, authority) == 1
    assert f"{beside.name}: expected" in capsys.readouterr().err
    beside.unlink()
    assert verify(log, authority) == 1
    assert "expected the stamped checkpoint" in capsys.readouterr().err


@pytest.mark.parametrize("part", ["status", "imprint", "signature"])
def test_a_changed_answer_is_refused(
    log: Path, authority: Authority, part: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert stamp(log, authority) == 0
    (answer,) = (log / FOLDER).glob("*.tsr")
    content = bytearray(answer.read_bytes())
    imprint = decode_timestamp_response(bytes(content)).tst_info.message_imprint.message
    # Not just anywhere: some bytes, such as the list of digests in use, nobody signs or reads.
    place = {"status": 8, "imprint": content.index(imprint), "signature": len(content) - 20}[part]
    content[place] ^= 2
    answer.write_bytes(bytes(content))
    assert verify(log, authority) == 1
    assert "error: " in capsys.readouterr().err


def test_a_log_cut_off_behind_a_stamp_is_found(
    log: Path, authority: Authority, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    federation = Federation(tmp_path / "long")
    federation.say(COORDINATOR, Event.FEDERATION_CREATED, federation="lakeside")
    (tmp_path / "keys.json").write_text(federation.ring.dump())
    early = {name: (tmp_path / "long" / name).read_bytes() for name in (CHECKPOINT,)}
    history = (tmp_path / "long" / "checkpoints.jsonl").read_bytes()
    entries = (tmp_path / "long" / "entries.jsonl").read_bytes()
    federation.enrol("bank_a")
    federation.log.close()
    assert stamp(tmp_path / "long", authority) == 0
    # The operator goes back: entries, history and checkpoint as they were. Only the stamp knows.
    for name, content in {
        **early,
        "checkpoints.jsonl": history,
        "entries.jsonl": entries,
    }.items():
        (tmp_path / "long" / name).write_bytes(content)
    keys = ["--keys", str(tmp_path / "keys.json")]
    assert main(["verify", str(tmp_path / "long"), *keys]) == 0
    assert verify(tmp_path / "long", authority) == 1
    assert "entry 1 is missing" in capsys.readouterr().err


def test_a_stamped_checkpoint_that_the_operator_never_signed_counts_for_nothing(
    log: Path, authority: Authority, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    forged = Federation(tmp_path / "forged")
    forged.say(COORDINATOR, Event.FEDERATION_CREATED, federation="lakeside")
    forged.log.close()
    assert stamp(tmp_path / "forged", authority) == 0
    shutil.copytree(tmp_path / "forged" / FOLDER, log / FOLDER)
    assert verify(log, authority) == 1
    assert "checkpoint signed by" in capsys.readouterr().err


@pytest.mark.parametrize("answer", [b"", b"\x30\x03\x02\x01\x02", b"x" * 100_001, b"<html>"])
def test_an_answer_that_is_no_stamp_is_one_error_and_is_not_kept(
    log: Path, authority: Authority, answer: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    authority.answer = answer
    assert stamp(log, authority) == 1
    assert capsys.readouterr().err.startswith("error: ")
    assert not (log / FOLDER).exists()


def test_an_old_stamp_sent_again_is_refused(
    log: Path, authority: Authority, capsys: pytest.CaptureFixture[str]
) -> None:
    assert stamp(log, authority) == 0
    (kept,) = read_stamps(log)
    authority.answer = kept.answer
    assert stamp(log, authority) == 1
    assert "got one for another" in capsys.readouterr().err


def test_an_authority_that_is_not_there_or_refuses_is_one_error(
    log: Path, authority: Authority, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["stamp", str(log), "--tsa", "http://127.0.0.1:9/tsa"]) == 1
    assert "cannot be reached" in capsys.readouterr().err
    authority.status = 503
    assert stamp(log, authority) == 1
    assert "answered 503" in capsys.readouterr().err
    assert main(["stamp", str(log), "--tsa", "file:///etc/passwd"]) == 1
    assert "expected the address of an authority" in capsys.readouterr().err


def test_verify_says_what_it_lacks(
    log: Path, authority: Authority, capsys: pytest.CaptureFixture[str]
) -> None:
    assert verify(log, authority) == 1
    assert "expected time stamps" in capsys.readouterr().err
    assert main(["verify", str(log), "--timestamps"]) == 2
    assert main(["verify", str(log), "--tsa-roots", str(authority.roots)]) == 2


def test_without_the_extra_the_command_says_what_to_install(
    log: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "rfc3161_client", None)
    assert main(["stamp", str(log), "--tsa", "http://127.0.0.1:9/"]) == 1
    assert "cloister[timestamps]" in capsys.readouterr().err
    assert main(["verify", str(log), "--keys", str(log.parent / "keys.json")]) == 0
