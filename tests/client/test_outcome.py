"""What a coordinator says of a run: read strictly, and held against what a site has."""

from collections.abc import Callable

import pytest

from client.outcome import Outcome, OutcomeError

ADAPTER = "sha256:" + "5" * 64
SAID: dict[str, object] = {
    "adapter": ADAPTER,
    "server_round": 3,
    "finished": True,
    "num_added": 2,
}


def test_a_run_that_is_over_and_has_this_site_in_it_passes() -> None:
    found = Outcome.of(SAID)
    found.check_adapter(ADAPTER)
    found.check_over(4)
    found.check_added()


def test_the_last_rounds_adapter_ends_a_run_before_the_log_says_so() -> None:
    Outcome.of({**SAID, "finished": False}).check_over(3)


@pytest.mark.parametrize(
    ("changed", "check", "message"),
    [
        ({"adapter": ""}, lambda o: o.check_adapter(ADAPTER), "released an adapter"),
        ({"adapter": "sha256:0"}, lambda o: o.check_adapter(ADAPTER), "released last"),
        ({"finished": False}, lambda o: o.check_over(4), "of round 3 of 4"),
        ({"num_added": 0}, lambda o: o.check_added(), "nobody trained on its tracers"),
    ],
)
def test_what_the_log_would_refuse_is_an_error(
    changed: dict[str, object], check: Callable[[Outcome], None], message: str
) -> None:
    found = Outcome.of({**SAID, **changed})
    with pytest.raises(OutcomeError, match=message) as caught:
        check(found)
    assert caught.value.hint


@pytest.mark.parametrize(
    "said",
    [
        {},
        [],
        None,
        "yes",
        {**SAID, "adapter": None},
        {**SAID, "finished": 1},
        {**SAID, "server_round": "3"},
        {**SAID, "num_added": True},
    ],
)
def test_an_answer_that_is_none_is_refused(said: object) -> None:
    with pytest.raises(OutcomeError, match="say what came of the run"):
        Outcome.of(said)  # type: ignore[arg-type]
