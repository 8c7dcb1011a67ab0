"""Can one tell from an adapter's losses who trained it? Two attacks, and a private answer.

*Members* are the units that a site trained on, *others* those that it held out. An attack gives
each unit a score, the higher the more it looks like a member:

- `loss`: minus the unit's loss under the adapter (Yeom et al. 2018, arXiv 1709.01604).
- `reference`: its loss under the base without the adapter, minus that under the adapter: what
  training on this federation made easier, with the base as the one model that surely never saw
  the unit (the reference attack of Carlini et al. 2022, arXiv 2112.03570, section 4, with one
  reference).

Exact figures are functions of records and stay at the site. What may leave are counts: for each
attack, how many members and how many others have a score in each of a few cells whose edges stand
below, the same for everybody. Each count gets noise; areas, rates and their intervals are made
from the noised counts, and cost nothing more.

Formal guarantee of `release`, given the adapter: a unit is one member or one other, in one cell of
each attack, whatever other units there are. So adding or removing it changes one count by one in
each attack, and the counts are as many Gaussian releases of sensitivity 1 as there are attacks
(`event`). The numbers of members and others are private too: they come out of the same counts.
Areas under the curve would not do: one unit moves them by up to one over the number of its group,
which nobody outside may know.

Noise is a Gaussian rounded to whole numbers. The counts are whole, so to round the noise is to
round the sum, which is post-processing, and no low bit of a float tells of a count (Mironov 2012).
"""

import hashlib
import math
import os
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from types import MappingProxyType
from typing import Any

import numpy as np
import rfc8785

from privacy.dp.calibrate import Event

Counts = Mapping[str, tuple[int, ...]]

FALSE_ALARMS = (0.01, 0.001)
MAX_CELL = 2**40
_Z = 1.959963984540054  # 95 %, both sides
# Of the noise in a tail of others, before a rate of false alarms is claimed.
_SIGMAS = 2.0
# Of the noise in a group's size, before an area is given: by the other attacks' counts, and by its
# own. The noise of its own may not decide at the size that decides: areas that were given would be
# those with much noise, and intervals of areas of 0.97 held the truth in 86 % of runs.
_SMALLEST = 5.0
_SMALLEST_OWN = 3.0
_HALVINGS = 60
# Mean losses of a token, in nats: half octaves from 1/64 to 16, negated.
_LOSS_EDGES = tuple(-(2.0 ** (half / 2)) for half in range(8, -13, -1))
# Nats of a token: squares of quarters, fine around zero.
_REFERENCE_EDGES = tuple(math.copysign((step / 4) ** 2, step) for step in range(-8, 13))
EDGES: Mapping[str, tuple[float, ...]] = MappingProxyType(
    {"loss": _LOSS_EDGES, "reference": _REFERENCE_EDGES}
)
GROUPS = ("members", "others")
FIELDS = tuple(f"{attack}_{group}" for attack in EDGES for group in GROUPS)


@dataclass(frozen=True, kw_only=True, slots=True)
class Estimate:
    """A figure with its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Rate:
    """How many members an attack finds while it wrongly names at most few others.

    Attributes:
      max_fpr: Largest share of others that are taken for members.
      tpr: Share of members that are found; None where so low a share cannot be told.
      needs: The number of others from which it can be, at this noise.
    """

    max_fpr: float
    tpr: Estimate | None
    needs: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Attack:
    """What one attack achieves.

    Attributes:
      auc: Chance that a member looks more like one than an other does, ties half: 0.5 is guessing;
        None where there are too few units for the noise.
      rates: For each of `FALSE_ALARMS`.
    """

    auc: Estimate | None
    rates: tuple[Rate, ...]


def scores(adapter_loss: float, base_loss: float) -> dict[str, float]:
    """A unit's score by each attack, from its two losses: means over its tokens, in nats."""
    return {"loss": -adapter_loss, "reference": base_loss - adapter_loss}


def auc(members: Sequence[float], others: Sequence[float]) -> float:
    """Area under the curve of members against others, ties half (Mann & Whitney 1947).

    Raises:
      ValueError: One group is empty.
    """
    _check_groups(members, others)
    ordered = np.sort(np.asarray(others, dtype=np.float64))
    found = np.asarray(members, dtype=np.float64)
    below = np.searchsorted(ordered, found, side="left").sum()
    not_above = np.searchsorted(ordered, found, side="right").sum()
    return float((int(below) + int(not_above)) / (2 * len(members) * len(others)))


def attack(members: Sequence[float], others: Sequence[float]) -> Attack:
    """What an attack with these scores achieves, exactly; it stays at the site.

    The area's interval is Newcombe's (2006, method 5), a rate's is Wilson's. That of a rate does
    not hold the uncertainty of the threshold.

    Raises:
      ValueError: One group is empty.
    """
    area = auc(members, others)
    sizes = len(members), len(others)
    return Attack(
        auc=_with_interval(area, lambda theta: _auc_variance(theta, *sizes)),
        rates=tuple(_rate(members, others, max_fpr) for max_fpr in FALSE_ALARMS),
    )


