"""A whole run by the commands, from init to the auditor's report."""

import base64
import contextlib
import json
import shutil
import sqlite3
import stat
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from peft import PeftModel
from safetensors.numpy import load_file

from model.base import load_base, nano_folder
from privacy.audit.entry import Event, parse_entry
from privacy.dp import exposure
from tests.e2e import probe
from tests.e2e.conftest import NUM_TRACERS, SITE_BUDGET, Enrolled, Story
from tests.e2e.consortium import FEDERATION, NUM_UNITS, SITES, Answer


def test_every_command_on_the_way_succeeds(enrolled: Enrolled, story: Story) -> None:
    failed = {
        name: answer.talk
        for name, answer in (*enrolled.answers.items(), *story.answers.items())
        if answer.status != 0
    }
    assert failed == {}


def test_init_tells_a_program_what_two_people_compare_by_voice(enrolled: Enrolled) -> None:
    assert set(enrolled.answers["init"].result) == {"federation", "fingerprint"}
    for name in SITES:
        assert set(enrolled.answers[f"init {name}"].result) == {"request", "fingerprint"}
        approved = enrolled.answers[f"approve {name}"].result
        assert approved["site"] == name
        assert set(approved) == {"site", "kit", "days"}
        assert enrolled.answers[f"enrol {name}"].result["federation"] == FEDERATION


def test_check_finds_nothing_wrong_at_an_enrolled_site(story: Story) -> None:
    findings = story.answers["check"].result
    assert [f["name"] for f in findings if not f["ok"]] == []
    assert all(set(f) == {"name", "ok", "found", "next"} for f in findings)


def test_run_tells_how_each_round_went(story: Story) -> None:
    told = story.answers["run"].result
    assert told["state"] == "finished"
    assert told["approved"] == sorted(SITES)
    assert [(r["server_round"], r["num_updates"]) for r in told["rounds"]] == [(1, 2), (2, 2)]
    assert told["adapter"] == told["rounds"][-1]["adapter"]
    talk = story.answers["run"].talk
    for line in ("approved by bank", "round 1/2  2 updates", "run story finished"):
        assert line in talk


def test_status_names_the_run_and_its_sites(story: Story) -> None:
    status = story.answers["status"].result
    assert status["running"] is True
    assert status["federation"] == FEDERATION
    assert {(s["site"], s["active"], s["num_units"]) for s in status["sites"]} == {
        (name, True, NUM_UNITS) for name in SITES
    }
    assert [(run["run"], run["state"]) for run in status["runs"]] == [("story", "finished")]


def test_each_round_was_spent_once_within_the_budget(story: Story) -> None:
    for name in SITES:
        budget = story.answers[f"budget {name}"].result
        assert [r["server_round"] for r in budget["rounds"]] == [1, 2]
        assert all(r["update"] for r in budget["rounds"])
        assert 0 < budget["epsilon"] <= 8 < budget["budget_epsilon"] == SITE_BUDGET


def test_sent_lists_everything_that_left_and_nothing_else(story: Story) -> None:
    sent = story.answers["sent"].result
    assert [(s["kind"], s["server_round"]) for s in sent] == [
        ("train", 1), ("train", 2), ("evaluate", 2),
    ]  # fmt: skip
    spent = [r["update"] for r in story.answers["budget clinic"].result["rounds"]]
    assert [s["update"] for s in sent[:2]] == spent
    assert all(s["sent_at"] and s["bytes"] > 0 for s in sent)


def test_the_log_verifies_and_holds_every_step_of_every_site(story: Story) -> None:
    verified = story.answers["verify"].result
    assert verified["verified"] is True
    assert set(verified["sites"]) == set(SITES)
    # As it was when the run was over: other tests go on with this consortium.
    lines = (story.consortium.root / "log" / "entries.jsonl").read_bytes().splitlines()
    entries = [parse_entry(line) for line in lines]
    for name in SITES:
        events = [e.event for e in entries if e.party == name]
        for event, times in (
            (Event.PLAN_APPROVED, 1), (Event.DATA_MASKED, 1), (Event.SELF_TEST_PASSED, 1),
            (Event.BUDGET_RESERVED, 2), (Event.BUDGET_COMMITTED, 2), (Event.UPDATE_SENT, 2),
            (Event.EVALUATED, 1), (Event.TRACERS_ADDED, 1),
        ):  # fmt: skip
            assert events.count(event) == times, (name, event)
    refusals = {Event.DOOR_REFUSED, Event.UPDATE_REJECTED, Event.ROUND_FAILED}
    assert [e.event for e in entries if e.event in refusals] == []


def test_the_processes_complain_of_nothing(story: Story) -> None:
    made = story.consortium
    logs = [made.home / "coordinator.log", *(made.site(name) / "agent.log" for name in SITES)]
    assert {path.name: path.read_text() for path in logs if path.read_text()} == {}


