"""The report for whoever answers for data protection: one HTML page that needs nothing beside it.

It says what a verified log shows, links every figure to its entries, and says as clearly what no
log can show. There is no script, no remote font and no image; it prints on A4. It gives no verdict
on law: that is for people.
"""

from collections.abc import Iterable, Sequence
from datetime import datetime
from importlib import resources
from urllib.parse import quote

from privacy.audit.entry import Entry, Event, format_time
from privacy.audit.verify import VerifiedLog
from privacy.compliance.chart import change_bar, spend_chart
from privacy.compliance.evidence import (
    Evidence,
    Refusal,
    RoundEvidence,
    RunEvidence,
    SiteEvidence,
    gather,
)
from privacy.compliance.markup import NOTHING, Html, escaped, join, tag
from privacy.compliance.results import Quality, Results
from privacy.compliance.statements import NOT_COVERED, NOT_SHOWN, privacy_claim
from privacy.errors import ConfigError

MAX_LISTED_ENTRIES = 1000
_KINDS = {
    "ACCOUNT_NUMBER": "account numbers",
    "AGE": "ages over 89",
    "CREDIT_CARD": "card numbers",
    "CUSTOMER_ID": "customer numbers",
    "CVV": "card security codes",
    "DATE": "dates",
    "DEVICE_ID": "device numbers",
    "EMAIL": "e-mail addresses",
    "HEALTH_PLAN_NUMBER": "health plan numbers",
    "IBAN": "IBANs",
    "IP_ADDRESS": "IP addresses",
    "LICENCE_NUMBER": "licence numbers",
    "LOCATION": "places and addresses",
    "PASSPORT": "passport numbers",
    "PASSWORD": "passwords",
    "PERSON": "names",
    "PHONE": "phone numbers",
    "RECORD_NUMBER": "record numbers",
    "RESIDENT_ID": "resident identity numbers",
    "ROUTING_NUMBER": "routing numbers",
    "SOCIAL_CREDIT_CODE": "social credit codes",
    "SORT_CODE": "sort codes",
    "SSN": "social security numbers",
    "SWIFT": "SWIFT codes",
    "URL": "web addresses",
    "VEHICLE": "plates and vehicle numbers",
}
_LANGUAGES = {"en": "English", "zh": "Chinese"}
_REFUSED = {
    Event.DOOR_REFUSED: "a connection or call",
    Event.UPDATE_REJECTED: "an update",
    Event.PLAN_REFUSED: "a plan",
    Event.BUDGET_REFUSED: "a spend over the budget",
    Event.INSTRUCTION_REFUSED: "an instruction of the coordinator",
    Event.REPLY_REFUSED: "a reply of its own training program",
}


def render_report(log: VerifiedLog, results: Iterable[Results] = (), *, at: datetime) -> str:
    """The whole page.

    Args:
      log: As `privacy.audit.verify.verify_log` returns it.
      results: What sites measured and handed over.
      at: When the report is made.

    Raises:
      ConfigError: The log is empty, or results are of a site that is not in the log.
    """
    if not log.entries:
        raise ConfigError("expected a log with entries, got an empty one")
    evidence = gather(log)
    measured = {result.site: result for result in results}
    strangers = sorted(set(measured) - set(evidence.sites))
    if strangers:
        raise ConfigError(
            f"expected results of enrolled sites, got some of {', '.join(strangers)}",
            hint="hand over results.json of sites in this log only",
        )
    css = resources.files("privacy.compliance").joinpath("templates/report.css").read_text("utf-8")
    cited: set[int] = set()
    refs = _Refs(cited)
    body = join(
        _head(evidence, at),
        _tiles(evidence),
        _trust(log),
        _sites(evidence, refs),
        _quality(measured) if measured else NOTHING,
        _privacy(evidence, refs),
        _masking(evidence, refs),
        _rounds(evidence, refs),
        _refusals(evidence.refusals, refs),
        _limits(),
        _check(log),
        _entries(log, cited),
        tag(
            "footer",
            "Made by cloister-audit from a log whose every entry was checked. This report"
            " describes evidence; it is no legal assessment.",
        ),
    )
    policy = "default-src 'none'; style-src 'unsafe-inline'"
    head = join(
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=policy),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("title", f"Evidence report: {evidence.federation}"),
        tag("style", Html(css)),
    )
    return f'<!doctype html>\n<html lang="en"><head>{head}</head>\n<body>{body}</body></html>\n'


