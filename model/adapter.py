"""LoRA on a base's attention, routed and shared experts: the only tensors that ever leave a site.

Source: Hu et al. 2021, arXiv 2106.09685.

An adapter is named as peft saves it (`base_model.model.<path>.lora_A.weight`), in sorted order, in
float32, whatever the base's type: in bfloat16 the noise of a private step would have a few
thousand distinct values. What is adapted is read off the base's structure, and after the injection
the list of trainable parameters is compared with the plan's, because a tensor that trains
unnoticed is one that nobody clips.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel

from model.base import skeleton
from model.config import AdapterConfig, Target, TensorSpec
from model.experts import (
    IMPLEMENTATION,
    attach_experts,
    detach_experts,
    expert_shape,
    expert_weights,
    is_experts,
)
from model.factors import factor_of
from model.lora import LoraLinear
from model.tensors import Packed, pack, packed_digest, split

_PREFIX = "base_model.model."
_LINEAR_HOLDERS: dict[Target, tuple[str, ...]] = {
    "attention": ("self_attn", "attention", "attn"),
    "shared": ("shared_experts", "shared_expert"),
}
# `model.tensors` tells the weights of the experts by this order.
_EXPERT_WEIGHTS = (["gate_up_proj", "down_proj"], ["up_proj", "down_proj"])


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


def adapter_specs(
    base: PreTrainedModel | PreTrainedConfig, config: AdapterConfig
) -> tuple[TensorSpec, ...]:
    """Name and shape of every tensor of the adapter of a base, sorted by name.

    Args:
      base: The base or its configuration; the weights play no part.
      config: The adapter's rank, and which factors train.

    Raises:
      ValueError: The base has nothing of what a target names.
    """
    shapes = {}
    for name, num_experts, num_inputs, num_outputs in _shapes(base, config.targets):
        num_rows = num_experts * config.lora_rank
        shapes[f"{_PREFIX}{name}.lora_A.weight"] = (num_rows, num_inputs)
        shapes[f"{_PREFIX}{name}.lora_B.weight"] = (num_outputs, num_rows)
    return tuple(
        TensorSpec(name=name, shape=shape, trained=factor_of(name) in config.trained_factors)
        for name, shape in sorted(shapes.items())
    )


def has_target(base: PreTrainedModel | PreTrainedConfig, target: Target) -> bool:
    """Whether the base has layers of a target's name, fit to be adapted or not."""
    config = base if isinstance(base, PreTrainedConfig) else base.config
    bare = skeleton(config)
    if target == "experts":
        return bool(_experts(bare))
    return bool(_named_layers(bare, target))


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


