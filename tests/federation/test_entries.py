"""No entry holds text of a record or a personal value, whatever a training process says.

Runs are generated: in each round the training processes of two sites say something that holds a
value of some type, drawn anew each time, at some place of their answer, or fail with it. Then all
that is evidence is searched: every entry, decoded, at the sites and in the coordinator's log, and
every file beside it.
"""

import contextlib
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest
from flwr.app import ConfigRecord, MetricRecord, RecordDict
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from client.framing import frame, unframe
from client.worker import WorkerFailedError, WorkerTimeoutError
from model.base import nano_folder
from privacy.audit.entry import FORMS, Event, make_entry, parse_entry
from privacy.audit.verify import verify_log
from privacy.dp import membership
from privacy.pki.identity import SigningKey
from privacy.plan import RoundsConfig
from tests.e2e import planting, probe
from tests.federation.test_replies import adding, failing, saying, updating
from tests.federation.world import NUM_TRAINED, Federation, Trainer, quiet_plan
from tests.privacy.evidence import runs_on

pytestmark = pytest.mark.slow
SEED = planting.draw_seed()
Local = dict[str, Any]


# -- what a training process can say -------------------------------------------------------------


def with_local(change: Callable[[Local], object]) -> Callable[[Trainer], None]:
    """An honest reply; what stays at the site is another."""

    def spoil(answer: bytes) -> bytes:
        local, sent = unframe(answer)
        change(local)
        return frame(local, sent)

    return lambda trainer: setattr(trainer, "spoil", spoil)


def with_metric(name: str) -> Callable[[RecordDict], RecordDict]:
    def lie(content: RecordDict) -> RecordDict:
        content["metrics"] = MetricRecord({name: 1})
        return content

    return lie


def with_record(name: str) -> Callable[[RecordDict], RecordDict]:
    def lie(content: RecordDict) -> RecordDict:
        content[name] = ConfigRecord({name: name})
        return content

    return lie


def lying(lie: Callable[[RecordDict], RecordDict]) -> Callable[[Trainer], None]:
    return lambda trainer: setattr(trainer, "lie", lie)


def raising(error: Exception) -> Callable[[Trainer], None]:
    return lambda trainer: setattr(trainer, "before", failing(error))


ONES = np.ones(NUM_TRAINED, dtype=np.float32)
# What comes of it: the update is sent; or the round is lost, by the reply or before there is one;
# or it is lost if nothing was said of masking in this run before.
SENT, REFUSED, UNHEARD, UNMASKED = "sent", "refused", "unheard", "unmasked"
# The ways by which a text could come into an entry.
WAYS: Mapping[str, tuple[str, Callable[[str], Callable[[Trainer], None]]]] = {
    "nothing is wrong": (SENT, lambda _: lying(lambda content: content)),
    "a failure says it": (UNHEARD, lambda t: raising(WorkerFailedError("x", "", t, hint=t))),
    "a failure's rule is it": (UNHEARD, lambda t: raising(WorkerFailedError(t, t, t, hint=t))),
    "a timeout says it": (UNHEARD, lambda t: raising(WorkerTimeoutError(t, hint=t))),
    "the answer is it": (
        UNHEARD,
        lambda t: lambda r: setattr(r, "spoil", lambda _: t.encode() * 9),
    ),
    "it is beside the update": (REFUSED, lambda t: lying(with_record(t))),
    "a record of text is there": (REFUSED, lambda _: lying(adding)),
    "it is inside the reply": (REFUSED, lambda t: lying(saying(note=t))),
    "it is a field's name": (REFUSED, lambda t: lying(saying(**{t: "x"}))),
    "it is the site": (REFUSED, lambda t: lying(saying(site=t))),
    "it is the plan": (REFUSED, lambda t: lying(saying(plan=t))),
    "it is the update's digest": (REFUSED, lambda t: lying(saying(update_digest=t))),
    "it is the manifest": (REFUSED, lambda t: lying(saying(manifest=t))),
    "it is the signature": (SENT, lambda t: lying(saying(signature=t.encode()))),
    "it is the array's name": (REFUSED, lambda t: lying(updating(ONES, t))),
    "it is a metric": (REFUSED, lambda t: lying(with_metric(t))),
    "it is counted by masking": (
        SENT,
        lambda t: with_local(lambda local: local["masking"].update({t: 3, "found": [t]})),
    ),
    "it is a canary's type": (
        UNMASKED,
        lambda t: with_local(lambda local: local["canaries"].append([t, "en", 1, 1])),
    ),
    "it is a canary's language": (
        UNMASKED,
        lambda t: with_local(lambda local: local["canaries"].append(["EMAIL", t, 1, 1])),
    ),
    "it is a result": (
        SENT,
        lambda t: with_local(lambda local: local["results"].update({t: t, "base": {"loss": t}})),
    ),
    "it stands beside the results": (
        SENT,
        lambda t: with_local(lambda local: local.update({t: t, "subjects": {"plan": t}})),
    ),
}


