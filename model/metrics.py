"""How good an adapter is on held-out records: loss of the true label, and accuracy.

A label is chosen by the exact negative log-likelihood of its whole text after the prompt, among
all candidates. Each prompt is computed once. The candidates follow it as a tree: common beginnings
stand once, a node sees the prompt and its own ancestors only, and positions go on from the prompt
along each branch, so that one pass gives what a pass per candidate would. Where only the winner
matters, a candidate whose first token alone costs more than the whole true label is not computed
to its end: a sum of negative log-likelihoods only grows.

The numbers depend on records without noise. They stay at the site.

Shape suffixes: B prompts, T tokens of a prompt with an answer, N nodes of a tree, E its edges, C
candidates, D model width, V vocabulary.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import DynamicCache, PreTrainedTokenizerBase

from model.loss import base_of, collate, head_of
from model.tokenizer import Example, TextFormat, encode_answer, encode_prompt

_BATCH_TOKENS = 2048
_MAX_NODES = 512
# Most records that the model gets wrong are seen to be wrong by one of the likeliest candidates.
_FIRST_RIVALS = 3


def _nothing() -> None:
    """Before a batch, where the caller wants nothing done."""


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
    autocast: bool = False,
    before_batch: Callable[[], None] = _nothing,
) -> Quality:
    """Loss and accuracy on (prompt, label) pairs.

    Args:
      model: A base, or one with an injected adapter, in evaluation mode.
      tokenizer: The base's.
      examples: Masked prompts and their true labels.
      candidates: Labels to choose from.
      text: The plan's.
      autocast: See `label_scores`.
      before_batch: Called before each; may raise, to end a measurement that takes too long.

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
    encoded = []
    for prompt, label in examples:
        ids = encode_prompt(tokenizer, prompt, text, num_reserved=num_reserved)
        encoded.append(Example(ids + answers[label], len(ids)))
    choices = [answers[candidate] for candidate in dict.fromkeys(candidates)]
    loss, num_correct = 0.0, 0
    for rows in _by_length(encoded):
        before_batch()
        prompts = _Prompts(model, [encoded[row] for row in rows], autocast=autocast)
        loss += prompts.answer_nll_B.sum().item()
        beaten_B = _beaten(prompts, choices)
        num_correct += sum(
            examples[row][1] in candidates and not beaten
            for row, beaten in zip(rows, beaten_B, strict=True)
        )
    return Quality(
        loss=loss / len(examples),
        accuracy=num_correct / len(examples),
        num_examples=len(examples),
    )


@torch.no_grad()
def answer_nll(
    model: nn.Module,
    examples: Sequence[Example],
    *,
    autocast: bool = False,
    before_batch: Callable[[], None] = _nothing,
) -> Tensor:
    """Negative log-likelihood of each example's own answer, in nats, float32, on the CPU, (B,).

    `before_batch` is called before each; may raise, to end a measurement that takes too long.
    """
    nll_B = torch.empty(len(examples))
    for rows in _by_length(examples):
        before_batch()
        prompts = _Prompts(model, [examples[row] for row in rows], autocast=autocast)
        nll_B[rows] = prompts.answer_nll_B
    return nll_B


