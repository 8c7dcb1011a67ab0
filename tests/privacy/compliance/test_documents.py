"""The documents beside a report name each other and the log, and each passes its own validator."""

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from privacy.audit.entry import Event, commit
from privacy.audit.verify import VerifiedLog, verify_log
from privacy.compliance.controls import assess
from privacy.compliance.documents import ML_BOM, MODEL_CARD, OSCAL
from privacy.compliance.documents.bundle import check, documents
from privacy.compliance.evidence import gather
from privacy.compliance.queries import QUERIES
from privacy.compliance.regimes import REGIMES, load_regimes
from privacy.compliance.report import Extras, render_report
from privacy.compliance.words import Words
from privacy.errors import ConfigError
from privacy.masking.canaries import planted
from tests.privacy.evidence import (
    OVER_MASKING,
    RECALL,
    Federation,
    make_plan,
    quick_accountant,
    runs_on,
)

AT = datetime(2026, 11, 21, 9, 30, tzinfo=UTC)
ALL = load_regimes(REGIMES, QUERIES)


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> VerifiedLog:
    federation = Federation(tmp_path_factory.mktemp("documents") / "log")
    federation.run()
    return verify_log(federation.folder, federation.ring, accountant=quick_accountant)


@pytest.fixture(scope="module")
def files(log: VerifiedLog) -> dict[str, bytes]:
    return documents(gather(log), ALL, {}, at=AT)


def test_there_is_one_description_a_site_and_one_of_all_else(files: Mapping[str, bytes]) -> None:
    assert sorted(files) == sorted(
        [
            ML_BOM,
            MODEL_CARD,
            OSCAL,
            "croissant-bank_a.json",
            "croissant-hospital_a.json",
            "croissant-hospital_b.json",
        ]
    )


def test_without_regimes_there_are_no_assessment_results(log: VerifiedLog) -> None:
    made = documents(gather(log), [], {}, at=AT)
    assert OSCAL not in made
    assert OSCAL.encode() not in made[MODEL_CARD]


def test_the_same_evidence_gives_the_same_documents(
    log: VerifiedLog, files: Mapping[str, bytes]
) -> None:
    assert documents(gather(log), ALL, {}, at=AT) == files


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        (ML_BOM, '"ref": "data:lakeside/triage/bank_a"', '"ref": "data:lakeside/triage/bank_z"'),
        (ML_BOM, '"url": "model-card.md"', '"url": "model-card.txt"'),
        (MODEL_CARD, "croissant-bank_a.json", "croissant-bank_z.json"),
        (MODEL_CARD, '"adapter": "sha256:', '"adapter": "sha256:00'),
        (MODEL_CARD, '"root": "', '"root": "00'),
        ("croissant-bank_a.json", "data:lakeside/triage/bank_a", "data:lakeside/triage/bank_z"),
        ("croissant-bank_a.json", ", root ", ", root 00"),
        (OSCAL, '"observation-uuid": "', '"observation-uuid": "00'),
        (OSCAL, '"target-id": "gdpr-5-2"', '"target-id": "gdpr-5-3"'),
        (OSCAL, '"href": "#', '"href": "#00'),
    ],
)
def test_a_reference_that_leads_nowhere_is_found(
    files: Mapping[str, bytes], name: str, old: str, new: str
) -> None:
    assert old.encode() in files[name]
    broken = {**files, name: files[name].replace(old.encode(), new.encode(), 1)}
    with pytest.raises(ConfigError, match=name.replace(".", r"\.")):
        check(broken)


def test_only_what_is_evidenced_is_satisfied_in_oscal(files: Mapping[str, bytes]) -> None:
    loaded = json.loads(files[OSCAL])["assessment-results"]
    for result in loaded["results"]:
        for finding in result["findings"]:
            said = {prop["name"]: prop["value"] for prop in finding["props"]}
            satisfied = finding["target"]["status"]["state"] == "satisfied"
            assert satisfied == (said["status"] == "evidenced")


def test_the_bill_of_materials_passes_the_validator_of_cyclonedx(
    files: Mapping[str, bytes],
) -> None:
    # Imported where they are used: each takes seconds.
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator

    validator = JsonStrictValidator(SchemaVersion.V1_6)
    assert validator.validate_str(files[ML_BOM].decode()) is None
    broken = files[ML_BOM].replace(b'"machine-learning-model"', b'"model"')
    assert validator.validate_str(broken.decode()) is not None


