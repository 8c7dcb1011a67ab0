"""The report for whoever answers for data protection: one HTML page that needs nothing beside it.

It says what a verified log shows, links every figure to its entries, and says as clearly what no
log can show. There is no script, no remote font and no image; it prints on A4. It gives no verdict
on law: that is for people.
"""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from importlib import resources
from urllib.parse import quote

from privacy.audit.entry import Entry, Event, format_time
from privacy.audit.rules import COUNTED
from privacy.audit.verify import VerifiedLog
from privacy.compliance.chart import amount_bar
from privacy.compliance.controls import AssessedRegime
from privacy.compliance.declarations import Sheet
from privacy.compliance.evidence import (
    Evidence,
    Refusal,
    RoundEvidence,
    SiteEvidence,
    gather,
)
from privacy.compliance.law import controls_section
from privacy.compliance.leakage import leakage
from privacy.compliance.markup import NOTHING, Html, join, tag
from privacy.compliance.measures import masking, privacy
from privacy.compliance.page import Page, clock, note, section, size, table
from privacy.compliance.quality import place, quality
from privacy.compliance.results import Results
from privacy.compliance.seal import EMPTY_DIGEST
from privacy.compliance.statements import NOT_SHOWN
from privacy.compliance.words import Words
from privacy.dp import membership
from privacy.errors import ConfigError

MAX_LISTED_ENTRIES = 1000
_LONG = {
    "plan", "prior", "entity_types", "run_id", "delta", "commitment", "recall",
    "over_masking", *membership.FIELDS,
}  # fmt: skip
_REFUSED = {
    Event.DOOR_REFUSED: "a connection or call",
    Event.UPDATE_REJECTED: "an update",
    Event.PLAN_REFUSED: "a plan",
    Event.BUDGET_REFUSED: "a spend over the budget",
    Event.INSTRUCTION_REFUSED: "an instruction of the coordinator",
    Event.REPLY_REFUSED: "a reply of its own training program",
    Event.ENTRY_SET_ASIDE: "an entry of its own, which the log refused: set aside",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Extras:
    """What stands on the page beside the log's own evidence.

    Attributes:
      results: What sites measured and handed over.
      regimes: Controls, assessed.
      sheet: What a person declared.
      beside: Files beside the page and their digests.
      language: The page's.
    """

    results: Iterable[Results] = ()
    regimes: Sequence[AssessedRegime] = ()
    sheet: Sheet | None = None
    beside: Sequence[tuple[str, str]] = field(default_factory=tuple)
    language: str = "en"


def render_report(log: VerifiedLog, extras: Extras | None = None, *, at: datetime) -> str:
    """The whole page, with its own digest in it.

    Args:
      log: As `privacy.audit.verify.verify_log` returns it.
      extras: What else is shown.
      at: When the report is made.

    Raises:
      ConfigError: The log is empty, or results are of a site or an adapter that it does not name.
    """
    if not log.entries:
        raise ConfigError("expected a log with entries, got an empty one")
    extras = extras or Extras()
    evidence = gather(log)
    measured = place(extras.results, evidence)
    css = resources.files("privacy.compliance").joinpath("templates/report.css").read_text("utf-8")
    page = Page(Words(extras.language))
    body = join(
        _head(evidence, at, page),
        _tiles(evidence, page),
        _trust(log, page),
        _sites(evidence, page),
        quality(measured, evidence, page) if measured else NOTHING,
        privacy(evidence, page),
        leakage(evidence, page),
        masking(evidence, page),
        _rounds(evidence, page),
        _refusals(evidence.refusals, page),
        controls_section(extras.regimes, extras.sheet, page) if extras.regimes else NOTHING,
        _limits(page),
        _check(log, extras.beside, page),
        _entries(log, page),
        tag(
            "footer",
            page.say(
                "Made by cloister-audit from a log whose every entry was checked. This report"
                " describes evidence; it is no legal assessment."
            ),
        ),
    )
    policy = "default-src 'none'; style-src 'unsafe-inline'"
    head = join(
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=policy),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("title", page.say("Evidence report: {name}", name=evidence.federation)),
        tag("style", Html(css)),
    )
    language = "zh-Hans" if extras.language == "zh" else "en"
    made = (
        f'<!doctype html>\n<html lang="{language}"><head>{head}</head>\n'
        f"<body>{body}</body></html>\n"
    )
    # The digest is over the page with zeros in its place, so whoever has the page can repeat it.
    digest = hashlib.sha256(made.encode()).hexdigest()
    return made.replace(EMPTY_DIGEST, digest, 1)


