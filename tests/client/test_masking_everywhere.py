"""Planted values of every type: in the records they are found, in nothing that a site makes.

The training process is the real one. Tokens, reply, what stays in the journal, progress, errors,
temporary files and the files of `cloister-site mask` are searched for every value in every form.
"""

import json
import tempfile
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from client import dataset
from client.config import parse_config
from client.framing import unframe
from client.masking.checkpoint import Output
from client.masking.rows import RowMasker, RowSettings, RowStats
from client.worker import Worker, WorkerFailedError
from model.base import nano_folder
from privacy.errors import ConfigError, FederationError
from privacy.masking.canaries import LabelledNote, planted
from privacy.masking.config import ENTITY_TYPES, MODES, MaskingConfig
from privacy.masking.detect import Detector
from privacy.masking.surrogates import SurrogateKey
from tests.client import room
from tests.client.test_dataset import make_plan, tokenizer
from tests.e2e import probe

LANGUAGES = ("en", "zh")
CALL_S = 240.0


@cache
def notes() -> dict[str, list[LabelledNote]]:
    """Canaries by type that the recognisers find whole; what they miss is in the log's recall."""
    find = Detector(MaskingConfig(languages=LANGUAGES)).find
    found: dict[str, list[LabelledNote]] = defaultdict(list)
    for note in (note for language in LANGUAGES for note in planted(language)):
        ((start, end, entity_type),) = note.spans
        covered = {place for span in find(note.text) for place in range(span.start, span.end)}
        if covered.issuperset(range(start, end)):
            found[entity_type].append(note)
    return dict(found)


def value(note: LabelledNote) -> str:
    ((start, end, _),) = note.spans
    return note.text[start:end]


def record(number: int, first: LabelledNote, second: LabelledNote) -> dict[str, object]:
    return {
        "id": f"row{number}",
        "prompt": first.text,
        "completion": second.text,
        "label": ("red", "blue")[number % 2],
    }


def config_for(path: Path) -> str:
    return room.SETTINGS.format(path=path)


any_note = st.sampled_from(ENTITY_TYPES).flatmap(lambda kind: st.sampled_from(notes()[kind]))


def test_every_type_can_be_planted() -> None:
    assert set(notes()) == set(ENTITY_TYPES)


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.parametrize("mode", MODES)
def test_no_planted_value_is_in_tokens_or_text_of_any_mode(tmp_path: Path, mode: str) -> None:
    masking = MaskingConfig(languages=LANGUAGES, mode=mode, recall_floor=0.5)
    used = [note for found in notes().values() for note in found[::3]]
    path = tmp_path / "records.jsonl"
    rows = [record(number, note, note) for number, note in enumerate(used)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = parse_config(config_for(path) + "[policy]\nrecall_floor = 0.5\n", folder=tmp_path)
    data = dataset.load(
        config,
        make_plan(masking=masking),
        tokenizer(),
        holdout_key=bytes(32),
        surrogate_key=SurrogateKey(bytes(32)),
    )
    examples = [example for unit in data.train for example in unit.examples]
    assert len(examples) + len(data.held_out) == len(used)
    told = "\n".join(str(tokenizer().decode(example.input_ids)) for example in examples)
    told += "\n".join(unit.prompt + unit.answer for unit in data.held_out)
    assert [note.text for note in used if note.text in told] == []
    assert [value(note) for note in used if len(value(note)) >= 6 and value(note) in told] == []


@dataclass(frozen=True, kw_only=True)
class Made:
    """Everything that a training process gave."""

    folder: Path
    data: Path
    told: list[Mapping[str, object]]
    answer: bytes
    leaked: list[tuple[Path, str]]


@pytest.fixture(scope="module")
def needles() -> dict[str, bytes]:
    """Values of six characters and more, in every form, as text and as token ids."""
    tokens = Tokenizer.from_file(str(nano_folder() / "tokenizer.json"))
    found: dict[str, bytes] = {}
    for kind, examples in notes().items():
        for said in {value(note) for note in examples if len(value(note)) >= 6}:
            for form, content in probe.disguises(said).items():
                if len(content) >= 6:
                    found[f"{kind} {said}, {form}"] = content
            ids = tokens.encode(f" {said}", add_special_tokens=False).ids[1:-1]
            if len(ids) >= 4:
                found |= {
                    f"{kind} {said}, {form}": content
                    for form, content in probe.token_bytes(ids).items()
                }
    return found


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, needles: dict[str, bytes]) -> Made:
    folder = tmp_path_factory.mktemp("site")
    data = folder / "data" / "records.jsonl"
    data.parent.mkdir()
    pairs = [(note, note) for examples in notes().values() for note in examples[::7]]
    rows = [record(number, *pair) for number, pair in enumerate(pairs)]
    data.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    plan, instruction = room.nano_plan(
        MaskingConfig(languages=LANGUAGES, recall_floor=0.5), "completion"
    )
    extra = "[policy]\nrecall_floor = 0.5\n"
    told: list[Mapping[str, object]] = []
    before = set(Path(tempfile.gettempdir()).iterdir())
    with room.worker(folder) as worker:
        answer = worker.call(
            room.request(folder, data, plan, instruction, extra),
            timeout_s=CALL_S,
            on_progress=told.append,
        )
        new = set(Path(tempfile.gettempdir()).iterdir()) - before - {folder.parent}
        leaked = probe.sightings([path for path in new if path.is_file()], needles)
    return Made(folder=folder, data=data, told=told, answer=answer, leaked=leaked)


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_the_values_are_in_the_records_and_the_search_finds_them(
    made: Made, needles: dict[str, bytes]
) -> None:
    seen = {name.partition(" ")[0] for _, name in probe.sightings([made.data], needles)}
    long = {kind for kind, found in notes().items() if any(len(value(n)) >= 6 for n in found[::7])}
    assert long <= seen
    assert len(long) >= 20


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_no_value_is_in_the_reply_or_in_what_the_journal_gets(
    made: Made, needles: dict[str, bytes]
) -> None:
    assert [name for name, needle in needles.items() if needle in made.answer] == []
    local, _ = unframe(made.answer)
    # What was searched holds what was done.
    assert sum(local["masking"]["num_masked"].values()) > 100
    assert {row[0] for row in local["canaries"]} == set(ENTITY_TYPES)
    assert len(made.answer) > 10_000


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_no_value_is_in_progress_or_a_file(made: Made, needles: dict[str, bytes]) -> None:
    said = json.dumps(made.told, ensure_ascii=False).encode()
    assert b"masked" in said
    assert [name for name, needle in needles.items() if needle in said] == []
    searched = list(probe.files(made.folder, without=[made.data.parent]))
    assert searched
    assert probe.sightings(searched, needles) == []
    assert made.leaked == []


