"""An entry that the log refused and a site set aside is seen by whoever reads the log."""

import json
from pathlib import Path

import pytest

from privacy.audit.entry import Event
from privacy.audit.verify import verify_log
from privacy.cli import main
from privacy.compliance.report import render_report
from privacy.errors import VerificationError
from tests.privacy.evidence import COORDINATOR, START, Federation, digest, runs_on


@pytest.fixture
def federation(tmp_path: Path) -> Federation:
    federation = Federation(tmp_path / "log")
    federation.say(COORDINATOR, Event.FEDERATION_CREATED, federation="lakeside")
    federation.enrol("bank_a")
    federation.say("bank_a", Event.AGENT_STARTED, **runs_on("1"))
    return federation


def set_aside(federation: Federation, event: str, name: str = "refused") -> int:
    named = name if name.startswith("sha256:") else digest(name)
    return federation.say("bank_a", Event.ENTRY_SET_ASIDE, {"entry": named}, refused_event=event)


@pytest.mark.parametrize("event", ["run-finished", "door-refused", "entry-set-aside", "no-event"])
def test_only_what_sites_say_can_be_set_aside(federation: Federation, event: str) -> None:
    set_aside(federation, event)
    with pytest.raises(VerificationError, match="set aside what sites say"):
        verify_log(federation.folder, federation.ring)


@pytest.mark.parametrize("index", [0, 2])
def test_an_entry_that_is_in_the_log_cannot_be_set_aside(
    federation: Federation, index: int
) -> None:
    named = verify_log(federation.folder, federation.ring).entries[index].digest
    set_aside(federation, "agent-started", named)
    with pytest.raises(VerificationError, match="an entry that the log lacks"):
        verify_log(federation.folder, federation.ring)


def test_an_entry_is_set_aside_once(federation: Federation) -> None:
    set_aside(federation, "agent-started")
    verify_log(federation.folder, federation.ring)
    set_aside(federation, "agent-started")
    with pytest.raises(VerificationError, match="an entry that the log lacks"):
        verify_log(federation.folder, federation.ring)


@pytest.mark.parametrize(
    ("event", "warned"),
    [
        ("budget-committed", True),
        ("test-reserved", True),
        ("update-sent", True),
        ("agent-started", False),
        ("plan-approved", False),
    ],
)
def test_verify_and_the_report_say_what_was_set_aside(
    federation: Federation, event: str, warned: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    index = set_aside(federation, event)
    keys = federation.folder.parent / "keys.json"
    keys.write_text(federation.ring.dump())
    asked = ["verify", str(federation.folder), "--keys", str(keys)]
    assert main(asked) == 0
    said = capsys.readouterr()
    assert f"set aside bank_a: its {event} {digest('refused')}" in said.out
    assert ("WARNING: 1 of the entries set aside" in said.err) == warned
    assert main([*asked, "--json"]) == 0
    (found,) = json.loads(capsys.readouterr().out)["set_aside"]
    assert (found["entry"], found["digest"]) == (index, digest("refused"))
    page = render_report(verify_log(federation.folder, federation.ring), at=START)
    told = page[page.index("What a party was asked and did not do") :]
    told = told[: told.index("</section>")]
    assert f"<code>{event}</code>" in told
    assert f'href="#entry-{index}"' in told
    assert ("the figures of this page lack them" in told) == warned


def test_a_log_without_any_says_nothing_of_it(
    federation: Federation, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["verify", str(federation.folder)]) == 0
    said = capsys.readouterr()
    assert "set aside" not in said.out + said.err
