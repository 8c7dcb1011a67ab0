"""OSCAL 1.2 assessment results: one result a regime, a finding and observations a control."""

from typing import Any

from privacy.compliance.controls import Assessed, AssessedRegime, Status
from privacy.compliance.documents import Subject
from privacy.compliance.queries import Finding

OSCAL_VERSION = "1.2.1"
_NAMESPACE = "urn:cloister:oscal"
_MAX_ENTRIES = 20


def oscal(subject: Subject, regimes: list[AssessedRegime]) -> dict[str, Any]:
    """The document. OSCAL knows satisfied or not; our status stands beside it as a property.

    Only `evidenced` is satisfied: everything else is not, with its reason.
    """
    auditor = subject.uuid("party")
    return {
        "assessment-results": {
            "uuid": subject.uuid("oscal"),
            "metadata": {
                "title": f"Evidence of federation {subject.evidence.federation}",
                "last-modified": subject.time,
                "version": subject.root[:16],
                "oscal-version": OSCAL_VERSION,
                "props": [_prop("log-root", subject.root), _prop("plan", subject.run.digest)],
                "roles": [{"id": "assessor", "title": "Program that made this document"}],
                "parties": [{"uuid": auditor, "type": "organization", "name": "cloister-audit"}],
                "responsible-parties": [{"role-id": "assessor", "party-uuids": [auditor]}],
            },
            # There is no assessment plan but the queries of the regimes' files.
            "import-ap": {"href": f"#{subject.uuid('plan')}"},
            "results": [_result(subject, assessed) for assessed in regimes],
            "back-matter": {
                "resources": [
                    {
                        "uuid": subject.uuid("plan"),
                        "title": "The queries that each regime's file names",
                        "description": "privacy/compliance/regimes and queries",
                    }
                ]
            },
        }
    }


def _result(subject: Subject, assessed: AssessedRegime) -> dict[str, Any]:
    regime = assessed.regime
    evidence = subject.evidence
    names = sorted({name for row in assessed.controls for name in row.findings})
    answers: dict[str, Finding] = {
        name: finding for row in assessed.controls for name, finding in row.findings.items()
    }
    result: dict[str, Any] = {
        "uuid": subject.uuid("result", regime.id),
        "title": regime.name["en"],
        "description": f"{regime.source}. {regime.note['en']}",
        "start": evidence.first_at.isoformat(),
        "end": evidence.last_at.isoformat(),
        "reviewed-controls": {
            "control-selections": [
                {"include-controls": [{"control-id": _token(row)} for row in assessed.controls]}
            ]
        },
        "findings": [_finding(subject, regime.id, row) for row in assessed.controls],
    }
    if names:
        result["observations"] = [
            _observation(subject, regime.id, name, answers[name]) for name in names
        ]
    return result


def _observation(subject: Subject, regime: str, name: str, finding: Finding) -> dict[str, Any]:
    origin = subject.evidence.log.checkpoint.origin
    observation: dict[str, Any] = {
        "uuid": subject.uuid("observation", regime, name),
        "title": name,
        "description": finding.text,
        "methods": ["EXAMINE"],
        "props": [_prop("shown", finding.shown.value)],
        "collected": subject.time,
    }
    if finding.entries:
        observation["relevant-evidence"] = [
            {
                "description": f"entry {index} of log {origin}",
                "props": [_prop("entry", str(index))],
            }
            for index in sorted(set(finding.entries))[:_MAX_ENTRIES]
        ]
    return observation


def _finding(subject: Subject, regime: str, row: Assessed) -> dict[str, Any]:
    satisfied = row.status is Status.EVIDENCED
    finding: dict[str, Any] = {
        "uuid": subject.uuid("finding", regime, row.control.id),
        "title": row.control.ref,
        "description": row.control.asks["en"],
        "props": [_prop("status", row.status.value.replace(" ", "-"))],
        "target": {
            "type": "objective-id",
            "target-id": _token(row),
            "status": {
                "state": "satisfied" if satisfied else "not-satisfied",
                "reason": "pass" if satisfied else "other",
                "remarks": row.control.missing["en"],
            },
        },
    }
    if row.findings:
        finding["related-observations"] = [
            {"observation-uuid": subject.uuid("observation", regime, name)}
            for name in row.findings
        ]
    if row.declaration is not None:
        finding["remarks"] = f"Declared by a person: {row.declaration.statement}"
    return finding


def _token(row: Assessed) -> str:
    return row.control.id


def _prop(name: str, value: str) -> dict[str, str]:
    return {"name": name, "ns": _NAMESPACE, "value": value}
