"""Reads a checkpoint folder of any layout: config, and lazy weights under native names.

Four layouts become one form: native, published, stage 1 on a base model, and LoRA on a base model.
"""

import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import GenerationConfig
from transformers.utils import GENERATION_CONFIG_NAME

from mgm.errors import MGMError
from mgm.model.checkpoint.base_digest import check_base_weights
from mgm.model.checkpoint.base_models import base_folders, is_adapter_checkpoint
from mgm.model.checkpoint.lora import Adapter, merge_adapter, read_adapter, read_non_lora_weights
from mgm.model.checkpoint.saved_files import (
    ADAPTER_CONFIG,
    CONFIG_FILE,
    STAGE1_FILE,
    check_no_adapter,
    check_one_model,
    check_stage1,
)
from mgm.model.config_checks.rules import GENERATION_RULES
from mgm.model.configuration_mgm import MGMConfig
from mgm.model.families import TEXT_TYPE_OF_PUBLISHED, is_mini_gemini
from mgm.model.files.json_fields import check_fields, shortened, shown
from mgm.model.files.json_file import config_errors, is_present, read_json
from mgm.model.files.lazy_tensor import LazyTensor, lazy_tensors
from mgm.model.files.weight_files import has_weights, read_folder
from mgm.model.published_layout.config_fields import (
    find_referenced_folder,
    is_published_config,
    published_field_names,
    translate_config,
)
from mgm.model.published_layout.weight_names import native_tensors, to_published
from mgm.model.quantization.moe_experts import stored_expert_name
from mgm.model.vision.convnext import OPENCLIP_CONFIG, openclip_trunk

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Checkpoint:
    """Config and weights of a model on disk; no weight is read yet.

    Attributes:
        folder: folder of config.json.
        config: config of the model.
        tensors: all weights, by native names.
        published: whether config.json and weight names are in the published layout.
        adapter: a LoRA that is not merged; None: there is none, or it is merged.
    """

    folder: Path
    config: MGMConfig
    tensors: Mapping[str, LazyTensor]
    published: bool
    adapter: Adapter | None = None

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of the saved weights: that of the config, or else of the first weight."""
        if isinstance(self.config.dtype, torch.dtype):
            return self.config.dtype
        floating = (t.dtype for t in self.tensors.values() if t.dtype.is_floating_point)
        return next(floating, torch.float32)

    def stored_name(self, name: str) -> str:
        """Name of a weight in the folder's files."""
        if self.config.text_config.model_type == "mixtral":
            name = stored_expert_name(name)
        return to_published(name) if self.published else name


def read_checkpoint(
    folder: Path,
    base: str | os.PathLike[str] | None = None,
    merge_lora: bool = True,
    config: MGMConfig | None = None,
) -> Checkpoint:
    """Read a folder; weights are read later, one by one.

    Args:
        folder: folder in one of the layouts.
        base: the base model of a stage-1 or LoRA folder, as `base_folders` takes it; None: the one
            that the folder names.
        merge_lora: whether a LoRA is merged; the adapters that it was trained on always are.
        config: used instead of the folder's.

    Raises:
        MGMError: the folder is incomplete or damaged, holds another kind of model or two of them,
            its base or its towers are missing, or its base has other weights than before.
    """
    values = _read_config(folder)
    if base is not None and not is_adapter_checkpoint(folder):
        raise MGMError(f"{folder}: is a whole model; leave out the base model ({base})")
    folders = [folder, *base_folders(folder, base)]
    check_base_weights(folders, given=base is not None)
    *adapters, base_model = folders
    tensors, adapter = _whole_tensors(base_model), None
    for adapter_folder in reversed(adapters):
        if adapter is not None:
            tensors = merge_adapter(tensors, adapter)
        tensors, adapter = _apply_adapter_folder(tensors, adapter_folder)
    if adapter is not None and merge_lora:
        tensors, adapter = merge_adapter(tensors, adapter), None
    if adapters:
        tensors = _with_towers(folder, values, tensors)
    if config is None:
        config = _config(folder, values, tensors)
        if adapters:
            _take_towers(config, base_model)
    return Checkpoint(folder, config, tensors, is_published_config(values), adapter)


def _whole_tensors(folder: Path) -> dict[str, LazyTensor]:
    """Weights of a whole model or a plain language model, by native names."""
    tensors = native_tensors(read_folder(folder))
    if is_mini_gemini(read_json(folder / CONFIG_FILE)):
        check_one_model(folder)
        check_stage1(folder, tensors)
    else:
        check_no_adapter(folder)
    return tensors


def _apply_adapter_folder(
    tensors: dict[str, LazyTensor], folder: Path
) -> tuple[dict[str, LazyTensor], Adapter | None]:
    """Override weights with those of a stage-1 or adapter folder; returns its adapter, or None."""
    check_one_model(folder)
    if not is_present(folder / ADAPTER_CONFIG):
        return tensors | native_tensors(lazy_tensors(folder / STAGE1_FILE)), None
    return tensors | read_non_lora_weights(folder), read_adapter(folder)


def stored_generation(folder: Path) -> GenerationConfig | None:
    """Read the generation config of a folder; None: it has none.

    Raises:
        MGMError: the file is broken.
    """
    file = folder / GENERATION_CONFIG_NAME
    if not is_present(file):
        return None
    values = read_json(file)
    check_fields(values, GENERATION_RULES, file)
    with config_errors(file):
        return GenerationConfig.from_dict(values)


