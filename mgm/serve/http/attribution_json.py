"""Attribution of an answer as JSON: attention weights as float16, the image as JPEG."""

import base64
import io
from collections.abc import Sequence
from typing import Any

import numpy as np

from mgm.data.images.limits import NETWORK_LIMITS
from mgm.data.images.loading import open_image
from mgm.engine.attribution.mining_attribution import MiningAttribution
from mgm.errors import MGMError

DTYPE = "<f2"  # little-endian float16


def encode_attribution(details: Sequence[MiningAttribution]) -> dict[str, Any]:
    """Encode the body of /v1/attribution: per image, arrays as shapes and base64 content."""
    return {"images": [_encode_image(detail) for detail in details]}


def decode_attribution(body: Any) -> list[MiningAttribution]:
    """Parse the body of /v1/attribution.

    Raises:
        MGMError: the body is malformed.
    """
    try:
        return [
            MiningAttribution(
                open_image(base64.b64decode(image["view"]), "view", limits=NETWORK_LIMITS),
                int(image["grid"]),
                _decode_array(image["mining"]),
                None if image["answer"] is None else _decode_array(image["answer"]),
            )
            for image in body["images"]
        ]
    except (KeyError, TypeError, ValueError, OSError) as error:
        raise MGMError("the server sent a malformed attribution") from error


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
