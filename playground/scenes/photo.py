"""Photographs of one or two objects, some with a text label."""

from dataclasses import dataclass
from random import Random

from mgm.errors import MGMError
from playground.backgrounds import choose_surroundings
from playground.canvas import Canvas
from playground.colors import dark, ink_on, pale
from playground.emoji import article
from playground.fonts import choose_face
from playground.image_sizes import choose_size
from playground.photo_library import FETCH_HINT, Photo
from playground.sample import Split
from playground.scenes.qa import QAPair, yes_no_question
from playground.scenes.sign import choose_text
from playground.style import SHIPPED, Style

POSITIONS = ("on the left", "on the right")
PLURALS = ("clothes", "grapes", "pants", "pliers", "scissors", "fish")  # names without an article
PAIR_SHARE = 0.3  # share of images with two objects
LABEL_SHARE = 0.65  # share of images with a label


@dataclass(frozen=True)
class Spec:
    """Content of a photo scene.

    Attributes:
        photos: photographs from left to right.
        trained: whether the name of each photograph occurs in training images.
        absent: name of an object that is not in the image.
        label: text of the label; "": no label.
    """

    photos: tuple[Photo, ...]
    trained: tuple[bool, ...]
    absent: str
    label: str


def choose_spec(rng: Random, split: Split, style: Style = SHIPPED) -> Spec:
    """Sample the spec of a photo scene: photographs and label.

    Raises:
        MGMError: the style has no photographs.
    """
    library = style.photos
    if library is None:
        raise MGMError(f"the scene 'photo' needs photographs: {FETCH_HINT}, then give --photos DIR")
    photos = library.choose_cutouts(rng, split, 2 if rng.random() < PAIR_SHARE else 1)
    names = library.trained_names - {photo.name for photo in photos}
    label = ""
    if rng.random() < LABEL_SHARE:
        label = choose_text(rng, split, 2, max(8, style.caps.columns * 4 // 5))
    return Spec(
        tuple(photos),
        tuple(photo.name in library.trained_names for photo in photos),
        rng.choice(sorted(names)),
        label,
    )


def sentences(spec: Spec) -> list[str]:
    """Describe the spec in sentences, for the caption."""
    things = [_noun_phrase(photo.name) for photo in spec.photos]
    if len(things) == 1:
        lines = [f"A photo of {things[0]}."]
    else:
        lines = [f"A photo of {things[0]} {POSITIONS[0]} and {things[1]} {POSITIONS[1]}."]
    if spec.label:
        lines.append(f'The label says "{spec.label}".')
    return lines


def qa_pairs(spec: Spec, rng: Random) -> list[QAPair]:
    """List the questions about the image, with answers; only for names in training images."""
    result = []
    single = len(spec.photos) == 1
    for photo, trained, position in zip(spec.photos, spec.trained, POSITIONS, strict=False):
        where = "in the picture" if single else position
        if trained:
            result.append(
                QAPair(
                    "what",
                    (f"What is {where}?", f"What do you see {where}?"),
                    photo.name,
                    f"There is {_noun_phrase(photo.name)} {where}.",
                )
            )
        result.append(
            QAPair(
                "kind",
                (f"What kind of thing is {where}?", f"What kind of thing do you see {where}?"),
                photo.kind,
                f"The thing {where} is {_noun_phrase(photo.kind)}.",
            )
        )
        if trained and not single:
            question = f"Where is the {photo.name}?"
            result.append(
                QAPair("where", (question,), position, f"The {photo.name} is {position}.")
            )
    names = [p.name for p, trained in zip(spec.photos, spec.trained, strict=True) if trained]
    for name in rng.sample([spec.absent, *names[:1]], min(2, 1 + len(names))):
        thing = _noun_phrase(name)
        result.append(
            yes_no_question(
                "check",
                (f"Is there {thing} in the picture?", f"Do you see {thing}?"),
                name != spec.absent,
                f"Yes, there is {thing}.",
                f"No, there is no {name}.",
            )
        )
    if spec.label:
        result.append(
            QAPair(
                "label",
                ("What does the label say?", "Read the label.", "What is written on the label?"),
                spec.label,
                f"The label says {spec.label}.",
                ("label",),
            )
        )
    return result


def _noun_phrase(name: str) -> str:
    return name if name in PLURALS else article(name)


def draw(
    spec: Spec,
    rng: Random,
    split: Split,
    size: tuple[int, int] | None = None,
    style: Style = SHIPPED,
) -> Canvas:
    """Render the image: a background, the cut-outs and the label."""
    assert style.photos is not None  # checked by `choose_spec`
    size = size or choose_size(rng, caps=style.caps)
    around = pale(rng) if rng.random() < 0.7 else dark(rng)
    image = choose_surroundings(size, around, rng, split, 40, style.photos)
    canvas = Canvas(size, image, caps=style.caps)
    top, bottom = 2.0, canvas.height - 2
    if spec.label:
        top, bottom = _draw_label(canvas, spec.label, rng, split)
    slot = canvas.width / len(spec.photos)
    for index, photo in enumerate(spec.photos):
        side = min(slot - 4, bottom - top) * rng.uniform(0.6, 0.98)
        cutout = style.photos.cutout(photo, round(side * canvas.scale), rng.random() < 0.5)
        width, height = cutout.width / canvas.scale, cutout.height / canvas.scale
        left = slot * index + rng.uniform(2, max(2.0, slot - width - 2))
        upper = rng.uniform(top, max(top, bottom - height))
        canvas.stamp(cutout.getchannel("A"), cutout.convert("RGB"), left, upper)
        canvas.add_object(photo.name, None, left, upper, left + width, upper + height)
    return canvas


def _draw_label(canvas: Canvas, text: str, rng: Random, split: Split) -> tuple[float, float]:
    """Draw a label at the top or bottom; returns upper and lower end of the free area."""
    cap = canvas.choose_cap(rng, 20)
    face = choose_face(rng, split, cap)
    cap = canvas.fitting_cap([text], face, cap, canvas.width - 24)
    half = canvas.text_width(text, face, cap) / 2 + rng.uniform(5, 10)
    height = max(14.0, cap * 1.9)
    x = rng.uniform(half + 2, max(half + 2, canvas.width - half - 2))
    at_top = rng.random() < 0.4
    y = height / 2 + 3 if at_top else canvas.height - height / 2 - 3
    paper = pale(rng) if rng.random() < 0.8 else dark(rng)
    box = (x - half, y - height / 2, x + half, y + height / 2)
    canvas.box(*box, fill=paper, outline=(90, 90, 90), line=0.7)
    canvas.text(text, x, y, face, cap, ink_on(paper, rng, 6), "middle", "label")
    if at_top:
        return height + 6, canvas.height - 2
    return 2.0, canvas.height - height - 6
