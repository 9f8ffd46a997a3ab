"""FSDP2: every process holds a part of each layer, and gathers the rest for the layer's turn.

`torch.distributed.fsdp.fully_shard` does the work; here is what is sharded, and how a checkpoint
keeps what each process holds. transformers' own `fsdp` would run as DDP on a CPU, without a word.
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

from mgm.errors import MGMError

if TYPE_CHECKING:
    from mgm.model.modeling_mgm import MGMForConditionalGeneration

# What transformers' Trainer has since it leaves a model that is divided as it is, and asks when
# gradients are to be reduced: before 5.19 it puts DDP around it, before 5.23 it never asks.
HOOK = "_defer_fsdp_gradient_reduction"


def parse_fsdp(fsdp: str | bool | list[str] | None) -> bool:
    """Whether `--fsdp` asks for FSDP2; other programs' words for it are understood."""
    text = " ".join(fsdp) if isinstance(fsdp, list) else str(fsdp or "")
    words = set(text.lower().split())
    if words <= {"false", "none"}:
        return False
    if unknown := words - {"true", "full_shard", "auto_wrap"}:
        raise MGMError(
            f"--fsdp {min(unknown)}: choose full_shard (FSDP2), or leave it out; --deepspeed has "
            "other ways to divide a model, and offloads to the CPU"
        )
    return True


def check_fsdp_support() -> None:
    """See whether transformers' Trainer can train a model that is divided.

    Raises:
        MGMError: it is too old for that.
    """
    if not hasattr(transformers.Trainer, HOOK):
        raise MGMError(
            f"--fsdp: transformers {transformers.__version__} is installed, and 5.23 or later is "
            "needed; pip install 'transformers>=5.23,<6', or leave it out (--deepspeed divides a "
            "model too)"
        )


def shard(model: "MGMForConditionalGeneration", device: torch.device, bf16: bool = False) -> None:
    """Divide a model among all processes: layer by layer, and what is left as a whole.

    Args:
        model: whole in the first process, of which the others get their parts; there it may have
            shapes alone. What is trained is known.
        device: where this process computes; the parts of the model go there.
        bf16: whether layers are gathered, and compute, in 16 bits; the parts keep theirs.

    Raises:
        MGMError: there is one process alone.
    """
    if not dist.is_initialized() or dist.get_world_size() == 1:
        raise MGMError(
            "--fsdp: there is one process, and nothing to divide; start several with torchrun or "
            "python -m mgm.train.launch, or leave it out"
        )
    mesh = init_device_mesh(device.type, (dist.get_world_size(),))
    first = dist.get_rank() == 0
    whole = model.state_dict() if first else {}
    policy = MixedPrecisionPolicy(torch.bfloat16, torch.float32) if bf16 else MixedPrecisionPolicy()
    for layer in _layers(model):
        fully_shard(layer, mesh=mesh, mp_policy=policy)
    fully_shard(model, mesh=mesh, mp_policy=policy)
    if not first:
        model.to_empty(device=device)
        model.tie_weights()
    options = StateDictOptions(full_state_dict=True, broadcast_from_rank0=True)
    set_model_state_dict(model, whole, options=options)
    for buffer in model.buffers():
        dist.broadcast(buffer, 0)


def _layers(model: "MGMForConditionalGeneration") -> Iterator[nn.Module]:
    """What is gathered for its turn: layers of language model and ViT, blocks of the ConvNeXt."""
    yield from model.text_layers
    yield from model.vision_tower.layers
    if model.vision_tower_aux is not None:
        for stage in model.vision_tower_aux.stages:
            yield from stage.get_submodule("blocks").children()


def delay_reduction(model: nn.Module, delay: bool) -> None:
    """Whether gradients stay where they are, because more batches of the step follow."""
    cast(FSDPModule, model).set_requires_gradient_sync(not delay)


def gather_state_dict(model: nn.Module) -> dict[str, Any]:
    """All weights, on the CPU of the first process; the others, which have to ask too, get none."""
    options = StateDictOptions(full_state_dict=True, cpu_offload=True)
    return get_model_state_dict(model, options=options)


def save_optimizer_shard(optimizer: torch.optim.Optimizer, folder: Path) -> None:
    """Write this process's part of the moments into a checkpoint."""
    state = optimizer.state_dict()
    state["state"] = {
        key: {name: _local(value) for name, value in moments.items()}
        for key, moments in state["state"].items()
    }
    torch.save(state, _optimizer_file(folder))


def load_optimizer_shard(optimizer: torch.optim.Optimizer, folder: Path) -> None:
    """Read it back.

    Raises:
        MGMError: the checkpoint is of another kind of run.
    """
    file = _optimizer_file(folder)
    if not file.is_file():
        raise MGMError(
            f"{file}: is not there: the checkpoint was not made with --fsdp; repeat its flags, or "
            "begin anew with another --output_dir"
        )
    state = torch.load(file, map_location="cpu", weights_only=True)
    parameters = [part for group in optimizer.param_groups for part in group["params"]]
    state["state"] = {
        key: {name: _placed(value, parameters[key]) for name, value in moments.items()}
        for key, moments in state["state"].items()
    }
    optimizer.load_state_dict(state)


def _optimizer_file(folder: Path) -> Path:
    return folder / f"optimizer-{dist.get_rank()}.pt"


def _local(value: Any) -> Any:
    # A copy, or all of what it is a piece of would be written.
    return value.to_local().clone() if isinstance(value, DTensor) else value


def _placed(value: Any, parameter: Tensor) -> Any:
    """A moment as a part of the same whole as its parameter; a number of steps as it is."""
    if not (isinstance(value, Tensor) and value.dim() and isinstance(parameter, DTensor)):
        return value
    return DTensor.from_local(
        value.to(parameter.to_local().device),
        *(parameter.device_mesh, parameter.placements),
        run_check=False,
        shape=parameter.shape,
        stride=parameter.stride(),
    )
