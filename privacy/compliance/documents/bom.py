"""A CycloneDX 1.6 bill of materials: base, adapter, data sets and software (ML-BOM)."""

from typing import Any

from privacy.audit.entry import Event
from privacy.compliance.documents import MODEL_CARD, Subject, croissant_name, sha256_of
from privacy.dp.guarantee import NOT_COVERED
from privacy.version import VERSION


def bom(subject: Subject) -> dict[str, Any]:
    """The document. Its references: `base`, `adapter`, `data` of each site, `software`."""
    plan = subject.run.plan
    base, adapter = subject.ref("base"), subject.ref("adapter")
    software = subject.ref("software")
    data = [subject.ref("data", share.name) for share in plan.sites]
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
        ],
        "dependencies": [
            {"ref": adapter, "dependsOn": [base, *data, software]},
            *({"ref": ref, "dependsOn": []} for ref in (base, *data, software)),
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


def _software(subject: Subject, ref: str) -> list[dict[str, Any]]:
    entries = subject.evidence.log.entries
    versions = sorted(
        {
            f"{entry.party} {entry.predicate['version']}"
            for entry in entries
            if entry.event is Event.AGENT_STARTED
        }
    )
    return [
        {
            "type": "application",
            "bom-ref": ref,
            "name": "cloister",
            "version": VERSION,
            "description": "As the reporting program has it; what sites say stands in properties",
            "licenses": [{"license": {"id": "Apache-2.0"}}],
            "properties": [{"name": "cloister:agent", "value": said} for said in versions],
        }
    ]