def _head(evidence: Evidence, at: datetime, page: Page) -> Html:
    log, say = evidence.log, page.say
    return tag(
        "header",
        tag("p", say("Evidence report"), class_="eyebrow"),
        tag("h1", evidence.federation),
        tag(
            "p",
            say(
                "What {n} institutions and a coordinator wrote down while they trained a model"
                " together, {period}. All {entries} entries of their log were checked: each is"
                " signed by the party that it names, stands in its place, and follows from the"
                " ones before. The log holds no records: its entries have fixed fields and no"
                " place for text of a record.",
                n=len(evidence.sites),
                period=page.period(evidence.first_at, evidence.last_at),
                entries=f"{len(log.entries):,}",
            ),
            class_="lead",
        ),
        tag(
            "p",
            say(
                "Made {at} from log {origin}, {n} entries, root ",
                at=format_time(at),
                origin=log.checkpoint.origin,
                n=f"{log.checkpoint.size:,}",
            ),
            tag("code", log.checkpoint.root.hex()),
            say("."),
            class_="soft",
        ),
        tag(
            "p",
            say("SHA-256 of this page, with zeros in this place: "),
            tag("code", EMPTY_DIGEST),
            class_="soft",
        ),
    )


def _tiles(evidence: Evidence, page: Page) -> Html:
    sites, say = evidence.sites.values(), page.say
    sent = [number for site in sites for number in site.sent]
    released = [this.released for run in evidence.runs.values() for this in run.released]
    refused = [number for refusal in evidence.refusals for number in refusal.entries]
    spends = [site.spends[-1] for site in sites if site.spends]
    num_bytes = size(sum(site.bytes_sent for site in sites))
    tiles = [
        _tile(
            page,
            f"{len(evidence.sites)}",
            say("institutions enrolled"),
            [site.enrolled[-1] for site in sites],
        ),
        _tile(
            page,
            f"{len(released)}",
            say("rounds ended with a new adapter"),
            released,
            of=sum(run.plan.rounds.num_rounds for run in evidence.runs.values()),
        ),
        _tile(
            page,
            f"{len(sent)}",
            say("updates left institutions, {size} in all", size=num_bytes),
            sent,
        ),
    ]
    # Epsilons at unequal deltas have no order: then none of them is the most.
    if len({spend.delta for spend in spends}) == 1:
        most = max(spends, key=lambda spend: spend.epsilon_total)
        tiles.append(
            _tile(
                page,
                f"{most.epsilon_total:.2f}",
                say("epsilon, the most that one institution spent of its privacy budget"),
                [most.entry],
                of=f"{most.budget_epsilon:g}",
            )
        )
    tiles.append(_tile(page, f"{len(refused)}", say("refusals by any party"), refused))
    return tag("div", *tiles, class_="tiles")


def _tile(
    page: Page, value: str, label: str, entries: Iterable[int | None], *, of: object = None
) -> Html:
    whole = tag("small", page.say(" of {n}", n=of)) if of is not None else NOTHING
    cited = page.refs(entries, limit=1)
    return tag("div", tag("b", value, whole), tag("span", label, " ", cited), class_="tile")


def _trust(log: VerifiedLog, page: Page) -> Html:
    say = page.say
    if not log.keys_from_log:
        return note(
            say("The signatures were checked against public keys that the reader supplied.")
        )
    return note(
        tag("b", say("The public keys came with the log. ")),
        say(
            "So this report shows that the log is consistent in itself, not yet who wrote it."
            " Compare the fingerprints at its end with the parties, by voice, or repeat the"
            " check with keys from another source (--keys)."
        ),
        warn=True,
    )


