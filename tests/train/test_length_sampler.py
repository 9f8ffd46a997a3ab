"""Batches of similar lengths: little padding, every sample once, exact resume."""

import pytest
import torch

from mgm.data.datasets.samplers import LengthSampler
from mgm.train.__main__ import run_training
from tests.data.datasets.test_packing import llava_like
from tests.train.conftest import words


def batches(sampler: LengthSampler, size: int) -> list[list[int]]:
    order = list(sampler)
    return [order[start : start + size] for start in range(0, len(order), size)]


@pytest.mark.parametrize("devices", [1, 8])
def test_at_most_12_percent_padding(devices):
    lengths, images = llava_like(20_000, 576)
    lengths = [min(length, 2048) for length in lengths]
    sampler = LengthSampler(lengths, [n > 0 for n in images], 16 * devices, seed=0)
    made = batches(sampler, 16)
    assert sorted(index for batch in made for index in batch) == list(range(len(lengths)))
    filled = sum(lengths[index] for batch in made for index in batch)
    padded = sum(max(lengths[index] for index in batch) * len(batch) for batch in made)
    assert 1 - filled / padded < 0.12
    mixed = [batch for batch in made if len({images[index] > 0 for index in batch}) == 2]
    assert len(mixed) <= 2 * devices  # of the incomplete last step
    of_step = [made[start : start + devices] for start in range(0, len(made), devices)]
    full = [max(lengths[i] for batch in step for i in batch) for step in of_step[:-2]]
    assert full[0] == max(
        full
    )  # the longest batch is first, so that too little memory shows at once


def test_order_depends_only_on_seed_and_epoch():
    lengths, images = llava_like(500, 144)
    first, again = (LengthSampler(lengths, [n > 0 for n in images], 8, seed=1) for _ in range(2))
    assert list(first) == list(first) == list(again)
    again.set_epoch(1)
    assert list(first) != list(again)


def test_training_by_length(stage2_flags, tmp_path):
    grouped = {"group_by_modality_length": False, "group_by_length": True, "save_steps": 2}
    trainer = run_training(words(stage2_flags | grouped | {"output_dir": tmp_path}))
    assert isinstance(trainer._get_train_sampler(), LengthSampler)
    dataset = trainer.train_dataset
    first = dataset[0]["input_ids"]
    assert dataset.lengths[0] == len(first)
    assert trainer.state.global_step == 6
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert torch.tensor(losses).isfinite().all()
