"""What the model learnt, as people handed it over: shown apart, and never as evidence.

Loss and accuracy on held-out records stay at a site (they are no private figures), so no log holds
them. A site may give its `results.json` to a reader. What can be checked of such a file is what it
is about: the adapter that it names must be one that the log released under the plan that it names.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from privacy.audit.entry import Event
from privacy.compliance.chart import change_bar
from privacy.compliance.curves import check_points, curves
from privacy.compliance.evidence import Evidence, RunEvidence
from privacy.compliance.markup import NOTHING, Html, join, tag
from privacy.compliance.page import Page, note, section, table
from privacy.compliance.results import Quality, Results
from privacy.errors import ConfigError


@dataclass(frozen=True, kw_only=True, slots=True)
class Placed:
    """A site's results, and what the log says of the adapter that they name.

    Attributes:
      results: The file.
      run: Name of the run; empty where the file names no adapter.
      server_round: The round that released it, 0 for the adapter that the run began with.
      entries: Where the log says that it was released, and that the site measured it.
    """

    results: Results
    run: str = ""
    server_round: int = 0
    entries: tuple[int, ...] = ()


def place(results: Iterable[Results], evidence: Evidence) -> list[Placed]:
    """Find what each file is about, by site, then in the order of the log.

    Raises:
      ConfigError: A file is of a site or an adapter that is not in the log, or came twice.
    """
    results = list(results)
    strangers = sorted({result.site for result in results} - set(evidence.sites))
    if strangers:
        raise ConfigError(
            f"expected results of enrolled sites, got some of {', '.join(strangers)}",
            hint="hand over results.json of sites in this log only",
        )
    seen: set[tuple[str, str, str]] = set()
    for result in results:
        key = (result.site, result.plan, result.adapter)
        if key in seen:
            raise ConfigError(f"expected one file of {result.site} an adapter, got two")
        seen.add(key)
    placed = [_placed(result, evidence) for result in results]
    return sorted(placed, key=lambda this: (this.results.site, this.entries, this.server_round))


def _placed(result: Results, evidence: Evidence) -> Placed:
    if not result.adapter:
        return Placed(results=result)
    for run in evidence.runs.values():
        found = _released(run, result)
        if found is not None:
            server_round, released = found
            check_points(result, run)
            entries = [n for n in (released, _measured(result, evidence)) if n is not None]
            return Placed(
                results=result,
                run=run.plan.run,
                server_round=server_round,
                entries=tuple(entries),
            )
    raise ConfigError(
        f"expected results of an adapter of this log, those of {result.site} name"
        f" {result.adapter[:23]}",
        hint="the file is of another run, or the log is older than it",
    )


def _released(run: RunEvidence, result: Results) -> tuple[int, int | None] | None:
    """The round and the entry that released the adapter, in a run of that plan."""
    if run.digest != result.plan:
        return None
    for this in reversed(run.released):
        if this.adapter == result.adapter:
            return this.server_round, this.released
    return (0, None) if run.plan.initial_adapter == result.adapter else None


def _measured(result: Results, evidence: Evidence) -> int | None:
    """The entry in which the site says that it measured this adapter."""
    for index, entry in enumerate(evidence.log.entries):
        if (
            entry.event is Event.EVALUATED
            and entry.party == result.site
            and entry.subjects.get("adapter") == result.adapter
        ):
            return index
    return None


def quality(measured: Sequence[Placed], evidence: Evidence, page: Page) -> Html:
    """Loss and accuracy, as sites handed them over."""
    say = page.say
    every = [quality for this in measured for quality in this.results.quality.values()]
    low = min(quality.accuracy for quality in every)
    high = max(quality.accuracy for quality in every)

    def row(this: Placed) -> list[object]:
        given = this.results.quality
        base, alone, federated = (given.get(name) for name in ("base", "alone", "federated"))
        best = min((q.loss for q in given.values()), default=0.0)
        bar: object = NOTHING
        if base is not None and federated is not None:
            bar = change_bar(base.accuracy, federated.accuracy, low, high)
        mark = tag("span", say("not evidenced"), class_="status none")
        cells: list[object] = [join(this.results.site, " ", mark)]
        cells.append(_adapter(this, page))
        for one in (base, alone, federated):
            cells += _cells(one, best, page)
        return [*cells, bar]

    columns = [
        say("Given by"),
        say("Adapter"),
        say(">Base: loss"),
        say(">accuracy"),
        say(">Trained alone: loss"),
        say(">accuracy"),
        say(">Federated: loss"),
        say(">accuracy"),
        say("Accuracy, base to federated"),
    ]
    return section(
        say("What the model learnt"),
        tag(
            "p",
            say(
                "Loss and accuracy on units that each institution held out of training: of the"
                " base model, of an adapter that the institution trained alone, and of the"
                " federated adapter. The lowest loss of a row is set in bold."
            ),
        ),
        table(columns, (row(this) for this in measured)),
        *(
            curves(run, [t.results for t in measured if t.results.plan == run.digest], page)
            for run in evidence.runs.values()
        ),
        note(
            say(
                "These figures are not part of the log and no evidence. Institutions measured"
                " them at home, without noise, and people handed them over; nothing here can"
                " check them. The entries beside them show which adapter was released, and that"
                " the institution says it measured it."
            ),
            warn=True,
        ),
    )


def _adapter(this: Placed, page: Page) -> object:
    say = page.say
    if not this.run:
        return say("not named")
    where = say("{run}, round {n}", run=this.run, n=this.server_round)
    return join(where, " ", page.refs(this.entries))


def _cells(quality: Quality | None, best: float, page: Page) -> list[object]:
    if quality is None:
        return [page.say("not measured"), ""]
    loss: object = f"{quality.loss:.3f}"
    if quality.loss <= best:
        loss = tag("span", loss, class_="best")
    return [loss, f"{100 * quality.accuracy:.1f} %"]
