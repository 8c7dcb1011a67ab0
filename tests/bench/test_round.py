"""A federated round of trivial clients, by real processes, is timed."""

import pytest

from bench import ours


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_run_of_trivial_clients_finishes_and_each_round_is_timed() -> None:
    seconds = ours.rounds(2, 2)
    assert len(seconds) == 2
    assert all(0 < each < ours.ROUND_LIMIT_S for each in seconds)
