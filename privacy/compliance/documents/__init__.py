"""The machine's half of a report: four documents in formats of others, from the same evidence.

OSCAL assessment results, a CycloneDX bill of materials with the model, a model card, and a
Croissant description of each data source. They name each other and the log by digest; `check`
compares those references, because the formats' validators pass references that lead nowhere.
"""

import json
import uuid
from collections.abc import Container, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from privacy.audit.entry import format_time
from privacy.compliance.evidence import Evidence, RunEvidence
from privacy.errors import ConfigError

OSCAL = "oscal-assessment-results.json"
ML_BOM = "ml-bom.cdx.json"
MODEL_CARD = "model-card.md"
# A name in a UUID of version 5: the same evidence gives the same document.
_SPACE = uuid.UUID("6d6b9d0e-2b53-5a0e-8a5e-5d0c6d0f7f11")


@dataclass(frozen=True, slots=True)
class Subject:
    """What the documents are about.

    Attributes:
      evidence: All of the log.
      run: The run that they describe.
      at: When they are made.
    """

    evidence: Evidence
    run: RunEvidence
    at: datetime

    @property
    def time(self) -> str:
        """`at` as text."""
        return format_time(self.at)

    @property
    def root(self) -> str:
        """The log's root in hex."""
        return self.evidence.log.checkpoint.root.hex()

    @property
    def adapter(self) -> str:
        """Digest of the newest released adapter, else of the one that the run began with."""
        released = self.run.released
        return released[-1].adapter if released else self.run.plan.initial_adapter

    def ref(self, kind: str, name: str = "") -> str:
        """A name for a thing in the bill of materials, which other documents use too."""
        return f"{kind}:{self.run.plan.federation}/{self.run.plan.run}" + (
            f"/{name}" if name else ""
        )

    def uuid(self, *parts: str) -> str:
        """The same UUID for the same thing of the same log."""
        return str(uuid.uuid5(_SPACE, "\n".join((self.root, self.run.digest, *parts))))


def newest_run(evidence: Evidence) -> RunEvidence:
    """The run that was started last.

    Raises:
      ConfigError: No run was started.
    """
    if not evidence.runs:
        raise ConfigError(
            "expected a log with a run, got none", hint="leave --documents out until a run began"
        )
    return list(evidence.runs.values())[-1]


def croissant_name(site: str) -> str:
    """File name of a site's data description."""
    return f"croissant-{site}.json"


def strays(page: Path, named: Container[str]) -> list[str]:
    """Files beside a page that a reader takes for its documents, and that it does not name.

    An earlier report leaves them there, of another run or of other sites.
    """
    folder = page.parent
    found = [page.with_suffix(".pdf"), *(folder / name for name in (OSCAL, ML_BOM, MODEL_CARD))]
    found += folder.glob(croissant_name("*"))
    return sorted(path.name for path in found if path.is_file() and path.name not in named)


def dump(value: object) -> bytes:
    """A document's bytes."""
    return (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode()


def hex_of(digest: str) -> str:
    """A digest without its algorithm."""
    return digest.removeprefix("sha256:")


def sha256_of(digest: str) -> Mapping[str, str]:
    """A digest as CycloneDX writes it."""
    return {"alg": "SHA-256", "content": hex_of(digest)}
