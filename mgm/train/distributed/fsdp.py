"""FSDP2: shards the model layer by layer, and saves and loads each rank's optimizer shard.

Built on `torch.distributed.fsdp.fully_shard`. transformers' own `fsdp` silently runs as DDP on a
CPU.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
import torch.distributed as dist
import transformers
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    set_model_state_dict,
)
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor
from transformers.utils.versions import require_version

from mgm.errors import MGMError

if TYPE_CHECKING:
    from mgm.model.modeling_mgm import MGMForConditionalGeneration

# The first version whose Trainer accumulates the gradients of a sharded model by a method that can
# be overridden; before 5.19 it wraps the model in DDP.
MIN_TRANSFORMERS = "5.23"


def parse_fsdp(fsdp: str | bool | list[str] | None) -> bool:
    """Whether `--fsdp` enables FSDP2; accepts the values of transformers for full sharding."""
    text = " ".join(fsdp) if isinstance(fsdp, list) else str(fsdp or "")
    words = set(text.lower().split())
    if words <= {"false", "none"}:
        return False
    if unknown := words - {"true", "full_shard", "auto_wrap"}:
        raise MGMError(
            f"--fsdp {min(unknown)}: choose full_shard (FSDP2), or leave it out; --deepspeed has "
            "other ways to shard a model, and offloads to the CPU"
        )
    return True


def check_fsdp_support() -> None:
    """Check that transformers' Trainer can train a sharded model.

    Raises:
        MGMError: it is too old for that.
    """
    try:
        require_version(f"transformers>={MIN_TRANSFORMERS}")
    except ImportError as error:
        raise MGMError(
            f"--fsdp: transformers {transformers.__version__} is installed, and {MIN_TRANSFORMERS} "
            f"or later is needed; pip install 'transformers>={MIN_TRANSFORMERS},<6', or leave it "
            "out (--deepspeed shards a model too)"
        ) from error


def apply_fsdp(
    model: "MGMForConditionalGeneration", device: torch.device, bf16: bool = False
) -> None:
    """Shard a model over all processes: each layer as one unit, and the rest as another.

    Args:
        model: with weights on rank 0, from where the shards are sent; on other ranks it may be on
            the meta device. `requires_grad` is set already.
        device: device of this process; gets the shards.
        bf16: mixed precision: layers are gathered and computed in bfloat16, shards stay as is.

    Raises:
        MGMError: there is a single process.
    """
    if not dist.is_initialized() or dist.get_world_size() == 1:
        raise MGMError(
            "--fsdp: there is one process, and nothing to shard; start several with torchrun or "
            "python -m mgm.train.launch, or leave it out"
        )
    mesh = init_device_mesh(device.type, (dist.get_world_size(),))
    first = dist.get_rank() == 0
    state_dict = model.state_dict() if first else {}
    policy = MixedPrecisionPolicy(torch.bfloat16, torch.float32) if bf16 else MixedPrecisionPolicy()
    for layer in _layers(model):
        fully_shard(layer, mesh=mesh, mp_policy=policy)
    fully_shard(model, mesh=mesh, mp_policy=policy)
    if not first:
        model.to_empty(device=device)
        model.tie_weights()
    options = StateDictOptions(full_state_dict=True, broadcast_from_rank0=True)
    set_model_state_dict(model, state_dict, options=options)
    for buffer in model.buffers():
        dist.broadcast(buffer, 0)


def _layers(model: "MGMForConditionalGeneration") -> Iterator[nn.Module]:
    """The units that are sharded: layers of language model and ViT, blocks of the ConvNeXt."""
    yield from model.text_layers
    yield from model.vision_tower.layers
    if model.vision_tower_aux is not None:
        for stage in model.vision_tower_aux.stages:
            yield from stage.get_submodule("blocks").children()


def set_gradient_sync(model: nn.Module, enabled: bool) -> None:
    """Reduce gradients over processes in the backward pass, or accumulate them until then."""
    cast(FSDPModule, model).set_requires_gradient_sync(enabled)


def gather_state_dict(model: nn.Module) -> dict[str, Any]:
    """The full state dict on the CPU of rank 0; empty on others. A collective."""
    options = StateDictOptions(full_state_dict=True, cpu_offload=True)
    return get_model_state_dict(model, options=options)


def save_optimizer_shard(optimizer: torch.optim.Optimizer, folder: Path) -> None:
    """Write this rank's shard of the optimizer state into a checkpoint."""
    state = optimizer.state_dict()
    state["state"] = {
        key: {name: _local(value) for name, value in moments.items()}
        for key, moments in state["state"].items()
    }
    torch.save(state, _optimizer_file(folder))


def load_optimizer_shard(optimizer: torch.optim.Optimizer, folder: Path) -> None:
    """Load this rank's shard of the optimizer state from a checkpoint.

    Raises:
        MGMError: the checkpoint has none: it is of a run without `--fsdp`.
    """
    file = _optimizer_file(folder)
    if not file.is_file():
        raise MGMError(
            f"{file}: is missing: the checkpoint was not made with --fsdp; repeat its flags, or "
            "start a new run with another --output_dir"
        )
    state = torch.load(file, map_location="cpu", weights_only=True)
    parameters = [part for group in optimizer.param_groups for part in group["params"]]
    state["state"] = {
        key: {name: _as_dtensor(value, parameters[key]) for name, value in moments.items()}
        for key, moments in state["state"].items()
    }
    optimizer.load_state_dict(state)


def _optimizer_file(folder: Path) -> Path:
    return folder / f"optimizer-{dist.get_rank()}.pt"


def _local(value: Any) -> Any:
    # A copy, or torch.save would write the whole storage that it is a view of.
    return value.to_local().clone() if isinstance(value, DTensor) else value


def _as_dtensor(value: Any, parameter: Tensor) -> Any:
    """A moment as a DTensor with the placements of its parameter; other values unchanged."""
    if not (isinstance(value, Tensor) and value.dim() and isinstance(parameter, DTensor)):
        return value
    return DTensor.from_local(
        value.to(parameter.to_local().device),
        *(parameter.device_mesh, parameter.placements),
        run_check=False,
        shape=parameter.shape,
        stride=parameter.stride(),
    )
