import numpy as np
import pytest
import torch
from transformers import LlamaForCausalLM

from mgm.model.clip_tower import load_clip_tower
from mgm.model.convnext_tower import load_convnext_tower
from playground.pretraining.cell_code import CELLS, CellCode
from playground.pretraining.encoders import DrawnImages, Pretraining, save_encoders
from playground.pretraining.language_model import TextStream, nano_language_model
from playground.pretraining.layout import Grids, collate, grid_loss
from playground.pretraining.targets import CHARACTER_ID, dense_targets, slots
from playground.scenes import draw_page
from playground.tokenizer import build_tokenizer


@pytest.fixture(scope="module")
def tokenizer():
    return build_tokenizer(["What", "does", "the", "sign", "say"])


def test_slots_keep_what_stands_in_a_cell():
    grid = np.arange(32 * 64).reshape(32, 64)
    cells = slots(grid, 4, 8)
    assert cells.shape == (8, 8, 32)
    assert (cells[2, 3] == grid[8:12, 24:32].ravel()).all()


def test_targets_name_every_character_where_it_stands():
    page = draw_page(5)
    targets = dense_targets(page, 0)
    glyph = page.glyphs[0][0]
    row, column = int((glyph.y0 + glyph.y1) / 2 // 8), int((glyph.x0 + glyph.x1) / 2 // 4)
    assert targets.characters[row, column] == CHARACTER_ID[glyph.char]
    assert ((targets.characters > 0) == (targets.heights > 0)).all()
    # Two characters may share a slot, but few do.
    assert (targets.characters > 0).sum() > 0.8 * len(page.glyphs[0])


def test_encoders_learn_and_load_as_towers(tokenizer, tmp_path):
    torch.manual_seed(0)
    model = Pretraining(len(tokenizer), CellCode(192).requires_grad_(False))
    images = DrawnImages(0, 0.5, tokenizer)
    samples = [images.draw(seed) for seed in range(4)]
    batch = {name: torch.stack([sample[name] for sample in samples]) for name in samples[0]}
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    losses = []
    for _ in range(4):
        loss, figures = model(batch)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    assert {"fine", "coarse", "large", "things", "code"} <= set(figures)
    save_encoders(model, tmp_path)
    pixels = torch.randn(1, 3, 256, 256)
    tower = load_convnext_tower(tmp_path / "convnext-nano-256").eval()
    ours = tower(pixels)
    theirs = model.convnext.eval().stem(pixels)
    for stage, mine in zip(model.convnext.stages, ours, strict=True):
        theirs = stage(theirs)
        torch.testing.assert_close(mine, theirs)
    clip = load_clip_tower(tmp_path / "clip-vit-nano-patch14-112")
    assert clip(torch.randn(1, 3, 112, 112)).shape == (1, CELLS, 192)


def test_text_rows_have_no_gaps(tokenizer):
    rows = iter(TextStream(tokenizer, 64, seed=0))
    first, second = next(rows), next(rows)
    assert first.shape == second.shape == (64,)
    assert first[0] == tokenizer.bos_token_id
    assert tokenizer.pad_token_id not in torch.cat([first, second])


def test_cells_take_the_places_of_image_tokens(tokenizer):
    torch.manual_seed(0)
    grids = Grids(tokenizer, batch_size=2, seed=0)
    samples = [grids.draw(seed) for seed in range(6)]
    for sample in samples:
        assert sample["ids"].count(len(tokenizer)) == CELLS * len(sample["cells"])
    model: LlamaForCausalLM = nano_language_model(tokenizer)
    code = CellCode(model.config.hidden_size)
    batch = collate(samples)
    loss = grid_loss(model, code, batch)
    loss.backward()
    assert code.character.weight.grad.abs().sum() > 0
    # What stands in the cells is what the loss depends on.
    other = {**batch, "characters": batch["characters"].flip(1)}
    assert not torch.isclose(grid_loss(model, code, other), loss)
