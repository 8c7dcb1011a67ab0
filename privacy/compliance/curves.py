"""Loss and accuracy by round and site, from what people handed over: curves, and a table.

Not evidence, like all that is handed over. What the log can say is which adapter a round ended
with: a measurement that names another one is of something else, and is refused.
"""

from collections.abc import Sequence

from privacy.compliance.chart import curve_chart
from privacy.compliance.evidence import RunEvidence
from privacy.compliance.markup import NOTHING, Html, join, tag
from privacy.compliance.page import Page, table
from privacy.compliance.results import Point, Results
from privacy.errors import ConfigError

# A line of 300 units is no finer; and nobody reads a table of a thousand rounds.
MAX_DRAWN = 300
MAX_ROWS = 60
_ACROSS = 4


def check_points(result: Results, run: RunEvidence) -> None:
    """Check that what was measured by round is of the adapters that the log released.

    Raises:
      ConfigError: A round is not one of the plan, or its adapter not the one that it ended with.
    """
    num_rounds = run.plan.rounds.num_rounds
    for point in result.points:
        number = point.server_round
        if number > num_rounds:
            raise ConfigError(
                f"expected rounds 0 to {num_rounds} of run {run.plan.run} in the results of"
                f" {result.site}, got {number}",
                hint="hand over the file as the site's program wrote it",
            )
        if point.adapter != _adapter_after(number, run):
            raise ConfigError(
                f"expected of {result.site} what it measured of the adapter after round {number},"
                f" got figures of another one, {point.adapter[:23]}",
                hint="the log is older than the file, or the file was changed",
            )


def _adapter_after(number: int, run: RunEvidence) -> str:
    """The adapter that a round ended with; one that failed leaves the one before."""
    ended = [this.adapter for this in run.released if this.server_round <= number]
    return ended[-1] if ended else run.plan.initial_adapter


def curves(run: RunEvidence, results: Sequence[Results], page: Page) -> Html:
    """One run's curves, a drawing a site and figure, and the same figures as a table."""
    say = page.say
    measured = [result for result in results if result.points]
    if not measured:
        return NOTHING
    every = [point.quality for result in measured for point in result.points]
    tops = (1.12 * max(q.loss for q in every), min(1.12 * max(q.accuracy for q in every), 1.0))
    # Where all is zero there must be a scale all the same.
    loss_top, accuracy_top = (top or 1.0 for top in tops)
    return join(
        tag("h3", say("By round, run {name}", name=run.plan.run)),
        tag(
            "p",
            say(
                "Each institution measured the global adapter between rounds on a part of its"
                " held-out records, the same part each time; round 0 is the adapter that the run"
                " began with. A gap is a round that was due and not measured. All institutions'"
                " curves have one scale."
            ),
        ),
        tag(
            "div",
            *(_figure(result, run, loss_top, accuracy_top, page) for result in measured),
            class_="charts",
        ),
        *(
            _table(measured[begin : begin + _ACROSS], run, page)
            for begin in range(0, len(measured), _ACROSS)
        ),
    )


def _due(result: Results, num_rounds: int) -> list[int]:
    """The rounds that should have been measured, and those that were."""
    due = range(0, num_rounds + 1, result.every) if result.every else ()
    return sorted({*due, num_rounds, *(point.server_round for point in result.points)})


def _figure(
    result: Results, run: RunEvidence, loss_top: float, accuracy_top: float, page: Page
) -> Html:
    say = page.say
    points = {point.server_round: point for point in result.points}
    due = _due(result, run.plan.rounds.num_rounds)
    # Of what was measured, not of what was due: where most was not, nothing would be left. A gap
    # is drawn, however many rounds there are; it adds nothing to the page but a line's end.
    rounds = sorted({*_evenly(sorted(points), MAX_DRAWN), *(set(due) - set(points))})
    loss = {n: points[n].quality.loss if n in points else None for n in rounds}
    accuracy = {n: points[n].quality.accuracy if n in points else None for n in rounds}
    counts = sorted({point.num_examples for point in result.points})
    records = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]}-{counts[-1]}"
    return tag(
        "figure",
        tag("figcaption", result.site, " ", tag("span", say("{n} records", n=records))),
        curve_chart(result.site, say("loss"), loss, loss_top, say=say),
        curve_chart(result.site, say("accuracy, %"), accuracy, accuracy_top, True, say),
    )


def _table(results: Sequence[Results], run: RunEvidence, page: Page) -> Html:
    say = page.say
    num_rounds = run.plan.rounds.num_rounds
    points = [{point.server_round: point for point in result.points} for result in results]
    due = [_due(result, num_rounds) for result in results]
    rounds = sorted({number for numbers in due for number in numbers})
    # What was measured first: a row of a gap says less than a figure.
    measured = _evenly(sorted({number for of in points for number in of}), MAX_ROWS)
    gaps = [number for number in rounds if not any(number in of for of in points)]
    shown = sorted({*measured, *_evenly(gaps, MAX_ROWS - len(measured))})

    def cells(number: int, of: dict[int, Point], wanted: list[int]) -> list[object]:
        if number in of:
            quality = of[number].quality
            return [f"{quality.loss:.3f}", f"{100 * quality.accuracy:.1f} %"]
        return [say("not measured") if number in wanted else "", ""]

    rows = [
        [
            f"{number}",
            *(
                cell
                for of, wanted in zip(points, due, strict=True)
                for cell in cells(number, of, wanted)
            ),
            page.refs([run.rounds[number].released]) if number in run.rounds else "",
        ]
        for number in shown
    ]
    columns = [say("Round")]
    for result in results:
        columns += [say(">{name}: loss", name=result.site), say(">accuracy")]
    thinned = NOTHING
    if len(shown) < len(rounds):
        thinned = tag(
            "p",
            say("{n} of {all} rounds are listed.", n=len(shown), all=len(rounds)),
            class_="soft",
        )
    return join(table([*columns, say("Entries")], rows), thinned)


def _evenly(rounds: list[int], most: int) -> list[int]:
    """At most so many of `rounds`, with both ends."""
    if len(rounds) <= most:
        return rounds
    if most < 2:
        return rounds[:most]
    step = (len(rounds) - 1) / (most - 1)
    return sorted({rounds[round(place * step)] for place in range(most)})
