"""Reports are made, signed and checked as an auditor types it."""

import base64
import hashlib
import json
import re
from pathlib import Path

import pytest
import rfc8785
from securesystemslib.dsse import Envelope
from securesystemslib.signer._signature import Signature

from privacy.audit.checkpoint import Checkpoint
from privacy.audit.log import KEYS
from privacy.cli import main
from privacy.compliance.seal import EMPTY_DIGEST, PAYLOAD_TYPE, open_seal, seal
from privacy.dp import calibrate
from privacy.errors import VerificationError
from privacy.pki.identity import SigningKey
from tests.privacy.evidence import Federation, make_plan


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("reporting") / "log"
    federation = Federation(folder, plan=make_plan(num_rounds=1), accountant=calibrate.epsilon)
    federation.run()
    federation.log.close()
    return folder


def key(tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str = "auditor.key") -> str:
    assert main(["keygen", "--out", str(tmp_path / name)]) == 0
    return capsys.readouterr().out.strip()


def make(log: Path, tmp_path: Path, *options: str) -> Path:
    page = tmp_path / "report.html"
    keys = ["--keys", str(log / KEYS), "--out", str(page)]
    assert main(["report", str(log), *keys, *options]) == 0
    return page


def signed(log: Path, tmp_path: Path, *options: str) -> Path:
    given = ["--key", str(tmp_path / "auditor.key"), "--documents", "--regime", "gdpr,mlps"]
    return make(log, tmp_path, *given, *options)