class _Refs:
    """Links from a figure to the entries that it comes from."""

    def __init__(self, cited: set[int]) -> None:
        self._cited = cited

    def __call__(self, entries: Iterable[int | None], limit: int = 3) -> Html:
        known = sorted({entry for entry in entries if entry is not None})
        self._cited.update(known)
        links = [tag("a", f"#{entry}", href=f"#entry-{entry}") for entry in known[:limit]]
        if len(known) > limit:
            links.append(escaped(f"and {len(known) - limit} more"))
        separated = [part for link in links for part in (" ", link)][1:]
        return tag("span", *separated, class_="refs")


def _head(evidence: Evidence, at: datetime) -> Html:
    log = evidence.log
    return tag(
        "header",
        tag("p", "Evidence report", class_="eyebrow"),
        tag("h1", evidence.federation),
        tag(
            "p",
            f"What {len(evidence.sites)} institutions and a coordinator wrote down while they"
            f" trained a model together, {_period(evidence.first_at, evidence.last_at)}. All"
            f" {len(log.entries):,} entries of their log were checked: each is signed by the"
            " party that it names, stands in its place, and follows from the ones before. The log"
            " holds no records: its entries have fixed fields and no place for text of a record.",
            class_="lead",
        ),
        tag(
            "p",
            f"Made {format_time(at)} from log {log.checkpoint.origin}, {log.checkpoint.size:,}"
            " entries, root ",
            tag("code", log.checkpoint.root.hex()),
            ".",
            class_="soft",
        ),
    )


def _tiles(evidence: Evidence) -> Html:
    sites = evidence.sites.values()
    num_sent = sum(len(site.sent) for site in sites)
    num_released = sum(len(run.released) for run in evidence.runs.values())
    num_refused = sum(len(refusal.entries) for refusal in evidence.refusals)
    spends = [site.spends[-1] for site in sites if site.spends]
    tiles = [
        _tile(f"{len(evidence.sites)}", "institutions enrolled"),
        _tile(
            f"{num_released}",
            "rounds ended with a new adapter",
            of=sum(run.plan.rounds.num_rounds for run in evidence.runs.values()),
        ),
        _tile(f"{num_sent}", f"updates left institutions, {_bytes(_sent_bytes(evidence))} in all"),
    ]
    if spends:
        most = max(spends, key=lambda spend: spend.epsilon_total)
        tiles.append(
            _tile(
                f"{most.epsilon_total:.2f}",
                "epsilon, the most that one institution spent of its privacy budget",
                of=f"{most.budget_epsilon:g}",
            )
        )
    tiles.append(_tile(f"{num_refused}", "refusals by any party"))
    return tag("div", *tiles, class_="tiles")


def _tile(value: str, label: str, *, of: object = None) -> Html:
    whole = tag("small", f" of {of}") if of is not None else NOTHING
    return tag("div", tag("b", value, whole), tag("span", label), class_="tile")


def _trust(log: VerifiedLog) -> Html:
    if not log.keys_from_log:
        return tag(
            "div",
            tag("p", "The signatures were checked against public keys that the reader supplied."),
            class_="note",
        )
    return tag(
        "div",
        tag(
            "p",
            tag("b", "The public keys came with the log. "),
            "So this report shows that the log is consistent in itself, not yet who wrote it."
            " Compare the fingerprints at its end with the parties, by voice, or repeat the"
            " check with keys from another source (--keys).",
        ),
        class_="note warn",
    )


def _section(title: str, *parts: object) -> Html:
    return tag("section", tag("h2", title), *parts)


def _table(columns: Sequence[str], rows: Iterable[Iterable[object]], **attributes: object) -> Html:
    """A table; a column whose title begins with `>` holds numbers, the first holds names."""
    kinds = ["num" if column.startswith(">") else None for column in columns]
    titles = [
        tag("th", column.removeprefix(">"), class_=kind, scope="col")
        for column, kind in zip(columns, kinds, strict=True)
    ]
    body = []
    for row in rows:
        cells = [
            tag("th", cell, scope="row") if place == 0 and kind is None else _cell(cell, kind)
            for place, (cell, kind) in enumerate(zip(row, kinds, strict=True))
        ]
        body.append(tag("tr", *cells))
    return tag(
        "div",
        tag("table", tag("thead", tag("tr", *titles)), tag("tbody", *body), **attributes),
        class_="wide",
    )