@pytest.fixture(scope="module")
def values() -> list[planting.Planted]:
    """Of every type, in both languages."""
    return planting.draw(SEED)


@pytest.fixture(scope="module")
def search(values: list[planting.Planted]) -> probe.Search:
    tokenizer = Tokenizer.from_file(str(nano_folder() / "tokenizer.json"))
    needles = {
        f"{name} ({planting.SEED_VARIABLE}={SEED})": needle
        for value in values
        for name, needle in value.needles(tokenizer).items()
    }
    return probe.Search(needles)


def evidence(federation: Federation) -> bytes:
    """Every entry of every party as it was signed and as it is kept, and all files of the log."""
    assert federation.coordinator is not None
    lines = [entry.line for entry in federation.log()]
    for site in federation.sites.values():
        with contextlib.closing(site.home.journal()) as journal:
            lines += [line for line, _ in journal.lines()]
    decoded = [parse_entry(line).signed for line in lines]
    kept = [path.read_bytes() for path in probe.files(federation.config.log_folder)]
    return b"\n".join([*lines, *decoded, *kept])


# -- the properties ------------------------------------------------------------------------------


# What b and c say in a round: the way, and the number of the value.
Said = tuple[tuple[str, int], tuple[str, int]]
saying_so = st.tuples(st.sampled_from(sorted(WAYS)), st.integers(0, 51))
rounds = st.lists(st.tuples(saying_so, saying_so), min_size=1, max_size=3)


