"""Translates the flat config.json of published checkpoints to `MGMConfig`'s fields."""

import logging
import os
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mgm.errors import MGMError
from mgm.model.config_checks.rules import TOWER_RULES, check_rope_scaling, check_vision_config
from mgm.model.families import TEXT_TYPE_OF_PUBLISHED, is_mini_gemini
from mgm.model.files.json_fields import check_fields, is_text, shown
from mgm.model.files.json_file import config_errors, is_present, read_json
from mgm.model.files.lazy_tensor import LazyTensor
from mgm.model.files.tokenizer_files import max_token_id
from mgm.model.files.weight_files import has_weights, read_folder
from mgm.model.published_layout.weight_names import native_tensors, to_published
from mgm.model.vision.convnext_shapes import convnext_geometry

logger = logging.getLogger(__name__)

# By native name: the published name, and the value when it is absent.
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

# Published fields that do not belong to the language model's config.
NON_TEXT_FIELDS = frozenset(name for name, _ in FIELDS.values()) | {
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
    "quantization_config",
    "tokenizer_padding_side",
    "transformers_version",
    "tune_mm_mlp_adapter",
    "use_mm_proj",
}

_CLIP_LAYERS = "vision_tower.encoder.layers."


def is_published_config(values: Mapping[str, Any]) -> bool:
    """Whether config.json is the published flat one."""
    return "text_config" not in values and is_mini_gemini(values) and "hidden_size" in values


@contextmanager
def published_field_names() -> Generator[None]:
    """Rename fields in errors within the block to those of the published config.json."""
    try:
        yield
    except MGMError as error:
        text = str(error)
        for ours, (published, _) in FIELDS.items():
            text = text.replace(f": {ours} is ", f": {published} is ")
        text = text.replace(": text_config.", ": ")
        raise MGMError(text) from error


def translate_config(
    values: Mapping[str, Any],
    folder: str | os.PathLike[str] | None,
    tensors: Mapping[str, LazyTensor] | None = None,
) -> dict[str, Any]:
    """Translate a published flat config to the dictionary of an `MGMConfig`.

    A tower's config comes from the folder that the flat config names, if it exists, else from the
    weights' shapes; what shapes do not determine (CLIP's heads) is as in the published towers. The
    log says which.

    Args:
        values: the flat config.json.
        folder: folder of the file, or None.
        tensors: the checkpoint's, by native names; None: those in the folder, if any.

    Raises:
        MGMError: the weights are unreadable, not those of a Mini-Gemini, or contradict the config.
    """
    check_fields(values, TOWER_RULES, "config")
    if tensors is None:
        tensors = _tensors(folder)
    text = {name: value for name, value in values.items() if name not in NON_TEXT_FIELDS}
    text["model_type"] = TEXT_TYPE_OF_PUBLISHED[values["model_type"]]
    check_rope_scaling(text.get("rope_scaling"))
    embeddings = tensors.get("language_model.model.embed_tokens.weight")
    if embeddings is not None:
        rows, configured = _sizes(embeddings, 2)[0], values.get("vocab_size")
        _check_head(embeddings, tensors.get("language_model.lm_head.weight"))
        if configured not in (None, rows):
            raise MGMError(
                f"config: vocab_size is {shown(configured)}, and {embeddings.name} in "
                f"{embeddings.file} has {rows} rows; expected the same, correct config.json or "
                "copy the weights"
            )
        text["vocab_size"] = rows
    native = {
        ours: _or_default(values.get(name), default) for ours, (name, default) in FIELDS.items()
    }
    native |= {
        "model_type": "mgm",
        "text_config": text,
        "vision_config": _clip_config(tensors, values, folder),
        "vision_aux_config": _aux_config(tensors, values),
        "architectures": ["MGMForConditionalGeneration"],
    }
    highest = -1 if folder is None else max_token_id(Path(folder))
    if text.get("vocab_size") is not None and highest >= text["vocab_size"]:
        native["image_token_id"] = highest + 1  # must not be an id of the tokenizer
    for name in ("torch_dtype", "dtype"):
        if name in values:
            native[name] = values[name]
    return native


def _check_head(embeddings: LazyTensor, head: LazyTensor | None) -> None:
    if head is not None and head.shape != embeddings.shape:
        raise MGMError(
            f"{embeddings.file}: {embeddings.name} has shape {embeddings.shape}, and {head.name} "
            f"in {head.file} has {head.shape}; expected one shape, copy both from one model"
        )


def _or_default(value: object, default: object) -> object:
    return default if value is None else value


def _tensors(folder: str | os.PathLike[str] | None) -> dict[str, LazyTensor]:
    if folder is None or not has_weights(folder):
        return {}  # weights are optional
    return native_tensors(read_folder(folder))


def find_referenced_folder(
    name: str | None, folder: str | os.PathLike[str] | None, file: str
) -> Path | None:
    """Resolve a folder that a published config names and that has `file`; None: not found.

    Compat: published paths are relative to where training ran, such as `model_zoo/OpenAI/...`; they
    are tried from the working directory and from every folder above the checkpoint's.
    """
    if not name:
        return None
    if not is_text(name):
        raise MGMError(f"config: names the folder {shown(name)}; expected a path")
    starts = [Path(), *(Path(folder).resolve().parents if folder else ())]
    candidates = (start / name for start in starts)
    return next((path for path in candidates if is_present(path / file)), None)


