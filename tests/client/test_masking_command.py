"""`cloister-site mask` as people and crashes use it: real processes, real kills."""

import gzip
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from client import cli
from client.home import SiteHome
from client.masking.rows import RowMasker, RowSettings, RowStats
from privacy import console
from privacy.masking.config import MaskingConfig

# The recognisers' libraries take long to load where other tests run beside.
pytestmark = pytest.mark.timeout(240)

TYPES = ("CREDIT_CARD", "EMAIL")
CARD = "4111 1111 1111 1111"
CANARY = "zebra-quilt-0451"


def rows(num_rows: int) -> list[dict[str, object]]:
    return [
        {"id": f"r{n}", "unit_id": f"p{n % 7}", "text": f"{CANARY} {n} paid by {CARD}, {n}@x.org"}
        for n in range(num_rows)
    ]


def write(path: Path, content: list[dict[str, object]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in content))
    return path


def mask(*arguments: object) -> int:
    return cli.main(["mask", *map(str, arguments), "--types", *TYPES])


def expected(content: list[dict[str, object]]) -> bytes:
    masker = RowMasker(RowSettings(masking=MaskingConfig(entity_types=TYPES)))
    return b"".join(
        masker.mask_line(json.dumps(row).encode(), number, RowStats())
        for number, row in enumerate(content, start=1)
    )


def test_a_preview_prints_the_first_rows_in_plain_text_to_a_pipe(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path / "in.jsonl", rows(30))
    assert mask("--input", path, "--preview", 3) == console.OK
    shown = capsys.readouterr().out
    assert "\x1b" not in shown
    assert "line 3, text" in shown
    assert "line 4" not in shown
    assert "[EMAIL]" in shown


