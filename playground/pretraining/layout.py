"""Teach the nano language model to read pages that are given as grids of cells, before it sees any.

A language model that knows only running text has to learn two things at once when it is joined to
encoders: where in an image a text goes on, and what the encoders' features mean. Here it learns the
first alone: 144 cells, each the sum of what stands in it (which characters in which order, how
high, which thing in which colour, a thumbnail), take the places that image tokens will take.

It begins with signs (`--kinds sign`), and learns the code of the cells along with them. The code is
kept from then on: it is what the encoders are pre-trained to see.
"""

import argparse
import logging
import shutil
from collections.abc import Iterator, Sequence
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
from playground.pretraining.cell_code import CELLS, CODE_FILE, CellCode, cell_targets, load_code
from playground.pretraining.language_model import ATTENTION, text_conversation
from playground.pretraining.loop import train
from playground.pretraining.targets import CHARACTERS, dense_targets, nothing
from playground.scenes import KINDS, draw_page, draw_sample
from playground.scenes.asking import DESCRIBE, DESCRIBE_BOTH
from playground.tokenizer import read_tokenizer

CAPTION_SHARE = 0.5  # of the conversations end with a description
PAGE_SHARE = 0.25  # of the samples are pages of text, where all kinds are drawn
TEXT_SHARE = 0.06  # of the samples are conversations without an image
TURNS = (6, 12)  # questions of a scene: more than in the data, for it is seen once for all
LINES = 6  # of a page that are read, at most
CODE_RATE = 3e-3  # the learning rate of the code
POOL = 6  # batches that are drawn before they are sorted by length


class Grids(IterableDataset[dict[str, Any]]):
    """An endless stream of scenes: ids and labels as in training, and cells instead of images."""

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerFast,
        batch_size: int,
        seed: int,
        kinds: Sequence[str] = (),
    ) -> None:
        self.tokenizer, self.batch_size, self.seed, self.kinds = tokenizer, batch_size, seed, kinds
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
        if rng.random() < TEXT_SHARE:
            return self.encoded(text_conversation(seed), [])
        page = not self.kinds and rng.random() < PAGE_SHARE
        kind = rng.choice(self.kinds) if self.kinds else None
        sample = draw_page(seed) if page else draw_sample(seed, "train", kind, TURNS)
        turns = [(turn.question, turn.answer) for turn in sample.turns]
        if page:
            turns = lines_to_read(sample.caption, rng)
        elif rng.random() < CAPTION_SHARE:
            # Last, so that nothing can be answered from it.
            questions = DESCRIBE if len(sample.images) == 1 else DESCRIBE_BOTH
            turns.append((rng.choice(questions), sample.caption))
        markers = f"{IMAGE_MARKER}\n" * len(sample.images)
        turns[0] = (markers + turns[0][0], turns[0][1])
        cells = [cell_targets(dense_targets(sample, index)) for index in range(len(sample.images))]
        return self.encoded(turns, cells)

    def encoded(
        self, turns: list[tuple[str, str]], cells: list[dict[str, np.ndarray]]
    ) -> dict[str, Any]:
        segments = training_segments(get_template("nano"), turns)
        ids, labels = encode(segments, self.tokenizer, self.image_token_id, CELLS)
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
    empty = cell_targets(nothing())  # says the shapes where no sample has an image
    batch = {
        name: torch.from_numpy(np.stack([i[name] for i in [*images, empty]])[:-1]) for name in empty
    }
    batch["ids"] = pad_rows([sample["ids"] for sample in samples], 0)
    batch["labels"] = pad_rows([sample["labels"] for sample in samples], IGNORED)
    batch["mask"] = attention_mask(lengths)
    return batch


def grid_loss(
    model: LlamaForCausalLM, code: CellCode, batch: dict[str, Tensor]
) -> tuple[Tensor, Tensor]:
    """The mean loss over all answers of a batch, and the share of answers that are right."""
    at_cell = batch["ids"] == model.config.vocab_size
    embeds = model.get_input_embeddings()(batch["ids"].masked_fill(at_cell, 0))
    embeds = embeds.masked_scatter(at_cell.unsqueeze(-1), code(batch).to(embeds.dtype))
    with torch.autocast("cpu", torch.bfloat16):
        hidden = model.model(inputs_embeds=embeds, attention_mask=batch["mask"]).last_hidden_state
        targets = F.pad(batch["labels"][:, 1:], (0, 1), value=IGNORED)
        logits = model.lm_head(hidden[targets != IGNORED]).float()
    return F.cross_entropy(logits, targets[targets != IGNORED]), answers_right(logits, targets)


def answers_right(logits: Tensor, targets: Tensor) -> Tensor:
    """The share of answers of which every token is the likeliest after those before it.

    Args:
        logits: (supervised tokens, vocabulary).
        targets: (batch, tokens), `IGNORED` between answers.
    """
    is_target = targets != IGNORED
    starts = is_target & ~F.pad(is_target[:, :-1], (1, 0))
    answer = starts.flatten().cumsum(0).view_as(targets)[is_target] - 1
    wrong = (logits.argmax(-1) != targets[is_target]).float()
    return (torch.zeros(int(starts.sum())).index_add(0, answer, wrong) == 0).float().mean()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--start", type=Path, required=True, help="the pre-trained language model")
    parser.add_argument("--out", type=Path, required=True, help="folder that gets the model")
    parser.add_argument("--steps", type=int, default=6500)
    parser.add_argument("--batch-size", type=int, default=6, help="scenes of a step")
    parser.add_argument("--kinds", nargs="*", default=(), help=f"of {', '.join(KINDS)}")
    parser.add_argument("--learning-rate", type=float, default=5e-4)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--seed", type=int, default=3_000_000_000)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    torch.manual_seed(arguments.seed)
    tokenizer = read_tokenizer(arguments.start)
    model = LlamaForCausalLM.from_pretrained(
        arguments.start, dtype=torch.float32, attn_implementation=ATTENTION
    ).train()
    if (arguments.start / CODE_FILE).is_file():
        code = load_code(arguments.start)
    else:
        characters = tokenizer.convert_tokens_to_ids(list(CHARACTERS))
        code = CellCode(model.get_input_embeddings().weight[characters].detach())
    if shutil.which("g++"):
        model.model.forward = torch.compile(model.model.forward, dynamic=True)
    grids = Grids(tokenizer, arguments.batch_size, arguments.seed, arguments.kinds)
    loader = DataLoader(
        grids, arguments.batch_size, collate_fn=collate, num_workers=arguments.workers
    )

    def losses() -> Iterator[tuple[Tensor, dict[str, Tensor]]]:
        for batch in loader:
            loss, right = grid_loss(model, code, batch)
            yield loss, {"loss": loss, "right": right}

    def save() -> None:
        with atomic_folder(arguments.out) as part:
            model.save_pretrained(part)
            tokenizer.save_pretrained(part)
            save_file(code.state_dict(), part / CODE_FILE)

    groups = [{"params": list(model.parameters())}]
    rates = [arguments.learning_rate]
    if code.training:
        groups.append({"params": list(code.parameters())})
        rates.append(CODE_RATE)
    train(losses(), groups, arguments.steps, rates, save)


if __name__ == "__main__":
    run_command(main)
