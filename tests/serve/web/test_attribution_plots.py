import numpy as np
import pytest
from PIL import Image

from mgm.engine.attribution.mining_attribution import MiningAttribution
from mgm.serve.web.attribution_plots import (
    describe_token,
    draw_overview,
    draw_window,
    grid_side,
    has_global,
    heat_map,
    token_at,
    token_position,
)

SIDE, TOKENS, WINDOW = 64, 2, 4  # pixels, tokens per side of a crop, positions per side of a window


def detail(grid: int = 2, of_global: bool = True, answer: bool = True) -> MiningAttribution:
    draw = np.random.default_rng(0)
    crops = grid**2 + of_global
    mining = draw.random((crops, TOKENS**2, WINDOW**2), dtype=np.float32)
    mining /= mining.sum(-1, keepdims=True)
    shares = draw.random((crops, TOKENS**2), dtype=np.float32)
    pixels = draw.integers(0, 255, (SIDE, SIDE, 3), dtype=np.uint8)
    return MiningAttribution(Image.fromarray(pixels), grid, mining, shares / 50 if answer else None)


def test_token_of_each_pixel():
    one = detail()
    assert has_global(one)
    assert (grid_side(one), grid_side(one, True)) == (4, 2)
    seen = set()
    for row in range(4):
        for column in range(4):
            token = token_at(one, row, column)
            seen.add((token.crop, token.index))
            left, top, right, bottom = token.box
            assert (right - left, bottom - top) == (16, 16)
            assert (
                token_position(one, left, top)
                == token_position(one, right - 1, bottom - 1)
                == (row, column)
            )
    assert len(seen) == 16
    # Crop in the second row, first column; in it the lower right token.
    assert token_at(one, 3, 1).crop == 2
    assert token_at(one, 3, 1).index == 3
    assert token_at(one, 1, 0, True) == token_at(one, 9, -3, True)
    assert token_at(one, 1, 0, True).crop == 4
    assert token_at(one, 1, 0, True).box == (0, 32, 32, 64)


@pytest.mark.parametrize("answer", [True, False])
def test_heat_map_is_answer_attention_times_mining_attention(answer):
    one = detail(answer=answer)
    expected = np.zeros((SIDE, SIDE))
    for of_global in (False, True):
        count = grid_side(one, of_global)
        for row in range(count):
            for column in range(count):
                token = token_at(one, row, column, of_global)
                left, top, right, _ = token.box
                step = (right - left) // WINDOW
                share = one.answer[token.crop, token.index] if answer else 1
                for position, weight in enumerate(one.mining[token.crop, token.index]):
                    y, x = divmod(position, WINDOW)
                    area = np.s_[
                        top + y * step : top + (y + 1) * step,
                        left + x * step : left + (x + 1) * step,
                    ]
                    expected[area] += share * weight
    np.testing.assert_allclose(heat_map(one), expected, rtol=1e-5)


def test_overlay_is_brightest_at_the_maximum():
    one = detail(grid=1, of_global=False)
    view = Image.new("RGB", (SIDE, SIDE), "grey")
    one.mining[:] = 0
    one.mining[0, 3, 5] = 1  # the lower right token attends to its second row, second column
    one = MiningAttribution(view, 1, one.mining, one.answer)
    token = token_at(one, 1, 1)
    picture = np.asarray(draw_window(one, token)).sum(-1)
    y, x = np.unravel_index(picture.argmax(), picture.shape)
    size = picture.shape[0] / WINDOW
    assert (y // size, x // size) == (1, 1)
    whole = draw_overview(one, token)
    assert whole.size == view.size
    assert whole.getpixel(token.box[:2]) == (0, 190, 255)
    bright = np.asarray(draw_overview(one)).sum(-1)
    y, x = np.unravel_index(bright.argmax(), bright.shape)
    assert (y // 8, x // 8) == (5, 5)


def test_captions():
    one = detail(grid=1, of_global=False)
    one.mining[0, 0] = [0.4, 0.3, *[0.3 / 14] * 14]
    one.answer[0] = [0.1, 0.2, 0.05, 0.0]
    text = describe_token(one, token_at(one, 0, 0))
    assert "covers 32 × 32 pixels and mined 16 positions in them" in text
    assert "Half of its attention is on 2 positions, the maximum (40.0%) at (4, 4)" in text
    assert "to it is 10.00%: rank 2 of 4 tokens, which have 35.0% together" in text
    without_answer = MiningAttribution(one.view, 1, one.mining, None)
    assert "answer" not in describe_token(without_answer, token_at(one, 0, 0))
