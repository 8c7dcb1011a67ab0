"""The part of the page on law and standards: each control, its status, and why."""

from collections import Counter
from collections.abc import Sequence

from privacy.compliance.controls import Assessed, AssessedRegime, Status
from privacy.compliance.declarations import Sheet
from privacy.compliance.markup import NOTHING, Html, join, tag
from privacy.compliance.page import Page, note, section, table

_LOOKS = {
    Status.EVIDENCED: "evidenced",
    Status.PARTLY: "partly",
    Status.DECLARED: "declared",
    Status.NOT_APPLICABLE: "not-applicable",
    Status.NO_EVIDENCE: "none",
}


def controls_section(regimes: Sequence[AssessedRegime], sheet: Sheet | None, page: Page) -> Html:
    """All regimes, with a summary before them."""
    say = page.say
    titles = [say("Regime"), *(f">{say(status.value)}" for status in Status)]
    rows = []
    for assessed in regimes:
        counts = Counter(row.status for row in assessed.controls)
        name = assessed.regime.name[say.language]
        rows.append([name, *(f"{counts[status]}" for status in Status)])
    return section(
        say("Law and standards"),
        tag(
            "p",
            say(
                "What this log says to single articles. A status speaks of this training only,"
                " not of an institution. 'Evidenced' means that entries show all that the article"
                " asks of such a log; 'partly', that they show some of it; what is missing stands"
                " beside it. A declaration is a person's word and no evidence. Whether the law is"
                " kept is for people to judge."
            ),
        ),
        table(titles, rows),
        _declared_by(sheet, page),
        *(_regime(assessed, page) for assessed in regimes),
    )


def _declared_by(sheet: Sheet | None, page: Page) -> Html:
    say = page.say
    if sheet is None:
        return note(
            say(
                "No person declared anything. cloister-audit declarations writes a sheet to fill"
                " in and sign."
            ),
            warn=True,
        )
    signed = (
        say("The sheet is signed by key {key}.", key=sheet.signed_by)
        if sheet.signed_by
        else say("The sheet's signature was not checked.")
    )
    return note(
        say(
            "Declarations are by {name}, {role}, of {date}. Nothing here can check what they say.",
            name=sheet.name,
            role=sheet.role,
            date=sheet.date.isoformat(),
        ),
        " ",
        signed,
        warn=not sheet.signed_by,
    )


def _regime(assessed: AssessedRegime, page: Page) -> Html:
    say, regime = page.say, assessed.regime
    titles = [say("Reference"), say("What it asks for"), say("Status"), say("What there is")]
    return join(
        tag("h3", regime.name[say.language]),
        tag("p", regime.source, ". ", regime.note[say.language], class_="soft"),
        table(titles, (_row(row, page) for row in assessed.controls), class_="controls"),
    )


def _row(row: Assessed, page: Page) -> list[object]:
    say = page.say
    status = tag("span", say(row.status.value), class_=f"status {_LOOKS[row.status]}")
    parts: list[Html] = [
        tag("p", finding.text, " ", page.refs(finding.entries))
        for finding in row.findings.values()
    ]
    if row.declaration is not None:
        parts.append(tag("blockquote", row.declaration.statement))
    missing: Html = NOTHING
    if row.status is not Status.NOT_APPLICABLE:
        missing = tag(
            "p", tag("b", say("Not shown: ")), row.control.missing[say.language], class_="soft"
        )
    return [
        row.control.ref,
        row.control.asks[say.language],
        status,
        join(*parts, missing),
    ]
