"""Conversations that the nano language model learns from, about texts and about grids of cells."""

from collections.abc import Iterator
from random import Random
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import IterableDataset
from transformers import PreTrainedTokenizerFast

from mgm.data.text.conversation import training_segments
from mgm.data.text.encoding import encode
from mgm.data.text.padding import pad_rows
from mgm.data.text.templates import IMAGE_MARKER, get_template
from mgm.model.labels import IGNORE_INDEX
from playground.corpus import text_sample
from playground.photo_library import Photos
from playground.pretraining.cell_code import CELLS, cell_targets
from playground.pretraining.guides import Guides, collate_guides
from playground.pretraining.loop import seeds_of_worker
from playground.pretraining.targets import dense_targets, nothing
from playground.pretraining.word_positions import position_questions, words_on
from playground.scenes import KINDS, PHOTO, draw_page, draw_sample
from playground.scenes.asking import DESCRIBE, DESCRIBE_BOTH

CAPTION_SHARE = 0.1  # of the conversations about a scene end with a description
PAGE_SHARE = 0.04  # of the samples with cells are pages of text
POSITION_RATIO = 0.35  # of the samples with one image ask only where words stand
TURNS = (8, 16)  # questions of a scene: more than in the data, for it is seen once for all
LINES = 6  # of a page that are read, at most
LONGEST = 400  # tokens of a conversation: attention over more leaves the processor's cache
POOL = 6  # batches that are drawn before they are sorted by length


class Conversations(IterableDataset[dict[str, Any]]):
    """An endless stream of conversations: ids and labels as in training, and cells for images.

    Args:
        batch_size: conversations that come one after the other are of about equal length.
        seed: of the first one.
        shown: share of the conversations that are about cells; the others are about a text.
        photos: photographs that the scenes may show; None: none.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerFast,
        batch_size: int,
        seed: int,
        shown: float = 0.85,
        photos: Photos | None = None,
    ) -> None:
        self.tokenizer, self.batch_size, self.seed = tokenizer, batch_size, seed
        self.shown, self.photos = shown, photos
        self.kinds = KINDS if photos is None else (*KINDS, PHOTO)
        self.image_token_id = len(tokenizer)
        self.guides = Guides(tokenizer)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        pool = POOL * self.batch_size
        for first in seeds_of_worker(self.seed, pool):
            seeds = range(first, first + pool)
            samples = sorted(map(self.draw, seeds), key=lambda sample: len(sample["ids"]))
            starts = list(range(0, len(samples), self.batch_size))
            Random(first).shuffle(starts)
            for start in starts:
                yield from samples[start : start + self.batch_size]

    def draw(self, seed: int) -> dict[str, Any]:
        """The conversation of this seed, encoded: see `encoded`."""
        rng = Random(seed)
        if rng.random() >= self.shown:
            return self.encoded(text_conversation(seed), [])
        page = rng.random() < PAGE_SHARE
        # All kinds alike: what is rare in the data must be learnt too.
        if page:
            sample = draw_page(seed)
        else:
            kind = rng.choice(self.kinds)
            sample = draw_sample(seed, "train", kind, TURNS, photos=self.photos)
        # A description would give other answers away, but for the last turn.
        selected = [turn for turn in sample.turns if not turn.kind.endswith("/describe")]
        selected = selected or sample.turns
        turns = [(turn.question, turn.answer) for turn in selected]
        clues = [turn.clue for turn in selected]
        words = words_on(sample, 0) if len(sample.images) == 1 else []
        if words and rng.random() < POSITION_RATIO:
            turns, clues = position_questions(words, rng), []
        elif page:
            turns, clues = lines_to_read(sample.caption, rng), []
        elif rng.random() < CAPTION_SHARE:
            questions = DESCRIBE if len(sample.images) == 1 else DESCRIBE_BOTH
            turns.append((rng.choice(questions), sample.caption))
        markers = f"{IMAGE_MARKER}\n" * len(sample.images)
        turns[0] = (markers + turns[0][0], turns[0][1])
        cells = [cell_targets(dense_targets(sample, index)) for index in range(len(sample.images))]
        encoded = self.encoded(turns, cells)
        guides = self.guides.find(sample, encoded["ids"], encoded["labels"], clues)
        return {**encoded, "guides": guides}

    def encoded(
        self, turns: list[tuple[str, str]], cells: list[dict[str, np.ndarray]]
    ) -> dict[str, Any]:
        """Ids, labels and cells, without the last turns where they would be too many tokens."""
        while True:
            segments = training_segments(get_template("nano"), turns)
            ids, labels = encode(segments, self.tokenizer, self.image_token_id, CELLS)
            if len(ids) <= LONGEST or len(turns) == 1:
                return {"ids": ids, "labels": labels, "cells": cells, "guides": []}
            turns = turns[:-1]


def text_conversation(seed: int) -> list[tuple[str, str]]:
    """Questions and answers about a scene that the first question describes."""
    description, [(question, answer), *rest] = text_sample(seed, "train", TURNS)
    return [(f"{description}\n{question}", answer), *rest]


def lines_to_read(page: str, rng: Random) -> list[tuple[str, str]]:
    """Questions for lines of a page by the word that only they begin with, and the lines."""
    lines = page.split("\n")
    first = [line.split()[0] for line in lines]
    turns = [
        (f'Read the line that begins with "{word}".', line)
        for word, line in zip(first, lines, strict=True)
        if first.count(word) == 1
    ]
    return rng.sample(turns, min(len(turns), LINES)) or [("Read the text.", page)]


def collate(samples: list[dict[str, Any]]) -> dict[str, Tensor]:
    """Pad ids and labels on the right; stack the cells of all images in order; list the guides."""
    images = [cells for sample in samples for cells in sample["cells"]]
    empty = cell_targets(nothing())  # says the shapes where no sample has an image
    batch = {
        name: torch.from_numpy(np.stack([i[name] for i in [*images, empty]])[:-1]) for name in empty
    }
    batch["ids"] = pad_rows([sample["ids"] for sample in samples], 0)
    batch["labels"] = pad_rows([sample["labels"] for sample in samples], IGNORE_INDEX)
    return batch | collate_guides([sample["guides"] for sample in samples])