@given(any_note, st.integers(0, 6))
@settings(deadline=None, max_examples=40)
def test_no_value_is_in_an_error(note: LabelledNote, fault: int) -> None:
    row = record(1, note, note)
    lines = [
        json.dumps(row)[:-4],
        json.dumps([row]),
        json.dumps(row | {"label": [note.text]}),
        json.dumps({name: text for name, text in row.items() if name != "label"}),
        json.dumps(row | {"prompt": note.text + "\ud800"}),
        json.dumps(row | {"prompt": {note.text: 1}}),
        json.dumps(row | {note.text: 1, "id": 7}),
    ]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "records.jsonl"
        path.write_text(lines[fault] + "\n")
        config = parse_config(config_for(path), folder=Path(folder))
        errors: list[FederationError] = []
        with pytest.raises(ConfigError) as caught:
            list(dataset.source_rows(config, "data"))
        errors.append(caught.value)
        if fault in (0, 1, 4):
            masker = RowMasker.__new__(RowMasker)
            masker._settings = RowSettings(masking=MaskingConfig())
            with pytest.raises(ConfigError) as caught:
                masker.mask_line(lines[fault].encode(), 1, RowStats())
            errors.append(caught.value)
    for error in errors:
        assert note.text not in f"{error} {error.hint} {error!r}"
        assert len(value(note)) < 4 or value(note) not in f"{error} {error.hint}"


def test_no_value_is_in_a_masked_copy_or_beside_it(tmp_path: Path) -> None:
    masking = MaskingConfig(languages=LANGUAGES)
    masker = RowMasker(RowSettings(masking=masking))
    lines = [
        json.dumps(record(number, note, note)).encode() + b"\n"
        for number, note in enumerate(n for found in notes().values() for n in found[::5])
    ]
    stats = RowStats()
    with Output(tmp_path / "out.jsonl", {}) as output:
        rows = b"".join(masker.mask_line(line, 1, stats) for line in lines)
        output.write(lines, rows, stats)
        output.commit()
        written = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    for found in notes().values():
        for note in found[::5]:
            assert note.text.encode() not in written
            if len(value(note)) >= 6:
                assert value(note).encode() not in written


BREAK = """
from privacy.masking import recognisers
whole = recognisers.find
def broken(text, *arguments):
    # Finds what a detector looks for when it is built, and little else.
    return [s for s in whole(text, *arguments) if s.entity_type != "EMAIL" or "Seen:" in text]
recognisers.find = broken
"""


def call(worker: Worker, request: bytes) -> str:
    with pytest.raises(WorkerFailedError) as caught:
        worker.call(request, timeout_s=CALL_S, on_progress=lambda progress: None)
    return str(caught.value)


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_a_broken_recogniser_stops_training_before_a_record_is_read(tmp_path: Path) -> None:
    masking = MaskingConfig(entity_types=("CREDIT_CARD", "EMAIL"))
    plan, instruction = room.nano_plan(masking)
    # The records are not there: who tries to read them says so.
    request = room.request(tmp_path, tmp_path / "none.jsonl", plan, instruction)
    with room.worker(tmp_path, BREAK) as worker:
        said = call(worker, request)
    assert "RecallError" in said
    assert "expected at least 0.9 of planted EMAIL (en) to be masked" in said
    assert "0 of 40" in said
    with room.worker(tmp_path) as worker:
        assert "none.jsonl does not exist" in call(worker, request)
