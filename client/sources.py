"""What `[data]` in `site.toml` may say: one section for each kind of source.

What all kinds share is whom the guarantee protects and how a row becomes text; what differs is
where the rows are. No section holds a password: a database's comes from an environment variable
or from a file that its owner alone can read.
"""

import re
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import SplitResult, urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    ValidationInfo,
    model_validator,
)

from privacy.dp.config import Unit
from privacy.plan import check_name

LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
_SCHEMA = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,62}")
_TEMPLATE_PART = re.compile(r"\{\{|\}\}|\{([^{}]+)\}|[{}]")


class Section(BaseModel):
    """A table of the file: strict types, no unknown keys, frozen."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


def _named(name: str) -> str:
    check_name(name)
    return name


def optional_path(value: object) -> object:
    """An empty string as what it means: no path."""
    return None if value == "" else value


def _existing_name(path: Path) -> Path:
    if path == Path():
        raise ValueError("expected a path, got an empty string")
    return path


def beside_the_file(path: Path, info: ValidationInfo) -> Path:
    """A relative path as one from the folder of `site.toml`."""
    folder = (info.context or {}).get("folder")
    return folder / path if folder else path


Name = Annotated[str, AfterValidator(_named)]
FilePath = Annotated[
    Path,
    Field(strict=False),
    AfterValidator(_existing_name),
    AfterValidator(beside_the_file),
]
OptionalPath = Annotated[FilePath | None, BeforeValidator(optional_path)]
Columns = Annotated[tuple[str, ...], Field(strict=False)]


def template_parts(template: str) -> tuple[tuple[str, bool], ...]:
    """The parts of a template, in order: text, or the name of a field (then True).

    Raises:
      ValueError: A brace stands alone; `{{` and `}}` are how a brace is written.
    """
    parts: list[tuple[str, bool]] = []
    end = 0
    for match in _TEMPLATE_PART.finditer(template):
        parts.append((template[end : match.start()], False))
        end = match.end()
        if match[0] in ("{", "}"):
            raise ValueError("expected {field}, or {{ and }} for a brace, got a brace alone")
        parts.append((match[1], True) if match[1] else (match[0][0], False))
    parts.append((template[end:], False))
    return tuple(part for part in parts if part[0])


def _template(template: str) -> str:
    template_parts(template)
    return template


Template = Annotated[str, AfterValidator(_template)]


class SourceSection(Section):
    """Where the records are and whom the guarantee protects."""

    record_id: str = Field(
        default="",
        description="Column that names a record; empty: the row itself, equal rows being one",
    )
    unit_id: str = Field(
        default="",
        description="Column that names the patient or customer; empty: each record is a unit",
    )
    prompt: Template = Field(
        min_length=1,
        description="Template of what the model reads: {column}; {*} for all of text_columns",
    )
    completion: Template = Field(
        default="", description="Template of what the model writes; empty: the label"
    )
    label: Template = Field(min_length=1, description="Template of the record's class")
    missing: Literal["refuse", "skip", "fill"] = Field(
        default="refuse",
        description="A row without a value that a template needs: refuse, skip or fill it",
    )
    fill: str = Field(default="unknown", description='What stands there with missing = "fill"')
    text_columns: Columns = Field(
        default=(), description="Columns that {*} stands for, in order; `check` proposes them"
    )
    drop: Columns = Field(default=(), description="Columns that are never read into a text")
    keep: Columns = Field(
        default=(),
        description="Columns that look like direct identifiers and are used all the same",
    )
    quasi_identifiers: Columns = Field(
        default=(), description="Columns whose combinations `cohort` counts (k-anonymity)"
    )
    sensitive: Columns = Field(
        default=(), description="Columns for l-diversity in `cohort`; empty: the label"
    )
    min_cell: int = Field(
        default=11, ge=3, description="Counts of fewer units than this are shown nowhere"
    )
    unit: Annotated[Unit, Field(strict=False)] = Field(
        default=Unit.RECORD,
        description="Whom the guarantee protects: record, patient, customer, person (unit_id)",
    )
    population: Name = Field(
        default="records",
        description="Name of the budget ledger: one per set of people, for all runs",
    )
    num_units: int = Field(
        ge=1,
        description="Training units that this site declares in public, a round number",
    )

    @model_validator(mode="after")
    def _fits(self) -> "SourceSection":
        if self.unit != Unit.RECORD and not self.unit_id:
            raise ValueError(
                f'expected unit_id with unit = "{self.unit}", the column that names one'
            )
        if "*" in {name for name, is_field in template_parts(self.label) if is_field}:
            raise ValueError("expected the label's columns by name, got {*}")
        both = sorted(set(self.keep) & set(self.drop))
        if both:
            raise ValueError(f"expected a column in keep or in drop, got {both[0]!r} in both")
        self._check_text_columns()
        return self

    def _check_text_columns(self) -> None:
        listed = self.text_columns
        repeated = sorted({name for name in listed if listed.count(name) > 1})
        if repeated:
            raise ValueError(
                f"expected each column once in text_columns, got {repeated[0]!r} twice"
            )
        if {"", "*"} & set(listed):
            raise ValueError("expected names of columns in text_columns, got '' or '*'")
        learnt = next((name for name in listed if name in self.learnt_columns), None)
        if learnt is not None:
            raise ValueError(
                f"expected text_columns without what is learnt, got {learnt!r}, "
                "which completion or label names"
            )
        dropped = next((name for name in listed if name in self.drop), None)
        if dropped is not None:
            raise ValueError(
                f"expected a column in text_columns or in drop, got {dropped!r} in both"
            )

    @property
    def templates(self) -> dict[str, str]:
        """The three templates by the name of the text that they make."""
        return {
            "prompt": self.prompt,
            "completion": self.completion or self.label,
            "label": self.label,
        }

    @property
    def takes_all(self) -> bool:
        """Whether a template has `{*}`, which stands for `text_columns`."""
        return any(("*", True) in template_parts(template) for template in self.templates.values())

    @property
    def learnt_columns(self) -> frozenset[str]:
        """The columns of completion and label, which must not stand in what is read."""
        return frozenset(
            name
            for key in ("completion", "label")
            for name, is_field in template_parts(self.templates[key])
            if is_field and name != "*"
        )

    @property
    def place(self) -> str:
        """Where the records are, for a person, without anything secret."""
        raise NotImplementedError

    @property
    def needs_network(self) -> bool:
        """Whether reading them opens a connection, which the training process may not."""
        return False

    @property
    def is_prepared(self) -> bool:
        """Whether its fields are texts that somebody prepared, not columns of an export."""
        return False


class FileSection(SourceSection):
    """Records in a file or a folder of this machine."""

    path: FilePath = Field(description="File of the records; relative to the folder of this file")

    @property
    def place(self) -> str:
        """The path."""
        return str(self.path)


class DataSection(FileSection):
    """Where the records are and whom the guarantee protects."""

    kind: Literal["jsonl"] = Field(
        default="jsonl",
        description="How the records are stored: jsonl, csv, parquet, sql, fhir, omop, iso20022",
    )
    path: FilePath = Field(description="File of the records; relative to the folder of this file")
    record_id: str = Field(
        default="id", min_length=1, description="Field that names a record, within its `source`"
    )
    unit_id: str = Field(
        default="unit_id",
        min_length=1,
        description="Field that names the patient or customer; without it a record is a unit",
    )
    prompt: Template = Field(
        default="{prompt}",
        min_length=1,
        description="Template of what the model reads: {field}; {*} for all of text_columns",
    )
    completion: Template = Field(
        default="{completion}", description="Template of what the model writes; empty: the label"
    )
    label: Template = Field(
        default="{label}", min_length=1, description="Template of the record's class"
    )

    @property
    def is_prepared(self) -> bool:
        """With the names of fields that are this project's own."""
        return self.templates == {name: f"{{{name}}}" for name in self.templates}