@torch.no_grad()
def label_scores(
    model: nn.Module,
    prompts: Sequence[Sequence[int]],
    candidates: Sequence[Sequence[int]],
    *,
    autocast: bool = False,
) -> Tensor:
    """Negative log-likelihood of each candidate after each prompt, float32, shape (B, C).

    In nats, on the CPU.

    Args:
      model: A base, or one with an injected adapter, in evaluation mode.
      prompts: Token ids of each, at least one.
      candidates: Token ids of each, at least one.
      autocast: Compute the layers in bfloat16; head and sums stay float32. On the embedded base
        means moved by less than 0.01 nats and single sums (of about 40) by less than 0.4; a free
        core was up to 1.6 times as fast, a busy one not at all.

    Raises:
      ValueError: An empty prompt or candidate, or an attention window shorter than the sequence.
    """
    if not all(prompts) or not all(candidates):
        raise ValueError("expected prompts and candidates of at least one token")
    scores_BC = torch.empty(len(prompts), len(candidates))
    # One token stands in for the answer; every candidate is scored in the tree.
    examples = [Example([*prompt, candidates[0][0]], len(prompt)) for prompt in prompts]
    # Sorted candidates share beginnings with their neighbours, so few nodes are computed twice.
    order = sorted(range(len(candidates)), key=lambda index: list(candidates[index]))
    groups = _split(order, [len(candidates[index]) for index in order], _MAX_NODES)
    for rows in _by_length(examples):
        read = _Prompts(model, [examples[row] for row in rows], autocast=autocast)
        for columns in groups:
            tree = _grow([candidates[column] for column in columns])
            scores = torch.stack(read.score([tree] * len(rows)))
            scores_BC[torch.tensor(rows)[:, None], torch.tensor(columns)] = scores
    return scores_BC


def _beaten(prompts: "_Prompts", choices: Sequence[list[int]]) -> list[bool]:
    """Whether a choice is likelier than an example's own answer, for each example."""
    nll_B = prompts.answer_nll_B
    first_BC = prompts.first_nll([ids[0] for ids in choices])
    num_own_B = torch.tensor([len(own) for own in prompts.answers])
    num_more_C = torch.tensor([len(ids) - 1 for ids in choices])
    # What a choice comes to if its other tokens cost what the answer's do.
    guesses_BC = first_BC + num_more_C * (nll_B / num_own_B)[:, None]
    rivals = {
        row: [
            choices[column]
            for column in guesses_BC[row].argsort().tolist()
            if first_BC[row, column] < nll_B[row] and choices[column] != own
        ]
        for row, own in enumerate(prompts.answers)
    }
    beaten_B = [False] * len(prompts.answers)
    for num_rivals in (_FIRST_RIVALS, len(choices)):
        rivals = {row: own for row, own in rivals.items() if own and not beaten_B[row]}
        if not rivals:
            break
        prompts.keep(list(rivals))
        trees = [_grow(own[:num_rivals]) for own in rivals.values()]
        for row, scores_C in zip(rivals, prompts.score(trees), strict=True):
            beaten_B[row] = bool(scores_C.min() < nll_B[row])
        rivals = {row: own[num_rivals:] for row, own in rivals.items()}
    return beaten_B


