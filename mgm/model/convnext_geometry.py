"""What the shapes of a ConvNeXt's weights say about it."""

import re
from collections.abc import Mapping
from typing import Any

from mgm.errors import MGMError

_XXLARGE_DIMS = [384, 768, 1536, 3072]


def convnext_geometry(shapes: Mapping[str, tuple[int, ...]], source: str) -> dict[str, Any]:
    """Depths, dims and layer_norm_eps of a ConvNeXt, for `ConvNextTowerConfig`.

    Args:
        shapes: of the weights, named `stem.…`, `stages.…`.
        source: where they come from, for the error.

    Raises:
        MGMError: these are not the weights of a four-stage ConvNeXt.
    """
    depths = [0, 0, 0, 0]
    dims = [0, 0, 0, 0]
    for name, shape in shapes.items():
        match = re.fullmatch(r"stages\.([0-3])\.blocks\.(\d+)\.conv_dw\.weight", name)
        if match:
            stage = int(match.group(1))
            depths[stage] = max(depths[stage], int(match.group(2)) + 1)
            dims[stage] = shape[0]
    if 0 in depths:
        raise MGMError(
            f"{source}: holds no four-stage ConvNeXt (stages.<0-3>.blocks.<n>.conv_dw.weight); "
            "give a folder of OpenCLIP that does"
        )
    # timm builds every ConvNeXt with eps 1e-6 but the largest one.
    eps = 1e-5 if dims == _XXLARGE_DIMS else 1e-6
    return {"depths": depths, "dims": dims, "layer_norm_eps": eps}
