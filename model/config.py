"""What is adapted and how: base by digest, adapter by its numbers, tensors by name and shape."""

import math
import re
from dataclasses import dataclass
from typing import Literal, get_args

Target = Literal["attention", "experts", "shared"]
Factor = Literal["A", "B"]
Train = Literal["AB", "B", "B-svd"]
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


@dataclass(frozen=True, kw_only=True, slots=True)
class BaseRef:
    """A base model by name and digest of its files; the name is for people, the digest decides.

    Attributes:
      name: `nano` for the embedded base, otherwise what the consortium calls it.
      digest: `sha256:` and 64 hex digits, as `model.base.base_digest` computes it.
    """

    name: str
    digest: str

    def __post_init__(self) -> None:
        """Refuse a digest that could name nothing."""
        if not _DIGEST.fullmatch(self.digest):
            raise ValueError(f"expected digest sha256:<64 hex digits>, got {self.digest!r}")


@dataclass(frozen=True, kw_only=True, slots=True)
class AdapterConfig:
    """LoRA (Hu et al. 2021, arXiv 2106.09685): `W x + (lora_alpha / lora_rank) B A x`.

    Attributes:
      lora_rank: Rank r of the product B A.
      lora_alpha: Numerator of the scaling.
      lora_dropout: Drop-out on the adapter's input while training, in [0, 1).
      targets: What is adapted, sorted: `attention` is every projection of every attention layer,
        `experts` every routed expert, `shared` every expert that sees all tokens.
      train: Which factors sites train; in each round one, which makes the mean of the sites'
        products exact. `B` keeps A as it was drawn (FFA-LoRA, arXiv 2403.12313). `B-svd` trains B
        too, and after each round the coordinator writes the same products in new factors, A with
        orthogonal rows (FedSVD, arXiv 2505.12805). `AB` trains B in odd rounds and A in even ones
        (RoLoRA, arXiv 2409.02346).
    """

    lora_rank: int
    lora_alpha: float
    lora_dropout: float = 0.0
    targets: tuple[Target, ...] = ("attention",)
    train: Train = "B"

    def __post_init__(self) -> None:
        """Refuse numbers that make no adapter."""
        if self.lora_rank < 1:
            raise ValueError(f"expected lora_rank >= 1, got {self.lora_rank}")
        if not (math.isfinite(self.lora_alpha) and self.lora_alpha > 0):
            raise ValueError(f"expected lora_alpha > 0, got {self.lora_alpha}")
        if not 0 <= self.lora_dropout < 1:
            raise ValueError(f"expected 0 <= lora_dropout < 1, got {self.lora_dropout}")
        known = list(get_args(Target))
        if not self.targets or list(self.targets) != sorted(set(self.targets) & set(known)):
            raise ValueError(
                f"expected targets from {known}, sorted, at least one, got {list(self.targets)}"
            )
        if self.lora_dropout > 0 and self.targets != ("attention",):
            # peft has no drop-out on weights of more than two dimensions, and could not load it.
            raise ValueError(
                f"expected lora_dropout = 0 with targets other than attention, "
                f"got {self.lora_dropout}"
            )
        if self.train not in get_args(Train):
            raise ValueError(f"expected train 'AB', 'B' or 'B-svd', got {self.train!r}")

    @property
    def trained_factors(self) -> tuple[Factor, ...]:
        """The factors that train in some round."""
        return ("A", "B") if self.train == "AB" else ("B",)


@dataclass(frozen=True, kw_only=True, slots=True)
class ServerOptimizerConfig:
    """How the mean of the sites' updates moves the global adapter (`model.fedopt`).

    Attributes:
      name: `mean` adds the mean update, `adam` takes Adam's step along it.
      learning_rate: What the mean update is multiplied with, or Adam's step size.
      beta_1: Decay of Adam's first moment, in [0, 1).
      beta_2: Decay of Adam's second moment, in [0, 1).
      decay: `none` keeps the learning rate, `cosine` lets it fall to nothing along half a cosine
        over the rounds of the plan, so that the noise of the last rounds moves little.
      max_noise_gain: Adam divides by signal and noise together, so noise shortens its steps. At
        most by this factor they are made longer again, as far as the known variance of the noise
        says; 1 leaves them as they are. Without a bound a step where noise is nearly all would be
        endless.
    """

    name: Literal["mean", "adam"] = "mean"
    learning_rate: float = 1.0
    beta_1: float = 0.5
    beta_2: float = 0.999
    decay: Literal["none", "cosine"] = "none"
    max_noise_gain: float = 1.0

    def __post_init__(self) -> None:
        """Refuse a step that goes nowhere, and moments that never settle."""
        if self.name not in ("mean", "adam"):
            raise ValueError(f"expected server optimizer mean or adam, got {self.name!r}")
        if not (math.isfinite(self.learning_rate) and self.learning_rate > 0):
            raise ValueError(f"expected learning_rate > 0, got {self.learning_rate}")
        for name, beta in (("beta_1", self.beta_1), ("beta_2", self.beta_2)):
            if not 0 <= beta < 1:
                raise ValueError(f"expected 0 <= {name} < 1, got {beta}")
        if self.decay not in ("none", "cosine"):
            raise ValueError(f"expected decay none or cosine, got {self.decay!r}")
        if not (math.isfinite(self.max_noise_gain) and self.max_noise_gain >= 1):
            raise ValueError(f"expected max_noise_gain >= 1, got {self.max_noise_gain}")
        if self.max_noise_gain != 1 and self.name != "adam":
            raise ValueError("expected max_noise_gain only with adam, whose steps noise shortens")

    def rate(self, server_round: int, num_rounds: int) -> float:
        """The learning rate of a round.

        Args:
          server_round: From 1.
          num_rounds: Of the plan.
        """
        if self.decay == "none":
            return self.learning_rate
        return self.learning_rate * (1 + math.cos(math.pi * (server_round - 1) / num_rounds)) / 2


@dataclass(frozen=True, kw_only=True, slots=True)
class TensorSpec:
    """Name and shape of one adapter tensor (always float32), and whether sites train it.

    In a plan: in some round; of one round (`model.factors.round_specs`): in that one.
    """

    name: str
    shape: tuple[int, ...]
    trained: bool

    @property
    def num_values(self) -> int:
        """Number of float32 values."""
        return math.prod(self.shape)