def check_checkpoint(folder: Path) -> None:
    """Raise an MGMError unless the folder looks like a Mini-Gemini of any layout."""
    _read_config(folder)
    check_one_model(folder)
    if not any(is_present(folder / name) for name in (ADAPTER_CONFIG, STAGE1_FILE)):
        read_folder(folder)


def _read_config(folder: Path) -> dict[str, Any]:
    path = folder / CONFIG_FILE
    if not is_present(path):
        raise MGMError(f"{folder}: has no {CONFIG_FILE}; give a checkpoint folder")
    values = read_json(path)
    if not is_mini_gemini(values):
        raise MGMError(
            f"{path}: model_type is {shown(values.get('model_type'))}; give a folder with one of "
            f"{', '.join(TEXT_TYPE_OF_PUBLISHED)}"
        )
    for part in (values, values.get("text_config")):
        _check_precision(path, part if isinstance(part, dict) else {})
    return values


def _check_precision(path: Path, values: dict[str, Any]) -> None:
    """Refuse quantised weights; drop the quantization_config of a QLoRA's base."""
    how = values.get("quantization_config")
    if how is None:
        return
    kind = how.get("quant_method") if isinstance(how, dict) else how
    folder = path.parent
    # Compat: a QLoRA says so in its config, though its base is saved unquantised.
    if kind != "bitsandbytes" or not is_adapter_checkpoint(folder):
        raise MGMError(
            f"{path}: quantization_config is of {shown(kind)}, quantised weights cannot be read; "
            "give the unquantised model, and quantise it while loading (quantize=...)"
        )


def _config(folder: Path, values: dict[str, Any], tensors: Mapping[str, LazyTensor]) -> MGMConfig:
    if is_published_config(values):
        with config_errors(folder / CONFIG_FILE), published_field_names():
            values = translate_config(values, folder, tensors)
            return MGMConfig.from_dict(values, name_or_path=str(folder))
    return MGMConfig.from_pretrained(folder)


def checkpoint_config(folder: Path, base: str | os.PathLike[str] | None = None) -> MGMConfig:
    """The config that `read_checkpoint` returns; a whole model's weights may be missing."""
    if is_adapter_checkpoint(folder):
        return read_checkpoint(folder, base).config
    return MGMConfig.from_pretrained(folder)


def _take_towers(config: MGMConfig, base: Path) -> None:
    """Copy the towers' configs from a Mini-Gemini base model, which their weights come from."""
    if is_mini_gemini(read_json(base / CONFIG_FILE)):
        base_config = MGMConfig.from_pretrained(base)
        config.vision_config = base_config.vision_config
        config.vision_aux_config = base_config.vision_aux_config


def _with_towers(
    folder: Path, values: Mapping[str, Any], tensors: dict[str, LazyTensor]
) -> dict[str, LazyTensor]:
    """Add towers that are missing from the weights, from the folders that the config names."""
    for prefix, field, file, rename in (
        ("vision_tower.", "mm_vision_tower", CONFIG_FILE, clip_tensors),
        ("vision_tower_aux.", "mm_vision_tower_aux", OPENCLIP_CONFIG, convnext_tensors),
    ):
        reference = values.get(field)
        if not reference or any(name.startswith(prefix) for name in tensors):
            continue
        with config_errors(folder / CONFIG_FILE):
            tower = find_referenced_folder(reference, folder, file)
        if tower is None:
            raise MGMError(
                f"{folder}: its weights lack the tower that {field} in {CONFIG_FILE} names, and "
                f"there is no {shortened(reference)}/{file} here or above it; put the tower there"
            )
        tensors = tensors | rename(read_folder(tower))
    return tensors


def clip_tensors(tensors: Mapping[str, LazyTensor]) -> dict[str, LazyTensor]:
    """The vision model of a CLIP in transformers' layout, by native names."""
    # Compat: with and without the prefix that transformers 5 dropped.
    plain = {name.removeprefix("vision_model."): tensor for name, tensor in tensors.items()}
    kept = ("embeddings.", "pre_layrnorm.", "encoder.", "post_layernorm.")
    return {
        f"vision_tower.{name}": tensor
        for name, tensor in plain.items()
        if name.startswith(kept) and not name.endswith("position_ids")
    }


def convnext_tensors(tensors: Mapping[str, LazyTensor]) -> dict[str, LazyTensor]:
    """The ConvNeXt of an OpenCLIP folder, by native names."""
    return {
        f"vision_tower_aux.{name}": tensor
        for name, tensor in openclip_trunk(tensors).items()
        if name.startswith(("stem.", "stages."))
    }


def compare_convnext(checkpoint: Checkpoint) -> None:
    """Warn where the published code would use another ConvNeXt than the checkpoint's.

    It reads the model_zoo's file unless `optimize_vision_tower_aux` is set; this package always
    uses the checkpoint's.
    """
    values = read_json(checkpoint.folder / CONFIG_FILE)
    with config_errors(checkpoint.folder / CONFIG_FILE):
        tower = find_referenced_folder(
            values.get("mm_vision_tower_aux"), checkpoint.folder, OPENCLIP_CONFIG
        )
    if values.get("optimize_vision_tower_aux") or tower is None or not has_weights(tower):
        return
    for name, other in convnext_tensors(read_folder(tower)).items():
        tensor = checkpoint.tensors.get(name)
        if tensor is None or tensor.file == other.file:
            continue
        same = tensor.shape == other.shape and torch.equal(
            tensor.read(), other.read().to(tensor.dtype)
        )
        if not same:
            logger.warning(
                "%s: %s differs from %s in %s; the checkpoint's ConvNeXt is used, where the "
                "published code would have used the other",
                tensor.file,
                tensor.name,
                other.name,
                other.file,
            )
            return
