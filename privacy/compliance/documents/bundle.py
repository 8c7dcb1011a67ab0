"""All documents of a report, and the check that their references lead somewhere."""

import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

from privacy.compliance.controls import AssessedRegime, assess
from privacy.compliance.declarations import Declaration
from privacy.compliance.documents import (
    ML_BOM,
    MODEL_CARD,
    OSCAL,
    Subject,
    croissant_name,
    dump,
    newest_run,
)
from privacy.compliance.documents.bom import bom
from privacy.compliance.documents.card import card
from privacy.compliance.documents.croissant import croissant
from privacy.compliance.documents.oscal import oscal
from privacy.compliance.evidence import Evidence
from privacy.compliance.regimes import Regime
from privacy.compliance.words import Words
from privacy.errors import ConfigError


def documents(
    evidence: Evidence,
    regimes: Sequence[Regime],
    declarations: Mapping[str, Declaration],
    *,
    at: datetime,
) -> dict[str, bytes]:
    """File name -> content; in English, which the formats' readers expect.

    Without a regime there are no assessment results to write.

    Raises:
      ConfigError: No run was started, or a reference between the documents leads nowhere.
    """
    subject = Subject(evidence, newest_run(evidence), at)
    assessed: list[AssessedRegime] = assess(evidence, regimes, declarations, Words("en"))
    files = {
        ML_BOM: dump(bom(subject)),
        MODEL_CARD: card(subject, with_assessment=bool(assessed)).encode(),
    }
    for share in subject.run.plan.sites:
        files[croissant_name(share.name)] = dump(croissant(subject, share.name))
    if assessed:
        files[OSCAL] = dump(oscal(subject, assessed))
    check(files)
    return files


def check(files: Mapping[str, bytes]) -> None:
    """Check that every reference within and between the documents leads somewhere.

    Raises:
      ConfigError: One does not; it is named.
    """
    parts = json.loads(files[ML_BOM])
    refs = {part["bom-ref"] for part in [parts["metadata"]["component"], *parts["components"]]}
    for row in parts["dependencies"]:
        _need(ML_BOM, {row["ref"], *row["dependsOn"]}, refs)
    model = parts["metadata"]["component"]
    datasets = model["modelCard"]["modelParameters"]["datasets"]
    _need(ML_BOM, {row["ref"] for row in datasets}, refs)
    urls = {
        reference["url"]
        for part in [model, *parts["components"]]
        for reference in part.get("externalReferences", [])
    }
    _need(ML_BOM, urls, set(files))
    said = {row["name"]: row["value"] for row in parts["metadata"]["properties"]}
    root, plan = said["cloister:log:root"], said["cloister:plan"]
    _check_card(files, refs, root, plan, model)
    for name in files:
        if name.startswith("croissant-"):
            data = json.loads(files[name])
            _need(name, {data["identifier"]}, refs)
            _same(
                name,
                data["citeAs"].endswith(f", root {root}") and f" {plan} " in data["description"],
            )
    if OSCAL in files:
        _check_oscal(json.loads(files[OSCAL])["assessment-results"], root, plan)


def _check_card(
    files: Mapping[str, bytes], refs: set[str], root: str, plan: str, model: Mapping[str, Any]
) -> None:
    front = {}
    for line in files[MODEL_CARD].decode().split("---\n")[1].splitlines():
        key, _, value = line.partition(": ")
        front[key] = json.loads(value)
    ours = front["cloister"]
    _need(MODEL_CARD, set(front["datasets"]), refs)
    named = {ours["bom"], *ours["data"], *([ours["assessment"]] if "assessment" in ours else [])}
    _need(MODEL_CARD, named, set(files))
    _same(MODEL_CARD, (ours["root"], ours["plan"]) == (root, plan))
    _same(MODEL_CARD, ours["adapter"] == f"sha256:{model['hashes'][0]['content']}")


def _check_oscal(found: Mapping[str, Any], root: str, plan: str) -> None:
    said = {row["name"]: row["value"] for row in found["metadata"]["props"]}
    _same(OSCAL, (said["log-root"], said["plan"]) == (root, plan))
    resources = {f"#{row['uuid']}" for row in found["back-matter"]["resources"]}
    _need(OSCAL, {found["import-ap"]["href"]}, resources)
    parties = {row["uuid"] for row in found["metadata"]["parties"]}
    roles = {row["id"] for row in found["metadata"]["roles"]}
    for row in found["metadata"]["responsible-parties"]:
        _need(OSCAL, set(row["party-uuids"]), parties)
        _need(OSCAL, {row["role-id"]}, roles)
    for result in found["results"]:
        observations = {row["uuid"] for row in result.get("observations", [])}
        _need(OSCAL, set(_related(result)), observations)
        (selection,) = result["reviewed-controls"]["control-selections"]
        controls = {row["control-id"] for row in selection["include-controls"]}
        _need(OSCAL, {row["target"]["target-id"] for row in result["findings"]}, controls)


def _related(result: Mapping[str, Any]) -> Iterator[str]:
    for finding in result["findings"]:
        for row in finding.get("related-observations", []):
            yield row["observation-uuid"]


def _need(name: str, wanted: set[str], there: set[str]) -> None:
    missing = sorted(wanted - there)
    if missing:
        raise ConfigError(
            f"{name}: expected every reference to lead somewhere, not {missing[0]!r}"
        )


def _same(name: str, same: bool) -> None:
    if not same:
        raise ConfigError(f"{name}: expected the same log, plan and adapter as in {ML_BOM}")
