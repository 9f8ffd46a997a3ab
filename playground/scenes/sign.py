"""Signs: words, codes and telephone numbers on a coloured plate, or in several coloured boxes."""

from dataclasses import dataclass
from random import Random

from PIL import Image, ImageDraw

from playground.backgrounds import choose_background
from playground.canvas import Canvas, choose_cap, choose_size
from playground.colors import VIVID, dark, ink_on, pale, shade
from playground.fonts import choose_face
from playground.scenes.asking import Ask, yes_no
from playground.words import choose_code, choose_nonsense, choose_phone, choose_words

PLATE_COLORS = (*VIVID, "black", "white")
LAYOUTS = ("plate", "headline", "lines", "boxes")
ORDINALS = ("first", "second", "third")


@dataclass(frozen=True)
class Facts:
    """What a sign says.

    Attributes:
        texts: one line each, from top to bottom.
        colors: of the plate, or of each box where the layout is "boxes".
        small: index of the line set in small text, in the layout "headline".
        other: a text that is not on the sign, alike to the one that is.
    """

    layout: str
    texts: tuple[str, ...]
    colors: tuple[str, ...]
    small: int
    other: str


def choose_text(rng: Random, split: str, most_words: int = 3) -> str:
    """One line: words mostly, now and then a code, a telephone number or a word without meaning."""
    kind = rng.choices(("words", "code", "phone", "nonsense"), (66, 16, 6, 12))[0]
    if kind == "code":
        return choose_code(rng, split)
    if kind == "phone":
        return choose_phone(rng, split)
    if kind == "nonsense":
        text = choose_nonsense(rng, split)
    else:
        count = rng.choices((1, 2, 3), (60, 28, 12))[0]
        text = " ".join(choose_words(rng, split, min(count, most_words)))
    return rng.choices((text, text.upper(), text.lower()), (60, 25, 15))[0]


def choose_facts(rng: Random, split: str) -> Facts:
    """Draw what the sign says."""
    layout = rng.choices(LAYOUTS, (40, 25, 15, 20))[0]
    count = {"plate": 1, "headline": 2, "lines": rng.randint(2, 4), "boxes": rng.randint(2, 3)}
    texts: list[str] = []
    while len(texts) < count[layout]:
        text = choose_text(rng, split, 3 if layout in ("plate", "headline") else 2)
        if text.lower() not in (other.lower() for other in texts):
            texts.append(text)
    boxes = count[layout] if layout == "boxes" else 1
    colors = rng.sample(PLATE_COLORS, boxes)
    other = texts[0]
    while other.lower() in (text.lower() for text in texts):
        other = choose_text(rng, split, 2)
    return Facts(layout, tuple(texts), tuple(colors), rng.randint(0, 1), other)


def sentences(facts: Facts, rng: Random) -> list[str]:
    """The facts in words, one sentence each."""
    if facts.layout == "boxes":
        pairs = zip(facts.colors, facts.texts, strict=True)
        return [f'{_article(color)} {color} box that says "{text}".' for color, text in pairs]
    color = facts.colors[0]
    first = facts.texts[0]
    if facts.layout == "plate":
        return [f'{_article(color)} {color} sign that says "{first}".']
    if facts.layout == "headline":
        large, small = facts.texts[1 - facts.small], facts.texts[facts.small]
        place = "below" if facts.small == 1 else "above"
        return [f'{_article(color)} {color} sign with the large text "{large}" '
                f'and {place} it the small text "{small}".']
    listed = ", ".join(f'"{text}"' for text in facts.texts)
    return [f"{_article(color)} {color} sign with {len(facts.texts)} lines of text: {listed}."]


