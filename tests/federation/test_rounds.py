"""A run over real TLS, from the offer to the released adapter."""

from collections.abc import Callable

import numpy as np

from model.tensors import read_adapter_folder
from privacy.audit.entry import Event
from privacy.plan import RunPlan
from tests.federation.world import Federation


def test_a_run_releases_the_weighted_mean_of_the_updates(
    federation: Federation, new_plan: Callable[..., RunPlan]
) -> None:
    sites = [federation.enrol("hospital_a", 1.0), federation.enrol("hospital_b", 3.0)]
    plan = new_plan([site.name for site in sites])
    federation.offer(plan)
    for site in sites:
        site.start()
        site.decide(plan)
    assert federation.wait(plan) == "finished"
    assert federation.coordinator is not None
    run = federation.coordinator.runs.get(plan.digest)
    adapter = read_adapter_folder(federation.coordinator.registry.path(run.adapter), plan.tensors)
    initial = read_adapter_folder(
        federation.coordinator.registry.path(plan.initial_adapter), plan.tensors
    )
    # Two rounds, each with a mean of 2; the frozen tensor stays.
    np.testing.assert_allclose(adapter - initial, [0] * 6 + [4] * 8)
    assert [r.seconds < 10 for r in run.rounds] == [True, True]
    events = [event for _, event in federation.events()]
    assert events.count(Event.UPDATE_ACCEPTED) == 4
    assert events.count(Event.UPDATE_SENT) == 4
    assert events.count(Event.ADAPTER_RELEASED) == 2
    assert events.count(Event.EVALUATED) == 2
    assert events[-1] is Event.RUN_FINISHED
