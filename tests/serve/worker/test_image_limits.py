"""What a worker decodes of what comes over the network."""

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
def test_formats_that_are_not_opened(kind):
    file = io.BytesIO()
    Image.new("RGB", (32, 32)).save(file, kind)
    with pytest.raises(MGMError, match=r"^image 1: .*is (not an image of these|PostScript)"):
        ImageFetcher().decode(base64.b64encode(file.getvalue()).decode(), "image 1")


def test_the_engine_and_the_tools_of_a_worker_have_its_limits(tmp_path):
    worker = Worker(mgm.load(build(tmp_path / "tiny"), device="cpu"), ("tiny",))
    try:
        assert worker.engine.images.limits is NETWORK_LIMITS
        with pytest.raises(MGMError, match="is not an image of these formats"):
            worker.tools.recognize_text([b"P5 1 1 255\n\0"])
    finally:
        worker.engine.stop()
