"""Words and values planted in every record of both sites: they are nowhere else.

The words are made up; the values are personal data of every type that is masked, in both
languages, drawn anew each time. Positive controls come with each search: what must be found is
found by the same means.
"""

import base64
import gzip
import json
import sqlite3
import struct
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from privacy.masking.config import ENTITY_TYPES
from tests.e2e import planting, probe
from tests.e2e.conftest import Story
from tests.e2e.consortium import SITES, Consortium


@pytest.fixture(scope="module")
def search(story: Story) -> probe.Search:
    """Every planted word and value in every form, as text and as token ids."""
    return probe.Search(story.needles)


def data_folders(made: Consortium) -> list[Path]:
    return [made.data(name).parent for name in SITES]


# -- that the search can find --------------------------------------------------------------------


def test_everything_planted_is_in_the_records_and_the_search_finds_it(
    story: Story, search: probe.Search
) -> None:
    for name in SITES:
        raw = gzip.decompress(story.consortium.data(name).read_bytes())
        words = "\n".join(" ".join(json.loads(row).values()) for row in raw.splitlines())
        seen = " ".join(search.names(words.encode()))
        for word in story.canaries.__dataclass_fields__:
            assert f"{word}, as it is" in seen
        for language in planting.LANGUAGES:
            for entity_type in ENTITY_TYPES:
                assert f"{entity_type} ({language})" in seen
        assert len(story.planted[name]) == len(ENTITY_TYPES) * len(planting.LANGUAGES)


def test_the_search_finds_every_form_wherever_it_stands(
    story: Story, search: probe.Search
) -> None:
    for name, needle in story.needles.items():
        for before in (b"", b"\0", b"x" * 7):
            assert name in search.names(before + needle + b"\0")


def test_the_search_finds_what_lies_across_the_parts_that_it_reads(
    story: Story, search: probe.Search
) -> None:
    name, needle = next(iter(story.needles.items()))
    for cut in (0, 1, 5, 6, len(needle)):
        assert name in search.names(b"\0" * (8_000_000 - cut) + needle)


def test_base64_is_found_whatever_stands_before_it(story: Story, search: probe.Search) -> None:
    for shift in range(3):
        content = base64.b64encode(b"xyz"[:shift] + story.canaries.said.encode() + b"z")
        assert search.names(content), shift


def by_hand(folder: Path, leak: bytes) -> Iterator[Path]:
    """The same leak by hand in each kind of file that a site or a coordinator leaves."""
    log = folder / "agent.log"
    log.write_bytes(b"error: cannot use " + leak + b" in line 3\n")
    yield log
    results = folder / "results.json"
    results.write_text(json.dumps({"base": {"worst": [list(leak)]}}).replace(" ", ""))
    results.write_bytes(results.read_bytes() + leak)
    yield results
    journal = folder / "journal.sqlite"
    with closing(sqlite3.connect(journal)) as database:
        database.execute("CREATE TABLE outbox (content BLOB)")
        # In the middle of ten pages; one of their borders cuts it.
        database.execute("INSERT INTO outbox VALUES (?)", (bytes(4070) + leak + bytes(40_000),))
        database.commit()
    yield journal
    scratch = folder / "tmp" / "tmpq81z"
    scratch.parent.mkdir(exist_ok=True)
    scratch.write_bytes(struct.pack("<4f", 0.1, 0.2, 0.3, 0.4) + leak)
    yield scratch
    entries = folder / "entries.jsonl"
    entries.write_bytes(b'{"payload":"' + base64.b64encode(b'{"hint":"' + leak + b'"}') + b'"}\n')
    yield entries


def test_a_value_of_any_type_that_is_leaked_by_hand_is_caught(
    story: Story, search: probe.Search, tmp_path: Path
) -> None:
    data = tmp_path / "data"
    data.mkdir()
    for value in story.planted[SITES[0]]:
        for path in by_hand(tmp_path, value.said.encode()):
            caught = probe.left_behind(tmp_path, [data], search)
            kind = f"{value.entity_type} ({value.language}) {value.said!r}"
            assert any(path.name == at and kind in name for at, name in caught), (path, kind)
            path.unlink()
    # The records themselves are no leak.
    (data / "records.jsonl").write_text(story.canaries.said)
    assert probe.left_behind(tmp_path, [data], search) == []


