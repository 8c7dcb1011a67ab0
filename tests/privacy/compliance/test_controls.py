"""A control has a status, never a verdict; what a person says stays a person's word."""

from datetime import UTC, date, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from privacy.audit.entry import Event
from privacy.audit.verify import VerifiedLog, verify_log
from privacy.compliance.controls import Status, assess, status
from privacy.compliance.declarations import Declaration, read_sheet, write_sheet
from privacy.compliance.evidence import gather
from privacy.compliance.queries import QUERIES, Finding, Shown
from privacy.compliance.regimes import REGIMES, load_regimes
from privacy.compliance.report import Extras, render_report
from privacy.compliance.words import Words, table
from privacy.errors import ConfigError
from tests.privacy.compliance.sentences import sentences
from tests.privacy.evidence import Federation, quick_accountant, runs_on

AT = datetime(2026, 11, 21, 9, 30, tzinfo=UTC)
ALL = load_regimes(REGIMES, QUERIES)
EN = Words("en")


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> VerifiedLog:
    federation = Federation(tmp_path_factory.mktemp("controls") / "log")
    federation.run()
    return verify_log(federation.folder, federation.ring, accountant=quick_accountant)


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> VerifiedLog:
    federation = Federation(tmp_path_factory.mktemp("controls") / "log")
    federation.begin()
    return verify_log(federation.folder, federation.ring, accountant=quick_accountant)


def found(shown: Shown) -> Finding:
    return Finding(shown, "text", (1,))


declared = st.builds(
    Declaration,
    control=st.just("x"),
    applies=st.booleans(),
    statement=st.just("so it is"),
    signed=st.booleans(),
)


@given(
    st.sampled_from(["whole", "part", "nothing"]),
    st.lists(st.sampled_from(list(Shown)).map(found)),
    st.none() | declared,
)
def test_nothing_but_evidence_of_the_whole_makes_a_control_evidenced(
    covers: str, findings: list[Finding], declaration: Declaration | None
) -> None:
    got = status(covers, findings, declaration)
    all_shown = bool(findings) and all(finding.shown is Shown.SHOWN for finding in findings)
    assert (got is Status.EVIDENCED) == (covers == "whole" and all_shown)
    if declaration is None:
        assert got not in (Status.DECLARED, Status.NOT_APPLICABLE)
    without = status(covers, findings, None)
    if without is not Status.NO_EVIDENCE:
        assert got is without
    elif declaration is not None:
        refused = declaration.signed and not declaration.applies
        assert got is (Status.NOT_APPLICABLE if refused else Status.DECLARED)


def test_a_log_of_a_run_gives_each_status_its_due(log: VerifiedLog) -> None:
    rows = {row.control.id: row for a in assess(gather(log), ALL, {}, EN) for row in a.controls}
    assert rows["mlps-8.1.4.3-b"].status is Status.EVIDENCED
    assert rows["gdpr-25-1"].status is Status.PARTLY
    assert rows["gdpr-35"].status is Status.NO_EVIDENCE
    assert rows["gdpr-25-1"].entries


def test_where_nothing_was_trained_masked_or_spent_nothing_is_claimed(empty: VerifiedLog) -> None:
    rows = {row.control.id: row for a in assess(gather(empty), ALL, {}, EN) for row in a.controls}
    for control in ("iso-A.8.11", "pci-3.4.1", "gdpr-5-1-c", "aiact-13", "pipl-6"):
        assert rows[control].status is Status.NO_EVIDENCE, control


def test_without_keys_of_the_readers_own_nothing_is_evidenced(tmp_path: Path) -> None:
    federation = Federation(tmp_path / "log")
    federation.run()
    unsure = verify_log(federation.folder, accountant=quick_accountant)
    rows = [row for a in assess(gather(unsure), ALL, {}, EN) for row in a.controls]
    assert {row.status for row in rows} <= {Status.PARTLY, Status.NO_EVIDENCE}


@pytest.mark.parametrize("language", ["en", "zh"])
def test_no_control_of_the_page_says_compliant(log: VerifiedLog, language: str) -> None:
    assessed = assess(gather(log), ALL, {}, Words(language))
    page = render_report(log, Extras(regimes=assessed, language=language), at=AT)
    assert "compliant" not in page.lower()
    assert "合规的" not in page
    assert len(page.encode()) < 2_000_000
    assert "<script" not in page


@pytest.mark.parametrize("language", ["en", "zh"])
def test_every_figure_of_a_control_links_to_entries_on_the_page(
    log: VerifiedLog, language: str
) -> None:
    assessed = assess(gather(log), ALL, {}, Words(language))
    page = render_report(log, Extras(regimes=assessed, language=language), at=AT)
    for regime in assessed:
        for row in regime.controls:
            for finding in row.findings.values():
                assert (finding.shown is Shown.NOTHING) or finding.entries
                assert all(0 <= entry < len(log.entries) for entry in finding.entries)
    assert page.count('href="#entry-') > 100


def test_every_sentence_of_the_page_has_a_chinese_one_with_the_same_fields() -> None:
    chinese, english = table("zh"), sentences()
    assert set(chinese) == english
    for sentence, translated in chinese.items():
        fields = sentence.split("{")[1:]
        names = {part.split("}")[0] for part in fields}
        assert {part.split("}")[0] for part in translated.split("{")[1:]} == names


