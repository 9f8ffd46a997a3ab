"""ZeRO-3: every process gets its parts of the weights that the first one has read.

DeepSpeed divides what is whole in every process when training begins, which a host has no memory
for where eight processes hold a large model. Here one parameter at a time is whole in the others.
"""

from collections.abc import Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from mgm.model.modeling_mgm import MGMForConditionalGeneration


def divide(
    model: MGMForConditionalGeneration,
    settings: dict[str, Any],
    device: torch.device,
    dtype: torch.dtype,
) -> None:
    """Divide a model's parameters among all processes; buffers are the first one's everywhere.

    Args:
        model: whole in the first process; in the others it may have shapes alone.
        settings: of DeepSpeed, nothing in them is "auto" that the sizes of batches depend on.
        device: where this process computes.
        dtype: of the parameters that are computed with.
    """
    import deepspeed

    # Or it would take this process for the only one.
    deepspeed.init_distributed(dist.get_backend(), auto_mpi_discovery=False)
    deepspeed.zero.Init(module=_Parameters(model, device, dtype), config_dict_or_path=settings)
    for module in model.modules():
        for name, buffer in list(module.named_buffers(recurse=False, remove_duplicate=False)):
            setattr(module, name, _placed(buffer, device))
    for buffer in model.buffers():
        dist.broadcast(buffer, 0)


class _Parameters(nn.Module):
    """A model's parameters for DeepSpeed, which divides each before it asks for the next."""

    def __init__(
        self, model: MGMForConditionalGeneration, device: torch.device, dtype: torch.dtype
    ) -> None:
        super().__init__()
        self._owners = list(model.modules())
        self._device, self._dtype = device, dtype

    def parameters(self, recurse: bool = True) -> Iterator[nn.Parameter]:
        """Each parameter once, in memory; whoever shares it gets the same."""
        made: dict[nn.Parameter, nn.Parameter] = {}
        for owner in self._owners:
            own = owner.named_parameters(recurse=False, remove_duplicate=False)
            for name, parameter in list(own):
                new = made.get(parameter)
                if new is None:
                    data = _placed(parameter.data, self._device).to(self._dtype)
                    if parameter.is_meta:
                        new = nn.Parameter(data, parameter.requires_grad)
                    else:
                        parameter.data, new = data, parameter
                    made[parameter] = new
                    yield new
                setattr(owner, name, new)


def _placed(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """A tensor on a device; one that has a shape alone gets memory."""
    return torch.empty_like(tensor, device=device) if tensor.is_meta else tensor.to(device)
