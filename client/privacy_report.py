"""`cloister-site test-privacy`: what attacks make of an adapter, for the person at the site.

Two tests stand beside each other. Membership inference reads records: exact figures stay, and what
leaves is noised and paid. Exposure ranks the secrets of tracers and reads none: the ranks may
leave as they are, also where no budget is left (`--exposure-only`).
"""

import argparse
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from typing import Any

from client.disclosure import AdapterTest
from client.exposed import ExposureTest
from client.home import SiteHome
from client.link import Link
from client.outcome import OutcomeError
from privacy import console
from privacy.console import UsageError
from privacy.dp import calibrate, exposure, membership
from privacy.dp.membership import Attack, Estimate, Rate
from privacy.errors import ConfigError

_MEANING = (
    "0.5 is guessing. Near 0.5 these two attacks fail here; a stronger one may not. What bounds"
    " every attack is the plan's epsilon."
)
# Below this a person is told in words.
_ALARM = 0.01
_NO_TRACERS = (
    "this run's plan has no tracers, made-up units with secrets that a site trains on to look for"
    " them afterwards: exposure was not measured"
)
_NOT_SENT = (
    "the plan has tracers, made-up units with secrets, and this site sent no update in the run:"
    " nobody trained on its tracers, and exposure was not measured"
)
_MEMBERS_ABSENT = (
    "no update of this site is in this adapter: it was not trained on these records, and attacks"
    " that fail show nothing"
)
_MEMBERS_LATE = (
    "as far as is known here, the coordinator took no update of this site in time; then the"
    " adapter was not trained on these records, and attacks that fail show nothing"
)
_MAYBE_ADDED = (
    "it is not known here whether an update of this site is in this adapter; if none is, nobody"
    " trained on these tracers and low figures say nothing. --release asks the coordinator"
)
_MAYBE_LATE = (
    "as far as is known here, the coordinator took no update of this site in time; then nobody"
    " trained on these tracers and low figures say nothing. --release asks the coordinator"
)
_EXPOSURE_MEANING = (
    "About 1.4 bits on average are chance, 10 are a secret known by heart. What bounds the average"
    " of all runs is epsilon; tracers say nothing of a text that stands in many records."
)


def run(args: argparse.Namespace, confirmed: Callable[[str], bool]) -> int:
    """Do what was asked for."""
    if not (math.isfinite(args.epsilon) and args.epsilon > 0):
        raise UsageError(f"expected --epsilon above 0, got {args.epsilon}")
    home = SiteHome(args.home)
    # Before the lock: no file is made where there is no site.
    home.config()
    with ExitStack() as stack:
        if args.release:
            # A round that is reserved meanwhile would have to stand among what was before.
            stack.enter_context(home.agent_lock())
        test = stack.enter_context(AdapterTest(home, args.run))
        traced = stack.enter_context(ExposureTest(test))
        console.say(f"run {test.plan.run}, adapter {test.adapter}")
        if args.exposure_only and not traced.num_tracers:
            planned = test.plan.exposure.tracers
            raise ConfigError(
                _why_none(test),
                hint="" if planned else "a plan adds some with [exposure] tracers",
            )
        if args.release:
            shown = _release(args, test, traced, confirmed, stack)
        else:
            shown = _measure(args, test, traced)
        if args.json:
            console.result_json(shown)
    return console.OK


def _measure(
    args: argparse.Namespace, test: AdapterTest, traced: ExposureTest
) -> dict[str, object]:
    """Exact figures, which stay; returns them for a program."""
    shown: dict[str, object] = {}
    if not args.exposure_only:
        found = test.examine(_tell)
        shown |= {key: value for key, value in found.items() if key != "counts"}
        if not args.json:
            _show_exact(found, test.home)
        if not test.has_arrived:
            console.say(_MEMBERS_LATE)
    if not traced.num_tracers:
        console.say(_why_none(test))
        return shown | {"exposure": None}
    return shown | _show_exposure(args, test, traced, traced.measure(_tell))


