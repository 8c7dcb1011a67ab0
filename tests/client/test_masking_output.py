"""The output is whole or not there, whatever ended the work; another input is noticed."""

import os
import stat
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from client.masking.checkpoint import Output
from client.masking.rows import RowStats
from privacy.errors import ConfigError

LINES = [f"line {number}\n".encode() for number in range(50)]
SETTINGS: dict[str, object] = {"mode": "placeholder"}


class Killed(BaseException):
    """Stands for kill -9."""


def work(path: Path, lines: list[bytes], *, stop_after: int | None = None) -> None:
    """Copy lines in upper case, and perhaps be killed with half a row written."""
    with Output(path, SETTINGS) as output:
        for number, line in enumerate(output.unread(iter(lines))):
            if number == stop_after:
                output._file.write(b"HALF A RO")
                output._file.flush()
                raise Killed
            output.write([line], line.upper(), RowStats(num_rows=1))
            output.commit()
        output.finish()


@given(st.lists(st.integers(0, 20), max_size=4))
@settings(deadline=None, max_examples=25)
def test_after_any_kills_the_output_is_what_it_would_have_been(
    tmp_path_factory: pytest.TempPathFactory, stops: list[int]
) -> None:
    path = tmp_path_factory.mktemp("out") / "out.jsonl"
    for stop in stops:
        try:
            work(path, LINES, stop_after=stop)
        except Killed:
            assert not path.exists()
        else:
            break
    if not path.exists():
        work(path, LINES)
    assert path.read_bytes() == b"".join(LINES).upper()
    assert os.listdir(path.parent) == ["out.jsonl"]


def begun(tmp_path: Path) -> Path:
    path = tmp_path / "out.jsonl"
    with pytest.raises(Killed):
        work(path, LINES, stop_after=10)
    return path


def test_what_was_counted_before_a_kill_is_not_lost(tmp_path: Path) -> None:
    path = begun(tmp_path)
    with Output(path, SETTINGS) as output:
        assert (output.num_lines, output.stats.num_rows) == (10, 10)
        assert list(output.unread(iter(LINES))) == LINES[10:]


@pytest.mark.parametrize("lines", [[b"other\n", *LINES[1:]], LINES[:5], []])
def test_another_input_is_noticed(tmp_path: Path, lines: list[bytes]) -> None:
    path = begun(tmp_path)
    with pytest.raises(ConfigError, match="are not what they were") as caught:
        work(path, lines)
    assert "begin anew" in caught.value.hint
    assert not path.exists()


def test_lines_that_were_not_read_yet_may_change(tmp_path: Path) -> None:
    path = begun(tmp_path)
    work(path, [*LINES[:10], b"mended\n"])
    assert path.read_bytes().endswith(b"LINE 9\nMENDED\n")


def test_other_settings_are_noticed(tmp_path: Path) -> None:
    path = begun(tmp_path)
    with pytest.raises(ConfigError, match="other settings"):
        Output(path, {"mode": "redact"})


@pytest.mark.parametrize("content", [b"", b"{", b"\xff"])
def test_a_damaged_note_is_an_error(tmp_path: Path, content: bytes) -> None:
    path = begun(tmp_path)
    (tmp_path / "out.jsonl.partial.done").write_bytes(content)
    with pytest.raises(ConfigError, match="is damaged"):
        Output(path, SETTINGS)


def test_a_partial_file_that_was_cut_is_an_error(tmp_path: Path) -> None:
    path = begun(tmp_path)
    os.truncate(tmp_path / "out.jsonl.partial", 3)
    with pytest.raises(ConfigError, match="shorter than it was"):
        Output(path, SETTINGS)


def test_an_output_that_exists_is_never_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    path.write_text("mine")
    with pytest.raises(ConfigError, match="exists already"):
        Output(path, SETTINGS)
    assert path.read_text() == "mine"


def test_two_processes_do_not_write_one_output(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    with Output(path, SETTINGS), pytest.raises(ConfigError, match="another process"):
        Output(path, SETTINGS)


def test_every_file_is_its_owners_alone(tmp_path: Path) -> None:
    begun(tmp_path)
    assert {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()} == {0o600}


def test_a_file_that_others_can_read_is_closed_to_them(tmp_path: Path) -> None:
    path = begun(tmp_path)
    partial = tmp_path / "out.jsonl.partial"
    partial.chmod(0o644)
    work(path, LINES)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_rows_are_not_written_through_a_planted_link(tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.write_text("mine")
    (tmp_path / "out.jsonl.partial").symlink_to(other)
    with pytest.raises(ConfigError, match="cannot write"):
        Output(tmp_path / "out.jsonl", SETTINGS)
    assert other.read_text() == "mine"


def test_slow_work_is_committed_by_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock: Iterator[float] = iter([0.0, 1.0, 3.0, 3.0])
    monkeypatch.setattr(time, "monotonic", lambda: next(clock))
    with Output(tmp_path / "out.jsonl", SETTINGS) as output:
        output.write(LINES[:1], b"A\n", RowStats())
        assert not (tmp_path / "out.jsonl.partial.done").exists()
        output.write(LINES[1:2], b"B\n", RowStats())
        assert (tmp_path / "out.jsonl.partial.done").exists()
