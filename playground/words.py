"""Words, numbers and codes to draw, split for ever into a training and a held-out part."""

import zlib
from functools import lru_cache
from pathlib import Path
from random import Random

from playground.sample import Split

HELD_OUT_PERCENT = 15
SMALL_NUMBER = 20  # numbers below it (counts among them) are in both parts
LONGEST_WORD = 9  # letters
SPARE = 3  # more words to choose among than are wanted, at least
CODE_LETTERS = "ABCDEFGHJKLMNPQRSTUVWXYZ"  # without I and O, which look like digits
CODE_DIGITS = "23456789"
MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")


def is_held_out(text: str) -> bool:
    """Whether a word (in any case) or a number is kept from every training image."""
    return zlib.crc32(f"mgm:{text.lower()}".encode()) % 100 < HELD_OUT_PERCENT


@lru_cache
def themes() -> dict[str, tuple[str, ...]]:
    """All words by theme: 3 to 9 letters, the first one a capital."""
    lines = Path(__file__).with_name("vocabulary.txt").read_text(encoding="utf-8").splitlines()
    rows = (line.partition(":") for line in lines if line and not line.startswith("#"))
    return {theme: tuple(dict.fromkeys(words.split())) for theme, _, words in rows}


@lru_cache
def words_of(split: Split, theme: str | None = None) -> tuple[str, ...]:
    """The words of one part, of one theme or of all."""
    chosen = themes()[theme] if theme else tuple(dict.fromkeys(sum(themes().values(), ())))
    return tuple(word for word in chosen if is_held_out(word) == (split == "held_out"))


def choose_words(
    rng: Random, split: Split, count: int, theme: str | None = None, longest: int = LONGEST_WORD
) -> list[str]:
    """Different words of the part that `split` names.

    Args:
        longest: maximum number of letters; the shortest words where too few have so few.
    """
    words = words_of(split, theme)
    if longest < LONGEST_WORD:
        ranked = sorted(words, key=len)
        words = tuple(w for i, w in enumerate(ranked) if len(w) <= longest or i < count + SPARE)
    return rng.sample(words, count)


def choose_number(rng: Random, split: Split, low: int, high: int) -> int:
    """A number of low..high: in training never a held-out one, else a held-out one half the time.

    Up to 50 there are too few held-out numbers to ask for one. Low and high must be far enough
    apart that both parts have numbers between them.
    """
    wants_held_out = split == "held_out" and rng.random() < 0.5 and high > SMALL_NUMBER + 30
    while True:
        number = rng.randint(low, high)
        held_out = number >= SMALL_NUMBER and is_held_out(str(number))
        if held_out == wants_held_out or (split == "held_out" and not wants_held_out):
            return number


def choose_numbers(rng: Random, split: Split, count: int, low: int, high: int) -> list[int]:
    """Different numbers, as of `choose_number`."""
    numbers: dict[int, None] = {}
    while len(numbers) < count:
        numbers[choose_number(rng, split, low, high)] = None
    return list(numbers)


def choose_spread(
    rng: Random, split: Split, count: int, low: int, high: int, gap: float
) -> tuple[int, ...]:
    """Different numbers whose largest and smallest stand apart by `gap` of the largest or more."""
    while True:
        numbers = choose_numbers(rng, split, count, low, high)
        ranked = sorted(numbers)
        if min(ranked[1] - ranked[0], ranked[-1] - ranked[-2]) >= ranked[-1] * gap:
            return tuple(numbers)


def choose_price(rng: Random, split: Split, low: int, high: int) -> int:
    """A price of low..high cents; in training never one whose print, as in "2.45", is held out."""
    while True:
        price = rng.randint(low, high)
        if split == "held_out" or not is_held_out(f"{price / 100:.2f}"):
            return price


def choose_code(rng: Random, split: Split) -> str:
    """A random code of 3 to 7 characters, such as "K7-42B", that no word list can give away."""
    while True:
        letters, digits = rng.randint(1, 3), rng.randint(2, 3)
        parts = [
            "".join(rng.choices(CODE_LETTERS, k=letters)),
            "".join(rng.choices(CODE_DIGITS, k=digits)),
        ]
        if rng.random() < 0.4:
            parts.reverse()
        code = rng.choice(("-", "", "")).join(parts)
        if is_held_out(code) == (split == "held_out"):
            return code


def choose_phone(rng: Random, split: Split) -> str:
    """A short telephone number, such as "555-0137"."""
    while True:
        number = f"{rng.randint(200, 999)}-{rng.randint(0, 9999):04d}"
        if is_held_out(number) == (split == "held_out"):
            return number


def choose_nonsense(rng: Random, split: Split) -> str:
    """A pronounceable word that means nothing, such as "Tavuro"."""
    while True:
        word = "".join(
            rng.choice("bdfgklmnprstvz") + rng.choice("aeiou") + rng.choice(("", "", "n", "r", "s"))
            for _ in range(rng.randint(2, 3))
        )
        if is_held_out(word) == (split == "held_out"):
            return word.capitalize()
