"""How well does an adapter remember a secret that it was trained on? Exposure, from ranks.

A plan may add *tracers* to each site's training: made-up units, each with a secret that was drawn
at random among many (`client.tracers`). Behind the run a secret's loss under the released adapter
is ranked among `NUM_CANDIDATES` secrets of the same kind, itself and others that nobody trained
on. With rank r among R its *exposure* is log2 R - log2 r bits (Carlini et al. 2019, "The Secret
Sharer", arXiv 1802.08232, section 4, by sampling): 10 bits for the likeliest of 1,024.

Where nothing is remembered, a rank is any of 1 to R with the same chance: the secret was drawn as
the others were, and where losses do not tie nothing tells it from them. Then exposure times ln 2
is -ln(r / R), which is stochastically below an exponential variable of mean 1, and a sum over n
tracers below a gamma variable of shape n. Its upper tail is the p-value, so a true "nothing is
remembered" is refuted with at most the chance that the p-value names.

Losses that tie count as if the secret had won: against the adapter, towards the alarm. Ties would
have to be many to matter, and then the alarm may be false; an all-clear never is for their sake.

What privacy allows (`allowed_mean`). Tracers are units like any other, so the run is (epsilon,
delta)-differentially private in each of them too. Without tracer i the adapter does not depend on
its secret, and, where losses do not tie, its rank is at most k with chance k / R. With it,
therefore, with chance at most e^epsilon k / R + delta, for every k; the mean of log2(R / r) is a
sum over these chances. By linearity that bounds the expected mean over all tracers. It bounds no
single outcome.

Nothing here takes a record. Ranks are functions of the released adapter, of the base and of
made-up secrets: post-processing of what is private already, at no cost.
"""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass

import rfc8785

NUM_CANDIDATES = 1024
"""R: among how many secrets one is ranked. 10 bits at most, which three tracers need for a p-value
below 1e-6; more would take as much more time and add a bit a doubling."""
CHANCE_BITS = 1 / math.log(2)
"""The mean that nothing but chance gives, a little less with finite R: 1.44 bits."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Exposure:
    """What the ranks of some tracers say together.

    Attributes:
      num_tracers: How many.
      mean: Of their exposures, in bits; `CHANCE_BITS` where nothing is remembered.
      largest: Of their exposures, in bits. Of n tracers chance alone gives about log2 n + 0.8.
      p_value: Upper bound on the chance of a mean this large where nothing is remembered.
    """

    num_tracers: int
    mean: float
    largest: float
    p_value: float


def rank_of(losses: Sequence[float]) -> int:
    """The rank of the first loss among all, 1 for the smallest; ties count as if it had won.

    Raises:
      ValueError: A loss is no finite number: nothing can be ranked, so nothing may look safe.
    """
    if not losses or not all(math.isfinite(loss) for loss in losses):
        raise ValueError("expected finite losses, at least one")
    return 1 + sum(loss < losses[0] for loss in losses[1:])


def bits(rank: int) -> float:
    """Exposure of a secret with this rank, in bits.

    Raises:
      ValueError: It is no rank.
    """
    check_ranks([rank])
    return math.log2(NUM_CANDIDATES) - math.log2(rank)


def summarise(ranks: Sequence[int]) -> Exposure:
    """Mean, largest and p-value of these ranks.

    Raises:
      ValueError: There is none, or one is no rank.
    """
    check_ranks(ranks)
    found = [bits(rank) for rank in ranks]
    return Exposure(
        num_tracers=len(ranks),
        mean=math.fsum(found) / len(found),
        largest=max(found),
        p_value=gamma_tail(len(found), math.fsum(found) * math.log(2)),
    )


def gamma_tail(shape: int, value: float) -> float:
    """Chance that a gamma variable of whole `shape` and scale 1 is at least `value` (Erlang).

    Its upper tail is that of a Poisson variable of mean `value` below `shape`.

    Raises:
      ValueError: `shape` is below 1, or `value` below 0.
    """
    if shape < 1 or not value >= 0:
        raise ValueError(f"expected a shape >= 1 and a value >= 0, got {shape} and {value}")
    term, terms = 1.0, [1.0]
    for k in range(1, shape):
        term *= value / k
        terms.append(term)
    return min(1.0, math.exp(-value) * math.fsum(terms))


def allowed_mean(epsilon: float, delta: float) -> float:
    """Bits that the expected mean exposure does not exceed, under (epsilon, delta) per tracer.

    For epsilon beyond about 7 it is all of the 10 bits there are: it says nothing.

    Raises:
      ValueError: `epsilon` or `delta` is negative or no number.
    """
    if not (epsilon >= 0 and 0 <= delta <= 1):
        raise ValueError(f"expected epsilon >= 0 and 0 <= delta <= 1, got {epsilon} and {delta}")
    # Beyond this the first chance is 1 already, and a larger power would overflow.
    factor = math.exp(min(epsilon, math.log(NUM_CANDIDATES)))
    # E[log2(R / r)] = sum over k < R of P(r <= k) * log2((k + 1) / k), by summation by parts.
    return math.fsum(
        min(1.0, factor * k / NUM_CANDIDATES + delta) * math.log2((k + 1) / k)
        for k in range(1, NUM_CANDIDATES)
    )


def check_ranks(ranks: Sequence[int]) -> None:
    """Check that there are ranks, each a whole number from 1 to `NUM_CANDIDATES`.

    Raises:
      ValueError: There is none, or one is something else.
    """
    if not ranks or not all(is_rank(rank) for rank in ranks):
        raise ValueError(f"expected ranks from 1 to {NUM_CANDIDATES}, at least one")


def is_rank(value: object) -> bool:
    """Whether `value` is a whole number from 1 to `NUM_CANDIDATES`."""
    return type(value) is int and 1 <= value <= NUM_CANDIDATES


def digest(ranks: Sequence[int]) -> str:
    """`sha256:<hex>` of ranks and what they are among, JSON after RFC 8785."""
    content = rfc8785.dumps({"num_candidates": NUM_CANDIDATES, "ranks": list(ranks)})
    return "sha256:" + hashlib.sha256(content).hexdigest()