def asks(facts: Facts, rng: Random) -> list[Ask]:
    """All that can be asked about the sign."""
    if facts.layout == "boxes":
        return _box_asks(facts)
    color, keys = facts.colors[0], tuple(f"line {i}" for i in range(len(facts.texts)))
    found = [Ask("color", ("What color is the sign?", "What is the color of the sign?"),
                 color, f"The sign is {color}.")]
    if facts.layout == "plate":
        found += _plate_asks(facts.texts[0], facts.other, rng)
    elif facts.layout == "headline":
        for name, index in (("large", 1 - facts.small), ("small", facts.small)):
            found.append(Ask(name, (f"What does the {name} text say?",
                                    f"What is written in {name} letters?",
                                    f"Read the {name} text."),
                             facts.texts[index], f"The {name} text says {facts.texts[index]}.",
                             keys[index:index + 1]))
    else:
        found.append(Ask("lines", ("How many lines of text are there?",
                                   "How many lines does the sign have?"),
                         str(len(keys)), f"There are {len(keys)} lines of text."))
    if facts.layout != "plate":
        places = [("at the top", "top", 0), ("at the bottom", "bottom", len(keys) - 1)]
        for where, name, index in places:
            text = facts.texts[index]
            found.append(Ask(name, (f"What is written {where}?", f"What does the {name} line say?"),
                             text, f"The {name} line says {text}.", keys[index:index + 1]))
    return found


def _plate_asks(text: str, other: str, rng: Random) -> list[Ask]:
    key = ("line 0",)
    words = text.split()
    found = [Ask("text", ("What does the sign say?", "What is written on the sign?",
                          "Read the sign.", "What is the text on the sign?"),
                 text, f"The sign says {text}.", key)]
    claim = rng.choice((text, other))
    found.append(yes_no("check", (f'Does the sign say "{claim}"?',), claim == text,
                        f"Yes, the sign says {text}.", f"No, the sign says {text}.", key))
    if len(words) > 1:
        for index, word in enumerate(words):
            name = ORDINALS[index]
            found.append(Ask("word", (f"What is the {name} word on the sign?",
                                      f"Which word comes {name}?"),
                             word, f"The {name} word is {word}.", key))
    number = f"{len(words)} words" if len(words) > 1 else "1 word"
    verb = "are" if len(words) > 1 else "is"
    found.append(Ask("words", ("How many words are on the sign?",), str(len(words)),
                     f"There {verb} {number} on the sign."))
    return found


def _box_asks(facts: Facts) -> list[Ask]:
    found = [Ask("boxes", ("How many boxes are there?",), str(len(facts.texts)),
                 f"There are {len(facts.texts)} boxes.")]
    for index, (color, text) in enumerate(zip(facts.colors, facts.texts, strict=True)):
        key = (f"line {index}",)
        found.append(Ask("box", (f"What does the {color} box say?",
                                 f"What is written in the {color} box?",
                                 f"Read the text in the {color} box."),
                         text, f"The {color} box says {text}.", key))
        found.append(Ask("box color", (f'What color is the box that says "{text}"?',),
                         color, f"The box that says {text} is {color}.", key))
    return found


