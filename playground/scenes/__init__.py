"""Scenes: seeded random images with questions and answers, one module per kind.

A scene module samples a spec (`choose_spec`), from which it renders an image (`draw`), a caption
(`sentences`) and question-answer pairs (`qa_pairs`), so that text and image always agree.
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
from playground.sample import DrawnObject, Glyph, Sample, Split, Turn
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
from playground.scenes.page import draw_page
from playground.scenes.qa import TURNS, QAPair, conversation
from playground.style import SHIPPED, Style

__all__ = [
    "KINDS",
    "PHOTO",
    "SCENES",
    "DrawnObject",
    "Glyph",
    "Sample",
    "Split",
    "Turn",
    "choose_kind",
    "draw_page",
    "draw_sample",
]


class Scene(Protocol):
    """The interface of a scene module."""

    def choose_spec(self, rng: Random, split: Split, style: Style = SHIPPED) -> Any:
        """Sample the content of an image, with words, numbers and layouts of the split.

        Its text mostly fits into the image at the style's cap heights.
        """
        ...

    def sentences(self, spec: Any) -> list[str]:
        """Sentences of the caption."""
        ...

    def qa_pairs(self, spec: Any, rng: Random) -> list[QAPair]:
        """Questions with answers that follow from the spec."""
        ...

    def draw(
        self,
        spec: Any,
        rng: Random,
        split: Split,
        size: tuple[int, int] | None = None,
        style: Style = SHIPPED,
    ) -> Canvas | list[Canvas]:
        """Render the image or images; `size` is in pixels, None: random."""
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
KINDS = tuple(SCENES)  # kinds that need no photographs
PHOTO = "photo"
SCENES[PHOTO] = photo
ATTEMPTS = 40  # specs to try before other cap heights are sampled
UNSHARP_SHARE = 0.1
SHARES = (28, 12, 12, 12, 8, 10, 8, 10)  # weights of `KINDS`, in per cent
PHOTO_SHARE = 14  # weight of the kind "photo", added to these


def choose_kind(rng: Random, with_photos: bool = False) -> str:
    """Sample a kind of scene by its weight; "photo" only if photographs are given."""
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
    """Draw an image (two for a comparison) with a conversation about it.

    Args:
        seed: equal arguments give an equal sample on every machine with the same fonts.
        split: "train", or "held_out" for words, numbers, faces and layouts that "train" never has.
        kind: one of `KINDS`, or "photo" if photographs are given; None: random.
        turns: minimum and maximum number of questions.
        min_cap_height: from 4 to 12 units (pixels after scaling the longest side to 256). Below 12,
            questions about text are distributed evenly over `HEIGHT_BINS`; at 12, as in the
            training data of the shipped weights, most text is only slightly higher.
        photos: photographs for surroundings and for scenes of kind "photo"; None: none.

    Raises:
        MGMError: `min_cap_height` is out of range, a font is not installed, or `kind` is "photo"
            and no photographs are given.
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
        turns=conversation(scene.qa_pairs(spec, rng), name, caption, heights, rng, turns),
        caption=caption,
        glyphs=[canvas.glyphs for canvas in canvases],
        objects=[canvas.objects for canvas in canvases],
    )


def _finished(canvas: Canvas, rng: Random) -> Image.Image:
    # A few images get camera noise or blur, but not small text, which would become illegible.
    if rng.random() > UNSHARP_SHARE or min(canvas.heights.values(), default=FRAME) < SMALL_CAP:
        return canvas.image
    if rng.random() < 0.5:
        return add_grain(canvas.image, rng, rng.uniform(2, 6))
    return canvas.image.filter(ImageFilter.GaussianBlur(rng.uniform(0.3, 0.6) * canvas.scale))