def _rate(members: Sequence[float], others: Sequence[float], max_fpr: float) -> Rate:
    needs = math.ceil(1 / max_fpr - 1e-9)
    if len(others) < needs:
        return Rate(max_fpr=max_fpr, tpr=None, needs=needs)
    allowed = math.floor(max_fpr * len(others) + 1e-9)
    threshold = sorted(others, reverse=True)[allowed]
    # Above and not at it: others that tie with the threshold would be false alarms too many.
    share = sum(score > threshold for score in members) / len(members)
    tpr = _with_interval(share, lambda p: p * (1 - p) / len(members))
    return Rate(max_fpr=max_fpr, tpr=tpr, needs=needs)


def count(members: Sequence[Mapping[str, float]], others: Sequence[Mapping[str, float]]) -> Counts:
    """Members and others in each cell of each attack, least like a member first: not private."""
    return {
        f"{name}_{group}": _histogram(EDGES[name], [unit[name] for unit in units])
        for name in EDGES
        for group, units in zip(GROUPS, (members, others), strict=True)
    }


def _histogram(edges: Sequence[float], values: Sequence[float]) -> tuple[int, ...]:
    counts = [0] * (len(edges) + 1)
    for value in values:
        # A loss that is no number has to stand somewhere: a unit is in one cell, always.
        counts[0 if math.isnan(value) else bisect_right(edges, value)] += 1
    return tuple(counts)


def check_counts(counts: Counts) -> None:
    """Check that `counts` has every field with every cell, whole numbers.

    Raises:
      ValueError: It has not.
    """
    if set(counts) != set(FIELDS):
        raise ValueError(f"expected counts named {', '.join(FIELDS)}")
    for name in FIELDS:
        if not is_counts(name, counts[name]):
            raise ValueError(f"expected {num_cells(name)} whole numbers in {name}")


def num_cells(name: str) -> int:
    """Cells of one of `FIELDS`."""
    return len(EDGES[name.rpartition("_")[0]]) + 1


def is_counts(name: str, value: object) -> bool:
    """Whether `value` can stand in the field `name` of an entry; noised counts may be negative."""
    return (
        isinstance(value, list | tuple)
        and len(value) == num_cells(name)
        and all(type(cell) is int and abs(cell) <= MAX_CELL for cell in value)
    )


def event(noise_multiplier: float) -> Event:
    """What `release` costs: one Gaussian release of sensitivity 1 to each attack's counts."""
    return Event(noise_multiplier, 1.0, len(EDGES))


def release(exact: Counts, noise_multiplier: float) -> dict[str, tuple[int, ...]]:
    """The counts with noise in each cell, empty ones too: all that may leave.

    Args:
      exact: As `count` gives them.
      noise_multiplier: Standard deviation of the noise, in units.

    Raises:
      ValueError: `exact` is not as `count` gives it, or there is no noise.
    """
    check_counts(exact)
    event(noise_multiplier)
    return {
        name: tuple(
            cell + noise
            for cell, noise in zip(
                exact[name], draw_noise(len(exact[name]), noise_multiplier), strict=True
            )
        )
        for name in FIELDS
    }


def draw_noise(size: int, noise_multiplier: float) -> list[int]:
    """Independent rounded Gaussians from the operating system's generator (Box & Muller 1958)."""
    words = np.frombuffer(os.urandom(16 * size), dtype=np.uint64).reshape(2, size)
    uniform, angle = (words >> np.uint64(11)) * 2.0**-53
    # 1 - uniform is in (0, 1]: the logarithm of 0 would be infinite.
    normal = np.sqrt(-2 * np.log1p(-uniform)) * np.cos(2 * math.pi * angle)
    return [int(noise) for noise in np.rint(normal * noise_multiplier)]


def digest(noise_multiplier: float, counts: Mapping[str, Sequence[int]]) -> str:
    """`sha256:<hex>` of noised counts and their noise, JSON after RFC 8785."""
    content: dict[str, Any] = {name: list(counts[name]) for name in FIELDS}
    content["noise_multiplier"] = noise_multiplier
    return "sha256:" + hashlib.sha256(rfc8785.dumps(content)).hexdigest()