@given(told=rounds, number=st.integers(0, 10**9))
@settings(
    max_examples=3,
    deadline=None,
    # A run takes a second: what failed is told as it was drawn.
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@pytest.mark.timeout(240)
def test_no_entry_of_a_generated_run_holds_a_personal_value(
    shared: Federation,
    values: list[planting.Planted],
    search: probe.Search,
    told: list[Said],
    number: int,
) -> None:
    check_run(shared, values, search, told, f"generated {number} {told}")


@pytest.mark.timeout(240)
def test_no_way_of_telling_a_value_gets_it_into_an_entry(
    shared: Federation, values: list[planting.Planted], search: probe.Search
) -> None:
    names = sorted(WAYS)
    told = [
        ((way, 7 * place % 52), (names[-1 - place], 11 * place % 52))
        for place, way in enumerate(names)
    ]
    check_run(shared, values, search, told, "every way")


def check_run(
    shared: Federation,
    values: list[planting.Planted],
    search: probe.Search,
    told: list[Said],
    name: str,
) -> None:
    """One run; in its rounds b and c say the values in these ways, while a is honest."""

    def tell(site: str, place: int) -> Callable[[int], None]:
        trainer = shared.sites[site].trainer

        def before(server_round: int) -> None:
            trainer.be_honest()
            trainer.before = before
            way, value = told[server_round - 1][place]
            WAYS[way][1](values[value].note)(trainer)
            if trainer.before is not before:
                now, trainer.before = trainer.before, before
                now(server_round)

        return before

    plan = quiet_plan(name, rounds=RoundsConfig(num_rounds=len(told), min_sites=1, deadline_s=20))
    for place, site in enumerate("bc"):
        shared.sites[site].trainer.before = tell(site, place)
    run = shared.run(plan, timeout_s=200.0)
    assert run.state == "finished"
    assert search.names(evidence(shared)) == []
    # What was lost, was lost by what was said; all else is in the log as it should be.
    for place, site in enumerate("bc"):
        sent = [
            entry.predicate["server_round"]
            for entry in shared.log()
            if entry.party == site
            and entry.event is Event.UPDATE_SENT
            and entry.subjects["plan"] == plan.digest
        ]
        assert sent == expected([WAYS[said[place][0]][0] for said in told])


def expected(outcomes: Sequence[str]) -> list[int]:
    """The rounds whose updates are sent."""
    sent, is_noted = [], False
    for number, outcome in enumerate(outcomes, start=1):
        if outcome == SENT or (outcome == UNMASKED and is_noted):
            sent.append(number)
        is_noted = is_noted or outcome in (SENT, REFUSED)
    return sent


def test_the_log_of_these_runs_verifies_and_the_search_would_have_found_a_value(
    shared: Federation, values: list[planting.Planted], search: probe.Search
) -> None:
    verify_log(shared.config.log_folder)
    whole = evidence(shared)
    assert whole.count(b"budget-reserved") > len(WAYS)
    for value in values:
        found = " ".join(search.names(whole + value.said.encode()))
        assert f"{value.entity_type} ({value.language})" in found


# -- the forms -----------------------------------------------------------------------------------


def fitting(event: Event) -> dict[str, Any]:
    """Fields of an event that would do."""
    samples: tuple[Any, ...] = (
        "sha256:" + "0" * 64, "7", "a" * 64, "x", 1, 0.5, {}, [], ["a"],
        [["EMAIL", "en", 2, 1, 1]], [["en", 2, 0]], [[1.0, 0.1, 1]],
        "plan-approved", "cloister/a+00000000+" + "A" * 44, "cpu", "x86_64", [["torch", "2.13.0"]],
        *([0] * membership.num_cells(field) for field in membership.FIELDS), [1],
    )  # fmt: skip
    return {
        name: next(sample for sample in samples if kind.fits(sample))
        for name, kind in FORMS[event].fields.items()
    }


@given(
    event=st.sampled_from(sorted(Event)),
    index=st.integers(0, 51),
    wrap=st.sampled_from(["text", "list", "object", "key"]),
    where=st.integers(0, 30),
)
@settings(max_examples=400, deadline=None)
def test_no_field_of_any_event_takes_a_sentence(
    values: list[planting.Planted],
    search: probe.Search,
    event: Event,
    index: int,
    wrap: str,
    where: int,
) -> None:
    note = values[index].note
    said = {"text": note, "list": [note], "object": {"note": note}, "key": {note: 1}}[wrap]
    form = FORMS[event]
    digest = "sha256:" + "0" * 64
    fields, subjects = fitting(event), dict.fromkeys(form.subjects, digest)
    key = SigningKey.generate()

    def made() -> bytes:
        return make_entry(
            key, "a", event, sequence=0, at=datetime.now(UTC), subjects=subjects, predicate=fields
        )

    assert made()
    targets: list[tuple[dict[str, Any], str]] = [
        *((fields, name) for name in {**form.fields, **form.may} if name != "plan"),
        *((subjects, name) for name in form.subjects),
        (fields, "note"),
        (subjects, "note"),
        (subjects, note),
    ]
    target, name = targets[where % len(targets)]
    target[name] = said
    with pytest.raises(ValueError, match="expected") as caught:
        made()
    assert search.names(str(caught.value).encode()) == []


def test_a_value_that_is_put_into_an_entry_by_hand_is_found(
    values: list[planting.Planted], search: probe.Search
) -> None:
    # The one kind of value that looks like a version.
    address = next(v for v in values if v.entity_type == "IP_ADDRESS" and v.language == "zh")
    line = make_entry(
        SigningKey.generate(),
        "a",
        Event.AGENT_STARTED,
        sequence=0,
        at=datetime.now(UTC),
        predicate=runs_on(address.value),
    )
    for content in (line, parse_entry(line).signed):
        assert any("IP_ADDRESS (zh)" in name for name in search.names(content))
