"""Signs: words, codes and telephone numbers on a plate, in coloured boxes or on the background."""

from random import Random

from playground.cap_heights import FRAME, SMALL_TEXT
from playground.colors import COLORS, VIVID, contrast
from playground.emoji import article
from playground.sample import Split
from playground.scenes.sign_drawing import MAX_SMALL_CAP, draw_sign
from playground.scenes.sign_questions import sign_qa_pairs
from playground.scenes.sign_spec import Spec
from playground.style import SHIPPED, Style
from playground.words import choose_code, choose_nonsense, choose_phone, choose_words

PAPERS = (*VIVID, "black", "white")
INKS = (*VIVID, "black", "black", "white")
LAYOUTS = {"single": 42, "headline": 22, "lines": 14, "boxes": 22}  # shares in percent
BARE_SHARE = 0.3  # share of signs that are text on the background, without a plate

draw = draw_sign
qa_pairs = sign_qa_pairs


def choose_text(rng: Random, split: Split, max_words: int = 3, longest: int = FRAME) -> str:
    """Sample a line of text: words, a code, a telephone number or a nonsense word.

    Args:
        longest: maximum number of characters, 8 or more.
    """
    while len(text := _choose_text(rng, split, max_words)) > longest:
        pass
    return text


def _choose_text(rng: Random, split: Split, max_words: int) -> str:
    kind = rng.choices(("words", "code", "phone", "nonsense"), (62, 18, 6, 14))[0]
    if kind == "code":
        return choose_code(rng, split)
    if kind == "phone":
        return choose_phone(rng, split)
    if kind == "nonsense":
        text = choose_nonsense(rng, split)
    else:
        count = rng.choices((1, 2, 3), (60, 28, 12))[0]
        text = " ".join(choose_words(rng, split, min(count, max_words)))
    return rng.choices((text, text.upper(), text.lower()), (60, 25, 15))[0]


def choose_spec(rng: Random, split: Split, style: Style = SHIPPED) -> Spec:
    """Sample the spec of a sign: layout, texts and colours."""
    caps = style.caps
    layouts = {n: s for n, s in LAYOUTS.items() if n != "headline" or caps.low <= MAX_SMALL_CAP}
    layout = rng.choices(tuple(layouts), tuple(layouts.values()))[0]
    bare = layout != "boxes" and rng.random() < BARE_SHARE
    boxes = min(4, caps.lines - 1)
    counts = {"single": 1, "headline": 2}
    counts |= {"lines": rng.randint(2, 4), "boxes": rng.randint(2, boxes)}
    longest = caps.columns // 2 if layout == "headline" else caps.columns * 4 // 5
    texts: list[str] = []
    while len(texts) < counts[layout]:
        words = 3 if layout in ("single", "headline") else 2
        text = choose_text(rng, split, words, longest)
        if text.lower() not in (other.lower() for other in texts):
            texts.append(text)
    papers = rng.sample(PAPERS, counts[layout] if layout == "boxes" else 1)
    if bare and rng.random() < 0.5:
        papers = ["white"]
    min_contrast = 3.3 if caps.low >= SMALL_TEXT else 5.5
    inks = [ink for ink in INKS if contrast(COLORS[ink], COLORS[papers[0]]) > min_contrast]
    return Spec(
        layout=layout,
        bare=bare,
        texts=tuple(texts),
        papers=tuple(papers),
        ink=rng.choice(inks or ["black"]),
        small=rng.randint(0, 1),
        other=_unlike(texts[0], rng, split),
        pill=split == "held_out" and rng.random() < 0.3,
    )


def _unlike(text: str, rng: Random, split: Split) -> str:
    """Sample a different text; half of the time only one letter or digit differs."""
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


def sentences(spec: Spec) -> list[str]:
    """Describe the spec in sentences, for the caption."""
    if spec.layout == "boxes":
        pairs = zip(spec.papers, spec.texts, strict=True)
        return [f'{_start(color)} box that says "{text}".' for color, text in pairs]
    first = spec.texts[0]
    holder = f"{_start(spec.papers[0])} {'picture' if spec.bare else 'sign'}"
    ink = f"{spec.ink} " if spec.bare else ""
    if spec.layout == "single":
        clause = f'with the {ink}text "{first}"' if spec.bare else f'that says "{first}"'
        return [f"{holder} {clause}."]
    if spec.layout == "headline":
        large, small = spec.texts[1 - spec.small], spec.texts[spec.small]
        relation = "below" if spec.small == 1 else "above"
        return [
            f'{holder} with the large {ink}text "{large}" and {relation} it the small text '
            f'"{small}".'
        ]
    listed = ", ".join(f'"{text}"' for text in spec.texts)
    return [f"{holder} with {len(spec.texts)} lines of {ink}text: {listed}."]


def _start(color: str) -> str:
    return article(color).capitalize()
