import math
import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from transformers import LlamaForCausalLM

from mgm.errors import MGMError
from mgm.model.labels import IGNORE_INDEX
from playground.canvas import Canvas
from playground.faces import FACES
from playground.pretraining.cell_code import CELLS, CODE_FILE, cell_targets, load_code
from playground.pretraining.conversations import (
    POOL,
    Conversations,
    collate,
    text_conversation,
)
from playground.pretraining.guides import HEADS
from playground.pretraining.language_model import (
    answer_loss,
    compute_losses,
    decode,
    initial_code,
    nano_language_model,
)
from playground.pretraining.loop import SAVE_EVERY, batches_after, optimizers, train
from playground.pretraining.targets import (
    CHARACTER_ID,
    FRAME,
    HEIGHT_STEPS,
    THING_IDS,
    dense_targets,
    empty_targets,
    height_step,
    quarters,
)
from playground.pretraining.word_positions import position_questions, unique_words
from playground.sample import Sample
from playground.scenes import draw_page, draw_sample
from playground.tokenizer import build_tokenizer


@pytest.fixture(scope="module")
def tokenizer():
    return build_tokenizer(["What", "does", "the", "sign", "say"])


def test_quarters_of_a_cell():
    grid = np.arange(24 * 24).reshape(24, 24)
    corners = quarters(grid)
    assert corners.shape == (144, 4)
    assert (corners[2 * 12 + 3] == grid[4:6, 6:8].ravel()).all()


def test_character_targets():
    page = draw_page(5)
    targets = dense_targets(page, 0)
    glyphs = page.glyphs[0]
    scale = FRAME / page.images[0].width
    assert targets.characters.tolist() == [CHARACTER_ID[glyph.char] for glyph in glyphs]
    assert targets.y == pytest.approx([glyph.level * scale for glyph in glyphs])
    assert targets.x == pytest.approx([(g.x0 + g.x1) / 2 * scale for g in glyphs])
    begins = targets.before == 0
    assert (np.diff(targets.words, prepend=0) == begins).all()
    assert (targets.before[1:][~begins[1:]] == targets.characters[:-1][~begins[1:]]).all()


def test_height_steps_tell_small_text_apart():
    """Capitals of 4, 6, 8, 12, 20 and 44 pixels of 256, in the frame of 384."""
    steps = [height_step(1.5 * cap) for cap in (4, 6, 8, 12, 20, 44)]
    assert steps == [1, 2, 3, 4, 6, 8]
    assert height_step(1) == 1
    assert height_step(FRAME) == HEIGHT_STEPS


def test_thing_targets():
    sample = draw_sample(3, "train", "shapes")
    cells = cell_targets(dense_targets(sample, 0))
    names = sorted(THING_IDS[thing.label] for thing in sample.objects[0])
    assert sorted(cells["middle_thing"][cells["middle_thing"] > 0]) == names
    # A thing covers the corners around its middle.
    for cell in cells["middle_thing"].nonzero()[0]:
        assert cells["middle_thing"][cell] in cells["things"][cell]
        assert cells["middle_color"][cell] in cells["colors"][cell]


def characters_at(*points):
    """Targets with a character at each of these points (x, y) in pixels, 1 the first."""
    x, y = np.array(points, float).T
    ids = np.arange(1, len(points) + 1)
    return replace(empty_targets(), x=x, y=y, characters=ids, heights=ids, before=ids, words=ids)


def test_characters_in_reading_order():
    # The second cell of the first row: two characters, not quite level, and one in a line below.
    cells = cell_targets(characters_at((37, 11), (50, 4), (33, 20)))
    assert cells["characters"][1].tolist() == [1, 2, 3, 0, 0, 0]
    assert cells["characters"].sum() == 6
    # A rotated line is one line, in any drawing order.
    cells = cell_targets(characters_at((33, 20), (57, 10), (49, 14)))
    assert cells["characters"][1].tolist() == [1, 3, 2, 0, 0, 0]
    # Capitals of 6 pixels whose middles are 5.4 pixels apart: each has a slot of its own.
    cells = cell_targets(characters_at(*((32 + 5.4 * i, 11) for i in range(6))))
    assert cells["characters"][1].tolist() == [1, 2, 3, 4, 5, 6]
    # A cell keeps its first six.
    cells = cell_targets(characters_at(*((33 + 4 * i, 11) for i in range(7)), (5, 370)))
    assert cells["characters"][1].tolist() == [1, 2, 3, 4, 5, 6]
    assert cells["characters"][11 * 12].tolist() == [8, 0, 0, 0, 0, 0]
    assert cells["heights"][1].tolist() == cells["before"][1].tolist() == [1, 2, 3, 4, 5, 6]


