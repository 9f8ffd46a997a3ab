"""What works beside a model on a server: a reader of texts in images, and what draws images."""

import io
import threading
from collections.abc import Callable, Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path

from PIL import Image

from mgm.data.images.loading import ImageSource, open_image
from mgm.errors import MGMError
from mgm.serve.openai.errors import BadRequestError
from mgm.serve.tools.image_generation import GEN_SUFFIX, ImageGenerator
from mgm.serve.tools.ocr import Reader, load_ocr, reference

NO_IMAGE_MODEL = "this server draws no images; start it with --gen-model"


class WorkerTools:
    """Loaded when they are first used, and used by one request at a time.

    Args:
        gen_model: folder or name on the hub of a pipeline that draws; None: nothing draws.
        load_generator: makes it.

    Attributes:
        open_image: opens images whose texts are read; an engine's has its limits.

    Raises:
        MGMError: diffusers is not installed, and something should draw.
    """

    def __init__(
        self,
        gen_model: str | None = None,
        load_generator: Callable[[str], ImageGenerator] = ImageGenerator,
    ) -> None:
        if gen_model is not None and find_spec("diffusers") is None:
            raise MGMError("--gen-model: diffusers is not installed; pip install -e '.[gen]'")
        self.open_image: Callable[[ImageSource, str], Image.Image] = open_image
        self.draws = gen_model is not None
        self.image_model = Path(gen_model).name if gen_model is not None else ""
        self._load_generator = partial(load_generator, gen_model or "")
        self._drawer: ImageGenerator | None = None
        self._reader: Reader | None = None
        self._drawing, self._reading = threading.Lock(), threading.Lock()

    def read(self, images: Sequence[ImageSource]) -> str:
        """What a question gets for help: the texts in its images, as published.

        Raises:
            MGMError: no reader is installed, or an image is damaged.
        """
        opened = [
            self.open_image(source, f"image {number} of {len(images)}")
            for number, source in enumerate(images, start=1)
        ]
        with self._reading:
            if opened and self._reader is None:
                self._reader = load_ocr()
            reader = self._reader
            return reference([text for image in opened if reader for text in reader(image)])

    def suffix(self, images: Sequence[ImageSource], gen_image: bool, use_ocr: bool) -> str:
        """What stands behind a question that wants an image drawn, or the texts in images read.

        Raises:
            MGMError: nobody draws or reads here, or an image is damaged.
        """
        if gen_image and not self.draws:
            raise BadRequestError(NO_IMAGE_MODEL, "gen_image")
        return (GEN_SUFFIX if gen_image else "") + (self.read(images) if use_ocr else "")

    def draw(
        self, text: str, seed: int | None = None, size: tuple[int, int] | None = None
    ) -> bytes:
        """A PNG file of a text.

        Raises:
            MGMError: nothing draws here, or not so.
        """
        if not self.draws:
            raise MGMError(NO_IMAGE_MODEL)
        with self._drawing:
            if self._drawer is None:
                self._drawer = self._load_generator()
            image = self._drawer.draw(text, seed, size)
        content = io.BytesIO()
        image.save(content, "PNG")
        return content.getvalue()
