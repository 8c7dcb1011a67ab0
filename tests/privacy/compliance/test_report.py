"""The report says what the log shows, cites it, and cannot be bent by what it prints."""

import json
import re
from dataclasses import replace
from datetime import UTC, datetime
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from privacy.audit.entry import Event
from privacy.audit.verify import VerifiedLog, verify_log
from privacy.compliance.chart import spend_chart, ticks
from privacy.compliance.evidence import gather
from privacy.compliance.markup import Html, escaped, join, tag
from privacy.compliance.report import Extras, render_report
from privacy.compliance.results import Quality, Results, read_results
from privacy.errors import ConfigError
from tests.privacy.evidence import COORDINATOR, Federation, quick_accountant

AT = datetime(2026, 11, 21, 9, 30, tzinfo=UTC)
HOSTILE = '<script>alert("x")</script><img src=x onerror=alert(1)>'


class Page(HTMLParser):
    """The elements, ids, links and text of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.ids: set[str] = set()
        self.links: set[str] = set()
        self.text = ""
        self.open: list[str] = []
        self.feed(page)

    def handle_starttag(self, element: str, attributes: list[tuple[str, str | None]]) -> None:
        """Remember the element, and refuse handlers."""
        self.tags.append(element)
        if element != "meta":
            self.open.append(element)
        for name, value in attributes:
            assert not name.startswith("on")
            if name == "id":
                self.ids.add(value or "")
            if name == "href":
                self.links.add(value or "")

    def handle_startendtag(self, element: str, _: list[tuple[str, str | None]]) -> None:
        """Remember the element."""
        self.tags.append(element)

    def handle_endtag(self, element: str) -> None:
        """Close the element that is open."""
        assert self.open.pop() == element

    def handle_data(self, text: str) -> None:
        """Collect the text."""
        self.text += text


SEALED = ["hmac-sha256:" + digit * 64 for digit in "ab"]


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> VerifiedLog:
    federation = Federation(tmp_path_factory.mktemp("report") / "log")
    federation.begin()
    federation.round(1)
    federation.say(COORDINATOR, Event.DOOR_REFUSED, rule="wrong-node-key", peer=SEALED[0])
    federation.say(COORDINATOR, Event.DOOR_REFUSED, rule="wrong-node-key", peer=SEALED[1])
    federation.say(
        "bank_a",
        Event.INSTRUCTION_REFUSED,
        {"plan": federation.plan.digest},
        rule="round-out-of-plan",
        server_round=31,
    )
    federation.train("bank_a", 2)
    federation.say(
        COORDINATOR,
        Event.UPDATE_REJECTED,
        run_id=federation.run_id,
        server_round=2,
        site="hospital_a",
        rule="not-finite",
    )
    federation.say(
        COORDINATOR,
        Event.ROUND_FAILED,
        run_id=federation.run_id,
        server_round=2,
        num_updates=1,
    )
    federation.round(3)
    federation.finish(2)
    return verify_log(federation.folder, federation.ring, accountant=quick_accountant)


def results(site: str) -> Results:
    return Results(
        site=site,
        quality={
            "base": Quality(loss=2.5, accuracy=0.125),
            "alone": Quality(loss=1.75, accuracy=0.5),
            "federated": Quality(loss=1.25, accuracy=0.625),
        },
    )


def test_the_page_stands_alone(log: VerifiedLog) -> None:
    page = render_report(log, Extras(results=[results("bank_a")]), at=AT)
    parsed = Page(page)
    assert parsed.open == []
    assert not {"script", "iframe", "object", "img", "link", "form"} & set(parsed.tags)
    assert not re.search(r"https?://|url\(|@import|javascript:", page)
    assert "default-src &#x27;none&#x27;" in page


def test_every_link_leads_to_an_entry_of_the_page(log: VerifiedLog) -> None:
    parsed = Page(render_report(log, at=AT))
    assert parsed.links
    assert {link.removeprefix("#") for link in parsed.links} <= parsed.ids
    assert len(parsed.ids) == len(log.entries)


def test_the_page_gives_no_verdict(log: VerifiedLog) -> None:
    text = Page(render_report(log, Extras(results=[results("bank_a")]), at=AT)).text.lower()
    for word in ("compliant", "compliance with", "guaranteed", "anonymous", "certified"):
        assert word not in text


def test_the_page_says_what_happened(log: VerifiedLog) -> None:
    text = Page(render_report(log, at=AT)).text
    assert "2 of 3" in text
    assert "round-out-of-plan" in text
    assert "none: too few updates" in text
    assert "1 of 3, 1 rejected" in text
    assert "(8, 0.0001)-differential privacy" in text
    assert "What this evidence cannot show" in text
    assert log.checkpoint.root.hex() in text
    assert "public keys that the reader supplied" in text


def test_the_page_says_when_the_keys_came_with_the_log(tmp_path: Path) -> None:
    federation = Federation(tmp_path / "log")
    federation.begin()
    page = render_report(verify_log(federation.folder, accountant=quick_accountant), at=AT)
    assert "The public keys came with the log." in page


def test_measured_figures_are_shown_apart(log: VerifiedLog) -> None:
    with_results = Page(render_report(log, Extras(results=[results("bank_a")]), at=AT)).text
    assert "62.5 %" in with_results
    assert "not part of the log" in with_results
    assert "What the model learnt" not in Page(render_report(log, at=AT)).text


def test_results_are_given_by_a_site_and_not_evidenced_and_lead_to_their_adapter(
    log: VerifiedLog,
) -> None:
    (run,) = gather(log).runs.values()
    this = run.rounds[3]
    handed = replace(results("bank_a"), plan=run.digest, adapter=this.adapter)
    page = render_report(log, Extras(results=[handed, results("hospital_a")]), at=AT)
    rows = re.findall(r"<tr>.*?</tr>", page.partition("What the model learnt")[2])
    named = next(row for row in rows if "bank_a" in row)
    assert 'bank_a <span class="status none">not evidenced</span>' in named
    measured = log.entries.index(
        next(
            entry
            for entry in log.entries
            if entry.event is Event.EVALUATED
            and entry.party == "bank_a"
            and entry.subjects["adapter"] == this.adapter
        )
    )
    assert "triage, round 3" in named
    assert f'href="#entry-{this.released}"' in named
    assert f'href="#entry-{measured}"' in named
    assert "not named" in next(row for row in rows if "hospital_a" in row)
    # Figures of several rounds of one site stand one below the other, in the log's order.
    first = replace(handed, adapter=run.rounds[1].adapter)
    both = render_report(log, Extras(results=[handed, first]), at=AT)
    assert both.index("triage, round 1") < both.index("triage, round 3")


def test_results_of_another_run_and_two_files_of_one_adapter_are_refused(log: VerifiedLog) -> None:
    (run,) = gather(log).runs.values()
    known = replace(results("bank_a"), plan=run.digest, adapter=run.rounds[1].adapter)
    for wrong in (
        replace(known, adapter="sha256:" + "ab" * 32),
        replace(known, plan="sha256:" + "ab" * 32),
    ):
        with pytest.raises(ConfigError, match="expected results of an adapter of this log"):
            render_report(log, Extras(results=[wrong]), at=AT)
    with pytest.raises(ConfigError, match="expected one file of bank_a an adapter"):
        render_report(log, Extras(results=[known, known]), at=AT)


def test_every_figure_outside_the_controls_links_to_its_entries(log: VerifiedLog) -> None:
    page = render_report(log, at=AT)
    for tile in re.findall(r'<div class="tile">.*?</div>', page):
        assert 'href="#entry-' in tile, tile
    for title in ("Institutions", "Masking of personal data", "Rounds", "Refusals"):
        part = page.partition(f"<h2>{title}</h2>")[2].partition("<h2>")[0]
        rows = re.findall(r"<tbody>(.*?)</tbody>", part)
        assert rows, title
        for row in re.findall(r"<tr>.*?</tr>", "".join(rows)):
            assert 'href="#entry-' in row, row
    charts = re.findall(r"<figure>.*?</figure>", page)
    assert len(charts) == 3
    assert all('href="#entry-' in chart for chart in charts)


def test_an_update_that_was_accepted_and_left_out_of_the_adapter_is_said(tmp_path: Path) -> None:
    federation = Federation(tmp_path / "log")
    federation.begin()
    for site in federation.sites:
        federation.train(site, 1)
    federation.release(1, federation.sites[:2])
    log = verify_log(federation.folder, federation.ring, accountant=quick_accountant)
    assert "3 of 3, 2 of them in the adapter" in Page(render_report(log, at=AT)).text


def test_results_of_a_stranger_are_refused(log: VerifiedLog) -> None:
    with pytest.raises(ConfigError, match="enrolled sites"):
        render_report(log, Extras(results=[results(HOSTILE)]), at=AT)


def test_a_log_of_one_entry_makes_a_page(tmp_path: Path) -> None:
    federation = Federation(tmp_path / "log")
    federation.say(COORDINATOR, Event.FEDERATION_CREATED, federation="lakeside")
    log = verify_log(federation.folder, federation.ring)
    text = Page(render_report(log, at=AT)).text
    assert "No run was started." in text
    assert "Nothing was spent." in text


def test_an_empty_log_makes_no_page(tmp_path: Path) -> None:
    federation = Federation(tmp_path / "log")
    with pytest.raises(ConfigError, match="empty"):
        render_report(verify_log(federation.folder, federation.ring), at=AT)


def test_no_text_from_the_log_can_break_the_page(log: VerifiedLog) -> None:
    # No form lets such text into an entry: this is the second wall.
    entries = tuple(
        replace(
            entry,
            predicate={
                name: HOSTILE if name in ("federation", "rule", "peer", "version") else value
                for name, value in entry.predicate.items()
            },
        )
        for entry in log.entries
    )
    page = render_report(replace(log, entries=entries), at=AT)
    assert not {"script", "img"} & set(Page(page).tags)
    assert page.count("&lt;script&gt;") >= 4


@given(st.text())
def test_text_comes_out_as_text(text: str) -> None:
    built = tag("p", text, title=text)
    assert built == tag("p", escaped(text), title=escaped(text))
    assert join(text).count("<") == 0
    assert built.count("<") == 2
    assert built.count('"') == 2


def test_what_was_built_is_not_escaped_twice() -> None:
    assert join(Html("<b>"), "<b>") == "<b>&lt;b&gt;"
    assert escaped(escaped("a & b")) == "a &amp; b"


def test_evidence_counts_what_was_said(log: VerifiedLog) -> None:
    evidence = gather(log)
    bank = evidence.sites["bank_a"]
    assert len(bank.sent) == len(bank.spends) == len(bank.accepted) == 3
    assert bank.bytes_sent == 3 * 51_234
    (run,) = evidence.runs.values()
    assert [this.server_round for this in run.released] == [1, 3]
    assert run.rounds[2].failed is not None
    door = evidence.refusals[0]
    assert (door.event, door.whom) == (Event.DOOR_REFUSED, "")
    assert len(door.entries) == 2


def test_a_round_that_is_reserved_counts_as_spent(tmp_path: Path) -> None:
    federation = Federation(tmp_path / "log")
    federation.begin()
    federation.train("bank_a", 1)
    federation.reserve("bank_a", 2)
    log = verify_log(federation.folder, federation.ring, accountant=quick_accountant)
    spends = gather(log).sites["bank_a"].spends
    assert [(spend.server_round, spend.committed) for spend in spends] == [(1, True), (2, False)]
    assert spends[1].epsilon_total > spends[0].epsilon_total


def test_a_commit_said_twice_is_spent_once(tmp_path: Path) -> None:
    federation = Federation(tmp_path / "log")
    federation.begin()
    federation.train("bank_a", 1)
    federation.commit("bank_a", 1)
    log = verify_log(federation.folder, federation.ring, accountant=quick_accountant)
    assert len(gather(log).sites["bank_a"].spends) == 1


@given(st.floats(min_value=0.001, max_value=5000))
def test_a_chart_has_few_round_ticks(top: float) -> None:
    marks = ticks(top)
    assert 2 <= len(marks) <= 7
    assert marks[0] == 0
    assert marks[-1] <= top * 1.000001


def test_a_chart_says_its_numbers_to_who_cannot_see_it() -> None:
    chart = spend_chart("bank_a", [(1, 1.5), (2, 2.25)], 8.0, 9.0)
    assert "<title>bank_a: epsilon 2.25 of 8 after 2 rounds</title>" in chart


def write_results(path: Path, **changes: object) -> Path:
    content: dict[str, object] = {
        "site": "bank_a",
        "base": {"loss": 2.5, "accuracy": 0.1},
        "federated": {"loss": 1.5, "accuracy": 0.6},
        "alone": None,
        "epsilon": 3.0,
    }
    path.write_text(json.dumps(content | changes))
    return path


def test_results_are_read(tmp_path: Path) -> None:
    read = read_results(write_results(tmp_path / "results.json"))
    assert read.site == "bank_a"
    assert set(read.quality) == {"base", "federated"}


@pytest.mark.parametrize(
    "changes",
    [
        {"site": 3},
        {"base": {"loss": "x", "accuracy": 0.1}},
        {"base": {"loss": float("nan"), "accuracy": 0.1}},
        {"base": {"loss": 1.0, "accuracy": 60}},
        {"base": {"loss": 10**400, "accuracy": 0.5}},
        {"base": None, "federated": None},
        {"base": [1, 2]},
        {"plan": "sha256:" + "0" * 64},
        {"plan": 7, "adapter": 7},
        {"plan": "sha256:0", "adapter": "sha256:0"},
    ],
)
def test_results_that_are_none_are_refused(tmp_path: Path, changes: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=r"results\.json"):
        read_results(write_results(tmp_path / "results.json", **changes))
