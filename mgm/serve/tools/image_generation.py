"""Text-to-image generation with diffusers, from the prompts that a model writes."""

from pathlib import Path
from typing import Any

from PIL import Image

from mgm.errors import MGMError, one_line

SDXL = "stabilityai/stable-diffusion-xl-base-1.0"
GEN_SUFFIX = " <GEN>"  # appended to a question that requests an image, as published
PROMPT_BEGIN, PROMPT_END = "<h>", "</h>"  # around the image prompt in an answer

# Compat: as in published programs.
NEGATIVE_PROMPT = (
    "out of frame, lowres, text, error, cropped, worst quality, low quality, jpeg artifacts, "
    "ugly, duplicate, morbid, mutilated, out of frame, extra fingers, mutated hands, poorly drawn "
    "hands, poorly drawn face, mutation, deformed, blurry, dehydrated, bad anatomy, bad "
    "proportions, extra limbs, cloned face, disfigured, gross proportions, malformed limbs, "
    "missing arms, missing legs, extra arms, extra legs, fused fingers, too many fingers, long "
    "neck, username, watermark, signature"
)


def image_prompt(answer: str) -> str | None:
    """The image prompt in an answer, between its last `<h>` and `</h>`; None: there is none."""
    before, end, _ = answer.rpartition(PROMPT_END)
    _, begin, text = before.rpartition(PROMPT_BEGIN)
    return text.strip() if begin and end and text.strip() else None


class ImageGenerator:
    """A text-to-image pipeline of diffusers.

    Args:
        path: folder, or name on the hub.
        device: None: the last GPU, or the CPU.
        steps: inference steps; None: the pipeline's default.

    Raises:
        MGMError: diffusers is not installed, or there is no such pipeline.
    """

    def __init__(
        self, path: str = SDXL, device: str | None = None, steps: int | None = None
    ) -> None:
        import torch

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
                f"{path}: is not a text-to-image pipeline ({one_line(error)[:300]}); give the "
                "folder or the hub name of one of diffusers"
            ) from error
        pipeline.set_progress_bar_config(disable=True)
        self._pipeline = pipeline.to(self.device)

    def generate(
        self, prompt: str, seed: int | None = None, size: tuple[int, int] | None = None
    ) -> Image.Image:
        """An image generated from a prompt.

        Args:
            prompt: describes the image.
            seed: seed for reproducible images; None: random.
            size: width and height in pixels, multiples of 8; None: the pipeline's default.
        """
        import torch

        generator = torch.Generator()  # on the CPU: a seed gives the same noise on every device
        if seed is None:
            generator.seed()
        else:
            generator.manual_seed(seed)
        options: dict[str, Any] = {"generator": generator, "negative_prompt": NEGATIVE_PROMPT}
        if self.steps is not None:
            options["num_inference_steps"] = self.steps
        if size is not None:
            options["width"], options["height"] = size
        return self._pipeline(prompt, **options).images[0]


def save_image(image: Image.Image, path: Path) -> None:
    """Write a generated image.

    Raises:
        MGMError: the file cannot be written, or no image format has its suffix.
    """
    try:
        image.save(path)
    except (OSError, ValueError) as error:
        raise MGMError(f"{path}: cannot be written ({one_line(error)}); choose another") from error
