"""The two drawings of the report, as inline SVG: no script, no font, no file beside them."""

from collections.abc import Sequence

from privacy.compliance.markup import NOTHING, Html, join, tag

WIDTH = 300
HEIGHT = 150
_STEPS = [lead * 10.0**power for power in range(-4, 7) for lead in (1, 2, 5)]
_LEFT, _RIGHT, _TOP, _BOTTOM = 34, 12, 14, 24


def spend_chart(name: str, spends: Sequence[tuple[int, float]], budget: float, top: float) -> Html:
    """Epsilon in total after each committed round, as steps under the line of the budget.

    Args:
      name: Whose, for readers who cannot see it.
      spends: Rounds in the order in which they were spent, and epsilon after each.
      budget: The site's budget.
      top: The scale's end, the same for all sites so that they can be compared.
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
    label = f"{name}: epsilon {last:.2f} of {budget:g} after {len(totals)} rounds"
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
        tag("text", f"budget {budget:g}", x=right, y=y(budget) - 4, class_="budget-label end"),
        tag("text", f"{last:.2f}", x=right, y=y(last) - 4, class_="value end"),
        tag("text", f"round {spends[0][0]}", x=_LEFT, y=HEIGHT - 8, class_="tick")
        if spends
        else NOTHING,
        tag("text", f"round {spends[-1][0]}", x=right, y=HEIGHT - 8, class_="tick end")
        if len(spends) > 1
        else NOTHING,
        viewBox=f"0 0 {WIDTH} {HEIGHT}",
        role="img",
        class_="chart",
    )


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
