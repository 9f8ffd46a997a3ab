"""ConvNeXt configuration from weight shapes: depths, widths, kernel sizes, stem."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mgm.errors import MGMError
from mgm.model.files.json_fields import shown
from mgm.model.vision.convnext_config import ConvNextTowerConfig

_XXLARGE_DIMS = [384, 768, 1536, 3072]


def convnext_geometry(shapes: Mapping[str, tuple[int, ...]], source: str) -> dict[str, Any]:
    """Infer fields of `ConvNextTowerConfig` from the weights' shapes.

    Kind and epsilon of the norms and the activation do not follow from shapes: they are those of
    OpenCLIP's models.

    Args:
        shapes: shapes of the weights, named `stem.…`, `stages.…`.
        source: where they come from, for the error.

    Raises:
        MGMError: these are not the weights of a four-stage ConvNeXt with 4 pixels a position.
    """
    blocks: list[set[str]] = [set(), set(), set(), set()]
    dims = [0, 0, 0, 0]
    kernel_sizes = [0, 0, 0, 0]
    for name, shape in shapes.items():
        match = re.match(r"stages\.([0-3])\.blocks\.(\d+)\.", name)
        if match:
            stage = int(match.group(1))
            blocks[stage].add(match.group(2))
            if name.endswith(".conv_dw.weight") and len(shape) == 4:
                dims[stage], kernel_sizes[stage] = shape[0], shape[-1]
    if 0 in dims:
        raise MGMError(
            f"{source}: has no four-stage ConvNeXt (stages.<0-3>.blocks.<n>.conv_dw.weight); "
            "give a folder of OpenCLIP or timm that does"
        )
    depths = [len(indices) for indices in blocks]
    for stage, indices in enumerate(blocks):
        if indices != {str(index) for index in range(len(indices))}:
            raise MGMError(
                f"{source}: has {len(indices)} blocks of stages.{stage}, and their numbers are "
                f"not 0 to {len(indices) - 1}; copy it again"
            )
    block = "stages.0.blocks.0."
    return {
        "depths": depths,
        "dims": dims,
        "kernel_sizes": kernel_sizes,
        # timm builds every ConvNeXt of OpenCLIP with eps 1e-6 but the largest one.
        "layer_norm_eps": 1e-5 if dims == _XXLARGE_DIMS else 1e-6,
        "stem_type": _stem_type(shapes, dims[0], source),
        "conv_mlp": len(shapes.get(block + "mlp.fc1.weight", ())) == 4,
        "use_grn": block + "mlp.grn.weight" in shapes,
        "ls_init_value": 1e-6 if block + "gamma" in shapes else None,
    }


def check_convnext_sizes(
    config: ConvNextTowerConfig, shapes: Mapping[str, tuple[int, ...]], file: Path
) -> None:
    """Check a ConvNeXt's config against the shapes of its weights.

    Args:
        config: config of the tower.
        shapes: as for `convnext_geometry`; none where there are no weights.
        file: where the config comes from, for the message.

    Raises:
        MGMError: a size differs; names file, field and value, and the size in the weights.
    """
    geometry = convnext_geometry(shapes, str(file)) if shapes else {}
    for field in ("depths", "dims", "kernel_sizes"):
        value = getattr(config, field)
        if list(geometry.get(field, value)) != list(value):
            raise MGMError(
                f"{file}: vision_aux_config.{field} is {shown(value)}, and the weights have "
                f"{geometry[field]}; copy both from one model"
            )


def _stem_type(shapes: Mapping[str, tuple[int, ...]], width: int, source: str) -> str:
    """timm's name of the stem: one convolution of stride 4, or two of stride 2."""
    stem = shapes.get("stem.0.weight", (width, 3, 4, 4))
    if len(stem) != 4:
        raise MGMError(f"{source}: stem.0.weight has shape {stem}; expected 4 dimensions")
    channels, *_, kernel = stem
    if kernel == 4:
        return "patch"
    if kernel != 3:
        raise MGMError(
            f"{source}: stem.0.weight has a kernel of {kernel} pixels; expected 4 (or 3, of an "
            "overlapping stem), give a ConvNeXt with 4 pixels a position"
        )
    if "stem.3.weight" in shapes:  # an activation between the convolutions
        return "overlap_act"
    return "overlap" if channels == width else "overlap_tiered"
