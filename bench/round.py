"""What a round costs before anybody trains anything: Cloister's engine beside stock Flower.

Trivial clients return what they were sent, one packed array as large as the nano base's adapter
update. Each side starts its own processes; the clock runs from the end of one round to the end of
the next, so starting is not counted. Ours crosses mutual TLS 1.3, the institution's door and a
durable database; stock Flower runs in plaintext and in memory.
"""

import os
import platform
import sys
from dataclasses import dataclass
from importlib.metadata import version
from statistics import median

from bench import stock

NUM_VALUES = 24_576


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One comparison, in median seconds a round.

    Attributes:
      case: What was measured.
      ours: Cloister.
      other: Stock Flower.
      ratio: `ours / other`; below 1 means that ours is faster.
    """

    case: str
    ours: float
    other: float
    ratio: float


def machine() -> str:
    """The machine in words: processor, cores, Python, Flower."""
    name = platform.processor() or platform.machine()
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            name = next(
                (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")),
                name,
            )
    except OSError:
        pass  # not Linux: the generic name will do
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{name}, {cores} cores, Python {platform.python_version()}, flwr {version('flwr')}"


def compare(num_clients: int, num_rounds: int) -> Row:
    """Measure both sides one after the other, Flower first."""
    print(
        f"stock Flower: {num_rounds} rounds of {num_clients} clients ...",
        file=sys.stderr,
        flush=True,
    )
    theirs = stock.rounds(num_clients, num_rounds, num_values=NUM_VALUES)
    print("  " + "  ".join(f"{s:.2f} s" for s in theirs), file=sys.stderr, flush=True)
    # Here, not above: stock Flower can be measured alone without ours installed.
    import bench.ours as ours

    print(
        f"cloister: {num_rounds} rounds of {num_clients} clients ...", file=sys.stderr, flush=True
    )
    mine = ours.rounds(num_clients, num_rounds)
    print("  " + "  ".join(f"{s:.2f} s" for s in mine), file=sys.stderr, flush=True)
    ours_s, other_s = median(mine), median(theirs)
    return Row(
        case=f"round with {num_clients} trivial clients, s",
        ours=ours_s,
        other=other_s,
        ratio=ours_s / other_s,
    )
