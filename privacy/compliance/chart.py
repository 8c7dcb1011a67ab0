"""The drawings of the report, as inline SVG: no script, no font, no file beside them."""

from collections.abc import Mapping, Sequence

from privacy.compliance.markup import NOTHING, Html, join, tag
from privacy.compliance.words import Words

WIDTH = 300
HEIGHT = 150
MAX_DOTS = 40
_STEPS = [lead * 10.0**power for power in range(-4, 7) for lead in (1, 2, 5)]
_ENGLISH = Words("en")
_LEFT, _RIGHT, _TOP, _BOTTOM = 34, 12, 14, 24


def spend_chart(
    name: str,
    spends: Sequence[tuple[int, float]],
    budget: float,
    top: float,
    say: Words = _ENGLISH,
) -> Html:
    """Epsilon in total after each committed round, as steps under the line of the budget.

    Args:
      name: Whose, for readers who cannot see it.
      spends: Rounds in the order in which they were spent, and epsilon after each.
      budget: The site's budget.
      top: The scale's end, the same for all sites so that they can be compared.
      say: The language.
    """
    totals = [total for _, total in spends]
    right, bottom = WIDTH - _RIGHT, HEIGHT - _BOTTOM
    step = (right - _LEFT) / max(len(totals), 1)

    def y(value: float) -> float:
        return round(bottom - (bottom - _TOP) * min(value / top, 1.0), 1)

    points = [f"{_LEFT},{y(0)}"]
    for number, total in enumerate(totals):
        begin, end = round(_LEFT + number * step, 1), round(_LEFT + (number + 1) * step, 1)
        points += [f"{begin},{y(total)}", f"{end},{y(total)}"]
    area = [*points, f"{points[-1].split(',')[0]},{y(0)}"]
    last = totals[-1] if totals else 0.0
    label = say(
        "{name}: epsilon {last} of {budget} after {n} rounds",
        name=name,
        last=f"{last:.2f}",
        budget=f"{budget:g}",
        n=len(totals),
    )
    return tag(
        "svg",
        tag("title", label),
        *(
            join(
                tag("line", x1=_LEFT, x2=right, y1=y(tick), y2=y(tick), class_="grid"),
                tag("text", f"{tick:g}", x=_LEFT - 6, y=y(tick) + 3.5, class_="tick end"),
            )
            for tick in ticks(top)
        ),
        tag("polyline", points=" ".join(area), class_="area") if totals else NOTHING,
        tag("polyline", points=" ".join(points), class_="steps") if totals else NOTHING,
        tag("line", x1=_LEFT, x2=right, y1=y(budget), y2=y(budget), class_="budget"),
        tag(
            "text",
            say("budget {n}", n=f"{budget:g}"),
            # On the left, where the steps are low: on the right the last value stands.
            x=_LEFT + 4,
            y=y(budget) - 4,
            class_="budget-label",
        ),
        tag("text", f"{last:.2f}", x=right, y=y(last) - 4, class_="value end"),
        tag("text", say("round {n}", n=spends[0][0]), x=_LEFT, y=HEIGHT - 8, class_="tick")
        if spends
        else NOTHING,
        tag("text", say("round {n}", n=spends[-1][0]), x=right, y=HEIGHT - 8, class_="tick end")
        if len(spends) > 1
        else NOTHING,
        viewBox=f"0 0 {WIDTH} {HEIGHT}",
        role="img",
        class_="chart",
    )


