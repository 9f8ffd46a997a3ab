"""Validation rules for the fields of model configs, from files that are not trusted.

The upper limits are far above every existing model: they stop a damaged number from taking all
memory or time before it is compared with the weights.
"""

import math
import re
from collections.abc import Mapping
from typing import Any

from transformers import PretrainedConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from mgm.errors import MGMError
from mgm.model.files.json_fields import (
    BOOLEAN,
    TEXT,
    TOKEN_ID,
    TOKEN_IDS,
    Rule,
    check_fields,
    either,
    integer,
    list_of,
    not_empty,
    number,
    optional,
    shortened,
    shown,
)

MAX_IMAGE_SIZE = 16384  # pixels per side
MAX_IMAGE_GRID = 64  # crops per side
MAX_LAYERS = 10_000
_MAX_LABELS = 10**5  # transformers names each
_MAX_COUNT = 10**7
_MAX_WIDTH = 2**24
_MAX_POSITIONS = 10**8

_WIDTH = integer(1, _MAX_WIDTH)
_HEADS = integer(1, 2**16)
_EPSILON = number(0, 1, above=True)
_SHARE = number(0, 1)
IMAGE_MEAN = list_of(number(-1e3, 1e3), 3)
IMAGE_STD = list_of(number(0, 1e3, above=True), 3)
_NORMALISATION = {"image_mean": optional(IMAGE_MEAN), "image_std": optional(IMAGE_STD)}
_END_IDS = not_empty(TOKEN_IDS)
# Compat: the first LLaMA checkpoints pad with -1.
_PAD_ID = optional(either(TOKEN_ID, integer(-1, -1)))
_OBJECT = Rule(lambda value: isinstance(value, Mapping), "an object")

# Fields of every config. transformers' other common fields do not change outputs.
COMMON_RULES: Mapping[str, Rule] = {
    "output_attentions": optional(BOOLEAN),
    "output_hidden_states": optional(BOOLEAN),
    "return_dict": Rule(lambda value: value is True, "true"),  # a tuple has no field names
    "is_encoder_decoder": Rule(lambda value: value is False, "false"),
    "num_labels": integer(0, _MAX_LABELS),
}
# Names of counts without a rule of their own: models often build a module for each.
_LAYER_COUNT = re.compile(r".*(layers|blocks|modules|repeats|stages|depths?)")
_COUNT = re.compile(r"(.*_)?(num|n)_.*|.*(experts|heads|groups|types|replace)")
_EVERY_TRANSFORMER: Mapping[str, Rule] = {
    **COMMON_RULES,
    "hidden_size": _WIDTH,
    "num_hidden_layers": integer(1, MAX_LAYERS),
    "num_attention_heads": _HEADS,
    "head_dim": optional(integer(1, 2**16)),
    "hidden_act": optional(TEXT),
    "layer_norm_eps": _EPSILON,
    "attention_dropout": _SHARE,
    "initializer_range": number(0),
}

