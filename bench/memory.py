"""What steps need in memory beyond program and weights: resident on a CPU, allocated on a GPU."""

from collections.abc import Iterator

from bench import dp_step, expert_lora
from bench.pair import compare_memory
from bench.round import Row
from bench.steps import Case


def rows(*, threads: int, train: str) -> Iterator[Row]:
    """Private beside plain, and ours beside peft's."""
    for case in dp_step.cases(train):
        yield compare_memory(case, "private", "plain", threads=threads, title=case.title)
    case = Case(base="olmoe", num_examples=16, num_tokens=128, train=train, targets=("experts",))
    for other in expert_lora.OTHERS:
        yield compare_memory(
            case, "plain", other, threads=threads, title=f"{case.title}, beside {other}"
        )
