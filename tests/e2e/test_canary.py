"""Words planted in every record of both sites: where they turn up, and that this is nowhere else.

Positive controls come with each search: what must be found is found by the same means.
"""

import base64
import gzip
import json
from pathlib import Path

import pytest
from tokenizers import Tokenizer

from model.base import nano_folder
from tests.e2e import probe
from tests.e2e.conftest import Story
from tests.e2e.consortium import SITES


@pytest.fixture(scope="module")
def needles(story: Story) -> dict[str, bytes]:
    """Every planted word in every form, as text and as token ids."""
    tokenizer = Tokenizer.from_file(str(nano_folder() / "tokenizer.json"))
    ids = tokenizer.encode(f" {story.canaries.said}", add_special_tokens=False).ids
    # The tokens at both ends depend on the neighbours.
    assert len(ids) >= 6
    return story.canaries.needles() | probe.token_bytes(ids[1:-1])


def test_the_words_are_in_the_records_and_the_search_finds_them(
    story: Story, needles: dict[str, bytes], tmp_path: Path
) -> None:
    for name in SITES:
        raw = tmp_path / name
        raw.write_bytes(gzip.decompress(story.consortium.data(name).read_bytes()))
        seen = {needle for _, needle in probe.sightings([raw], needles)}
        assert {f"{word}, as it is" for word in story.canaries.__dataclass_fields__} <= seen
    hidden = tmp_path / "hidden"
    for form, disguised in probe.disguises(story.canaries.said).items():
        hidden.write_bytes(b"\0" + disguised + b"\0")
        assert (hidden, f"said, {form}") in probe.sightings([hidden], needles)
    for shift in range(3):
        hidden.write_bytes(base64.b64encode(b"xyz"[:shift] + story.canaries.said.encode() + b"z"))
        assert probe.sightings([hidden], needles), shift


def test_the_records_were_read_masked_and_trained_on(story: Story) -> None:
    for name in SITES:
        agent = story.consortium.agents[name]
        assert {"stage": "masked", "records": 60}.items() <= dict(
            agent.await_stage("masked")
        ).items()
        assert any(told.get("stage") == "trained" and told["steps"] == 1 for told in agent.told)


def test_no_planted_word_is_in_a_byte_that_left_a_site(
    story: Story, needles: dict[str, bytes], tmp_path: Path
) -> None:
    for name in SITES:
        opened = story.recorded(name, "opened", "up")
        bodies = [
            message
            for recorded in opened.values()
            for body in probe.streams(recorded).values()
            for _, message in probe.messages(body)
        ]
        whole = tmp_path / name
        # Frames cut a message into pieces: it is searched as it was cut and as it was.
        whole.write_bytes(b"\n".join([*opened.values(), *bodies]))
        assert probe.sightings([whole], needles) == []
        # The same bytes hold what did leave, so nothing was looked for in vain.
        plan = story.answers["run"].result["plan"].encode()
        assert plan in whole.read_bytes()
        sent = sum(s["bytes"] for s in story.answers["sent"].result)
        assert sum(map(len, bodies)) >= sent


def test_nothing_that_left_was_compressed_so_that_a_search_could_miss_it(story: Story) -> None:
    for name in SITES:
        for recorded in story.recorded(name, "opened", "up").values():
            for body in probe.streams(recorded).values():
                assert not any(compressed for compressed, _ in probe.messages(body))


def test_on_the_wire_not_even_the_name_of_the_site_can_be_read(
    story: Story, needles: dict[str, bytes]
) -> None:
    for name in SITES:
        layers = (story.recorded(name, layer, "up") for layer in ("opened", "sealed"))
        opened, sealed = (b"".join(layer.values()) for layer in layers)
        assert len(sealed) > len(opened)
        for readable in (b"cloister.Door", b"flwr.proto", b"application/grpc"):
            assert readable in opened
        for hidden in (name.encode(), b"lakeside", b"cloister", b"flwr", b"grpc"):
            assert hidden not in sealed
        assert not any(needle in sealed for needle in needles.values())


def test_no_planted_word_is_in_a_file_outside_the_data_folders(
    story: Story, needles: dict[str, bytes]
) -> None:
    made = story.consortium
    data = [made.data(name).parent for name in SITES]
    searched = list(probe.files(made.root, without=data))
    # Logs, keys, journals, ledgers, results, status, adapters, report, home and temporary folder.
    for name in SITES:
        for leaf in ("agent.log", "journal.sqlite", "results.json", "status.json"):
            assert made.site(name) / leaf in searched
    assert made.root / "report.html" in searched
    assert made.home / "coordinator.log" in searched
    assert probe.sightings(searched, needles) == []


def test_no_planted_word_is_in_a_temporary_file_of_the_system(story: Story) -> None:
    assert story.leaked == []


def test_no_planted_word_is_told_by_a_command_or_a_process(
    story: Story, needles: dict[str, bytes], tmp_path: Path
) -> None:
    told = [[a.result, a.talk] for a in story.answers.values()]
    told += [agent.told for agent in story.consortium.agents.values()]
    written = tmp_path / "told"
    written.write_text(json.dumps(told, ensure_ascii=False))
    assert probe.sightings([written], needles) == []


def test_what_masking_counted_stays_at_home(story: Story) -> None:
    left = b"".join(
        content for name in SITES for content in story.recorded(name, "opened", "up").values()
    )
    assert b"num_masked" not in left
    for name in SITES:
        journal = story.consortium.site(name).glob("journal.sqlite*")
        assert b"num_masked" in b"".join(path.read_bytes() for path in journal)
