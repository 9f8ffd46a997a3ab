"""Validation of an `MGMConfig`: each field, and whether towers, grid and projector fit together."""

import re
from typing import Any

from mgm.errors import MGMError
from mgm.model.config_checks.rules import MGM_RULES
from mgm.model.files.json_fields import shown

STEM_STRIDE = 4  # pixels per position of the finest ConvNeXt stage
PROJECTOR_TYPES = "linear, mlpNx_gelu (N from 1 to 99, for instance mlp2x_gelu), identity"


def check_mgm_config(config: Any) -> None:
    """Check every field of an `MGMConfig`.

    Raises:
        MGMError: names the first invalid field, its value and the valid ones.
    """
    _check_vision_tower(config)
    _check_projector(config)
    for name, rule in MGM_RULES.items():
        value = getattr(config, name)
        require(rule.accepts(value), name, value, rule.valid)
    _check_image_preparation(config)
    config.fusion.check_model(config)
    if config.vision_aux_config is not None:
        _check_high_resolution(config)


def require(holds: bool, field: str, value: object, valid: str) -> None:
    """Raise an MGMError that says what is valid, unless the condition holds."""
    if not holds:
        raise MGMError(f"config: {field} is {shown(value)}; valid: {valid}")


def _check_vision_tower(config: Any) -> None:
    layers = config.vision_config.num_hidden_layers
    feature_layer = config.vision_feature_layer
    require(
        type(feature_layer) is int and -layers - 1 <= feature_layer <= layers,
        "vision_feature_layer",
        feature_layer,
        f"an integer from {-layers - 1} to {layers}, the tower has {layers} layers",
    )
    select = config.vision_feature_select
    require(select == "patch", "vision_feature_select", select, "patch")
    require(
        config.vision_config.patch_size <= config.image_size,
        "vision_config.patch_size",
        config.vision_config.patch_size,
        f"at most the image_size, {config.image_size}",
    )


def _check_projector(config: Any) -> None:
    kind = config.projector_type
    require(
        re.fullmatch(r"linear|identity|mlp[1-9]\d?x_gelu", str(kind)) is not None,
        "projector_type",
        kind,
        PROJECTOR_TYPES,
    )
    width, text_width = config.vision_config.hidden_size, config.text_config.hidden_size
    require(
        kind != "identity" or width == text_width,
        "projector_type",
        kind,
        f"another type, since tokens of width {width} do not fit the language model's {text_width}",
    )


def _check_image_preparation(config: Any) -> None:
    require(
        config.image_grid > 1 or not config.image_global,
        "image_global",
        config.image_global,
        "false, or image_grid 2 or more: with one cell the global view is that cell",
    )
    aspect_ratio = config.image_aspect_ratio
    require(aspect_ratio in ("pad", "square"), "image_aspect_ratio", aspect_ratio, "pad, square")


def _check_high_resolution(config: Any) -> None:
    """Check that the finest map that is used divides into one window for each token."""
    finest = config.fusion.used_stages(len(config.vision_aux_config.dims))[0]
    stride = STEM_STRIDE * 2 ** (finest - 1)
    multiple = stride * config.tokens_per_side * config.image_grid
    below = config.image_size_aux // multiple * multiple
    nearest = f"{below} or {below + multiple}" if below else str(multiple)
    require(
        config.image_size_aux % multiple == 0,
        "image_size_aux",
        config.image_size_aux,
        f"a multiple of {multiple}, the nearest {nearest}, so that the map divides into a "
        f"window for each token ({stride} pixels per position x "
        f"{config.tokens_per_side} tokens per side x image_grid {config.image_grid})",
    )
