"""The recipe of the embedded base: tokenizer, data, balance, fast parts, resuming."""

import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import DeepseekV3Config, DeepseekV3ForCausalLM, PreTrainedTokenizerFast

from model.base import nano_folder
from model.pretraining import batches, labels, train, vocabulary
from model.pretraining.balance import sequence_balance_loss
from model.pretraining.batches import Batch, Sources
from model.pretraining.card import card, figure
from model.pretraining.corpora import MIX
from model.pretraining.fast import (
    Attention,
    Norm,
    apply,
    head_loss,
    padded_experts,
    segment_mask,
    use_fast_parts,
)
from model.pretraining.labels import ANSWER_WEIGHT, TASKS, Warmup
from model.pretraining.step import batch_loss
from model.pretraining.train import folders_needed, label_share, learning_rate, pretrain
from model.tokenizer import encode

ENGLISH = [
    "Nurses monitor the fluid intake of clients with a fever.",
    "Banks in the district report that lending rose by 12 percent in 2019.",
    "The patient was given two doses of the drug; symptoms improved.",
]
CHINESE = [
    "患者应当按时服药，并注意饮食。",
    "医疗机构应当保护患者的个人信息。",
    "银行业金融机构应当遵守法律、行政法规。",
]
PARTIES = {
    "banking77",
    "cfpb_complaints",
    "demo_parties",
    "fin_eva_zh",
    "medquad",
    "mts_dialog",
    "zh_med_class",
    "zh_med_qa",
}


@pytest.fixture(scope="module")
def english() -> PreTrainedTokenizerFast:
    return vocabulary.train_english(ENGLISH * 4)


@pytest.fixture(scope="module")
def extended(english: PreTrainedTokenizerFast) -> PreTrainedTokenizerFast:
    return vocabulary.extend(english, CHINESE * 4, size=len(english) + 120)


def ids(tokenizer: PreTrainedTokenizerFast, text: str) -> list[int]:
    found: list[int] = tokenizer.encode(text, split_special_tokens=True)
    return found


@settings(deadline=None)
@given(st.text(st.characters(max_codepoint=0x2FFF, exclude_categories=["Cs"])))
def test_text_without_chinese_keeps_its_tokens(
    english: PreTrainedTokenizerFast, extended: PreTrainedTokenizerFast, text: str
) -> None:
    assert ids(extended, text) == ids(english, text)


def test_chinese_characters_become_tokens_of_their_own(
    english: PreTrainedTokenizerFast, extended: PreTrainedTokenizerFast
) -> None:
    text = CHINESE[1]
    # Beginning of text included; words of several characters may be one token.
    assert len(ids(extended, text)) <= len(text) + 1 < len(ids(english, text)) / 2
    assert extended.decode(ids(extended, text), skip_special_tokens=True) == text


def test_a_new_token_begins_as_the_mean_of_what_spelled_it(
    english: PreTrainedTokenizerFast, extended: PreTrainedTokenizerFast
) -> None:
    old_VD = torch.randn(len(english), 4, generator=torch.Generator().manual_seed(0))
    new_VD = vocabulary.extend_embedding(old_VD, english, extended)
    assert new_VD.shape == (len(extended), 4)
    assert torch.equal(new_VD[: len(english)], old_VD)
    [_, token] = ids(extended, "患")
    torch.testing.assert_close(new_VD[token], old_VD[ids(english, "患")[1:]].mean(0))


def test_the_shipped_tokenizer_reads_chinese_and_single_digits() -> None:
    tokenizer = PreTrainedTokenizerFast.from_pretrained(nano_folder())
    text = "糖尿病患者应当按时服药"
    assert len(ids(tokenizer, text)) <= len(text) + 1
    assert len(ids(tokenizer, "2024")) == 5
    assert len(tokenizer) == vocabulary.FULL_SIZE


def test_no_expert_of_the_shipped_base_is_dead() -> None:
    measured = json.loads((nano_folder() / "pretraining.json").read_text())
    shares = measured["now"]["expert_shares"]
    assert len(shares) == 5
    assert min(min(layer) for layer in shares) > 0.25 / 8


def test_the_shipped_card_says_what_was_measured() -> None:
    measured = json.loads((nano_folder() / "pretraining.json").read_text())
    assert (nano_folder() / "README.md").read_text() == card(measured)
    assert (nano_folder() / "curve.svg").read_text() == figure(measured)


