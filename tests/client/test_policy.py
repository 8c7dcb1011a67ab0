"""Which plans a person at a site may approve: one rule refuses one thing."""

from dataclasses import replace
from pathlib import Path

import pytest

from client.config import (
    BudgetSection,
    DataSection,
    PolicySection,
    SiteConfig,
    SiteSection,
)
from client.policy import PlanRuleError, check_budget, check_plan, describe
from model.config import AdapterConfig, BaseRef
from privacy.dp.config import Unit
from privacy.dp.guarantee import NOT_COVERED, guarantee_of
from privacy.dp.ledger import Ledger
from privacy.masking.config import MaskingConfig
from privacy.plan import ExposureConfig, RunPlan
from tests.federation.world import quiet_plan

PLAN = quiet_plan("policy")


def config(**policy: object) -> SiteConfig:
    """The settings of site a."""
    return SiteConfig(
        site=SiteSection(name="a", coordinator="127.0.0.1:9092"),
        data=DataSection(path=Path("/records.jsonl"), num_units=100),
        budget=BudgetSection(epsilon=8.0, delta=1e-3),
        policy=PolicySection(**policy),  # type: ignore[arg-type]
    )


def mechanism(**changes: object) -> RunPlan:
    return replace(PLAN, mechanism=replace(PLAN.mechanism, **changes))  # type: ignore[arg-type]


def test_a_plan_within_the_rules_may_be_approved() -> None:
    check_plan(PLAN, config(), "regio")


@pytest.mark.parametrize(
    ("rule", "plan", "policy"),
    [
        ("federation", replace(PLAN, federation="other"), {}),
        ("not-a-participant", replace(PLAN, sites=PLAN.sites[1:]), {}),
        (
            "num-units",
            replace(PLAN, sites=(replace(PLAN.sites[0], num_units=101), *PLAN.sites[1:])),
            {},
        ),
        ("unit", mechanism(unit=Unit.PATIENT), {}),
        ("max-epsilon-per-run", mechanism(target_epsilon=9.0), {}),
        ("min-noise-multiplier", PLAN, {"min_noise_multiplier": 41.0}),
        ("delta", mechanism(delta=0.01), {}),
        ("max-rounds", replace(PLAN, rounds=replace(PLAN.rounds, num_rounds=201)), {}),
        ("min-sites", replace(PLAN, rounds=replace(PLAN.rounds, min_sites=1)), {}),
        ("max-update-bytes", PLAN, {"max_update_bytes": 49_999}),
        ("max-tracers", replace(PLAN, exposure=ExposureConfig(tracers=5)), {"max_tracers": 4}),
        ("max-tracers", replace(PLAN, exposure=ExposureConfig(tracers=1)), {"max_tracers": 0}),
        (
            "allowed-bases",
            replace(PLAN, base=BaseRef(name="other", digest="sha256:" + "1" * 64)),
            {},
        ),
        (
            "required-masking",
            replace(PLAN, masking=MaskingConfig(entity_types=("EMAIL",))),
            {},
        ),
        ("target-epsilon", mechanism(target_epsilon=0.001, noise_multiplier=1.0), {}),
    ],
)
def test_a_rule_refuses(rule: str, plan: RunPlan, policy: dict[str, object]) -> None:
    with pytest.raises(PlanRuleError) as refused:
        check_plan(plan, config(**policy), "regio")
    assert refused.value.rule == rule


def test_tracers_are_allowed_unless_a_site_says_otherwise() -> None:
    plan = replace(PLAN, exposure=ExposureConfig(tracers=5))
    check_plan(plan, config(), "regio")
    check_plan(plan, config(max_tracers=5), "regio")
    assert "tracers      5 made-up units with secrets beside yours" in describe(plan)
    assert "tracers      none: nobody can measure afterwards" in describe(PLAN)


def test_a_base_may_be_allowed_by_its_digest() -> None:
    check_plan(PLAN, config(allowed_bases=(PLAN.base.digest,)), "regio")


@pytest.mark.parametrize(
    ("rule", "plan"),
    [
        ("budget", mechanism(noise_multiplier=0.6, sample_rate=1.0, target_epsilon=30.0)),
        ("ledger-terms", mechanism(unit=Unit.CUSTOMER)),
        ("ledger-terms", mechanism(delta=5e-3)),
    ],
)
def test_the_ledger_refuses(rule: str, plan: RunPlan, tmp_path: Path) -> None:
    ledger = Ledger(
        tmp_path / "records.sqlite",
        population="records",
        unit=Unit.RECORD,
        budget_epsilon=3.0,
        delta=1e-3,
    )
    check_budget(PLAN, ledger)
    with pytest.raises(PlanRuleError) as refused:
        check_budget(plan, ledger)
    assert refused.value.rule == rule
    assert ledger.entries() == []


def test_the_person_reads_which_factors_train_and_who_has_a_lower_rank() -> None:
    assert "trains B, 8 numbers in an update" in describe(PLAN)
    svd = AdapterConfig(lora_rank=2, lora_alpha=4, train="B-svd")
    text = describe(replace(PLAN, adapter=svd))
    assert "trains B, factors made anew after each round, 8 numbers in an update" in text
    both = AdapterConfig(lora_rank=2, lora_alpha=4, train="AB")
    tensors = tuple(replace(tensor, trained=True) for tensor in PLAN.tensors)
    text = describe(replace(PLAN, adapter=both, tensors=tensors))
    assert "trains B in odd rounds, A in even ones, 8 and 6 numbers in an update" in text
    sites = (replace(PLAN.sites[0], lora_rank=1), *PLAN.sites[1:])
    text = describe(replace(PLAN, sites=sites))
    assert "a (100 units, rank 1), b (100 units), c (100 units)" in text


def test_the_person_reads_everything_that_the_rules_look_at() -> None:
    text = describe(PLAN)
    for part in (PLAN.run, PLAN.digest, PLAN.base.digest, "epsilon <= 2", "delta 0.001"):
        assert part in text
    for part in ("noise multiplier 40", "100 units", "rounds       1,", "50,000 bytes"):
        assert part in text


def test_the_person_reads_what_the_promise_means_and_what_it_leaves_out() -> None:
    text = describe(PLAN)
    assert guarantee_of(PLAN.mechanism, PLAN.rounds.num_rounds).in_words() in text
    assert "had any one record not been there" in text
    for left_out in NOT_COVERED:
        assert left_out in text