def _sites(evidence: Evidence, page: Page) -> Html:
    say = page.say
    top = max((site.bytes_sent for site in evidence.sites.values()), default=0)

    def row(site: SiteEvidence) -> list[object]:
        last = site.spends[-1] if site.spends else None
        state = tag("b", say("revoked "), page.refs(site.revoked)) if site.revoked else NOTHING
        sent = size(site.bytes_sent)
        spent: object = say("nothing")
        if last:
            spent = say("{a} of {b}", a=f"{last.epsilon_total:.3f}", b=f"{last.budget_epsilon:g}")
        return [
            join(site.name, " ", state),
            f"{site.num_units:,}",
            f"{len(site.sent)}",
            sent,
            amount_bar(site.bytes_sent, top, f"{site.name}: {sent}"),
            spent,
            page.refs([*site.enrolled, *site.sent], limit=2),
        ]

    return section(
        say("Institutions"),
        tag(
            "p",
            say(
                "Units are the patients, customers or records whose presence is protected; the"
                " number is the one that the institution declared in public. Epsilon is what its"
                " ledger has spent over all runs, recomputed for this report."
            ),
        ),
        table(
            [
                say("Institution"),
                say(">Declared units"),
                say(">Updates sent"),
                say(">Bytes sent"),
                "",
                say(">Epsilon spent of budget"),
                say("Entries"),
            ],
            (row(site) for site in evidence.sites.values()),
        ),
    )


def _rounds(evidence: Evidence, page: Page) -> Html:
    parts, say = [], page.say
    for run in evidence.runs.values():
        state = (
            say("ended") if run.finished is not None else say("not ended when this log was read")
        )
        rounds = [
            _round_row(this, len(run.plan.sites), page) for _, this in sorted(run.rounds.items())
        ]
        parts.append(
            join(
                tag("h3", say("Run {name}", name=run.plan.run)),
                tag(
                    "p",
                    say(
                        "Number {id}; approved by {names}; {state}. ",
                        id=run.run_id,
                        names=", ".join(sorted(run.approved)),
                        state=state,
                    ),
                    page.refs([run.started, run.finished]),
                    class_="soft",
                ),
                table(
                    [
                        say("Round"),
                        say("Ended"),
                        say("Updates accepted"),
                        say("Adapter"),
                        say("Entries"),
                    ],
                    rounds,
                ),
            )
        )
    return section(
        say("Rounds"),
        tag(
            "p",
            say(
                "An adapter is the small set of numbers that is trained; the base model never"
                " changes. Each released adapter is made of the updates that were accepted in its"
                " round, weighted by the declared units."
            ),
        ),
        *(parts or [tag("p", say("No run was started."))]),
    )


def _round_row(this: RoundEvidence, num_sites: int, page: Page) -> list[object]:
    say = page.say
    accepted = say("{a} of {b}", a=len(this.accepted), b=num_sites)
    if this.rejected:
        accepted += say(", {n} rejected", n=len(this.rejected))
    if this.released is not None and len(this.sites) < len(this.accepted):
        # A crash may lie between: the round was done again without a site that was gone.
        accepted += say(", {n} of them in the adapter", n=len(this.sites))
    adapter: object = (
        say("none: too few updates") if this.failed is not None else say("not released")
    )
    if this.released is not None:
        adapter = tag("code", this.adapter.removeprefix("sha256:")[:16])
    ended = clock(this.ended_at) if this.ended_at else say("no entry")
    entries = [this.released, this.failed, *this.accepted.values(), *this.rejected]
    return [str(this.server_round), ended, accepted, adapter, page.refs(entries, limit=4)]


def _refusals(refusals: Sequence[Refusal], page: Page) -> Html:
    say = page.say
    intro = tag(
        "p",
        say(
            "What a party was asked and did not do. A refusal is the protection at work; many of"
            " one kind deserve a question."
        ),
    )
    if not refusals:
        return section(say("Refusals"), intro, tag("p", say("None is in the log.")))
    top = max(len(refusal.entries) for refusal in refusals)
    rows = [
        [
            refusal.by,
            say(_REFUSED[refusal.event]),
            tag("code", refusal.rule),
            refusal.whom or "",
            f"{len(refusal.entries)}",
            amount_bar(len(refusal.entries), top, f"{refusal.rule}: {len(refusal.entries)}"),
            page.refs(refusal.entries),
        ]
        for refusal in refusals
    ]
    titles = [say("Who refused"), say("What"), say("Rule"), say("Whose"), say(">Times"), ""]
    parts = [intro, table([*titles, say("Entries")], rows)]
    missing = [
        number
        for refusal in refusals
        if refusal.event is Event.ENTRY_SET_ASIDE and refusal.rule in COUNTED
        for number in refusal.entries
    ]
    if missing:
        warning = say(
            "{n} of the entries that were set aside are about budget, tests or updates: the"
            " figures of this page lack them. Ask their institutions for the lines.",
            n=len(missing),
        )
        parts.append(tag("p", tag("strong", warning), page.refs(missing)))
    return section(say("Refusals"), *parts)


