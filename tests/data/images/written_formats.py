"""Image formats that the installed Pillow can write; AVIF since 11.3."""

import pytest
from PIL import Image


def skip_unless_written(form: str) -> None:
    """Skip a test if Pillow cannot write this format."""
    Image.init()
    if form not in Image.SAVE:
        pytest.skip(f"this Pillow writes no {form}")
