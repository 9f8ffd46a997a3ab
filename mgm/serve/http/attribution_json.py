"""What was mined, as JSON: weights as numbers of two bytes, pixels as a JPEG file."""

import base64
import io
from collections.abc import Sequence
from typing import Any

import numpy as np

from mgm.data.images.limits import NETWORK_LIMITS
from mgm.data.images.loading import open_image
from mgm.engine.attribution.mining_attribution import MiningAttribution
from mgm.errors import MGMError

DTYPE = "<f2"  # of the numbers: little-endian half precision


def encode_attribution(details: Sequence[MiningAttribution]) -> dict[str, Any]:
    """Details of every image, see `MiningAttribution`; arrays with their shapes, in base64."""
    return {"images": [_encode_image(detail) for detail in details]}


def decode_attribution(body: Any) -> list[MiningAttribution]:
    """The details that `encode_attribution` wrote.

    Raises:
        MGMError: it did not write that.
    """
    try:
        return [
            MiningAttribution(
                open_image(base64.b64decode(one["view"]), "the view", limits=NETWORK_LIMITS),
                int(one["grid"]),
                _decode_array(one["mining"]),
                None if one["answer"] is None else _decode_array(one["answer"]),
            )
            for one in body["images"]
        ]
    except (KeyError, TypeError, ValueError, OSError) as error:
        raise MGMError("the server told nothing of what was mined") from error


def _encode_image(detail: MiningAttribution) -> dict[str, Any]:
    view = io.BytesIO()
    detail.view.save(view, "JPEG", quality=92)
    return {
        "view": base64.b64encode(view.getvalue()).decode(),
        "grid": detail.grid,
        "mining": _encode_array(detail.mining),
        "answer": None if detail.answer is None else _encode_array(detail.answer),
    }


def _encode_array(array: np.ndarray) -> dict[str, Any]:
    content = array.astype(DTYPE).tobytes()
    return {"shape": list(array.shape), "float16": base64.b64encode(content).decode()}


def _decode_array(text: Any) -> np.ndarray:
    content = np.frombuffer(base64.b64decode(text["float16"]), DTYPE)
    return content.reshape(text["shape"]).astype(np.float32)