def test_each_version_of_a_package_is_a_component_with_the_parties_that_ran_it(
    tmp_path: Path,
) -> None:
    federation = Federation(tmp_path / "log")
    federation.run()
    newer = runs_on("0.2.0", packages=[["torch", "2.14.0+cu130"]], device="cuda")
    federation.say("bank_a", Event.AGENT_STARTED, **newer)
    log = verify_log(federation.folder, federation.ring, accountant=quick_accountant)
    made = json.loads(documents(gather(log), [], {}, at=AT)[ML_BOM])
    found = {part["purl"]: part for part in made["components"] if part["type"] == "library"}
    assert set(found) == {
        "pkg:pypi/flwr@1.41.0", "pkg:pypi/torch@2.13.0%2Bcpu", "pkg:pypi/torch@2.14.0%2Bcu130",
    }  # fmt: skip
    users = {purl: [said["value"] for said in part["properties"]] for purl, part in found.items()}
    assert users["pkg:pypi/torch@2.14.0%2Bcu130"] == ["bank_a"]
    assert users["pkg:pypi/flwr@1.41.0"] == ["bank_a", "coordinator", "hospital_a", "hospital_b"]
    (software,) = (part for part in made["components"] if part["type"] == "application")
    said = "bank_a 0.2.0, python 3.11.7, x86_64, 4 cores, cuda"
    assert {"name": "cloister:party", "value": said} in software["properties"]
    (needs,) = (d for d in made["dependencies"] if d["ref"] == software["bom-ref"])
    assert sorted(needs["dependsOn"]) == sorted(part["bom-ref"] for part in found.values())


def test_the_assessment_results_pass_the_validator_of_trestle(
    files: Mapping[str, bytes], tmp_path: Path
) -> None:
    from trestle.common.err import TrestleError
    from trestle.oscal.assessment_results import AssessmentResults

    path = tmp_path / OSCAL
    path.write_bytes(files[OSCAL])
    assert AssessmentResults.oscal_read(path) is not None
    path.write_bytes(files[OSCAL].replace(b'"start"', b'"begin"'))
    with pytest.raises(TrestleError):
        AssessmentResults.oscal_read(path)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of rdflib, behind the validator
def test_each_description_of_data_passes_the_validator_of_croissant(
    files: Mapping[str, bytes], tmp_path: Path
) -> None:
    import mlcroissant

    path = tmp_path / "croissant.json"
    for name in (name for name in files if name.startswith("croissant-")):
        path.write_bytes(files[name])
        found = mlcroissant.Dataset(jsonld=path).metadata.ctx.issues
        assert (found.errors, found.warnings) == (set(), set())
    path.write_bytes(files["croissant-bank_a.json"].replace(b"sc:Dataset", b"sc:Thing"))
    with pytest.raises(mlcroissant.ValidationError):
        mlcroissant.Dataset(jsonld=path)


_VALUES = sorted(
    {
        note.text[start:end]
        for language in ("en", "zh")
        for note in planted(language)
        for start, end, kind in note.spans
        if end - start >= 8 and kind not in ("DATE", "URL")
    }
)


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    values=st.lists(st.sampled_from(_VALUES), min_size=1, max_size=20),
    text=st.text(alphabet="abcdefghij 张三李四", min_size=24, max_size=60),
)
def test_no_record_and_no_personal_value_is_in_the_page_or_beside_it(
    tmp_path_factory: pytest.TempPathFactory, values: list[str], text: str
) -> None:
    plan = make_plan(sites=("bank_a",), num_rounds=1, min_sites=1)
    folder = tmp_path_factory.mktemp("personal") / "log"
    federation = Federation(folder, plan=plan, sites=("bank_a",))
    federation.begin()
    federation.say(
        "bank_a",
        Event.DATA_MASKED,
        {"plan": federation.plan.digest, "canaries": federation.plan.canaries},
        entity_types=list(federation.plan.masking.entity_types),
        recall=RECALL,
        over_masking=OVER_MASKING,
        commitment=commit({"records": values, "text": text}, bytes(range(32))),
    )
    federation.round(1)
    read = verify_log(federation.folder, federation.ring, accountant=quick_accountant)
    evidence = gather(read)
    whole = "".join(made.decode() for made in documents(evidence, ALL, {}, at=AT).values())
    for language in ("en", "zh"):
        regimes = assess(evidence, ALL, {}, Words(language))
        whole += render_report(read, Extras(regimes=regimes, language=language), at=AT)
    assert text not in whole
    for value in _VALUES:
        assert value not in whole