def curve_chart(
    name: str,
    what: str,
    values: Mapping[int, float | None],
    top: float,
    percent: bool = False,
    say: Words = _ENGLISH,
) -> Html:
    """A figure by round: a line from 0 up, with a gap where a round was not measured.

    Args:
      name: Whose, for readers who cannot see it.
      what: Which figure, in the page's language.
      values: By round, the first and the last one among them; None: not measured. At least one
        was.
      top: The scale's end, the same for all sites so that they can be compared.
      percent: Whether figures are shares.
      say: The language.
    """
    first, last = min(values), max(values)
    known = {number: value for number, value in values.items() if value is not None}
    right, bottom = WIDTH - _RIGHT, HEIGHT - _BOTTOM

    def x(number: int) -> float:
        return round(_LEFT + (right - _LEFT) * (number - first) / max(last - first, 1), 1)

    def y(value: float) -> float:
        return round(bottom - (bottom - _TOP) * min(value / top, 1.0), 1)

    def written(value: float) -> str:
        return f"{100 * value:.1f} %" if percent else f"{value:.2f}"

    parts = _parts(values)
    lines = [
        tag("polyline", points=" ".join(f"{x(n)},{y(known[n])}" for n in part), class_="steps")
        for part in parts
    ]
    # A value between two gaps has no line; and few values are better seen.
    alone = {part[0] for part in parts if len(part) == 1}
    dots = [n for n in known if len(known) <= MAX_DOTS or n in alone]
    ends = [f"{written(known[n])} ({say('round {n}', n=n)})" for n in (min(known), max(known))]
    label = say("{name}: {what} from {first} to {last}", name=name, what=what,
                first=ends[0], last=ends[1])  # fmt: skip
    if len(known) < len(values):
        label += say("; {n} rounds were not measured", n=len(values) - len(known))
    return tag(
        "svg",
        tag("title", label),
        *(
            join(
                tag("line", x1=_LEFT, x2=right, y1=y(tick), y2=y(tick), class_="grid"),
                tag(
                    "text",
                    f"{100 * tick:g}" if percent else f"{tick:g}",
                    x=_LEFT - 6,
                    y=y(tick) + 3.5,
                    class_="tick end",
                ),
            )
            for tick in ticks(top)
        ),
        *lines,
        *(tag("circle", cx=x(n), cy=y(known[n]), r=2.4, class_="after") for n in dots),
        tag("text", what, x=_LEFT, y=_TOP - 5, class_="tick"),
        tag(
            "text",
            written(known[max(known)]),
            x=x(max(known)),
            y=y(known[max(known)]) - 7,
            class_="value end",
        ),
        tag("text", say("round {n}", n=first), x=_LEFT, y=HEIGHT - 8, class_="tick"),
        tag("text", say("round {n}", n=last), x=right, y=HEIGHT - 8, class_="tick end")
        if last > first
        else NOTHING,
        viewBox=f"0 0 {WIDTH} {HEIGHT}",
        role="img",
        class_="chart",
    )


def _parts(values: Mapping[int, float | None]) -> list[list[int]]:
    """Rounds that follow each other without a gap."""
    parts: list[list[int]] = [[]]
    for number in sorted(values):
        if values[number] is None:
            parts.append([])
        else:
            parts[-1].append(number)
    return [part for part in parts if part]


def ticks(top: float) -> list[float]:
    """Round numbers from 0 to `top`, at most seven."""
    step = next(step for step in _STEPS if top / step <= 6)
    return [round(number * step, 6) for number in range(int(top / step + 1e-9) + 1)]


def change_bar(before: float, after: float, low: float, high: float) -> Html:
    """A line from one value to another between `low` and `high`: a hollow dot, then a full one."""
    width, middle, edge = 140, 9, 7
    span = max(high - low, 1e-9)

    def x(value: float) -> float:
        return round(edge + (width - 2 * edge) * (value - low) / span, 1)

    return tag(
        "svg",
        tag("title", f"from {before:.3f} to {after:.3f}"),
        tag("line", x1=edge, x2=width - edge, y1=middle, y2=middle, class_="grid"),
        tag("line", x1=x(before), x2=x(after), y1=middle, y2=middle, class_="change"),
        tag("circle", cx=x(before), cy=middle, r=3.6, class_="before"),
        tag("circle", cx=x(after), cy=middle, r=4.2, class_="after"),
        viewBox=f"0 0 {width} {2 * middle}",
        role="img",
        class_="bar",
    )


def interval_bar(low: float, value: float, high: float, floor: float, label: str) -> Html:
    """A share between 0 and 1 with its interval, and the floor that it must not go below."""
    width, middle, edge = 200, 9, 7

    def x(share: float) -> float:
        return round(edge + (width - 2 * edge) * share, 1)

    return tag(
        "svg",
        tag("title", label),
        tag("line", x1=x(0), x2=x(1), y1=middle, y2=middle, class_="grid"),
        tag("line", x1=x(floor), x2=x(floor), y1=1, y2=2 * middle - 1, class_="budget"),
        tag("line", x1=x(low), x2=x(high), y1=middle, y2=middle, class_="interval"),
        tag("circle", cx=x(value), cy=middle, r=3.6, class_="after"),
        viewBox=f"0 0 {width} {2 * middle}",
        role="img",
        class_="bar interval-bar",
    )


def amount_bar(value: float, top: float, label: str) -> Html:
    """An amount as a bar, on a scale that begins at 0."""
    width, height = 200, 18
    length = round((width - 4) * min(value / max(top, 1e-9), 1.0), 1)
    return tag(
        "svg",
        tag("title", label),
        tag("rect", x=2, y=4, width=width - 4, height=10, class_="rail"),
        tag("rect", x=2, y=4, width=length, height=10, class_="amount"),
        viewBox=f"0 0 {width} {height}",
        role="img",
        class_="bar amount-bar",
    )
