"""The audit of a plan's claim: on made-up units only, and it fires when it should."""

import json
from pathlib import Path
from typing import Literal

import pytest
import torch
from torch import nn

from client import audit_privacy
from client.audit_privacy import _audits, read_plan
from client.cli import main
from client.home import SiteHome
from model.loss import base_of
from privacy.dp import engine
from privacy.dp.canary_audit import CanaryAudit, audit_one_run
from privacy.dp.one_run import epsilon_lower_bound, p_value
from privacy.errors import ConfigError
from privacy.plan import RunPlan
from tests.client.tiny import plan_for, site_home, tiny_base


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_base(tmp_path_factory.mktemp("base") / "tiny")


@pytest.fixture(scope="module")
def plan(base: Path) -> RunPlan:
    return plan_for(base)


@pytest.fixture
def home(tmp_path: Path, base: Path, plan: RunPlan) -> Path:
    folder = site_home(tmp_path / "home", base)
    (folder / "plan.json").write_bytes(plan.canonical())
    return folder


def audit(home: Path, *options: str) -> int:
    plan = str(home / "plan.json")
    return main(["audit-privacy", plan, "--home", str(home), "--canaries", "400", *options])


def test_a_sound_engine_is_not_refuted_and_no_record_is_read(
    home: Path, capsys: pytest.CaptureFixture[str], plan: RunPlan
) -> None:
    before = sorted(path.name for path in home.iterdir())
    assert audit(home, "--json") == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["plan"], said["fires"]) == (plan.digest, False)
    assert said["confidence"] == 0.95
    assert [(a["releases"], a["num_steps"], a["sample_rate"]) for a in said["audits"]] == [
        ("plan", 4, 0.5),
        ("sharp", 1, 1.0),
    ]
    for found in said["audits"]:
        assert found["lower_bound"] <= found["claim"] <= 2.0
        assert found["confidence"] == pytest.approx(0.975)
        assert found["could_fire"] is True
    # The file of records that the settings name does not exist, and no ledger or journal was made.
    assert sorted(path.name for path in home.iterdir()) == before


