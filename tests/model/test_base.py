"""Which folders are loaded, which are refused, and what their digest covers."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, GraniteMoeConfig, LlamaConfig

from model.base import UnusableBaseError, base_digest, check_base, count_experts, load_base
from model.config import BaseRef

PROMPT = torch.tensor([[1, 40, 41, 42, 43, 44]])


def copied(folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(folder, tmp_path / "base"))


def test_every_family_loads_and_computes_what_transformers_computes(folder: Path) -> None:
    model, tokenizer = load_base(folder, BaseRef(name="tiny", digest=base_digest(folder)))
    plain = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    with torch.no_grad():
        torch.testing.assert_close(model(PROMPT).logits, plain(PROMPT).logits)
    assert tokenizer.eos_token_id == 2


def test_a_loaded_base_is_frozen_and_in_evaluation_mode(folder: Path) -> None:
    model, _ = load_base(folder, None)
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert not any(module.training for module in model.modules())
    assert count_experts(model) == 4


def test_the_weights_come_in_the_type_asked_for(nano_like: Path) -> None:
    model, _ = load_base(nano_like, None, dtype=torch.bfloat16)
    assert model.get_input_embeddings().weight.dtype == torch.bfloat16


def test_fast_and_plain_experts_agree(folder: Path) -> None:
    model, _ = load_base(folder, None)
    results = []
    for attention, experts in (("eager", "eager"), ("sdpa", "grouped_mm")):
        if attention == "eager" or model._supports_sdpa:
            model.set_attn_implementation(attention)
        model.set_experts_implementation(experts)
        with torch.no_grad():
            results.append(model(PROMPT).logits)
    torch.testing.assert_close(results[0], results[1])


def test_a_token_is_routed_the_same_alone_or_in_a_batch(folder: Path) -> None:
    model, _ = load_base(folder, None)
    chosen: list[torch.Tensor] = []
    for module in model.modules():
        if type(module).__name__.endswith("Router"):
            module.register_forward_hook(lambda _m, _i, outputs: chosen.append(outputs[2]))
    others = torch.randint(3, 259, (3, 6), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        model(PROMPT)
        alone = [experts.sort(-1).values for experts in chosen]
        chosen.clear()
        model(torch.cat([others, PROMPT]))
    assert alone
    for before, experts in zip(alone, chosen, strict=True):
        assert torch.equal(before, experts[-6:].sort(-1).values)


def test_the_digest_is_the_same_wherever_the_folder_lies(folder: Path, tmp_path: Path) -> None:
    assert base_digest(copied(folder, tmp_path)) == base_digest(folder)


def test_one_changed_weight_changes_the_digest(nano_like: Path, tmp_path: Path) -> None:
    changed = copied(nano_like, tmp_path)
    tensors = load_file(changed / "model.safetensors")
    tensors["model.norm.weight"][0] += 1e-3
    save_file(tensors, changed / "model.safetensors", metadata={"format": "pt"})
    assert base_digest(changed) != base_digest(nano_like)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "tokenizer_config.json"])
def test_a_changed_file_changes_the_digest(name: str, nano_like: Path, tmp_path: Path) -> None:
    changed = copied(nano_like, tmp_path)
    (changed / name).write_text((changed / name).read_text() + " ")
    assert base_digest(changed) != base_digest(nano_like)


def test_a_file_more_changes_the_digest_unless_it_changes_nothing(
    nano_like: Path, tmp_path: Path
) -> None:
    changed = copied(nano_like, tmp_path)
    (changed / "README.md").write_text("a card")
    assert base_digest(changed) == base_digest(nano_like)
    (changed / "added_tokens.json").write_text("{}")
    assert base_digest(changed) != base_digest(nano_like)


def test_another_base_than_the_agreed_one_is_refused(nano_like: Path) -> None:
    with pytest.raises(UnusableBaseError, match="expected base nano with digest sha256:0000"):
        load_base(nano_like, BaseRef(name="nano", digest="sha256:" + "0" * 64))


def test_a_dense_model_is_refused() -> None:
    config = LlamaConfig(
        vocab_size=64,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
    )
    with pytest.raises(UnusableBaseError, match="llama without routed experts"):
        check_base(config)


def test_a_base_whose_loss_would_be_wrong_is_refused() -> None:
    config = GraniteMoeConfig(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        num_local_experts=4,
        logits_scaling=8.0,
    )
    with pytest.raises(UnusableBaseError, match="logits_scaling"):
        check_base(config)


def test_an_adapter_lying_in_the_folder_is_refused(nano_like: Path, tmp_path: Path) -> None:
    changed = copied(nano_like, tmp_path)
    (changed / "adapter_config.json").write_text("{}")
    with pytest.raises(UnusableBaseError, match=r"adapter_config\.json"):
        load_base(changed, None)


def test_pickled_weights_are_not_weights(nano_like: Path, tmp_path: Path) -> None:
    changed = copied(nano_like, tmp_path)
    (changed / "model.safetensors").rename(changed / "pytorch_model.bin")
    with pytest.raises(UnusableBaseError, match="safetensors"):
        load_base(changed, None)


def test_code_in_the_folder_is_not_run(nano_like: Path, tmp_path: Path) -> None:
    changed = copied(nano_like, tmp_path)
    config = json.loads((changed / "config.json").read_text())
    config |= {
        "model_type": "unheard_of",
        "auto_map": {"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model"},
    }
    (changed / "config.json").write_text(json.dumps(config))
    marker = tmp_path / "marker"
    (changed / "evil.py").write_text(f"open({str(marker)!r}, 'w')\n")
    with pytest.raises(UnusableBaseError):
        load_base(changed, None)
    assert not marker.exists()


@pytest.mark.parametrize(
    "change", [{"hidden_size": 30}, {"vocab_size": "many"}, {"model_type": "unheard_of"}]
)
def test_an_impossible_configuration_is_refused(
    change: dict[str, object], nano_like: Path, tmp_path: Path
) -> None:
    changed = copied(nano_like, tmp_path)
    config = json.loads((changed / "config.json").read_text()) | change
    (changed / "config.json").write_text(json.dumps(config))
    with pytest.raises(UnusableBaseError):
        load_base(changed, None)


def test_a_truncated_weights_file_is_refused(nano_like: Path, tmp_path: Path) -> None:
    changed = copied(nano_like, tmp_path)
    weights = changed / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(UnusableBaseError, match="can load"):
        load_base(changed, None)