def test_the_summary_says_what_came_of_it_at_each_site(story: Story) -> None:
    summary = json.loads((story.consortium.root / "summary.json").read_text())
    assert set(summary) == {"sites", "round_s", "log_entries", "verified"}
    assert summary["verified"] is True
    entries = (story.consortium.root / "log" / "entries.jsonl").read_bytes()
    assert summary["log_entries"] == len(entries.splitlines())
    assert len(summary["round_s"]) == 2
    assert set(summary["sites"]) == set(SITES)
    for name, site in summary["sites"].items():
        assert site["alone"] is None  # as the site.toml of both says
        for adapter in ("base", "federated"):
            assert {"loss", "accuracy"} <= set(site[adapter])
        budget = story.answers[f"budget {name}"].result
        assert (site["epsilon"], site["delta"]) == (budget["epsilon"], budget["delta"])
        assert site["unit"] == "record"
        assert min(site["bytes_up"], site["bytes_down"]) > 0


def test_the_report_stands_alone(story: Story) -> None:
    page = (story.consortium.root / "report.html").read_text()
    for name in SITES:
        assert name in page
    for outside in ("<script", "src=", "url(", "<link", "@import"):
        assert outside not in page


def test_the_results_of_a_site_stay_in_its_folder(story: Story) -> None:
    for name in SITES:
        results = json.loads((story.consortium.site(name) / "results.json").read_text())
        assert results["alone"] is None  # as its site.toml says
        for adapter in ("base", "federated"):
            assert results[adapter]["loss"] > 0
            assert 0 <= results[adapter]["accuracy"] <= 1


def test_each_round_is_measured_at_each_site_and_nothing_of_it_leaves(story: Story) -> None:
    digests = [r["adapter"] for r in story.answers["run"].result["rounds"]]
    figures: set[float] = set()
    for name in SITES:
        results = json.loads((story.consortium.site(name) / "results.json").read_text())
        points = results["rounds"]
        assert results["every"] == 1
        assert [point["server_round"] for point in points] == [0, 1, 2]
        assert [point["adapter"] for point in points[1:]] == digests
        assert {point["num_examples"] for point in points} == {results["num_held_out"]}
        # All held-out records are few here: the last round is what is measured in the end.
        assert points[2]["loss"] == results["federated"]["loss"]
        assert points[0]["loss"] == results["base"]["loss"]
        for point in points:
            figures.add(point["loss"])
    assert len(figures) >= 4
    made = story.consortium
    search = probe.Search(
        {name: raw for figure in figures for name, raw in probe.figure_bytes(figure).items()}
    )
    at_home = (made.site(SITES[0]) / "results.json").read_bytes()
    for held in (at_home, base64.b64encode(at_home), base64.b64encode(b"x" + at_home)):
        assert search.names(held)
    for folder in (made.home, made.root / "log"):
        assert [path for path in probe.files(folder) if search.names(path.read_bytes())] == []
    lines = (story.consortium.log / "entries.jsonl").read_bytes().splitlines()
    assert [n for n, line in enumerate(lines) if search.names(parse_entry(line).signed)] == []
    for name in SITES:
        whole = probe.left_by_wire(story.recorded(name, "opened", "up"))
        assert search.names(whole) == []
    page = (made.root / "report.html").read_text()
    for name in SITES:
        assert f"<title>{name}: loss from " in page


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")
def test_peft_loads_the_released_adapter_and_it_does_something(story: Story) -> None:
    adapters = story.consortium.home / "adapters"
    digest = story.answers["run"].result["adapter"]
    (folder,) = [f for f in adapters.iterdir() if digest.removeprefix("sha256:") in f.name]
    base, tokenizer = load_base(nano_folder(), None)
    inputs = tokenizer("Referral: painful blisters along one rib.", return_tensors="pt")
    before = base(**inputs).logits.detach().numpy()
    adapted = PeftModel.from_pretrained(base, folder)
    after = adapted(**inputs).logits.detach().numpy()
    saved = load_file(folder / "adapter_model.safetensors")
    assert len(saved) == sum("lora" in name for name, _ in adapted.named_parameters())
    assert np.isfinite(after).all()
    assert np.abs(after - before).max() > 0


