"""What a person gets wrong, what the commands say to it, and that it leaves nothing behind.

Every answer is one clear error, with a hint where something can be done, and the same command
works once the mistake is corrected.
"""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from client.check import check_site
from privacy.cli import main as audit_main
from tests.e2e.conftest import Enrolled
from tests.e2e.consortium import (
    NUM_UNITS,
    Answer,
    Consortium,
    free_port,
    rows,
    write_rows,
)


@pytest.fixture
def copied(enrolled: Enrolled, tmp_path: Path) -> Consortium:
    """An enrolled consortium that a test may spoil; none of its processes run."""
    return Consortium.copy(enrolled.consortium, tmp_path / "copied")


@pytest.fixture(scope="module")
def serving(enrolled: Enrolled, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Consortium]:
    """A coordinator that serves, without agents."""
    made = Consortium.copy(enrolled.consortium, tmp_path_factory.mktemp("serving"))
    try:
        made.start_coordinator()
        yield made
    finally:
        made.end()


def check_refused(answer: Answer, *words: str, status: int = 1) -> None:
    """One error with these words, no result, and never a stack trace."""
    assert answer.status == status, answer
    assert answer.result is None
    errors = [line for line in answer.talk.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1, answer.talk
    for word in words:
        assert word in answer.talk
    assert "Traceback" not in answer.talk


# -- site.toml ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("right", "wrong", "words"),
    [
        ("epsilon = 40.0", "epsilno = 40.0", ("site.toml", "budget.epsilno", "hint: ")),
        ("epsilon = 40.0", 'epsilon = "40"', ("budget.epsilon", "hint: ")),
        ("epsilon = 40.0", "epsilon = -1.0", ("budget.epsilon", "hint: ")),
        ("delta = 0.001", "delta = 0.1", ("budget.delta", "hint: ")),
        ("[budget]", "[budget", ("site.toml", "hint: ")),
    ],
)
def test_a_typo_in_site_toml_stops_every_command_and_names_the_key(
    copied: Consortium, right: str, wrong: str, words: tuple[str, ...]
) -> None:
    path = copied.site("clinic") / "site.toml"
    text = path.read_text()
    assert right in text
    path.write_text(text.replace(right, wrong))
    for command in ("start", "budget", "sent", "approve-plan"):
        check_refused(copied.type_site("clinic", command), *words)
    assert not (copied.site("clinic") / "ledger").exists()
    path.write_text(text)
    assert copied.type_site("clinic", "budget").status == 0


def test_a_lower_budget_than_before_is_refused_and_the_old_one_works_again(
    copied: Consortium,
) -> None:
    assert copied.type_site("clinic", "budget").status == 0
    copied.set_in_site("clinic", "path", str(copied.data("clinic")))
    text = (copied.site("clinic") / "site.toml").read_text()
    copied.set_in_site("clinic", "delta", 1e-4)
    answer = copied.type_site("clinic", "budget")
    assert answer.status in (0, 1)
    assert "Traceback" not in answer.talk
    (copied.site("clinic") / "site.toml").write_text(text)
    assert copied.type_site("clinic", "budget").status == 0


# -- init, enrol and approve ----------------------------------------------------------------------


def test_a_wrong_call_is_told_apart_from_a_refusal(copied: Consortium) -> None:
    for command in (["init"], ["nonsense"], ["budget", "--nonsense"]):
        answer = copied.type_site("clinic", *command)
        check_refused(answer, "hint: ", status=2)
    check_refused(copied.type_coordinator("run"), "hint: ", status=2)


def test_init_with_impossible_numbers_leaves_no_folder(copied: Consortium) -> None:
    call = ("init", "--name", "new", "--federation", "lakeside", "--data", copied.data("bank"))
    right = ("--coordinator", "127.0.0.1:1", "--units", "40", "--delta", "1e-3")
    for wrong, word in (
        (("--coordinator", "no-port", "--units", "40", "--delta", "1e-3"), "coordinator"),
        (("--coordinator", "127.0.0.1:1", "--units", "0", "--delta", "1e-3"), "num_units"),
        (("--coordinator", "127.0.0.1:1", "--units", "40", "--delta", "0.5"), "delta"),
    ):
        check_refused(copied.type_site("new", *call, *wrong), word)
        assert not copied.site("new").exists()
    assert copied.type_site("new", *call, *right).status == 0
    check_refused(copied.type_site("new", *call, *right), "exists already", "hint: ")


