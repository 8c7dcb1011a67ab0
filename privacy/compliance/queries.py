"""What a regime may ask of the evidence, by name.

Each query answers how far the log shows something, in which entries, and in one sentence with the
figures. `SHOWN` is never said of an absence: where nothing happened, there is nothing to show.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType

from privacy.audit.entry import Event
from privacy.compliance.evidence import Evidence, SiteEvidence
from privacy.compliance.words import Words
from privacy.masking.canaries import set_digest


class Shown(StrEnum):
    """How far the log shows what was asked."""

    SHOWN = "shown"
    PARTLY = "partly"
    NOTHING = "nothing"


@dataclass(frozen=True, slots=True)
class Finding:
    """The answer to one query.

    Attributes:
      shown: How far.
      text: What was found, one sentence.
      entries: Where.
    """

    shown: Shown
    text: str
    entries: tuple[int, ...] = ()


Query = Callable[[Evidence, Words], Finding]

_STARTS = (Event.AGENT_STARTED, Event.COORDINATOR_STARTED)
_COMPUTED = (Event.UPDATE_SENT, Event.ADAPTER_RELEASED)


def _senders(evidence: Evidence) -> list[SiteEvidence]:
    """The sites whose records had an effect outside."""
    return [site for site in evidence.sites.values() if site.sent]


def _share(having: int, of: int) -> Shown:
    if having == 0:
        return Shown.NOTHING
    return Shown.SHOWN if having == of else Shown.PARTLY


def _log_integrity(evidence: Evidence, words: Words) -> Finding:
    log = evidence.log
    text = words(
        "{n} entries, each signed by the party that it names, in a tree whose root the coordinator"
        " signed; {k} older checkpoints agree.",
        n=f"{len(log.entries):,}",
        k=f"{log.num_checkpoints:,}",
    )
    if log.keys_from_log:
        text += " " + words(
            "The keys came with the log, so this shows agreement with itself only."
        )
    return Finding(Shown.SHOWN, text, (0, len(log.entries) - 1))


def _witnesses(evidence: Evidence, words: Words) -> Finding:
    cosigned = evidence.log.cosigned
    if cosigned is None or not cosigned.witnesses:
        return Finding(Shown.NOTHING, words("No witness's signature was asked for or checked."))
    names = ", ".join(sorted(cosigned.witnesses))
    text = words(
        "{names} cosigned the log of {n} entries.", names=names, n=cosigned.checkpoint.size
    )
    return Finding(Shown.SHOWN, text, (cosigned.checkpoint.size - 1,))


def _event_fields(evidence: Evidence, words: Words) -> Finding:
    last = len(evidence.log.entries) - 1
    text = words(
        "Every one of {n} entries names event, party, time (UTC) and what it is about; refusals"
        " are events of their own.",
        n=f"{last + 1:,}",
    )
    return Finding(Shown.SHOWN, text, (0, last))


def _plan_approval(evidence: Evidence, words: Words) -> Finding:
    entries, having, of = [], 0, 0
    for run in evidence.runs.values():
        entries += [run.offered, *run.approved.values()]
        having += len(run.approved)
        of += len(run.plan.sites)
    if not of:
        return Finding(Shown.NOTHING, words("No run was started."))
    text = words("{a} of {b} approvals of fixed plans, each by digest.", a=having, b=of)
    return Finding(_share(having, of), text, tuple(entries))


def _identities(evidence: Evidence, words: Words) -> Finding:
    entries = [number for site in evidence.sites.values() for number in site.enrolled]
    if not entries:
        return Finding(Shown.NOTHING, words("No institution was enrolled."))
    text = words(
        "{n} institutions enrolled, each with one signing key and one certificate; every entry of"
        " theirs is signed with it.",
        n=len(evidence.sites),
    )
    return Finding(Shown.SHOWN, text, tuple(entries))


def _revocations(evidence: Evidence, words: Words) -> Finding:
    entries = [number for site in evidence.sites.values() for number in site.revoked]
    if not entries:
        return Finding(Shown.NOTHING, words("No institution was revoked in this log."))
    return Finding(Shown.SHOWN, words("{n} revocations.", n=len(entries)), tuple(entries))


def _masking(evidence: Evidence, words: Words) -> Finding:
    senders = _senders(evidence)
    masked = [site for site in senders if site.masked_in and not site.unmasked]
    if not masked:
        return Finding(Shown.NOTHING, words("No institution wrote that it masked records."))
    text = words(
        "{a} of {b} institutions that sent updates wrote that they masked records, {kinds} kinds"
        " of personal data.",
        a=len(masked),
        b=len(senders),
        kinds=len({kind for site in masked for kind in site.masked}),
    )
    entries = tuple(number for site in masked for number in site.masked_in)
    return Finding(_share(len(masked), len(senders)), text, entries)


def _recall(evidence: Evidence, words: Words) -> Finding:
    senders = _senders(evidence)
    measured = [site for site in senders if site.recalls and not site.unmasked]
    recalls = [recall for site in measured for recall in site.recalls]
    if not recalls:
        return Finding(Shown.NOTHING, words("No recall of planted examples is in the log."))
    worst = min(recalls, key=lambda recall: recall.share)
    text = words(
        "Recall on planted examples, measured by {a} of {b} institutions; lowest {share} for"
        " {kind}, 95 % interval {low} to {high}. Not measured on records.",
        a=len(measured),
        b=len(senders),
        share=f"{worst.share:.2f}",
        kind=worst.entity_type,
        low=f"{worst.interval[0]:.2f}",
        high=f"{worst.interval[1]:.2f}",
    )
    over = [figure.share for site in measured for figure in site.over_masking]
    text += " " + words(
        "Of sentences without personal data, something was masked in a share of {share} at most.",
        share=f"{max(over):.2f}",
    )
    entries = tuple(number for site in measured for number in site.masked_in)
    shown = _share(len(measured), len(senders))
    if any(run.plan.canaries != set_digest() for run in evidence.runs.values()):
        # Of such a set only the digest is known: whether a type was left out, nobody checked.
        text += " " + words("A plan names planted examples that this version does not have.")
        shown = Shown.PARTLY
    return Finding(shown, text, entries)


def _dp(evidence: Evidence, words: Words) -> Finding:
    spenders = [site for site in evidence.sites.values() if site.spends]
    if not spenders:
        return Finding(Shown.NOTHING, words("No privacy budget was spent."))
    last = [site.spends[-1] for site in spenders]
    within = all(spend.epsilon_total <= spend.budget_epsilon for spend in last)
    # Epsilons at unequal deltas have no order, so no site's stands for the others'.
    figures = [
        words(
            "{site} {epsilon} at delta {delta}, budget {budget}",
            site=site.name,
            epsilon=f"{spend.epsilon_total:.3f}",
            delta=f"{spend.delta:g}",
            budget=f"{spend.budget_epsilon:g}",
        )
        for site, spend in zip(spenders, last, strict=True)
    ]
    text = words(
        "Epsilon recomputed for {n} institutions over all of their ledgers: {figures}.",
        n=len(spenders),
        figures="; ".join(figures),
    )
    if not within:
        text += " " + words("One institution is over its own budget.")
    entries = tuple(spend.entry for spend in last)
    return Finding(Shown.SHOWN if within else Shown.PARTLY, text, entries)


def _updates(evidence: Evidence, words: Words) -> Finding:
    senders = _senders(evidence)
    if not senders:
        return Finding(Shown.NOTHING, words("No update left an institution."))
    text = words(
        "{n} updates left, {size} bytes in all, each under an approved plan and named by its"
        " digest. That nothing else left, the log cannot show.",
        n=sum(len(site.sent) for site in senders),
        size=f"{sum(site.bytes_sent for site in senders):,}",
    )
    return Finding(Shown.SHOWN, text, tuple(n for site in senders for n in site.sent))


def _refusals(evidence: Evidence, words: Words) -> Finding:
    entries = tuple(number for refusal in evidence.refusals for number in refusal.entries)
    if not entries:
        return Finding(Shown.NOTHING, words("No refusal is in the log."))
    text = words(
        "{n} refusals of {k} kinds, each with the rule that was broken, or what was set aside.",
        n=len(entries),
        k=len(evidence.refusals),
    )
    return Finding(Shown.SHOWN, text, entries)


def _self_tests(evidence: Evidence, words: Words) -> Finding:
    senders = _senders(evidence)
    tested = [site for site in senders if site.self_tests and not site.untested]
    if not tested:
        return Finding(Shown.NOTHING, words("No self-test is in the log."))
    text = words(
        "{a} of {b} institutions that sent updates passed the self-test of private training.",
        a=len(tested),
        b=len(senders),
    )
    entries = tuple(number for site in tested for number in site.self_tests)
    return Finding(_share(len(tested), len(senders)), text, entries)


def _privacy_tests(evidence: Evidence, words: Words) -> Finding:
    senders = _senders(evidence)
    attacked = [site for site in senders if any(test.counts for test in site.tests)]
    ranked = [site for site in senders if site.ranked]
    if not attacked and not ranked:
        return Finding(Shown.NOTHING, words("No privacy test of an adapter is in the log."))
    text = words(
        "Of {b} institutions that sent updates {a} attacked a released adapter with their own"
        " units and released noised figures, and {c} ranked made-up secrets that they had pinned"
        " before; what came out, the report shows.",
        a=len(attacked),
        b=len(senders),
        c=len(ranked),
    )
    tests = [n for site in attacked for test in site.tests for n in test.entries]
    ranks = [n for site in ranked for these in site.ranked.values() for n in these.entries]
    # Ranks are of made-up units alone: no institution's own are attacked by them.
    shown = _share(len(attacked), len(senders)) if attacked else Shown.PARTLY
    return Finding(shown, text, tuple(sorted({*tests, *ranks})))


def _releases(evidence: Evidence, words: Words) -> Finding:
    rounds = [this for run in evidence.runs.values() for this in run.released]
    entries = [n for this in rounds for n in (this.released, *this.accepted.values())]
    if not rounds:
        return Finding(Shown.NOTHING, words("No adapter was released."))
    text = words(
        "{n} adapters released, each traced to the accepted updates that it was made of.",
        n=len(rounds),
    )
    return Finding(Shown.SHOWN, text, tuple(n for n in entries if n is not None))


def _failures(evidence: Evidence, words: Words) -> Finding:
    rounds = [
        this
        for run in evidence.runs.values()
        for this in run.rounds.values()
        if this.failed is not None
    ]
    if not rounds:
        return Finding(Shown.NOTHING, words("No round failed in this log."))
    text = words("{n} rounds failed and are on record as failed.", n=len(rounds))
    return Finding(Shown.SHOWN, text, tuple(this.failed or 0 for this in rounds))


def _versions(evidence: Evidence, words: Words) -> Finding:
    entries = evidence.log.entries
    numbers = tuple(n for n, entry in enumerate(entries) if entry.event in _STARTS)
    if not numbers:
        return Finding(Shown.NOTHING, words("No software version is in the log."))
    # Who computed what is told here: the coordinator, and the sites whose updates left.
    acted = {entry.party for entry in entries if entry.event in _COMPUTED}
    having = {entries[n].party for n in numbers} & acted
    said = [entries[n].predicate for n in numbers]
    packages: dict[str, set[str]] = {"cloister": {start["version"] for start in said}}
    packages["python"] = {start["python"] for start in said}
    for start in said:
        for name, version in start["packages"]:
            packages.setdefault(name, set()).add(version)
    text = words(
        "{n} starts; {a} of {b} parties that computed say what they ran on: {packages}; processor"
        " {processors}, device {devices}.",
        n=len(numbers),
        a=len(having),
        b=len(acted),
        packages=", ".join(f"{name} {' / '.join(sorted(v))}" for name, v in packages.items()),
        processors=" / ".join(sorted({start["processor"] for start in said})),
        devices=" / ".join(sorted({start["device"] for start in said})),
    )
    return Finding(_share(len(having), len(acted)) if acted else Shown.SHOWN, text, numbers)


def _of_event(event: Event, none: str, some: str) -> Query:
    def query(evidence: Evidence, words: Words) -> Finding:
        entries = tuple(
            index for index, entry in enumerate(evidence.log.entries) if entry.event is event
        )
        if not entries:
            return Finding(Shown.NOTHING, words(none))
        parties = {evidence.log.entries[index].party for index in entries}
        return Finding(Shown.SHOWN, words(some, n=len(entries), parties=len(parties)), entries)

    return query


def _retention(evidence: Evidence, words: Words) -> Finding:
    days = (evidence.last_at - evidence.first_at).days
    text = words(
        "The log reaches over {n} days; how long it will be kept, it cannot show.", n=days
    )
    return Finding(Shown.PARTLY, text, (0, len(evidence.log.entries) - 1))


_EVALUATED_NONE = "No evaluation is in the log."
_EVALUATED = "{n} evaluations by {parties} institutions; their figures stay there."

QUERIES: Mapping[str, Query] = MappingProxyType(
    {
        "log-integrity": _log_integrity,
        "witnesses": _witnesses,
        "event-fields": _event_fields,
        "plan-approval": _plan_approval,
        "identities": _identities,
        "revocations": _revocations,
        "masking": _masking,
        "recall": _recall,
        "privacy-budget": _dp,
        "updates-only": _updates,
        "refusals": _refusals,
        "self-tests": _self_tests,
        "privacy-tests": _privacy_tests,
        "releases": _releases,
        "failures": _failures,
        "evaluations": _of_event(Event.EVALUATED, _EVALUATED_NONE, _EVALUATED),
        "versions": _versions,
        "retention": _retention,
    }
)