class CsvSection(FileSection):
    """Records in a table of text: CSV, TSV and their relatives, plain or gzip."""

    kind: Literal["csv"] = Field(description="How the records are stored: csv, a table of text")
    path: FilePath = Field(description="File of the table, plain or gzip")
    delimiter: Annotated[str, Field(min_length=1, max_length=1)] = Field(
        default=",", description='What stands between two columns; "\\t" for TSV'
    )
    quote: Annotated[str, Field(max_length=1)] = Field(
        default='"', description="What stands around a value with a delimiter; empty: nothing"
    )
    encoding: Literal["utf-8", "gb18030", "cp1252", "latin-1"] = Field(
        default="utf-8", description="utf-8, gb18030, cp1252 or latin-1"
    )
    columns: Columns = Field(
        default=(), description="Names of the columns, where the first row does not name them"
    )
    empty: Columns = Field(
        default=("",), description="Values that mean that there is none, such as NA"
    )


class ParquetSection(FileSection):
    """Records in a Parquet file."""

    kind: Literal["parquet"] = Field(description="How the records are stored: parquet")
    path: FilePath = Field(description="The Parquet file")


def _url(url: str, info: ValidationInfo) -> str:
    """A database's address, without a password. No message repeats it: it might hold one."""
    try:
        parts = urlsplit(url)
        port_fits = parts.port is None or 0 < parts.port < 65536
    except ValueError:
        raise ValueError("expected an address such as postgresql://USER@HOST/DATABASE") from None
    if parts.scheme not in ("postgresql", "sqlite") or not port_fits:
        raise ValueError(
            "expected postgresql://USER@HOST:PORT/DATABASE or sqlite:///FILE, got another kind"
        )
    if parts.password is not None or parts.query or parts.fragment:
        raise ValueError(
            "expected an address without password and parameters: "
            "name the password's place with password_env or password_file"
        )
    if parts.scheme == "sqlite":
        if parts.netloc or len(parts.path) < 2:
            raise ValueError("expected sqlite:///FILE, or sqlite:////FILE from the root")
        folder = (info.context or {}).get("folder")
        path = Path(parts.path[1:])
        return f"sqlite:///{folder / path if folder else path}"
    if not parts.username or len(parts.path) < 2:
        raise ValueError("expected a user and a database: postgresql://USER@HOST:PORT/DATABASE")
    return url


