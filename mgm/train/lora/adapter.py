"""LoRA and DoRA adapters of the language model: injected, saved and loaded.

An adapter's folder has the published layout: peft's files for the language model, and
`non_lora_trainables.bin` with mining, projector and encoders. It loads as a model of this package,
merged or not; plain peft loads it on the language model.
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
from mgm.model.checkpoint.lora import PREFIX, read_adapter, read_non_lora_weights
from mgm.model.checkpoint.saved_files import (
    ADAPTER_CONFIG,
    ADAPTER_FILES,
    NON_LORA_FILE,
    check_one_model,
)
from mgm.model.files.hub import checkpoint_folder
from mgm.model.files.lazy_tensor import LazyTensor, lazy_tensors
from mgm.model.files.safetensors_writer import write_file
from mgm.model.modeling_mgm import MGMForConditionalGeneration
from mgm.model.published_layout.weight_names import to_published
from mgm.model.quantization.moe_experts import (
    fill_linear_experts,
    linear_expert_name,
    stored_expert_name,
)
from mgm.train.args.arguments import NO_QUANTIZATION, TrainingArguments
from mgm.train.lora.qlora import quantize_language_model

BIASES = ("none", "all", "lora_only")
# Fields of adapter_config.json that change an adapter's output, and the flag of each.
FLAG_OF_LORA_FIELD = {
    "r": "lora_r",
    "lora_alpha": "lora_alpha",
    "bias": "lora_bias",
    "use_dora": "use_dora",
}


@dataclass(frozen=True)
class TrainedAdapter:
    """The adapter that a run trains.

    Attributes:
        config: peft's `LoraConfig`, saved as adapter_config.json.
        metadata: metadata of adapter_model.safetensors: names the base model and its digest.
    """

    config: Any
    metadata: dict[str, str]


def inject_adapter(
    model: MGMForConditionalGeneration, arguments: TrainingArguments, base: str
) -> TrainedAdapter:
    """Inject a new adapter into every linear layer of the language model except the LM head.

    Args:
        model: its language model is frozen, and changed in place.
        arguments: the flags `lora_*` and `use_dora`.
        base: name or folder of the base model, saved for later loads of the adapter.

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
    if arguments.bits != NO_QUANTIZATION:
        quantize_language_model(model, arguments)
    config = LoraConfig(
        r=arguments.lora_r,
        lora_alpha=arguments.lora_alpha,
        lora_dropout=arguments.lora_dropout,
        bias=arguments.lora_bias,
        use_dora=arguments.use_dora,
        target_modules=_target_modules(model.language_model),
        task_type=TaskType.CAUSAL_LM,
        base_model_name_or_path=base,
    )
    # Without the model's config, by which peft would choose other target modules for some families.
    bare: Any = nn.Module()
    bare.is_loaded_in_4bit, bare.is_loaded_in_8bit = arguments.bits == 4, arguments.bits == 8
    for name, child in model.language_model.named_children():
        bare.add_module(name, child)
    inject_adapter_in_model(config, bare)
    return TrainedAdapter(config, _base_metadata(base))


def _base_metadata(base: str) -> dict[str, str]:
    """Metadata of an adapter's file: digest of its base model at the start of training."""
    folder = checkpoint_folder(base)
    digest = weights_digest([folder, *base_folders(folder)])
    return {BASE_DIGEST: digest} | ({BASE_ADAPTER: base} if is_adapter_checkpoint(folder) else {})


def _target_modules(language_model: PreTrainedModel) -> list[str]:
    """peft's target modules: linear layers except the LM head, by the last part of their names."""
    head = language_model.get_output_embeddings()
    linear = [
        name
        for name, module in language_model.named_modules()
        if isinstance(module, nn.Linear) and module is not head
    ]
    if any(".experts." in name for name in linear):
        return linear  # peft takes the last parts of experts' names for fused tensors
    return sorted({name.rsplit(".", 1)[-1] for name in linear})


def save_adapter(
    adapter: TrainedAdapter,
    model: MGMForConditionalGeneration,
    folder: Path,
    state_dict: Mapping[str, Tensor] | None = None,
) -> None:
    """Write an adapter's folder, except the processor.

    Args:
        adapter: what `inject_adapter` returned.
        model: the whole model.
        folder: must exist.
        state_dict: gathered weights of a sharded model; None: the model's own.
    """
    weights = dict(model.state_dict() if state_dict is None else state_dict)
    prefix = "language_model."
    trained = {name for name, part in model.named_parameters() if part.requires_grad}
    tensors = {
        saved: LazyTensor(saved, folder, tuple(tensor.shape), tensor.dtype, tensor.detach().cpu)
        for name, tensor in weights.items()
        if name.startswith(prefix) and name in trained
        for saved in [_saved_name(name.removeprefix(prefix))]
    }
    write_file(folder / ADAPTER_FILES[0], tensors, adapter.metadata)
    adapter.config.save_pretrained(folder)
    others = {
        f"{PREFIX}{to_published(name)}": tensor.detach().cpu().clone()
        for name, tensor in weights.items()
        if not name.startswith(prefix)
    }
    torch.save(others, folder / NON_LORA_FILE)
    model.config.save_pretrained(folder)
    if model.generation_config is not None:
        model.generation_config.save_pretrained(folder)


