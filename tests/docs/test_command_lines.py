"""Every command line in the documents is one that its command takes, and every option is told."""

import argparse
import importlib.util
import re
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest

from client import cli as site
from privacy import cli as audit
from privacy.version import VERSION
from server import cli as coordinator

ROOT = Path(__file__).parents[2]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
PARSERS = {
    "cloister-site": site._parser(),
    "cloister-coordinator": coordinator._parser(),
    "cloister-audit": audit.build_parser(),
}
# Said once for all commands, at the top of each guide.
COMMON = {"-h", "--help", "--home", "--json"}


def subcommands(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    """The commands of a parser by name."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            return dict(action.choices)
    return {}


SUBCOMMANDS = [
    (program, name, parser)
    for program, whole in PARSERS.items()
    for name, parser in subcommands(whole).items()
]
each_subcommand = pytest.mark.parametrize(
    ("program", "name", "parser"), SUBCOMMANDS, ids=[f"{p} {n}" for p, n, _ in SUBCOMMANDS]
)


def parts(document: Path) -> tuple[list[str], str]:
    """A document's fenced blocks without a language, and its running text."""
    blocks: list[str] = []
    running: list[str] = []
    block: list[str] = []
    language: str | None = None
    for line in document.read_text(encoding="utf-8").splitlines():
        if not line.startswith("```"):
            (running if language is None else block).append(line)
        elif language is None:
            language, block = line.removeprefix("```"), []
        else:
            blocks += [] if language else ["\n".join(block)]
            language = None
    return blocks, "\n".join(running)


def spoken(document: Path) -> list[list[str]]:
    """Every command line of ours in a document, as words; continued lines as one."""
    lines = [
        line.removeprefix(".venv/bin/")
        for block in parts(document)[0]
        for line in re.sub(r"\\\n\s*", "", block).splitlines()
    ]
    return [shlex.split(line, comments=True) for line in lines if line.startswith(tuple(PARSERS))]


LINES = [
    (str(document.relative_to(ROOT)), line) for document in DOCUMENTS for line in spoken(document)
]


@pytest.mark.parametrize(("document", "line"), LINES, ids=[shlex.join(line) for _, line in LINES])
def test_a_command_line_is_taken_by_its_command(document: str, line: list[str]) -> None:
    try:
        PARSERS[line[0]].parse_args(line[1:])
    except SystemExit:
        pytest.fail(f"{document}: {shlex.join(line)}")


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_command_in_the_running_text_has_such_a_subcommand_and_options(document: Path) -> None:
    mentioned = re.findall(r"`(?:\.venv/bin/)?(cloister-[a-z]+) ([^`]+)`", parts(document)[1])
    for program, rest in mentioned:
        name, *words = shlex.split(rest)
        assert name in subcommands(PARSERS[program]), f"{program} {rest}"
        known = {
            option
            for action in subcommands(PARSERS[program])[name]._actions
            for option in action.option_strings
        }
        assert {word for word in words if word.startswith("-")} <= known, f"{program} {rest}"


@each_subcommand
def test_every_command_is_shown_in_a_guide_with_its_options(
    program: str, name: str, parser: argparse.ArgumentParser
) -> None:
    guides = sorted((ROOT / "docs/operate").glob("*.md"))
    assert any(line[:2] == [program, name] for guide in guides for line in spoken(guide)), (
        "no example in docs/operate"
    )
    told = "\n".join(guide.read_text(encoding="utf-8") for guide in guides)
    options = {option for action in parser._actions for option in action.option_strings}
    assert sorted(option for option in options - COMMON if option not in told) == []


@each_subcommand
def test_every_command_explains_each_option_and_ends_with_examples_it_takes(
    program: str, name: str, parser: argparse.ArgumentParser
) -> None:
    assert [action.dest for action in parser._actions if not action.help] == []
    assert parser.description
    head, _, example = (parser.epilog or "").partition("example:\n")
    assert head == ""
    for line in re.sub(r"\\\n\s*", "", example).splitlines():
        words = shlex.split(line)
        assert words[:2] == [program, name]
        PARSERS[program].parse_args(words[1:])


@pytest.mark.parametrize("main", [site.main, coordinator.main, audit.main])
def test_each_program_says_which_version_it_is(
    main: Callable[[list[str]], int], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert ended.value.code == 0
    assert re.fullmatch(rf"cloister-[a-z]+ {re.escape(VERSION)}\n", capsys.readouterr().out)


@pytest.mark.parametrize(
    "words", ["check", "start", "budget", "test-privacy", "test-privacy --release"]
)
def test_a_command_in_an_empty_folder_says_how_a_site_begins_and_makes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: str
) -> None:
    assert site.main([*words.split(), "--home", str(tmp_path)]) != 0
    said = capsys.readouterr()
    assert "site.toml: No such file or directory" in said.out + said.err
    assert "make one with `cloister-site init`" in said.out + said.err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_make_target_and_module_that_is_named_exists(document: Path) -> None:
    content = document.read_text(encoding="utf-8")
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in re.findall(r"^make (\w+)|`make (\w+)", content, re.MULTILINE):
        assert re.search(rf"^{target[0] or target[1]}:", makefile, re.MULTILINE), target
    for variable in re.findall(r"^make .*?\b([A-Z_]+)=", content, re.MULTILINE):
        assert re.search(rf"^{variable} \?=", makefile, re.MULTILINE), variable
    for module in re.findall(r"python -m ((?:\w+\.)*\w+)", content):
        assert importlib.util.find_spec(module) is not None, module


@pytest.mark.parametrize("module", ["deploy.demo.run", "deploy.demo.generate", "bench.__main__"])
def test_a_module_s_help_has_an_example(module: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        importlib.import_module(module).main(["--help"])
    assert ended.value.code == 0
    assert "example: python -m" in capsys.readouterr().out
