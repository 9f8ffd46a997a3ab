"""Steps of `from_pretrained`: resolve the checkpoint, map and check its weights, finalize."""

import os
from collections.abc import Mapping
from typing import Any

import torch
from transformers import PreTrainedModel

from mgm.errors import MGMError
from mgm.model.checkpoint.base_models import is_adapter_checkpoint
from mgm.model.checkpoint.checkpoint import (
    Checkpoint,
    compare_convnext,
    read_checkpoint,
    stored_generation,
)
from mgm.model.checkpoint.lora import attach_adapter
from mgm.model.checkpoint.saved_files import CONFIG_FILE
from mgm.model.config_checks.weights import check_text_sizes, check_vision_sizes
from mgm.model.configuration_mgm import MGMConfig
from mgm.model.files.hub import DOWNLOAD_OPTIONS, checkpoint_folder
from mgm.model.files.json_file import config_errors
from mgm.model.files.lazy_tensor import LazyTensor
from mgm.model.files.weight_files import check_fit, check_weight_names, source_of
from mgm.model.quantization.bitsandbytes import only_linear_layers
from mgm.model.quantization.int8_linear import int8_tensors
from mgm.model.quantization.moe_experts import with_linear_expert_names
from mgm.model.vision.convnext_shapes import check_convnext_sizes
from mgm.model.vision.vit import tower_kind

HEAD = "language_model.lm_head.weight"


def resolve_checkpoint(
    path: str | os.PathLike[str],
    config: MGMConfig | None,
    base: str | os.PathLike[str] | None,
    merge_lora: bool,
    options: dict[str, Any],
) -> Checkpoint:
    """Resolve the arguments of `from_pretrained` to a checkpoint; pops the hub's from `options`.

    Raises:
        MGMError: the checkpoint does not exist, or cannot be loaded with these options.
    """
    where = {name: options.pop(name) for name in DOWNLOAD_OPTIONS if name in options}
    folder = checkpoint_folder(path, **where)
    subfolder = options.pop("subfolder", "")
    folder = folder / subfolder
    if config is not None and config.name_or_path == str(path):
        # AutoConfig made it without the weights, whose shapes define the towers.
        config = None if subfolder or is_adapter_checkpoint(folder) else config
    checkpoint = read_checkpoint(folder, base, merge_lora, config)
    if checkpoint.adapter is not None and options.get("int8"):
        raise MGMError(
            f"{folder}: int8 weights require the LoRA to be merged; merge it, or choose another "
            "quantisation"
        )
    return checkpoint


def build_state_dict(
    model_class: type[PreTrainedModel], checkpoint: Checkpoint, options: dict[str, Any]
) -> dict[str, LazyTensor]:
    """Map the checkpoint's weights to the model that `options` describe; none is read yet.

    Args:
        model_class: built on the meta device to check the weights.
        checkpoint: checkpoint to be loaded.
        options: options of `from_pretrained`; changed in place to those of transformers.

    Raises:
        MGMError: weights are missing or do not fit the config.
    """
    _check_sizes(checkpoint)
    with config_errors(checkpoint.folder / CONFIG_FILE), torch.device("meta"):
        whole = model_class(checkpoint.config, linear_experts=True)
    check_fit(whole, with_linear_expert_names(checkpoint.tensors), checkpoint.stored_name)
    tensors = dict(checkpoint.tensors)
    if getattr(checkpoint.config.text_config, "tie_word_embeddings", False):
        # Compat: transformers 4 tied head and embeddings even if both were stored; 5 would not.
        tensors.pop(HEAD, None)
        _tie_on_disk(whole, tensors, options)
    if options.get("text_only"):
        kept = (name for name in tensors if name.startswith("language_model."))
        tensors = {name: tensors[name] for name in kept}
    else:
        compare_convnext(checkpoint)
    if options.get("int8"):
        tensors = with_linear_expert_names(tensors)
        with torch.device("meta"):
            tensors = int8_tensors(model_class(checkpoint.config, int8=True), tensors)
    if options.get("quantization_config") is not None:
        options["quantization_config"] = only_linear_layers(options["quantization_config"])
        options["linear_experts"] = True
        tensors = with_linear_expert_names(tensors)
    if options.get("torch_dtype") is not None:  # name of `dtype` before transformers 5
        options.setdefault("dtype", options.pop("torch_dtype"))
    if options.get("dtype", "auto") in (None, "auto"):
        options["dtype"] = checkpoint.dtype
    return tensors


def _tie_on_disk(
    model: PreTrainedModel, tensors: dict[str, LazyTensor], options: dict[str, Any]
) -> None:
    """Give a tied head its own weights, on the embeddings' device, for offloading to the disk.

    transformers writes a file for every weight that it offloads to the disk, and would have none
    for a head that only shares the embeddings' weights.
    """
    devices = options.get("device_map")
    if not (isinstance(devices, str) or (isinstance(devices, dict) and "disk" in devices.values())):
        return
    for target, source in model.all_tied_weights_keys.items():
        if source not in tensors:
            continue
        tensors[target] = tensors[source]
        if isinstance(devices, dict):
            device = _device_of(source, devices)
            if device is not None and device != _device_of(target, devices):
                options["device_map"] = options["device_map"] | {target.rpartition(".")[0]: device}


def _device_of(name: str, devices: Mapping[str, Any]) -> Any:
    """The device that a `device_map` assigns to a weight: that of its longest matching prefix."""
    parts = name.split(".")
    prefixes = (".".join(parts[:end]) for end in range(len(parts), -1, -1))
    return next((devices[prefix] for prefix in prefixes if prefix in devices), None)


def _check_sizes(checkpoint: Checkpoint) -> None:
    """Check the config against the weights' shapes, before modules of invalid sizes are built."""
    config, tensors, file = checkpoint.config, checkpoint.tensors, checkpoint.folder / CONFIG_FILE
    text, vision = ("", "") if checkpoint.published else ("text_config.", "vision_config.")
    check_text_sizes(config.text_config, tensors, file, text, "language_model.")
    class_tokens = tower_kind(config.vision_config.model_type).tower.class_tokens
    check_vision_sizes(config.vision_config, tensors, file, vision, "vision_tower.", class_tokens)
    if config.vision_aux_config is not None:
        prefix = "vision_tower_aux."
        shapes = {
            name.removeprefix(prefix): tensor.shape
            for name, tensor in tensors.items()
            if name.startswith(prefix)
        }
        check_convnext_sizes(config.vision_aux_config, shapes, file)


def finalize(
    model: PreTrainedModel, checkpoint: Checkpoint, report: Mapping[str, Any], name: str
) -> None:
    """Set name, generation config and adapter of a model whose weights were loaded.

    Args:
        model: loaded by transformers.
        checkpoint: checkpoint that it was loaded from.
        report: transformers' `loading_info`.
        name: path or repository id given by the user.

    Raises:
        MGMError: weights were missing, unexpected or of another shape.
    """
    lacking = {*report["missing_keys"], *(key for key, *_ in report["mismatched_keys"])}
    source = source_of(checkpoint.tensors)
    check_weight_names(lacking, report["unexpected_keys"], source, checkpoint.stored_name)
    model.name_or_path = model.config.name_or_path = name
    generation = stored_generation(checkpoint.folder)
    if generation is not None:
        model.generation_config = generation
    if checkpoint.adapter is not None:
        attach_adapter(model, checkpoint.adapter)
