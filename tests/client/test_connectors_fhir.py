"""FHIR R4 resources become records by simple paths, or are refused by file and line."""

import base64
import gzip
import json
from pathlib import Path

import pytest

from client.connectors.fhir import _look_up
from privacy.errors import ConfigError
from tests.client.sources import CANARY, check, raw, read, refused

PATIENT = {
    "resourceType": "Patient",
    "id": "p1",
    "gender": "female",
    "name": [{"family": "Doe"}],
}
NOTE = {
    "resourceType": "DocumentReference",
    "id": "d1",
    "subject": {"reference": "Patient/p1"},
    "type": {"coding": [{"display": "Discharge summary"}, {"display": "Letter"}]},
    "content": [
        {
            "attachment": {
                "contentType": "text/plain; charset=utf-8",
                "data": base64.b64encode("Went home. 出院".encode()).decode(),
            }
        }
    ],
}
NOTES = """
kind = "fhir"
path = "export"
resource = "DocumentReference"
prompt = "{gender}: {text}"
label = "{type}"
unit = "patient"
[data.fields]
text = "content.attachment"
type = "type.coding[0].display"
all = "DocumentReference.type.coding.display"
gender = "Patient.gender"
"""


def export(folder: Path, *resources: object, name: str = "all.ndjson") -> Path:
    (folder / "export").mkdir(exist_ok=True)
    lines = "".join(json.dumps(resource) + "\n" for resource in resources)
    content = lines.encode()
    path = folder / "export" / name
    path.write_bytes(gzip.compress(content) if name.endswith("gz") else content)
    return folder


@pytest.mark.parametrize("form", ["one", "two", "bundle", "packed"])
def test_a_documents_text_and_its_patient_become_a_record(tmp_path: Path, form: str) -> None:
    if form == "bundle":
        entries = [{"resource": NOTE}, {"resource": PATIENT}]
        export(tmp_path, {"resourceType": "Bundle", "entry": entries}, name="b.json")
    elif form == "two":
        export(tmp_path, NOTE, name="DocumentReference.ndjson")
        export(tmp_path, PATIENT, name="Patient.ndjson")
    else:
        export(tmp_path, PATIENT, NOTE, name="a.ndjson" + (".gz" if form == "packed" else ""))
    [record] = read(NOTES, tmp_path)
    assert record.record_id == "d1"
    assert record.unit_id == "p1"
    assert record.fields["prompt"] == "female: Went home. 出院"
    assert record.fields["label"] == "Discharge summary"
    assert raw(NOTES, tmp_path)[0].fields["all"] == "Discharge summary; Letter"
    assert "FHIR R4" in check(NOTES, tmp_path)


@pytest.mark.parametrize(
    "reference",
    ["Patient/p1", "https://ehr.example/fhir/Patient/p1", "Patient/p1/_history/3", "urn:uuid:p1"],
)
def test_a_patient_is_the_same_however_the_reference_is_written(
    tmp_path: Path, reference: str
) -> None:
    export(tmp_path, PATIENT, {**NOTE, "subject": {"reference": reference}})
    assert read(NOTES, tmp_path)[0].unit_id == "p1"


def test_conditions_and_medications_are_read_by_paths(tmp_path: Path) -> None:
    condition = {
        "resourceType": "Condition",
        "id": "c1",
        "subject": {"reference": "Patient/p1"},
        "code": {"text": "Otitis media", "coding": [{"code": "65363002"}]},
        "verified": True,
    }
    export(tmp_path, PATIENT, condition, NOTE)
    conditions = """
    kind = "fhir"
    path = "export"
    resource = "Condition"
    fields = { code = "code.coding.code", text = "code.text", sure = "verified", no = "a.b" }
    prompt = "{code} {sure}"
    label = "{text}"
    """
    [record] = read(conditions, tmp_path)
    assert record.fields["prompt"] == "65363002 true"
    assert raw(conditions, tmp_path)[0].fields["no"] is None


