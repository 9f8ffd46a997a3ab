"""What was mined, as JSON: weights as numbers of two bytes, pixels as a JPEG file."""

import base64
import io
from collections.abc import Sequence
from typing import Any

import numpy as np

from mgm.data.images.limits import NETWORK_LIMITS
from mgm.data.images.loading import open_image
from mgm.engine.attribution.mining import MinedDetail
from mgm.errors import MGMError

KIND = "<f2"  # of the numbers: little-endian half precision


def mined_body(details: Sequence[MinedDetail]) -> dict[str, Any]:
    """Details of every image, see `MinedDetail`; arrays with their shapes, in base64."""
    return {"images": [_written(detail) for detail in details]}


def read_mined_body(body: Any) -> list[MinedDetail]:
    """The details that `mined_body` wrote.

    Raises:
        MGMError: it did not write that.
    """
    try:
        return [
            MinedDetail(
                open_image(base64.b64decode(one["view"]), "the view", limits=NETWORK_LIMITS),
                int(one["grid"]),
                _array(one["mining"]),
                None if one["answer"] is None else _array(one["answer"]),
            )
            for one in body["images"]
        ]
    except (KeyError, TypeError, ValueError, OSError) as error:
        raise MGMError("the server told nothing of what was mined") from error


def _written(detail: MinedDetail) -> dict[str, Any]:
    view = io.BytesIO()
    detail.view.save(view, "JPEG", quality=92)
    return {
        "view": base64.b64encode(view.getvalue()).decode(),
        "grid": detail.grid,
        "mining": _text(detail.mining),
        "answer": None if detail.answer is None else _text(detail.answer),
    }


def _text(array: np.ndarray) -> dict[str, Any]:
    content = array.astype(KIND).tobytes()
    return {"shape": list(array.shape), "float16": base64.b64encode(content).decode()}


def _array(text: Any) -> np.ndarray:
    content = np.frombuffer(base64.b64decode(text["float16"]), KIND)
    return content.reshape(text["shape"]).astype(np.float32)