def _limits(page: Page) -> Html:
    points = (
        part
        for name, text in NOT_SHOWN
        for part in (tag("dt", page.say(name)), tag("dd", page.say(text)))
    )
    return section(page.say("What this evidence cannot show"), tag("dl", *points, class_="limits"))


def _check(log: VerifiedLog, beside: Sequence[tuple[str, str]], page: Page) -> Html:
    say = page.say
    rows = [[key.party, say(key.role.value), tag("code", key.fingerprint)] for key in log.keys]
    files: object = NOTHING
    if beside:
        files = table(
            [say("File beside this page"), "SHA-256"],
            [[name, tag("code", digest)] for name, digest in beside],
        )
    return section(
        say("How to check this report"),
        tag(
            "p",
            say(
                "Anyone with the log's folder and the public keys can repeat the check; it needs"
                " no account, no network and nothing of the parties' systems:"
            ),
        ),
        tag(
            "pre",
            "cloister-audit verify LOG --keys keys.json\ncloister-audit show LOG --json\n"
            "cloister-audit verify-report report.html --key KEY",
        ),
        tag(
            "p",
            say(
                "Older checkpoints compared: {n}. Fingerprints are SHA-256 of the public"
                " keys. Size and root of the log:",
                n=f"{log.num_checkpoints:,}",
            ),
        ),
        tag("pre", log.checkpoint.text.rstrip("\n")),
        table([say("Party"), say("Role"), say("Fingerprint of its key")], rows),
        files,
    )


def _entries(log: VerifiedLog, page: Page) -> Html:
    say = page.say
    whole = len(log.entries) <= MAX_LISTED_ENTRIES
    listed = range(len(log.entries)) if whole else sorted(page.cited)
    which = (
        say("All entries, in the order of the log.")
        if whole
        else say(
            "{n} entries that this report cites, in the order of the log.", n=f"{len(listed):,}"
        )
    )
    rows = (
        tag(
            "tr",
            tag("td", f"#{index}", class_="refs"),
            tag("td", clock(log.entries[index].at), class_="refs"),
            tag("td", log.entries[index].party),
            tag("td", log.entries[index].event.value.replace("-", " ")),
            tag("td", describe(log.entries[index])),
            id=quote(f"entry-{index}"),
        )
        for index in listed
    )
    titles = [
        say("Entry"), say("Time (UTC)"), say("Party"), say("Event"), say("What it says")
    ]  # fmt: skip
    return tag(
        "section",
        tag("h2", say("The entries")),
        tag("p", which, class_="soft"),
        tag(
            "div",
            tag(
                "table",
                tag("thead", tag("tr", *(tag("th", title, scope="col") for title in titles))),
                tag("tbody", *rows),
                class_="entries",
            ),
            class_="wide",
        ),
        class_="page",
    )


def describe(entry: Entry) -> str:
    """An entry's fields in one line, the long ones left out."""
    said = entry.predicate
    shown = [
        f"{name.replace('_', ' ')} {_short(said[name])}" for name in said if name not in _LONG
    ]
    shown += [
        f"{name} {digest.removeprefix('sha256:')[:12]}" for name, digest in entry.subjects.items()
    ]
    return ", ".join(shown)


def _short(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list):
        parts = (" ".join(map(str, part)) if isinstance(part, list) else part for part in value)
        return (", " if any(isinstance(part, list) for part in value) else " ").join(
            str(part) for part in parts
        )
    text = str(value)
    return text if len(text) <= 32 else f"{text[:16]}…"
