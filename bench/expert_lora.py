"""Our LoRA on experts beside peft's, both without privacy, on an OLMoE-shaped stack.

peft adapts fused experts as `target_parameters`: it makes the whole weight of every expert anew in
each step. transformers runs them in a loop (eager) or as grouped products.
"""

from collections.abc import Iterator

from bench.dp_step import SHAPES
from bench.pair import compare_time
from bench.round import Row
from bench.steps import Case

OTHERS = ("peft-eager", "peft-grouped")


def rows(*, repeats: int, threads: int, train: str) -> Iterator[Row]:
    """Seconds of a step, ours beside both of peft's."""
    for num_examples, num_tokens in SHAPES:
        case = Case(
            base="olmoe",
            num_examples=num_examples,
            num_tokens=num_tokens,
            train=train,
            targets=("experts",),
        )
        for other in OTHERS:
            yield compare_time(
                case,
                "plain",
                other,
                repeats=repeats,
                threads=threads,
                title=f"{case.title}, beside {other}",
            )