def _clip_config(
    tensors: Mapping[str, LazyTensor],
    values: Mapping[str, Any],
    folder: str | os.PathLike[str] | None,
) -> dict[str, Any] | None:
    shapes_config = _clip_from_shapes(tensors)
    width = values.get("mm_hidden_size")
    if shapes_config and width not in (None, shapes_config["hidden_size"]):
        raise MGMError(
            f"config: mm_hidden_size is {shown(width)}; expected {shapes_config['hidden_size']}, "
            "the width of the CLIP in the weights, copy both from one model"
        )
    tower = find_referenced_folder(values.get("mm_vision_tower"), folder, "config.json")
    folder_config = None if tower is None else _tower_config(tower)
    if not shapes_config and tensors:
        raise _no_tower("mm_vision_tower", values, "model.vision_tower.vision_tower", tensors)
    if not shapes_config:
        logger.info("CLIP's geometry: %s", f"as {tower} says" if tower else "the published one")
        return folder_config
    differing = [
        f"{name} {shown(folder_config.get(name))} (weights: {value})"
        for name, value in shapes_config.items()
        if folder_config and folder_config.get(name, value) != value
    ]
    if differing:
        logger.warning(
            "%s/config.json is not that of this checkpoint's CLIP: %s; it is left out",
            tower,
            ", ".join(differing),
        )
    elif folder_config:
        logger.info("CLIP's geometry: as %s says", tower)
        return folder_config
    width = shapes_config["hidden_size"]
    # CLIP's heads are 64 wide at every published size; below that only toy models exist.
    shapes_config["num_attention_heads"] = width // 64 if width % 64 == 0 else max(width // 16, 1)
    logger.info(
        "CLIP's geometry: from the weights' shapes, %s heads as in published towers of that width",
        shapes_config["num_attention_heads"],
    )
    return shapes_config


def _clip_from_shapes(tensors: Mapping[str, LazyTensor]) -> dict[str, Any]:
    patch = tensors.get("vision_tower.embeddings.patch_embedding.weight")
    if patch is None:
        return {}
    layers = {
        name.removeprefix(_CLIP_LAYERS).split(".")[0]
        for name in tensors
        if name.startswith(_CLIP_LAYERS)
    }
    try:
        positions, _ = _sizes(tensors["vision_tower.embeddings.position_embedding.weight"], 2)
        intermediate, _ = _sizes(tensors[_CLIP_LAYERS + "0.mlp.fc1.weight"], 2)
    except KeyError as error:
        missing = to_published(str(error.args[0]))
        raise MGMError(f"{patch.file}: lacks {missing}; give a complete checkpoint") from error
    width, _, _, patch_size = _sizes(patch, 4)
    return {
        "hidden_size": width,
        "patch_size": patch_size,
        "image_size": round((positions - 1) ** 0.5) * patch_size,
        "num_hidden_layers": len(layers),
        "intermediate_size": intermediate,
    }


def _sizes(tensor: LazyTensor, count: int) -> tuple[int, ...]:
    """A tensor's shape, after a check that it has `count` dimensions."""
    if len(tensor.shape) != count:
        raise MGMError(
            f"{tensor.file}: {tensor.name} has shape {tensor.shape}; expected {count} dimensions, "
            "copy it again"
        )
    return tensor.shape


def _tower_config(folder: Path) -> dict[str, Any]:
    file = folder / "config.json"
    values = read_json(file)
    values = values.get("vision_config", values)
    if not isinstance(values, dict):
        raise MGMError(f"{file}: vision_config is {shown(values)}; valid: an object")
    with config_errors(file):
        check_vision_config(values)
    return {
        name: value
        for name, value in values.items()
        if name not in ("architectures", "torch_dtype")
    }


def _aux_config(
    tensors: Mapping[str, LazyTensor], values: Mapping[str, Any]
) -> dict[str, Any] | None:
    trunk = {
        name.removeprefix("vision_tower_aux."): tensor.shape
        for name, tensor in tensors.items()
        if name.startswith("vision_tower_aux.")
    }
    if not trunk and tensors and values.get("mm_vision_tower_aux"):
        raise _no_tower("mm_vision_tower_aux", values, "model.vision_tower_aux", tensors)
    if not trunk:
        return {} if values.get("mm_vision_tower_aux") else None
    geometry = convnext_geometry(trunk, "the checkpoint")
    width = values.get("mm_hidden_size_aux")
    if width not in (None, sum(geometry["dims"])):
        raise MGMError(
            f"config: mm_hidden_size_aux is {shown(width)}; expected {sum(geometry['dims'])}, the "
            f"sum of the weights' ConvNeXt widths {geometry['dims']}, copy both from one model"
        )
    return geometry


def _no_tower(
    field: str, values: Mapping[str, Any], names: str, tensors: Mapping[str, LazyTensor]
) -> MGMError:
    folder = next(iter(tensors.values())).file.parent
    return MGMError(
        f"config: {field} is {shown(values.get(field))}, and the weights in {folder} have no such "
        f"tower (expected {names}.*); none is taken from elsewhere, give a complete checkpoint"
    )
