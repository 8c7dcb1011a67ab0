"""What privacy costs in time: our private step beside our step without it.

The same layers on both sides; the private one tells gradients apart by unit, clips and sums them.
Drawing and noise are not in it: they cost the same for every number of units.
"""

from collections.abc import Iterator

from bench.pair import compare_time
from bench.round import Row
from bench.steps import Case

SHAPES = ((16, 128), (32, 64), (8, 256))


def cases(train: str) -> Iterator[Case]:
    """The nano base and an OLMoE-shaped stack, at 2,048 tokens a step."""
    for base in ("nano", "olmoe"):
        for num_examples, num_tokens in SHAPES:
            yield Case(base=base, num_examples=num_examples, num_tokens=num_tokens, train=train)


def rows(*, repeats: int, threads: int, train: str) -> Iterator[Row]:
    """Seconds of a step, private beside plain."""
    for case in cases(train):
        yield compare_time(
            case, "private", "plain", repeats=repeats, threads=threads, title=case.title
        )
