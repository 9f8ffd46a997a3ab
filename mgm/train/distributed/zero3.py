"""ZeRO-3: partitions the weights that rank 0 has read over all processes.

DeepSpeed's own way, a full copy of the model in each process, takes more host memory than eight
processes of a large model have. Here ranks other than 0 hold one full parameter at a time.
DeepSpeed gathers the parameters to save them (`stage3_gather_16bit_weights_on_model_save`).
"""

from collections.abc import Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from mgm.model.modeling_mgm import MGMForConditionalGeneration


def partition_parameters(
    model: MGMForConditionalGeneration,
    settings: dict[str, Any],
    device: torch.device,
    dtype: torch.dtype,
) -> None:
    """Partition a model's parameters over all processes; buffers are broadcast from rank 0.

    Args:
        model: model with weights on rank 0; on the others it may be on the meta device.
        settings: DeepSpeed config, with numbers for batch sizes, not "auto".
        device: device of this process.
        dtype: dtype of the parameters in forward and backward.
    """
    import deepspeed

    # Without it, DeepSpeed would take this process for the only one.
    deepspeed.init_distributed(dist.get_backend(), auto_mpi_discovery=False)
    deepspeed.zero.Init(module=_Parameters(model, device, dtype), config_dict_or_path=settings)
    for module in model.modules():
        for name, buffer in list(module.named_buffers(recurse=False, remove_duplicate=False)):
            setattr(module, name, _materialize(buffer, device))
    for buffer in model.buffers():
        dist.broadcast(buffer, 0)


class _Parameters(nn.Module):
    """Yields a model's parameters to DeepSpeed, which partitions each before the next."""

    def __init__(
        self, model: MGMForConditionalGeneration, device: torch.device, dtype: torch.dtype
    ) -> None:
        super().__init__()
        self._owners = list(model.modules())
        self._device, self._dtype = device, dtype

    def parameters(self, recurse: bool = True) -> Iterator[nn.Parameter]:
        """Each parameter once, with memory; tied ones stay tied."""
        made: dict[nn.Parameter, nn.Parameter] = {}
        for owner in self._owners:
            own = owner.named_parameters(recurse=False, remove_duplicate=False)
            for name, parameter in list(own):
                new = made.get(parameter)
                if new is None:
                    data = _materialize(parameter.data, self._device).to(self._dtype)
                    if parameter.is_meta:
                        new = nn.Parameter(data, parameter.requires_grad)
                    else:
                        parameter.data, new = data, parameter
                    made[parameter] = new
                    yield new
                setattr(owner, name, new)


def _materialize(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Move a tensor to a device; a meta tensor gets uninitialised memory there."""
    return torch.empty_like(tensor, device=device) if tensor.is_meta else tensor.to(device)
