"""The status of each control, from the evidence and from what a person declared.

Five statuses, and no verdict among them. `covers` of a control is a ceiling: a log of training
never shows more of an article than its file says it can.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum

from privacy.compliance.declarations import Declaration
from privacy.compliance.evidence import Evidence
from privacy.compliance.queries import QUERIES, Finding, Shown
from privacy.compliance.regimes import Control, Regime
from privacy.compliance.words import Words


class Status(StrEnum):
    """What there is for a control."""

    EVIDENCED = "evidenced"
    PARTLY = "partly"
    DECLARED = "declared by a person"
    NOT_APPLICABLE = "not applicable"
    NO_EVIDENCE = "no evidence"


@dataclass(frozen=True, kw_only=True, slots=True)
class Assessed:
    """A control and what there is for it.

    Attributes:
      control: The control.
      status: What there is.
      findings: Query -> its answer.
      declaration: What a person said of it.
    """

    control: Control
    status: Status
    findings: Mapping[str, Finding]
    declaration: Declaration | None

    @property
    def entries(self) -> tuple[int, ...]:
        """Entries that speak to it, sorted."""
        return tuple(sorted({n for f in self.findings.values() for n in f.entries}))


@dataclass(frozen=True, slots=True)
class AssessedRegime:
    """A regime and its controls, assessed."""

    regime: Regime
    controls: tuple[Assessed, ...]


def assess(
    evidence: Evidence,
    regimes: Iterable[Regime],
    declarations: Mapping[str, Declaration],
    words: Words,
) -> list[AssessedRegime]:
    """Ask each control's queries, once each."""
    answers: dict[str, Finding] = {}

    def ask(name: str) -> Finding:
        if name not in answers:
            found = QUERIES[name](evidence, words)
            # Whoever made up a log made up the keys beside it too: it shows nothing wholly.
            if evidence.log.keys_from_log and found.shown is Shown.SHOWN:
                found = replace(found, shown=Shown.PARTLY)
            answers[name] = found
        return answers[name]

    assessed = []
    for regime in regimes:
        rows = []
        for control in regime.controls:
            findings = {name: ask(name) for name in control.evidence}
            declaration = declarations.get(control.id)
            rows.append(
                Assessed(
                    control=control,
                    status=status(control.covers, findings.values(), declaration),
                    findings=findings,
                    declaration=declaration,
                )
            )
        assessed.append(AssessedRegime(regime, tuple(rows)))
    return assessed


def status(covers: str, findings: Iterable[Finding], declaration: Declaration | None) -> Status:
    """The status of a control; a person's word never becomes evidence, only stands beside it.

    Nor does it take evidence away: a control of which the log shows something applies. That one
    does not apply is believed of a signed sheet only.
    """
    shown = [finding.shown for finding in findings]
    if covers == "whole" and shown and all(this is Shown.SHOWN for this in shown):
        return Status.EVIDENCED
    if covers != "nothing" and any(this is not Shown.NOTHING for this in shown):
        return Status.PARTLY
    if declaration is None:
        return Status.NO_EVIDENCE
    if declaration.signed and not declaration.applies:
        return Status.NOT_APPLICABLE
    return Status.DECLARED
