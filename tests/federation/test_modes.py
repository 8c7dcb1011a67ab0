"""Runs over real TLS in which factors are made anew, take turns, or differ in rank by site."""

import dataclasses
from collections.abc import Callable

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, RecordDict

from model.config import AdapterConfig
from model.factors import ROW_NORM
from model.tensors import Packed, split
from privacy.audit.entry import Event
from privacy.plan import RunPlan, SiteShare
from server.runs import Run
from tests.federation.world import INITIAL, NUM_TRAINED, NUM_UNITS, SPECS, Federation

NAMES = ["hospital_a", "hospital_b"]


def run(federation: Federation, plan: RunPlan) -> tuple[Run, list[Packed]]:
    """Run a plan of two sites whose updates are 1 and 3 wherever they train."""
    for name, value in zip(NAMES, (1.0, 3.0), strict=True):
        federation.enrol(name, value).start()
    done = federation.run(plan)
    assert done.state == "finished"
    assert federation.coordinator is not None
    registry = federation.coordinator.registry
    return done, [registry.load(result.adapter or "", plan) for result in done.rounds]


def factors(packed: Packed) -> tuple[np.ndarray, np.ndarray]:
    """A and B of the one layer."""
    a, b = split(SPECS, packed).values()
    return a.astype(np.float64), b.astype(np.float64)


def test_new_factors_after_each_round_have_the_mean_product(
    federation: Federation, new_plan: Callable[..., RunPlan]
) -> None:
    plan = new_plan(NAMES, adapter=AdapterConfig(lora_rank=2, lora_alpha=4, train="B-svd"))
    _, released = run(federation, plan)
    a, b = factors(INITIAL)
    for adapter in released:
        # Each site trained from the adapter of the round before; the mean of the updates is 2.
        new_a, new_b = factors(adapter)
        np.testing.assert_allclose(new_b @ new_a, (b + 2) @ a, atol=1e-5)
        np.testing.assert_allclose(new_a @ new_a.T, np.eye(2) * ROW_NORM**2, atol=1e-6)
        assert not np.allclose(new_a, a)
        a, b = new_a, new_b
    events = [event for _, event in federation.events()]
    assert events.count(Event.UPDATE_ACCEPTED) == 4
    assert events.count(Event.EVALUATED) == 2


def test_factors_that_take_turns_move_one_a_round(
    federation: Federation, new_plan: Callable[..., RunPlan]
) -> None:
    plan = new_plan(
        NAMES,
        adapter=AdapterConfig(lora_rank=2, lora_alpha=4, train="AB"),
        tensors=tuple(dataclasses.replace(spec, trained=True) for spec in SPECS),
    )
    _, released = run(federation, plan)
    np.testing.assert_allclose(released[0] - INITIAL, [0] * 6 + [2] * 8, atol=1e-6)
    np.testing.assert_allclose(released[1] - INITIAL, [2] * 6 + [2] * 8, atol=1e-6)


@pytest.fixture
def mixed(new_plan: Callable[..., RunPlan]) -> RunPlan:
    """A laptop of rank 1 beside a site of the adapter's rank, 2."""
    return new_plan(
        NAMES,
        sites=(
            SiteShare(name=NAMES[0], num_units=NUM_UNITS, lora_rank=1),
            SiteShare(name=NAMES[1], num_units=NUM_UNITS),
        ),
    )


def test_a_site_of_a_lower_rank_counts_in_the_first_terms_only(
    federation: Federation, mixed: RunPlan
) -> None:
    _, released = run(federation, mixed)
    # The first column is the mean of both sites, the second the other site's own.
    for number, adapter in enumerate(released, start=1):
        moved = (adapter - INITIAL)[-NUM_TRAINED:].reshape(4, 2)
        np.testing.assert_allclose(moved, [[2 * number, 3 * number]] * 4, atol=1e-5)


def test_an_update_beyond_its_sites_rank_does_not_leave_the_site(
    federation: Federation, mixed: RunPlan
) -> None:
    sites = [federation.enrol(name, 1.0) for name in NAMES]

    def lie(content: RecordDict) -> RecordDict:
        if "update" in content:
            values = np.ones(NUM_TRAINED, dtype=np.float32)
            content["update"] = ArrayRecord({"packed": Array(values)})
        return content

    sites[0].trainer.lie = lie
    for site in sites:
        site.start()
    assert [result.adapter for result in federation.run(mixed).rounds] == [None, None]
    assert sites[0].rules() == ["rank-bound"] * mixed.rounds.num_rounds
    assert sites[1].rules() == []