class _DatabaseSection(SourceSection):
    """Records in a database."""

    url: Annotated[str, AfterValidator(_url)] = Field(
        description="postgresql://USER@HOST:PORT/DATABASE or sqlite:///FILE; never a password"
    )
    password_env: str = Field(
        default="", description="Environment variable of the agent that holds the password"
    )
    password_file: OptionalPath = Field(
        default=None, description="File that holds the password, mode 0600"
    )
    tls: Literal["verify", "off"] = Field(
        default="verify",
        description="TLS to a database on another machine: verify its certificate, or off",
    )
    tls_ca: OptionalPath = Field(
        default=None, description="Certificates that it is verified by; empty: the system's"
    )
    fetch_rows: int = Field(
        default=500, ge=1, le=100_000, description="Rows that are held in memory at once"
    )
    timeout_s: float = Field(
        default=600.0, gt=0, le=86_400, description="A server silent for longer is given up, in s"
    )

    @model_validator(mode="after")
    def _one_password(self) -> "_DatabaseSection":
        if self.password_env and self.password_file:
            raise ValueError("expected password_env or password_file, got both")
        return self

    @property
    def address(self) -> SplitResult:
        """The parts of `url`."""
        return urlsplit(self.url)

    @property
    def place(self) -> str:
        """Server and database, or the SQLite file."""
        address = self.address
        if address.scheme == "sqlite":
            return address.path[1:]
        return f"{address.hostname or 'local socket'}{address.path}"

    @property
    def needs_network(self) -> bool:
        """Whether it is a server."""
        return self.address.scheme != "sqlite"


