"""A plan whose parts contradict each other is none."""

import dataclasses
from typing import Any

import pytest

from model.config import AdapterConfig, ServerOptimizerConfig, TensorSpec
from privacy.errors import ConfigError
from privacy.plan import ExposureConfig, RunPlan, SiteShare, TextConfig
from tests.federation.world import SPECS, quiet_plan

PLAN = quiet_plan("plan")
SVD = AdapterConfig(lora_rank=2, lora_alpha=4, train="B-svd")
ADAM = ServerOptimizerConfig(name="adam")
BOTH = AdapterConfig(lora_rank=2, lora_alpha=4, train="AB")


def shares(*ranks: int | None) -> tuple[SiteShare, ...]:
    """Sites a, b, c with these ranks."""
    return tuple(
        SiteShare(name=name, num_units=100, lora_rank=rank)
        for name, rank in zip("abc", ranks, strict=True)
    )


def trained(spec: TensorSpec, *, is_trained: bool) -> TensorSpec:
    return dataclasses.replace(spec, trained=is_trained)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"adapter": SVD},
        {"adapter": BOTH, "tensors": tuple(trained(spec, is_trained=True) for spec in SPECS)},
        {"sites": shares(None, 1, None)},
        {"sites": shares(None, 1, None), "server_optimizer": ADAM},
        {"exposure": ExposureConfig(tracers=5)},
    ],
)
def test_a_plan_of_every_mode_comes_back_from_its_canonical_form(changes: dict[str, Any]) -> None:
    plan = dataclasses.replace(PLAN, **changes)
    again = RunPlan.parse(plan.canonical())
    assert again == plan
    assert again.digest == plan.digest


def test_mode_and_ranks_are_part_of_the_digest() -> None:
    plans = [
        PLAN,
        dataclasses.replace(PLAN, adapter=SVD),
        dataclasses.replace(PLAN, sites=shares(1, None, None)),
        dataclasses.replace(PLAN, sites=shares(None, 1, None)),
        dataclasses.replace(PLAN, exposure=ExposureConfig(tracers=1)),
    ]
    assert len({plan.digest for plan in plans}) == len(plans)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sites": shares(None, 2, None)}, "lora_rank of b below the adapter's 2, got 2"),
        ({"sites": shares(3, None, None)}, "lora_rank of a below the adapter's 2, got 3"),
        ({"adapter": SVD, "tensors": SPECS[1:]}, "factors A and B of every weight"),
        ({"adapter": SVD, "server_optimizer": ADAM}, "server_optimizer mean with train 'B-svd'"),
        ({"adapter": BOTH, "server_optimizer": ADAM}, "server_optimizer mean with train 'AB'"),
        ({"adapter": BOTH}, "factors A, B to train, got layer.lora_A.weight wrong"),
        (
            {"adapter": SVD, "tensors": tuple(trained(spec, is_trained=True) for spec in SPECS)},
            "factors B to train, got layer.lora_A.weight wrong",
        ),
        (
            {"adapter": AdapterConfig(lora_rank=4, lora_alpha=4, train="B-svd")},
            "factors of rank 4, got layer.lora_A.weight",
        ),
    ],
)
def test_a_mode_that_the_tensors_do_not_carry_is_refused(
    changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(PLAN, **changes)


def test_a_rank_below_one_is_refused() -> None:
    with pytest.raises(ValueError, match="lora_rank >= 1 at a, got 0"):
        SiteShare(name="a", num_units=1, lora_rank=0)


def test_a_site_that_takes_no_part_trains_nothing() -> None:
    with pytest.raises(ConfigError, match="one of the plan's sites"):
        PLAN.update_mask("d", 1)


@pytest.mark.parametrize("tracers", [-1, 65])
def test_fewer_tracers_than_none_and_more_than_are_worth_it_are_refused(tracers: int) -> None:
    with pytest.raises(ValueError, match=f"expected 0 <= tracers <= 64, got {tracers}"):
        ExposureConfig(tracers=tracers)


def test_tracers_are_at_most_one_in_twenty_of_each_sites_units() -> None:
    five, six = ExposureConfig(tracers=5), ExposureConfig(tracers=6)
    assert dataclasses.replace(PLAN, exposure=five).exposure.tracers == 5
    with pytest.raises(ValueError, match="at most 5 % of the 100 units of a as tracers, got 6"):
        dataclasses.replace(PLAN, exposure=six)
    # The smallest site decides.
    sites = (*PLAN.sites[:2], dataclasses.replace(PLAN.sites[2], num_units=99))
    with pytest.raises(ValueError, match="at most 5 % of the 99 units of c as tracers, got 5"):
        dataclasses.replace(PLAN, exposure=five, sites=sites)


def test_a_secret_needs_room_in_a_sequence() -> None:
    short = TextConfig(max_tokens=62)
    assert dataclasses.replace(PLAN, text=short).exposure.tracers == 0
    with pytest.raises(ValueError, match=r"expected max_tokens >= 63 with tracers .*, got 62"):
        dataclasses.replace(PLAN, text=short, exposure=ExposureConfig(tracers=1))
