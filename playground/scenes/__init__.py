"""Scenes: seeded pictures with questions and answers, one module per kind.

A scene module first samples a spec (`choose_spec`), from which it renders a picture (`draw`), a
caption (`sentences`) and questions (`asks`), so text and picture always agree.
"""

from itertools import count
from random import Random
from typing import Any, Protocol

from PIL import Image, ImageFilter

from playground.backgrounds import add_grain
from playground.canvas import Canvas
from playground.cap_heights import FRAME, MIN_CAP, choose_heights
from playground.fonts import SMALL_CAP
from playground.photo_library import Photos
from playground.sample import Glyph, Sample, Split, Thing, Turn
from playground.scenes import (
    bar_chart,
    comparison,
    emoji,
    line_chart,
    photo,
    receipt,
    shapes,
    sign,
    table,
)
from playground.scenes.asking import TURNS, Ask, conversation
from playground.scenes.page import draw_page
from playground.style import SHIPPED, Style

__all__ = [
    "KINDS",
    "PHOTO",
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

    def choose_spec(self, rng: Random, split: Split, style: Style = SHIPPED) -> Any:
        """What the picture shows, with the words, numbers and layouts of its split.

        Text of the style's heights fits into the picture, in most cases.
        """
        ...

    def sentences(self, spec: Any) -> list[str]:
        """The caption's sentences."""
        ...

    def asks(self, spec: Any, rng: Random) -> list[Ask]:
        """All questions that the spec answers."""
        ...

    def draw(
        self,
        spec: Any,
        rng: Random,
        split: Split,
        size: tuple[int, int] | None = None,
        style: Style = SHIPPED,
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
KINDS = tuple(SCENES)  # without photographs
PHOTO = "photo"
SCENES[PHOTO] = photo
ATTEMPTS = 40  # at a picture with text of chosen heights
UNSHARP_SHARE = 0.1
SHARES = (28, 12, 12, 12, 8, 10, 8, 10)  # of the samples, per kind, in percent
PHOTO_SHARE = 14  # on top of these


def choose_kind(rng: Random, with_photos: bool = False) -> str:
    """A kind of scene, signs most often; "photo" only where there are photographs."""
    if with_photos:
        return rng.choices((*KINDS, PHOTO), (*SHARES, PHOTO_SHARE))[0]
    return rng.choices(KINDS, SHARES)[0]


def draw_sample(
    seed: int,
    split: Split,
    kind: str | None = None,
    turns: tuple[int, int] = TURNS,
    min_cap_height: float = MIN_CAP,
    photos: Photos | None = None,
) -> Sample:
    """Draw a picture (two for a comparison) with a conversation about it.

    Args:
        seed: equal arguments give an equal sample, on every machine with the same fonts.
        split: "train", or "held_out" with words, numbers, faces and layouts never drawn in it.
        kind: one of `KINDS`, or "photo" where there are photographs; at random where None.
        turns: minimum and maximum number of questions.
        min_cap_height: from 4 to 12 units (pixels of an image of 256). Below 12, each of
            `HEIGHT_BINS` has about as many questions about text; at 12, the data of the shipped
            weights, most text is little higher.
        photos: photographs to show: around plates, and in scenes of kind "photo"; None: none.

    Raises:
        MGMError: `min_cap_height` is out of range, a font is not installed, or a "photo" is to be
            drawn without photographs.
    """
    rng = Random(f"{split}/{kind}/{seed}")
    name = kind or choose_kind(rng, photos is not None)
    scene = SCENES[name]
    for attempt in count():
        if attempt % ATTEMPTS == 0:
            style = Style(choose_heights(rng, min_cap_height), photos)
        spec = scene.choose_spec(rng, split, style)
        drawn = scene.draw(spec, rng, split, style=style)
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
