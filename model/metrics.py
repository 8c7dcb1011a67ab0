"""How good an adapter is on held-out records: loss of the true label, and accuracy.

A label is chosen by the exact negative log-likelihood of its whole text after the prompt, among
all candidates. Two things keep that cheap without changing the result. Candidates follow their
prompt as a tree in one sequence: common beginnings stand once, a node sees the prompt and its own
ancestors only, and positions go on from the prompt along each branch, so that one forward pass
gives what a pass per candidate would. And a candidate whose first token alone costs more than the
whole true label is never computed to its end: a sum of negative log-likelihoods only grows.

The numbers depend on records without noise. They stay at the site.

Shape suffixes: B prompts, T tokens of a prompt, N nodes of a tree, S = T + N, C candidates, D
model width, V vocabulary.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedTokenizerBase

from model.loss import base_of, collate, head_of, hidden_states
from model.tokenizer import Example, TextFormat, encode_answer, encode_prompt

_BATCH_TOKENS = 2048
_MAX_NODES = 512
# Most wrong records are seen to be wrong by one of the likeliest beginnings.
_FIRST_RIVALS = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class Quality:
    """What a model does on held-out records.

    Attributes:
      loss: Mean over records of the true label's negative log-likelihood, in nats, all its tokens
        together.
      accuracy: Share of records whose true label is the likeliest candidate; one that is no
        candidate is missed.
      num_examples: Records.
    """

    loss: float
    accuracy: float
    num_examples: int


@torch.no_grad()
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
    answers = {
        answer: encode_answer(tokenizer, answer, text)
        for answer in dict.fromkeys([*candidates, *(label for _, label in examples)])
    }
    # One room for all, so that every candidate follows the same prompt.
    num_reserved = max(len(ids) for ids in answers.values())
    prompts = [
        encode_prompt(tokenizer, prompt, text, num_reserved=num_reserved) for prompt, _ in examples
    ]
    truths = [answers[label] for _, label in examples]
    rival_ids = [answers[candidate] for candidate in dict.fromkeys(candidates)]
    losses_B, first_BC = _answers(
        model,
        [Example(prompt + ids, len(prompt)) for prompt, ids in zip(prompts, truths, strict=True)],
        [ids[0] for ids in rival_ids],
        autocast=autocast,
    )
    # Rivals of a record: candidates that may still beat its true label, likeliest beginning first.
    rivals: dict[int, list[int]] = {}
    num_correct = 0
    for row, (_, label) in enumerate(examples):
        if label not in candidates:
            continue
        columns = [
            column
            for column in first_BC[row].argsort().tolist()
            if first_BC[row, column] < losses_B[row] and rival_ids[column] != truths[row]
        ]
        if columns:
            rivals[row] = columns
        else:
            num_correct += 1
    for num_rivals in (_FIRST_RIVALS, len(candidates)):
        rows = list(rivals)
        scores = _score_all(
            model,
            [prompts[row] for row in rows],
            [[rival_ids[column] for column in rivals[row][:num_rivals]] for row in rows],
            autocast=autocast,
        )
        for row, scores_C in zip(rows, scores, strict=True):
            left = rivals.pop(row)[num_rivals:]
            if scores_C.min() < losses_B[row]:
                continue
            if left:
                rivals[row] = left
            else:
                num_correct += 1
    return Quality(
        loss=losses_B.mean().item(),
        accuracy=num_correct / len(examples),
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
      autocast: Compute the layers in bfloat16, 1.6 times as fast on one core; head and sums stay
        float32. On the embedded base means moved by less than 0.01 nats, and single sums (of about
        40) by less than 0.3.

    Raises:
      ValueError: An empty prompt or candidate, or an attention window shorter than the sequence.
    """
    if not all(prompts) or not all(candidates):
        raise ValueError("expected prompts and candidates of at least one token")
    scores_BC = torch.empty(len(prompts), len(candidates))
    # Sorted candidates share beginnings with their neighbours, so few nodes are computed twice.
    order = sorted(range(len(candidates)), key=lambda index: list(candidates[index]))
    for columns in _split(order, [len(candidates[index]) for index in order], _MAX_NODES):
        chosen = [candidates[column] for column in columns]
        scores = _score_all(model, prompts, [chosen] * len(prompts), autocast=autocast)
        scores_BC[:, columns] = torch.stack(scores)
    return scores_BC


@torch.no_grad()
def answer_nll(model: nn.Module, examples: Sequence[Example], *, autocast: bool = True) -> Tensor:
    """Negative log-likelihood of each example's own answer, in nats, float32, on the CPU, (B,)."""
    return _answers(model, examples, [], autocast=autocast)[0]


def _answers(
    model: nn.Module,
    examples: Sequence[Example],
    first_tokens: Sequence[int],
    *,
    autocast: bool,
) -> tuple[Tensor, Tensor]:
    """Negative log-likelihood of each answer (B,), and of each first token in its place (B, C)."""
    device = next(model.parameters()).device
    order = sorted(range(len(examples)), key=lambda row: len(examples[row].input_ids))
    losses_B = torch.zeros(len(examples))
    first_BC = torch.empty(len(examples), len(first_tokens))
    for rows in _split(order, [len(examples[row].input_ids) for row in order], _BATCH_TOKENS):
        batch = collate([examples[row] for row in rows]).to(device)
        hidden_BTD = _hidden(model, batch.input_ids, autocast=autocast)
        in_batch, columns = batch.answer_mask.nonzero(as_tuple=True)
        logits_NV = _logits(model, hidden_BTD[in_batch, columns - 1])
        nll_N = functional.cross_entropy(
            logits_NV, batch.input_ids[in_batch, columns], reduction="none"
        )
        losses_B.index_add_(0, torch.tensor(rows)[in_batch.cpu()], nll_N.cpu())
        if first_tokens:
            starts_B = torch.tensor([examples[row].answer_start for row in rows], device=device)
            logits_BV = logits_NV[columns == starts_B[in_batch]]
            first_BC[rows] = -functional.log_softmax(logits_BV, dim=-1)[:, first_tokens].cpu()
    return losses_B, first_BC


