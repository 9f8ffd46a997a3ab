"""LoRA and DoRA: what is trained beside a frozen language model, and how it is saved.

An adapter's folder is in the published layout: peft's own files for the language model, and
`non_lora_trainables.bin` with mining, projector and towers. It loads as any model does, merged or
not; peft alone loads it on the language model.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from mgm.errors import MGMError
from mgm.model.checkpoint.base_digest import BASE_DIGEST, check_base_weights, weights_digest
from mgm.model.checkpoint.base_models import (
    BASE_ADAPTER,
    base_folders,
    is_adapter_checkpoint,
    referenced_base,
)
from mgm.model.checkpoint.lora import PREFIX, read_adapter, read_others
from mgm.model.checkpoint.saved_files import (
    ADAPTER_CONFIG,
    ADAPTER_FILES,
    OTHERS_FILE,
    check_one_model,
)
from mgm.model.files.hub import checkpoint_folder
from mgm.model.files.lazy_tensor import LazyTensor, lazy_tensors
from mgm.model.files.safetensors_writer import write_file
from mgm.model.modeling_mgm import MGMForConditionalGeneration
from mgm.model.published_layout.weight_names import to_published
from mgm.model.quantization.moe_experts import (
    built_expert_name,
    fill_linear_experts,
    stored_expert_name,
)
from mgm.train.args.arguments import FULL, TrainingArguments
from mgm.train.lora.qlora import quantize_language_model

BIASES = ("none", "all", "lora_only")
# Fields of adapter_config.json that change what an adapter's weights mean, and the flag of each.
MEANING = {"r": "lora_r", "lora_alpha": "lora_alpha", "bias": "lora_bias", "use_dora": "use_dora"}


@dataclass(frozen=True)
class TrainedAdapter:
    """An adapter that is trained.

    Attributes:
        settings: peft's, saved as adapter_config.json.
        metadata: of adapter_model.safetensors: what the base is.
    """

    settings: Any
    metadata: dict[str, str]


def inject_adapter(
    model: MGMForConditionalGeneration, arguments: TrainingArguments, base: str
) -> TrainedAdapter:
    """Put a fresh adapter beside every linear layer of the language model but its head.

    Args:
        model: its language model is frozen, and changed in place.
        arguments: the flags `lora_*` and `use_dora`.
        base: where the language model comes from, for whoever loads the adapter later.

    Raises:
        MGMError: peft is not installed, a flag has a value that it does not take, or the base's
            weights cannot be read.
    """
    try:
        from peft import LoraConfig, TaskType, inject_adapter_in_model
    except ImportError as error:
        raise MGMError("--lora_enable needs peft; pip install -e '.[train]'") from error
    if arguments.lora_bias not in BIASES:
        raise MGMError(f"--lora_bias {arguments.lora_bias}: choose one of {', '.join(BIASES)}")
    if arguments.lora_r < 1 or not 0 <= arguments.lora_dropout < 1:
        raise MGMError(
            f"--lora_r {arguments.lora_r} --lora_dropout {arguments.lora_dropout}: give a rank "
            "from 1, and a probability from 0 to below 1"
        )
    fill_linear_experts(model.language_model)
    if arguments.bits != FULL:
        quantize_language_model(model, arguments)
    settings = LoraConfig(
        r=arguments.lora_r,
        lora_alpha=arguments.lora_alpha,
        lora_dropout=arguments.lora_dropout,
        bias=arguments.lora_bias,
        use_dora=arguments.use_dora,
        target_modules=_targets(model.language_model),
        task_type=TaskType.CAUSAL_LM,
        base_model_name_or_path=base,
    )
    # Without its config: for some families peft changes the settings to those of other modules.
    bare: Any = nn.Module()
    bare.is_loaded_in_4bit, bare.is_loaded_in_8bit = arguments.bits == 4, arguments.bits == 8
    for name, child in model.language_model.named_children():
        bare.add_module(name, child)
    inject_adapter_in_model(settings, bare)
    return TrainedAdapter(settings, _metadata(base))


def _metadata(base: str) -> dict[str, str]:
    """What an adapter's file says of its base, as it is when the training begins."""
    folder = checkpoint_folder(base)
    digest = weights_digest([folder, *base_folders(folder)])
    return {BASE_DIGEST: digest} | ({BASE_ADAPTER: base} if is_adapter_checkpoint(folder) else {})


def _targets(language_model: PreTrainedModel) -> list[str]:
    """Names of its linear layers, without the head: the last parts, where these say enough."""
    head = language_model.get_output_embeddings()
    linear = [
        name
        for name, module in language_model.named_modules()
        if isinstance(module, nn.Linear) and module is not head
    ]
    if any(".experts." in name for name in linear):
        return linear  # peft takes the last parts of experts' names for tensors that we split
    return sorted({name.rsplit(".", 1)[-1] for name in linear})