def test_no_folder_of_a_party_is_read() -> None:
    assert not PARTIES & set(folders_needed())


def test_the_balance_loss_is_the_published_sum() -> None:
    torch.manual_seed(0)
    num_sequences, length, num_experts, top_k = 3, 5, 4, 2
    logits_NE = torch.randn(num_sequences * length, num_experts)
    chosen_NK = logits_NE.topk(top_k).indices
    expected = 0.0
    for sequence in range(num_sequences):
        tokens = range(sequence * length, (sequence + 1) * length)
        for expert in range(num_experts):
            f = sum(expert in chosen_NK[t].tolist() for t in tokens) * num_experts
            scores = [logits_NE[t].sigmoid() for t in tokens]
            p = sum(float(s[expert] / s.sum()) for s in scores) / length
            expected += f / (top_k * length) * p / num_sequences
    found = sequence_balance_loss(logits_NE, chosen_NK, num_sequences)
    assert found.item() == pytest.approx(expected, rel=1e-5)


def test_the_balance_loss_of_a_sequence_depends_on_no_other() -> None:
    torch.manual_seed(0)
    logits_NE = torch.randn(8, 4, requires_grad=True)
    other_NE = torch.cat([logits_NE[:4], torch.randn(4, 4)])
    grads = []
    for both_NE in (logits_NE, other_NE):
        loss = sequence_balance_loss(both_NE, both_NE.topk(2).indices, 2)
        grads.append(torch.autograd.grad(loss, logits_NE)[0][:4])
    assert torch.equal(grads[0], grads[1])


def test_an_even_load_has_balance_loss_one_and_a_dead_expert_more() -> None:
    even = sequence_balance_loss(torch.zeros(4, 4), torch.tensor([[0, 1], [2, 3]] * 2), 1)
    assert even.item() == pytest.approx(1.0)
    logits_NE = torch.tensor([[3.0, 3.0, -3.0, -3.0]] * 4)
    assert sequence_balance_loss(logits_NE, logits_NE.topk(2).indices, 1) > 1.5


def compare(ours: Tensor, theirs: Tensor, *inputs: Tensor) -> None:
    """Values and gradients agree."""
    torch.testing.assert_close(ours, theirs)
    upstream = torch.randn(ours.shape)
    ours_grads = torch.autograd.grad((ours * upstream).sum(), inputs)
    for one, other in zip(
        ours_grads, torch.autograd.grad((theirs * upstream).sum(), inputs), strict=True
    ):
        torch.testing.assert_close(one, other)


def tiny_config(vocab_size: int = 64) -> DeepseekV3Config:
    return DeepseekV3Config(
        vocab_size=vocab_size,
        hidden_size=16,
        intermediate_size=16,
        moe_intermediate_size=8,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        n_routed_experts=4,
        n_shared_experts=1,
        num_experts_per_tok=2,
        n_group=1,
        topk_group=1,
        first_k_dense_replace=1,
        q_lora_rank=None,
        kv_lora_rank=8,
        qk_rope_head_dim=4,
        qk_nope_head_dim=8,
        v_head_dim=8,
        max_position_embeddings=128,
        tie_word_embeddings=True,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        initializer_range=0.3,
    )


def test_padded_experts_are_the_experts() -> None:
    torch.manual_seed(0)
    experts: Any = DeepseekV3ForCausalLM(tiny_config()).model.layers[1].mlp.experts
    x_ND = torch.randn(30, 16, requires_grad=True)
    weight_NK = torch.rand(30, 2, requires_grad=True)
    # Expert 3 serves nobody.
    expert_NK = torch.stack([torch.randperm(3)[:2] for _ in range(30)])
    ours = padded_experts(experts, x_ND, expert_NK, weight_NK)
    inputs = (x_ND, weight_NK, experts.gate_up_proj, experts.down_proj)
    compare(ours, experts(x_ND, expert_NK, weight_NK), *inputs)


def test_attention_is_attention() -> None:
    torch.manual_seed(0)
    query, key = (torch.randn(2, 3, 6, 5, requires_grad=True) for _ in range(2))
    value = torch.randn(2, 3, 6, 4, requires_grad=True)
    mask = segment_mask(torch.tensor([[1, 5, 5, 1, 5, 5], [1, 5, 5, 5, 5, 5]]), 1).float()
    ours = apply(Attention, query, key, value, mask, 0.3)
    theirs = nn.functional.scaled_dot_product_attention(
        query, key, value, attn_mask=mask == 0, scale=0.3
    )
    compare(ours, theirs, query, key, value)