def test_letters_share_a_baseline():
    canvas = Canvas((256, 256), (255, 255, 255))
    face = FACES[0]
    canvas.rotated_text("bag", 128, 128, face, 20, (0, 0, 0), 0)
    assert len({glyph.level for glyph in canvas.glyphs}) == 1
    assert len({glyph.y0 for glyph in canvas.glyphs}) > 1
    assert [glyph.follows for glyph in canvas.glyphs] == [False, True, True]
    canvas = Canvas((256, 256), (255, 255, 255))
    canvas.rotated_text("bag", 128, 128, face, 20, (0, 0, 0), 10)
    levels = [glyph.level for glyph in canvas.glyphs]
    assert levels == sorted(levels, reverse=True)


def test_cells_replace_image_tokens(tokenizer, tmp_path):
    torch.manual_seed(0)
    grids = Conversations(tokenizer, batch_size=2, seed=0)
    samples = [grids.draw(seed) for seed in range(6)]
    for sample in samples:
        assert sample["ids"].count(len(tokenizer)) == CELLS * len(sample["cells"])
    model: LlamaForCausalLM = nano_language_model(tokenizer)
    model.set_attn_implementation("eager")
    code = initial_code(None, model, tokenizer)
    batch = collate(samples)
    loss, right, guided = compute_losses(model, code, batch, decode)
    assert 0 <= right <= 1
    assert guided > 0
    (loss + guided).backward()
    assert code.character.grad.abs().sum() > 0
    # What stands in the cells is what the loss depends on.
    names = ("characters", "before", "heights", "words", "things", "middle_thing", "thumbnail")
    for name in names:
        other = {**batch, name: batch[name].flip(1)}
        assert not torch.isclose(compute_losses(model, code, other, decode)[0], loss), name
    # A batch may have no image at all.
    text = collate([grids.encoded(text_conversation(0), [])])
    another = initial_code(None, model, tokenizer)  # with new random matrices
    expected = compute_losses(model, another, text, decode)
    torch.testing.assert_close(compute_losses(model, code, text, decode), expected)
    # Our loop over the layers is transformers' own.
    embeds = torch.randn(2, 9, model.config.hidden_size)
    theirs = model.model(inputs_embeds=embeds, output_attentions=True)
    hidden, attention = decode(model.model, embeds)
    torch.testing.assert_close(hidden, theirs.last_hidden_state)
    for (layer, head), weights in zip(HEADS, attention, strict=True):
        torch.testing.assert_close(weights, theirs.attentions[layer][:, head])
    save_file(code.state_dict(), tmp_path / CODE_FILE)
    torch.testing.assert_close(load_code(tmp_path)(batch), code(batch))


def test_exact_match_needs_every_token():
    targets = torch.tensor(
        [[IGNORE_INDEX, 1, 2, IGNORE_INDEX, 3], [2, IGNORE_INDEX, 1, 1, IGNORE_INDEX]]
    )
    logits = torch.eye(4)[[1, 2, 3, 2, 1, 0]]  # the last token of the last answer is wrong
    loss, right = answer_loss(logits, targets)
    assert right.item() == pytest.approx(3 / 4)
    hit = math.log(math.e + 3) - 1
    parts = [(2, 2 * hit), (1, hit), (1, hit), (2, 2 * hit + 1)]  # tokens, summed loss
    weighted = sum(total * tokens**-0.5 for tokens, total in parts)
    assert loss.item() == pytest.approx(weighted / sum(tokens**0.5 for tokens, _ in parts))


def test_word_positions():
    canvas = Canvas((256, 128), (255, 255, 255))  # 384 pixels of the frame, 96 of them above it
    for text, x, y in (("Corn", 10, 20), ("9.90", 150, 20), ("Total", 10, 60), ("12.40", 150, 60)):
        canvas.text(text, x, y, FACES[0], 14, (0, 0, 0))
    for y in (90, 112):
        canvas.text("same", 10, y, FACES[0], 14, (0, 0, 0))
    sample = Sample("page", [canvas.image], [], "", [canvas.glyphs], [[]])
    words = unique_words(sample, 0)
    positions = {word.text: (word.row, word.column) for word in words}
    assert positions == {"Corn": (4, 1), "9.90": (4, 8), "Total": (6, 1), "12.40": (6, 8)}
    answers = dict(q for seed in range(9) for q in position_questions(words, random.Random(seed)))
    assert answers['Where is "9.90"?'] == "row 4, column 8"
    assert answers["What is in row 6, column 1?"] == "Total"
    assert answers['What is directly left of "9.90"?'] == "Corn"
    assert answers['What is directly right of "Total"?'] == "12.40"
    assert answers['What is directly below "9.90"?'] == "12.40"
    assert answers['What is directly above "Total"?'] == "Corn"
    assert 'What is directly above "Corn"?' not in answers
    small = Canvas((384, 384), (255, 255, 255))
    small.text("I am", 1, 11, FACES[0], 4, (0, 0, 0))
    words = unique_words(Sample("page", [small.image], [], "", [small.glyphs], [[]]), 0)
    assert [word.cells[0] for word in words] == [(0, 0), (0, 0)]
    assert not any(
        q.startswith("What is in") for q, _ in position_questions(words, random.Random(0))
    )


