"""Documents are checked against the code: a setting or a link that drifted fails here."""

import re
import tomllib
from pathlib import Path

import pytest

from client.config import SiteConfig
from server.config import FederationConfig

ROOT = Path(__file__).parents[2]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])


def text(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_relative_link_leads_somewhere(document: Path) -> None:
    targets = re.findall(r"\]\(([^)#\s]+)", document.read_text(encoding="utf-8"))
    missing = [t for t in targets if "://" not in t and not (document.parent / t).exists()]
    assert missing == []


def test_every_setting_of_a_site_is_documented() -> None:
    documented = text("docs/operate/site.md")
    for name, section in SiteConfig.model_fields.items():
        assert f"[{name}]" in documented
        assert section.annotation is not None
        for key in section.annotation.model_fields:
            assert re.search(rf"`(\[{name}\] )?{key}`", documented), f"[{name}] {key}"


def test_every_setting_of_a_coordinator_is_documented() -> None:
    documented = text("docs/operate/coordinator.md")
    for key in FederationConfig.model_fields:
        assert f"| `{key}` |" in documented, key


def test_every_decision_is_listed() -> None:
    listed = text("docs/decisions/README.md")
    pages = sorted(path.name for path in (ROOT / "docs/decisions").glob("[0-9]*.md"))
    assert [name for name in pages if name not in listed] == []


def test_every_file_that_the_route_names_exists() -> None:
    names = set(re.findall(r"`((?:client|server|privacy|model)/[\w./]*)`", text("docs/route.md")))
    assert sorted(name for name in names if not (ROOT / name).exists()) == []


def test_every_dependency_is_pinned() -> None:
    project = tomllib.loads(text("pyproject.toml"))["project"]
    pinned = {line.partition("==")[0].lower() for line in text("constraints.txt").splitlines()}
    wanted = [*project["dependencies"], *project["optional-dependencies"]["dev"]]
    names = [re.match(r"[\w-]+", entry) for entry in wanted]
    assert [m[0] for m in names if m and m[0].lower().replace("_", "-") not in pinned] == []


def test_no_package_for_gpus_is_pinned() -> None:
    assert not re.search(r"^(nvidia|cuda|triton)", text("constraints.txt"), re.MULTILINE)