def estimate(name: str, counts: Mapping[str, Sequence[int]], noise_multiplier: float) -> Attack:
    """What noised counts say of an attack: no record is needed, and no budget.

    Intervals hold the noise beside the chance of who was held out. Scores in one cell count as
    ties, which moves an area a little towards 0.5.
    """
    members, others = (list(counts[f"{name}_{group}"]) for group in GROUPS)
    num_members, num_others = sum(members), sum(others)
    if not _are_large(name, counts, noise_multiplier):
        # A ratio of two numbers that may be noise says nothing.
        rates = (_too_few(max_fpr, noise_multiplier) for max_fpr in FALSE_ALARMS)
        return Attack(auc=None, rates=tuple(rates))
    below = [
        (before + cell / 2) / num_others
        for before, cell in zip(accumulate(others, initial=0), others, strict=False)
    ]
    above = [
        (num_members - before - cell / 2) / num_members
        for before, cell in zip(accumulate(members, initial=0), members, strict=False)
    ]
    raw = sum(cell * share for cell, share in zip(members, below, strict=True)) / num_members
    area = min(1.0, max(0.0, raw))
    # By the first terms of a ratio's expansion, and the product of both noises.
    noise = sum((share - area) ** 2 for share in below) / num_members**2
    noise += sum((share - area) ** 2 for share in above) / num_others**2
    noise += (noise_multiplier * len(members) / (2 * num_members * num_others)) ** 2
    noise *= noise_multiplier**2
    return Attack(
        auc=_with_interval(
            area, lambda theta: _auc_variance(theta, num_members, num_others) + noise
        ),
        rates=tuple(
            _noised_rate(members, others, max_fpr, noise_multiplier) for max_fpr in FALSE_ALARMS
        ),
    )


def _are_large(name: str, counts: Mapping[str, Sequence[int]], noise_multiplier: float) -> bool:
    """Whether both groups are so large that a ratio of their sizes is no ratio of noise."""
    return all(
        sum(counts[f"{attack}_{group}"])
        > (_SMALLEST_OWN if attack == name else _SMALLEST)
        * noise_multiplier
        * math.sqrt(num_cells(f"{attack}_{group}"))
        for attack in EDGES
        for group in GROUPS
    )


def smallest_group(noise_multiplier: float) -> float:
    """Units, by the noised counts, that both groups must have more of for an area to be given."""
    return _SMALLEST * noise_multiplier * math.sqrt(max(map(num_cells, FIELDS)))


def half_width(num_members: int, num_others: int, noise_multiplier: float) -> float:
    """About how far, at most, an area's interval will reach to each side, before anything is read.

    Most where scores crowd in few cells: then the noise of all others counts in full.
    """
    num_cells = max(len(edges) for edges in EDGES.values()) + 1
    noise = num_cells / 4 * (1 / num_members**2 + 1 / num_others**2)
    noise += (noise_multiplier * num_cells / (2 * num_members * num_others)) ** 2
    chance = _auc_variance(0.5, num_members, num_others)
    return min(0.5, _Z * math.sqrt(chance + noise * noise_multiplier**2))


def _too_few(max_fpr: float, noise_multiplier: float) -> Rate:
    needs = max(1, _SIGMAS * noise_multiplier) / max_fpr
    return Rate(max_fpr=max_fpr, tpr=None, needs=math.ceil(needs))


def _noised_rate(
    members: Sequence[int], others: Sequence[int], max_fpr: float, noise_multiplier: float
) -> Rate:
    """The rate in the widest tail whose share of others is surely low enough."""
    too_few = _too_few(max_fpr, noise_multiplier)
    widest, false_alarms = 0, 0
    for width in range(1, len(others)):
        false_alarms += others[-width]
        if false_alarms + _SIGMAS * noise_multiplier * math.sqrt(width) > max_fpr * sum(others):
            break
        widest = width
    if widest == 0 or sum(others) < too_few.needs:
        return too_few
    num_members = sum(members)
    share = min(1.0, max(0.0, sum(members[-widest:]) / num_members))
    noise = widest * (noise_multiplier / num_members) ** 2
    tpr = _with_interval(share, lambda p: p * (1 - p) / num_members + noise)
    return Rate(max_fpr=max_fpr, tpr=tpr, needs=too_few.needs)


def _auc_variance(theta: float, num_members: int, num_others: int) -> float:
    """Variance of an estimated area (Hanley & McNeil 1982, with Newcombe's mean group size)."""
    spread = (num_members + num_others) / 2 - 1
    factor = 1 + spread * (1 - theta) / (2 - theta) + spread * theta / (1 + theta)
    return theta * (1 - theta) * factor / (num_members * num_others)


def _with_interval(value: float, variance: Callable[[float], float]) -> Estimate:
    """All values that are within 1.96 of their own standard deviations of the one that was seen.

    With the variance of a share this is Wilson's interval.
    """

    def end(limit: float) -> float:
        inside, outside = value, limit
        for _ in range(_HALVINGS):
            middle = (inside + outside) / 2
            if abs(value - middle) <= _Z * math.sqrt(max(0.0, variance(middle))):
                inside = middle
            else:
                outside = middle
        return inside

    return Estimate(value=value, low=end(0.0), high=end(1.0))


def _check_groups(members: Sequence[float], others: Sequence[float]) -> None:
    if not members or not others:
        raise ValueError(
            f"expected members and others, got {len(members)} and {len(others)}",
        )
