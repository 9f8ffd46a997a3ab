"""Mixtral's experts as separate linear layers, so that they can be quantised.

transformers keeps the experts of a layer in two tensors, which quantisers skip: almost all of an
8x7B would stay in full precision.
"""

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from transformers.models.mixtral.modeling_mixtral import MixtralExperts

from mgm.model.files.lazy_tensor import LazyTensor

# The MoE block's name in files and in transformers.
_STORED, _BUILT = ".block_sparse_moe.", ".mlp."


class LinearExpert(nn.Module):
    """One expert: w2(act(w1(x)) * w3(x)), with the weight names of Mixtral's files."""

    def __init__(self, width: int, inner: int, act_fn: nn.Module) -> None:
        super().__init__()
        self.w1 = nn.Linear(width, inner, bias=False)
        self.w2 = nn.Linear(inner, width, bias=False)
        self.w3 = nn.Linear(width, inner, bias=False)
        self.act_fn = act_fn

    def forward(self, hidden_states: Tensor) -> Tensor:
        """(tokens, width) -> the same."""
        return self.w2(self.act_fn(self.w1(hidden_states)) * self.w3(hidden_states))


class LinearExperts(nn.ModuleList):
    """Replaces transformers' `MixtralExperts`, and computes the same."""

    def __init__(self, experts: Any) -> None:
        sizes = (experts.hidden_dim, experts.intermediate_dim, experts.act_fn)
        super().__init__(LinearExpert(*sizes) for _ in range(experts.num_experts))

    def forward(self, hidden_states: Tensor, top_k_index: Tensor, top_k_weights: Tensor) -> Tensor:
        """Weighted sum of each token's experts.

        Args:
            hidden_states: (tokens, width).
            top_k_index: (tokens, experts per token), indices of the experts.
            top_k_weights: (tokens, experts per token), their weights.

        Returns:
            (tokens, width).
        """
        mixed = torch.zeros_like(hidden_states)
        for expert in top_k_index.unique().tolist():
            tokens, slot = torch.where(top_k_index == expert)
            output = self[expert](hidden_states[tokens]) * top_k_weights[tokens, slot, None]
            mixed.index_add_(0, tokens, output.to(mixed.dtype))
        return mixed


def use_linear_experts(model: nn.Module) -> None:
    """Replace every `MixtralExperts` by `LinearExperts` with fresh weights."""
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, MixtralExperts):
                setattr(module, name, LinearExperts(child))


def fill_linear_experts(model: nn.Module) -> None:
    """Replace every `MixtralExperts` by `LinearExperts` with the same weights."""
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, MixtralExperts):
                setattr(module, name, _filled(child))


@torch.no_grad()
def _filled(experts: Any) -> LinearExperts:
    linear = LinearExperts(experts).to(experts.down_proj.dtype)
    for number, expert in enumerate(linear):
        gate, up = experts.gate_up_proj[number].chunk(2)
        down = experts.down_proj[number]
        for layer, weight in (("w1", gate), ("w2", down), ("w3", up)):
            expert.get_submodule(layer).get_parameter("weight").copy_(weight)
    return linear


def linear_expert_name(name: str) -> str:
    """Name of a stored weight in a Mixtral with `LinearExperts`."""
    return name.replace(_STORED, _BUILT)


def with_linear_expert_names(tensors: Mapping[str, LazyTensor]) -> dict[str, LazyTensor]:
    """Stored weights by their names in a model with `LinearExperts`."""
    return {linear_expert_name(name): tensor for name, tensor in tensors.items()}


def stored_expert_name(name: str) -> str:
    """Name in files of a weight of a Mixtral with `LinearExperts`."""
    return re.sub(rf"{re.escape(_BUILT)}(?=gate\.|experts\.)", _STORED, name)
