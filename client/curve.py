"""The global adapter's quality by round, as this site measured it; nothing of it leaves the site.

A round begins with the adapter that the round before it made, so what is measured after the update
of round 4 has left is what came of round 3; round 0 is the adapter that the run began with. The
last adapter is measured when the run is over. What a crash or a failure left out stays missing,
and whoever reads can tell: `every` says which rounds were due.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self


@dataclass(frozen=True, kw_only=True, slots=True)
class Point:
    """Quality of one round's adapter on a part of the held-out records.

    Attributes:
      server_round: The round that made the adapter, from 0.
      adapter: Its digest.
      loss: Mean loss in nats.
      accuracy: Share of right labels.
      num_examples: Records measured on.
    """

    server_round: int
    adapter: str
    loss: float
    accuracy: float
    num_examples: int

    @classmethod
    def of(cls, said: Mapping[str, Any], *, server_round: int, adapter: str) -> Self:
        """What the training process said of an adapter.

        Raises:
          ValueError: These are no figures.
          TypeError: The same.
          OverflowError: The same.
        """
        num_examples = said["num_examples"]
        # Larger ones fit into no database, and no text of theirs may reach one.
        if type(num_examples) is not int or not 1 <= num_examples < 2**31:
            raise ValueError("expected a number of records")
        loss, accuracy = float(said["loss"]), float(said["accuracy"])
        if not math.isfinite(loss) or not 0 <= accuracy <= 1:
            raise ValueError("expected a finite loss and an accuracy from 0 to 1")
        return cls(
            server_round=server_round,
            adapter=adapter,
            loss=loss,
            accuracy=accuracy,
            num_examples=num_examples,
        )


def is_due(server_round: int, every: int) -> bool:
    """Whether the adapter of a round is measured in a run's middle."""
    return every > 0 and server_round % every == 0


def as_results(points: Iterable[Point], every: int) -> dict[str, object]:
    """What `results.json` says of rounds; nothing where none is to be measured."""
    if not every:
        return {}
    return {"every": every, "rounds": [asdict(point) for point in points]}
