"""A coordinator that misbehaves, seen from a site: it gets the name of a rule, no more."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict

from privacy.audit.entry import Event, parse_entry
from privacy.audit.verify import verify_log
from privacy.plan import RunPlan
from tests.federation.world import INITIAL, Federation, Lie, Site, quiet_plan


@pytest.fixture
def site(shared: Federation) -> Site:
    return shared.sites["a"]


def changed(**fields: object) -> Lie:
    """An instruction with other fields; None takes one away."""

    def lie(content: RecordDict) -> RecordDict:
        record = dict(content.config_records["instruction"]) | fields
        content["instruction"] = ConfigRecord(
            {name: value for name, value in record.items() if value is not None}  # type: ignore[misc]
        )
        return content

    return lie


def with_adapter(values: np.ndarray, name: str = "packed") -> Lie:
    """An instruction with other numbers, and the digest of the true ones."""

    def lie(content: RecordDict) -> RecordDict:
        content["adapter"] = ArrayRecord({name: Array(values)})
        return content

    return lie


def adding(name: str, record: ArrayRecord | ConfigRecord | MetricRecord) -> Lie:
    """An instruction with one more record."""

    def lie(content: RecordDict) -> RecordDict:
        content[name] = record
        return content

    return lie


def dropping(name: str) -> Lie:
    """An instruction without a record."""

    def lie(content: RecordDict) -> RecordDict:
        del content[name]
        return content

    return lie


def with_nan() -> np.ndarray:
    """An adapter with a value that is not finite."""
    values = INITIAL.copy()
    values[3] = np.nan
    return values


CODE = ConfigRecord({"code": "import os; os.system('id')"})

# What the coordinator does, the rule that it breaks, the lie, and what else is wrong.
ATTACKS: dict[str, tuple[str, Lie, dict[str, object]]] = {
    "sends code beside the instruction": ("unexpected-records", adding("fab", CODE), {}),
    "sends code inside the instruction": ("unexpected-keys", changed(code="print()"), {}),
    "asks for an unknown metric": ("metric-keys", changed(metrics=["num_patients"]), {}),
    "asks for metrics by number": ("metric-keys", changed(metrics=[1, 2]), {}),
    "leaves the metrics out": ("unexpected-keys", changed(metrics=None), {}),
    "names a metric as text": ("unexpected-keys", changed(metrics="num_steps"), {}),
    "asks for round 0": ("wrong-round", changed(server_round=0), {}),
    "asks for a round before the first": ("wrong-round", changed(server_round=-1), {}),
    "asks for a round beyond the last": ("wrong-round", changed(server_round=31), {}),
    "asks for a round by name": ("unexpected-keys", changed(server_round="1"), {}),
    "speaks another version": ("unexpected-keys", changed(version=2), {}),
    "names other tensors": ("tensor-names", changed(manifest="[]"), {}),
    "sends an adapter with NaN": ("not-finite", with_adapter(with_nan()), {}),
    "sends a shorter adapter": ("tensor-shape", with_adapter(INITIAL[:-1]), {}),
    "sends a longer adapter": ("tensor-shape", with_adapter(np.tile(INITIAL, 9)), {}),
    "sends an adapter of two axes": ("tensor-shape", with_adapter(INITIAL.reshape(2, -1)), {}),
    "sends an adapter in float64": ("tensor-dtype", with_adapter(INITIAL.astype("f8")), {}),
    "sends an adapter of integers": ("tensor-dtype", with_adapter(INITIAL.astype("i4")), {}),
    "sends text as an adapter": ("tensor-dtype", with_adapter(np.array(["x"] * 3)), {}),
    "names the array otherwise": ("tensor-names", with_adapter(INITIAL, "weights"), {}),
    "sends no adapter": ("unexpected-records", dropping("adapter"), {}),
    "sends no instruction": ("unexpected-records", dropping("instruction"), {}),
    "lies about the digest": ("digest-mismatch", changed(adapter_digest="sha256:" + "1" * 64), {}),
    "sends an adapter of another digest": ("digest-mismatch", with_adapter(INITIAL + 1), {}),
    "starts from another adapter": ("digest-mismatch", lambda x: x, {"adapter": INITIAL + 1}),
    "sends a query": ("message-type", lambda x: x, {"kind": "query"}),
    "sends a train of another name": ("message-type", lambda x: x, {"kind": "train.other"}),
    "names a round of 5000 digits": (
        "wrong-round",
        changed(server_round=31),
        {"group_id": "9" * 5000},
    ),
}


@pytest.fixture(scope="module")
def approved(shared: Federation) -> RunPlan:
    """A plan of 30 rounds that the site has approved."""
    plan = quiet_plan("approved", num_rounds=30)
    shared.sites["a"].approve_alone(plan)
    return plan


def refused_as(rule: str, site: Site, ask: Callable[[], Message]) -> None:
    """Check that the site answers with the rule and nothing else, and does and spends nothing."""
    spent, calls = site.home.ledger().entries(), site.trainer.num_calls
    reply = ask()
    assert reply.has_error()
    assert not reply.has_content()
    assert (reply.error.code, reply.error.reason) == (1, rule)
    assert site.trainer.num_calls == calls
    assert site.home.ledger().entries() == spent
    journal = site.home.journal()
    last = parse_entry(journal.lines()[-1][0])
    journal.close()
    assert last.event is Event.INSTRUCTION_REFUSED
    assert last.predicate["rule"] == rule


@pytest.mark.parametrize("name", ATTACKS)
def test_a_coordinator_that(name: str, shared: Federation, site: Site, approved: RunPlan) -> None:
    rule, lie, rest = ATTACKS[name]
    refused_as(rule, site, lambda: shared.ask(site, approved, lie=lie, **rest))  # type: ignore[arg-type]


def test_a_plan_that_nobody_approved_is_refused(shared: Federation, site: Site) -> None:
    plan = quiet_plan("nobody")
    refused_as("unapproved-plan", site, lambda: shared.ask(site, plan))


def test_a_plan_that_was_changed_after_its_approval_is_refused(
    shared: Federation, site: Site, approved: RunPlan
) -> None:
    less_noise = replace(approved, mechanism=replace(approved.mechanism, noise_multiplier=20.0))
    refused_as("unapproved-plan", site, lambda: shared.ask(site, less_noise))


def test_an_approval_that_was_taken_back_counts_no_more(shared: Federation, site: Site) -> None:
    plan = quiet_plan("taken back")
    site.approve_alone(plan)
    journal = site.home.journal()
    journal.decide(plan, approved=False)
    journal.close()
    refused_as("unapproved-plan", site, lambda: shared.ask(site, plan))


def test_an_evaluation_before_the_last_round_is_refused(
    shared: Federation, site: Site, approved: RunPlan
) -> None:
    ask = lambda: shared.ask(site, approved, kind="evaluate", server_round=29)  # noqa: E731
    refused_as("wrong-round", site, ask)


def test_objects_that_make_no_message_are_refused_and_the_site_goes_on(
    shared: Federation, site: Site, approved: RunPlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    import client.link

    def unreadable(*_: object) -> None:
        raise AttributeError("x")

    monkeypatch.setattr(client.link, "inflate_object_from_contents", unreadable)
    refused_as("unexpected-records", site, lambda: shared.ask(site, approved))
    monkeypatch.undo()
    refused_as(
        "wrong-round", site, lambda: shared.ask(site, approved, lie=changed(server_round=0))
    )


def test_a_round_that_is_asked_for_twice_is_trained_and_spent_once(
    shared: Federation, site: Site, plan: RunPlan
) -> None:
    assert shared.run(plan).state == "finished"
    calls, spent = site.trainer.num_calls, site.home.ledger().entries()
    kept, entries = site.kept(plan), site.entries()
    assert kept is not None
    # Another adapter would give another gradient: the kept reply is all that there is.
    for adapter in (INITIAL, INITIAL):
        reply = shared.ask(site, plan, adapter=adapter)
        update = reply.content.array_records["update"]["packed"].numpy()
        np.testing.assert_array_equal(update, np.full(8, 1.0))
        signature = reply.content.config_records["reply"]["signature"]
        assert isinstance(signature, bytes)
        assert signature in kept
    assert site.trainer.num_calls == calls
    assert site.home.ledger().entries() == spent
    assert site.kept(plan) == kept
    assert site.entries() == entries


def test_what_the_shared_run_logged_verifies(shared: Federation) -> None:
    verified = verify_log(shared.config.log_folder)
    assert all(site.error is None for site in shared.sites.values())
    assert len(verified.entries) > 30
