"""How good an adapter is on held-out records: loss of the true label, and accuracy.

A label is chosen by the exact negative log-likelihood of its whole text after the prompt. Each
prompt is computed once for all candidates: its sequence is followed by the candidates as a tree in
which common beginnings stand once, every node sees the prompt and its own ancestors only, and
positions go on from the prompt along each branch. One forward pass gives what a pass per candidate
would.

The numbers depend on records without noise. They stay at the site.

Shape suffixes: B prompts, T tokens of a prompt, N nodes of the tree, S = T + N, E edges of the
tree, C candidates, D model width, V vocabulary.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from model.loss import LOSS_DENOMINATOR, base_of, collate, head_of, hidden_states, per_example_loss
from model.tokenizer import Example, TextFormat, encode_answer, encode_prompt

# Larger batches were no faster on a CPU core, and their attention mask grows with the square of
# the length.
_BATCH_TOKENS = 4096
_MAX_NODES = 512
_MAX_LOGITS = 1 << 24


@dataclass(frozen=True, kw_only=True, slots=True)
class Quality:
    """What a model does on held-out records.

    Attributes:
      loss: Mean over records of the true label's negative log-likelihood, in nats, all its tokens
        together.
      accuracy: Share of records whose true label is the likeliest candidate; a label that is no
        candidate is missed.
      num_examples: Records.
    """

    loss: float
    accuracy: float
    num_examples: int


@dataclass(frozen=True, slots=True)
class _Tree:
    """Candidates with common beginnings merged.

    Node 0 is the prompt's last token; each edge is one token to predict.

    Attributes:
      tokens: Token of nodes 1, 2, ... in an order in which parents come first.
      parents: Their parents.
      depths: Their distance from node 0.
      edge_nodes: Node from which each edge's token is predicted.
      edge_tokens: That token.
      paths: Edges of each candidate.
    """

    tokens: list[int]
    parents: list[int]
    depths: list[int]
    edge_nodes: list[int]
    edge_tokens: list[int]
    paths: list[list[int]]


def evaluate(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    examples: Sequence[tuple[str, str]],
    candidates: Sequence[str],
    text: TextFormat,
    *,
    autocast: bool = True,
) -> Quality:
    """Loss and accuracy on (prompt, label) pairs.

    Args:
      model: A base, or one with an injected adapter, in evaluation mode.
      tokenizer: The base's.
      examples: Masked prompts and their true labels.
      candidates: Labels to choose from.
      text: The plan's.
      autocast: See `label_scores`.

    Raises:
      ValueError: No examples, or no candidates.
    """
    if not examples or not candidates:
        raise ValueError(
            f"expected examples and candidates, got {len(examples)} and {len(candidates)}"
        )
    # A label that training never saw has a loss, but nobody can choose it.
    answers = list(dict.fromkeys([*candidates, *(label for _, label in examples)]))
    answer_ids = [encode_answer(tokenizer, answer, text) for answer in answers]
    num_reserved = max(len(ids) for ids in answer_ids)
    prompts = [
        encode_prompt(tokenizer, prompt, text, num_reserved=num_reserved) for prompt, _ in examples
    ]
    scores_BC = label_scores(model, prompts, answer_ids, autocast=autocast)
    truths_B = torch.tensor([answers.index(label) for _, label in examples])
    num_candidates = len(dict.fromkeys(candidates))
    chosen_B = scores_BC[:, :num_candidates].argmin(-1)
    return Quality(
        loss=scores_BC.gather(1, truths_B[:, None]).mean().item(),
        accuracy=(chosen_B == truths_B).float().mean().item(),
        num_examples=len(examples),
    )


@torch.no_grad()
def label_scores(
    model: nn.Module,
    prompts: Sequence[Sequence[int]],
    candidates: Sequence[Sequence[int]],
    *,
    autocast: bool = True,
) -> Tensor:
    """Negative log-likelihood of each candidate after each prompt, float32, shape (B, C).

    In nats, on the CPU.

    Args:
      model: A base, or one with an injected adapter, in evaluation mode.
      prompts: Token ids of each, at least one.
      candidates: Token ids of each, at least one.
      autocast: Compute the layers in bfloat16 (head and sums stay float32): 1.6 times as fast on
        one core, and within a hundredth of a nat.

    Raises:
      ValueError: An empty prompt or candidate, or a base whose attention window is shorter than
        the sequence.
    """
    if not all(prompts) or not all(candidates):
        raise ValueError("expected prompts and candidates of at least one token")
    scores_BC = torch.empty(len(prompts), len(candidates))
    by_length = sorted(range(len(prompts)), key=lambda index: len(prompts[index]))
    # Sorted candidates share beginnings with their neighbours, so few nodes are computed twice.
    order = sorted(range(len(candidates)), key=lambda index: list(candidates[index]))
    for columns in _split(order, [len(candidates[index]) for index in order], _MAX_NODES):
        tree = _grow([candidates[index] for index in columns])
        sizes = [len(prompts[index]) + len(tree.tokens) for index in by_length]
        for rows in _split(by_length, sizes, _BATCH_TOKENS):
            part_BC = _score(model, [prompts[index] for index in rows], tree, autocast=autocast)
            scores_BC[torch.tensor(rows)[:, None], torch.tensor(columns)] = part_BC.cpu()
    return scores_BC


@torch.no_grad()
def answer_nll(model: nn.Module, examples: Sequence[Example], *, autocast: bool = True) -> Tensor:
    """Negative log-likelihood of each example's own answer, float32, shape (B,).

    In nats, on the CPU.
    """
    device = next(model.parameters()).device
    by_length = sorted(range(len(examples)), key=lambda index: len(examples[index].input_ids))
    nll_B = torch.empty(len(examples))
    for rows in _split(by_length, [len(examples[i].input_ids) for i in by_length], _BATCH_TOKENS):
        batch = collate([examples[index] for index in rows]).to(device)
        with torch.autocast(device.type, torch.bfloat16, enabled=autocast):
            losses = per_example_loss(
                model, batch.input_ids, batch.attention_mask, batch.answer_mask
            )
        nll_B[torch.tensor(rows)] = losses.cpu() * LOSS_DENOMINATOR
    return nll_B


def _split(indices: list[int], sizes: list[int], limit: int) -> list[list[int]]:
    """Consecutive groups: members times the largest size within `limit`, or one member."""
    groups: list[list[int]] = []
    largest = 0
    for index, size in zip(indices, sizes, strict=True):
        largest = max(largest, size)
        if not groups or (len(groups[-1]) + 1) * largest > limit:
            groups.append([])
            largest = size
        groups[-1].append(index)
    return groups


def _grow(candidates: Sequence[Sequence[int]]) -> _Tree:
    """The tree of candidates; a last token is only predicted, an edge without a node."""
    tree = _Tree([], [], [], [], [], [])
    nodes: dict[tuple[int, ...], int] = {(): 0}
    edges: dict[tuple[int, ...], int] = {}
    for candidate in candidates:
        path = []
        for depth, token in enumerate(candidate):
            before, here = tuple(candidate[:depth]), tuple(candidate[: depth + 1])
            if here not in edges:
                edges[here] = len(tree.edge_nodes)
                tree.edge_nodes.append(nodes[before])
                tree.edge_tokens.append(token)
            path.append(edges[here])
            if depth + 1 < len(candidate) and here not in nodes:
                nodes[here] = len(tree.tokens) + 1
                tree.tokens.append(token)
                tree.parents.append(nodes[before])
                tree.depths.append(depth + 1)
        tree.paths.append(path)
    return tree


def _score(
    model: nn.Module, prompts: Sequence[Sequence[int]], tree: _Tree, *, autocast: bool
) -> Tensor:
    device = next(model.parameters()).device
    lengths_B = torch.tensor([len(prompt) for prompt in prompts])
    num_prompt, num_nodes = int(lengths_B.max()), len(tree.tokens)
    window = getattr(base_of(model).config, "sliding_window", None)
    if window is not None and window < num_prompt + num_nodes:
        raise ValueError(
            f"expected sequences of at most {window} tokens, got {num_prompt + num_nodes}"
        )
    ids_BS = torch.tensor(
        [[*prompt, *[0] * (num_prompt - len(prompt)), *tree.tokens] for prompt in prompts]
    )
    depths_N = torch.tensor(tree.depths, dtype=torch.long)
    positions_BS = torch.cat(
        [
            torch.arange(num_prompt).expand(len(prompts), -1),
            # A node at depth 1 stands right behind its prompt, wherever the padding ends.
            lengths_B[:, None] - 1 + depths_N,
        ],
        dim=1,
    )
    mask_B1SS = _mask(lengths_B, num_prompt, tree)
    with torch.autocast(device.type, torch.bfloat16, enabled=autocast):
        hidden_BSD = hidden_states(
            model,
            ids_BS.to(device),
            attention_mask=mask_B1SS.to(device),
            position_ids=positions_BS.to(device),
        )
    last_BD = hidden_BSD[torch.arange(len(prompts)), lengths_B - 1]
    nodes_BND = torch.cat([last_BD[:, None], hidden_BSD[:, num_prompt:]], dim=1)
    nll_BE = _edge_nll(head_of(model), nodes_BND, tree)
    return torch.stack([nll_BE[:, path].sum(-1) for path in tree.paths], dim=1)


def _mask(lengths_B: Tensor, num_prompt: int, tree: _Tree) -> Tensor:
    """0 where a token may look, minus infinity elsewhere, shape (B, 1, S, S)."""
    num_nodes = len(tree.tokens)
    sees_NN = torch.eye(num_nodes, dtype=torch.bool)
    for node, parent in enumerate(tree.parents):
        if parent:
            sees_NN[node] |= sees_NN[parent - 1]
    num_all = num_prompt + num_nodes
    sees_BSS = torch.zeros(len(lengths_B), num_all, num_all, dtype=torch.bool)
    # Rows of padding look at what precedes them: nobody reads them, and an empty row would be NaN.
    sees_BSS[:, :num_prompt, :num_prompt] = torch.ones(
        num_prompt, num_prompt, dtype=torch.bool
    ).tril()
    sees_BSS[:, num_prompt:, :num_prompt] = (torch.arange(num_prompt) < lengths_B[:, None])[
        :, None
    ]
    sees_BSS[:, num_prompt:, num_prompt:] = sees_NN
    return torch.zeros(sees_BSS.shape).masked_fill_(~sees_BSS, float("-inf"))[:, None]


def _edge_nll(head: nn.Linear, nodes_BND: Tensor, tree: _Tree) -> Tensor:
    """Negative log-likelihood of each edge's token after its node, shape (B, E)."""
    edge_nodes_E = torch.tensor(tree.edge_nodes, device=nodes_BND.device)
    edge_tokens_E = torch.tensor(tree.edge_tokens, device=nodes_BND.device)
    # float32: a logit of 15 in bfloat16 is off by up to 0.03, in every term of the sum.
    weight_VD = head.weight.float()
    parts = []
    num_rows = max(1, _MAX_LOGITS // (nodes_BND.shape[1] * weight_VD.shape[0]))
    for part_BND in nodes_BND.float().split(num_rows):
        logits_BNV = part_BND @ weight_VD.T
        if head.bias is not None:
            logits_BNV = logits_BNV + head.bias.float()
        logits_BE = logits_BNV[:, edge_nodes_E, edge_tokens_E]
        parts.append(logits_BNV.logsumexp(-1)[:, edge_nodes_E] - logits_BE)
    return torch.cat(parts)