class _Prompts:
    """Prompts with an answer each, computed once, to which candidates can be appended.

    Attributes:
      answers: The answers' tokens.
      answer_nll_B: Negative log-likelihood of each answer, on the CPU.
    """

    def __init__(self, model: nn.Module, examples: Sequence[Example], *, autocast: bool) -> None:
        self._model = model
        self._autocast = autocast
        self._device = next(model.parameters()).device
        self._cache = DynamicCache()
        batch = collate(examples)
        self._num_past = batch.input_ids.shape[1]
        self._lengths_B = torch.tensor([example.answer_start for example in examples])
        self._kept = list(range(len(examples)))
        self.answers = [example.input_ids[example.answer_start :] for example in examples]
        hidden_BTD = self._forward(batch.input_ids)
        rows_N, columns_N = batch.answer_mask.nonzero(as_tuple=True)
        logits_NV = _logits(model, hidden_BTD[rows_N, columns_N - 1])
        targets_N = batch.input_ids[rows_N, columns_N].to(self._device)
        nll_N = functional.cross_entropy(logits_NV, targets_N, reduction="none").cpu()
        self.answer_nll_B = torch.zeros(len(examples)).index_add_(0, rows_N, nll_N)
        is_first_N = columns_N == self._lengths_B[rows_N]
        self._first_BV = functional.log_softmax(logits_NV[is_first_N], dim=-1)

    def first_nll(self, tokens: Sequence[int]) -> Tensor:
        """Negative log-likelihood of each token right after each prompt, on the CPU, (B, C)."""
        return -self._first_BV[:, torch.tensor(tokens)].cpu()

    def keep(self, rows: list[int]) -> None:
        """Drop all prompts but these, by their original numbers."""
        places = [self._kept.index(row) for row in rows]
        self._kept = list(rows)
        self._cache.batch_select_indices(torch.tensor(places, device=self._device))

    def score(self, trees: Sequence["_Tree"]) -> list[Tensor]:
        """Negative log-likelihood of the candidates of each kept prompt's tree, on the CPU."""
        num_nodes = max(len(tree.tokens) for tree in trees)
        window = getattr(base_of(self._model).config, "sliding_window", None)
        if window is not None and window < self._num_past + num_nodes:
            raise ValueError(
                f"expected sequences of at most {window} tokens, got {self._num_past + num_nodes}"
            )
        hidden_BND = self._append(trees, num_nodes) if num_nodes else None
        scores = []
        for place, (row, tree) in enumerate(zip(self._kept, trees, strict=True)):
            log_p_NV = self._first_BV[row][None]
            if hidden_BND is not None and tree.tokens:
                logits_NV = _logits(self._model, hidden_BND[place, : len(tree.tokens)])
                log_p_NV = torch.cat([log_p_NV, functional.log_softmax(logits_NV, dim=-1)])
            nll_E = -log_p_NV[tree.edge_nodes, tree.edge_tokens].cpu()
            scores.append(torch.stack([nll_E[path].sum() for path in tree.paths]))
        return scores

    def _append(self, trees: Sequence["_Tree"], num_nodes: int) -> Tensor:
        """Hidden states of the trees' nodes behind their prompts; the cache stays as it was."""
        shape = (len(trees), num_nodes)
        ids_BN = torch.zeros(shape, dtype=torch.long)
        positions_BN = torch.zeros(shape, dtype=torch.long)
        sees = torch.zeros(*shape, self._num_past + num_nodes, dtype=torch.bool)
        for place, (row, tree) in enumerate(zip(self._kept, trees, strict=True)):
            own, length = len(tree.tokens), int(self._lengths_B[row])
            ids_BN[place, :own] = torch.tensor(tree.tokens, dtype=torch.long)
            # A node at depth 1 stands right behind its prompt, where the answer stood.
            positions_BN[place, :own] = length - 1 + torch.tensor(tree.depths, dtype=torch.long)
            # Neither the answer nor the padding that follows the prompt in the cache. Padding
            # among the nodes looks at the prompt: nobody reads it, and an empty row would be NaN.
            sees[place, :, :length] = True
            sees[place, :own, self._num_past : self._num_past + own] = tree.sees()
        mask = torch.zeros(sees.shape).masked_fill_(~sees, float("-inf"))[:, None]
        hidden_BND = self._forward(ids_BN, attention_mask=mask, position_ids=positions_BN)
        self._cache.crop(-num_nodes)
        return hidden_BND

    def _forward(
        self,
        input_ids: Tensor,
        *,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
    ) -> Tensor:
        base = base_of(self._model)
        with torch.autocast(self._device.type, torch.bfloat16, enabled=self._autocast):
            outputs = getattr(base, base.base_model_prefix)(
                input_ids=input_ids.to(self._device),
                attention_mask=None if attention_mask is None else attention_mask.to(self._device),
                position_ids=None if position_ids is None else position_ids.to(self._device),
                past_key_values=self._cache,
                use_cache=True,
            )
        hidden: Tensor = outputs.last_hidden_state
        return hidden


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


def _by_length(examples: Sequence[Example]) -> list[list[int]]:
    """Batches of about `_BATCH_TOKENS` tokens of examples of like length, by their numbers."""
    order = sorted(range(len(examples)), key=lambda row: len(examples[row].input_ids))
    return _split(order, [len(examples[row].input_ids) for row in order], _BATCH_TOKENS)


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