def test_positions_agree_with_cells():
    page = draw_page(11)
    characters = cell_targets(dense_targets(page, 0))["characters"].reshape(12, 12, -1)
    words = [word for word in unique_words(page, 0) if word.text[0].isalnum()]
    matches = [
        CHARACTER_ID[word.text[0]] in characters[word.row - 1, word.column - 1] for word in words
    ]
    assert len(words) > 5
    assert sum(matches) >= 0.9 * len(words)  # not all: rotated lines, cells with too many words


class CutOffError(Exception):
    """Raised by a test in the middle of a training."""


def noisy_training(steps, out, cut_off=None, end=None):
    """A training with random numbers: the model, and the batch index at each start."""
    torch.manual_seed(0)
    model = torch.nn.Linear(3, 3)
    muon_and_adam = optimizers([model], [model], 1e-2, 1e-3)
    first_batches = []

    def losses(done):
        first_batches.append(done)
        for batch in range(done, end or steps):
            if batch == cut_off:
                raise CutOffError
            loss = model(torch.full((2, 3), float(batch)) + torch.rand(2, 3)).square().mean()
            yield loss, {"loss": loss.detach()}

    def save(folder):
        folder.mkdir()
        torch.save(model.state_dict(), folder / "model.pt")

    train(model, losses, muon_and_adam, steps, out, save)
    return model, first_batches


def test_interrupted_training_resumes(tmp_path, monkeypatch):
    monkeypatch.setattr("playground.pretraining.loop.SAVE_EVERY", 4)
    whole, first_batches = noisy_training(11, tmp_path / "whole")
    assert first_batches == [0]
    with pytest.raises(CutOffError):
        noisy_training(11, tmp_path / "parts", cut_off=6)
    assert [path.name for path in tmp_path.iterdir() if path.name != "whole"] == [
        "parts.unfinished"
    ]
    noisy_training(11, tmp_path / "parts", end=7)  # the data ends early
    assert not (tmp_path / "parts").exists()
    parts, first_batches = noisy_training(11, tmp_path / "parts")
    assert first_batches == [4]
    assert torch.equal(parts.weight, whole.weight)
    assert torch.equal(parts.bias, whole.bias)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["parts", "whole"]


def test_state_of_another_training(tmp_path, monkeypatch):
    monkeypatch.setattr("playground.pretraining.loop.SAVE_EVERY", 4)
    unfinished = tmp_path / "out.unfinished"
    torch.save({"model": torch.nn.Linear(2, 2).state_dict()}, unfinished)
    with pytest.raises(MGMError, match=r"out\.unfinished: .* delete it"):
        noisy_training(11, tmp_path / "out")
    unfinished.write_bytes(b"cut short")
    with pytest.raises(MGMError, match=r"out\.unfinished: .* delete it"):
        noisy_training(11, tmp_path / "out")


def test_streams_resume(tokenizer):
    """The batches after the first 12 of a stream with the trainings' seed."""
    size = 2
    first, later = (
        iter(
            batches_after(
                done, lambda seed: Conversations(tokenizer, size, seed), 7, size, 0, collate
            )
        )
        for done in (0, 12)
    )
    for _ in range(12):
        next(first)
    for _ in range(3):
        assert torch.equal(next(first)["ids"], next(later)["ids"])
    assert SAVE_EVERY % POOL == 0


def test_the_code_of_other_cells_is_refused():
    """The code that ships was learned where the lowest height step was 9 pixels."""
    folder = Path(__file__).parents[2] / "playground" / "model_zoo" / "llama-nano"
    with pytest.raises(MGMError, match=r"cell_code\.safetensors: .*height.*--train-cell-code"):
        load_code(folder)
