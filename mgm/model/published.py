"""The published checkpoints' layout, flat config.json and weight names, as data both ways."""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from mgm.errors import MGMError
from mgm.model.config_file import read_json
from mgm.model.convnext_geometry import convnext_geometry
from mgm.model.families import TEXT_TYPE_OF_PUBLISHED
from mgm.model.weights import weight_files, weight_shapes

# Weight names by their beginnings: published, ours. The first that fits decides.
NAMES = (
    ("model.embed_tokens.", "language_model.model.embed_tokens."),
    ("model.layers.", "language_model.model.layers."),
    ("model.norm.", "language_model.model.norm."),
    ("lm_head.", "language_model.lm_head."),
    ("model.vision_tower.vision_tower.vision_model.", "vision_tower."),
    ("model.vision_tower_aux.vision_stem.", "vision_tower_aux.stem."),
    ("model.vision_tower_aux.vision_stages.", "vision_tower_aux.stages."),
    ("model.mm_projector.", "projector."),
    ("model.vlm_uni_query_projector.0.", "mining.query.norm."),
    ("model.vlm_uni_query_projector.1.", "mining.query."),
    ("model.vlm_uni_aux_projector.0.", "mining.key.norm."),
    ("model.vlm_uni_aux_projector.1.", "mining.key."),
    ("model.vlm_uni_val_projector.0.", "mining.value.norm."),
    ("model.vlm_uni_val_projector.1.", "mining.value."),
)

# The same as patterns, for transformers' own loader.
KEY_PATTERNS = {"^" + re.escape(published): ours for published, ours in NAMES}

# Fields of the flat config by our names: published name, value when it is absent.
FIELDS: Mapping[str, tuple[str, Any]] = {
    "vision_feature_layer": ("mm_vision_select_layer", -2),
    "vision_feature_select": ("mm_vision_select_feature", "patch"),
    "projector_type": ("mm_projector_type", "linear"),
    "image_size_aux": ("image_size_aux", 320),
    "image_grid": ("image_grid", 1),
    "image_global": ("image_global", False),
    "image_aspect_ratio": ("image_aspect_ratio", "square"),
    "model_max_length": ("tokenizer_model_max_length", None),
    "optimize_vision_tower": ("optimize_vision_tower", False),
    "optimize_vision_tower_aux": ("optimize_vision_tower_aux", False),
}

# Fields that say nothing about the language model, nor about ours.
_NOT_TEXT = frozenset(name for name, _ in FIELDS.values()) | {
    "_name_or_path",
    "architectures",
    "drop_path",
    "freeze_mm_mlp_adapter",
    "image_grid_pinpoints",
    "mm_hidden_size",
    "mm_hidden_size_aux",
    "mm_projector_lr",
    "mm_use_im_patch_token",
    "mm_use_im_start_end",
    "mm_vision_tower",
    "mm_vision_tower_aux",
    "model_path",
    "model_type",
    "tokenizer_padding_side",
    "transformers_version",
    "tune_mm_mlp_adapter",
    "use_mm_proj",
}

_CLIP = "model.vision_tower.vision_tower.vision_model."
_AUX = (
    ("model.vision_tower_aux.vision_stem.", "stem."),
    ("model.vision_tower_aux.vision_stages.", "stages."),
)


def to_native(name: str) -> str:
    """A published weight name as ours; any other name as it is."""
    return _renamed(name, NAMES)


def to_published(name: str) -> str:
    """Our weight name as published; any other name as it is."""
    return _renamed(name, tuple((ours, published) for published, ours in NAMES))


def _renamed(name: str, table: tuple[tuple[str, str], ...]) -> str:
    for beginning, replacement in table:
        if name.startswith(beginning):
            return replacement + name.removeprefix(beginning)
    return name


def forget_renaming(model: PreTrainedModel) -> None:
    """Make a model that was loaded from published names save under its own.

    transformers otherwise undoes, on saving, every renaming that it did on loading.
    """
    conversions = getattr(model, "_weight_conversions", None)
    if conversions:
        kept = [entry for entry in conversions if not set(KEY_PATTERNS) & set(_sources(entry))]
        model._weight_conversions = kept or None  # ty: ignore[invalid-assignment]


def _sources(conversion: Any) -> list[str]:
    sources = getattr(conversion, "_original_source_patterns", conversion.source_patterns)
    return [sources] if isinstance(sources, str) else list(sources)


