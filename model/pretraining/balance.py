"""Keeping every expert in use: a bias per expert, and a loss within each sequence.

Shape suffixes: B sequences, T tokens of a sequence, N tokens of the batch, E experts, K experts a
token.
"""

import threading
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

BIAS_STEP = 1e-3


def sequence_balance_loss(logits_NE: Tensor, chosen_NK: Tensor, num_sequences: int) -> Tensor:
    """Sequence-wise balance loss of one router, the mean over sequences; 1 for an even load.

    For each sequence the sum over experts of f * P: f is the share of its tokens that chose the
    expert, times E / K; P its mean normalised score (DeepSeek-V3, arXiv 2412.19437, equations 17
    to 20, without the coefficient). A sequence's term depends on that sequence alone.
    """
    num_experts = logits_NE.shape[-1]
    scores_NE = logits_NE.float().sigmoid()
    scores_BTE = (scores_NE / scores_NE.sum(-1, keepdim=True)).view(num_sequences, -1, num_experts)
    chosen_NE = torch.zeros_like(scores_NE).scatter_(1, chosen_NK, 1.0)
    share_BE = chosen_NE.view(num_sequences, -1, num_experts).mean(1) / chosen_NK.shape[1]
    return (num_experts * share_BE * scores_BTE.mean(1)).sum(-1).mean()


class ExpertLoad:
    """Counts the tokens that each routed expert serves, and evens the load by the routers' bias.

    Auxiliary-loss-free balancing (Wang et al. 2024, arXiv 2408.15664) with the small sequence-wise
    loss that DeepSeek-V3 adds to it. Pre-training only: at a site the bias is frozen, because its
    update would be an un-noised statistic of the batch.
    """

    def __init__(self, model: nn.Module, num_experts: int) -> None:
        self.routers: list[Any] = [
            m for m in model.modules() if hasattr(m, "e_score_correction_bias")
        ]
        self.counts_E = [torch.zeros(num_experts) for _ in self.routers]
        self._counting = threading.Lock()
        # Parts of a batch run in threads of their own.
        self._of_thread = threading.local()
        for index, router in enumerate(self.routers):
            router.register_forward_hook(self._hook(index))

    def _hook(self, index: int) -> Callable[..., None]:
        def count(
            _module: nn.Module, _inputs: object, output: tuple[Tensor, Tensor, Tensor]
        ) -> None:
            logits_NE, _, chosen_NK = output
            self._of_thread.__dict__[str(index)] = (logits_NE, chosen_NK)
            counts_E = torch.bincount(chosen_NK.flatten(), minlength=logits_NE.shape[-1])
            with self._counting:
                self.counts_E[index] += counts_E

        return count

    def loss(self, num_sequences: int) -> Tensor:
        """Sequence-wise balance loss of this thread's last forward pass, the mean over layers."""
        losses = [
            sequence_balance_loss(logits_NE, chosen_NK, num_sequences)
            for logits_NE, chosen_NK in self._of_thread.__dict__.values()
        ]
        self._of_thread.__dict__.clear()
        return torch.stack(losses).mean()

    def balance(self) -> None:
        """Move every router's bias a step towards its under-used experts; forget the counts."""
        for router, counts_E in zip(self.routers, self.counts_E, strict=True):
            router.e_score_correction_bias += BIAS_STEP * torch.sign(counts_E.mean() - counts_E)
            counts_E.zero_()

    def take_shares(self) -> list[list[float]]:
        """Share of tokens per expert and layer since the last call; each layer sums to 1."""
        shares = [(c / c.sum()).tolist() for c in self.counts_E]
        for counts_E in self.counts_E:
            counts_E.zero_()
        return shares
