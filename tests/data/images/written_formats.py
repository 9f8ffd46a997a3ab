"""Which image formats the installed Pillow writes: AVIF came with 11.3."""

import pytest
from PIL import Image


def skip_unless_written(form: str) -> None:
    """Skip a test that writes images of this format where Pillow cannot."""
    Image.init()
    if form not in Image.SAVE:
        pytest.skip(f"this Pillow writes no {form}")
