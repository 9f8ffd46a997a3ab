"""Which images from the network a worker decodes."""

import base64
import io

import pytest
from PIL import Image

import mgm
from mgm import MGMError
from mgm.data.images.limits import NETWORK_LIMITS
from mgm.serve.worker.image_fetcher import ImageFetcher
from mgm.serve.worker.worker import Worker
from tests.tiny_model import build


@pytest.mark.parametrize("kind", ["PPM", "EPS", "ICO"])
def test_disabled_image_formats(kind):
    file = io.BytesIO()
    Image.new("RGB", (32, 32)).save(file, kind)
    with pytest.raises(MGMError, match=r"^image 1: .*(is not an image of these|PostScript is)"):
        ImageFetcher().decode(base64.b64encode(file.getvalue()).decode(), "image 1")


def test_limits_apply_to_engine_and_tools(tmp_path):
    worker = Worker(mgm.load(build(tmp_path / "tiny"), device="cpu"), ("tiny",))
    try:
        assert worker.engine.images.limits is NETWORK_LIMITS
        with pytest.raises(MGMError, match="is not an image of these formats"):
            worker.tools.recognize_text([b"P5 1 1 255\n\0"])
    finally:
        worker.engine.stop()
