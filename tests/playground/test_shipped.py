"""The weights that ship with the project: what users try first."""

import shutil
from pathlib import Path

import pytest
import torch

import mgm
from mgm.data.images.loading import open_image
from mgm.model.modeling_mgm import MGMForConditionalGeneration

PLAYGROUND = Path(__file__).resolve().parents[2] / "playground"
IMAGES = PLAYGROUND.parent / "images"
MODEL, ZOO = PLAYGROUND / "mgm-nano", PLAYGROUND / "model_zoo"
MIB = 2**20


def size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def test_they_are_small():
    assert size(MODEL) < 20 * MIB
    assert size(MODEL) + size(ZOO) < 40 * MIB


def test_the_model_card_ships():
    assert (MODEL / "README.md").read_bytes() == (PLAYGROUND / "model_card.md").read_bytes()


@pytest.mark.parametrize(
    ("image", "question", "answer"),
    [
        ("sign.png", "What does the top line say?", "The top line says Garden Hotel."),
        ("receipt.png", "What is the total?", "The total is $18.50."),
    ],
)
def test_the_demo_of_the_readme(image, question, answer):
    engine = mgm.load(MODEL)
    request = mgm.Request(question, images=[IMAGES / image], temperature=0.0)
    given = engine.answer([request])[0].text
    assert given == answer
    assert "".join(engine.stream(request)) == given


@pytest.mark.parametrize("grid", [1, 2])
def test_its_parts_make_a_model_of_both_layouts(grid, tmp_path):
    hd = grid > 1
    torch.manual_seed(0)
    model = MGMForConditionalGeneration.from_parts(
        ZOO / "llama-nano",
        ZOO / "clip-vit-nano-patch14-168",
        ZOO / "convnext-nano-384",
        conversation="nano",
        image_size_aux=384 * grid,
        image_grid=grid,
        image_global=hd,
    )
    model.save_pretrained(tmp_path)
    for file in (ZOO / "llama-nano").glob("tokenizer*"):
        shutil.copyfile(file, tmp_path / file.name)
    features = mgm.load(tmp_path).images.encode([open_image(IMAGES / "sign.png")])
    assert [tuple(each.shape) for each in features] == [(144 * (grid**2 + hd), 256)]