def _cell(value: object, kind: str | None) -> Html:
    return tag("td", value, class_=kind)


def _sites(evidence: Evidence, refs: _Refs) -> Html:
    def row(site: SiteEvidence) -> list[object]:
        last = site.spends[-1] if site.spends else None
        state = tag("b", "revoked ", refs(site.revoked)) if site.revoked else NOTHING
        return [
            join(site.name, " ", state),
            f"{site.num_units:,}",
            tag("code", site.certificate_serial[:16]),
            f"{len(site.sent)}",
            _bytes(site.bytes_sent),
            f"{last.epsilon_total:.3f} of {last.budget_epsilon:g}" if last else "nothing",
            refs([*site.enrolled, *site.sent], limit=2),
        ]

    return _section(
        "Institutions",
        tag(
            "p",
            "Units are the patients, customers or records whose presence is protected; the"
            " number is the one that the institution declared in public. Epsilon is what its"
            " ledger has spent over all runs, recomputed for this report.",
        ),
        _table(
            [
                "Institution",
                ">Declared units",
                "Certificate",
                ">Updates sent",
                ">Sent",
                ">Epsilon spent of budget",
                "Entries",
            ],
            (row(site) for site in evidence.sites.values()),
        ),
    )


def _quality(measured: dict[str, Results]) -> Html:
    every = [quality for result in measured.values() for quality in result.quality.values()]
    low = min(quality.accuracy for quality in every)
    high = max(quality.accuracy for quality in every)

    def row(result: Results) -> list[object]:
        base, alone = result.quality.get("base"), result.quality.get("alone")
        federated = result.quality.get("federated")
        best = min((q.loss for q in result.quality.values()), default=0.0)
        bar: object = NOTHING
        if base is not None and federated is not None:
            bar = change_bar(base.accuracy, federated.accuracy, low, high)
        cells: list[object] = [result.site]
        for quality in (base, alone, federated):
            cells += _quality_cells(quality, best)
        return [*cells, bar]

    columns = [
        "Institution",
        ">Base: loss",
        ">accuracy",
        ">Trained alone: loss",
        ">accuracy",
        ">Federated: loss",
        ">accuracy",
        "Accuracy, base to federated",
    ]
    return _section(
        "What the model learnt",
        tag(
            "p",
            "Loss and accuracy on units that each institution held out of training: of the base"
            " model, of an adapter that the institution trained alone, and of the federated"
            " adapter. The lowest loss of a row is set in bold.",
        ),
        _table(columns, (row(result) for _, result in sorted(measured.items()))),
        tag(
            "div",
            tag(
                "p",
                "These figures are not part of the log. Institutions measured them at home and"
                " chose to hand them over; nothing here can check them.",
            ),
            class_="note warn",
        ),
    )


def _quality_cells(quality: Quality | None, best: float) -> list[object]:
    if quality is None:
        return ["not measured", ""]
    loss: object = f"{quality.loss:.3f}"
    if quality.loss <= best:
        loss = tag("span", loss, class_="best")
    return [loss, f"{100 * quality.accuracy:.1f} %"]


def _privacy(evidence: Evidence, refs: _Refs) -> Html:
    spenders = [site for site in evidence.sites.values() if site.spends]
    top = 1.12 * max(
        (
            max(spend.budget_epsilon, spend.epsilon_total)
            for site in spenders
            for spend in site.spends
        ),
        default=1.0,
    )
    charts = [
        tag(
            "figure",
            tag(
                "figcaption",
                site.name,
                " ",
                refs([spend.entry for spend in site.spends], limit=1),
            ),
            spend_chart(
                site.name,
                [(spend.server_round, spend.epsilon_total) for spend in site.spends],
                site.spends[-1].budget_epsilon,
                top,
            ),
        )
        for site in spenders
    ]
    claims = [
        join(
            tag("h3", f"Run {run.plan.run}"),
            tag("dl", *(tag(k, v) for point in _claim(run, refs) for k, v in point)),
        )
        for run in evidence.runs.values()
    ]
    return _section(
        "Differential privacy",
        tag(
            "p",
            "Each round spends some of an institution's budget. The steps show epsilon over"
            " everything in its ledger after each round; the dashed line is the budget that the"
            " institution set itself. The budget of a round is committed before its update"
            " leaves.",
        ),
        tag("div", *charts, class_="charts") if charts else tag("p", "Nothing was spent."),
        *claims,
        tag("h3", "What the claim does not cover"),
        tag("ul", *(tag("li", line) for line in NOT_COVERED)),
    )


