"""Documents are checked against the code: a setting, a file or a link that drifted fails here."""

import json
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from client import sources
from client.config import SiteConfig, format_config, parse_config
from privacy.audit.keys import KeyRing, Role
from privacy.masking.config import ENTITY_TYPES
from server.config import FederationConfig
from server.planning import PlanFile, read_plan_file

ROOT = Path(__file__).parents[2]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
COMPUTED = {"adapter.targets", "privacy.noise_multiplier", "exits.max_update_bytes"}
PATH = r"`((?:client|server|privacy|model|deploy|bench|tests|docs)/[\w./-]*)`"
# Where rules get their names.
DOORS = (
    "client/agent.py",
    "client/policy.py",
    "privacy/wire.py",
    "privacy/dp/ledger.py",
    "server/engine.py",
    "server/strategy.py",
    "server/coordinator.py",
)

SECTIONS = (
    sources.DataSection,
    sources.CsvSection,
    sources.ParquetSection,
    sources.SqlSection,
    sources.OmopSection,
    sources.FhirSection,
    sources.Iso20022Section,
)

each_document = pytest.mark.parametrize(
    "document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT))
)


def text(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def blocks(name: str, language: str) -> list[str]:
    """The fenced blocks of a language in a document."""
    return re.findall(rf"^```{language}\n(.*?)^```$", text(name), re.DOTALL | re.MULTILINE)


def keys(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, object]]:
    """Every key of a file, `section.key`, with its default."""
    for name, field in model.model_fields.items():
        # Of the kinds of sources the first is JSON Lines; the others are in connectors.md.
        section = sources.DataSection if name == "data" else field.annotation
        if isinstance(section, type) and issubclass(section, BaseModel):
            yield from keys(section, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", field.default


def written(tables: dict[str, object]) -> dict[str, object]:
    """Every value of a TOML file by `section.key`."""
    flat: dict[str, object] = {}
    for name, value in tables.items():
        if isinstance(value, dict):
            flat |= {f"{name}.{key}": inner for key, inner in value.items()}
        else:
            flat[name] = value
    return flat


@each_document
def test_every_relative_link_leads_somewhere(document: Path) -> None:
    targets = re.findall(r"\]\(([^)#\s]+)", document.read_text(encoding="utf-8"))
    missing = [t for t in targets if "://" not in t and not (document.parent / t).exists()]
    assert missing == []


@each_document
def test_every_file_that_is_named_exists(document: Path) -> None:
    names = set(re.findall(PATH, document.read_text(encoding="utf-8")))
    assert sorted(name for name in names if not (ROOT / name).exists()) == []


@each_document
def test_every_test_that_is_named_exists(document: Path) -> None:
    names = set(re.findall(r"`(test_\w+)`", document.read_text(encoding="utf-8")))
    sources = "\n".join(path.read_text(encoding="utf-8") for path in ROOT.glob("tests/**/*.py"))
    assert sorted(name for name in names if f"def {name}(" not in sources) == []


def test_every_setting_of_a_site_is_documented_with_its_default() -> None:
    documented = text("docs/operate/site.md")
    for key, default in keys(SiteConfig):
        section, name = key.split(".")
        row = re.search(rf"^\| `(?:\[{section}\] )?{name}` \|(.*?)\|", documented, re.MULTILINE)
        assert row, key
        if default is PydanticUndefined:
            said = ""
        elif default == ENTITY_TYPES:
            said = "all 26"
        else:
            value = list(default) if isinstance(default, tuple) else default or ""
            said = f"`{json.dumps(default if isinstance(default, bool) else value)}`"
        assert row[1].strip() == said, key
    assert all(f"`[{section}] " in documented for section in SiteConfig.model_fields)


CONNECTORS = blocks("docs/connectors.md", "toml")


@pytest.mark.parametrize("example", CONNECTORS, ids=range(len(CONNECTORS)))
def test_every_example_of_a_source_is_valid(example: str) -> None:
    others = '[site]\nname = "s"\ncoordinator = "h:1"\n[budget]\nepsilon = 8\ndelta = 1e-5\n'
    config = parse_config(others + example, folder=ROOT)
    assert config.data.kind in example
    assert parse_config(format_config(config), folder=Path("/elsewhere")) == config


def test_every_kind_of_source_has_an_example_and_every_key_of_it_is_documented() -> None:
    assert {
        kind for kind in sources.KINDS if f'kind = "{kind}"' not in "".join(CONNECTORS)
    } == set()
    documented = text("docs/connectors.md")
    shared = sources.SourceSection.model_fields
    for section in SECTIONS:
        for name, field in section.model_fields.items():
            if name in {"kind", "path", "unit", "population", "num_units"}:
                continue
            row = re.search(rf"^\| `{name}` \|(.*?)\|", documented, re.MULTILINE)
            assert row, name
            default = shared[name].default if name in shared else field.default
            if row[1].strip() == "by kind":
                continue
            value = list(default) if isinstance(default, tuple) else default
            said = "" if default is PydanticUndefined else f"`{json.dumps(value)}`"
            assert row[1].strip() == said.replace("null", '""'), name


def test_every_setting_of_a_coordinator_is_documented_with_its_default() -> None:
    documented = text("docs/operate/coordinator.md")
    for key, default in keys(FederationConfig):
        said = "" if default is PydanticUndefined else f"`{json.dumps(default)}` "
        assert f"| `{key}` | {said}|" in documented, key


def test_the_plan_in_the_guide_is_valid_and_has_every_key_and_default(tmp_path: Path) -> None:
    (example,) = blocks("docs/operate/coordinator.md", "toml")
    path = tmp_path / "PLAN.toml"
    path.write_text(example)
    plan = read_plan_file(path)
    assert (plan.privacy.noise_multiplier, plan.exits.max_update_bytes) == (None, None)
    # With the commented lines too it has every key.
    path.write_text(re.sub(r"^# (\w+ = )", r"\1", example, flags=re.MULTILINE))
    read_plan_file(path)
    shown = written(tomllib.loads(path.read_text()))
    assert set(shown) == {key for key, _ in keys(PlanFile)}
    defaults = {key: default for key, default in keys(PlanFile) if key not in COMPUTED}
    assert [
        key
        for key, default in defaults.items()
        if default is not PydanticUndefined and shown[key] != default
    ] == []
    required = {key for key, default in defaults.items() if default is PydanticUndefined}
    said = set(re.findall(r"^(\w+) = .*# .*required", example, re.MULTILINE)) | {"run"}
    assert {key.rpartition(".")[2] for key in required} == said


def test_the_demos_plan_has_no_key_that_a_plan_has_not() -> None:
    shown = written(tomllib.loads(text("deploy/demo/PLAN.toml").replace("{DELTA}", "1e-4")
                                  .replace("{MIN_SITES}", "2")))  # fmt: skip
    assert set(shown) <= {key for key, _ in keys(PlanFile)}


def test_the_keys_in_the_auditors_guide_are_a_key_file(tmp_path: Path) -> None:
    (example,) = blocks("docs/operate/auditor.md", "json")
    path = tmp_path / "keys.json"
    path.write_text(example)
    assert [key.role for key in KeyRing.load(path)] == [Role.COORDINATOR, Role.SITE]


@pytest.mark.parametrize("source", DOORS)
def test_every_rule_is_explained_to_an_operator(source: str) -> None:
    named = r"(?:[Rr]efuse|Refused|RefusedError|PlanRuleError)\(\s*\"([a-z][a-z0-9-]+)\""
    rules = set(re.findall(named, text(source)))
    guide = text("docs/operate/site.md") + text("docs/operate/coordinator.md")
    assert sorted(rule for rule in rules if f"`{rule}`" not in guide) == []


def test_every_decision_is_listed() -> None:
    listed = text("docs/decisions/README.md")
    pages = sorted(path.name for path in (ROOT / "docs/decisions").glob("[0-9]*.md"))
    assert [name for name in pages if name not in listed] == []


def test_words_of_the_glossary_are_in_order() -> None:
    words = re.findall(r"^\| ([a-z].*?) \|", text("docs/glossary.md"), re.MULTILINE)[1:]
    assert words == sorted(words)


def test_every_dependency_is_pinned() -> None:
    project = tomllib.loads(text("pyproject.toml"))["project"]
    pinned = {line.partition("==")[0].lower() for line in text("constraints.txt").splitlines()}
    wanted = [*project["dependencies"], *project["optional-dependencies"]["dev"]]
    names = [re.match(r"[\w-]+", entry) for entry in wanted]
    assert [m[0] for m in names if m and m[0].lower().replace("_", "-") not in pinned] == []


def test_no_package_for_gpus_is_pinned() -> None:
    assert not re.search(r"^(nvidia|cuda|triton)", text("constraints.txt"), re.MULTILINE)
