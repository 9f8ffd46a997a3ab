"""Words, numbers and codes of scenes, with a fixed split into training and held-out."""

import zlib
from functools import lru_cache
from pathlib import Path
from random import Random

from playground.sample import Split

HELD_OUT_PERCENT = 15
SMALL_NUMBER = 20  # smaller numbers, such as counts, are in both splits
LONGEST_WORD = 9  # letters
SPARE = 3  # minimum number of words to sample from, beyond the number requested
CODE_LETTERS = "ABCDEFGHJKLMNPQRSTUVWXYZ"  # without I and O, which look like digits
CODE_DIGITS = "23456789"
MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")


def is_held_out(text: str) -> bool:
    """Whether a word (in any case) or a number is excluded from training images."""
    return zlib.crc32(f"mgm:{text.lower()}".encode()) % 100 < HELD_OUT_PERCENT


@lru_cache
def themes() -> dict[str, tuple[str, ...]]:
    """Load all words by theme: 3 to 9 letters, capitalised."""
    lines = Path(__file__).with_name("vocabulary.txt").read_text(encoding="utf-8").splitlines()
    rows = (line.partition(":") for line in lines if line and not line.startswith("#"))
    return {theme: tuple(dict.fromkeys(words.split())) for theme, _, words in rows}


@lru_cache
def words_of(split: Split, theme: str | None = None) -> tuple[str, ...]:
    """Words of a split, of one theme or of all."""
    chosen = themes()[theme] if theme else tuple(dict.fromkeys(sum(themes().values(), ())))
    return tuple(word for word in chosen if is_held_out(word) == (split == "held_out"))


def choose_words(
    rng: Random, split: Split, count: int, theme: str | None = None, longest: int = LONGEST_WORD
) -> list[str]:
    """Sample different words of a split.

    Args:
        longest: maximum number of letters; if too few words are short enough, the shortest ones.
    """
    words = words_of(split, theme)
    if longest < LONGEST_WORD:
        ranked = sorted(words, key=len)
        words = tuple(w for i, w in enumerate(ranked) if len(w) <= longest or i < count + SPARE)
    return rng.sample(words, count)


def choose_number(rng: Random, split: Split, low: int, high: int) -> int:
    """Sample a number of low..high: never a held-out one for training, else one half of the time.

    With `high` up to 50 there are too few held-out numbers to force one. The range must be wide
    enough to contain numbers of both splits.
    """
    wants_held_out = split == "held_out" and rng.random() < 0.5 and high > SMALL_NUMBER + 30
    while True:
        number = rng.randint(low, high)
        held_out = number >= SMALL_NUMBER and is_held_out(str(number))
        if held_out == wants_held_out or (split == "held_out" and not wants_held_out):
            return number


def choose_numbers(rng: Random, split: Split, count: int, low: int, high: int) -> list[int]:
    """Sample different numbers with `choose_number`."""
    numbers: dict[int, None] = {}
    while len(numbers) < count:
        numbers[choose_number(rng, split, low, high)] = None
    return list(numbers)


def choose_spread(
    rng: Random, split: Split, count: int, low: int, high: int, gap: float
) -> tuple[int, ...]:
    """Sample different numbers whose extremes differ from the next by `gap` of the largest."""
    while True:
        numbers = choose_numbers(rng, split, count, low, high)
        ranked = sorted(numbers)
        if min(ranked[1] - ranked[0], ranked[-1] - ranked[-2]) >= ranked[-1] * gap:
            return tuple(numbers)


def choose_price(rng: Random, split: Split, low: int, high: int) -> int:
    """Sample a price of low..high cents; for training not one whose text ("2.45") is held out."""
    while True:
        price = rng.randint(low, high)
        if split == "held_out" or not is_held_out(f"{price / 100:.2f}"):
            return price


def choose_code(rng: Random, split: Split) -> str:
    """Sample a random code of 3 to 7 characters, such as "K7-42B", which cannot be guessed."""
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
    """Sample a short telephone number, such as "555-0137"."""
    while True:
        number = f"{rng.randint(200, 999)}-{rng.randint(0, 9999):04d}"
        if is_held_out(number) == (split == "held_out"):
            return number


def choose_nonsense(rng: Random, split: Split) -> str:
    """Sample a pronounceable nonsense word, such as "Tavuro"."""
    while True:
        word = "".join(
            rng.choice("bdfgklmnprstvz") + rng.choice("aeiou") + rng.choice(("", "", "n", "r", "s"))
            for _ in range(rng.randint(2, 3))
        )
        if is_held_out(word) == (split == "held_out"):
            return word.capitalize()