TEXT_RULES: Mapping[str, Rule] = {
    **_EVERY_TRANSFORMER,
    "vocab_size": integer(1, 10**8),
    "intermediate_size": not_empty(
        either(_WIDTH, list_of(_WIDTH))
    ),  # of each layer, in some models
    "num_key_value_heads": optional(_HEADS),
    "max_position_embeddings": integer(1, _MAX_POSITIONS),
    "num_local_experts": integer(1, 1024),
    "num_experts_per_tok": integer(1, 1024),
    "sliding_window": optional(integer(1)),
    "rms_norm_eps": _EPSILON,
    "rope_theta": number(0, 1e12, above=True),
    "partial_rotary_factor": number(0, 1, above=True),
    "rope_scaling": optional(_OBJECT),
    "rope_parameters": optional(_OBJECT),
    "tie_word_embeddings": BOOLEAN,
    "attention_bias": BOOLEAN,
    "mlp_bias": BOOLEAN,
    "use_cache": BOOLEAN,
    "bos_token_id": TOKEN_IDS,
    "eos_token_id": _END_IDS,
    "pad_token_id": _PAD_ID,
}
# Fields of `MGMConfig`.
MGM_RULES: Mapping[str, Rule] = {
    "model_max_length": optional(integer(1)),
    "image_grid": integer(1, MAX_IMAGE_GRID),
    "image_size_aux": integer(1, MAX_IMAGE_SIZE),
    "image_global": BOOLEAN,
    "image_token_id": TOKEN_ID,
    "conversation": optional(TEXT),
    "optimize_vision_tower": BOOLEAN,
    "optimize_vision_tower_aux": BOOLEAN,
    "tie_word_embeddings": BOOLEAN,
}
# Fields of the published layout: folders of both towers.
TOWER_RULES: Mapping[str, Rule] = {
    "mm_vision_tower": optional(TEXT),
    "mm_vision_tower_aux": optional(TEXT),
}
# Class attributes of transformers' configs that control how a config is read.
_CLASS_ATTRIBUTES = ("attribute_map", "sub_configs", "sub_configs_defaults")
# Numbers of `rope_parameters`, or `rope_scaling` before transformers 5.
_ROPE_RULES: Mapping[str, Rule] = {
    "rope_theta": number(0, 1e12, above=True),
    "factor": optional(number(0, above=True)),
    "partial_rotary_factor": number(0, 1, above=True),
    "original_max_position_embeddings": optional(integer(1, _MAX_POSITIONS)),
    "attention_factor": optional(number(0, above=True)),
    "beta_fast": optional(number(0)),
    "beta_slow": optional(number(0)),
    "low_freq_factor": number(0, above=True),
    "high_freq_factor": number(0, above=True),
    "short_factor": list_of(number(0, above=True)),
    "long_factor": list_of(number(0, above=True)),
}
VISION_RULES: Mapping[str, Rule] = {
    **_EVERY_TRANSFORMER,
    **_NORMALISATION,
    "intermediate_size": _WIDTH,
    "image_size": integer(1, MAX_IMAGE_SIZE),
    "patch_size": integer(1, MAX_IMAGE_SIZE),
    "num_channels": integer(3, 3),
}
CONVNEXT_RULES: Mapping[str, Rule] = {
    **COMMON_RULES,
    **_NORMALISATION,
    "depths": optional(list_of(integer(1, MAX_LAYERS), 4)),
    "dims": optional(list_of(_WIDTH, 4)),
    "kernel_sizes": optional(list_of(integer(1, 255), 4)),
    "layer_norm_eps": _EPSILON,
    "drop_path_rate": _SHARE,
    "hidden_act": TEXT,
    "stem_type": TEXT,
    "norm_layer": TEXT,
    "conv_mlp": BOOLEAN,
    "use_grn": BOOLEAN,
    "ls_init_value": optional(number(0)),
}
# Compat: published files disable sampling options by neutral values, or null.
GENERATION_RULES: Mapping[str, Rule] = {
    "bos_token_id": TOKEN_IDS,
    "eos_token_id": _END_IDS,
    "pad_token_id": _PAD_ID,
    "suppress_tokens": TOKEN_IDS,
    "begin_suppress_tokens": TOKEN_IDS,
    "max_length": optional(integer(1)),
    "max_new_tokens": optional(integer(1)),
    "min_length": optional(integer(0)),
    "min_new_tokens": optional(integer(0)),
    "num_beams": optional(integer(1)),
    "num_return_sequences": optional(integer(1)),
    "no_repeat_ngram_size": optional(integer(0)),
    "top_k": optional(integer(0)),
    "temperature": optional(number(0)),
    "top_p": optional(_SHARE),
    "min_p": optional(_SHARE),
    "typical_p": optional(_SHARE),
    "repetition_penalty": optional(number(0, above=True)),
    "length_penalty": optional(number(-1e6)),
    "do_sample": optional(BOOLEAN),
    "use_cache": optional(BOOLEAN),
}