def test_a_signed_report_and_its_documents_are_checked(
    log: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    public = key(tmp_path, capsys)
    page = signed(log, tmp_path, "--lang", "zh")
    assert "model-card.md" in capsys.readouterr().out
    assert main(["verify-report", str(page), "--key", public, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert len(found["files"]) == 7
    assert 'lang="zh-Hans"' in page.read_text("utf-8")
    assert (tmp_path / "auditor.key").stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("name", ["report.html", "ml-bom.cdx.json", "model-card.md"])
def test_one_changed_byte_of_any_file_is_found_and_the_file_named(
    log: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    public = key(tmp_path, capsys)
    page = signed(log, tmp_path)
    changed = (tmp_path / name).read_bytes().replace(b"lakeside", b"lakeside2", 1)
    (tmp_path / name).write_bytes(changed)
    assert main(["verify-report", str(page), "--key", public]) == 1
    assert "changed" in capsys.readouterr().err


def test_a_page_forged_with_a_fitting_digest_is_found(
    log: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    public = key(tmp_path, capsys)
    page = signed(log, tmp_path)
    text = page.read_text("utf-8").replace("no evidence", "evidenced")
    own = re.findall(r"<code>([0-9a-f]{64})</code></p></header>", text)[0]
    text = text.replace(own, EMPTY_DIGEST, 1)
    new = hashlib.sha256(text.encode()).hexdigest()
    page.write_text(text.replace(EMPTY_DIGEST, new, 1), encoding="utf-8")
    assert main(["verify-report", str(page), "--key", public]) == 1
    assert "report.html was changed" in capsys.readouterr().err


def test_another_key_a_missing_signature_and_a_missing_file_are_found(
    log: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    public = key(tmp_path, capsys)
    other = key(tmp_path, capsys, "other.key")
    page = signed(log, tmp_path)
    assert main(["verify-report", str(page), "--key", other]) == 1
    assert "expected a signature by key" in capsys.readouterr().err
    (tmp_path / "model-card.md").unlink()
    assert main(["verify-report", str(page), "--key", public]) == 1
    assert "model-card.md was signed for and is not there" in capsys.readouterr().err
    Path(f"{page}.dsse").unlink()
    assert main(["verify-report", str(page), "--key", public]) == 1
    assert "expected a signature" in capsys.readouterr().err


def test_a_report_made_anew_without_a_key_keeps_no_old_signature(
    log: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    key(tmp_path, capsys)
    page = signed(log, tmp_path)
    assert Path(f"{page}.dsse").exists()
    make(log, tmp_path)
    assert not Path(f"{page}.dsse").exists()


def filled(log: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    sheet = tmp_path / "declarations.toml"
    options = ["--keys", str(log / KEYS), "--regime", "gdpr", "--out", str(sheet)]
    assert main(["declarations", str(log), *options]) == 0
    text = sheet.read_text("utf-8").replace('name = ""', 'name = "R. Officer"', 1)
    text = text.replace('role = ""', 'role = "officer"', 1)
    text = text.replace('date = ""', "date = 2026-11-20", 1)
    text = text.replace(
        'id = "gdpr-35"\napplies = true\nstatement = ""',
        'id = "gdpr-35"\napplies = true\nstatement = "Done."',
    )
    sheet.write_text(text, encoding="utf-8")
    capsys.readouterr()
    return sheet


def test_a_signed_sheet_is_shown_as_signed_and_a_changed_one_refused(
    log: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sheet = filled(log, tmp_path, capsys)
    public = key(tmp_path, capsys, "officer.key")
    assert main(["sign", str(sheet), "--key", str(tmp_path / "officer.key")]) == 0
    options = ["--regime", "gdpr", "--declarations", str(sheet), "--declared-by", public]
    page = make(log, tmp_path, *options)
    text = page.read_text("utf-8")
    assert "The sheet is signed by key" in text
    assert "<blockquote>Done.</blockquote>" in text
    sheet.write_text(sheet.read_text("utf-8").replace("Done.", "Undone."), encoding="utf-8")
    capsys.readouterr()
    arguments = ["report", str(log), "--out", str(page), *options]
    assert main(arguments) == 1
    assert "declarations.toml was changed" in capsys.readouterr().err


def test_declarations_about_another_log_are_refused(
    log: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sheet = filled(log, tmp_path, capsys)
    sheet.write_text(sheet.read_text("utf-8").replace("cloister/lakeside", "cloister/other"))
    page = str(tmp_path / "page.html")
    options = ["--regime", "gdpr", "--declarations", str(sheet), "--out", page]
    assert main(["report", str(log), *options]) == 1
    assert "cloister/other" in capsys.readouterr().err


def test_a_filled_in_sheet_is_not_overwritten(
    log: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sheet = filled(log, tmp_path, capsys)
    before = sheet.read_bytes()
    assert main(["declarations", str(log), "--regime", "gdpr", "--out", str(sheet)]) == 1
    assert sheet.read_bytes() == before


def test_an_unknown_regime_is_one_error_that_names_the_known(
    log: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "page.html"
    assert main(["report", str(log), "--out", str(page), "--regime", "gdpr,ccpa"]) == 1
    err = capsys.readouterr().err
    assert "got 'ccpa'" in err
    assert "sr26-2" in err
    assert not page.exists()


def test_a_page_may_have_a_chinese_name_and_none_leads_out_of_its_folder(
    log: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    public = key(tmp_path, capsys)
    page = tmp_path / "报告 1.html"
    options = ["--out", str(page), "--lang", "zh", "--key", str(tmp_path / "auditor.key")]
    assert main(["report", str(log), *options]) == 0
    assert main(["verify-report", str(page), "--key", public]) == 0
    for name in ("../report.html", "..", "a/b", ""):
        with pytest.raises(ValueError, match="plain file name"):
            seal({name: b"x"}, SigningKey.generate(), at="2026-11-21T09:30:00Z")


def test_a_checked_report_says_when_it_was_signed_and_of_which_log(
    log: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    public = key(tmp_path, capsys)
    page = signed(log, tmp_path)
    checkpoint = (log / "checkpoint").read_text("utf-8").splitlines()
    root = base64.b64decode(checkpoint[2]).hex()
    capsys.readouterr()
    assert main(["verify-report", str(page), "--key", public]) == 0
    out = capsys.readouterr().out
    assert f"log       cloister/lakeside: {checkpoint[1]} entries (not checked here)" in out
    assert f"root      {root}" in out
    assert re.search(r"signed    20[0-9-]+T[0-9:]+Z, by the signer's clock", out)
    assert main(["verify-report", str(page), "--key", public, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["log"] == {
        "origin": "cloister/lakeside", "entries": int(checkpoint[1]), "root": root
    }  # fmt: skip
    assert found["signer"] == public
    assert found["signed_at"].endswith("Z")


def test_a_signed_sheet_is_about_no_log_and_no_field_of_a_seal_is_guessed(tmp_path: Path) -> None:
    owner = SigningKey.generate()
    line = seal({"a.toml": b"x"}, owner, at="2026-11-21T09:30:00Z")
    assert open_seal(line, owner.public_key).log is None
    about = Checkpoint(origin="cloister/lakeside", size=7, root=bytes(32))
    sealed = seal({"a.html": b"x"}, owner, at="2026-11-21T09:30:00Z", log=about)
    assert open_seal(sealed, owner.public_key).log == about
    payload = json.loads(base64.b64decode(json.loads(sealed)["payload"]))
    for wrong in ({"origin": "a", "size": -1, "root": "00" * 32}, {"origin": "a"}, "log", 7):
        payload["predicate"]["log"] = wrong
        envelope = Envelope(rfc8785.dumps(payload), PAYLOAD_TYPE, {})
        envelope.signatures[owner.key_id] = Signature(
            owner.key_id, owner.sign(envelope.pae()).hex()
        )
        with pytest.raises(VerificationError, match="expected the signature of a report"):
            open_seal(rfc8785.dumps(envelope.to_dict()), owner.public_key)


def test_a_document_of_an_earlier_report_is_told_and_fails_the_check(
    log: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    public = key(tmp_path, capsys)
    signed(log, tmp_path)
    capsys.readouterr()
    page = make(log, tmp_path, "--key", str(tmp_path / "auditor.key"))
    told = capsys.readouterr().err
    for name in ("model-card.md", "ml-bom.cdx.json", "croissant-bank_a.json"):
        assert f"note: {name} lies beside the page and is not of this report" in told
    assert main(["verify-report", str(page), "--key", public]) == 1
    assert "croissant-bank_a.json lies beside the report" in capsys.readouterr().err
    for path in [
        *tmp_path.glob("croissant-*"),
        *tmp_path.glob("*-*.json"),
        tmp_path / "model-card.md",
    ]:
        path.unlink(missing_ok=True)
    assert main(["verify-report", str(page), "--key", public]) == 0
    page.with_suffix(".pdf").write_bytes(b"%PDF of an earlier report")
    assert main(["verify-report", str(page), "--key", public]) == 1
    assert "report.pdf lies beside the report" in capsys.readouterr().err


def test_documents_of_another_report_of_the_same_signer_are_not_stale(
    log: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    public = key(tmp_path, capsys)
    signed(log, tmp_path)
    other = tmp_path / "zh.html"
    own = ["--out", str(other), "--lang", "zh", "--key", str(tmp_path / "auditor.key")]
    assert main(["report", str(log), *own]) == 0
    assert main(["verify-report", str(other), "--key", public]) == 0
    (tmp_path / "model-card.md").write_text("changed")
    assert main(["verify-report", str(other), "--key", public]) == 1


def test_the_result_says_whose_keys_were_used_and_claims_no_more(
    log: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = str(tmp_path / "report.html")
    assert main(["report", str(log), "--out", page, "--json"]) == 0
    told = capsys.readouterr()
    found = json.loads(told.out)
    assert "verified" not in found
    assert found["checked"]["keys"] == "with the log"
    assert "the keys came with the log" in told.err
    assert main(["report", str(log), "--out", page, "--json", "--keys", str(log / KEYS)]) == 0
    checked = json.loads(capsys.readouterr().out)["checked"]
    assert (checked["keys"], checked["cosigned"]) == ("given", [])
    assert set(checked["fingerprints"]) == {"coordinator", "bank_a", "hospital_a", "hospital_b"}


def test_a_pdf_is_signed_with_its_page_and_a_changed_one_is_found(
    log: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    public = key(tmp_path, capsys)
    pdf = tmp_path / "report.pdf"
    page = make(log, tmp_path, "--pdf", str(pdf), "--key", str(tmp_path / "auditor.key"))
    assert main(["verify-report", str(page), "--key", public]) == 0
    assert "report.pdf" in capsys.readouterr().out
    content = pdf.read_bytes()
    assert content.startswith(b"%PDF-")
    pdf.write_bytes(content + b" ")
    assert main(["verify-report", str(page), "--key", public]) == 1
    assert "report.pdf was changed" in capsys.readouterr().err


def test_a_pdf_that_cannot_be_set_leaves_no_report(
    log: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sheet = filled(log, tmp_path, capsys)
    sheet.write_text(sheet.read_text("utf-8").replace("Done.", "\U0010fffd"), encoding="utf-8")
    page = tmp_path / "report.html"
    options = ["--regime", "gdpr", "--declarations", str(sheet), "--pdf", str(tmp_path / "r.pdf")]
    assert main(["report", str(log), "--out", str(page), *options]) == 1
    told = capsys.readouterr().err
    assert "expected a font with a glyph" in told
    assert "hint: give a folder with one" in told
    assert list(tmp_path.glob("r*")) == []


@pytest.mark.parametrize(
    "options",
    [
        ["--font", "fonts"],
        ["--pdf", "elsewhere/report.pdf"],
        ["--pdf", "report.html"],
        ["--pdf", "report.txt"],
    ],
)
def test_a_pdf_with_another_folder_or_name_is_wrong_use(
    log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["report", str(log), "--out", "report.html", *options]) == 2
    assert not (tmp_path / "report.html").exists()
