"""LoRA on the attention of a base, the only tensors that ever leave a site.

Source: Hu et al. 2021, arXiv 2106.09685.

An adapter is named as peft saves it (`base_model.model.<path>.lora_A.weight`), in sorted order, in
float32, whatever the base's type: in bfloat16 the noise of a private step would have a few
thousand distinct values. What is adapted is read off the base's structure (every linear layer
inside an attention), and after the injection the list of trainable parameters is compared with the
plan's, because a tensor that trains unnoticed is one that nobody clips.
"""

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel

from model.base import skeleton
from model.config import AdapterConfig, TensorSpec
from model.tensors import Packed, pack, packed_digest, split

_PREFIX = "base_model.model."
_ATTENTION_NAMES = ("self_attn", "attention", "attn")


@dataclass(frozen=True, slots=True)
class AdapterState:
    """The values of an adapter.

    Attributes:
      specs: Every tensor in canonical (sorted) order.
      tensors: By name, float32, on the CPU.
    """

    specs: tuple[TensorSpec, ...]
    tensors: dict[str, Tensor]

    def __post_init__(self) -> None:
        """Refuse tensors that are not those of the specs, in name, order, shape and type."""
        names = [spec.name for spec in self.specs]
        if names != sorted(set(names)) or names != list(self.tensors):
            raise ValueError("expected the tensors of the specs, sorted by name, without repeats")
        for spec in self.specs:
            tensor = self.tensors[spec.name]
            if tensor.dtype != torch.float32 or tuple(tensor.shape) != spec.shape:
                raise ValueError(
                    f"expected {spec.name} as float32 of shape {list(spec.shape)}, "
                    f"got {tensor.dtype} of shape {list(tensor.shape)}"
                )

    @property
    def digest(self) -> str:
        """`sha256:<hex>` of names, shapes and values (`model.tensors.packed_digest`)."""
        return packed_digest(self.specs, self.pack(trained_only=False))

    def pack(self, *, trained_only: bool) -> Packed:
        """All values, or those of the trained tensors, as one float32 array."""
        specs = [spec for spec in self.specs if spec.trained or not trained_only]
        return pack(specs, {name: tensor.numpy() for name, tensor in self.tensors.items()})

    @classmethod
    def unpack(cls, specs: Sequence[TensorSpec], packed: Packed) -> "AdapterState":
        """The adapter of a packed array of all its tensors.

        Raises:
          ValueError: `packed` is not a packed array of these tensors.
        """
        views = split(specs, packed.copy())
        return cls(tuple(specs), {name: torch.from_numpy(view) for name, view in views.items()})

    def with_trained(self, packed: Packed) -> "AdapterState":
        """The same adapter with other values in its trained tensors.

        Raises:
          ValueError: `packed` is not a packed array of the trained tensors.
        """
        trained = split([spec for spec in self.specs if spec.trained], packed)
        return AdapterState(
            self.specs,
            {
                name: torch.from_numpy(trained[name].copy()) if name in trained else tensor
                for name, tensor in self.tensors.items()
            },
        )


def adapter_specs(
    base: PreTrainedModel | PreTrainedConfig, config: AdapterConfig
) -> tuple[TensorSpec, ...]:
    """Name and shape of every tensor of the adapter of a base, sorted by name.

    Args:
      base: The base or its configuration; the weights play no part.
      config: The adapter's rank, and which factors train.

    Raises:
      ValueError: The base has no linear layer in an attention.
    """
    specs = []
    for path, num_inputs, num_outputs in _targets(base):
        shapes = {"A": (config.lora_rank, num_inputs), "B": (num_outputs, config.lora_rank)}
        specs += [
            TensorSpec(
                name=f"{_PREFIX}{path}.lora_{factor}.weight",
                shape=shape,
                trained=factor in config.train,
            )
            for factor, shape in shapes.items()
        ]
    return tuple(sorted(specs, key=lambda spec: spec.name))


# Of every run's first adapter: A is random, so any seed is as good, and a site can make it again
# from the plan.
INITIAL_SEED = 0


def initial_adapter(
    base: PreTrainedModel | PreTrainedConfig, config: AdapterConfig, *, seed: int
) -> AdapterState:
    """The adapter that training starts from: B is zero, so that it changes nothing yet.

    A is uniform in +-1/sqrt(its inputs). The same seed gives the same values on every machine: a
    CPU generator draws them in the order of the specs.

    Source: He et al. 2015, arXiv 1502.01852, with a = sqrt(5) as in peft.
    """
    generator = torch.Generator().manual_seed(seed)
    specs = adapter_specs(base, config)
    tensors = {}
    for spec in specs:
        tensors[spec.name] = torch.zeros(spec.shape)
        if ".lora_A." in spec.name:
            bound = 1 / math.sqrt(spec.shape[1])
            tensors[spec.name].uniform_(-bound, bound, generator=generator)
    return AdapterState(specs, tensors)