def check_text_config(values: Mapping[str, Any], prefix: str = "") -> None:
    """Check the values of a language model's config.

    Args:
        values: dictionary of the config.
        prefix: before the field names in the message.

    Raises:
        MGMError: a value is not valid; names the field, `config_errors` adds the file.
    """
    check_fields(values, TEXT_RULES, "config", prefix)
    for name in ("rope_parameters", "rope_scaling"):
        rope = values.get(name) or {}
        # One object, or one for each type of layer.
        inner = {f"{shortened(k)}.": v for k, v in rope.items() if isinstance(v, Mapping)}
        parts = {"": rope} | inner
        for kind, part in parts.items():
            check_fields(part, _ROPE_RULES, "config", f"{prefix}{name}.{kind}")
    heads, shared = values.get("num_attention_heads"), values.get("num_key_value_heads")
    if heads is not None and shared is not None and heads % shared:
        raise MGMError(
            f"config: {prefix}num_key_value_heads is {shared}; valid: a divisor of "
            f"num_attention_heads, {heads}"
        )
    pad, rows = values.get("pad_token_id"), values.get("vocab_size")
    if pad is not None and rows is not None and pad >= rows:
        raise MGMError(
            f"config: {prefix}pad_token_id is {pad}; valid: below the vocab_size, {rows}, or null"
        )
    _check_others(values, TEXT_RULES, prefix)


def check_rope_scaling(scaling: object) -> None:
    """Check that transformers knows the type of a published rope_scaling.

    Raises:
        MGMError: a value is not valid; names the field, `config_errors` adds the file.
    """
    kind = None
    if isinstance(scaling, Mapping):
        kind = scaling.get("rope_type", scaling.get("type"))
    if scaling is not None and kind not in ROPE_INIT_FUNCTIONS:
        raise MGMError(
            f"config: rope_scaling is {shown(scaling)}; valid: null, or an object whose type is "
            f"one of {', '.join(ROPE_INIT_FUNCTIONS)}"
        )


def check_vision_config(values: Mapping[str, Any], prefix: str = "") -> None:
    """Check the values of a ViT's config."""
    check_fields(values, VISION_RULES, "config", prefix)
    size, patch = values.get("image_size"), values.get("patch_size")
    if size is not None and patch is not None and patch > size:
        raise MGMError(
            f"config: {prefix}patch_size is {patch}; valid: at most the image_size, {size}"
        )
    _check_others(values, VISION_RULES, prefix)


def check_convnext_config(values: Mapping[str, Any], prefix: str = "") -> None:
    """Check the values of a ConvNeXt's config."""
    check_fields(values, CONVNEXT_RULES, "config", prefix)
    _check_others(values, CONVNEXT_RULES, prefix)


def check_field_names(values: Mapping[str, Any], prefix: str = "") -> None:
    """Refuse fields that would override methods or class attributes of transformers' configs.

    Raises:
        MGMError: a value is not valid; names the field, `config_errors` adds the file.
    """
    for name in values:
        if name in _CLASS_ATTRIBUTES or callable(getattr(PretrainedConfig, name, None)):
            raise MGMError(f"config: {prefix}{shortened(name)} is not a field; remove it")


def _check_others(values: Mapping[str, Any], rules: Mapping[str, Rule], prefix: str) -> None:
    """Check names and numbers of all fields, those without a rule too."""
    check_field_names(values, prefix)
    for name, value in values.items():
        _check_numbers(value, f"{prefix}{shortened(name)}", None if name in rules else name)


def _check_numbers(value: object, path: str, name: str | None = None) -> None:
    """Refuse NaN anywhere, which makes every output NaN, and counts that are too large.

    Args:
        value: value of a field.
        path: path of the field, for the message.
        name: name of the field if it has no rule, else None.
    """
    if isinstance(value, float) and math.isnan(value):
        raise MGMError(f"config: {path} is {shown(value)}; valid: a number")
    if isinstance(value, int) and name is not None:
        limit = MAX_LAYERS if _LAYER_COUNT.fullmatch(name) else _MAX_COUNT
        if value > limit and (limit == MAX_LAYERS or _COUNT.fullmatch(name)):
            raise MGMError(f"config: {path} is {shown(value)}; valid: an integer up to {limit}")
    pairs: Any = value.items() if isinstance(value, Mapping) else ()
    if isinstance(value, list | tuple):
        pairs = enumerate(value)
    for key, item in pairs:
        _check_numbers(item, f"{path}.{shortened(str(key))}", key if isinstance(key, str) else name)
