"""A model card: Markdown under YAML front matter, as model hubs read it."""

import json

from privacy.compliance.documents import ML_BOM, OSCAL, Subject, croissant_name
from privacy.compliance.statements import NOT_SHOWN, privacy_claim
from privacy.compliance.words import Words
from privacy.dp.guarantee import NOT_COVERED


def card(subject: Subject, *, with_assessment: bool) -> str:
    """The card. It holds no figure of quality: those stay at the institutions."""
    plan, evidence = subject.run.plan, subject.evidence
    files = [croissant_name(share.name) for share in plan.sites]
    # Strings of JSON are strings of YAML.
    front = {
        "license": "other",
        "base_model": plan.base.name,
        "library_name": "peft",
        "tags": ["lora", "federated-learning", "differential-privacy", "mixture-of-experts"],
        "language": list(plan.masking.languages),
        "datasets": [subject.ref("data", share.name) for share in plan.sites],
        "cloister": {
            "adapter": subject.adapter,
            "base": plan.base.digest,
            "plan": subject.run.digest,
            "log": evidence.log.checkpoint.origin,
            "root": subject.root,
            "bom": ML_BOM,
            **({"assessment": OSCAL} if with_assessment else {}),
            "data": files,
        },
    }
    lines = ["---", *(f"{key}: {json.dumps(value)}" for key, value in front.items()), "---", ""]
    released = (
        f"{len(subject.run.released)} of {plan.rounds.num_rounds} rounds released an adapter"
    )
    lines += [
        f"# {plan.federation}/{plan.run}",
        "",
        f"A LoRA adapter (rank {plan.adapter.lora_rank}) for the base `{plan.base.name}`, trained"
        " by"
        f" {len(plan.sites)} institutions without their records leaving them; {released}.",
        "",
        "## Use",
        "",
        "Intended and excluded uses are for the institutions to state; no log shows them.",
        "",
        "## Data",
        "",
        *(
            f"- {share.name}: {share.num_units} declared units,"
            f" [description]({croissant_name(share.name)})"
            for share in plan.sites
        ),
        "",
        "## Privacy",
        "",
        *(f"- **{name}**: {text}" for name, text in privacy_claim(plan, Words("en"))),
        "",
        "Not covered:",
        "",
        *(f"- {line}" for line in NOT_COVERED),
        "",
        "## Quality",
        "",
        "Loss and accuracy were measured on held-out units at the institutions and stay there"
        " unless an institution hands them over. No figure on groups of people exists here.",
        "",
        "## Limits of the evidence",
        "",
        *(f"- **{name}** {text}" for name, text in NOT_SHOWN),
        "",
    ]
    return "\n".join(lines)
