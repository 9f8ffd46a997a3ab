"""Converts checkpoints between the published and the native layout; weights stay bit-identical."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import GenerationConfig

from mgm.errors import MGMError
from mgm.model.checkpoint.checkpoint import Checkpoint, read_checkpoint, stored_generation
from mgm.model.checkpoint.saved_files import CONFIG_FILE, ORIGINALS
from mgm.model.configuration_mgm import MGMConfig
from mgm.model.families import PUBLISHED_OF_TEXT_TYPE
from mgm.model.files.json_file import read_json
from mgm.model.files.lazy_tensor import LazyTensor
from mgm.model.files.safetensors_writer import write_shards
from mgm.model.published_layout.config_fields import (
    FIELDS,
    NON_TEXT_FIELDS,
    is_published_config,
    translate_config,
)
from mgm.model.published_layout.weight_names import to_published
from mgm.model.vision.fusion.fusion_config import DEFAULT_FUSION

MAX_SHARD_BYTES = 5 * 10**9

# Fields of a language model's config that do not affect the network.
_IGNORED_TEXT_FIELDS = frozenset(
    {
        "_name_or_path",
        "architectures",
        "chunk_size_feed_forward",
        "dtype",
        "id2label",
        "is_encoder_decoder",
        "label2id",
        "model_type",
        "output_attentions",
        "output_hidden_states",
        "problem_type",
        "return_dict",
        "transformers_version",
    }
)
# Fields of CLIP's config that define the network.
_CLIP_FIELDS = (
    "model_type",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "image_size",
    "patch_size",
    "hidden_act",
    "layer_norm_eps",
)
_CONVNEXT_FIELDS = (
    "depths",
    "dims",
    "kernel_sizes",
    "stem_type",
    "conv_mlp",
    "use_grn",
    "ls_init_value",
    "norm_layer",
    "layer_norm_eps",
    "hidden_act",
)
_PUBLISHED_TOWER = "model_zoo/OpenAI/clip-vit-large-patch14-336"
_PUBLISHED_TOWER_AUX = "model_zoo/OpenAI/openclip-convnext-large-d-320-laion2B-s29B-b131K-ft-soup"


@dataclass(frozen=True)
class Conversion:
    """A planned conversion of a checkpoint.

    Attributes:
        checkpoint: the source.
        layout: layout of the result, "native" or "published".
        tensors: the weights, none of them read yet, by their new names.
    """

    checkpoint: Checkpoint
    layout: str
    tensors: Mapping[str, LazyTensor]

    @property
    def nbytes(self) -> int:
        """Bytes of all weights."""
        return sum(tensor.nbytes for tensor in self.tensors.values())

    def lines(self) -> list[str]:
        """A line for each tensor: its name, its new name, shape and dtype."""
        return [
            f"{tensor.name} -> {name}  {list(tensor.shape)} {str(tensor.dtype)[6:]}"
            for name, tensor in self.tensors.items()
        ]


def plan_conversion(
    source: Path, layout: str, base: str | None = None, conversation: str | None = None
) -> Conversion:
    """Plan the conversion of a folder, without reading weights.

    Args:
        source: a checkpoint in any layout.
        layout: "native" or "published".
        base: base model, as for `read_checkpoint`.
        conversation: the template that readers of the published layout would use for its tokenizer.

    Raises:
        MGMError: the source is in that layout already, or has settings that the published layout
            cannot express; lists their names.
    """
    checkpoint = read_checkpoint(source, base)
    if is_published_config(read_json(source / CONFIG_FILE)) == (layout == "published"):
        raise MGMError(f"{source}: is in the {layout} layout already; give the other --to")
    tensors = checkpoint.tensors
    if layout == "published":
        if checkpoint.config.fusion != DEFAULT_FUSION:
            raise MGMError(
                f"{source}/{CONFIG_FILE}: fusion is {checkpoint.config.fusion.to_json()}; the "
                "published layout has patch info mining only, keep this model in the native one"
            )
        tensors = {to_published(name): tensor for name, tensor in tensors.items()}
        integers = [t for t in checkpoint.tensors.values() if not t.dtype.is_floating_point]
        if integers:
            raise MGMError(
                f"{integers[0].file}: {integers[0].name} has dtype {integers[0].dtype}; expected "
                "floating point, convert the model before quantising it"
            )
        unmapped = sorted(checkpoint.tensors.keys() & tensors.keys())
        if unmapped:
            raise MGMError(
                f"{source}: the published layout has no names for {', '.join(unmapped)}; "
                "only Mini-Gemini's own parts and a published language model can be converted"
            )
        _check_expressible(checkpoint, conversation)
    return Conversion(checkpoint, layout, tensors)


def generation_config(folder: Path, config: MGMConfig) -> GenerationConfig:
    """The generation config of a folder, or else one made from its model config."""
    return stored_generation(folder) or GenerationConfig.from_model_config(config.text_config)


def write_weights(conversion: Conversion, folder: Path, progress: Callable[[int], object]) -> None:
    """Write the weights in shards; `progress` is called with the bytes of each tensor."""
    write_shards(folder, conversion.tensors, MAX_SHARD_BYTES, progress)


def write_config(conversion: Conversion, folder: Path) -> None:
    """Write config.json of the layout."""
    checkpoint = conversion.checkpoint
    if conversion.layout == "native":
        checkpoint.config.save_pretrained(folder)
        return
    text = json.dumps(published_config(checkpoint), indent=2, sort_keys=True)
    (folder / CONFIG_FILE).write_text(text + "\n", encoding="utf-8")


def published_config(checkpoint: Checkpoint) -> dict[str, Any]:
    """The flat config.json of a native checkpoint.

    It is the original file, if the checkpoint was converted from it and no setting differs; else a
    new one.
    """
    config = checkpoint.config
    original = checkpoint.folder / ORIGINALS / CONFIG_FILE
    kept: dict[str, Any] = read_json(original) if original.is_file() else {}
    if kept and not _differences(kept, checkpoint):
        return kept
    settings = checkpoint.folder / "processor_config.json"
    processor = read_json(settings) if settings.is_file() else {}
    text = config.text_config.to_dict()
    rope = dict(text.pop("rope_parameters", None) or {})
    flat = {name: value for name, value in text.items() if name not in _IGNORED_TEXT_FIELDS}
    # transformers 4 has two fields instead of rope_parameters.
    if "rope_theta" in rope:
        flat["rope_theta"] = rope.pop("rope_theta")
    scaled = rope.pop("rope_type", "default")
    flat["rope_scaling"] = None if scaled == "default" else {"type": scaled, **rope}
    model_type = PUBLISHED_OF_TEXT_TYPE[config.text_config.model_type]
    flat |= {name: value for name, value in kept.items() if name in NON_TEXT_FIELDS}
    flat |= {published: getattr(config, ours) for ours, (published, _) in FIELDS.items()}
    flat |= {
        "architectures": [f"MGM{config.text_config.model_type.capitalize()}ForCausalLM"],
        "model_type": model_type,
        "mm_hidden_size": config.vision_config.hidden_size,
        "mm_vision_tower": kept.get("mm_vision_tower", _PUBLISHED_TOWER),
        "mm_use_im_start_end": bool(processor.get("wrap_images", False)),
        "mm_use_im_patch_token": False,
        "torch_dtype": str(checkpoint.dtype).removeprefix("torch."),
        "tokenizer_padding_side": kept.get("tokenizer_padding_side", "right"),
        "use_mm_proj": True,
    }
    if config.vision_aux_config is not None:
        flat["mm_hidden_size_aux"] = sum(config.vision_aux_config.dims)
        flat["mm_vision_tower_aux"] = kept.get("mm_vision_tower_aux", _PUBLISHED_TOWER_AUX)
    return flat


def _check_expressible(checkpoint: Checkpoint, conversation: str | None) -> None:
    """Raise an MGMError that lists the settings that the published layout cannot express."""
    config = checkpoint.config
    where = f"{checkpoint.folder}/{CONFIG_FILE}"
    kind = config.text_config.model_type
    if kind not in PUBLISHED_OF_TEXT_TYPE:
        raise MGMError(
            f"{where}: text_config.model_type is {kind!r}, which has no published form; valid: "
            f"{', '.join(map(str, PUBLISHED_OF_TEXT_TYPE))}"
        )
    lost = _differences(published_config(checkpoint), checkpoint)
    if config.conversation not in (None, conversation):
        lost.append(f"conversation {config.conversation!r} (would be {conversation!r})")
    if lost:
        raise MGMError(f"{where}: the published layout cannot express {'; '.join(lost)}")


def _differences(flat: Mapping[str, Any], checkpoint: Checkpoint) -> list[str]:
    """Settings that differ between the checkpoint's config and a translated flat config."""
    originals = checkpoint.folder / ORIGINALS
    folder = originals if originals.is_dir() else checkpoint.folder
    read = MGMConfig.from_dict(translate_config(flat, folder, checkpoint.tensors))
    ours, theirs = _network_settings(checkpoint.config), _network_settings(read)
    return [
        f"{name} {ours.get(name)!r} (would be {theirs.get(name)!r})"
        for name in sorted(ours.keys() | theirs.keys())
        if ours.get(name) != theirs.get(name)
    ]


def _network_settings(config: MGMConfig) -> dict[str, Any]:
    """The settings that define the network and its inputs, by dotted names."""
    settings = {name: getattr(config, name) for name in (*FIELDS, "image_token_id")}
    text = config.text_config.to_dict()
    settings["text_config.model_type"] = text["model_type"]
    settings |= {
        f"text_config.{n}": value for n, value in text.items() if n not in _IGNORED_TEXT_FIELDS
    }
    for name in _CLIP_FIELDS:
        settings[f"vision_config.{name}"] = getattr(config.vision_config, name)
    aux = config.vision_aux_config
    for name in _CONVNEXT_FIELDS:
        settings[f"vision_aux_config.{name}"] = None if aux is None else getattr(aux, name)
    return settings