def check_base_model(
    base: Path, output: Path, checkpoint: Path | None = None, adapter: Path | None = None
) -> None:
    """Refuse a run that would overwrite its adapter's base model, or that has another base.

    Args:
        base: folder of `--model_name_or_path`.
        output: folder of the run.
        checkpoint: checkpoint that the run resumes from.
        adapter: folder of `--lora_weight_path`.

    Raises:
        MGMError: names the folder.
    """
    folders = {folder.resolve(): folder for folder in (base, *base_folders(base))}
    for here, folder in folders.items():
        in_output = here.name.startswith("checkpoint-") and here.parent == output.resolve()
        if in_output or here == output.resolve():
            raise MGMError(
                f"--output_dir {output}: contains {folder}, the base model of the adapter, which "
                "the run would overwrite; choose another folder"
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
    if adapter.resolve() in folders:
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
    """Load an adapter's weights, and those of mining, projector and encoders, into a model.

    Args:
        model: after `inject_adapter`.
        folder: folder of the adapter.
        arguments: the flags that the adapter was injected with.

    Raises:
        MGMError: the folder's adapter was made with other flags or is of another shape, or files
            are missing or damaged.
    """
    check_one_model(folder)
    there = (folder / name for name in ADAPTER_FILES if (folder / name).is_file())
    file = next(there, folder / ADAPTER_FILES[0])
    for needed in (file, folder / ADAPTER_CONFIG):
        if not needed.is_file():
            raise MGMError(f"{needed}: is missing; give the folder of an adapter")
    _check_config(folder / ADAPTER_CONFIG, read_adapter(folder).config, arguments)
    state = model.language_model.state_dict()
    expected = {name for name in state if ".lora_" in name}
    saved = {_module_name(name): tensor for name, tensor in lazy_tensors(file).items()}
    matching = {n for n, t in saved.items() if n in state and state[n].shape == t.shape}
    if wrong := sorted((expected | saved.keys()) - matching):
        raise MGMError(f"{file}: does not fit at {wrong[0]}; repeat the flags it was made with")
    with torch.no_grad():
        for name, tensor in saved.items():
            state[name].copy_(tensor.read())
    state = model.state_dict()
    with torch.no_grad():
        for name, tensor in read_non_lora_weights(folder).items():
            if name not in state or state[name].shape != tensor.shape:
                raise MGMError(f"{tensor.file}: {tensor.name} is for another model")
            state[name].copy_(tensor.read())


def _check_config(file: Path, config: Mapping[str, Any], arguments: TrainingArguments) -> None:
    """Refuse a saved adapter whose config differs from the flags, which would change its output."""
    config = {"bias": "none", "use_dora": False, **config}  # peft's defaults
    for field, flag in FLAG_OF_LORA_FIELD.items():
        saved, given = config[field], getattr(arguments, flag)
        if saved != given:
            raise MGMError(
                f"--{flag} {given}: {field} is {saved} in {file}; repeat the flags that the "
                "adapter was made with"
            )
    if config.get("use_rslora"):
        raise MGMError(
            f"{file}: use_rslora is True, which no training flag sets; merge the adapter "
            "into its base model (python -m mgm.train.merge) and train a new one on that"
        )


def _saved_name(name: str) -> str:
    """peft's name, in files, of a parameter of the language model."""
    name = re.sub(r"\.(lora_[AB])\.default\.weight$", r".\1.weight", name)
    name = re.sub(r"\.lora_magnitude_vector\.default\.weight$", ".lora_magnitude_vector", name)
    return PREFIX + stored_expert_name(name)


def _module_name(saved: str) -> str:
    """The language model's name of a tensor in an adapter's file."""
    name = linear_expert_name(saved).removeprefix(PREFIX)
    name = re.sub(r"\.(lora_[AB])\.weight$", r".\1.default.weight", name)
    return re.sub(r"\.lora_magnitude_vector$", ".lora_magnitude_vector.default.weight", name)