def draw(facts: Facts, rng: Random, split: str) -> Canvas:
    """Draw the sign."""
    size = choose_size(rng)
    around = pale(rng) if rng.random() < 0.6 else dark(rng)
    if facts.layout == "boxes":
        canvas = Canvas(size, choose_background(size, around, rng))
        _draw_boxes(canvas, facts, rng, split)
        return canvas
    canvas = Canvas(size, choose_background(size, around, rng, depth=45))
    caps, faces, width = _plan(canvas, facts, rng, split)
    pitches = [max(14.0, cap * 1.9) for cap in caps]
    margin = rng.uniform(6, 16)
    height = min(sum(pitches) + margin * 2, canvas.height - 8)
    plate_size = (round((width + margin * 2) * canvas.scale), round(height * canvas.scale))
    paper = shade(facts.colors[0], rng)
    plate = Canvas(plate_size, paper, canvas.scale)
    ink = ink_on(paper, rng)
    if rng.random() < 0.5:
        inset = rng.uniform(1.5, 3)
        plate.box(inset, inset, plate.width - inset, plate.height - inset, outline=ink,
                  line=rng.uniform(0.8, 2), radius=rng.choice((0, 4)))
    y = (plate.height - sum(pitches)) / 2
    for index, text in enumerate(facts.texts):
        y += pitches[index] / 2
        plate.text(text, plate.width / 2, y, faces[index], caps[index], ink, "middle",
                   f"line {index}")
        y += pitches[index] / 2
    angle = rng.uniform(-8, 8) if rng.random() < 0.25 else 0.0
    slack_x = max(0.0, (canvas.width - plate.width) / 2 - abs(angle) * 1.2 - 3)
    slack_y = max(0.0, (canvas.height - plate.height) / 2 - abs(angle) * 2.4 - 3)
    if slack_x == 0 or slack_y == 0:
        angle = 0.0
    x = canvas.width / 2 + rng.uniform(-slack_x, slack_x)
    y = canvas.height / 2 + rng.uniform(-slack_y, slack_y)
    if rng.random() < 0.3 and angle == 0:
        post = dark(rng)
        canvas.box(x - 3, y, x + 3, canvas.height, fill=post)
    canvas.place(plate, x, y, angle, _rounded(plate_size, rng.choice((0, 0, 4, 10)), canvas.scale))
    return canvas


def _plan(canvas: Canvas, facts: Facts, rng: Random, split: str):  # noqa: ANN202
    low = canvas.smallest_cap
    room = canvas.width - 44
    if facts.layout == "headline":
        small = choose_cap(rng, low, max(low, 11))
        large = max(small * 1.9, choose_cap(rng, 14, 36))
        caps = [large, large]
        caps[facts.small] = small
    else:
        most = 40 if facts.layout == "plate" else min(26, canvas.height / len(facts.texts) / 2.2)
        caps = [choose_cap(rng, low, max(low, most))] * len(facts.texts)
    face = choose_face(rng, split, min(caps))
    faces = [face] * len(caps)
    caps = [canvas.fitting_cap([text], face, cap, room)
            for text, cap in zip(facts.texts, caps, strict=True)]
    if facts.layout != "headline":
        caps = [min(caps)] * len(caps)
    width = max(canvas.text_width(text, face, cap)
                for text, cap in zip(facts.texts, caps, strict=True))
    return caps, faces, width


def _draw_boxes(canvas: Canvas, facts: Facts, rng: Random, split: str) -> None:
    count = len(facts.texts)
    slot = canvas.height / count
    for index, (color, text) in enumerate(zip(facts.colors, facts.texts, strict=True)):
        cap = choose_cap(rng, canvas.smallest_cap, max(canvas.smallest_cap, min(26, slot / 3)))
        face = choose_face(rng, split, cap)
        cap = canvas.fitting_cap([text], face, cap, canvas.width - 40)
        width = canvas.text_width(text, face, cap) + rng.uniform(14, 26)
        height = min(slot - 8, cap * 1.8 + rng.uniform(8, 20))
        x = rng.uniform(width / 2 + 3, canvas.width - width / 2 - 3)
        y = slot * (index + 0.5) + rng.uniform(-1, 1) * (slot - height - 6) / 2
        paper = shade(color, rng)
        canvas.box(x - width / 2, y - height / 2, x + width / 2, y + height / 2, fill=paper,
                   outline=(70, 70, 70), line=0.8, radius=rng.choice((0, 0, 5)))
        canvas.note("box", color, x - width / 2, y - height / 2, x + width / 2, y + height / 2)
        canvas.text(text, x, y, face, cap, ink_on(paper, rng), "middle", f"line {index}")


def _rounded(size: tuple[int, int], radius: float, scale: float) -> Image.Image:
    mask = Image.new("L", size)
    corners = (0, 0, size[0] - 1, size[1] - 1)
    ImageDraw.Draw(mask).rounded_rectangle(corners, radius * scale, 255)
    return mask


def _article(color: str) -> str:
    return "An" if color == "orange" else "A"
