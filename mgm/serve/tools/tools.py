"""Optional tools of a worker (OCR, image generation), loaded on first use."""

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
from mgm.serve.tools.ocr import OCREngine, load_ocr, ocr_prompt

NO_IMAGE_MODEL = "this server generates no images; start it with --gen-model"


class WorkerTools:
    """OCR and image generation; each is loaded on first use and used by one request at a time.

    Args:
        gen_model: folder or hub name of a text-to-image pipeline; None: no image generation.
        load_generator: function that loads the pipeline.

    Attributes:
        image_model: name of the image generation model; empty: there is none.
        open_image: opens the images for OCR; the worker sets its engine's, which has limits.

    Raises:
        MGMError: `gen_model` is given, and diffusers is not installed.
    """

    def __init__(
        self,
        gen_model: str | None = None,
        load_generator: Callable[[str], ImageGenerator] = ImageGenerator,
    ) -> None:
        if gen_model is not None and find_spec("diffusers") is None:
            raise MGMError("--gen-model: diffusers is not installed; pip install -e '.[gen]'")
        self.open_image: Callable[[ImageSource, str], Image.Image] = open_image
        self.image_model = Path(gen_model).name if gen_model is not None else ""
        self._load_generator = partial(load_generator, gen_model or "")
        self._generator: ImageGenerator | None = None
        self._ocr: OCREngine | None = None
        self._generator_lock, self._ocr_lock = threading.Lock(), threading.Lock()

    def recognize_text(self, images: Sequence[ImageSource]) -> str:
        """Text that OCR of the images adds to a question, in the published wording.

        Raises:
            MGMError: no OCR package is installed, or an image is damaged.
        """
        opened = [
            self.open_image(source, f"image {number} of {len(images)}")
            for number, source in enumerate(images, start=1)
        ]
        if not opened:
            return ""
        with self._ocr_lock:
            ocr = self._ocr = self._ocr or load_ocr()
            return ocr_prompt([text for image in opened for text in ocr(image)])

    def prompt_suffix(self, images: Sequence[ImageSource], gen_image: bool, use_ocr: bool) -> str:
        """Text that the tools add to a question: the request for an image, the texts of OCR.

        Raises:
            MGMError: a tool is missing, or an image is damaged.
        """
        if gen_image and not self.image_model:
            raise BadRequestError(NO_IMAGE_MODEL, "gen_image")
        suffix = GEN_SUFFIX if gen_image else ""
        return suffix + (self.recognize_text(images) if use_ocr else "")

    def generate_image(
        self, prompt: str, seed: int | None = None, size: tuple[int, int] | None = None
    ) -> bytes:
        """A PNG file generated from a prompt.

        Raises:
            MGMError: there is no image generation model, or the generation fails.
        """
        if not self.image_model:
            raise MGMError(NO_IMAGE_MODEL)
        with self._generator_lock:
            if self._generator is None:
                self._generator = self._load_generator()
            image = self._generator.generate(prompt, seed, size)
        content = io.BytesIO()
        image.save(content, "PNG")
        return content.getvalue()