def sheet(path: Path, text: str, **who: str) -> Path:
    lines = {
        "federation": '"lakeside"',
        "log": '"cloister/lakeside"',
        "name": '"R. Officer"',
        "role": '"data protection officer"',
        "date": "2026-11-20",
    } | who
    path.write_text("".join(f"{k} = {v}\n" for k, v in lines.items()) + text, encoding="utf-8")
    return path


IDS = [control.id for regime in ALL for control in regime.controls]


def row(control: str, statement: str, *, applies: str = "true") -> str:
    return f'\n[[control]]\nid = "{control}"\napplies = {applies}\nstatement = "{statement}"\n'


def test_a_declaration_is_shown_as_a_persons_word(log: VerifiedLog, tmp_path: Path) -> None:
    text = row("gdpr-35", "The assessment <b>no. 7</b> is done.")
    text += row("gdpr-28-3", "No processor is used.", applies="false")
    text += row("gdpr-25-1", "Weighed on paper.") + row("gdpr-5-2", "")
    read = read_sheet(sheet(tmp_path / "d.toml", text), IDS)
    assert read.date == date(2026, 11, 20)
    assessed = assess(gather(log), ALL[:1], read.declarations, EN)
    rows = {row_.control.id: row_.status for row_ in assessed[0].controls}
    assert rows["gdpr-35"] is Status.DECLARED
    assert rows["gdpr-28-3"] is Status.DECLARED
    signed = assess(gather(log), ALL[:1], read.signed("key").declarations, EN)
    assert {row_.control.id: row_.status for row_ in signed[0].controls} == rows | {
        "gdpr-28-3": Status.NOT_APPLICABLE
    }
    assert rows["gdpr-25-1"] is Status.PARTLY
    page = render_report(log, Extras(regimes=assessed, sheet=read), at=AT)
    assert "The assessment &lt;b&gt;no. 7&lt;/b&gt; is done." in page
    assert "R. Officer, data protection officer, of 2026-11-20" in page
    assert "signature was not checked" in page


@pytest.mark.parametrize(
    ("text", "who", "says"),
    [
        (row("gdpr-99", "x"), {}, r"d\.toml, line 8: .*'gdpr-99'"),
        (row("gdpr-35", "x") * 2, {}, "once, got it twice"),
        (row("gdpr-35", "", applies="false"), {}, "a reason why"),
        ("", {"name": '""'}, "line 3: expected name to be filled in"),
        ("", {"date": '""'}, "line 5: expected date"),
        ("", {"mood": '"x"'}, "'mood'"),
        ('\n[[control]]\nid = "gdpr-35"\n', {}, "id, applies and statement"),
        (row("gdpr-35", "x", applies='"yes"'), {}, "applies true or false"),
        ("\nnot toml", {}, "line 7: expected TOML"),
    ],
)
def test_a_sheet_that_says_nothing_clear_is_one_error(
    tmp_path: Path, text: str, who: dict[str, str], says: str
) -> None:
    with pytest.raises(ConfigError, match=says):
        read_sheet(sheet(tmp_path / "d.toml", text, **who), IDS)


def test_an_empty_sheet_has_every_control_and_is_refused_until_somebody_signs_on(
    tmp_path: Path,
) -> None:
    path = tmp_path / "d.toml"
    path.write_text(
        write_sheet(ALL, federation="lakeside", log="cloister/lakeside", language="zh"),
        encoding="utf-8",
    )
    with pytest.raises(ConfigError, match="expected name to be filled in"):
        read_sheet(path, IDS)
    filled = path.read_text("utf-8").replace('name = ""', 'name = "R"')
    filled = filled.replace('role = ""', 'role = "O"').replace('date = ""', "date = 2026-11-20")
    path.write_text(filled, encoding="utf-8")
    read = read_sheet(path, IDS)
    assert read.declarations == {}
    assert filled.count("[[control]]") == len(IDS)


def test_versions_are_shown_where_every_party_that_computed_said_them(tmp_path: Path) -> None:
    federation = Federation(tmp_path / "log")
    federation.run()
    federation.say(
        "bank_a", Event.AGENT_STARTED, **runs_on("0.2.0", packages=[["torch", "2.14.0"]])
    )
    whole = verify_log(federation.folder, federation.ring, accountant=quick_accountant)
    found = QUERIES["versions"](gather(whole), Words("en"))
    assert found.shown is Shown.SHOWN
    assert found.text == (
        "5 starts; 4 of 4 parties that computed say what they ran on: cloister 0.1.0 / 0.2.0,"
        " python 3.11.7, flwr 1.41.0, torch 2.13.0+cpu / 2.14.0; processor x86_64, device cpu."
    )
    assert len(found.entries) == 5


def test_versions_that_one_party_did_not_say_are_shown_in_part(tmp_path: Path) -> None:
    federation = Federation(tmp_path / "log")
    federation.silent = {"hospital_a"}
    federation.run()
    whole = verify_log(federation.folder, federation.ring, accountant=quick_accountant)
    found = QUERIES["versions"](gather(whole), Words("en"))
    assert found.shown is Shown.PARTLY
    assert "3 of 4 parties" in found.text