def test_contributions_that_are_too_long_refute_the_claim(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert audit(home, "--sensitivity", "10") == 1
    said = capsys.readouterr().out.splitlines()
    assert len(said) == 2
    assert all("claim 2.0" in line or "claim 1.9" in line for line in said)
    assert all("at 97.5%" in line and line.endswith("REFUTED") for line in said)


def test_an_engine_without_noise_is_refuted(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    sound = engine.draw_noise
    monkeypatch.setattr(engine, "draw_noise", lambda size: sound(size) / 100)
    assert audit(home, "--json") == 1
    assert json.loads(capsys.readouterr().out)["fires"] is True


def test_the_audit_computes_as_the_site_is_set(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = home / "site.toml"
    settings.write_text(
        settings.read_text()
        + '[compute]\nactivations = "bfloat16"\ngradient_checkpointing = true\n'
    )
    seen = []

    def watched(model: nn.Module, *args: object, **numbers: object) -> object:
        base = base_of(model)
        seen.append((base.dtype, base.is_activation_checkpointing, numbers["clip_norm"]))
        return audit_one_run(model, *args, **numbers)  # type: ignore[arg-type]

    monkeypatch.setattr(audit_privacy, "audit_one_run", watched)
    assert audit(home, "--canaries", "60") == 0
    assert seen == [(torch.bfloat16, True, 0.3)] * 2
    assert "not refuted: 60 canaries refute at most" in capsys.readouterr().out


def test_factors_that_take_turns_are_audited_each(base: Path) -> None:
    kinds = [(kind, number) for kind, number, *_ in _audits(plan_for(base, train="AB"), 100)]
    assert kinds == [("plan", 1), ("sharp", 1), ("plan", 2), ("sharp", 2)]


@pytest.mark.parametrize(("train", "num_audits"), [("B", 2), ("AB", 4)])
def test_all_audits_together_refute_a_true_claim_in_at_most_one_run_of_twenty(
    tmp_path: Path,
    base: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    train: Literal["B", "AB"],
    num_audits: int,
) -> None:
    folder = site_home(tmp_path / "home", base)
    (folder / "plan.json").write_bytes(plan_for(base, train=train).canonical())
    missed = []

    def watched(*args: object, **numbers: float) -> CanaryAudit:
        # A bound that as few as 5 % of true claims reach: enough for one audit alone, no more.
        missed.append(1 - numbers["confidence"])
        num_right = next(n for n in range(101) if p_value(1000, 100, n, epsilon=1, delta=0) < 0.05)
        bound = epsilon_lower_bound(
            1000, 100, num_right, delta=0, confidence=numbers["confidence"]
        )
        return CanaryAudit(
            claim=1.0,
            lower_bound=bound,
            highest=3.4,
            num_canaries=1000,
            num_guesses=100,
            num_right=num_right,
        )

    monkeypatch.setattr(audit_privacy, "audit_one_run", watched)
    assert audit(folder) == 0
    assert len(missed) == num_audits
    assert sum(missed) == pytest.approx(0.05)
    assert "REFUTED" not in capsys.readouterr().out


def test_a_long_plan_is_audited_over_some_steps_and_says_so(
    base: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (_, _, releases, _), *_ = _audits(plan_for(base, num_rounds=30), 20)
    assert releases.num_steps == 20
    assert "20 of the plan's 30 steps" in capsys.readouterr().err


def test_a_base_other_than_the_plans_is_refused(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tiny_base(tmp_path / "other", "olmoe")
    assert audit(home, "--base", str(other)) == 1
    assert "expected base tiny with digest" in capsys.readouterr().err


def test_more_canaries_than_fit_are_refused(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert audit(home, "--canaries", "10000000") == 1
    assert "audit with fewer canaries" in capsys.readouterr().err


# Where the plan comes from.


def test_a_plan_is_read_from_an_entry_of_a_log_and_by_its_digest(
    home: Path, plan: RunPlan
) -> None:
    site = SiteHome(home)
    entry = {"event": "plan-offered", "predicate": {"plan": json.loads(plan.canonical())}}
    (home / "entry.json").write_text(json.dumps(entry) + "\n")
    assert read_plan(str(home / "entry.json"), site) == plan
    site.make_keys()
    journal = site.journal()
    journal.decide(plan, approved=True)
    journal.close()
    assert read_plan(plan.digest, site) == plan


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected one plan in .*, got 0"),
        ('{"event": "update-sent", "predicate": {}}', "expected one plan in .*, got 0"),
        ("no JSON", "expected JSON"),
        ('{"federation": "care"}', "Field required"),
    ],
)
def test_a_file_without_a_plan_is_refused(home: Path, text: str, message: str) -> None:
    (home / "other.json").write_text(text)
    with pytest.raises(ConfigError, match=message):
        read_plan(str(home / "other.json"), SiteHome(home))


def test_two_plans_in_a_file_are_refused(home: Path, base: Path, plan: RunPlan) -> None:
    other = plan_for(base, num_rounds=5)
    lines = [json.dumps({"predicate": {"plan": json.loads(p.canonical())}}) for p in (plan, other)]
    (home / "two.json").write_text("\n".join(lines))
    with pytest.raises(ConfigError, match=r"expected one plan in .*, got 2"):
        read_plan(str(home / "two.json"), SiteHome(home))


def test_a_plan_that_nobody_approved_and_a_missing_file_are_refused(
    home: Path, plan: RunPlan
) -> None:
    SiteHome(home).make_keys()
    with pytest.raises(ConfigError, match="expected an approved plan"):
        read_plan(plan.digest, SiteHome(home))
    with pytest.raises(ConfigError, match="cannot read"):
        read_plan(str(home / "nothing.json"), SiteHome(home))
