"""Per-example losses that no other example of the batch can change.

The usual mean over all tokens of a batch makes one example's gradient depend on its neighbours'
lengths, and a sum that was clipped per example then moves by more than the clipping norm when one
example leaves (15 times as much was measured). Here an example's loss is the sum over its own
answer divided by a constant.

Shape suffixes: B examples, T tokens, N answer tokens of all examples, D model width, V vocabulary.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel

from model.tokenizer import Example

LOSS_DENOMINATOR = 8.0
"""About the tokens of an answer. It only scales gradients before they are clipped, and is the same
for everybody."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Examples side by side, padded on the right.

    Attributes:
      input_ids: Token ids, int64, shape (B, T).
      attention_mask: Whether a token is one, bool, shape (B, T).
      answer_mask: Whether a token belongs to the answer, bool, shape (B, T).
    """

    input_ids: Tensor
    attention_mask: Tensor
    answer_mask: Tensor

    def to(self, device: torch.device | str) -> "Batch":
        """The same on another device."""
        return Batch(
            self.input_ids.to(device), self.attention_mask.to(device), self.answer_mask.to(device)
        )


def collate(examples: Sequence[Example], *, pad_id: int = 0) -> Batch:
    """Examples as one batch, as long as the longest.

    Raises:
      ValueError: There is no example.
    """
    if not examples:
        raise ValueError("expected at least one example, got none")
    lengths_B = torch.tensor([len(example.input_ids) for example in examples])
    starts_B = torch.tensor([example.answer_start for example in examples])
    num_tokens = int(lengths_B.max())
    ids_BT = torch.tensor(
        [
            [*example.input_ids, *[pad_id] * (num_tokens - len(example.input_ids))]
            for example in examples
        ]
    )
    positions_T = torch.arange(num_tokens)
    mask_BT = positions_T < lengths_B[:, None]
    return Batch(ids_BT, mask_BT, mask_BT & (positions_T >= starts_B[:, None]))


def per_example_loss(
    model: nn.Module, input_ids: Tensor, attention_mask: Tensor, answer_mask: Tensor
) -> Tensor:
    """Loss of each example's answer, in nats over `LOSS_DENOMINATOR`, float32, shape (B,).

    Formal guarantee: with a base that routes every token by itself, without a capacity limit,
    element b is a function of example b and the weights alone, up to the rounding of the matrix
    products.

    Args:
      model: A base, or one with an injected adapter.
      input_ids: Padded on the right, shape (B, T).
      attention_mask: True or 1 at tokens, shape (B, T).
      answer_mask: True at tokens that count; never the first of a sequence, which nothing
        predicts.

    Raises:
      ValueError: Padding on the left or inside, or an answer that begins with the sequence or
        reaches into padding.
    """
    mask_BT = attention_mask.bool()
    if (mask_BT[:, 1:] & ~mask_BT[:, :-1]).any():
        raise ValueError("expected padding on the right")
    if (answer_mask[:, 0] | (answer_mask & ~mask_BT).any(-1)).any():
        raise ValueError("expected answers after the first token and before the padding")
    # Padding on the right needs no mask: attention is causal, so no token of an example looks at
    # it. Without a mask the attention kernel takes its fast causal path.
    hidden_BTD = hidden_states(model, input_ids)
    rows_N, columns_N = answer_mask.nonzero(as_tuple=True)
    nll_N = token_nll(model, hidden_BTD[rows_N, columns_N - 1], input_ids[rows_N, columns_N])
    sums_B = nll_N.new_zeros(len(input_ids)).index_add(0, rows_N, nll_N)
    return sums_B / LOSS_DENOMINATOR


def hidden_states(
    model: nn.Module,
    input_ids: Tensor,
    *,
    attention_mask: Tensor | None = None,
    position_ids: Tensor | None = None,
) -> Tensor:
    """The last layer's normalised outputs, shape (B, T, D), without cache and head."""
    base = base_of(model)
    backbone = getattr(base, base.base_model_prefix)
    outputs = backbone(
        input_ids=input_ids,
        attention_mask=attention_mask,
        position_ids=position_ids,
        use_cache=False,
    )
    hidden_BTD: Tensor = outputs.last_hidden_state
    return hidden_BTD


def token_nll(model: nn.Module, hidden_ND: Tensor, targets_N: Tensor) -> Tensor:
    """Negative log-likelihood of each target, in nats, float32, shape (N,).

    The head costs a third of a forward pass of the embedded base, so it sees answer positions
    only.
    """
    logits_NV: Tensor = head_of(model)(hidden_ND)
    return functional.cross_entropy(logits_NV.float(), targets_N, reduction="none")


def base_of(model: nn.Module) -> PreTrainedModel:
    """The transformers model inside a `model.adapter.AdaptedModel`, or the model itself."""
    unwrap = getattr(model, "get_base_model", None)
    return cast(PreTrainedModel, model if unwrap is None else unwrap())


def head_of(model: nn.Module) -> nn.Linear:
    """The linear layer from hidden states to logits."""
    return cast(nn.Linear, base_of(model).get_output_embeddings())
