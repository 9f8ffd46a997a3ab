"""Pairs of images to compare: words, numbers, emoji or shapes."""

from dataclasses import dataclass
from random import Random

from playground.backgrounds import choose_surroundings
from playground.canvas import Canvas
from playground.colors import VIVID, dark, pale, readable_ink, shade
from playground.emoji import EMOJI, article, draw_emoji
from playground.fonts import choose_face
from playground.image_sizes import choose_size
from playground.sample import Split
from playground.scenes.qa import QAPair, yes_no_question
from playground.shapes import SHAPES, draw_shape
from playground.style import SHIPPED, Style
from playground.words import choose_numbers, choose_words

POSITIONS = ("first", "second")


@dataclass(frozen=True)
class Spec:
    """Content of the two images.

    Attributes:
        theme: "words", "numbers", "emoji" or "shapes".
        contents: text, name of the emoji, or shape of each image.
        colors: colour of each shape or plate.
    """

    theme: str
    contents: tuple[str, str]
    colors: tuple[str, str]


def choose_spec(rng: Random, split: Split, style: Style = SHIPPED) -> Spec:
    """Sample the spec of a comparison: theme, contents and colours of two images."""
    theme = rng.choice(("words", "numbers", "emoji", "shapes"))
    pool: list[str]
    if theme == "words":
        pool = choose_words(rng, split, 2, longest=style.caps.columns - 2)
    elif theme == "numbers":
        pool = [str(n) for n in choose_numbers(rng, split, 2, 1, rng.choice((99, 999)))]
    elif theme == "emoji":
        pool = rng.sample(tuple(EMOJI), 2)
    else:
        pool = rng.sample(SHAPES, 2)
    first, second = pool
    if theme in ("words", "emoji") and rng.random() < 0.4:
        second = first
    color, other = rng.sample(VIVID, 2)
    return Spec(theme, (first, second), (color, color if rng.random() < 0.3 else other))


def sentences(spec: Spec) -> list[str]:
    """Describe the spec in sentences, for the caption."""
    return [
        f"The {position} image shows {_described(spec, i)}." for i, position in enumerate(POSITIONS)
    ]


def _described(spec: Spec, index: int) -> str:
    content, color = spec.contents[index], spec.colors[index]
    if spec.theme == "emoji":
        return article(content)
    if spec.theme == "shapes":
        return article(f"{color} {content}")
    what = "word" if spec.theme == "words" else "number"
    return f'the {what} "{content}" on {article(color)} sign'


def qa_pairs(spec: Spec, rng: Random) -> list[QAPair]:
    """List the questions about the two images, with answers."""
    first, second = spec.contents
    same = first == second
    result = []
    for index, position in enumerate(POSITIONS):
        content, key = spec.contents[index], (f"text {index}",)
        if spec.theme in ("words", "numbers"):
            what = "word" if spec.theme == "words" else "number"
            result.append(
                QAPair(
                    f"read {what}",
                    (
                        f"What does the {position} image say?",
                        f"Which {what} is in the {position} image?",
                    ),
                    content,
                    f"The {position} image says {content}.",
                    key,
                )
            )
        else:
            result.append(
                QAPair(
                    "what",
                    (f"What is in the {position} image?", f"What does the {position} image show?"),
                    content,
                    f"The {position} image shows {article(content)}.",
                )
            )
        if spec.theme != "emoji":
            what = "shape" if spec.theme == "shapes" else "sign"
            color = spec.colors[index]
            result.append(
                QAPair(
                    "color",
                    (f"What color is the {what} in the {position} image?",),
                    color,
                    f"The {what} in the {position} image is {color}.",
                )
            )
        if not same:
            result.append(_which(spec, index, position))
    if spec.theme != "emoji":
        what = "shapes" if spec.theme == "shapes" else "signs"
        alike = spec.colors[0] == spec.colors[1]
        result.append(
            yes_no_question(
                "same color",
                (f"Do both {what} have the same color?",),
                alike,
                f"Yes, both {what} have the same color.",
                f"No, the {what} have different colors.",
            )
        )
    if spec.theme == "numbers":
        keys = ("text 0", "text 1")
        for word, pick in (("larger", max), ("smaller", min)):
            number = pick(spec.contents, key=int)
            position = POSITIONS[spec.contents.index(number)]
            result.append(
                QAPair(
                    word,
                    (f"Which image has the {word} number?",),
                    position,
                    f"The {position} image has the {word} number.",
                    keys,
                    clue=number,
                )
            )
    elif spec.theme == "words":
        result.append(
            yes_no_question(
                "same word",
                ("Do both images show the same word?", "Is the word in both images the same?"),
                same,
                "Yes, both images show the same word.",
                "No, the images show different words.",
                ("text 0", "text 1"),
            )
        )
    elif spec.theme == "emoji":
        result.append(
            yes_no_question(
                "same thing",
                ("Do both images show the same thing?",),
                same,
                "Yes, both images show the same thing.",
                "No, the images show different things.",
            )
        )
    return result


def _which(spec: Spec, index: int, position: str) -> QAPair:
    content = spec.contents[index]
    if spec.theme in ("words", "numbers"):
        return QAPair(
            "which says",
            (f'Which image says "{content}"?',),
            position,
            f"The {position} image says {content}.",
            (f"text {index}",),
        )
    return QAPair(
        "which shows",
        (f"Which image shows {article(content)}?",),
        position,
        f"The {position} image shows {article(content)}.",
    )


def draw(
    spec: Spec,
    rng: Random,
    split: Split,
    size: tuple[int, int] | None = None,
    style: Style = SHIPPED,
) -> list[Canvas]:
    """Render the two images."""
    return [
        _draw_one(spec, index, rng, split, size or choose_size(rng, caps=style.caps), style)
        for index in range(2)
    ]


def _draw_one(
    spec: Spec, index: int, rng: Random, split: Split, size: tuple[int, int], style: Style
) -> Canvas:
    content, color = spec.contents[index], spec.colors[index]
    around = pale(rng) if rng.random() < 0.7 or spec.theme == "shapes" else dark(rng)
    photos = style.photos if spec.theme in ("words", "numbers") else None
    image = choose_surroundings(size, around, rng, split, 20, photos)
    canvas = Canvas(size, image, caps=style.caps)
    if spec.theme in ("emoji", "shapes"):
        side = min(canvas.width, canvas.height) * rng.uniform(0.25, 0.7)
        x = rng.uniform(side / 2 + 4, canvas.width - side / 2 - 4)
        y = rng.uniform(side / 2 + 4, canvas.height - side / 2 - 4)
        if spec.theme == "emoji":
            draw_emoji(canvas, content, x, y, side)
        else:
            draw_shape(canvas, content, x, y, side, shade(color, rng), color)
        return canvas
    cap = canvas.choose_cap(rng, 40)
    face = choose_face(rng, split, cap)
    cap = canvas.fitting_cap([content], face, cap, canvas.width - 40)
    wide = canvas.text_width(content, face, cap) / 2 + rng.uniform(6, 12)
    high = cap + rng.uniform(4, 12)
    x = rng.uniform(wide + 3, canvas.width - wide - 3)
    y = rng.uniform(high + 3, canvas.height - high - 3)
    paper = shade(color, rng)
    canvas.box(x - wide, y - high, x + wide, y + high, fill=paper, outline=(70, 70, 70), line=0.8)
    canvas.text(content, x, y, face, cap, readable_ink(paper, rng, cap), "middle", f"text {index}")
    return canvas