def test_a_value_that_leaks_into_a_message_is_caught_though_frames_cut_it(
    story: Story, search: probe.Search
) -> None:
    for values in story.planted.values():
        for value in values:
            message = b"\x0a\x20" + value.said.encode() + b"\x12\x00"
            body = struct.pack(">?I", False, len(message)) + message
            frames = b"".join(
                len(part).to_bytes(3, "big") + b"\0\0" + (1).to_bytes(4, "big") + part
                for part in (body[:11], body[11:])
            )
            caught = " ".join(search.names(probe.left_by_wire({"001.up": frames})))
            assert f"{value.entity_type} ({value.language}) {value.said!r}" in caught


# -- that there is nothing to find ---------------------------------------------------------------


def test_the_records_were_read_masked_and_trained_on(story: Story) -> None:
    for name in SITES:
        agent = story.consortium.agents[name]
        assert {"stage": "masked", "records": 60}.items() <= dict(
            agent.await_stage("masked")
        ).items()
        assert any(told.get("stage") == "trained" and told["steps"] == 1 for told in agent.told)


def test_nothing_planted_is_in_a_byte_that_left_a_site(story: Story, search: probe.Search) -> None:
    for name in SITES:
        whole = probe.left_by_wire(story.recorded(name, "opened", "up"))
        assert search.names(whole) == []
        # The same bytes hold what did leave, so nothing was looked for in vain.
        plan = story.answers["run"].result["plan"].encode()
        assert plan in whole
        assert len(whole) >= sum(s["bytes"] for s in story.answers["sent"].result)


def test_nothing_that_left_was_compressed_so_that_a_search_could_miss_it(story: Story) -> None:
    for name in SITES:
        for recorded in story.recorded(name, "opened", "up").values():
            for body in probe.streams(recorded).values():
                assert not any(compressed for compressed, _ in probe.messages(body))


def test_on_the_wire_not_even_the_name_of_the_site_can_be_read(
    story: Story, search: probe.Search
) -> None:
    for name in SITES:
        layers = (story.recorded(name, layer, "up") for layer in ("opened", "sealed"))
        opened, sealed = (b"".join(layer.values()) for layer in layers)
        assert len(sealed) > len(opened)
        for readable in (b"cloister.Door", b"flwr.proto", b"application/grpc"):
            assert readable in opened
        for hidden in (name.encode(), b"lakeside", b"cloister", b"flwr", b"grpc"):
            assert hidden not in sealed
        assert search.names(sealed) == []


def test_nothing_planted_is_in_a_file_outside_the_data_folders(
    story: Story, search: probe.Search
) -> None:
    made = story.consortium
    searched = list(probe.files(made.root, without=data_folders(made)))
    # Logs, keys, journals, ledgers, results, status, adapters, report, home and temporary folder.
    for name in SITES:
        for leaf in ("agent.log", "journal.sqlite", "results.json", "status.json"):
            assert made.site(name) / leaf in searched
    assert made.root / "report.html" in searched
    assert made.home / "coordinator.log" in searched
    assert made.log / "entries.jsonl" in searched
    # Compressed files would be searched in vain.
    assert [path for path in searched if path.suffix in (".gz", ".zip", ".zst")] == []
    assert probe.left_behind(made.root, data_folders(made), search) == []


def test_the_databases_were_read_cell_by_cell(story: Story) -> None:
    made = story.consortium
    (state,) = (made.home / "state").glob("flower*.sqlite")
    assert probe.cells(state)
    for name in SITES:
        assert b"budget-committed" in probe.cells(made.site(name) / "journal.sqlite")


def test_nothing_planted_is_in_a_temporary_file_of_the_system(story: Story) -> None:
    assert story.leaked == []


def test_nothing_planted_is_in_arguments_environment_or_private_files_of_a_process(
    story: Story, search: probe.Search
) -> None:
    for name, held in story.inside.items():
        assert search.names(held) == [], name
    assert b"client.child" in story.inside["clinic ClientApp"]
    assert b"OMP_NUM_THREADS" in story.inside["clinic ClientApp"]


def test_nothing_planted_is_told_by_a_command_or_a_process(
    story: Story, search: probe.Search
) -> None:
    told = [[a.result, a.talk] for a in story.answers.values()]
    told += [agent.told for agent in story.consortium.agents.values()]
    written = json.dumps(told, ensure_ascii=False).encode()
    assert b"masked" in written
    assert search.names(written) == []


def test_what_masking_counted_stays_at_home(story: Story) -> None:
    left = b"".join(
        content for name in SITES for content in story.recorded(name, "opened", "up").values()
    )
    assert b"num_masked" not in left
    for name in SITES:
        journal = story.consortium.site(name).glob("journal.sqlite*")
        assert b"num_masked" in b"".join(path.read_bytes() for path in journal)