def _claim(run: RunEvidence, refs: _Refs) -> list[tuple[tuple[str, Html], ...]]:
    points = [
        (("dt", escaped(name)), ("dd", escaped(text))) for name, text in privacy_claim(run.plan)
    ]
    where = join(tag("code", run.digest), " ", refs([run.offered, *run.approved.values()]))
    return [(("dt", escaped("Plan")), ("dd", where)), *points]


def _masking(evidence: Evidence, refs: _Refs) -> Html:
    rows = []
    for site in evidence.sites.values():
        types = ", ".join(_KINDS.get(kind, kind) for kind in site.masked)
        tests = refs(site.self_tests, limit=1) if site.self_tests else "no entry"
        rows.append(
            [site.name, types or "no entry", tests, refs(site.masked_in, limit=1)],
        )
    return _section(
        "Masking of personal data",
        tag(
            "p",
            "Before a record is used, the institution replaces personal data of these kinds, by"
            " the name of the kind, a made-up value or nothing, as the plan says. How many were"
            " found depends on records and stays at the institution, which can show it later: the"
            " log holds a salted digest of the counts.",
        ),
        _table(["Institution", "Masked", "Self-test of training", "Entries"], rows),
        _recall(evidence, refs),
    )


def _recall(evidence: Evidence, refs: _Refs) -> Html:
    """What each site found of planted examples, by type."""
    sites = [site for site in evidence.sites.values() if site.recalls]
    if not sites:
        return NOTHING
    kinds = sorted(
        {(recall.entity_type, recall.source) for site in sites for recall in site.recalls}
    )

    def row(entity_type: str, language: str) -> list[object]:
        cells: list[object] = [
            f"{_KINDS.get(entity_type, entity_type)}, {_LANGUAGES.get(language, language)}"
        ]
        for site in sites:
            found = {(r.entity_type, r.source): r for r in site.recalls}
            recall = found.get((entity_type, language))
            if recall is None:
                cells.append("not planted")
                continue
            low, high = recall.interval
            cells.append(f"{recall.share:.2f} [{low:.2f}, {high:.2f}]")
        return cells

    unmeasured = sorted(
        {kind for site in sites for kind in site.masked} - {kind for kind, _ in kinds}
    )
    note = NOTHING
    if unmeasured:
        names = ", ".join(_KINDS.get(kind, kind) for kind in unmeasured)
        note = tag("p", f"Masked, and not measured in the plan's languages: {names}.")
    return join(
        tag("h3", "Recall on planted examples"),
        tag(
            "p",
            "Masking reduces identifiers; it does not remove all of them. Each institution masks"
            " the same planted examples before it reads a record, and trains nothing where it"
            " finds too few. A figure is the share that was masked whole, with its 95 % interval"
            " (Wilson). It says that a recogniser works, not how many identifiers of real records"
            " it finds. ",
            refs([site.masked_in[-1] for site in sites if site.masked_in]),
        ),
        _table(
            ["Kind", *(f">{site.name}" for site in sites)],
            (row(entity_type, language) for entity_type, language in kinds),
        ),
        note,
    )


def _rounds(evidence: Evidence, refs: _Refs) -> Html:
    parts = []
    for run in evidence.runs.values():
        state = "ended" if run.finished is not None else "not ended when this log was read"
        parts.append(
            join(
                tag("h3", f"Run {run.plan.run}"),
                tag(
                    "p",
                    f"Number {run.run_id}; approved by {', '.join(sorted(run.approved))};"
                    f" {state}. ",
                    refs([run.started, run.finished]),
                    class_="soft",
                ),
                _table(
                    ["Round", "Ended", "Updates accepted", "Adapter", "Entries"],
                    (
                        _round_row(this, len(run.plan.sites), refs)
                        for _, this in sorted(run.rounds.items())
                    ),
                ),
            )
        )
    return _section(
        "Rounds",
        tag(
            "p",
            "An adapter is the small set of numbers that is trained; the base model never"
            " changes. Each released adapter is the mean of the updates that were accepted in"
            " its round, weighted by the declared units.",
        ),
        *(parts or [tag("p", "No run was started.")]),
    )


