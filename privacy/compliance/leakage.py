"""The part of the page on tests of adapters: what attacks made of one, from noised counts."""

from privacy.compliance.chart import interval_bar
from privacy.compliance.evidence import AdapterTest, Evidence
from privacy.compliance.markup import NOTHING, Html, join, tag
from privacy.compliance.page import Page, note, section, table
from privacy.dp import membership
from privacy.dp.membership import Attack, Estimate, Rate

_ATTACKS = {"loss": "loss", "reference": "loss beside the base's"}


def leakage(evidence: Evidence, page: Page) -> Html:
    """Membership inference against released adapters, where a site tested one."""
    tests = [test for site in evidence.sites.values() for test in site.tests]
    if not tests:
        return NOTHING
    say = page.say
    rows = [row for test in tests if test.counts for row in _rows(test, page)]
    return section(
        say("Privacy tests of adapters"),
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