@dataclass(frozen=True, slots=True)
class _Tree:
    """Candidates with common beginnings merged.

    Node 0 is the prompt's last token; an edge is a token to predict. A candidate's last token is
    an edge without a node, because nothing is predicted from it.

    Attributes:
      tokens: Token of nodes 1, 2, ..., parents first.
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

    def sees(self) -> Tensor:
        """Whether node 1 + i may look at node 1 + j, shape (N, N)."""
        sees_NN = torch.eye(len(self.tokens), dtype=torch.bool)
        for node, parent in enumerate(self.parents):
            if parent:
                sees_NN[node] |= sees_NN[parent - 1]
        return sees_NN


def _grow(candidates: Sequence[Sequence[int]]) -> _Tree:
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


def _score_all(
    model: nn.Module,
    prompts: Sequence[Sequence[int]],
    candidates: Sequence[Sequence[Sequence[int]]],
    *,
    autocast: bool,
) -> list[Tensor]:
    """Scores of each prompt's own candidates."""
    grown: dict[tuple[tuple[int, ...], ...], _Tree] = {}
    trees = []
    for own in candidates:
        key = tuple(tuple(candidate) for candidate in own)
        if key not in grown:
            grown[key] = _grow(own)
        trees.append(grown[key])
    sizes = [len(prompt) + len(tree.tokens) for prompt, tree in zip(prompts, trees, strict=True)]
    order = sorted(range(len(prompts)), key=lambda row: (sizes[row], len(prompts[row])))
    scores = [torch.empty(0)] * len(prompts)
    for rows in _split(order, [sizes[row] for row in order], _BATCH_TOKENS):
        parts = _score(
            model, [prompts[row] for row in rows], [trees[row] for row in rows], autocast=autocast
        )
        for row, part in zip(rows, parts, strict=True):
            scores[row] = part
    return scores


def _score(
    model: nn.Module,
    prompts: Sequence[Sequence[int]],
    trees: Sequence[_Tree],
    *,
    autocast: bool,
) -> list[Tensor]:
    """One forward pass: each prompt, padding to the longest, its tree, padding to the largest."""
    device = next(model.parameters()).device
    num_prompt = max(len(prompt) for prompt in prompts)
    num_all = num_prompt + max(len(tree.tokens) for tree in trees)
    window = getattr(base_of(model).config, "sliding_window", None)
    if window is not None and window < num_all:
        raise ValueError(f"expected sequences of at most {window} tokens, got {num_all}")
    ids_BS = torch.zeros(len(prompts), num_all, dtype=torch.long)
    positions_BS = torch.arange(num_all).repeat(len(prompts), 1)
    # Rows of padding look at what precedes them: nobody reads them, and an empty row would be NaN.
    sees_BSS = torch.ones(num_all, num_all, dtype=torch.bool).tril().repeat(len(prompts), 1, 1)
    for row, (prompt, tree) in enumerate(zip(prompts, trees, strict=True)):
        end = num_prompt + len(tree.tokens)
        ids_BS[row, : len(prompt)] = torch.tensor(prompt)
        ids_BS[row, num_prompt:end] = torch.tensor(tree.tokens, dtype=torch.long)
        # A node at depth 1 stands right behind its prompt, wherever the padding ends.
        depths_N = torch.tensor(tree.depths, dtype=torch.long)
        positions_BS[row, num_prompt:end] = len(prompt) - 1 + depths_N
        sees_BSS[row, num_prompt:end, len(prompt) : num_prompt] = False
        sees_BSS[row, num_prompt:end, num_prompt:end] = tree.sees()
    mask_BSS = torch.zeros(sees_BSS.shape).masked_fill_(~sees_BSS, float("-inf"))
    hidden_BSD = _hidden(
        model,
        ids_BS.to(device),
        attention_mask=mask_BSS[:, None].to(device),
        position_ids=positions_BS.to(device),
        autocast=autocast,
    )
    scores = []
    for row, (prompt, tree) in enumerate(zip(prompts, trees, strict=True)):
        nodes = [len(prompt) - 1, *range(num_prompt, num_prompt + len(tree.tokens))]
        logits_NV = _logits(model, hidden_BSD[row, nodes])
        logits_E = logits_NV[tree.edge_nodes, tree.edge_tokens]
        nll_E = (logits_NV.logsumexp(-1)[tree.edge_nodes] - logits_E).cpu()
        scores.append(torch.stack([nll_E[path].sum() for path in tree.paths]))
    return scores


def _hidden(
    model: nn.Module,
    ids_BS: Tensor,
    *,
    attention_mask: Tensor | None = None,
    position_ids: Tensor | None = None,
    autocast: bool,
) -> Tensor:
    with torch.autocast(ids_BS.device.type, torch.bfloat16, enabled=autocast):
        return hidden_states(
            model, ids_BS, attention_mask=attention_mask, position_ids=position_ids
        )


def _logits(model: nn.Module, hidden_ND: Tensor) -> Tensor:
    # float32: a logit of 15 in bfloat16 is off by up to 0.03, in every term of a sum.
    head = head_of(model)
    return functional.linear(hidden_ND.float(), head.weight.float())


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
