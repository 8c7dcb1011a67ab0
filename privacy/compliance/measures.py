"""The page's figures of privacy: epsilon against budget, and recall of masking."""

from privacy.compliance.chart import interval_bar, spend_chart
from privacy.compliance.evidence import Evidence, RunEvidence, SiteEvidence
from privacy.compliance.markup import NOTHING, Html, join, tag
from privacy.compliance.page import Page, section, table
from privacy.compliance.statements import privacy_claim
from privacy.dp.guarantee import NOT_COVERED
from privacy.masking.figures import OverMasking, Recall


def privacy(evidence: Evidence, page: Page) -> Html:
    """Epsilon by round against each budget, and the claim point by point."""
    say = page.say
    spenders = [site for site in evidence.sites.values() if site.spends]
    spends = [spend for site in spenders for spend in site.spends]
    top = 1.12 * max((max(s.budget_epsilon, s.epsilon_total) for s in spends), default=1.0)
    charts = [_chart(site, top, page) for site in spenders]
    claims = [
        join(
            tag("h3", say("Run {name}", name=run.plan.run)),
            tag("dl", *_claim(run, page)),
        )
        for run in evidence.runs.values()
    ]
    return section(
        say("Differential privacy"),
        tag(
            "p",
            say(
                "Each round spends some of an institution's budget. The steps show epsilon over"
                " everything in its ledger after each round; the dashed line is the budget that"
                " the institution set itself. The budget of a round is committed before its"
                " update leaves, that of a test of an adapter before its figures do."
            ),
        ),
        tag("div", *charts, class_="charts") if charts else tag("p", say("Nothing was spent.")),
        *claims,
        tag("h3", say("What the claim does not cover")),
        tag("ul", *(tag("li", say(line)) for line in NOT_COVERED)),
    )


def _chart(site: SiteEvidence, top: float, page: Page) -> Html:
    chart = spend_chart(
        site.name,
        [(spend.server_round, spend.epsilon_total) for spend in site.spends],
        site.spends[-1].budget_epsilon,
        top,
        page.say,
    )
    cited = page.refs([spend.entry for spend in site.spends], limit=1)
    return tag("figure", tag("figcaption", site.name, " ", cited), chart)


def _claim(run: RunEvidence, page: Page) -> list[Html]:
    approvals = page.refs([run.offered, *run.approved.values()])
    where = join(tag("code", run.digest), " ", approvals)
    points = [tag("dt", page.say("Plan")), tag("dd", where)]
    for name, text in privacy_claim(run.plan, page.say):
        points += [tag("dt", name), tag("dd", text)]
    return points


def masking(evidence: Evidence, page: Page) -> Html:
    """What was masked, and recall on planted examples."""
    say, rows = page.say, []
    for site in evidence.sites.values():
        types = ", ".join(page.kind(kind) for kind in site.masked)
        tests = page.refs(site.self_tests, limit=1) if site.self_tests else say("no entry")
        rows.append([site.name, types or say("no entry"), tests, page.refs(site.masked_in, 1)])
    return section(
        say("Masking of personal data"),
        tag(
            "p",
            say(
                "Before a record is used, the institution replaces personal data of these kinds,"
                " by the name of the kind, a made-up value or nothing, as the plan says. How many"
                " were found depends on records and stays at the institution, which can show it"
                " later: the log holds a salted digest of the counts."
            ),
        ),
        table(
            [say("Institution"), say("Masked"), say("Self-test of training"), say("Entries")], rows
        ),
        _recall(evidence, page),
    )


def _recall(evidence: Evidence, page: Page) -> Html:
    """What each site found of planted examples, by type."""
    say = page.say
    sites = [site for site in evidence.sites.values() if site.recalls]
    if not sites:
        return NOTHING
    floors = [run.plan.masking.recall_floor for run in evidence.runs.values()]
    floor = max(floors, default=0.0)
    ceilings = [run.plan.masking.max_over_masking for run in evidence.runs.values()]
    # Sites that run the same version find the same: say it once, and name who said it.
    groups: dict[Recall, list[SiteEvidence]] = {}
    for site in sites:
        for recall in site.recalls:
            groups.setdefault(recall, []).append(site)
    rows = []
    for recall, sayers in sorted(groups.items(), key=lambda item: item[0]):
        low, high = recall.interval
        share = recall.share
        kind = page.kind(recall.entity_type)
        figure = f"{share:.2f} [{low:.2f}, {high:.2f}]"
        rows.append(
            [
                f"{kind}, {page.tongue(recall.source)}",
                f"{recall.num_found} / {recall.num_planted}",
                f"{recall.num_typed} / {recall.num_planted}",
                figure,
                interval_bar(low, share, high, floor, f"{kind}: {figure}"),
                ", ".join(site.name for site in sayers),
                page.refs([number for site in sayers for number in site.masked_in]),
            ]
        )
    return join(
        tag("h3", say("Recall on planted examples")),
        tag(
            "p",
            say(
                "Masking reduces identifiers; it does not remove all of them. Each institution"
                " masks the same planted examples before it reads a record, and trains nothing"
                " where it finds too few (the dashed line). A figure is the share that was masked"
                " whole, with its 95 % interval (Wilson). It says that a recogniser works, not"
                " how many identifiers of real records it finds."
            ),
        ),
        table(
            [
                say("Kind"),
                say(">Found"),
                say(">As this kind"),
                say(">Recall"),
                "",
                say("Institutions"),
                say("Entries"),
            ],
            rows,
        ),
        _unmeasured(sites, page),
        _over_masking(sites, max(ceilings, default=0.0), page),
    )


def _over_masking(sites: list[SiteEvidence], ceiling: float, page: Page) -> Html:
    """In how many sentences without personal data each site masked something."""
    say = page.say
    groups: dict[OverMasking, list[SiteEvidence]] = {}
    for site in sites:
        for figure in site.over_masking:
            groups.setdefault(figure, []).append(site)
    rows = []
    for figure, sayers in sorted(groups.items(), key=lambda item: item[0]):
        low, high = figure.interval
        text = f"{figure.share:.2f} [{low:.2f}, {high:.2f}]"
        tongue = page.tongue(figure.source)
        rows.append(
            [
                tongue,
                f"{figure.num_masked} / {figure.num_clean}",
                text,
                interval_bar(low, figure.share, high, ceiling, f"{tongue}: {text}"),
                ", ".join(site.name for site in sayers),
                page.refs([number for site in sayers for number in site.masked_in]),
            ]
        )
    return join(
        tag("h3", say("Masked needlessly")),
        tag(
            "p",
            say(
                "Whoever masks everything finds everything. So each institution also masks"
                " sentences without personal data, and trains nothing where something is masked"
                " in too many of them (the dashed line)."
            ),
        ),
        table(
            [
                say("Language"),
                say(">Masked"),
                say(">Share"),
                "",
                say("Institutions"),
                say("Entries"),
            ],
            rows,
        ),
    )


def _unmeasured(sites: list[SiteEvidence], page: Page) -> Html:
    left: set[tuple[str, str]] = set()
    for site in sites:
        measured = {(recall.entity_type, recall.source) for recall in site.recalls}
        languages = {figure.source for figure in site.over_masking}
        left |= {(kind, tongue) for kind in site.masked for tongue in languages} - measured
    if not left:
        return NOTHING
    names = "; ".join(f"{page.kind(kind)}, {page.tongue(tongue)}" for kind, tongue in sorted(left))
    return tag("p", page.say("Masked, and not measured in this language: {names}.", names=names))
