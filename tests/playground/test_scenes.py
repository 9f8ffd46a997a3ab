from collections import Counter
from random import Random

import numpy as np
import pytest

from mgm.errors import MGMError
from playground.cap_heights import FRAME, HEIGHT_BINS, MIN_CAP, SHIPPED_MIN_CAP, SMALL_TEXT
from playground.pretraining.targets import frame_transform
from playground.scenes import KINDS, SCENES, draw_page, draw_sample, receipt, shapes, table
from playground.scenes.qa import SHORT_SUFFIX, TURNS
from playground.words import DAYS, MONTHS, words_of

SPLITS = ("train", "held_out")
WITH_TEXT = ("sign", "receipt", "table", "bar_chart", "line_chart", "comparison")


@pytest.mark.parametrize("kind", KINDS)
def test_same_seed_same_sample(kind):
    first, second = (draw_sample(7, "train", kind) for _ in range(2))
    assert first.turns == second.turns
    assert first.glyphs == second.glyphs
    assert [image.tobytes() for image in first.images] == [
        image.tobytes() for image in second.images
    ]
    assert draw_sample(8, "train", kind).images[0].tobytes() != first.images[0].tobytes()


@pytest.mark.parametrize("min_cap", [MIN_CAP, SHIPPED_MIN_CAP])
@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("kind", KINDS)
def test_samples_keep_to_their_form(kind, split, min_cap):
    for seed in range(12):
        sample = draw_sample(seed, split, kind, min_cap_height=min_cap)
        assert sample.kind == kind
        assert sample.caption.endswith(".")
        assert len(sample.images) == (2 if kind == "comparison" else 1)
        assert 2 <= len(sample.turns) <= TURNS[1]
        for image, glyphs in zip(sample.images, sample.glyphs, strict=True):
            assert image.mode == "RGB"
            assert 160 <= max(image.size) <= 640
            for glyph in glyphs:
                assert 0 <= glyph.x0 < glyph.x1 <= image.width
                assert 0 <= glyph.y0 < glyph.y1 <= image.height
        # The wish for bare answers is said at most once, first.
        short = sample.turns[0].question.endswith(SHORT_SUFFIX)
        assert not any(turn.question.endswith(SHORT_SUFFIX) for turn in sample.turns[1:])
        for turn in sample.turns:
            assert turn.kind.startswith(f"{kind}/")
            assert turn.answer.endswith(".") != short
            assert turn.text_height is None or turn.text_height >= min_cap


@pytest.mark.parametrize("kind", WITH_TEXT)
def test_questions_cover_all_heights(kind):
    heights = [
        turn.text_height
        for seed in range(60)
        for turn in draw_sample(seed, "train", kind).turns
        if turn.text_height is not None
    ]
    for low, high in HEIGHT_BINS:
        share = sum(low <= height < high for height in heights) / len(heights)
        assert 0.05 < share < 0.35, (low, high, share)


@pytest.mark.parametrize("kind", WITH_TEXT)
def test_small_text_is_legible(kind):
    for seed in range(40):
        sample = draw_sample(seed, "train", kind)
        for image, glyphs in zip(sample.images, sample.glyphs, strict=True):
            check_small_glyphs(image, glyphs)


