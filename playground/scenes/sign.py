"""Signs: words, codes and telephone numbers on a plate, in coloured boxes, or bare."""

from random import Random

from playground.colors import COLORS, VIVID, contrast
from playground.emoji import article
from playground.sample import Split
from playground.scenes.sign_drawing import draw_sign
from playground.scenes.sign_facts import Facts
from playground.scenes.sign_questions import sign_asks
from playground.words import choose_code, choose_nonsense, choose_phone, choose_words

PAPERS = (*VIVID, "black", "white")
INKS = (*VIVID, "black", "black", "white")
LAYOUTS = {"single": 42, "headline": 22, "lines": 14, "boxes": 22}  # shares in percent
BARE_SHARE = 0.3  # of the signs are text on the background, without a plate

draw = draw_sign
asks = sign_asks


def choose_text(rng: Random, split: Split, most_words: int = 3) -> str:
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


def choose_facts(rng: Random, split: Split) -> Facts:
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


def _unlike(text: str, rng: Random, split: Split) -> str:
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


def sentences(facts: Facts) -> list[str]:
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
