"""Signs: words, codes and telephone numbers on a plate, in coloured boxes, or bare."""

from dataclasses import dataclass
from random import Random

from playground.colors import COLORS, VIVID, contrast
from playground.emoji import article
from playground.scenes.asking import Ask, yes_no
from playground.scenes.sign_drawing import draw_sign
from playground.words import choose_code, choose_nonsense, choose_phone, choose_words

PAPERS = (*VIVID, "black", "white")
INKS = (*VIVID, "black", "black", "white")
LAYOUTS = {"single": 42, "headline": 22, "lines": 14, "boxes": 22}  # shares in percent
ORDINALS = ("first", "second", "third")
BARE_SHARE = 0.3  # of the signs are text on the background, without a plate

draw = draw_sign


@dataclass(frozen=True)
class Facts:
    """What a sign says.

    Attributes:
        texts: one line each, from top to bottom.
        papers: colour of the plate or of the background, or of each box in the layout "boxes".
        ink: colour of the text where it is bare; otherwise whatever contrasts.
        small: index of the line in small letters, in the layout "headline".
        other: a text like the first one that is not on the sign.
        pill: the plate has round ends; only in held-out images.
    """

    layout: str
    bare: bool
    texts: tuple[str, ...]
    papers: tuple[str, ...]
    ink: str
    small: int
    other: str
    pill: bool


def choose_text(rng: Random, split: str, most_words: int = 3) -> str:
    """One line: words mostly, now and then a code, a telephone number or a word without meaning."""
    kind = rng.choices(("words", "code", "phone", "nonsense"), (62, 18, 6, 14))[0]
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
    layout = rng.choices(tuple(LAYOUTS), tuple(LAYOUTS.values()))[0]
    bare = layout != "boxes" and rng.random() < BARE_SHARE
    counts = {"single": 1, "headline": 2, "lines": rng.randint(2, 4), "boxes": rng.randint(2, 4)}
    texts: list[str] = []
    while len(texts) < counts[layout]:
        text = choose_text(rng, split, 3 if layout in ("single", "headline") else 2)
        if text.lower() not in (other.lower() for other in texts):
            texts.append(text)
    papers = rng.sample(PAPERS, counts[layout] if layout == "boxes" else 1)
    if bare and rng.random() < 0.5:
        papers = ["white"]
    inks = [ink for ink in INKS if contrast(COLORS[ink], COLORS[papers[0]]) > 3.3]
    return Facts(
        layout=layout,
        bare=bare,
        texts=tuple(texts),
        papers=tuple(papers),
        ink=rng.choice(inks or ["black"]),
        small=rng.randint(0, 1),
        other=_unlike(texts[0], rng, split),
        pill=split == "held_out" and rng.random() < 0.3,
    )


def _unlike(text: str, rng: Random, split: str) -> str:
    """Another text: half of the time only one letter or digit differs."""
    while True:
        other = choose_text(rng, split, 2)
        if rng.random() < 0.5:
            index = rng.choice([i for i, char in enumerate(text) if char.isalnum()])
            char = text[index]
            pool = "23456789" if char.isdigit() else "abdeghkmnprstuw"
            new = rng.choice(pool)
            other = text[:index] + (new.upper() if char.isupper() else new) + text[index + 1 :]
        if other.lower() != text.lower():
            return other


def sentences(facts: Facts, rng: Random) -> list[str]:
    """The facts in words, one sentence each."""
    if facts.layout == "boxes":
        pairs = zip(facts.papers, facts.texts, strict=True)
        return [f'{_start(color)} box that says "{text}".' for color, text in pairs]
    first = facts.texts[0]
    holder = f"{_start(facts.papers[0])} {'picture' if facts.bare else 'sign'}"
    ink = f"{facts.ink} " if facts.bare else ""
    if facts.layout == "single":
        said = f'with the {ink}text "{first}"' if facts.bare else f'that says "{first}"'
        return [f"{holder} {said}."]
    if facts.layout == "headline":
        large, small = facts.texts[1 - facts.small], facts.texts[facts.small]
        place = "below" if facts.small == 1 else "above"
        return [
            f'{holder} with the large {ink}text "{large}" and {place} it the small text "{small}".'
        ]
    listed = ", ".join(f'"{text}"' for text in facts.texts)
    return [f"{holder} with {len(facts.texts)} lines of {ink}text: {listed}."]


def _start(color: str) -> str:
    return article(color).capitalize()


