"""A round is measured without a trace in what the site trains and sends."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from client import app
from client.adapted import load_adapted
from client.config import SiteConfig, parse_config
from client.curve import Point, as_results, is_due
from client.dataset import HeldOutRecord, MaskingStats, SiteDataset, TokenizedUnit
from client.evaluate import evaluate_all, evaluate_round, sample
from client.framing import frame, unframe
from client.progress import listened
from client.room import answer
from model.adapter import AdapterState
from model.tokenizer import encode
from privacy import wire
from privacy.dp import engine
from privacy.errors import TrainingError
from privacy.masking.config import MaskingConfig
from tests.client import room

LABELS = ("red", "green", "blue")


def unit(number: int) -> HeldOutRecord:
    label = LABELS[number % 3]
    return HeldOutRecord(
        unit_id=f"u{number}", prompt=f"Note {number} on colours.", answer=label, label=label
    )


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[app.Node]:
    """The nano base with units that were never masked: nobody's."""
    folder = tmp_path_factory.mktemp("site")
    plan, _ = room.nano_plan(MaskingConfig())
    settings = folder / "site.toml"
    settings.write_text(room.SETTINGS.format(path=folder / "none.jsonl"))
    config = parse_config(
        settings.read_text() + "[evaluation]\nround_records = 5\nalone = false\n", folder=folder
    )
    model, tokenizer = load_adapted(plan, None, config.compute)
    data = SiteDataset(
        train=tuple(
            TokenizedUnit(
                unit_id=each.unit_id,
                examples=(encode(tokenizer, each.prompt, each.answer, plan.text),),
            )
            for each in map(unit, range(40))
        ),
        held_out=tuple(map(unit, range(40, 50))),
        labels=tuple(sorted(LABELS)),
        masking=MaskingStats(num_records=50, num_masked={}),
    )
    made = app.Node(config=config, plan=plan, model=model, tokenizer=tokenizer, data=data)
    app._loaded[str(settings), plan.digest] = made
    yield made
    app._loaded.clear()


@pytest.fixture
def ask(
    node: app.Node, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., tuple[dict[str, Any], bytes]]:
    """Ask the ClientApp as the agent does; what stays, and the reply's bytes. Noise is seeded."""
    (settings, _), *_ = app._loaded
    _, instruction = room.nano_plan(MaskingConfig())
    folder = Path(settings).parent
    whole = room.request(folder, folder / "none.jsonl", node.plan, instruction)
    handle = answer(app.app, listened)

    def asked(kind: str = "train", measure_s: float = 60.0) -> tuple[dict[str, Any], bytes]:
        header, sent = unframe(whole)
        message = room.message_of(sent)
        message.metadata.message_type = kind
        header["measure_s"] = measure_s
        drawn = np.random.default_rng(7)
        monkeypatch.setattr(engine, "_uniform", drawn.random)
        said = handle(frame(header, message.SerializeToString()), lambda _: None)
        local, sent = unframe(said)
        reply = room.message_of(sent)
        return local, reply.content.SerializeToString(deterministic=True)

    return asked


def test_an_update_is_the_same_to_the_byte_whether_or_not_a_round_was_measured(
    ask: Callable[..., tuple[dict[str, Any], bytes]], node: app.Node
) -> None:
    _, before = ask()
    modes = [module.training for module in node.model.modules()]
    torch.manual_seed(3)
    state = torch.get_rng_state()
    local, said = ask("query")
    assert torch.equal(torch.get_rng_state(), state)
    assert [module.training for module in node.model.modules()] == modes
    assert set(local["point"]) == {"loss", "accuracy", "num_examples"}
    # The figures stay: the message that would go back holds nothing.
    assert said == b""
    _, after = ask()
    assert len(before) > 1000
    assert after == before


def test_a_measurement_that_takes_too_long_gives_up_and_leaves_the_process_fit(
    ask: Callable[..., tuple[dict[str, Any], bytes]],
) -> None:
    _, before = ask()
    with pytest.raises(TrainingError, match=r"longer than the -1\.0 s"):
        ask("query", measure_s=-1.0)
    assert ask()[1] == before


def first_adapter() -> tuple[AdapterState, float]:
    plan, instruction = room.nano_plan(MaskingConfig())
    return AdapterState.unpack(plan.tensors, instruction.adapter), 60.0


def with_units(config: SiteConfig, num: int, every: int = 1) -> SiteConfig:
    evaluation = config.evaluation.model_copy(update={"round_records": num, "every": every})
    return config.model_copy(update={"evaluation": evaluation})


def test_the_last_point_is_what_a_rounds_measurement_would_say(node: app.Node) -> None:
    adapter, limit_s = first_adapter()
    model, tokenizer, data, plan = node.model, node.tokenizer, node.data, node.plan
    for num, expected in ((5, 5), (10, 10), (99, 10)):
        config = with_units(node.config, num)
        point = evaluate_round(model, tokenizer, data, plan, config, adapter, limit_s=limit_s)
        results = evaluate_all(model, tokenizer, data, plan, config, adapter)
        assert point is not None
        assert point["num_examples"] == expected
        assert results["point"] == pytest.approx(point, abs=1e-4)
        federated = results["federated"]
        assert isinstance(federated, dict)
        assert federated["num_examples"] == 10
    config = with_units(node.config, 5, every=0)
    assert evaluate_all(model, tokenizer, data, plan, config, adapter)["point"] is None


def test_without_held_out_units_there_is_nothing_to_measure(node: app.Node) -> None:
    adapter, limit_s = first_adapter()
    data = SiteDataset(
        train=node.data.train, held_out=(), labels=node.data.labels, masking=node.data.masking
    )
    args = (node.model, node.tokenizer, data, node.plan, node.config, adapter)
    assert evaluate_round(*args, limit_s=limit_s) is None
    assert evaluate_all(*args)["point"] is None


def test_the_part_is_the_same_in_whatever_order_the_source_gives_its_rows() -> None:
    units = [unit(number) for number in range(30)]
    part = sample(units, 7)
    assert len(set(part)) == 7
    assert sample(units[::-1], 7) == part
    assert set(sample(units, 7)) < set(sample(units, 8))
    assert sample(units, 30) == tuple(units)


def test_the_coordinator_cannot_ask_for_a_measurement(node: app.Node) -> None:
    assert "query" not in wire.KINDS


def test_rounds_are_due_from_the_first_adapter_on() -> None:
    assert [n for n in range(6) if is_due(n, 2)] == [0, 2, 4]
    assert not is_due(0, 0)


def test_results_say_nothing_of_rounds_where_none_is_to_be_measured() -> None:
    figures = {"loss": 1.5, "accuracy": 0.25, "num_examples": 4}
    point = Point.of(figures, server_round=2, adapter="sha256:" + "0" * 64)
    assert as_results([point], 0) == {}
    assert as_results([point], 2) == {
        "every": 2,
        "rounds": [{"server_round": 2, "adapter": "sha256:" + "0" * 64, **figures}],
    }
