"""Two processes that take the same step in different ways, in turns.

In turns, because a machine's speed drifts: each pair of neighbouring steps is compared, and the
ratio is the median over the pairs.
"""

import os
import subprocess
import sys
from statistics import median
from types import TracebackType
from typing import Self

from bench.round import Row
from bench.steps import Case

_MIB = 2**20


class Side:
    """A process that takes one side's steps."""

    def __init__(self, name: str, case: Case, *, threads: int, trim: bool = False) -> None:
        """Start it.

        Args:
          name: A key of `bench.steps.SIDES`.
          case: What is trained on what.
          threads: Threads of the process.
          trim: Give large tensors back to the system at once, so that a peak is the step's and
            not the allocator's; takes time.
        """
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
        if trim:
            environment["MALLOC_MMAP_THRESHOLD_"] = str(2**16)
        self.name = name
        self._process = subprocess.Popen(
            [sys.executable, "-m", "bench.steps", name, case.encode()],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
            text=True,
        )

    def ask(self, word: str) -> float:
        """The answer to a word.

        Raises:
          RuntimeError: The process ended; what it said is on the terminal.
        """
        if self._process.stdin is None or self._process.stdout is None:
            raise RuntimeError(f"no way to talk to {self.name}")
        try:
            self._process.stdin.write(word + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise RuntimeError(f"{self.name} ended before it was asked") from None
        answer = self._process.stdout.readline()
        if not answer:
            raise RuntimeError(f"{self.name} ended without an answer to {word}")
        return float(answer)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        _type: type[BaseException] | None,
        _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        self._process.kill()
        self._process.communicate()


def compare_time(
    case: Case, ours: str, other: str, *, repeats: int, threads: int, title: str
) -> Row:
    """Median seconds of a step of both sides, and the median of the ratios of pairs of steps."""
    with Side(ours, case, threads=threads) as a, Side(other, case, threads=threads) as b:
        for side in (a, b):
            side.ask("step")
        pairs = []
        for number in range(repeats):
            first, second = (a, b) if number % 2 else (b, a)
            times = {first: first.ask("step")}
            times[second] = second.ask("step")
            pairs.append((times[a], times[b]))
    return Row(
        case=f"{title}, s",
        ours=median(mine for mine, _ in pairs),
        other=median(theirs for _, theirs in pairs),
        ratio=median(mine / theirs for mine, theirs in pairs),
    )


def compare_memory(case: Case, ours: str, other: str, *, threads: int, title: str) -> Row:
    """MiB that a step of both sides needs beyond program and weights, median of three."""
    found = []
    for name in (ours, other):
        with Side(name, case, threads=threads, trim=True) as side:
            # The first step loads kernels and their buffers.
            side.ask("step")
            found.append(median(side.ask("memory") for _ in range(3)) / _MIB)
    mine, theirs = found
    return Row(case=f"{title}, MiB", ours=mine, other=theirs, ratio=mine / theirs)