def _release(
    args: argparse.Namespace,
    test: AdapterTest,
    traced: ExposureTest,
    confirmed: Callable[[str], bool],
    stack: ExitStack,
) -> dict[str, object]:
    """What may leave, after a yes; returns it for a program.

    The coordinator is asked before the person is: nobody agrees to what the log would refuse.
    """
    link = Link(test.home.channel())
    stack.callback(link.close)
    with_ranks = _may_rank(args, test, traced, link)
    planned = None
    if not args.exposure_only:
        if not test.check(link).num_added:
            console.say(_MEMBERS_ABSENT)
        number, event = test.prepare(args.epsilon)
        planned = number, event, test.cost(number, event)
        _announce(test, *planned)
    if with_ranks:
        console.say(
            f"exposure    the ranks of {traced.num_tracers} tracers' secrets, which cost nothing"
        )
    if not args.yes and not confirmed(_question(is_paid=planned is not None, ranks=with_ranks)):
        raise ConfigError("nothing released", hint="answer yes, or run it with --yes")
    # First, because it costs nothing and may be said again: a failure here has spent nothing, and
    # who tries again after a later failure pays once.
    shown: dict[str, object] = {"exposure": None}
    if with_ranks:
        shown = _show_exposure(args, test, traced, traced.release(link, _tell))
    if planned is not None:
        number, event, cost = planned
        counts = test.release(number, event, link, _tell)
        shown = _show_released(args, counts, event, cost) | shown
    return shown


def _may_rank(
    args: argparse.Namespace, test: AdapterTest, traced: ExposureTest, link: Link
) -> bool:
    """Whether there are ranks that the log takes; says why where there are none.

    Raises:
      OutcomeError: The log takes none, and nothing else was asked for.
    """
    if not traced.num_tracers:
        console.say(_why_none(test))
        return False
    if traced.is_added:
        return True
    try:
        traced.check(link)
    except OutcomeError as error:
        if args.exposure_only:
            raise
        console.say(f"exposure    is not released: {error}")
        return False
    return True


def _why_none(test: AdapterTest) -> str:
    return _NOT_SENT if test.plan.exposure.tracers else _NO_TRACERS


def _question(*, is_paid: bool, ranks: bool) -> str:
    """What a person answers with yes: all that would leave, and whether it costs."""
    if not is_paid:
        return "Put these ranks into the log? They cost nothing. [yes/no]"
    what = "noised counts and ranks" if ranks else "noised counts"
    return f"Spend this budget and put {what} into the log? [yes/no]"


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


def _show_exact(found: Mapping[str, Any], home: SiteHome) -> None:
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
) -> dict[str, object]:
    noise = event.noise_multiplier
    attacks = {name: membership.estimate(name, counts, noise) for name in membership.EDGES}
    if not args.json:
        console.result(f"released, with noise {noise:g} on each count; all that left:")
        _show_attacks(attacks)
    return {
        "noise_multiplier": noise,
        "epsilon": cost[0],
        "epsilon_total": cost[2],
        "attacks": {name: asdict(attack) for name, attack in attacks.items()},
        "counts": {name: list(cells) for name, cells in counts.items()},
    }


def _show_exposure(
    args: argparse.Namespace, test: AdapterTest, traced: ExposureTest, ranks: Sequence[int]
) -> dict[str, object]:
    found, mechanism = exposure.summarise(ranks), test.plan.mechanism
    allowed = exposure.allowed_mean(mechanism.target_epsilon, mechanism.delta)
    if not args.json:
        left = "released, as they are" if args.release else f"here, {test.home.exposure_path.name}"
        console.result(
            f"exposure of {found.num_tracers} tracers' secrets among "
            f"{exposure.NUM_CANDIDATES:,} each ({left})"
        )
        known = "  unlikely to be chance" if found.p_value < _ALARM else ""
        console.result(
            f"{'':10}  mean {found.mean:.2f} bits, largest {found.largest:.2f} of "
            f"{exposure.bits(1):g}, p-value {found.p_value:.2g} of knowing none{known}"
        )
        console.result(f"{'':10}  epsilon allows {allowed:.2f} bits on the average of all runs")
        console.say(_EXPOSURE_MEANING)
    if not traced.is_added:
        console.say(_MAYBE_ADDED if test.has_arrived else _MAYBE_LATE)
    return {
        "exposure": {
            **asdict(found),
            "ranks": list(ranks),
            "allowed_mean": allowed,
            "update_added": traced.is_added or None,
        }
    }


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
