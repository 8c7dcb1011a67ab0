"""A lower bound on epsilon from guesses about who took part in one single run.

Each of `num_canaries` made-up units takes part or not, by a fair coin of its own. Whoever sees all
that was released guesses for some of them and abstains for the rest. If the mechanism is
(epsilon, delta)-differentially private, few guesses can be right beyond chance; if more are, then
it is not, at this confidence.

Source: Steinke, Nasr and Jagielski 2023, arXiv 2305.08846, theorem 5.2 and appendix D.
"""

import math

_MAX_EPSILON = 100.0
_HALVINGS = 60


def p_value(
    num_canaries: int, num_guesses: int, num_right: int, *, epsilon: float, delta: float
) -> float:
    """Bound on the chance of at least `num_right` right guesses under (epsilon, delta)-DP.

    Args:
      num_canaries: Units that each took part with probability 1/2, independently.
      num_guesses: For how many of them the guesser did not abstain; fixed before.
      num_right: How many of the guesses were right.
      epsilon: Of the hypothesis.
      delta: Of the hypothesis.

    Raises:
      ValueError: The counts are not in this order, or the hypothesis is impossible.
    """
    _check_counts(num_canaries, num_guesses, num_right)
    if not (math.isfinite(epsilon) and epsilon >= 0):
        raise ValueError(f"expected 0 <= epsilon < infinity, got {epsilon}")
    _check_share("delta", delta)
    # Under pure epsilon nothing beats guesses that are right with probability 1/(1 + e^-epsilon).
    # The logarithm of its complement is not computed from it: at epsilon 40 it is 1.0.
    log_right = -math.log1p(math.exp(-epsilon))
    log_wrong = log_right - epsilon
    terms = [
        math.exp(
            math.lgamma(num_guesses + 1)
            - math.lgamma(k + 1)
            - math.lgamma(num_guesses - k + 1)
            + k * log_right
            + (num_guesses - k) * log_wrong
        )
        for k in range(num_guesses + 1)
    ]
    # What delta may add: it can move the count up by i with a probability that i divides.
    below, largest = 0.0, 0.0
    for i in range(1, num_right + 1):
        below += terms[num_right - i]
        largest = max(largest, below / i)
    return min(1.0, math.fsum(terms[num_right:]) + 2 * num_canaries * delta * largest)


def epsilon_lower_bound(
    num_canaries: int,
    num_guesses: int,
    num_right: int,
    *,
    delta: float,
    confidence: float = 0.95,
) -> float:
    """Largest epsilon that these guesses refute at `confidence`; 0 where they refute none.

    It holds for a number of guesses that was fixed before the run; which canaries are guessed may
    follow from what was released.

    Raises:
      ValueError: The counts are not in order, or a probability is none.
    """
    _check_share("confidence", confidence)

    def refuted(epsilon: float) -> bool:
        found = p_value(num_canaries, num_guesses, num_right, epsilon=epsilon, delta=delta)
        return found < 1 - confidence

    if not refuted(0.0):
        return 0.0
    low, high = 0.0, _MAX_EPSILON
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        if refuted(middle):
            low = middle
        else:
            high = middle
    return low


def _check_counts(num_canaries: int, num_guesses: int, num_right: int) -> None:
    if not 0 <= num_right <= num_guesses <= num_canaries:
        raise ValueError(
            "expected 0 <= num_right <= num_guesses <= num_canaries, "
            f"got {num_right}, {num_guesses}, {num_canaries}"
        )


def _check_share(name: str, value: float) -> None:
    if not 0 <= value < 1:
        raise ValueError(f"expected 0 <= {name} < 1, got {value}")
