"""Packed rows: little padding, and the same loss as separate samples."""

import copy

import numpy as np
import pytest
import torch

from mgm.data.datasets.collator import Collator
from mgm.data.datasets.packing import PackedCollator, pack
from mgm.model.labels import IGNORE_INDEX
from tests.model.tiny import ids_of, tiny_model


def llava_like(count: int, per_image: int) -> tuple[list[int], list[int]]:
    """Lengths and image counts like LLaVA's instructions: mostly one, some none or several."""
    draw = np.random.default_rng(0)
    images = draw.choice([0, 1, 2, 4], count, p=[0.06, 0.9, 0.03, 0.01]).tolist()
    words = np.exp(draw.normal(5.3, 0.7, count)).astype(int).clip(20, 1500)
    return [int(w + n * per_image) for w, n in zip(words, images, strict=True)], images


@pytest.mark.parametrize(("per_image", "limit"), [(576, 4096), (576, 8192), (144, 2048)])
def test_at_most_5_percent_padding(per_image, limit):
    lengths, images = llava_like(20_000, per_image)
    rows = pack(lengths, images, limit, seed=1)
    assert sorted(index for row in rows for index in row) == list(range(len(lengths)))
    filled = [sum(min(lengths[index], limit) for index in row) for row in rows]
    assert max(filled) <= limit
    batches = [filled[start : start + 16] for start in range(0, len(filled), 16)]
    padded = 1 - sum(filled) / sum(max(batch) * len(batch) for batch in batches)
    assert padded < 0.05
    assert 1 - sum(filled) / (limit * len(rows)) < 0.05
    counts = [sum(images[index] for index in row) for row in rows]
    assert np.percentile(counts, 99) <= np.mean(counts) + 3  # rows have similar numbers of images


def test_rows_depend_only_on_the_seed():
    lengths, images = llava_like(500, 144)
    assert pack(lengths, images, 1024, 1) == pack(lengths, images, 1024, 1)
    assert pack(lengths, images, 1024, 1) != pack(lengths, images, 1024, 2)


def test_sample_over_the_limit_has_its_own_row():
    rows = pack([5000, 10, 4096], [1, 0, 1], 4096, 0)
    assert sorted(map(sorted, rows)) == [[0], [1], [2]]


@pytest.fixture
def model():
    return tiny_model().train()


@pytest.fixture
def samples(model):
    """Samples with one image, none, two, and one with a single label."""
    torch.manual_seed(0)
    side = model.config.image_size_aux
    made = []
    for number, layout in enumerate(["abIcd", "efg", "hIiIj", "kl"]):
        ids = torch.tensor(ids_of(model.config, layout))
        labels = ids.clone()
        labels[: 1 + len(ids) // 2] = IGNORE_INDEX
        sample = {"input_ids": ids, "labels": labels, "index": torch.tensor(number)}
        if count := layout.count("I"):
            pixels = torch.randint(0, 256, (count, 3, side, side), dtype=torch.uint8)
            sample["pixel_values_aux"] = pixels
        made.append(sample)
    return made


def gradients(model, batches, count):
    model = copy.deepcopy(model)
    total = 0.0
    for batch in batches:
        batch = {name: value for name, value in batch.items() if name != "index"}
        loss = model(**batch, num_items_in_batch=count).loss
        loss.backward()
        total += loss.item()
    return total, {n: p.grad for n, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("rows", [[[0, 1, 2, 3]], [[2, 1], [0, 3]]])
def test_loss_of_packed_samples_equals_separate_ones(model, samples, rows):
    collator = Collator(0, model.config.image_token_id, model.config.image_tokens_per_image)
    packed = PackedCollator(collator)([[samples[index] for index in row] for row in rows])
    assert packed["input_ids"].shape == packed["position_ids"].shape == packed["labels"].shape
    alone = [collator([sample]) for sample in samples]
    count = sum(int((batch["labels"][:, 1:] != IGNORE_INDEX).sum()) for batch in alone)
    assert int((packed["labels"][:, 1:] != IGNORE_INDEX).sum()) == count
    ours, of_ours = gradients(model, [packed], count)
    theirs, of_theirs = gradients(model, alone, count)
    assert ours == pytest.approx(theirs, rel=1e-5)
    assert of_ours.keys() == of_theirs.keys()
    for name, slope in of_ours.items():
        torch.testing.assert_close(slope, of_theirs[name], rtol=1e-3, atol=1e-6, msg=name)
