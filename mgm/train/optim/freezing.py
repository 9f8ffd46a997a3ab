"""Freezes and unfreezes the parts of a model for stage 1, stage 2 and LoRA."""

from collections.abc import Iterator

from timm.layers import DropPath
from torch import nn

from mgm.errors import MGMError
from mgm.model.modeling_mgm import MGMForConditionalGeneration
from mgm.train.args.arguments import ModelArguments

DROP_PATH_RATE = 0.1  # rate of the published training


def set_trainable(
    model: MGMForConditionalGeneration, arguments: ModelArguments, lora: bool = False
) -> None:
    """Set `requires_grad` of all parameters from the flags.

    Stage 1 (`tune_mm_mlp_adapter`) trains mining and projector, stage 2 the language model too.
    Both encoders are frozen unless a flag unfreezes layers of them.

    Args:
        model: its parameters are set, and the fields of its config for trained encoders.
        arguments: the flags.
        lora: whether the language model is frozen, because a LoRA is trained.

    Raises:
        MGMError: a flag is for a part that the model lacks, or nothing is left to train.
    """
    model.requires_grad_(False)
    for module in _trained_modules(model, arguments, lora):
        module.requires_grad_(True)
    if arguments.freeze_mm_mlp_adapter:
        # Compat: as published, this flag leaves mining to be trained.
        model.projector.requires_grad_(False)
    model.config.optimize_vision_tower = arguments.optimize_vision_tower
    model.config.optimize_vision_tower_aux = arguments.optimize_vision_tower_aux
    _set_drop_path(model, DROP_PATH_RATE if arguments.drop_path else 0.0)
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise MGMError("nothing is left to train; unfreeze a part of the model")


def _trained_modules(
    model: MGMForConditionalGeneration, arguments: ModelArguments, lora: bool
) -> Iterator[nn.Module]:
    yield model.projector
    if model.mining is not None:
        yield model.mining
    if lora:
        pass
    elif not arguments.tune_mm_mlp_adapter and not arguments.freeze_backbone:
        yield model.language_model
    elif arguments.freeze_backbone:
        # Compat: as published, the head is no part of the backbone, unless it is the embedding.
        head, embedding = model.get_output_embeddings(), model.get_input_embeddings()
        if head is not None and head.weight is not embedding.weight:
            yield head
    if arguments.optimize_vision_tower:
        if not model.config.fusion.uses_low_resolution:
            raise MGMError(
                "--optimize_vision_tower: with this --fusion the ViT's tokens are not used; leave "
                "it out"
            )
        layers = model.vision_tower.layers
        yield from layers[len(layers) // 2 :]
    if arguments.optimize_vision_tower_aux:
        if model.vision_tower_aux is None:
            raise MGMError(
                "--optimize_vision_tower_aux: the model has no high-resolution encoder; "
                "leave it out or start from one with --vision_tower_aux"
            )
        stages = list(model.vision_tower_aux.stages.children())
        deepest = model.config.fusion.used_stages(len(stages))[-1]
        for stage in stages[:deepest]:
            yield list(stage.get_submodule("blocks").children())[-1]


def _set_drop_path(model: MGMForConditionalGeneration, rate: float) -> None:
    """Set stochastic depth of the ConvNeXt: rates grow linearly with depth, up to `rate`."""
    config = model.config.vision_aux_config
    if model.vision_tower_aux is None or config is None:
        if rate:
            raise MGMError("--drop_path: the model has no high-resolution encoder; leave it out")
        return
    config.drop_path_rate = rate
    stages = model.vision_tower_aux.stages.children()
    blocks = [block for stage in stages for block in stage.get_submodule("blocks").children()]
    for index, block in enumerate(blocks):
        block_rate = rate * index / (len(blocks) - 1)
        block.drop_path = DropPath(block_rate) if block_rate else nn.Identity()


def describe_trainable(model: MGMForConditionalGeneration) -> str:
    """A table of the model's parts with their total and trained parameters."""
    rows = [("part", "parameters", "trained")]
    counts = [count_parameters(module) for _, module in model.named_children()]
    names = [name for name, _ in model.named_children()]
    names.append("all")
    counts.append(count_parameters(model))
    rows += [(name, f"{n:,}", f"{m:,}") for name, (n, m) in zip(names, counts, strict=True)]
    width, *numbers = (max(map(len, column)) for column in zip(*rows, strict=True))
    return "\n".join(
        f"  {name:<{width}}  {total:>{numbers[0]}}  {trained:>{numbers[1]}}"
        for name, total, trained in rows
    )


def count_parameters(module: nn.Module) -> tuple[int, int]:
    """The numbers of a module's total and trained parameters."""
    parameters = list(module.parameters())
    return (
        sum(parameter.numel() for parameter in parameters),
        sum(parameter.numel() for parameter in parameters if parameter.requires_grad),
    )
