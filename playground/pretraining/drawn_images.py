"""An endless stream of drawn images with the targets of encoder pre-training."""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import IterableDataset
from transformers import PreTrainedTokenizerFast

from playground.photo_library import Photos
from playground.pretraining.cell_code import cell_targets
from playground.pretraining.loop import seeds_of_worker
from playground.pretraining.targets import FRAME, cell_characters, dense_targets
from playground.scenes import draw_page, draw_sample

CAPTION_TOKENS = 64  # maximum
FINE_SIDE = 24  # cells per side of the finest grid with a head
FINE_SLOTS = 3  # maximum characters of such a cell


class DrawnImages(IterableDataset[dict[str, Tensor]]):
    """An endless stream of drawn images with their targets.

    Args:
        seed: seed of the first image.
        page_ratio: share of text pages.
        tokenizer: tokenizer of the captions.
        photos: photographs used in scenes; None: none.
    """

    def __init__(
        self,
        seed: int,
        page_ratio: float,
        tokenizer: PreTrainedTokenizerFast,
        photos: Photos | None = None,
    ) -> None:
        self.seed, self.page_ratio, self.tokenizer = seed, page_ratio, tokenizer
        self.photos = photos

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        return map(self.draw, seeds_of_worker(self.seed))

    def draw(self, seed: int) -> dict[str, Tensor]:
        """Draw the image of a seed with its targets.

        image: (384, 384, 3), from 0 to 255.
        fine_characters: (576, 3), the characters of each cell of 16 pixels.
        cell_...: arrays of `cell_targets`, for cells of 32 pixels.
        things, colors: (24, 24), ids for cells of 16 pixels.
        caption: (64,) ids, 0 for padding.
        """
        generator = np.random.default_rng(seed)
        page = generator.random() < self.page_ratio
        sample = draw_page(seed) if page else draw_sample(seed, "train", photos=self.photos)
        index = int(generator.integers(len(sample.images)))
        targets = dense_targets(sample, index)
        whole = not page and len(sample.images) == 1
        caption = (
            self.tokenizer(sample.caption, add_special_tokens=False).input_ids if whole else []
        )
        ids = np.zeros(CAPTION_TOKENS, np.int64)
        ids[: len(caption)] = caption[:CAPTION_TOKENS]
        fine = cell_characters(targets, FRAME // FINE_SIDE, FINE_SLOTS)
        arrays = {
            "image": targets.image,
            "fine_characters": fine["characters"],
            "things": targets.things,
            "colors": targets.colors,
            "caption": ids,
        }
        arrays |= {f"cell_{name}": array for name, array in cell_targets(targets).items()}
        return {name: torch.tensor(a) for name, a in arrays.items()}
