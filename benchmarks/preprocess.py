"""Preprocessing of a 1024 x 768 JPEG: from the bytes of the file to the tensors for the device.

    python -m benchmarks.preprocess [--only HD ...] [--threads 1]

The published implementation decodes and pads with Pillow, resizes and normalises with transformers'
CLIPImageProcessor, and interpolates the low-resolution view on the CPU. mgm returns the resized
image in uint8, and normalises on the device; "whole" is the normalised float32 output of the
processor. The limit is JPEG decoding alone. `difference` compares "whole" with the published views.
"""

import io
from collections.abc import Iterator

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F
from transformers import CLIPImageProcessorPil

from benchmarks.harness import (
    LIMIT,
    OURS,
    PUBLISHED,
    Case,
    Settings,
    is_selected,
    relative_difference,
    report,
    settings,
)
from mgm.data.image_processing_mgm import MGMImageProcessor
from mgm.data.images.loading import open_image

LAYOUTS = {"336/768": (768, 1), "HD": (1536, 2)}
COLOUR = (122, 116, 104)


def cases(chosen: Settings) -> Iterator[Case]:
    """Generate the selected cases."""
    content = photograph((128, 96) if chosen.small else (1024, 768))
    for layout, (side, grid) in LAYOUTS.items():
        for aspect in ("pad", "square"):
            name = f"{layout}, {aspect}"
            if is_selected(name, chosen):
                yield case(name, content, side // 8 if chosen.small else side, grid, aspect)


def photograph(size: tuple[int, int]) -> bytes:
    """A JPEG with smooth areas and noise, about as large in bytes as a photograph."""
    width, height = size
    draw = np.random.default_rng(0)
    coarse = Image.fromarray(draw.integers(0, 256, (12, 16, 3), dtype=np.uint8))
    smooth = np.asarray(coarse.resize(size, Image.Resampling.BICUBIC)).astype(int)
    noisy = smooth + draw.normal(0, 6, (height, width, 1))
    file = io.BytesIO()
    Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(file, "JPEG", quality=90)
    return file.getvalue()


def case(name: str, content: bytes, side: int, grid: int, aspect: str) -> Case:
    """All variants on one file."""
    low = side * 336 // 768 // grid

    def processor(mode: str) -> MGMImageProcessor:
        return MGMImageProcessor(low, side, grid, grid > 1, aspect, mode=mode)

    exact, fast = processor("exact"), processor("fast")
    clip = CLIPImageProcessorPil(
        size={"shortest_edge": side}, crop_size={"height": side, "width": side}
    )

    def published() -> list[Tensor]:
        image = Image.open(io.BytesIO(content)).convert("RGB")
        if aspect == "pad":
            long = max(image.size)
            square = Image.new("RGB", (long, long), COLOUR)
            square.paste(image, ((long - image.width) // 2, (long - image.height) // 2))
            image = square
        high = clip.preprocess(image, return_tensors="pt")["pixel_values"]
        view = F.interpolate(high, (low * grid, low * grid), mode="bilinear")
        if grid == 1:
            return [high, view.unsqueeze(1)]
        crops = view.reshape(3, grid, low, grid, low).permute(1, 3, 0, 2, 4)
        whole = F.interpolate(view, (low, low), mode="bilinear")
        return [high, torch.cat([crops.reshape(-1, 3, low, low), whole]).unsqueeze(0)]

    views = exact.preprocess(content)
    forms = {
        OURS: lambda: exact.preprocess(content, do_normalize=False),
        "ours, fast": lambda: fast.preprocess(content, do_normalize=False),
        "ours, whole": lambda: exact.preprocess(content),
        PUBLISHED: published,
        LIMIT: lambda: open_image(content),
    }
    results = [views["pixel_values_aux"], views["pixel_values"]]
    return Case(name, forms, relative_difference(results, published()))


if __name__ == "__main__":
    chosen = settings(__doc__ or "")
    report("Preprocessing of a 1024 x 768 JPEG", cases(chosen), chosen)