def test_no_update_is_left_at_the_coordinator_after_a_run(story: Story) -> None:
    for name in SITES:
        with contextlib.closing(
            sqlite3.connect(story.consortium.site(name) / "journal.sqlite")
        ) as journal:
            kept = journal.execute("SELECT content FROM outbox WHERE kind = 'train'").fetchall()
        parts = [content[len(content) // 2 :][:64] for (content,) in kept]
        assert len(parts) >= 2
        came = b"".join(
            body
            for recorded in story.recorded(name, "opened", "up").values()
            for body in probe.streams(recorded).values()
        )
        for path in (story.consortium.home / "state").iterdir():
            held = path.read_bytes()
            for part in parts:
                assert part in came
                assert part not in held, path


def test_no_file_with_a_key_or_a_record_of_work_is_readable_by_others(story: Story) -> None:
    made = story.consortium
    private = [made.home / "state", *(made.site(name) / "keys" for name in SITES)]
    found = [path for folder in private for path in folder.iterdir()]
    found += [made.home / "keys" / "signing.key", made.home / "keys" / "tls.key"]
    found += [made.home / "authority" / "ca.key"]
    for name in SITES:
        found += [made.site(name) / leaf for leaf in ("journal.sqlite", "results.json")]
        found += list((made.site(name) / "ledger").iterdir())
    assert [p for p in found if stat.S_IMODE(p.stat().st_mode) & 0o077] == []


def test_a_log_with_one_changed_letter_does_not_verify(story: Story, tmp_path: Path) -> None:
    log = Path(shutil.copytree(story.consortium.log, tmp_path / "log"))
    lines = (log / "entries.jsonl").read_bytes().split(b"\n")
    changed = lines[7].replace(b"A", b"B", 1)
    assert changed != lines[7]
    (log / "entries.jsonl").write_bytes(b"\n".join([*lines[:7], changed, *lines[8:]]))
    answer = story.consortium.type_audit("verify", log)
    assert answer.status == 1
    assert "entry 7" in answer.talk


@pytest.fixture(scope="module")
def tested(story: Story, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Answer]]:
    """What the commands answer when a site tests the adapter, and an auditor looks at it."""
    made = story.consortium
    assert made.coordinator is not None
    # Other tests may have stopped everything.
    runs = made.coordinator.status is None
    if not runs:
        made.start_coordinator()
    elif made.agents["clinic"].status is None:
        assert made.type_site("clinic", "stop").status == 0
        made.agents["clinic"].wait()
    test = ("test-privacy", "story", "--release", "--yes")
    answers = {
        "exposure": made.call_site("clinic", *test, "--exposure-only"),
        "both": made.call_site("clinic", *test, "--epsilon", "1"),
    }
    root = tmp_path_factory.mktemp("tested")
    log = shutil.copytree(made.log, root / "log")
    answers["verify"] = made.type_audit("verify", log)
    answers["report"] = made.type_audit("report", log, "--out", root / "report.html")
    answers["page"] = Answer(
        status=0, result=(root / "report.html").read_text(encoding="utf-8"), talk=""
    )
    yield answers
    if runs:
        made.start_site("clinic").await_told(lambda told: told.get("state") == "connected")
    else:
        made.type_coordinator("stop")
        made.coordinator.wait()


def test_a_site_releases_both_tests_of_the_adapter_by_the_command(
    story: Story, tested: dict[str, Answer]
) -> None:
    assert {name: answer.talk for name, answer in tested.items() if answer.status != 0} == {}
    ranks = tested["exposure"].result["exposure"]["ranks"]
    assert len(ranks) == NUM_TRACERS
    assert all(1 <= rank <= exposure.NUM_CANDIDATES for rank in ranks)
    # A second release tells the same.
    assert tested["both"].result["exposure"]["ranks"] == ranks
    assert tested["both"].result["epsilon"] <= 1
    made = story.consortium
    plan = story.answers["run"].result["plan"]
    (measured,) = made.entries(Event.EXPOSURE_MEASURED, plan)
    assert (measured.party, measured.predicate["ranks"]) == ("clinic", ranks)
    (added,) = [e for e in made.entries(Event.TRACERS_ADDED, plan) if e.party == "clinic"]
    assert measured.subjects["tracers"] == added.subjects["tracers"]
    assert added.sequence < measured.sequence
    (told,) = made.entries(Event.ADAPTER_TESTED, plan)
    assert tested["both"].result["counts"]["loss_members"] == told.predicate["loss_members"]
    # One noised test was paid, exposure was not.
    budget = made.type_site("clinic", "budget").result
    assert [r["kind"] for r in budget["rounds"] if r["plan"] == plan] == ["round", "round", "test"]


def test_the_auditor_finds_both_tests_in_the_log_and_on_the_page(
    tested: dict[str, Answer],
) -> None:
    site = tested["verify"].result["sites"]["clinic"]
    assert (site["exposures"], site["privacy_tests"]) == (1, 1)
    assert tested["verify"].result["sites"]["bank"]["exposures"] == 0
    page = tested["page"].result
    found = exposure.summarise(tested["exposure"].result["exposure"]["ranks"])
    assert "Exposure of made-up secrets" in page
    assert f">{found.mean:.2f}<" in page
    # The bank had tracers and did not look for them.
    assert ">not measured<" in page
