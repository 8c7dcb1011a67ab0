"""Every sentence that the page may say, read from the code."""

import ast
from collections.abc import Iterator
from pathlib import Path

import privacy.compliance
from privacy.audit.keys import Role
from privacy.compliance import leakage, page, queries, report
from privacy.compliance.controls import Status
from privacy.compliance.statements import NOT_SHOWN
from privacy.dp.config import Unit
from privacy.dp.guarantee import NOT_COVERED

_SAYERS = {"say", "words"}


def sentences() -> set[str]:
    """The literals that are said, and those that are said from tables."""
    folder = Path(privacy.compliance.__file__).parent
    found = {text for file in folder.rglob("*.py") for text in _said(file)}
    found |= {*NOT_COVERED, *(part for pair in NOT_SHOWN for part in pair)}
    found |= {*page._KINDS.values(), *page._LANGUAGES.values(), *report._REFUSED.values()}
    found |= {*(status.value for status in Status), *(unit.value for unit in Unit)}
    found |= {role.value for role in Role} | {*leakage._ATTACKS.values()}
    return found | {text for name, text in vars(queries).items() if name.startswith("_EVALUATED")}


def _said(file: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and node.args:
            name = node.func.attr if isinstance(node.func, ast.Attribute) else ""
            name = node.func.id if isinstance(node.func, ast.Name) else name
            for literal in ast.walk(node.args[0]) if name in _SAYERS else ():
                if isinstance(literal, ast.Constant) and isinstance(literal.value, str):
                    yield literal.value
