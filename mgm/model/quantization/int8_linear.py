"""Weight-only int8 quantisation of linear layers, with one scale for each output row."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mgm.model.files.lazy_tensor import LazyTensor


class Int8Linear(nn.Module):
    """y = (x W^T) * scale + bias with int8 W from -127 to 127; activations keep their precision.

    Args:
        linear: the layer that it replaces; its weights are not copied.
    """

    weight: Tensor
    scale: Tensor

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        rows, columns = linear.weight.shape
        device, dtype = linear.weight.device, linear.weight.dtype
        weight = torch.zeros(rows, columns, dtype=torch.int8, device=device)
        self.register_buffer("weight", weight)
        self.register_buffer("scale", torch.ones(rows, dtype=dtype, device=device))
        self.bias = linear.bias

    def forward(self, hidden_states: Tensor) -> Tensor:
        """(..., columns) -> (..., rows)."""
        product = F.linear(hidden_states, self.weight.to(hidden_states.dtype)) * self.scale
        return product if self.bias is None else product + self.bias


def use_int8(module: nn.Module, skip_modules: tuple[str, ...] = ()) -> None:
    """Replace every linear layer in `module` by `Int8Linear`, except in `skip_modules`."""
    for name, child in list(module.named_children()):
        if name in skip_modules:
            continue
        if isinstance(child, nn.Linear):
            setattr(module, name, Int8Linear(child))
        else:
            use_int8(child, skip_modules)


def int8_tensors(model: nn.Module, tensors: Mapping[str, LazyTensor]) -> dict[str, LazyTensor]:
    """Weights for a model with `Int8Linear`, quantised when they are read.

    Args:
        model: model with `Int8Linear` layers.
        tensors: tensors in full precision, by the model's names.
    """
    result = dict(tensors)
    for name, module in model.named_modules():
        full = tensors.get(f"{name}.weight")
        if isinstance(module, Int8Linear) and full is not None:
            rows = full.shape[:1]
            result[f"{name}.weight"] = _lazily(
                full, lambda weight: quantize_rows(weight)[0], full.shape, torch.int8
            )
            result[f"{name}.scale"] = _lazily(
                full, lambda weight: quantize_rows(weight)[1], rows, full.dtype
            )
    return result


def quantize_rows(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Quantise to int8 values (rows, columns) and scales (rows), by each row's largest value."""
    weight = weight.float()
    scale = weight.abs().amax(dim=1) / 127
    scale = scale.where(scale > 0, torch.ones_like(scale))
    return (weight / scale.unsqueeze(1)).round().to(torch.int8), scale


def _lazily(
    full: LazyTensor,
    change: Callable[[Tensor], Tensor],
    shape: tuple[int, ...],
    dtype: torch.dtype,
) -> LazyTensor:
    return LazyTensor(full.name, full.file, shape, dtype, lambda: change(full.read()).to(dtype))
