"""Scenes: seeded pictures with questions and answers, one module per kind.

A scene module first samples a spec (`choose_spec`), from which it renders a picture (`draw`), a
caption (`sentences`) and questions (`asks`), so text and picture always agree.
"""

from random import Random
from typing import Any, Protocol

from PIL import Image, ImageFilter

from playground.backgrounds import add_grain
from playground.canvas import FRAME, Canvas
from playground.fonts import SMALL_CAP
from playground.sample import Glyph, Sample, Split, Thing, Turn
from playground.scenes import (
    bar_chart,
    comparison,
    emoji,
    line_chart,
    receipt,
    shapes,
    sign,
    table,
)
from playground.scenes.asking import TURNS, Ask, conversation
from playground.scenes.page import draw_page

__all__ = [
    "KINDS",
    "SCENES",
    "Glyph",
    "Sample",
    "Split",
    "Thing",
    "Turn",
    "choose_kind",
    "draw_page",
    "draw_sample",
]


class Scene(Protocol):
    """What a scene module offers."""

    def choose_spec(self, rng: Random, split: Split) -> Any:
        """What the picture shows, with the words, numbers and layouts of its split."""
        ...

    def sentences(self, spec: Any) -> list[str]:
        """The caption's sentences."""
        ...

    def asks(self, spec: Any, rng: Random) -> list[Ask]:
        """All questions that the spec answers."""
        ...

    def draw(
        self, spec: Any, rng: Random, split: Split, size: tuple[int, int] | None = None
    ) -> Canvas | list[Canvas]:
        """The picture, or the pictures; `size` in pixels, None: chosen here."""
        ...


SCENES: dict[str, Scene] = {
    "sign": sign,
    "receipt": receipt,
    "table": table,
    "bar_chart": bar_chart,
    "line_chart": line_chart,
    "shapes": shapes,
    "emoji": emoji,
    "comparison": comparison,
}
KINDS = tuple(SCENES)
UNSHARP_SHARE = 0.1
SHARES = (28, 12, 12, 12, 8, 10, 8, 10)  # of the samples, per kind, in percent


def choose_kind(rng: Random) -> str:
    """A kind of scene, signs most often."""
    return rng.choices(KINDS, SHARES)[0]


def draw_sample(
    seed: int, split: Split, kind: str | None = None, turns: tuple[int, int] = TURNS
) -> Sample:
    """Draw a picture (two for a comparison) with a conversation about it.

    Args:
        seed: equal arguments give an equal sample, on every machine with the same fonts.
        split: "train", or "held_out" with words, numbers, faces and layouts never drawn in it.
        kind: one of `KINDS`; at random where None.
        turns: minimum and maximum number of questions.
    """
    rng = Random(f"{split}/{kind}/{seed}")
    name = kind or choose_kind(rng)
    scene = SCENES[name]
    while True:
        spec = scene.choose_spec(rng, split)
        drawn = scene.draw(spec, rng, split)
        canvases = drawn if isinstance(drawn, list) else [drawn]
        if all(canvas.is_sound() for canvas in canvases):
            break
    heights = {key: cap for canvas in canvases for key, cap in canvas.heights.items()}
    caption = " ".join(scene.sentences(spec))
    return Sample(
        kind=name,
        images=[_finished(canvas, rng) for canvas in canvases],
        turns=conversation(scene.asks(spec, rng), name, caption, heights, rng, turns),
        caption=caption,
        glyphs=[canvas.glyphs for canvas in canvases],
        objects=[canvas.things for canvas in canvases],
    )


def _finished(canvas: Canvas, rng: Random) -> Image.Image:
    # A few pictures look photographed; the smallest text would not survive that.
    if rng.random() > UNSHARP_SHARE or min(canvas.heights.values(), default=FRAME) < SMALL_CAP:
        return canvas.image
    if rng.random() < 0.5:
        return add_grain(canvas.image, rng, rng.uniform(2, 6))
    return canvas.image.filter(ImageFilter.GaussianBlur(rng.uniform(0.3, 0.6) * canvas.scale))