@pytest.mark.parametrize(
    "path",
    [
        "Patient.name.family", "Patient.birthDate", "Patient.telecom.value", "Patient.identifier",
        "Patient.address.line", "subject.display", "DocumentReference.author.display",
        "Patient.id",
    ],
)  # fmt: skip
def test_an_identifier_is_known_by_its_path_whatever_the_field_is_called(
    tmp_path: Path, path: str
) -> None:
    export(tmp_path, PATIENT, NOTE)
    notes = NOTES.replace("Patient.gender", path)
    assert f"direct identifier because its path is {path}" in str(refused(notes, tmp_path))
    kept = notes.replace(
        'unit = "patient"', 'unit = "patient"\nkeep = ["gender"]\nmissing = "skip"'
    )
    read(kept, tmp_path)


def attached(**attachment: object) -> dict[str, object]:
    return {**NOTE, "content": [{"attachment": attachment}]}


@pytest.mark.parametrize(
    ("resource", "expected"),
    [
        ({"id": CANARY}, "resourceType"),
        ({**NOTE, "id": None}, "DocumentReference.id"),
        ({**NOTE, "subject": CANARY}, "DocumentReference.subject.reference"),
        ({**NOTE, "subject": {}}, "expected a value in column 'patient'"),
        ({**NOTE, "type": CANARY}, "element with 'coding' for field 'type', got str"),
        (attached(contentType="text/plain", data=f"*{CANARY}"), "base64"),
        (attached(contentType="text/plain", data="/w=="), "text in its charset"),
        (attached(contentType="text/plain; charset=klingon", data="YQ=="), "text in its charset"),
        (attached(contentType="application/pdf", data="YQ=="), "type text/..."),
        (attached(contentType="text/plain", url=f"https://x/{CANARY}"), "expected the data"),
        ([CANARY], "one JSON object"),
        ({**NOTE, "id": f"{CANARY}\ud800"}, "to be Unicode"),
        (attached(contentType="text/plain", data=f"{CANARY}\ud800"), "text in its charset"),
    ],
)
def test_a_malformed_resource_is_named_by_file_and_line(
    tmp_path: Path, resource: object, expected: str
) -> None:
    export(tmp_path, PATIENT, NOTE, resource)
    error = refused(NOTES, tmp_path)
    assert "all.ndjson, line 3: " in str(error)
    assert expected in str(error)


def test_lists_in_each_other_without_end_are_refused() -> None:
    nested: object = CANARY
    for _ in range(5000):
        nested = [nested]
    with pytest.raises(ConfigError, match=r"x\.ndjson, line 1: .*'type', got too many") as caught:
        _look_up({"type": nested}, (("type", None),), "type", "x.ndjson, line 1")
    assert CANARY not in str(caught.value)


def test_a_path_that_stops_too_early_is_told_without_the_names_below_it(tmp_path: Path) -> None:
    export(tmp_path, PATIENT, {**NOTE, "type": {"JaneDoe": "x", "coding": []}})
    error = refused(NOTES.replace("type.coding[0].display", "type"), tmp_path)
    assert "got an element with 2 elements of its own" in str(error)
    assert "JaneDoe" not in str(error) + error.hint
    assert "data.fields.type" in error.hint
    assert "expected a path" in str(
        refused(NOTES.replace("type.coding[0].display", "type..display"), tmp_path)
    )


@pytest.mark.parametrize(
    ("bundle", "expected"),
    [
        ({"resourceType": "Bundle", "entry": [{}]}, "b.json, entry 0: expected a resource"),
        ({"resourceType": "Bundle", "entry": CANARY}, "expected a list at Bundle.entry"),
        ([], "one JSON object"),
    ],
)
def test_a_malformed_bundle_is_refused(tmp_path: Path, bundle: object, expected: str) -> None:
    export(tmp_path, bundle, name="b.json")
    assert expected in str(refused(NOTES, tmp_path))


def test_a_folder_without_files_is_refused(tmp_path: Path) -> None:
    assert "does not exist" in str(refused(NOTES, tmp_path))
    (tmp_path / "export").mkdir()
    assert "expected files named *.ndjson or *.json" in str(refused(NOTES, tmp_path))