def _round_row(this: RoundEvidence, num_sites: int, refs: _Refs) -> list[object]:
    accepted = f"{len(this.accepted)} of {num_sites}"
    if this.rejected:
        accepted += f", {len(this.rejected)} rejected"
    adapter: object = "none: too few updates" if this.failed is not None else "not released"
    if this.released is not None:
        adapter = tag("code", this.adapter.removeprefix("sha256:")[:16])
    ended = _clock(this.ended_at) if this.ended_at else "no entry"
    entries = [this.released, this.failed, *this.accepted.values(), *this.rejected]
    return [str(this.server_round), ended, accepted, adapter, refs(entries, limit=4)]


def _refusals(refusals: Sequence[Refusal], refs: _Refs) -> Html:
    intro = tag(
        "p",
        "What a party was asked and did not do. A refusal is the protection at work; many of"
        " one kind deserve a question.",
    )
    if not refusals:
        return _section("Refusals", intro, tag("p", "None is in the log."))
    rows = [
        [
            refusal.by,
            _REFUSED[refusal.event],
            tag("code", refusal.rule),
            refusal.whom or "",
            f"{len(refusal.entries)}",
            refs(refusal.entries),
        ]
        for refusal in refusals
    ]
    return _section(
        "Refusals",
        intro,
        _table(["Who refused", "What", "Rule", "Whose", ">Times", "Entries"], rows),
    )


def _limits() -> Html:
    return _section(
        "What this evidence cannot show",
        tag(
            "dl",
            *(part for name, text in NOT_SHOWN for part in (tag("dt", name), tag("dd", text))),
            class_="limits",
        ),
    )


def _check(log: VerifiedLog) -> Html:
    rows = [[key.party, key.role.value, tag("code", key.fingerprint)] for key in log.keys]
    return _section(
        "How to check this report",
        tag(
            "p",
            "Anyone with the log's folder and the public keys can repeat the check; it needs no"
            " account, no network and nothing of the parties' systems:",
        ),
        tag("pre", "cloister-audit verify LOG --keys keys.json\ncloister-audit show LOG --json"),
        tag(
            "p",
            f"Older checkpoints compared: {log.num_checkpoints:,}. Fingerprints are SHA-256 of"
            " the Ed25519 public keys. Size and root of the log:",
        ),
        tag("pre", log.checkpoint.text.rstrip("\n")),
        _table(["Party", "Role", "Fingerprint of its key"], rows),
    )


def _entries(log: VerifiedLog, cited: set[int]) -> Html:
    whole = len(log.entries) <= MAX_LISTED_ENTRIES
    listed = range(len(log.entries)) if whole else sorted(cited)[:MAX_LISTED_ENTRIES]
    which = "All entries" if whole else f"{len(listed):,} of the entries that this report cites"
    rows = (
        tag(
            "tr",
            tag("td", f"#{index}", class_="refs"),
            tag("td", _clock(log.entries[index].at), class_="refs"),
            tag("td", log.entries[index].party),
            tag("td", log.entries[index].event.value.replace("-", " ")),
            tag("td", describe(log.entries[index])),
            id=quote(f"entry-{index}"),
        )
        for index in listed
    )
    titles = ("Entry", "Time (UTC)", "Party", "Event", "What it says")
    return tag(
        "section",
        tag("h2", "The entries"),
        tag("p", f"{which}, in the order of the log.", class_="soft"),
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
        f"{name.replace('_', ' ')} {_short(said[name])}"
        for name in said
        if name not in ("plan", "prior", "entity_types", "run_id", "delta", "commitment")
    ]
    shown += [
        f"{name} {digest.removeprefix('sha256:')[:12]}" for name, digest in entry.subjects.items()
    ]
    return ", ".join(shown)


def _short(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list):
        return " ".join(str(part) for part in value)
    text = str(value)
    return text if len(text) <= 32 else f"{text[:16]}…"


def _sent_bytes(evidence: Evidence) -> int:
    return sum(site.bytes_sent for site in evidence.sites.values())


def _bytes(count: int) -> str:
    if count < 1000:
        return f"{count} B"
    if count < 1_000_000:
        return f"{count / 1000:.1f} kB"
    return f"{count / 1_000_000:.1f} MB"


def _period(first: datetime, last: datetime) -> str:
    if first.date() == last.date():
        return f"on {_day(first)}"
    return f"from {_day(first)} to {_day(last)}"


def _day(at: datetime) -> str:
    return f"{at.day} {at:%B %Y}"


def _clock(at: datetime) -> str:
    return f"{at:%Y-%m-%d %H:%M:%S}"