def asks(facts: Facts, rng: Random) -> list[Ask]:
    """All that can be asked about the sign."""
    if facts.layout == "boxes":
        return _box_asks(facts, rng)
    color = facts.papers[0]
    if facts.bare:
        found = [
            Ask(
                "color",
                ("What color is the background?", "What is the color of the background?"),
                color,
                f"The background is {color}.",
            ),
            Ask(
                "color",
                ("What color is the text?", "What is the color of the text?"),
                facts.ink,
                f"The text is {facts.ink}.",
            ),
        ]
    else:
        found = [
            Ask(
                "color",
                ("What color is the sign?", "What is the color of the sign?"),
                color,
                f"The sign is {color}.",
            )
        ]
    if facts.layout == "single":
        return found + _single_asks(facts, rng)
    if facts.layout == "headline":
        for name, index in (("large", 1 - facts.small), ("small", facts.small)):
            found.append(
                Ask(
                    name,
                    (
                        f"What does the {name} text say?",
                        f"What is written in {name} letters?",
                        f"Read the {name} text.",
                    ),
                    facts.texts[index],
                    f"The {name} text says {facts.texts[index]}.",
                    (f"line {index}",),
                )
            )
    else:
        count = len(facts.texts)
        found.append(
            Ask(
                "lines",
                ("How many lines of text are there?",),
                str(count),
                f"There are {count} lines of text.",
            )
        )
    for name, index in (("top", 0), ("bottom", len(facts.texts) - 1)):
        text = facts.texts[index]
        found.append(
            Ask(
                name,
                (
                    f"What is written at the {name}?",
                    f"What does the {name} line say?",
                    f"Read the {name} line.",
                ),
                text,
                f"The {name} line says {text}.",
                (f"line {index}",),
            )
        )
    if facts.layout == "lines":
        for index in range(1, min(3, len(facts.texts) - 1)):
            text, name = facts.texts[index], ORDINALS[index]
            found.append(
                Ask(
                    "line",
                    (f"What does the {name} line say?", f"Read the {name} line."),
                    text,
                    f"The {name} line says {text}.",
                    (f"line {index}",),
                )
            )
    return found


def _single_asks(facts: Facts, rng: Random) -> list[Ask]:
    text, key = facts.texts[0], ("line 0",)
    words = text.split()
    noun = "text" if facts.bare else "sign"
    if facts.bare:
        questions = (
            "What does the text say?",
            "What is written in the image?",
            "Read the text.",
            "What does the image say?",
        )
    else:
        questions = (
            "What does the sign say?",
            "What is written on the sign?",
            "Read the sign.",
            "What is the text on the sign?",
        )
    found = [Ask("text", questions, text, f"The {noun} says {text}.", key)]
    claim = rng.choice((text, facts.other))
    found.append(
        yes_no(
            "check",
            (f'Does the {noun} say "{claim}"?',),
            claim == text,
            f"Yes, the {noun} says {text}.",
            f"No, the {noun} says {text}.",
            key,
        )
    )
    if len(words) > 1:
        for name, word in zip(ORDINALS, words, strict=False):
            found.append(
                Ask(
                    "word",
                    (f"What is the {name} word?", f"Which word comes {name}?"),
                    word,
                    f"The {name} word is {word}.",
                    key,
                )
            )
    number = f"are {len(words)} words" if len(words) > 1 else "is 1 word"
    found.append(Ask("words", ("How many words are there?",), str(len(words)), f"There {number}."))
    return found


def _box_asks(facts: Facts, rng: Random) -> list[Ask]:
    count = len(facts.texts)
    found = []
    for index, (color, text) in enumerate(zip(facts.papers, facts.texts, strict=True)):
        key = (f"line {index}",)
        found.append(
            Ask(
                "box",
                (
                    f"What does the {color} box say?",
                    f"What is written in the {color} box?",
                    f"Read the text in the {color} box.",
                ),
                text,
                f"The {color} box says {text}.",
                key,
            )
        )
    index = rng.randrange(count)
    text, color = facts.texts[index], facts.papers[index]
    found.append(
        Ask(
            "box color",
            (f'What color is the box that says "{text}"?',),
            color,
            f"The box that says {text} is {color}.",
            (f"line {index}",),
        )
    )
    found.append(
        Ask("boxes", ("How many boxes are there?",), str(count), f"There are {count} boxes.")
    )
    for name, index in (("top", 0), ("bottom", count - 1)):
        text = facts.texts[index]
        found.append(
            Ask(
                f"{name} box",
                (f"What does the box at the {name} say?", f"What does the {name} box say?"),
                text,
                f"The {name} box says {text}.",
                (f"line {index}",),
            )
        )
    return found
