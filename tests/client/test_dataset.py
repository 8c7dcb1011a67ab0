"""What leaves the dataset is masked, split by unit and tokenised; the raw record stays."""

import json
import sys
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from client.config import SiteConfig, format_config, parse_config
from client.dataset import SiteDataset, is_held_out, load, probe
from model.config import AdapterConfig, BaseRef, TensorSpec
from privacy.dp.config import MechanismConfig, Unit
from privacy.errors import ConfigError, MaskingError, OverMaskingError, OwnNotesError
from privacy.masking.canaries import Measured
from privacy.masking.config import MaskingConfig
from privacy.masking.figures import OverMasking, Recall
from privacy.masking.surrogates import SurrogateKey
from privacy.plan import (
    ExitConfig,
    OptimizerConfig,
    RoundsConfig,
    RunPlan,
    SiteShare,
    TextConfig,
)

KEY = bytes(range(32))
# Few, because each load looks for the planted examples of every type first.
TYPES = ("CREDIT_CARD", "DATE", "EMAIL", "PHONE")
CARD = "4111 1111 1111 1111"


@cache
def tokenizer() -> PreTrainedTokenizerFast:
    """One token a byte."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: i for i, token in enumerate(["<pad>", "<bos>", "<eos>", *alphabet])}
    bytewise = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    bytewise.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bytewise.decoder = decoders.ByteLevel()
    special = {"pad_token": "<pad>", "bos_token": "<bos>", "eos_token": "<eos>"}
    return PreTrainedTokenizerFast(tokenizer_object=bytewise, **special)


def decode(ids: list[int]) -> str:
    return str(tokenizer().decode(ids))


def make_plan(**changes: object) -> RunPlan:
    plan = RunPlan(
        federation="f",
        run="r",
        base=BaseRef(name="nano", digest="sha256:" + "0" * 64),
        adapter=AdapterConfig(lora_rank=2, lora_alpha=4.0),
        tensors=(TensorSpec(name="a", shape=(1,), trained=True),),
        initial_adapter="sha256:" + "0" * 64,
        text=TextConfig(max_tokens=256),
        masking=MaskingConfig(entity_types=TYPES),
        mechanism=MechanismConfig(
            unit=Unit.RECORD,
            target_epsilon=8.0,
            delta=1e-5,
            noise_multiplier=1.0,
            clip_norm=1.0,
            sample_rate=0.1,
            steps_per_round=1,
        ),
        optimizer=OptimizerConfig(),
        rounds=RoundsConfig(num_rounds=1, min_sites=1),
        exits=ExitConfig(max_update_norm=1.0, max_update_bytes=1000),
        sites=(SiteShare(name="s", num_units=100),),
    )
    return replace(plan, **changes)  # type: ignore[arg-type]


def with_unit(unit: Unit) -> RunPlan:
    return make_plan(mechanism=replace(make_plan().mechanism, unit=unit))


def row(index: int, **changes: object) -> dict[str, object]:
    return {
        "id": f"row{index}",
        "prompt": f"text {index} of card {CARD} seen on 2019-03-{index % 28 + 1:02d}",
        "completion": "write to jane@example.org",
        "label": ("red", "blue")[index % 2],
        **changes,
    }


def config_for(path: Path, unit: Unit = Unit.RECORD) -> SiteConfig:
    return parse_config(
        f"""
        [site]
        name = "s"
        coordinator = "localhost:1"
        [data]
        path = "{path}"
        unit = "{unit}"
        num_units = 100
        [budget]
        epsilon = 8
        delta = 1e-5
        """,
        folder=path.parent,
    )


def load_rows(
    tmp_path: Path,
    rows: list[dict[str, object]],
    plan: RunPlan | None = None,
    unit: Unit = Unit.RECORD,
    key: bytes = KEY,
) -> SiteDataset:
    path = tmp_path / "records.jsonl"
    path.write_text("".join(json.dumps(values) + "\n" for values in rows))
    return load(config_for(path, unit), plan or make_plan(), tokenizer(), holdout_key=key)


def texts(dataset: SiteDataset) -> list[str]:
    decoded = [decode(example.input_ids) for unit in dataset.train for example in unit.examples]
    return decoded + [unit.prompt + unit.answer + unit.label for unit in dataset.held_out]


def test_no_personal_data_is_in_what_leaves(tmp_path: Path) -> None:
    rows = [row(i, label=f"call 202-555-01{i % 2:02d}") for i in range(50)]
    for answer in ("label", "completion"):
        plan = make_plan(text=TextConfig(answer=answer, max_tokens=256))
        dataset = load_rows(tmp_path, rows, plan)
        assert len(texts(dataset)) == 50
        for text in [*texts(dataset), *dataset.labels]:
            assert not any(raw in text for raw in (CARD, "2019", "jane", "555"))
        assert all("[CREDIT_CARD] seen on [DATE]" in text for text in texts(dataset))
        assert dataset.labels == ("call [PHONE]",)


def test_masking_is_counted_over_all_records_and_the_fields_that_are_used(tmp_path: Path) -> None:
    for text, num_emails in (
        (TextConfig(answer="label", max_tokens=256), 0),
        (TextConfig(answer="completion", max_tokens=256), 30),
    ):
        plan = make_plan(text=text)
        dataset = load_rows(tmp_path, [row(i) for i in range(30)], plan)
        assert dataset.masking.num_records == 30
        assert dataset.masking.num_masked == {
            **dict.fromkeys(TYPES, 0),
            "CREDIT_CARD": 30,
            "DATE": 30,
            "EMAIL": num_emails,
        }


def test_one_unit_in_five_is_held_out_by_the_key_alone(tmp_path: Path) -> None:
    held_out = [is_held_out(f"row{i}", KEY) for i in range(10_000)]
    assert 0.18 < sum(held_out) / 10_000 < 0.22
    assert held_out != [is_held_out(f"row{i}", bytes(32)) for i in range(10_000)]
    rows = [row(i) for i in range(60)]
    first, second = load_rows(tmp_path, rows), load_rows(tmp_path, rows[::-1])
    assert {unit.unit_id for unit in first.held_out} == {unit.unit_id for unit in second.held_out}
    assert first.num_units + len(first.held_out) == 60


def test_a_table_is_masked_and_split_by_its_units_like_texts(tmp_path: Path) -> None:
    lines = ["patient,last_name,note,grade"]
    lines += [f"p{i // 2},Mustermann,card {CARD} on 2019-03-02,{i % 2}" for i in range(60)]
    (tmp_path / "t.csv").write_text("\n".join(lines) + "\n")
    config = config_for(tmp_path / "t.csv", Unit.PATIENT)
    text = format_config(config)
    table = text[text.index("[data]") : text.index("[budget]")]
    csv = (
        '[data]\nkind = "csv"\npath = "t.csv"\nprompt = "{*}"\ntext_columns = ["note"]\n'
        'label = "{grade}"\n'
        'unit_id = "patient"\nunit = "patient"\nnum_units = 100\n'
    )
    config = parse_config(text.replace(table, csv), folder=tmp_path)
    dataset = load(config, with_unit(Unit.PATIENT), tokenizer(), holdout_key=KEY)
    assert dataset.num_units + len({unit.unit_id for unit in dataset.held_out}) == 30
    assert all(len(unit.examples) == 2 for unit in dataset.train)
    assert dataset.labels == ("0", "1")
    for text in texts(dataset):
        assert "note: card [CREDIT_CARD] on [DATE]" in text
        assert not any(raw in text for raw in (CARD, "Mustermann", "2019"))


def test_a_patients_records_stay_together(tmp_path: Path) -> None:
    rows = [row(i, unit_id=f"patient{i // 3}") for i in range(90)] + [row(90), row(91)]
    dataset = load_rows(tmp_path, rows, with_unit(Unit.PATIENT), Unit.PATIENT)
    sizes = {unit.unit_id: len(unit.examples) for unit in dataset.train}
    held_out = {unit.unit_id for unit in dataset.held_out}
    assert not held_out & set(sizes)
    assert all(size == 3 for name, size in sizes.items() if name.startswith("patient"))
    assert {name for name in held_out | set(sizes) if name.startswith("row")} == {"row90", "row91"}


def test_a_record_unit_is_the_row_even_where_patients_are_named(tmp_path: Path) -> None:
    dataset = load_rows(tmp_path, [row(i, unit_id="one") for i in range(40)])
    assert all(len(unit.examples) == 1 for unit in dataset.train)
    assert dataset.num_units > 20


def test_labels_are_those_of_training_and_the_answer_is_the_plans(tmp_path: Path) -> None:
    rows = [row(i) for i in range(40)]
    dataset = load_rows(tmp_path, rows)
    assert dataset.labels == ("blue", "red")
    assert {unit.answer for unit in dataset.held_out} <= {"red", "blue"}
    plan = make_plan(text=TextConfig(answer="completion", max_tokens=256))
    dataset = load_rows(tmp_path, rows, plan)
    assert {unit.answer for unit in dataset.held_out} == {"write to [EMAIL]"}
    example = dataset.train[0].examples[0]
    answer = decode(example.input_ids[example.answer_start :])
    assert answer.removesuffix("<eos>") == " write to [EMAIL]"


def test_progress_counts_records(tmp_path: Path) -> None:
    path = tmp_path / "records.jsonl"
    path.write_text("".join(json.dumps(row(i)) + "\n" for i in range(7)))
    seen: list[int] = []
    load(config_for(path), make_plan(), tokenizer(), holdout_key=KEY, progress=seen.append)
    assert seen == [1, 2, 3, 4, 5, 6, 7]


def test_rows_with_the_same_id_are_one_unit(tmp_path: Path) -> None:
    rows = [row(i % 30, prompt=f"text {i}") for i in range(60)]
    dataset = load_rows(tmp_path, rows)
    assert all(len(unit.examples) == 2 for unit in dataset.train)
    assert dataset.num_units == 30 - len(dataset.held_out) / 2


def test_two_sources_may_number_their_records_alike(tmp_path: Path) -> None:
    rows = [row(i, source=source) for i in range(20) for source in ("north", "south")]
    dataset = load_rows(tmp_path, rows)
    assert dataset.num_units + len(dataset.held_out) == 40


def test_a_file_with_nothing_to_train_on_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="none in 0 records"):
        load_rows(tmp_path, [])


def test_a_probe_reads_the_first_records_and_no_more(tmp_path: Path) -> None:
    path = tmp_path / "records.jsonl"
    path.write_text("".join(json.dumps(row(i)) + "\n" for i in range(7)) + "not a record\n")
    assert probe(config_for(path), limit=5) == 5
    with pytest.raises(ConfigError, match="line 8"):
        probe(config_for(path), limit=50)
    path.write_text("")
    with pytest.raises(ConfigError, match="at least one record"):
        probe(config_for(path), limit=5)


def test_a_plan_for_another_unit_is_refused_before_a_record_is_read(tmp_path: Path) -> None:
    config = config_for(tmp_path / "not-there.jsonl", Unit.PATIENT)
    with pytest.raises(ConfigError, match="patient, got record"):
        load(config, make_plan(), tokenizer(), holdout_key=KEY)


def test_a_key_that_is_no_secret_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="at least 16 bytes, got 3"):
        load_rows(tmp_path, [row(0)], key=b"abc")


def test_a_template_without_room_is_refused_as_a_plan_error(tmp_path: Path) -> None:
    text = TextConfig(prompt_template="x" * 300 + "{prompt}", max_tokens=64)
    with pytest.raises(ConfigError, match="prompt_template"):
        load_rows(tmp_path, [row(i) for i in range(20)], make_plan(text=text))


def test_without_masking_nothing_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "privacy.masking.presidio", None)
    with pytest.raises(MaskingError):
        load_rows(tmp_path, [row(i) for i in range(20)])


def own_notes(tmp_path: Path, text: str) -> SiteConfig:
    """Settings with a labelled note of one card number."""
    notes = tmp_path / "notes.jsonl"
    start = text.index("#")
    span = {"start": start, "end": start + 4, "type": "CREDIT_CARD"}
    notes.write_text(json.dumps({"text": text, "spans": [span]}) + "\n")
    config = config_for(tmp_path / "not-there.jsonl")
    masking = config.masking.model_copy(update={"labelled_notes": notes})
    return config.model_copy(update={"masking": masking})


def test_own_notes_count_before_a_record_is_read_and_are_not_quoted(tmp_path: Path) -> None:
    with pytest.raises(OwnNotesError, match=r"CREDIT_CARD \(own\).*0 of 1") as caught:
        load(own_notes(tmp_path, "zebra #123"), make_plan(), tokenizer(), holdout_key=KEY)
    assert "zebra" not in str(caught.value)


@pytest.mark.parametrize(("of_plan", "of_site"), [(1.0, 0.1), (0.1, 1.0)])
def test_the_higher_floor_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, of_plan: float, of_site: float
) -> None:
    config = config_for(tmp_path / "not-there.jsonl")
    policy = config.policy.model_copy(update={"recall_floor": of_site})
    found = Measured((Recall("DATE", "en", 40, 39, 39),), (OverMasking("en", 100, 0),))
    monkeypatch.setattr("client.gate.measure", lambda *_: found)
    plan = make_plan(masking=MaskingConfig(entity_types=TYPES, recall_floor=of_plan))
    with pytest.raises(MaskingError, match="at least 1 of planted DATE"):
        load(config.model_copy(update={"policy": policy}), plan, tokenizer(), holdout_key=KEY)


@pytest.mark.parametrize(("of_plan", "of_site"), [(0.0, 0.9), (0.9, 0.0)])
def test_the_lower_ceiling_of_over_masking_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, of_plan: float, of_site: float
) -> None:
    config = config_for(tmp_path / "not-there.jsonl")
    policy = config.policy.model_copy(update={"max_over_masking": of_site})
    found = Measured((Recall("DATE", "en", 40, 40, 40),), (OverMasking("en", 100, 1),))
    monkeypatch.setattr("client.gate.measure", lambda *_: found)
    plan = make_plan(masking=MaskingConfig(entity_types=TYPES, max_over_masking=of_plan))
    with pytest.raises(OverMaskingError, match="at most 0 of clean sentences"):
        load(config.model_copy(update={"policy": policy}), plan, tokenizer(), holdout_key=KEY)


def test_recall_on_planted_examples_comes_with_the_counts(tmp_path: Path) -> None:
    dataset = load_rows(tmp_path, [row(i) for i in range(20)])
    assert [(r.entity_type, r.source) for r in dataset.masking.measured.recalls] == [
        (name, "en") for name in TYPES
    ]
    assert all(recall.num_planted == 40 for recall in dataset.masking.measured.recalls)


def test_surrogates_stand_in_what_leaves_and_need_a_key(tmp_path: Path) -> None:
    plan = make_plan(masking=MaskingConfig(entity_types=TYPES, mode="surrogate"))
    with pytest.raises(MaskingError, match="expected a key"):
        load_rows(tmp_path, [row(i) for i in range(20)], plan)
    config = config_for(tmp_path / "records.jsonl")
    dataset = load(
        config, plan, tokenizer(), holdout_key=KEY, surrogate_key=SurrogateKey(bytes(32))
    )
    for text in texts(dataset):
        assert CARD not in text
        assert "[CREDIT_CARD]" not in text
        assert " of card 0" in text
