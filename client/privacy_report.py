"""`cloister-site test-privacy`: what attacks make of an adapter, for the person at the site."""

import argparse
import math
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import asdict
from typing import Any

from client.agent import Link
from client.disclosure import AdapterTest
from client.home import SiteHome
from privacy import console
from privacy.console import UsageError
from privacy.dp import calibrate, membership
from privacy.dp.membership import Attack, Estimate, Rate
from privacy.errors import ConfigError

_MEANING = (
    "0.5 is guessing. Near 0.5 these two attacks fail here; a stronger one may not. What bounds"
    " every attack is the plan's epsilon."
)


def run(args: argparse.Namespace, confirmed: Callable[[str], bool]) -> int:
    """Do what was asked for."""
    if not (math.isfinite(args.epsilon) and args.epsilon > 0):
        raise UsageError(f"expected --epsilon above 0, got {args.epsilon}")
    home = SiteHome(args.home)
    with ExitStack() as stack:
        if args.release:
            # A round that is reserved meanwhile would have to stand among what was before.
            stack.enter_context(home.agent_lock())
        test = stack.enter_context(AdapterTest(home, args.run))
        console.say(f"run {test.plan.run}, adapter {test.adapter}")
        if not args.release:
            _show_exact(args, test.examine(_tell), home)
            return console.OK
        number, event = test.prepare(args.epsilon)
        cost = test.cost(number, event)
        _announce(test, number, event, cost)
        if not args.yes and not confirmed("release noised counts; is this cost"):
            raise ConfigError("nothing released", hint="answer yes, or run it with --yes")
        link = Link(home.channel())
        stack.callback(link.close)
        counts = test.release(number, event, link, _tell)
        _show_released(args, counts, event, cost)
    return console.OK


def _announce(
    test: AdapterTest, number: int, event: calibrate.Event, cost: tuple[float, float, float]
) -> None:
    # Imported where it is needed: it takes seconds to load.
    from client.dataset import HELD_OUT_SHARE

    alone, before, total = cost
    ledger = test.ledger
    declared = test.plan.share(test.site).num_units
    num_others = max(1, round(declared * HELD_OUT_SHARE / (1 - HELD_OUT_SHARE)))
    width = membership.half_width(declared, num_others, event.noise_multiplier)
    console.say(f"test {number}      noise {event.noise_multiplier:g} on each count")
    console.say(
        f"costs       epsilon {alone:.3f} by itself; the ledger goes from {before:.3f} to"
        f" {total:.3f} of {ledger.budget_epsilon:g}, delta {ledger.delta:g}"
    )
    shows = f"an area to about +- {width:.2f} at most"
    if min(declared, num_others) <= (needed := membership.smallest_group(event.noise_multiplier)):
        shows = f"perhaps no area: it takes more than {needed:.0f} members and others"
    console.say(f"shows       {shows}, with {declared} units declared")


def _show_exact(args: argparse.Namespace, found: Mapping[str, Any], home: SiteHome) -> None:
    if args.json:
        console.result_json({key: value for key, value in found.items() if key != "counts"})
        return
    console.result(
        f"{found['num_members']:,} members, {found['num_others']:,} others, exact figures: they "
        f"stay here ({home.privacy_test_path.name})"
    )
    _show_attacks({name: _attack(read) for name, read in found["attacks"].items()})


def _show_released(
    args: argparse.Namespace,
    counts: membership.Counts,
    event: calibrate.Event,
    cost: tuple[float, float, float],
) -> None:
    noise = event.noise_multiplier
    attacks = {name: membership.estimate(name, counts, noise) for name in membership.EDGES}
    if args.json:
        console.result_json(
            {
                "noise_multiplier": noise,
                "epsilon": cost[0],
                "epsilon_total": cost[2],
                "attacks": {name: asdict(attack) for name, attack in attacks.items()},
                "counts": {name: list(cells) for name, cells in counts.items()},
            }
        )
        return
    console.result(f"released, with noise {noise:g} on each count; all that left:")
    _show_attacks(attacks)


def _show_attacks(attacks: Mapping[str, Attack]) -> None:
    for name, attack in attacks.items():
        area = "cannot be told: too few units for the noise"
        if attack.auc is not None:
            area = _with_interval(attack.auc)
            if attack.auc.low > 0.5:
                area += "  it tells members from others"
        console.result(f"{name:10}  area under the curve  {area}")
        for rate in attack.rates:
            console.result(f"{'':10}  {_rate(rate)}")
    console.say(_MEANING)


def _rate(rate: Rate) -> str:
    what = f"found at {100 * rate.max_fpr:g} % false alarms"
    if rate.tpr is None:
        return f"{what}  cannot be told with fewer than {rate.needs:,} others"
    return f"{what}  {_with_interval(rate.tpr)}"


def _with_interval(figure: Estimate) -> str:
    return f"{figure.value:.3f} [{figure.low:.3f}, {figure.high:.3f}]"


def _attack(read: Mapping[str, Any]) -> Attack:
    """An attack as the closed room wrote it."""
    rates = [
        Rate(
            max_fpr=rate["max_fpr"],
            tpr=None if rate["tpr"] is None else Estimate(**rate["tpr"]),
            needs=rate["needs"],
        )
        for rate in read["rates"]
    ]
    return Attack(auc=Estimate(**read["auc"]), rates=tuple(rates))


def _tell(progress: Mapping[str, object]) -> None:
    console.say("  ".join(f"{value}" for value in progress.values()))
