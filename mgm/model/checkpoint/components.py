"""Assembles a model from components for stage 1; saves and loads the weights of stage 1."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from mgm.atomic import atomic_file
from mgm.errors import MGMError, one_line
from mgm.model.checkpoint.checkpoint import stored_generation
from mgm.model.checkpoint.saved_files import (
    FRESH_PARTS,
    STAGE1_FILE,
    check_no_adapter,
    check_one_model,
    check_stage1,
)
from mgm.model.config_checks.rules import check_text_config
from mgm.model.config_checks.weights import check_text_sizes
from mgm.model.configuration_mgm import MGMConfig
from mgm.model.files.hub import part_folder
from mgm.model.files.json_file import config_errors, read_json
from mgm.model.files.weight_files import (
    check_fit,
    check_weight_names,
    has_weights,
    read_file,
    read_folder,
    read_weights,
    source_of,
)
from mgm.model.ops.attention import attention_implementation
from mgm.model.published_layout.weight_names import native_tensors, to_native_key, to_published
from mgm.model.vision.convnext import load_convnext_tower
from mgm.model.vision.vit import load_vision_tower

STAGE1_PARTS = (*FRESH_PARTS, "vision_tower.", "vision_tower_aux.")

Model = TypeVar("Model", bound=PreTrainedModel)


def from_components(
    model_class: type[Model],
    language_model_path: str | os.PathLike[str],
    vision_tower_path: str | os.PathLike[str],
    vision_tower_aux_path: str | os.PathLike[str] | None,
    dtype: torch.dtype | None,
    device: str | None = None,
    **overrides: Any,
) -> Model:
    """Assemble a model of `model_class`; arguments as for `from_parts`."""
    dtype = dtype or torch.float32
    feature_layer = overrides.get("vision_feature_layer", -2)
    vision = load_vision_tower(vision_tower_path, feature_layer, dtype)
    aux = (
        None if vision_tower_aux_path is None else load_convnext_tower(vision_tower_aux_path, dtype)
    )
    language_model = load_language_model(language_model_path, dtype, device)
    config = MGMConfig(
        text_config=language_model.config,
        vision_config=vision.config,
        vision_aux_config=None if aux is None else aux.config,
        **overrides,
    )
    model: Any = model_class(
        config, language_model=language_model, vision_tower=vision, vision_tower_aux=aux
    )
    model.mining = None if model.mining is None else model.mining.to(dtype)
    model.projector.to(dtype)
    model.config.dtype = dtype
    # Building the whole model reset the attention implementation of the parts.
    for part in (vision, language_model):
        part.set_attn_implementation(attention_implementation(model.config))
    model.generation_config = language_model.generation_config
    return model.eval().to(device)


def load_language_model(
    path: str | os.PathLike[str], dtype: torch.dtype, device: str | None = None
) -> PreTrainedModel:
    """Load a causal language model from a folder in transformers' layout.

    Args:
        path: the folder.
        dtype: dtype of the weights.
        device: device of the weights; None: the CPU.

    Raises:
        MGMError: the folder holds none, or weights are missing, left over or of another shape.
    """
    folder = part_folder(path)
    config_path = folder / "config.json"
    if not config_path.is_file():
        raise MGMError(f"{folder}: has no config.json; give a folder with a causal language model")
    values = read_json(config_path)  # transformers' error for a broken file does not name it
    check_no_adapter(folder)  # transformers would load the base and apply the adapter
    tensors = read_folder(folder)
    stored_generation(folder)  # checked here: transformers ignores a broken file
    with config_errors(config_path):
        check_text_config(values)
        config = AutoConfig.from_pretrained(folder)
        check_text_sizes(config, tensors, config_path)
        with torch.device("meta"):
            empty = AutoModelForCausalLM.from_config(config)
    check_fit(empty, tensors)
    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            folder,
            config=config,
            dtype=dtype,
            device_map=None if device is None else {"": device},
            output_loading_info=True,
        )
    except (RuntimeError, ValueError, KeyError) as error:
        raise MGMError(
            f"{folder}: not a causal language model that transformers can load "
            f"({one_line(error)[:300]}); give another folder, or copy it again"
        ) from error
    model, report = loaded
    check_weight_names(report["missing_keys"], report["unexpected_keys"], source_of(tensors))
    return model


def save_stage1(
    model: PreTrainedModel,
    path: str | os.PathLike[str],
    state: Mapping[str, Tensor] | None = None,
) -> None:
    """Save mining (or its rival), projector and both towers after stage 1, by published names.

    Args:
        model: the model after stage 1.
        path: the file to write, usually `mm_projector.bin`.
        state: the model's weights where it holds only shards of them; None: its state_dict.

    Raises:
        MGMError: the file could not be written.
    """
    published = {
        to_published(name): tensor.detach().cpu().contiguous().clone()
        for name, tensor in (model.state_dict() if state is None else state).items()
        if name.startswith(STAGE1_PARTS)
    }
    # To an open file: torch.save would write the temporary path's random name into the file.
    with atomic_file(path) as part, part.open("wb") as file:
        torch.save(published, file)


def load_stage1(model: PreTrainedModel, path: str | os.PathLike[str]) -> None:
    """Load mining and projector, and the towers if the file has them, from a stage-1 file.

    Args:
        model: a model built by `from_parts`.
        path: the file, its folder, or the folder of a whole Mini-Gemini.

    Raises:
        MGMError: the file is missing, or its weights do not fit the model.
    """
    path = Path(path)
    check_one_model(path)
    if (path / STAGE1_FILE).is_file():
        if has_weights(path):
            check_stage1(path, native_tensors(read_folder(path)))
        path = path / STAGE1_FILE
    if not path.exists():
        raise MGMError(f"{path}: not found; give the {STAGE1_FILE} or the folder of stage 1")
    weights = read_weights(path) if path.is_dir() else read_file(path)
    tensors = {to_native_key(name): tensor for name, tensor in weights.items()}
    if path.is_dir():
        tensors = {name: tensors[name] for name in tensors if name.startswith(STAGE1_PARTS)}
    state = model.state_dict()
    needed = {name for name in state if name.startswith(FRESH_PARTS)}
    offered = {name for name in state if name.startswith(STAGE1_PARTS) and name in tensors}
    check_weight_names(needed | offered, tensors, str(path))
    for name, tensor in tensors.items():
        expected = tuple(state[name].shape)
        if tuple(tensor.shape) != expected:
            description = f"{to_published(name)} of shape {tuple(tensor.shape)}"
            raise MGMError(
                f"{path}: has {description}, and the model has {expected}; give the stage-1 file "
                "of the same encoders and language model"
            )
    model.load_state_dict(tensors, strict=False)
