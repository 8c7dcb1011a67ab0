"""What of Flower is used, where, and what the programs load."""

import ast
import importlib
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
PUBLIC = ("flwr.app", "flwr.clientapp", "flwr.serverapp", "flwr.simulation")
# The two files that may know Flower from within.
INSIDERS = ("server/engine.py", "client/link.py")


def flower_names(path: Path) -> list[tuple[str, str]]:
    """Modules and names of Flower's that a file imports."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "flwr":
            found += [(str(node.module), alias.name) for alias in node.names]
        if isinstance(node, ast.Import):
            found += [(alias.name, "") for alias in node.names if alias.name.startswith("flwr")]
    return found


def is_public(module: str) -> bool:
    """Whether Flower promises a module."""
    return any(module == public or module.startswith(f"{public}.strategy") for public in PUBLIC)


def test_flower_is_the_version_that_we_know_from_within() -> None:
    assert version("flwr") == "1.41.0"


@pytest.mark.parametrize("insider", INSIDERS)
def test_every_private_name_of_flower_exists(insider: str) -> None:
    names = [pair for pair in flower_names(ROOT / insider) if not is_public(pair[0])]
    assert names
    for module, name in names:
        loaded = importlib.import_module(module)
        if name and not hasattr(loaded, name):
            importlib.import_module(f"{module}.{name}")


def test_no_other_file_imports_a_private_name_of_flower() -> None:
    seen = 0
    for package in ("client", "server", "model", "privacy"):
        for path in sorted((ROOT / package).rglob("*.py")):
            relative = str(path.relative_to(ROOT))
            for module, name in flower_names(path):
                seen += 1
                assert is_public(module) or relative in INSIDERS, f"{relative}: {module}.{name}"
    assert seen > 10


@pytest.mark.parametrize(
    "module", ["client.agent", "client.cli", "server.coordinator", "server.cli", "privacy.cli"]
)
def test_a_program_of_ours_starts_without_torch(module: str) -> None:
    heavy = ("torch", "transformers", "peft", "opacus", "presidio_analyzer", "ray")
    code = f"import sys, {module}; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