def test_a_wrong_passphrase_approves_nobody_and_the_right_one_does(
    copied: Consortium, monkeypatch: pytest.MonkeyPatch
) -> None:
    call = (
        "init", "--name", "new", "--federation", "lakeside", "--data", copied.data("bank"),
        "--coordinator", "127.0.0.1:1", "--units", "40", "--delta", "1e-3",
    )  # fmt: skip
    asked = copied.type_site("new", *call).result
    before = (copied.log / "entries.jsonl").read_bytes()
    approve = ("approve", asked["request"], "--fingerprint", asked["fingerprint"])
    monkeypatch.setenv("CLOISTER_CA_PASSPHRASE", "wrong")
    check_refused(copied.type_coordinator(*approve), "passphrase")
    monkeypatch.delenv("CLOISTER_CA_PASSPHRASE")
    check_refused(copied.type_coordinator(*approve), "passphrase", "hint: ")
    wrong = ("approve", asked["request"], "--fingerprint", "0000 1111")
    check_refused(copied.type_coordinator(*wrong), "not approved", "hint: ")
    assert not (copied.home / "kits" / "new.json").exists()
    assert (copied.log / "entries.jsonl").read_bytes() == before
    monkeypatch.setenv("CLOISTER_CA_PASSPHRASE", "correct horse battery staple")
    assert copied.type_coordinator(*approve).status == 0


def test_another_sites_kit_or_another_fingerprint_enrols_nobody(copied: Consortium) -> None:
    kept = (copied.site("clinic") / "kit.json").read_bytes()
    kits = copied.home / "kits"
    check_refused(copied.type_site("clinic", "enrol", kits / "bank.json", "--yes"))
    own = kits / "clinic.json"
    check_refused(
        copied.type_site("clinic", "enrol", own, "--fingerprint", "0000 1111"), "fingerprint"
    )
    check_refused(copied.type_site("clinic", "enrol", own), "not enrolled", "hint: ")
    check_refused(copied.type_site("clinic", "enrol", kits / "nobody.json", "--yes"), "nobody")
    assert (copied.site("clinic") / "kit.json").read_bytes() == kept


# -- what check finds -----------------------------------------------------------------------------


def failed(site: Path) -> dict[str, str]:
    """What `cloister-site check` finds wrong, with its advice."""
    return {f.name: f"{f.found} {f.advice}" for f in check_site(site) if not f.ok}


def test_check_names_unreadable_data_and_an_address_where_nobody_answers(
    copied: Consortium,
) -> None:
    copied.set_in_site("clinic", "coordinator", f"127.0.0.1:{free_port()}")
    copied.set_in_site("clinic", "path", "nowhere.jsonl")
    found = failed(copied.site("clinic"))
    assert any("nowhere.jsonl" in text for text in found.values())
    assert any("127.0.0.1" in text for text in found.values())
    assert "base" not in " ".join(found)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda row: "not JSON", ("line 3", "JSON")),
        (lambda row: json.dumps({k: v for k, v in row.items() if k != "label"}), ("label",)),
        (lambda row: json.dumps(row | {"prompt": 5}), ("line 3", "prompt")),
        (lambda row: json.dumps(row | {"label": " "}), ("line 3", "label")),
    ],
)
def test_a_bad_row_is_named_by_its_line_and_never_quoted(
    copied: Consortium, change: Callable[[dict[str, str]], str], words: tuple[str, ...]
) -> None:
    records = rows(0)
    path = copied.site("clinic") / "data" / "records.jsonl"
    lines = [json.dumps(record) for record in records]
    lines[2] = change(records[2])
    path.write_text("\n".join(lines) + "\n")
    copied.set_in_site("clinic", "path", str(path))
    said = " ".join(failed(copied.site("clinic")).values())
    for word in words:
        assert word in said
    assert records[2]["prompt"][:20] not in said


# -- plans ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("right", "wrong", "words"),
    [
        ("sample_rate = 0.2", "sampel_rate = 0.2", ("privacy.sampel_rate",)),
        ("target_epsilon = 8.0", "target_epsilon = -1.0", ("target_epsilon",)),
        (
            "target_epsilon = 8.0",
            "target_epsilon = 1.0",
            ("expected epsilon <= 1.0", "hint: "),
        ),
        ("delta = 1e-3", "delta = 1.0", ("delta",)),
        ("sample_rate = 0.2", "sample_rate = 2.0", ("sample_rate",)),
        ("min_sites = 2", "min_sites = 3", ("min_sites",)),
        ("num_rounds = 2", "num_rounds = 0", ("num_rounds",)),
        ('run = "', 'sites = ["clinic", "nobody"]\nrun = "', ("nobody", "hint: ")),
        ('run = "', 'base = "nowhere"\nrun = "', ("nowhere",)),
        ("[privacy]", "[privacy", ("toml",)),
    ],
)
def test_an_impossible_plan_is_offered_to_nobody(
    serving: Consortium, right: str, wrong: str, words: tuple[str, ...]
) -> None:
    path = serving.write_plan("impossible")
    text = path.read_text()
    assert right in text
    path.write_text(text.replace(right, wrong))
    before = serving.type_coordinator("status").result["runs"]
    check_refused(serving.type_coordinator("run", path, "--detach"), *words)
    assert serving.type_coordinator("status").result["runs"] == before