def test_head_loss_is_weighted_cross_entropy() -> None:
    torch.manual_seed(0)
    hidden_ND, head_VD = torch.randn(7, 4, requires_grad=True), torch.randn(9, 4)
    head_VD.requires_grad_()
    target_N, weight_N = torch.randint(9, (7,)), torch.rand(7)
    total, nats_N = head_loss(hidden_ND, head_VD, target_N, weight_N)
    theirs_N = nn.functional.cross_entropy(hidden_ND @ head_VD.T, target_N, reduction="none")
    torch.testing.assert_close(nats_N, theirs_N)
    compare(total, theirs_N @ weight_N, hidden_ND, head_VD)


def test_the_norm_is_the_norm_rounded() -> None:
    torch.manual_seed(0)
    x, scale = torch.randn(5, 8, requires_grad=True), torch.rand(8, requires_grad=True)
    ours = apply(Norm, x, scale, 1e-6)
    theirs = nn.functional.rms_norm(x, (8,), scale, 1e-6)
    assert ours.dtype == torch.bfloat16
    torch.testing.assert_close(ours.float(), theirs, rtol=1e-2, atol=1e-2)
    one, other = (torch.autograd.grad(y.float().sum(), x)[0] for y in (ours, theirs))
    torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_a_step_computes_what_transformers_computes() -> None:
    torch.manual_seed(0)
    model = DeepseekV3ForCausalLM(tiny_config())
    ids_BT = torch.randint(3, 64, (2, 17))
    ids_BT[:, 0] = 1
    logits = model(input_ids=ids_BT[:, :-1]).logits.flatten(0, 1)
    plain = nn.functional.cross_entropy(logits, ids_BT[:, 1:].flatten())
    use_fast_parts(model)
    loss, _ = batch_loss(model, Batch(ids=ids_BT, weights=torch.ones(ids_BT.shape)))
    assert loss.item() == pytest.approx(plain.item(), rel=0.02)


def test_a_document_does_not_see_the_one_before_it() -> None:
    torch.manual_seed(0)
    model = DeepseekV3ForCausalLM(tiny_config())
    use_fast_parts(model)
    ids_BT = torch.randint(3, 64, (2, 17))
    ids_BT[:, [0, 8]] = 1
    ids_BT[1, 8:] = ids_BT[0, 8:]
    _, nats_BT = batch_loss(model, Batch(ids=ids_BT, weights=torch.ones(ids_BT.shape)))
    assert torch.equal(nats_BT[0, 8:], nats_BT[1, 8:])
    assert not torch.equal(nats_BT[0, :7], nats_BT[1, :7])


def rows_of(folder: str) -> Iterator[dict[str, Any]]:
    """Rows with every field that any task reads."""
    for n in range(80):
        text = f"{ENGLISH[n % 3]} {n}" if not folder.endswith("_zh") else f"{CHINESE[n % 3]}{n}"
        yield (
            {
                "id": f"{folder}-{n}",
                "text": text,
                "intent": f"intent_{n % 5}",
                "domain": "banking",
                "label": str(n % 2),
                "question": f"Question {n}?",
                "long_answer": text,
                "answer": "yes",
                "section_labels": ["METHODS"],
                "context": [text],
                "entities": [[0, 6, "Nurses", "SpecificDisease", "D0"]],
                "intents": [f"intent_{n % 5}"],
                "summary": "What helps?",
                "a": f"{CHINESE[0]}{n}",
                "b": CHINESE[1],
                "paragraphs": [text],
                "questions": [
                    {
                        "question": "How much?",
                        "answer": ["12 percent"],
                        "answer_from": "text",
                        "answer_type": "span",
                    }
                ],
            }
            | dict.fromkeys(("book", "title", "district", "author", "category"), f"Of {n % 4}")
            | {"regulation": "TRUTH IN SAVINGS"}
        )


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data")
    for name in folders_needed():
        (root / name).mkdir()
        with gzip.open(root / name / f"{name}.jsonl.gz", "wt", encoding="utf-8") as opened:
            opened.writelines(json.dumps(row) + "\n" for row in rows_of(name))
    return root