class SqlSection(_DatabaseSection):
    """Records that a query selects from a database."""

    kind: Literal["sql"] = Field(description="How the records are stored: sql, in a database")
    url: Annotated[str, AfterValidator(_url)] = Field(
        description="postgresql://USER@HOST:PORT/DATABASE or sqlite:///FILE; never a password"
    )
    query: str = Field(min_length=1, description="One SELECT; its columns are the fields")


class OmopSection(_DatabaseSection):
    """Notes and their patients in an OMOP Common Data Model, version 5.4."""

    kind: Literal["omop"] = Field(description="How the records are stored: omop, notes of a CDM")
    url: Annotated[str, AfterValidator(_url)] = Field(
        description="postgresql://USER@HOST:PORT/DATABASE or sqlite:///FILE; never a password"
    )
    cdm_schema: str = Field(
        default="", description="Schema of the tables note, person and concept; empty: the user's"
    )
    record_id: str = Field(default="note_id", description="Column that names a record")
    unit_id: str = Field(default="person_id", description="Column that names the patient")
    prompt: Template = Field(
        default="{note_text}", min_length=1, description="Template of what the model reads"
    )
    label: Template = Field(
        default="{note_class}", min_length=1, description="Template of the record's class"
    )

    @model_validator(mode="after")
    def _schema_is_a_name(self) -> "OmopSection":
        if self.cdm_schema and not _SCHEMA.fullmatch(self.cdm_schema):
            raise ValueError("expected cdm_schema as a plain name: letters, digits, _")
        return self


class FhirSection(FileSection):
    """Resources of a FHIR R4 bulk export (NDJSON) or of Bundles."""

    kind: Literal["fhir"] = Field(description="How the records are stored: fhir, R4 resources")
    path: FilePath = Field(
        description="An .ndjson file, a Bundle .json, or a folder of them, plain or gzip"
    )
    resource: Annotated[str, Field(pattern=r"^[A-Z][A-Za-z]{1,63}$")] = Field(
        description="Resource type that makes a record, such as DocumentReference"
    )
    fields: dict[str, str] = Field(
        min_length=1,
        description="Name of each field and its path: code.text, Patient.gender",
    )
    record_id: str = Field(default="id", description="Field that names a record: id, the resource")
    unit_id: str = Field(
        default="patient", description="Field that names the patient: patient, by reference"
    )


class Iso20022Section(FileSection):
    """Payments of ISO 20022 messages: pain.001 and camt.053."""

    kind: Literal["iso20022"] = Field(description="How the records are stored: iso20022, XML")
    path: FilePath = Field(description="An .xml file or a folder of them, plain or gzip")
    unit_id: str = Field(default="account", description="Field that names the customer")
    prompt: Template = Field(
        default="{remittance}", min_length=1, description="Template of what the model reads"
    )


def _kind(value: Any) -> str:  # noqa: ANN401 - what the file says, or a section
    if isinstance(value, dict):
        return str(value.get("kind", "jsonl"))
    return str(getattr(value, "kind", ""))


AnyData = Annotated[
    Annotated[DataSection, Tag("jsonl")]
    | Annotated[CsvSection, Tag("csv")]
    | Annotated[ParquetSection, Tag("parquet")]
    | Annotated[SqlSection, Tag("sql")]
    | Annotated[OmopSection, Tag("omop")]
    | Annotated[FhirSection, Tag("fhir")]
    | Annotated[Iso20022Section, Tag("iso20022")],
    Discriminator(_kind),
]
KINDS = ("jsonl", "csv", "parquet", "sql", "omop", "fhir", "iso20022")
