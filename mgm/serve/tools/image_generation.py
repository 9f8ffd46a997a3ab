"""Images drawn from what a model wrote, by a diffusion model."""

from pathlib import Path
from typing import Any

import torch
from PIL import Image

from mgm.errors import MGMError, one_line

SDXL = "stabilityai/stable-diffusion-xl-base-1.0"
GEN_SUFFIX = " <GEN>"  # behind a question that wants an image, as published
PROMPT_BEGIN, PROMPT_END = "<h>", "</h>"  # around what to draw

# Compat: what published programs tell the diffusion model to keep away from.
NEGATIVE_PROMPT = (
    "out of frame, lowres, text, error, cropped, worst quality, low quality, jpeg artifacts, "
    "ugly, duplicate, morbid, mutilated, out of frame, extra fingers, mutated hands, poorly drawn "
    "hands, poorly drawn face, mutation, deformed, blurry, dehydrated, bad anatomy, bad "
    "proportions, extra limbs, cloned face, disfigured, gross proportions, malformed limbs, "
    "missing arms, missing legs, extra arms, extra legs, fused fingers, too many fingers, long "
    "neck, username, watermark, signature"
)


def image_prompt(answer: str) -> str | None:
    """What an answer asks to draw: between the last pair of marks; None: nothing."""
    before, end, _ = answer.rpartition(PROMPT_END)
    _, begin, text = before.rpartition(PROMPT_BEGIN)
    return text.strip() if begin and end and text.strip() else None


class ImageGenerator:
    """Draws with a pipeline of diffusers that makes images of texts.

    Args:
        path: folder or name on the hub.
        device: where; None: the last GPU, or the CPU.
        steps: of the diffusion; None: as many as the pipeline takes.

    Raises:
        MGMError: diffusers is not installed, or there is no such pipeline.
    """

    def __init__(
        self, path: str = SDXL, device: str | None = None, steps: int | None = None
    ) -> None:
        try:
            from diffusers import AutoPipelineForText2Image
        except ImportError as error:
            raise MGMError("--gen: diffusers is not installed; pip install -e '.[gen]'") from error
        count = torch.cuda.device_count()
        self.device = device or (f"cuda:{count - 1}" if count else "cpu")
        self.steps = steps
        dtype = torch.float16 if self.device.startswith("cuda") else torch.float32
        try:
            pipeline: Any = AutoPipelineForText2Image.from_pretrained(path, dtype=dtype)
        except (OSError, ValueError, RuntimeError) as error:
            raise MGMError(
                f"{path}: is no pipeline that draws ({one_line(error)[:300]}); give the folder or "
                "the hub name of a text-to-image pipeline of diffusers"
            ) from error
        pipeline.set_progress_bar_config(disable=True)
        self._pipeline = pipeline.to(self.device)

    def draw(
        self, text: str, seed: int | None = None, size: tuple[int, int] | None = None
    ) -> Image.Image:
        """An image of a text.

        Args:
            text: what to draw.
            seed: makes it repeatable; None: another one every time.
            size: width and height in pixels, multiples of 8; None: the pipeline's own.
        """
        generator = torch.Generator()  # on the CPU, so that a seed means the same everywhere
        if seed is None:
            generator.seed()
        else:
            generator.manual_seed(seed)
        options: dict[str, Any] = {"generator": generator, "negative_prompt": NEGATIVE_PROMPT}
        if self.steps is not None:
            options["num_inference_steps"] = self.steps
        if size is not None:
            options["width"], options["height"] = size
        return self._pipeline(text, **options).images[0]


def save_image(image: Image.Image, path: Path) -> None:
    """Write a drawn image.

    Raises:
        MGMError: it cannot be written, or the ending names no format.
    """
    try:
        image.save_image(path)
    except (OSError, ValueError) as error:
        raise MGMError(f"{path}: cannot be written ({one_line(error)}); choose another") from error