class AdaptedModel(nn.Module):
    """A base with an adapter inside; its tensors' names are those under which peft saves them."""

    def __init__(self, base: PreTrainedModel) -> None:
        super().__init__()
        self.base_model = nn.Module()
        self.base_model.model = base

    def get_base_model(self) -> PreTrainedModel:
        """The base, with the adapter in it."""
        return cast(PreTrainedModel, self.base_model.model)

    def forward(self, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401  whatever the base takes
        """What the base with the adapter computes."""
        return self.get_base_model()(*args, **kwargs)


def inject_adapter(model: PreTrainedModel, config: AdapterConfig) -> AdaptedModel:
    """Put an adapter into a base, in place; only the trained tensors require a gradient.

    It starts as `initial_adapter` makes it. Move the model to its device before.

    Raises:
      ValueError: The base has nothing of what a target names.
      RuntimeError: The model then has other trainable parameters than `adapter_specs` lists, or
        not in float32.
    """
    initial = initial_adapter(model.config, config, seed=INITIAL_SEED)
    scaling = config.lora_alpha / config.lora_rank
    model.requires_grad_(False)
    for path, module in _linear_layers(model, config.targets):
        layer = LoraLinear(
            module, rank=config.lora_rank, scaling=scaling, dropout=config.lora_dropout
        )
        model.set_submodule(path, layer)
    if "experts" in config.targets:
        for _, experts in _experts(model):
            attach_experts(experts, rank=config.lora_rank, scaling=scaling)
        model.set_experts_implementation(IMPLEMENTATION)
    injected = AdaptedModel(model)
    trained = {spec.name: spec.trained for spec in initial.specs}
    for name, parameter in injected.named_parameters():
        parameter.requires_grad_(trained.get(name, False))
    load_adapter(injected, initial)
    _check_injected(injected, initial.specs)
    injected.eval()
    return injected


def merge_adapter(model: AdaptedModel) -> PreTrainedModel:
    """Add the adapter to the base's weights and take it off, in place; the base alone is left."""
    base = model.get_base_model()
    for path, module in list(base.named_modules()):
        if isinstance(module, LoraLinear):
            layer = module.base_layer
            (pair,) = module.lora_pairs
            layer.weight.data = (layer.weight.data.float() + pair.delta()[0]).to(
                layer.weight.dtype
            )
            base.set_submodule(path, layer)
        elif hasattr(module, "lora_pair_of"):
            detach_experts(module)
    if base.config._experts_implementation == IMPLEMENTATION:
        base.set_experts_implementation("eager")
    return base


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


def set_trained(model: nn.Module, specs: Sequence[TensorSpec]) -> None:
    """Have exactly the tensors train that `specs` says; nothing else of the model ever does.

    Raises:
      ValueError: The model's adapter has other tensors.
    """
    parameters = _adapter_parameters(model)
    _check_specs(parameters, specs)
    for spec in specs:
        parameters[spec.name].requires_grad_(spec.trained)


def trained_parameters(model: nn.Module) -> list[nn.Parameter]:
    """The parameters that train, in the order of an update."""
    parameters = _adapter_parameters(model)
    return [parameters[name] for name in sorted(parameters) if parameters[name].requires_grad]


def _shapes(
    base: PreTrainedModel | PreTrainedConfig, targets: Sequence[Target]
) -> list[tuple[str, int, int, int]]:
    """Name without prefix, experts, inputs and outputs of every adapted weight."""
    # The skeleton and not the model itself, whose layers have other names once an adapter is in.
    config = base if isinstance(base, PreTrainedConfig) else base.config
    bare = skeleton(config)
    shapes = [
        (path, 1, module.in_features, module.out_features)
        for path, module in _linear_layers(bare, targets)
    ]
    if "experts" in targets:
        for path, experts in _experts(bare):
            names = expert_weights(experts)
            for index, name in enumerate(names):
                nested = ".base_layer" * (len(names) - 1 - index)
                shapes.append((path + nested, *expert_shape(experts, name)))
    return shapes


def _named_layers(base: PreTrainedModel, target: Target) -> list[tuple[str, nn.Linear]]:
    return [
        (path, module)
        for path, module in base.named_modules()
        if isinstance(module, nn.Linear)
        and set(path.split(".")[:-1]) & set(_LINEAR_HOLDERS[target])
    ]


def _linear_layers(
    base: PreTrainedModel, targets: Sequence[Target]
) -> list[tuple[str, nn.Linear]]:
    """Path and module of every linear layer that the targets name."""
    found = []
    for target in targets:
        if target not in _LINEAR_HOLDERS:
            continue
        layers = _named_layers(base, target)
        if not layers:
            raise ValueError(
                f"expected linear layers for target {target}, got none in {base.config.model_type}"
            )
        for path, module in layers:
            # What computes something else from the same weight would be computed wrongly.
            if type(module).forward is not nn.Linear.forward:
                raise ValueError(
                    f"expected plain linear layers for target {target}, "
                    f"got {type(module).__name__} at {path} in {base.config.model_type}"
                )
        found += layers
    return found


def _experts(base: PreTrainedModel) -> list[tuple[str, nn.Module]]:
    """Path and module of the routed experts of every layer."""
    found = [(path, module) for path, module in base.named_modules() if is_experts(module)]
    if not found or any(expert_weights(m) not in _EXPERT_WEIGHTS for _, m in found):
        raise ValueError(
            f"expected routed experts behind transformers' experts interface with the weights "
            f"gate_up_proj or up_proj, and down_proj, got others in {base.config.model_type}"
        )
    return found


def _check_injected(model: nn.Module, specs: Sequence[TensorSpec]) -> None:
    """Check that exactly the listed tensors train, in float32."""
    trainable = {name for name, p in model.named_parameters() if p.requires_grad}
    wrong = sorted(trainable ^ {spec.name for spec in specs if spec.trained})
    if wrong:
        raise RuntimeError(f"expected the listed tensors only to train, got {wrong[0]} wrong")
    for name, parameter in _adapter_parameters(model).items():
        if parameter.dtype != torch.float32:
            raise RuntimeError(f"expected {name} as float32, got {parameter.dtype}")


def _adapter_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """Adapter tensors by the name under which peft saves them."""
    return {name: p for name, p in model.named_parameters() if ".lora_" in name}


def _check_specs(parameters: dict[str, nn.Parameter], specs: Sequence[TensorSpec]) -> None:
    found = {name: tuple(p.shape) for name, p in parameters.items()}
    expected = {spec.name: spec.shape for spec in specs}
    if found != expected:
        both = sorted(found.keys() | expected.keys())
        wrong = next(name for name in both if found.get(name) != expected.get(name))
        raise ValueError(f"expected a model with the adapter's tensors, but {wrong} differs")
