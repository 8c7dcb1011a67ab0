"""What a site measured at home and chose to hand over: a `results.json`.

It is not evidence, and the report shows it apart. Its parts: `site`; `plan` and `adapter`, digests
of what it is about; loss and accuracy of `base`, `alone` and `federated`; and where the site
measured in a run's middle, `every`, the rounds from one measurement to the next, and `rounds`, a
list of what was measured. A file from before there were rounds has neither.
"""

import json
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from privacy.errors import ConfigError

MAX_RESULTS_BYTES = 4_000_000
MAX_ROUNDS = 10_000
MODELS = ("base", "alone", "federated")
_MAX_NUMBER = 10**12
_DIGEST = re.compile(r"(sha256:[0-9a-f]{64})?")


@dataclass(frozen=True, kw_only=True, slots=True)
class Quality:
    """Loss and accuracy of one model on a site's held-out units."""

    loss: float
    accuracy: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Point:
    """Quality of the global adapter after one round, on a part of a site's held-out units.

    Attributes:
      server_round: The round that made the adapter, 0 for the one that the run began with.
      adapter: Its digest.
      quality: Loss and accuracy.
      num_examples: Records measured on.
    """

    server_round: int
    adapter: str
    quality: Quality
    num_examples: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Results:
    """One site's measurements.

    Attributes:
      site: Whose.
      quality: By model, those of `MODELS` that were measured.
      plan: Digest of the plan that the site names, or an empty string.
      adapter: Digest of the federated adapter that it names, or an empty string.
      every: Rounds from one measurement to the next; 0 where none was made in a run's middle.
      points: What was measured, by round.
    """

    site: str
    quality: dict[str, Quality]
    plan: str = ""
    adapter: str = ""
    every: int = 0
    points: tuple[Point, ...] = ()


def read_results(path: Path) -> Results:
    """Read a `results.json`.

    Raises:
      ConfigError: The file is missing, or holds no results.
    """
    try:
        content = path.read_bytes()[: MAX_RESULTS_BYTES + 1]
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from None
    problem = ConfigError(
        f"expected in {path} a site and, for base, alone or federated, loss and accuracy",
        hint="hand over the file results.json of a site's folder as it is",
    )
    try:
        loaded = json.loads(content)
        site, plan, adapter = loaded["site"], loaded.get("plan", ""), loaded.get("adapter", "")
        quality = {
            model: Quality(
                loss=float(loaded[model]["loss"]), accuracy=float(loaded[model]["accuracy"])
            )
            for model in MODELS
            if loaded.get(model) is not None
        }
        every, rounds = loaded.get("every", 0), loaded.get("rounds", [])
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, OverflowError):
        raise problem from None
    finite = all(math.isfinite(q.loss) and 0 <= q.accuracy <= 1 for q in quality.values())
    named = all(isinstance(name, str) and _DIGEST.fullmatch(name) for name in (plan, adapter))
    if len(content) > MAX_RESULTS_BYTES or not isinstance(site, str) or not quality or not finite:
        raise problem
    if not named or bool(plan) != bool(adapter):
        raise problem
    if not plan and (every or rounds):
        raise problem
    return Results(
        site=site,
        quality=quality,
        plan=plan,
        adapter=adapter,
        every=every if _is_count(every) else _refuse(path, "every", "a number from 0", every),
        points=_points(path, rounds),
    )


def _points(path: Path, rounds: object) -> tuple[Point, ...]:
    """What was measured by round, each round once."""
    if not isinstance(rounds, list) or len(rounds) > MAX_ROUNDS:
        _refuse(path, "rounds", f"a list of at most {MAX_ROUNDS:,} measurements", None)
    points: dict[int, Point] = {}
    for place, said in enumerate(rounds):
        point = _point(path, f"rounds[{place}]", said)
        if point.server_round in points:
            number = point.server_round
            _refuse(path, f"rounds[{place}]", f"each round once, got round {number} twice", None)
        points[point.server_round] = point
    return tuple(point for _, point in sorted(points.items()))


def _point(path: Path, where: str, said: object) -> Point:
    fields = ("server_round", "adapter", "loss", "accuracy", "num_examples")
    if not isinstance(said, dict) or set(said) != set(fields):
        _refuse(path, where, f"an object with {', '.join(fields)}", None)
    number, adapter, loss, accuracy, num_examples = (said[name] for name in fields)
    if not _is_count(number):
        _refuse(path, f"{where}.server_round", "a number from 0", number)
    if not isinstance(adapter, str) or not adapter or not _DIGEST.fullmatch(adapter):
        _refuse(path, f"{where}.adapter", "a digest, sha256:...", None)
    if not _is_figure(loss) or loss < 0:
        _refuse(path, f"{where}.loss", "a finite number from 0", loss)
    if not _is_figure(accuracy) or not 0 <= accuracy <= 1:
        _refuse(path, f"{where}.accuracy", "a number from 0 to 1", accuracy)
    if not _is_count(num_examples) or not num_examples:
        _refuse(path, f"{where}.num_examples", "a number from 1", num_examples)
    return Point(
        server_round=number,
        adapter=adapter,
        quality=Quality(loss=float(loss), accuracy=float(accuracy)),
        num_examples=num_examples,
    )


def _is_count(value: object) -> bool:
    # Python counts True as 1.
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _MAX_NUMBER


def _is_figure(value: Any) -> bool:  # noqa: ANN401  as JSON has it
    # JSON's whole numbers have no end, and beyond 1e308 none of them is a float.
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return is_number and abs(value) <= _MAX_NUMBER


def _refuse(path: Path, where: str, expected: str, got: object) -> NoReturn:
    """Name the place in the file; of what stands there, a number is repeated and nothing else."""
    is_number = _is_figure(got)
    said = f", got {got:g}" if is_number else "" if got is None else f", got {type(got).__name__}"
    raise ConfigError(
        f"{path}: {where}: expected {expected}{said}",
        hint="hand over the file results.json of a site's folder as it is",
    )
