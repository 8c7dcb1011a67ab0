"""Records from FHIR R4 resources: a bulk export (NDJSON, one resource a line) or Bundles.

One resource of the configured type is one record. A field is a path from it,
`code.coding.display`; through a list it goes to every entry and joins what it finds with "; ", and
`[0]` takes the first. A path that begins with `Patient.` starts at the record's patient. A path
that ends at an attachment gives its text. Two fields are always there: `id`, and `patient`, the id
of the patient.

Sources: HL7 FHIR R4 (4.0.1) Bundle, Reference, Attachment; Bulk Data Access 2.0.
"""

import base64
import binascii
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from client.connectors.files import listed, opened
from client.connectors.jsonl import parse_object
from client.connectors.record import Record, check_columns, make_record
from client.sources import FhirSection
from privacy.errors import ConfigError

MAX_BUNDLE_BYTES = 256 * 1024 * 1024
_STEP = re.compile(r"([A-Za-z][A-Za-z0-9]*)(?:\[([0-9]{1,4})\])?")
_CHARSET = re.compile(r"charset=\"?([A-Za-z0-9_-]+)", re.IGNORECASE)
# What only an attachment has.
_ATTACHMENT = frozenset({"contentType", "data", "url"})

Resource = Mapping[str, Any]
Path_ = tuple[tuple[str, int | None], ...]


class FhirConnector:
    """The resources of one type."""

    def __init__(self, data: FhirSection) -> None:
        self._data = data
        own: dict[str, Path_] = {}
        patients: dict[str, Path_] = {}
        for name, path in data.fields.items():
            steps = _parse_path(name, path)
            first = steps[0][0]
            if first == data.resource:
                own[name] = steps[1:]
            elif first == "Patient":
                patients[name] = steps[1:]
            else:
                own[name] = steps
        self._own, self._patients = own, patients

    def check(self) -> str:
        """Which files, and which fields."""
        files = listed(self._data.path, (".ndjson", ".json"))
        check_columns(("id", "patient", *self._data.fields), self._data, str(self._data.path))
        return (
            f"FHIR R4, {len(files)} files, {self._data.resource} with fields "
            f"{', '.join(('id', 'patient', *self._data.fields))}"
        )

    def records(self) -> Iterator[Record]:
        """The resources in the files' order, files by name."""
        columns = ("id", "patient", *self._data.fields)
        check_columns(columns, self._data, str(self._data.path))
        patients = self._read_patients() if self._patients else {}
        for resource, place in self._resources(self._data.resource):
            fields = {
                "id": _id(resource, place),
                "patient": _patient_of(resource, place),
            }
            fields |= {
                name: _look_up(resource, path, name, place) for name, path in self._own.items()
            }
            if self._patients:
                found = patients.get(fields["patient"] or "", {})
                fields |= {name: found.get(name) for name in self._patients}
            yield make_record({name: fields[name] for name in columns}, self._data, place)

    def _read_patients(self) -> dict[str, dict[str, str | None]]:
        """Of every patient only the fields that are wanted."""
        return {
            _id(resource, place): {
                name: _look_up(resource, path, name, place)
                for name, path in self._patients.items()
            }
            for resource, place in self._resources("Patient")
        }

    def _resources(self, kind: str) -> Iterator[tuple[Resource, str]]:
        for path in listed(self._data.path, (".ndjson", ".json")):
            for resource, place in _read(path):
                found = resource.get("resourceType")
                if not isinstance(found, str):
                    raise ConfigError(
                        f"{place}: expected a FHIR resource with a resourceType, got none"
                    )
                if found == kind:
                    yield resource, place


def _read(path: Path) -> Iterator[tuple[Resource, str]]:
    """The resources of one file, whether it is a Bundle or has one on each line."""
    if path.name.lower().removesuffix(".gz").endswith(".ndjson"):
        with opened(path) as lines:
            for number, line in enumerate(lines, start=1):
                if line.strip():
                    place = f"{path}, line {number}"
                    yield parse_object(line, place), place
        return
    with opened(path) as raw:
        content = raw.read(MAX_BUNDLE_BYTES + 1)
    if len(content) > MAX_BUNDLE_BYTES:
        raise ConfigError(
            f"{path}: expected a Bundle of at most {MAX_BUNDLE_BYTES // 2**20} MiB, got more",
            hint="export as NDJSON, which is read line by line",
        )
    bundle = parse_object(content, str(path))
    if bundle.get("resourceType") != "Bundle":
        yield bundle, str(path)
        return
    entries = bundle.get("entry", [])
    if not isinstance(entries, list):
        raise ConfigError(f"{path}: expected a list at Bundle.entry, got something else")
    for number, entry in enumerate(entries):
        place = f"{path}, entry {number}"
        resource = entry.get("resource") if isinstance(entry, dict) else None
        if not isinstance(resource, dict):
            raise ConfigError(f"{place}: expected a resource, got none")
        yield resource, place