def is_published_config(values: Mapping[str, Any]) -> bool:
    """Whether config.json is the published flat one."""
    return (
        "text_config" not in values
        and values.get("model_type") in TEXT_TYPE_OF_PUBLISHED
        and "hidden_size" in values
    )


def translate_config(
    values: Mapping[str, Any], folder: str | os.PathLike[str] | None
) -> dict[str, Any]:
    """Our config's dictionary from a published flat one.

    The towers' geometry comes from the checkpoint's own weights, and what shapes cannot tell
    (CLIP's heads) from the tower's folder if there is one; without weights the published towers
    are assumed.

    Args:
        values: the flat config.json.
        folder: where it lies, if that is a folder.

    Raises:
        MGMError: the weights are unreadable or not those of a Mini-Gemini.
    """
    shapes = _shapes(folder)
    text = {name: value for name, value in values.items() if name not in _NOT_TEXT}
    text["model_type"] = TEXT_TYPE_OF_PUBLISHED[values["model_type"]]
    if "model.embed_tokens.weight" in shapes:
        text["vocab_size"] = shapes["model.embed_tokens.weight"][0]
    native = {
        ours: _or_default(values.get(name), default) for ours, (name, default) in FIELDS.items()
    }
    native |= {
        "model_type": "mgm",
        "text_config": text,
        "vision_config": _clip_config(shapes, values.get("mm_vision_tower"), folder),
        "vision_aux_config": _aux_config(shapes, values, folder),
        "architectures": ["MGMForConditionalGeneration"],
    }
    for name in ("torch_dtype", "dtype"):
        if name in values:
            native[name] = values[name]
    return native


def _or_default(value: object, default: object) -> object:
    return default if value is None else value


def _shapes(folder: str | os.PathLike[str] | None) -> dict[str, tuple[int, ...]]:
    if folder is None or not Path(folder).is_dir():
        return {}
    try:
        weight_files(folder)
    except MGMError:
        return {}  # a config without weights is still a config
    return weight_shapes(folder)


def _clip_config(
    shapes: Mapping[str, tuple[int, ...]], tower: str | None, folder: str | os.PathLike[str] | None
) -> dict[str, Any] | None:
    of_weights = _clip_from_shapes(shapes)
    of_folder = _tower_folder_config(tower, folder)
    if not of_weights:
        return of_folder
    if of_folder and all(of_folder.get(name, value) == value for name, value in of_weights.items()):
        return of_folder
    width = of_weights["hidden_size"]
    # CLIP's heads are 64 wide at every published size; below that only toy models exist.
    of_weights["num_attention_heads"] = width // 64 if width % 64 == 0 else max(width // 16, 1)
    return of_weights


def _clip_from_shapes(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    patch = shapes.get(_CLIP + "embeddings.patch_embedding.weight")
    if patch is None:
        return {}
    positions = shapes[_CLIP + "embeddings.position_embedding.weight"][0]
    layers = {
        name.removeprefix(_CLIP + "encoder.layers.").split(".")[0]
        for name in shapes
        if name.startswith(_CLIP + "encoder.layers.")
    }
    return {
        "hidden_size": patch[0],
        "patch_size": patch[-1],
        "image_size": round((positions - 1) ** 0.5) * patch[-1],
        "num_hidden_layers": len(layers),
        "intermediate_size": shapes[_CLIP + "encoder.layers.0.mlp.fc1.weight"][0],
    }


def _tower_folder_config(
    tower: str | None, folder: str | os.PathLike[str] | None
) -> dict[str, Any] | None:
    """config.json of the CLIP folder that the checkpoint names, wherever the path may start."""
    if not tower:
        return None
    starts = [Path(), *(Path(folder).resolve().parents if folder else ())]
    for start in starts:
        path = start / tower / "config.json"
        if path.is_file():
            values = read_json(path)
            values = values.get("vision_config", values)
            return {
                name: value
                for name, value in values.items()
                if name not in ("architectures", "torch_dtype")
            }
    return None


def _aux_config(
    shapes: Mapping[str, tuple[int, ...]],
    values: Mapping[str, Any],
    folder: str | os.PathLike[str] | None,
) -> dict[str, Any] | None:
    trunk = {}
    for name, shape in shapes.items():
        for beginning, ours in _AUX:
            if name.startswith(beginning):
                trunk[ours + name.removeprefix(beginning)] = shape
    if trunk:
        return convnext_geometry(trunk, str(folder))
    return {} if values.get("mm_vision_tower_aux") else None