def test_what_is_held_out_is_not_trained_on(data: Path) -> None:
    trained, held_out = (Warmup(data, held_out=held_out) for held_out in (False, True))
    for task, ours, theirs in zip(TASKS, trained.pairs, held_out.pairs, strict=True):
        assert ours, task.name
        # Labels of few kinds recur; a prompt with its label does not, where prompts differ.
        if task.name in ("intent of a customer", "title of a passage"):
            assert not set(ours) & set(theirs)
    assert any(held_out.pairs)


def test_a_window_of_labels_holds_examples_as_sites_encode_them(
    data: Path, extended: PreTrainedTokenizerFast
) -> None:
    warmup = Warmup(data, held_out=False)
    prompt, label, template = warmup.draw(np.random.default_rng(5))
    example = encode(extended, prompt[: labels.SNIPPET_CHARACTERS], label, template)
    window, weights = warmup.draw_window(extended, np.random.default_rng(5), 257)
    length = len(example.input_ids)
    assert window[:length].tolist() == example.input_ids
    assert set(weights[example.answer_start : length].tolist()) == {ANSWER_WEIGHT}
    assert weights[1 : example.answer_start].max() < 1
    assert (weights[window == extended.pad_token_id] == 0).all()
    assert window[window != extended.pad_token_id][-1] in (extended.eos_token_id, window[length])


def test_the_learning_rate_rises_stays_and_falls() -> None:
    assert learning_rate(0.001) < learning_rate(0.02) == learning_rate(0.5)
    assert learning_rate(0.5) > learning_rate(0.8) > learning_rate(0.99) > 0
    assert label_share(0.0) == 0 < label_share(0.5) < label_share(0.9) < 0.5
    assert sum(corpus.share for corpus in MIX) == pytest.approx(1.0)


def test_a_batch_is_a_function_of_seed_and_step(
    data: Path, tmp_path: Path, extended: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batches, "SEQUENCE_LENGTH", 32)
    sources = Sources.load(data, tmp_path, extended)
    again = Sources.load(data, tmp_path, extended)
    again.draw(seed=0, step=6, label_share=0.5)
    one, other = (s.draw(seed=0, step=7, label_share=0.5) for s in (sources, again))
    assert torch.equal(one.ids, other.ids)
    assert torch.equal(one.weights, other.weights)
    assert not torch.equal(one.ids, sources.draw(seed=1, step=7, label_share=0.5).ids)


class KilledError(Exception):
    """Stands for the end of the process."""


def test_a_resumed_run_ends_where_an_uninterrupted_one_does(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batches, "SEQUENCE_LENGTH", 32)
    monkeypatch.setattr(batches, "BATCH_SEQUENCES", 4)
    monkeypatch.setattr("model.pretraining.measure.SEQUENCE_LENGTH", 32)
    monkeypatch.setattr(train, "BATCH_TOKENS", 128)
    monkeypatch.setattr(train, "nano_config", tiny_config)
    monkeypatch.setattr(vocabulary, "ENGLISH_SIZE", 300)
    monkeypatch.setattr(train, "FULL_SIZE", 360)

    def run(out: Path) -> None:
        pretrain(data, out, num_tokens=6 * 128, seed=0, checkpoint_every_s=0.0)

    run(tmp_path / "whole")
    draw = Sources.draw

    def draw_until_killed(self: Sources, *, seed: int, step: int, label_share: float) -> Batch:
        if step == 3:
            raise KilledError
        return draw(self, seed=seed, step=step, label_share=label_share)

    monkeypatch.setattr(Sources, "draw", draw_until_killed)
    with pytest.raises(KilledError):
        run(tmp_path / "cut")
    monkeypatch.setattr(Sources, "draw", draw)
    run(tmp_path / "cut")
    whole, cut = (load_file(tmp_path / n / "nano" / "model.safetensors") for n in ("whole", "cut"))
    assert whole.keys() == cut.keys()
    for name, weights in whole.items():
        assert torch.equal(weights, cut[name]), name
    measured = json.loads((tmp_path / "cut" / "nano" / "pretraining.json").read_text())
    assert measured["tokens"] == 6 * 128
    assert measured["now"]["token_loss"].keys() <= {corpus.folder for corpus in MIX}