def _parse_path(name: str, path: str) -> Path_:
    steps = []
    for part in path.split("."):
        match = _STEP.fullmatch(part)
        if not match:
            raise ConfigError(
                f"data.fields.{name}: expected a path such as code.coding[0].display, got {path!r}"
            )
        steps.append((match[1], int(match[2]) if match[2] else None))
    return tuple(steps)


def _id(resource: Resource, place: str) -> str:
    found = resource.get("id")
    if not isinstance(found, str) or not found:
        raise ConfigError(f"{place}: expected {resource['resourceType']}.id as text, got none")
    return found


def _patient_of(resource: Resource, place: str) -> str | None:
    """The id in the reference to the patient, however it is written."""
    if resource["resourceType"] == "Patient":
        return _id(resource, place)
    reference = resource.get("subject") or resource.get("patient")
    if reference is None:
        return None
    target = reference.get("reference") if isinstance(reference, dict) else None
    if not isinstance(target, str):
        raise ConfigError(
            f"{place}: expected {resource['resourceType']}.subject.reference as text, got none"
        )
    # Patient/ID, https://server/Patient/ID, either with /_history/VERSION, or urn:uuid:ID.
    return target.split("/_history/")[0].rpartition("/")[2].removeprefix("urn:uuid:") or None


def _look_up(resource: Resource, path: Path_, name: str, place: str) -> str | None:
    try:
        found = list(_walk(resource, path, name, place))
    except RecursionError:
        raise ConfigError(
            f"{place}: expected lists in each other a few deep for field {name!r}, got too many"
        ) from None
    return "; ".join(found) or None


def _walk(value: Any, path: Path_, name: str, place: str) -> Iterator[str]:  # noqa: ANN401 - JSON
    if value is None:
        return
    if isinstance(value, list):
        for item in value:
            yield from _walk(item, path, name, place)
        return
    if not path:
        yield from _text(value, name, place)
        return
    if not isinstance(value, dict):
        raise ConfigError(
            f"{place}: expected an element with {path[0][0]!r} for field {name!r}, "
            f"got {type(value).__name__}",
            hint=f"correct data.fields.{name} in site.toml, or the resource",
        )
    (step, index), rest = path[0], path[1:]
    below = value.get(step)
    if index is not None and isinstance(below, list):
        below = below[index] if index < len(below) else None
    yield from _walk(below, rest, name, place)


def _text(value: Any, name: str, place: str) -> Iterator[str]:  # noqa: ANN401 - JSON
    if isinstance(value, dict) and _ATTACHMENT & value.keys():
        yield _attachment(value, name, place)
    elif isinstance(value, dict):
        raise ConfigError(
            f"{place}: expected text for field {name!r}, got an element with "
            f"{len(value)} elements of its own",
            hint=f"let data.fields.{name} in site.toml go on to one of them, such as .text",
        )
    elif isinstance(value, str):
        if value.strip():
            yield value
    else:
        yield json.dumps(value)


def _attachment(attachment: Resource, name: str, place: str) -> str:
    """The text of an attachment that carries its data."""
    content_type = attachment.get("contentType", "")
    data = attachment.get("data")
    if not isinstance(content_type, str) or not content_type.lower().startswith("text/"):
        raise ConfigError(
            f"{place}: expected an attachment of type text/... for field {name!r}, got another",
            hint="point data.fields at the text, or leave other attachments out of the export",
        )
    if not isinstance(data, str):
        raise ConfigError(
            f"{place}: expected the data of the attachment for field {name!r}, got none",
            hint="export attachments inline; what lies behind a URL is not fetched",
        )
    charset = _CHARSET.search(content_type)
    try:
        raw = base64.b64decode("".join(data.split()), validate=True)
        return raw.decode(charset[1] if charset else "utf-8")
    except (binascii.Error, ValueError, LookupError) as error:
        kind = "base64" if isinstance(error, binascii.Error) else "text in its charset"
        raise ConfigError(
            f"{place}: expected {kind} in the attachment for field {name!r}"
        ) from None