def test_a_corrected_plan_is_offered_and_another_one_cannot_take_its_name(
    serving: Consortium,
) -> None:
    path = serving.write_plan("corrected")
    text = path.read_text()
    path.write_text(text.replace("sample_rate", "sampel_rate"))
    check_refused(serving.type_coordinator("run", path, "--detach"))
    path.write_text(text)
    plan = serving.type_coordinator("run", path, "--detach").result["plan"]
    path.write_text(text.replace("sample_rate = 0.2", "sample_rate = 0.3"))
    check_refused(serving.type_coordinator("run", path, "--detach"), "another plan", "hint: ")
    assert serving.type_coordinator("stop", "--run", "corrected").status == 0
    assert serving.await_run(plan)["state"] == "stopped"


def test_a_plan_over_a_sites_budget_is_refused_before_a_record_is_read(
    serving: Consortium,
) -> None:
    spent = serving.type_site("clinic", "budget").result["epsilon"]
    path = serving.write_plan("too-much", epsilon=60.0, num_rounds=60, noise=0.4)
    offered = serving.type_coordinator("run", path, "--detach")
    assert offered.status == 0, offered.talk
    plan = offered.result["plan"]
    refused = serving.type_site("clinic", "approve-plan", plan, "--yes")
    check_refused(refused, "max-epsilon-per-run")
    serving.set_in_site("bank", "max_epsilon_per_run", 100.0)
    refused = serving.type_site("bank", "approve-plan", plan, "--yes")
    check_refused(refused, "budget")
    serving.set_in_site("bank", "max_epsilon_per_run", 8.0)
    assert serving.type_site("clinic", "budget").result["epsilon"] == spent
    run = serving.await_run(plan, lambda run: len(run["refused"]) == 2)
    assert run["approved"] == []
    serving.type_coordinator("stop", "--run", "too-much")


def test_a_run_without_a_coordinator_says_how_to_start_one(copied: Consortium) -> None:
    plan = copied.write_plan("alone")
    check_refused(copied.type_coordinator("run", plan), "cloister-coordinator start")
    check_refused(copied.type_coordinator("stop"), "running coordinator")
    check_refused(copied.type_site("bank", "stop"), "running agent")


def test_an_agent_that_cannot_reach_its_coordinator_waits_and_says_why(
    copied: Consortium,
) -> None:
    agent = copied.start_site("clinic")
    try:
        told = agent.await_told(lambda told: told.get("state") == "waiting")
        assert "cannot be reached" in told["reason"]
        assert told["retry_s"] > 0
        # A second agent on the same folder would be two answers to one round.
        check_refused(copied.call_site("clinic", "start"), "runs on", "hint: ")
    finally:
        agent.end()
    assert agent.status == 0


def test_an_agent_of_a_site_that_was_revoked_ends_and_says_so(
    serving: Consortium, tmp_path: Path
) -> None:
    home = serving.root / "new"
    port = serving.port
    write_rows(home / "data" / "records.jsonl.gz", rows(0))
    asked = serving.type_site(
        "new", "init", "--name", "new", "--federation", "lakeside", "--coordinator",
        f"127.0.0.1:{port}", "--data", home / "data" / "records.jsonl.gz",
        "--units", str(NUM_UNITS), "--delta", "1e-3",
    ).result  # fmt: skip
    kit = serving.call_coordinator("approve", asked["request"], "--yes").result["kit"]
    # The template was enrolled under another port; kits name the address that they were made for.
    address = json.loads(Path(kit).read_text())["address"]
    serving.set_in_site("new", "coordinator", address)
    assert serving.type_site("new", "enrol", kit, "--yes").status == 0
    agent = serving.start_site("new")
    agent.await_told(lambda told: told.get("state") == "connected")
    assert serving.type_coordinator("revoke", "new").status == 0
    assert agent.wait(40) == 1
    assert "does not let this site in" in (home / "agent.log").read_text()
    del serving.agents["new"]


def test_a_missing_log_is_no_verified_log(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert audit_main(["verify", str(tmp_path / "nowhere")]) == 1
    assert capsys.readouterr().err.startswith("error: ")
