"""Teach the nano language model to read pages that are given as grids of cells, before it sees any.

A language model that knows only running text has to learn two things at once when it is joined to
encoders: where in an image a text goes on, and what the encoders' features mean. Here it learns the
first alone: 64 cells, each the sum of what stands in it (which character in which corner, how
high, which thing in which colour, a thumbnail), take the places that image tokens will take. The
code of the cells is learnt along; it is what the encoders are then pre-trained to see.
"""

import argparse
import logging
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader, IterableDataset, get_worker_info
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from mgm.atomic import atomic_folder
from mgm.data.conversation import IGNORED, encode, training_segments
from mgm.data.padding import attention_mask, pad_rows
from mgm.data.templates import IMAGE_MARKER, get_template
from mgm.errors import run_command
from playground.pretraining.cell_code import CELLS, CODE_FILE, CellCode, cell_targets
from playground.pretraining.language_model import ATTENTION, TextStream
from playground.pretraining.loop import train
from playground.pretraining.targets import dense_targets
from playground.scenes import draw_page, draw_sample
from playground.scenes.asking import DESCRIBE, DESCRIBE_BOTH
from playground.tokenizer import read_tokenizer

CAPTION_SHARE = 0.25  # of the conversations are a description
PAGE_SHARE = 0.4  # of the samples are pages of text
TEXT_WEIGHT = 0.2  # of the loss on plain text
LINES = 6  # of a page that are read, at most
POOL = 6  # batches that are drawn before they are sorted by length


class Grids(IterableDataset[dict[str, Any]]):
    """An endless stream of scenes: ids and labels as in training, and cells instead of images."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast, batch_size: int, seed: int) -> None:
        self.tokenizer, self.batch_size, self.seed = tokenizer, batch_size, seed
        self.image_token_id = len(tokenizer)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        worker = get_worker_info()
        step = worker.num_workers if worker else 1
        number = worker.id * POOL * self.batch_size if worker else 0
        while True:
            # Scenes of about equal length come together, so that little is padded.
            seeds = range(self.seed + number, self.seed + number + POOL * self.batch_size)
            samples = sorted(map(self.draw, seeds), key=lambda sample: len(sample["ids"]))
            starts = list(range(0, len(samples), self.batch_size))
            Random(seeds[0]).shuffle(starts)
            for start in starts:
                yield from samples[start : start + self.batch_size]
            number += step * len(samples)

    def draw(self, seed: int) -> dict[str, Any]:
        rng = Random(seed)
        page = rng.random() < PAGE_SHARE
        sample = draw_page(seed) if page else draw_sample(seed, "train")
        turns = [(turn.question, turn.answer) for turn in sample.turns]
        if page:
            turns = lines_to_read(sample.caption, rng)
        elif rng.random() < CAPTION_SHARE:
            questions = DESCRIBE if len(sample.images) == 1 else DESCRIBE_BOTH
            turns = [(rng.choice(questions), sample.caption)]
        markers = f"{IMAGE_MARKER}\n" * len(sample.images)
        turns[0] = (markers + turns[0][0], turns[0][1])
        segments = training_segments(get_template("nano"), turns)
        ids, labels = encode(segments, self.tokenizer, self.image_token_id, CELLS)
        cells = [cell_targets(dense_targets(sample, index)) for index in range(len(sample.images))]
        return {"ids": ids, "labels": labels, "cells": cells}


def lines_to_read(page: str, rng: Random) -> list[tuple[str, str]]:
    """Questions for lines of a page by the word each begins with, and the lines."""
    lines = page.split("\n")
    turns = [(f'Read the line that begins with "{line.split()[0]}".', line) for line in lines]
    return rng.sample(turns, min(len(turns), LINES))


def collate(samples: list[dict[str, Any]]) -> dict[str, Tensor]:
    """Pad ids and labels on the right; stack the cells of all images in reading order."""
    lengths = [len(sample["ids"]) for sample in samples]
    images = [cells for sample in samples for cells in sample["cells"]]
    batch = {name: torch.from_numpy(np.stack([i[name] for i in images])) for name in images[0]}
    batch["ids"] = pad_rows([sample["ids"] for sample in samples], 0)
    batch["labels"] = pad_rows([sample["labels"] for sample in samples], IGNORED)
    batch["mask"] = attention_mask(lengths)
    return batch


def grid_loss(model: LlamaForCausalLM, code: CellCode, batch: dict[str, Tensor]) -> Tensor:
    """The mean loss over all answers of a batch."""
    at_cell = batch["ids"] == model.config.vocab_size
    embeds = model.get_input_embeddings()(batch["ids"].masked_fill(at_cell, 0))
    embeds = embeds.masked_scatter(at_cell.unsqueeze(-1), code(batch).to(embeds.dtype))
    with torch.autocast("cpu", torch.bfloat16):
        hidden = model.model(inputs_embeds=embeds, attention_mask=batch["mask"]).last_hidden_state
        targets = F.pad(batch["labels"][:, 1:], (0, 1), value=IGNORED)
        logits = model.lm_head(hidden[targets != IGNORED])
    return F.cross_entropy(logits.float(), targets[targets != IGNORED])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--start", type=Path, required=True, help="the pre-trained language model")
    parser.add_argument("--out", type=Path, required=True, help="folder that gets the model")
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--batch-size", type=int, default=24, help="scenes of a step")
    parser.add_argument("--text-rows", type=int, default=2, help="rows of plain text of a step")
    parser.add_argument("--learning-rate", type=float, default=1.5e-3)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--seed", type=int, default=3_000_000_000)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    torch.manual_seed(arguments.seed)
    tokenizer = read_tokenizer(arguments.start)
    model = LlamaForCausalLM.from_pretrained(
        arguments.start, dtype=torch.float32, attn_implementation=ATTENTION
    ).train()
    code = CellCode(model.config.hidden_size)
    grids = Grids(tokenizer, arguments.batch_size, arguments.seed)
    loader = DataLoader(
        grids, arguments.batch_size, collate_fn=collate, num_workers=arguments.workers
    )
    texts = DataLoader(TextStream(tokenizer, 256, arguments.seed), arguments.text_rows)

    def losses() -> Iterator[tuple[Tensor, dict[str, Tensor]]]:
        for batch, rows in zip(loader, texts, strict=False):
            loss = grid_loss(model, code, batch)
            with torch.autocast("cpu", torch.bfloat16):
                text_loss = model(input_ids=rows, labels=rows).loss
            yield loss + TEXT_WEIGHT * text_loss, {"loss": loss, "text": text_loss}

    def save() -> None:
        with atomic_folder(arguments.out) as part:
            model.save_pretrained(part)
            tokenizer.save_pretrained(part)
            save_file(code.state_dict(), part / CODE_FILE)

    groups = [{"params": [*model.parameters(), *code.parameters()]}]
    train(losses(), groups, arguments.steps, arguments.learning_rate, save)


if __name__ == "__main__":
    run_command(main)