def inject_adapter(model: PreTrainedModel, config: AdapterConfig) -> nn.Module:
    """Put an adapter into a base, in place; only the trained tensors require a gradient.

    Its values are peft's, drawn anew each time: `load_adapter` follows. Move the model to its
    device before.

    Returns:
      A `peft.PeftModel`; the base is inside it.

    Raises:
      RuntimeError: peft made other trainable parameters than `adapter_specs` lists, or not in
        float32.
    """
    # peft takes two seconds to import, and who reads or digests an adapter does not need it.
    from peft import LoraConfig, TaskType, get_peft_model

    specs = adapter_specs(model.config, config)
    model.requires_grad_(False)
    lora = LoraConfig(
        task_type=TaskType.CAUSAL_LM,
        r=config.lora_rank,
        lora_alpha=config.lora_alpha,  # type: ignore[arg-type]  # annotated int, used as a number
        lora_dropout=config.lora_dropout,
        target_modules=[path for path, _, _ in _targets(model.config)],
        bias="none",
    )
    with warnings.catch_warnings():
        # peft asks transformers 5 for a property under its old name.
        warnings.filterwarnings(
            "ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning
        )
        injected = get_peft_model(model, lora)
    parameters = _adapter_parameters(injected)
    for spec in specs:
        if spec.name in parameters:
            parameters[spec.name].requires_grad_(spec.trained)
    trainable = {name for name, p in injected.named_parameters() if p.requires_grad}
    expected = {_parameter_name(spec.name) for spec in specs if spec.trained}
    if set(parameters) != {spec.name for spec in specs} or trainable != expected:
        listed = {spec.name for spec in specs}
        wrong = sorted(trainable ^ expected) or sorted(set(parameters) ^ listed)
        raise RuntimeError(
            f"expected peft to train the listed tensors only, got a difference in {wrong[0]}"
        )
    for spec in specs:
        found = parameters[spec.name]
        if found.dtype != torch.float32 or tuple(found.shape) != spec.shape:
            raise RuntimeError(
                f"expected {spec.name} as float32 of shape {list(spec.shape)}, "
                f"got {found.dtype} of shape {list(found.shape)}"
            )
    injected.eval()
    return injected


@torch.no_grad()
def load_adapter(model: nn.Module, state: AdapterState) -> None:
    """Overwrite the values of an injected adapter, in place: optimizers keep their tensors.

    Raises:
      ValueError: The model's adapter has other tensors.
    """
    parameters = _adapter_parameters(model)
    _check_specs(parameters, state.specs)
    for name, tensor in state.tensors.items():
        parameters[name].copy_(tensor)


@torch.no_grad()
def read_adapter(model: nn.Module) -> AdapterState:
    """The values of an injected adapter as they are now, copied."""
    parameters = dict(sorted(_adapter_parameters(model).items()))
    specs = tuple(
        TensorSpec(name=name, shape=tuple(p.shape), trained=p.requires_grad)
        for name, p in parameters.items()
    )
    return AdapterState(
        specs, {name: p.detach().to("cpu", copy=True) for name, p in parameters.items()}
    )


def trained_parameters(model: nn.Module) -> list[nn.Parameter]:
    """The parameters that train, in the order of an update."""
    parameters = _adapter_parameters(model)
    return [parameters[name] for name in sorted(parameters) if parameters[name].requires_grad]


def _targets(base: PreTrainedModel | PreTrainedConfig) -> list[tuple[str, int, int]]:
    """Path, inputs and outputs of every linear layer inside an attention."""
    # The skeleton and not the model itself, whose linear layers have other names once an adapter
    # is in.
    config = base if isinstance(base, PreTrainedConfig) else base.config
    targets = [
        (path, module.in_features, module.out_features)
        for path, module in skeleton(config).named_modules()
        if isinstance(module, nn.Linear) and set(path.split(".")[:-1]) & set(_ATTENTION_NAMES)
    ]
    if not targets:
        raise ValueError(
            f"expected linear layers in an attention, got none in {config.model_type}"
        )
    return targets


def _adapter_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """Adapter tensors by the name under which peft saves them."""
    return {
        name.replace(".default.weight", ".weight"): parameter
        for name, parameter in model.named_parameters()
        if ".lora_" in name
    }


def _parameter_name(name: str) -> str:
    return name.removesuffix(".weight") + ".default.weight"


def _check_specs(parameters: dict[str, nn.Parameter], specs: Sequence[TensorSpec]) -> None:
    found = {name: tuple(p.shape) for name, p in parameters.items()}
    expected = {spec.name: spec.shape for spec in specs}
    if found != expected:
        both = sorted(found.keys() | expected.keys())
        wrong = next(name for name in both if found.get(name) != expected.get(name))
        raise ValueError(f"expected a model with the adapter's tensors, but {wrong} differs")
