"""What pages, controllers and workers say to one another, as published; and how long they wait."""

import json
from typing import Any

HEART_BEAT = 15.0  # seconds between two of a worker
EXPIRATION = 30.0  # seconds after the last of them in which a controller forgets a worker

FAULT, NO_WORKER, WORKER_GONE = 1, 2, 3  # error_code of a frame; 0 is none


def frame(text: str, error_code: int = 0, **more: Any) -> bytes:
    """A piece of a published stream: JSON and a NUL.

    Args:
        text: all there is so far, prompt and answer; or what went wrong.
        error_code: 0, or one of the above.
        **more: further fields, which old pages ignore.
    """
    content = {"text": text, "error_code": error_code} | more
    return json.dumps(content, ensure_ascii=False).encode() + b"\0"