def save_adapter(
    added: TrainedAdapter,
    model: MGMForConditionalGeneration,
    folder: Path,
    state: Mapping[str, Tensor] | None = None,
) -> None:
    """Write an adapter's folder, but for the processor.

    Args:
        added: what `inject_adapter` returned.
        model: the whole model.
        folder: is there already.
        state: the model's weights, where the model itself holds parts of them; None: its own.
    """
    whole = dict(model.state_dict() if state is None else state)
    inside = "language_model."
    learned = {name for name, part in model.named_parameters() if part.requires_grad}
    adapter = {
        saved: LazyTensor(saved, folder, tuple(tensor.shape), tensor.dtype, tensor.detach().cpu)
        for name, tensor in whole.items()
        if name.startswith(inside) and name in learned
        for saved in [_saved_name(name.removeprefix(inside))]
    }
    write_file(folder / ADAPTER_FILES[0], adapter, added.metadata)
    added.settings.save_pretrained(folder)
    others = {
        f"{PREFIX}{to_published(name)}": tensor.detach().cpu().clone()
        for name, tensor in whole.items()
        if not name.startswith(inside)
    }
    torch.save(others, folder / OTHERS_FILE)
    model.config.save_pretrained(folder)
    if model.generation_config is not None:
        model.generation_config.save_pretrained(folder)


def check_base_model(
    base: Path, output: Path, checkpoint: Path | None = None, adapter: Path | None = None
) -> None:
    """Refuse a run that would overwrite what its adapter goes on top of, or take another for it.

    Args:
        base: what `--model_name_or_path` names.
        output: the folder of the run.
        checkpoint: which the run goes on from.
        adapter: what `--lora_weight_path` names.

    Raises:
        MGMError: names the folder.
    """
    layers = {folder.resolve(): folder for folder in (base, *base_folders(base))}
    for here, folder in layers.items():
        in_output = here.name.startswith("checkpoint-") and here.parent == output.resolve()
        if in_output or here == output.resolve():
            raise MGMError(
                f"--output_dir {output}: holds {folder}, on top of which the adapter is trained, "
                "and the run would overwrite it; choose another folder"
            )
    if checkpoint is not None:
        trained_on = referenced_base(checkpoint)
        if trained_on is not None and trained_on.resolve() != base.resolve():
            raise MGMError(
                f"--model_name_or_path {base}: {checkpoint} was trained on {trained_on}; give that"
            )
        return
    if adapter is None or not (adapter / ADAPTER_CONFIG).is_file():
        return
    if adapter.resolve() in layers:
        raise MGMError(
            f"--lora_weight_path {adapter}: is in --model_name_or_path {base} already; give the "
            "base model that it was trained on, or leave out --lora_weight_path"
        )
    below = base_folders(adapter, base)
    trained_on = below[0]
    if trained_on.resolve() != base.resolve():
        raise MGMError(
            f"--model_name_or_path {base}: {adapter} was trained on {trained_on}; give that"
        )
    check_base_weights([adapter, *below], given=False)


def load_adapter(
    model: MGMForConditionalGeneration, folder: Path, arguments: TrainingArguments
) -> None:
    """Fill an adapter that was just added, and what is trained beside it, from its folder.

    Args:
        model: with the adapter of `inject_adapter`.
        folder: of the weights.
        arguments: the flags that the adapter was added with.

    Raises:
        MGMError: the folder's adapter was made with other flags or is of another shape, or files
            are missing or damaged.
    """
    check_one_model(folder)
    there = (folder / name for name in ADAPTER_FILES if (folder / name).is_file())
    file = next(there, folder / ADAPTER_FILES[0])
    for needed in (file, folder / ADAPTER_CONFIG):
        if not needed.is_file():
            raise MGMError(f"{needed}: is not there; give the folder of an adapter")
    _check_meaning(folder / ADAPTER_CONFIG, read_adapter(folder).config, arguments)
    state = model.language_model.state_dict()
    added = {name for name in state if ".lora_" in name}
    found = {_added_name(name): tensor for name, tensor in lazy_tensors(file).items()}
    fits = {n for n, t in found.items() if n in state and state[n].shape == t.shape}
    if wrong := sorted((added | found.keys()) - fits):
        raise MGMError(f"{file}: does not fit at {wrong[0]}; repeat the flags it was made with")
    with torch.no_grad():
        for name, tensor in found.items():
            state[name].copy_(tensor.read())
    state = model.state_dict()
    with torch.no_grad():
        for name, tensor in read_others(folder).items():
            if name not in state or state[name].shape != tensor.shape:
                raise MGMError(f"{tensor.file}: {tensor.name} is for another model")
            state[name].copy_(tensor.read())


def _check_meaning(file: Path, config: Mapping[str, Any], arguments: TrainingArguments) -> None:
    """Refuse settings of a saved adapter that the flags would replace: it would be another one."""
    config = {"bias": "none", "use_dora": False, **config}  # peft's defaults
    for field, flag in MEANING.items():
        saved, given = config[field], getattr(arguments, flag)
        if saved != given:
            raise MGMError(
                f"--{flag} {given}: {field} is {saved} in {file}; repeat the flags that the "
                "adapter was made with"
            )
    if config.get("use_rslora"):
        raise MGMError(
            f"{file}: use_rslora is True, which no flag of the training gives; merge the adapter "
            "into its base model (python -m mgm.train.merge) and train a new one on that"
        )


def _saved_name(name: str) -> str:
    """What peft's files call a weight of the language model."""
    name = re.sub(r"\.(lora_[AB])\.default\.weight$", r".\1.weight", name)
    name = re.sub(r"\.lora_magnitude_vector\.default\.weight$", ".lora_magnitude_vector", name)
    return PREFIX + stored_expert_name(name)


def _added_name(saved: str) -> str:
    """What the language model calls a weight of an adapter's file."""
    name = built_expert_name(saved).removeprefix(PREFIX)
    name = re.sub(r"\.(lora_[AB])\.weight$", r".\1.default.weight", name)
    return re.sub(r"\.lora_magnitude_vector$", ".lora_magnitude_vector.default.weight", name)
