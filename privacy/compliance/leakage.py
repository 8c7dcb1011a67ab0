"""The part of the page on tests of adapters.

What attacks made of one, from noised counts, and how well it remembers the secrets of tracers.
"""

from privacy.compliance.chart import interval_bar
from privacy.compliance.evidence import AdapterTest, Evidence, RunEvidence, SiteEvidence
from privacy.compliance.markup import NOTHING, Html, join, tag
from privacy.compliance.page import Page, note, section, table
from privacy.dp import exposure, membership
from privacy.dp.membership import Attack, Estimate, Rate

_ATTACKS = {"loss": "loss", "reference": "loss beside the base's"}


def leakage(evidence: Evidence, page: Page) -> Html:
    """Membership inference and exposure, where a site tested an adapter or a plan has tracers."""
    tests = [test for site in evidence.sites.values() for test in site.tests]
    has_tracers = any(run.plan.exposure.tracers for run in evidence.runs.values())
    if not tests and not has_tracers:
        return NOTHING
    return section(
        page.say("Privacy tests of adapters"),
        _membership(tests, page) if tests else NOTHING,
        _exposure(evidence, page),
    )


def _membership(tests: list[AdapterTest], page: Page) -> Html:
    say = page.say
    rows = [row for test in tests if test.counts for row in _rows(test, page)]
    return join(
        tag(
            "p",
            say(
                "An institution tried to tell, from losses under a released adapter, the units"
                " that it trained on from units that it held out. The area under the curve is the"
                " chance to put one of each in the right order: 0.5 is guessing. The counts behind"
                " these figures were noised at the institution and paid from its budget; 95 %"
                " intervals hold that noise."
            ),
        ),
        table(
            [
                say("Institution"),
                say("Attack on"),
                say(">Area under the curve"),
                "",
                *(
                    say(">Found at {n} % false alarms", n=f"{100 * rate:g}")
                    for rate in membership.FALSE_ALARMS
                ),
                say(">Epsilon by itself"),
                say("Entries"),
            ],
            rows,
        )
        if rows
        else NOTHING,
        _untold(tests, page),
        note(
            say(
                "What it shows: how these two attacks did at the institutions that ran them. What"
                " it cannot show: that a stronger attack fails, that another institution's units"
                " are as safe, or that the figures are those that were measured. An area near 0.5"
                " proves no privacy; the bound for every attack is the epsilon above. An interval"
                " above 0.5 is no breach of the claim, but a reason to ask. A person may have seen"
                " exact figures before deciding to release."
            ),
            warn=True,
        ),
    )


def _exposure(evidence: Evidence, page: Page) -> Html:
    """How well released adapters remember secrets that were made up to be looked for."""
    say = page.say
    rows = [
        _exposure_row(site, run, page)
        for run in evidence.runs.values()
        if run.released
        for site in evidence.sites.values()
        if site.name in {share.name for share in run.plan.sites}
    ]
    return join(
        tag("h3", say("Exposure of made-up secrets")),
        tag(
            "p",
            say(
                "A plan may add tracers to what each institution trains on: made-up units with"
                " random secrets, added after masking, clipped and noised like every other. After"
                " the run each secret is ranked, by its loss under the released adapter, among {n}"
                " of its kind. Exposure is log2 {n} minus log2 of the rank: {most} bits for a"
                " secret known by heart, {chance} on average by chance alone. The p-value bounds"
                " the chance of such a mean where nothing is remembered. The figures follow from"
                " the adapter and from made-up secrets alone, and cost no budget.",
                n=f"{exposure.NUM_CANDIDATES:,}",
                most=f"{exposure.bits(1):g}",
                chance=f"{exposure.CHANCE_BITS:.1f}",
            ),
        ),
        table(
            [
                say("Run"),
                say("Institution"),
                say(">Tracers"),
                say(">Mean, in bits"),
                say(">Largest"),
                say(">p-value"),
                say(">Allowed on average"),
                say("Entries"),
            ],
            rows,
        ),
        note(
            say(
                "What it shows: whether this adapter finds short random texts that stood in one"
                " unit of the training likelier than others of their kind. What it cannot show:"
                " that a stronger attack fails, or how well a text is remembered that stands in"
                " many records, which no guarantee about one unit covers. 'Allowed on average' is"
                " what epsilon and delta of the plan bound, over the chance of all runs, where"
                " losses do not tie: a single run may lie above. That an institution's secrets"
                " were pinned in the log before its first update was sent, is checked. That they"
                " were trained on, and that the ranks are those that were measured, the log cannot"
                " show, and a person may have seen them before deciding to release."
            ),
            warn=True,
        ),
    )


def _exposure_row(site: SiteEvidence, run: RunEvidence, page: Page) -> list[object]:
    planned = run.plan.exposure.tracers
    named: list[object] = [run.plan.run, site.name, f"{planned}"]
    ranked = site.ranked.get(run.run_id)
    if ranked is None:
        if not planned:
            return [*named, page.say("not measured: the plan has no tracers"), *[""] * 4]
        refs = page.refs([site.tracers_in.get(run.digest)])
        return [*named, page.say("not measured"), "", "", "", refs]
    found, mechanism = exposure.summarise(ranked.ranks), run.plan.mechanism
    allowed = exposure.allowed_mean(mechanism.target_epsilon, mechanism.delta)
    return [
        *named,
        f"{found.mean:.2f}",
        f"{found.largest:.2f}",
        f"{found.p_value:.2g}",
        f"{allowed:.2f}",
        page.refs([site.tracers_in.get(run.digest), *ranked.entries]),
    ]


def _rows(test: AdapterTest, page: Page) -> list[list[object]]:
    rows: list[list[object]] = []
    for name, what in _ATTACKS.items():
        attack = membership.estimate(name, test.counts, test.noise_multiplier)
        rows.append(
            [
                test.site,
                page.say(what),
                *_area(attack, page),
                *(_rate(rate, page) for rate in attack.rates),
                f"{test.epsilon:.3f}",
                page.refs(test.entries),
            ]
        )
    return rows


def _area(attack: Attack, page: Page) -> list[object]:
    if attack.auc is None:
        return [page.say("too few units for the noise"), ""]
    figure = _with_interval(attack.auc)
    area = attack.auc
    return [figure, interval_bar(area.low, area.value, area.high, 0.5, figure)]


def _rate(rate: Rate, page: Page) -> object:
    if rate.tpr is None:
        return page.say("cannot be told with fewer than {n} held out", n=f"{rate.needs:,}")
    return _with_interval(rate.tpr)


def _with_interval(figure: Estimate) -> str:
    return f"{figure.value:.2f} [{figure.low:.2f}, {figure.high:.2f}]"


def _untold(tests: list[AdapterTest], page: Page) -> Html:
    """Tests that were paid and whose figures never came: they must not be overlooked."""
    untold = [test for test in tests if not test.counts]
    if not untold:
        return NOTHING
    names = ", ".join(sorted({test.site for test in untold}))
    return tag(
        "p",
        join(
            page.say("Begun, without figures in this log: {names}. ", names=names),
            page.refs([entry for test in untold for entry in test.entries]),
        ),
    )