def test_a_page_is_written_and_its_rows_are_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path / "in.jsonl", rows(30))
    page = tmp_path / "p.html"
    assert mask("--input", path, "--html", page, "--preview", 2, "--json") == console.OK
    told = json.loads(capsys.readouterr().out)
    assert [row["where"] for row in told if "text" in row["where"]] == [
        "line 1, text",
        "line 2, text",
    ]
    assert page.read_text().count(CARD) == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "--input FILE or --source NAME"),
        (("--input", "x", "--spans"), "expected --output FILE with --spans"),
        (("--input", "x", "--output", "y", "--field", "z"), "expected --spans with --field"),
        (("--input", "x", "--output", "y", "--spans", "--keep", "id"), "no --keep with --spans"),
        (("--input", "x", "--preview", "0"), "at least 1"),
    ],
)
def test_a_call_that_cannot_mean_anything_is_refused(
    arguments: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert mask(*arguments) == console.USAGE
    assert message in capsys.readouterr().err


def test_a_missing_file_and_a_missing_source_are_clear(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert mask("--input", tmp_path / "none") == console.FAILED
    assert f"error: cannot read {tmp_path / 'none'}: No such file" in capsys.readouterr().err
    assert mask("--source", "data", "--home", tmp_path) == console.FAILED
    assert "site.toml" in capsys.readouterr().err


def test_surrogates_need_a_key_and_a_new_one_is_told_by_its_id(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path / "in.jsonl", rows(1))
    arguments = ("--input", path, "--mode", "surrogate", "--home", tmp_path)
    assert mask(*arguments) == console.FAILED
    assert "--new-key" in capsys.readouterr().err
    assert mask("--new-key", "--home", tmp_path, "--json") == console.OK
    key_id = json.loads(capsys.readouterr().out)["key_id"]
    assert SiteHome(tmp_path).surrogate_key(key_id).key_id == key_id
    assert mask(*arguments, "--json") == console.OK
    shown = capsys.readouterr().out
    assert "@example.org" in shown
    assert CARD not in "".join(row["masked"] for row in json.loads(shown))


def test_the_source_of_the_settings_is_previewed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record: dict[str, object] = {
        "id": "r1",
        "prompt": f"card {CARD}",
        "completion": "x",
        "label": "red",
    }
    write(tmp_path / "notes.jsonl", [record])
    cli.main(
        ["init", "--home", str(tmp_path / "home"), "--name", "s", "--federation", "f",
         "--coordinator", "localhost:1", "--data", str(tmp_path / "notes.jsonl"), "--units", "10"]
    )  # fmt: skip
    capsys.readouterr()
    assert mask("--source", "data", "--home", tmp_path / "home", "--json") == console.OK
    assert "card [CREDIT_CARD]" in capsys.readouterr().out
    assert mask("--source", "other", "--home", tmp_path / "home") == console.FAILED
    said = capsys.readouterr().err
    assert "expected source data, the only one that site.toml has, got 'other'" in said
    assert "--input" in said


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("packed", [False, True])
def test_a_file_is_masked_on_several_processes_in_its_order(
    tmp_path: Path, packed: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    content = rows(3000)
    path = write(tmp_path / "in.jsonl", content)
    if packed:
        path.write_bytes(gzip.compress(path.read_bytes()))
    output = tmp_path / "out.jsonl"
    arguments = ("--input", path, "--output", output, "--jobs", 2, "--stats", "--json")
    assert mask(*arguments) == console.OK
    assert output.read_bytes() == expected(content)
    told = json.loads(capsys.readouterr().out)
    assert told["rows"] == 3000
    assert told["masked"] == {"CREDIT_CARD": 3000, "EMAIL": 3000}


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_line_that_is_no_row_is_named_and_quoted_nowhere(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path / "in.jsonl", rows(10))
    with path.open("a") as opened:
        opened.write(f'{{"text": "{CANARY}\n')
    output = tmp_path / "out.jsonl"
    assert mask("--input", path, "--output", output, "--jobs", 1) == console.FAILED
    said = capsys.readouterr()
    assert f"error: {path}, line 11: expected one JSON object" in said.err
    assert CANARY not in said.err + said.out
    assert not output.exists()


def start(path: Path, output: Path) -> subprocess.Popen[bytes]:
    """The command as a process of its own session."""
    return subprocess.Popen(
        [sys.executable, "-m", "client.cli", "mask", "--input", str(path), "--output",
         str(output), "--jobs", "2", "--types", *TYPES],
        cwd=Path(__file__).parents[2],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )  # fmt: skip


def alive(session: int) -> list[int]:
    """Processes of a session that are no zombies."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[3]) == session and fields[0] != "Z":
            found.append(int(folder.name))
    return found


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_kill_9_leaves_no_output_and_no_process_and_the_next_start_goes_on(tmp_path: Path) -> None:
    content = rows(20_000)
    path = write(tmp_path / "in.jsonl", content)
    output = tmp_path / "out.jsonl"
    done = tmp_path / "out.jsonl.partial.done"
    first = start(path, output)
    while not done.exists():
        assert first.poll() is None, first.communicate()
        time.sleep(0.02)
    first.send_signal(signal.SIGKILL)
    first.wait()
    assert not output.exists()
    counted = json.loads(done.read_text())["num_lines"]
    assert 0 < counted < 20_000
    deadline = time.monotonic() + 30
    while alive(first.pid) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert alive(first.pid) == []
    first.communicate()
    second = start(path, output)
    _, said = second.communicate()
    assert second.returncode == 0, said
    assert f"going on after line {counted:,}".encode() in said
    assert CANARY.encode() not in said
    assert output.read_bytes() == expected(content)
    assert sorted(os.listdir(tmp_path)) == ["in.jsonl", "out.jsonl"]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    path, output = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    long = {"text": ("no name here, only words and more words. " * 100) + CARD}
    line = json.dumps(long) + "\n"
    with path.open("w") as opened:
        for _ in range(20_000):  # 84 MB
            opened.write(line)
    process = start(path, output)
    most_kib = 0
    while process.poll() is None:
        used = 0
        for pid in alive(process.pid):
            try:
                used += int(
                    Path(f"/proc/{pid}/smaps_rollup").read_text().split("Pss:")[1].split()[0]
                )
            except (OSError, IndexError):
                continue
        most_kib = max(most_kib, used)
        time.sleep(0.2)
    _, said = process.communicate()
    assert process.returncode == 0, said
    assert output.stat().st_size > 80_000_000
    # Shared pages counted once: the recognisers, and chunks that are on their way.
    assert 50_000 < most_kib < 1_000_000
