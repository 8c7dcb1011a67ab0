"""A CycloneDX 1.6 bill of materials: base, adapter, data sets and software (ML-BOM)."""

from typing import Any
from urllib.parse import quote

from privacy.audit.entry import Entry, Event
from privacy.compliance.documents import MODEL_CARD, Subject, croissant_name, sha256_of
from privacy.dp.guarantee import NOT_COVERED
from privacy.version import VERSION


def bom(subject: Subject) -> dict[str, Any]:
    """The document.

    Its references: `base`, `adapter`, `data` of each site, `software`, and `package` of each
    version of a package that a party says it ran.
    """
    plan = subject.run.plan
    base, adapter = subject.ref("base"), subject.ref("adapter")
    software = subject.ref("software")
    data = [subject.ref("data", share.name) for share in plan.sites]
    packages = _packages(subject)
    return {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{subject.uuid('bom')}",
        "version": 1,
        "metadata": {
            "timestamp": subject.time,
            "tools": {
                "components": [
                    {"type": "application", "name": "cloister-audit", "version": VERSION}
                ]
            },
            "component": _adapter(subject, adapter),
            "properties": [
                {"name": "cloister:log:origin", "value": subject.evidence.log.checkpoint.origin},
                {"name": "cloister:log:root", "value": subject.root},
                {"name": "cloister:plan", "value": subject.run.digest},
            ],
        },
        "components": [
            {
                "type": "machine-learning-model",
                "bom-ref": base,
                "name": plan.base.name,
                "description": "Frozen base model; the digest is over its files",
                "hashes": [sha256_of(plan.base.digest)],
            },
            *(_data(subject, share.name, share.num_units) for share in plan.sites),
            *_software(subject, software),
            *packages,
        ],
        "dependencies": [
            {"ref": adapter, "dependsOn": [base, *data, software]},
            *({"ref": ref, "dependsOn": []} for ref in (base, *data)),
            {"ref": software, "dependsOn": [package["bom-ref"] for package in packages]},
            *({"ref": package["bom-ref"], "dependsOn": []} for package in packages),
        ],
    }


def _adapter(subject: Subject, ref: str) -> dict[str, Any]:
    plan = subject.run.plan
    epsilon, delta = plan.mechanism.target_epsilon, plan.mechanism.delta
    return {
        "type": "machine-learning-model",
        "bom-ref": ref,
        "name": f"{plan.federation}/{plan.run}",
        "version": subject.adapter.removeprefix("sha256:")[:16],
        "description": "LoRA adapter, trained federated under differential privacy",
        "hashes": [sha256_of(subject.adapter)],
        "externalReferences": [{"type": "model-card", "url": MODEL_CARD}],
        "modelCard": {
            "bom-ref": subject.ref("model-card"),
            "modelParameters": {
                "approach": {"type": "supervised"},
                "task": "text generation",
                "architectureFamily": "Mixture of Experts with low-rank adaptation",
                "datasets": [{"ref": subject.ref("data", share.name)} for share in plan.sites],
            },
            "considerations": {
                "technicalLimitations": [
                    f"({epsilon:g}, {delta:g})-differential privacy a site and run; not covered: "
                    + "; ".join(line.rstrip(";.") for line in NOT_COVERED),
                    "masking reduces identifiers and does not remove all of them",
                ]
            },
        },
    }


def _data(subject: Subject, site: str, num_units: int) -> dict[str, Any]:
    return {
        "type": "data",
        "bom-ref": subject.ref("data", site),
        "name": f"records of {site}",
        "description": f"Never left {site}; {num_units} declared units",
        "data": [{"type": "dataset", "name": site, "classification": "restricted"}],
        "externalReferences": [{"type": "documentation", "url": croissant_name(site)}],
    }


def _starts(subject: Subject) -> list[Entry]:
    """What the parties said that they run on, in the log's order."""
    starts = (Event.AGENT_STARTED, Event.COORDINATOR_STARTED)
    return [entry for entry in subject.evidence.log.entries if entry.event in starts]


def _software(subject: Subject, ref: str) -> list[dict[str, Any]]:
    said = sorted({f"{entry.party} {_machine(entry)}" for entry in _starts(subject)})
    return [
        {
            "type": "application",
            "bom-ref": ref,
            "name": "cloister",
            "version": VERSION,
            "description": "As the reporting program has it; what parties say stands in"
            " properties, and the packages that they say they ran are what it depends on",
            "licenses": [{"license": {"id": "Apache-2.0"}}],
            "properties": [{"name": "cloister:party", "value": line} for line in said],
        }
    ]


def _machine(entry: Entry) -> str:
    start = entry.predicate
    return (
        f"{start['version']}, python {start['python']}, {start['processor']},"
        f" {start['num_cores']} cores, {start['device']}"
    )


def _packages(subject: Subject) -> list[dict[str, Any]]:
    """One component for each version of a package, with the parties that say they ran it."""
    users: dict[tuple[str, str], set[str]] = {}
    for entry in _starts(subject):
        for name, version in entry.predicate["packages"]:
            users.setdefault((name, version), set()).add(entry.party)
    return [
        {
            "type": "library",
            "bom-ref": subject.ref("package", f"{name}-{version}"),
            "name": name,
            "version": version,
            "purl": f"pkg:pypi/{name}@{quote(version, safe='')}",
            "properties": [
                {"name": "cloister:party", "value": party} for party in sorted(parties)
            ],
        }
        for (name, version), parties in sorted(users.items())
    ]