def check_small_glyphs(image, glyphs):
    """At least 6 pixels high in the image, and no two in one position of the dense targets."""
    transform, positions = frame_transform(image), []
    for glyph in glyphs:
        assert glyph.cap >= 5.9
        if glyph.cap * FRAME / max(image.size) < SMALL_TEXT:
            x, y = transform.x((glyph.x0 + glyph.x1) / 2), transform.y(glyph.level)
            positions.append((int(y // 8), int(x // 4)))
    assert len(positions) == len(set(positions))


def test_pages_have_small_and_large_text():
    units = []
    for seed in range(25):
        page = draw_page(seed)
        check_small_glyphs(page.images[0], page.glyphs[0])
        units += [glyph.cap * FRAME / page.images[0].width for glyph in page.glyphs[0]]
    assert all(height >= MIN_CAP for height in units)
    for low, high in HEIGHT_BINS:
        assert any(low <= height < high for height in units)


def test_minimum_height_is_checked():
    with pytest.raises(MGMError, match="3 is not from 4 to 12"):
        draw_sample(1, "train", "sign", min_cap_height=3)


@pytest.mark.parametrize("kind", ["sign", "receipt", "table", "bar_chart", "line_chart"])
def test_answers_that_are_read_stand_in_the_picture(kind):
    for seed in range(15):
        sample = draw_sample(seed, "train", kind)
        drawn = "".join(glyph.char for glyphs in sample.glyphs for glyph in glyphs)
        if not sample.turns[0].question.endswith(SHORT_SUFFIX):
            continue
        for turn in sample.turns:
            if turn.text_height is None:
                continue
            if turn.kind.endswith(("color", "check", "trend")):
                continue
            assert turn.answer.replace(" ", "") in drawn, turn


def test_shapes_are_counted_right():
    for seed in range(40):
        sample = draw_sample(seed, "train", "shapes")
        drawn = sample.objects[0]
        for turn in sample.turns:
            if turn.kind == "shapes/shapes" and turn.question.endswith(SHORT_SUFFIX):
                assert turn.answer == str(len(drawn))
            if turn.kind == "shapes/check":
                name = turn.question.split("\n")[0].removesuffix(" in the image?").rstrip("?")
                names = {f"{thing.color} {thing.label}" for thing in drawn}
                assert turn.answer.startswith("Yes" if name.split(" ", 3)[3] in names else "No")


def test_emoji_are_counted_right():
    for seed in range(40):
        sample = draw_sample(seed, "train", "emoji")
        counts = Counter(thing.label for thing in sample.objects[0])
        for turn in sample.turns:
            if turn.kind == "emoji/all" and turn.question.endswith(SHORT_SUFFIX):
                assert turn.answer == str(counts.total())
            if turn.kind == "emoji/where":
                assert counts[turn.question.split("\n")[0][len("Where is the ") : -1]] == 1


def test_things_do_not_overlap():
    for kind in ("shapes", "emoji"):
        for seed in range(20):
            boxes = draw_sample(seed, "train", kind).objects[0]
            for i, a in enumerate(boxes):
                for b in boxes[:i]:
                    apart = a.x1 <= b.x0 or b.x1 <= a.x0 or a.y1 <= b.y0 or b.y1 <= a.y0
                    assert apart, (kind, seed, a, b)


def test_ink_lies_in_the_boxes():
    # A page on plain paper: what differs from the paper must be in a box of a glyph or a thing.
    checked = 0
    for seed in range(40):
        page = draw_page(seed, SHIPPED_MIN_CAP)
        levels = np.asarray(page.images[0], dtype=int)
        paper = levels[0, 0]
        if (levels[:, :3] != paper).any():
            continue
        checked += 1
        ink = np.abs(levels - paper).max(axis=2) > 40
        total = ink.sum()
        for box in (*page.glyphs[0], *page.objects[0]):
            x0, y0 = int(box.x0) - 1, int(box.y0) - 1
            ink[max(0, y0) : int(box.y1) + 2, max(0, x0) : int(box.x1) + 2] = False
        assert ink.sum() <= 0.002 * total, seed
    assert checked >= 3


@pytest.mark.parametrize(("min_cap", "side"), [(SHIPPED_MIN_CAP, FRAME), (MIN_CAP, 384)])
def test_pages_are_dense(min_cap, side):
    for seed in range(20):
        page = draw_page(seed, min_cap)
        assert page.images[0].size == (side, side)
        assert 40 <= len(page.glyphs[0]) <= 230
        assert page.turns == []


@pytest.mark.parametrize("kind", ["sign", "receipt", "table", "bar_chart"])
def test_training_pictures_have_no_held_out_word(kind):
    held_out = {word.lower() for word in words_of("held_out")}
    printed = {"sign": "texts", "receipt": "items", "table": "rows", "bar_chart": "labels"}
    rng, drawn = Random(0), set()
    for _ in range(200):
        spec = SCENES[kind].choose_spec(rng, "train")
        drawn |= {word.lower() for text in getattr(spec, printed[kind]) for word in text.split()}
    assert not drawn & held_out
    assert len(drawn) > 80


def test_words_on_every_receipt_and_table_are_not_held_out():
    fixed = {*table.COLUMNS, *table.CORNERS.values(), *receipt.SHOPS, *MONTHS, *DAYS}
    assert not {word.lower() for word in fixed} & {word.lower() for word in words_of("held_out")}


def test_held_out_grids_are_not_in_training():
    rng = Random(0)
    drawn = {shapes.choose_spec(rng, "train").grid for _ in range(200)}
    assert not drawn & set(shapes.HELD_OUT_GRIDS)


@pytest.mark.parametrize("kind", KINDS)
def test_questions_of_a_scene_differ(kind):
    rng = Random(1)
    for _ in range(10):
        spec = SCENES[kind].choose_spec(rng, "train")
        answers: dict[str, str] = {}
        for pair in SCENES[kind].qa_pairs(spec, rng):
            for question in pair.questions:
                assert answers.setdefault(question, pair.short) == pair.short
            assert pair.short.strip(".")
            assert pair.sentence.endswith(".")
