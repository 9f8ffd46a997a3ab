"""Training conversations of the nano language model, about texts and about grids of cells."""

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
from playground.pretraining.targets import dense_targets, empty_targets
from playground.pretraining.word_positions import position_questions, unique_words
from playground.scenes import KINDS, PHOTO, draw_page, draw_sample
from playground.scenes.qa import DESCRIBE, DESCRIBE_BOTH

CAPTION_SHARE = 0.1  # share of conversations about a scene that end with a description
PAGE_SHARE = 0.04  # share of pages of text among samples with cells
POSITION_RATIO = 0.35  # share of single-image samples with questions about word positions only
TURNS = (8, 16)  # questions about a scene: more than in the data set, as each scene is drawn once
MAX_LINES = 6  # maximum lines of a page to read
MAX_TOKENS = 400  # per conversation: attention over more does not fit into the processor's cache
POOL = 6  # batches that are drawn together and sorted by length


class Conversations(IterableDataset[dict[str, Any]]):
    """An endless stream of tokenised conversations: ids, labels, and cells in place of images.

    Args:
        tokenizer: tokenizer of the language model.
        batch_size: number of consecutive conversations of similar length.
        seed: seed of the first conversation.
        cell_ratio: share of conversations about cells; the others are about a text.
        photos: photographs used in scenes; None: none.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerFast,
        batch_size: int,
        seed: int,
        cell_ratio: float = 0.85,
        photos: Photos | None = None,
    ) -> None:
        self.tokenizer, self.batch_size, self.seed = tokenizer, batch_size, seed
        self.cell_ratio, self.photos = cell_ratio, photos
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
        """Draw and encode the conversation of a seed; see `encoded`."""
        rng = Random(seed)
        if rng.random() >= self.cell_ratio:
            return self.encoded(text_conversation(seed), [])
        page = rng.random() < PAGE_SHARE
        # Kinds are sampled uniformly, so that those rare in the data set are learned too.
        if page:
            sample = draw_page(seed)
        else:
            kind = rng.choice(self.kinds)
            sample = draw_sample(seed, "train", kind, TURNS, photos=self.photos)
        # A description contains the answers to later questions, so it may only be the last turn.
        selected = [turn for turn in sample.turns if not turn.kind.endswith("/describe")]
        selected = selected or sample.turns
        turns = [(turn.question, turn.answer) for turn in selected]
        clues = [turn.clue for turn in selected]
        words = unique_words(sample, 0) if len(sample.images) == 1 else []
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
        """Tokenise a conversation; the last turns are dropped beyond `MAX_TOKENS`."""
        while True:
            segments = training_segments(get_template("nano"), turns)
            ids, labels = encode(segments, self.tokenizer, self.image_token_id, CELLS)
            if len(ids) <= MAX_TOKENS or len(turns) == 1:
                return {"ids": ids, "labels": labels, "cells": cells, "guides": []}
            turns = turns[:-1]


def text_conversation(seed: int) -> list[tuple[str, str]]:
    """Sample questions and answers about a scene; the first question begins with its caption."""
    description, [(question, answer), *rest] = text_sample(seed, "train", TURNS)
    return [(f"{description}\n{question}", answer), *rest]


def lines_to_read(page: str, rng: Random) -> list[tuple[str, str]]:
    """Sample questions for lines of a page, by their first word if it is unique, with answers."""
    lines = page.split("\n")
    first = [line.split()[0] for line in lines]
    turns = [
        (f'Read the line that begins with "{word}".', line)
        for word, line in zip(first, lines, strict=True)
        if first.count(word) == 1
    ]
    return rng.sample(turns, min(len(turns), MAX_LINES)) or [("Read the text.", page)]


def collate(samples: list[dict[str, Any]]) -> dict[str, Tensor]:
    """Collate samples: right-padded ids and labels, stacked cells of all images, and guides."""
    images = [cells for sample in samples for cells in sample["cells"]]
    empty = cell_targets(empty_targets())  # gives the shapes if no sample has an image
    batch = {
        name: torch.from_numpy(np.stack([i[name] for i in [*images, empty]])[:-1]) for name in empty
    }
    batch["ids"] = pad_rows([sample["ids"] for sample in samples], 0)
    batch["labels"] = pad_rows([sample["labels"] for sample in samples], IGNORE_INDEX)
    return batch | collate_guides([sample["guides"] for sample in samples])
