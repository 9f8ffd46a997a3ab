"""What an answer to an open question may mean. Source: MMMU's eval_utils.py."""

import re
from collections.abc import Sequence
from typing import Any

INDICATORS = ("could be ", "so ", "is ", "thus ", "therefore ", "final ", "answer ", "result ")
# No digit stands before the first: many of them would be looked through from each of them.
_NUMBERS = (
    r"-?\b\d{1,3}(?:,\d{3})+\b",
    r"-?(?<!\d)\d+(?:\.\d+)?[eE][+-]?\d+",
    r"-?(?:(?<!\d)\d+\.\d+|\.\d+|(?<!\d)\d+\b)(?![eE][+-]?\d+)(?![,\d])",
)


def normal(text: str) -> list[str | float]:
    """A number rounded to two places, or a text in small letters; a lone letter with a blank."""
    text = text.strip()
    try:
        return [round(float(text.replace(",", "")), 2)]
    except ValueError:
        low = text.lower()
        return [f" {low}", f"{low} "] if len(low) == 1 else [low]


def numbers(text: str) -> list[str]:
    """All numbers in a text: with commas, scientific, and plain ones."""
    return [found for pattern in _NUMBERS for found in re.findall(pattern, text)]


def parse_open(text: str) -> list[str | float]:
    """What an answer to an open question may mean. Source: MMMU's eval_utils.py.

    Compat: only line breaks part sentences, since letters are made small before.
    """
    keys = []
    whole = text.strip().strip(".").lower()
    pieces = whole.split("\n")
    for place, piece in enumerate(pieces):
        last = place == len(pieces) - 1
        marks = (*INDICATORS, "=") if last else INDICATORS
        tails = [piece.split(mark)[-1].strip() for mark in marks if mark in piece]
        # An empty tail is passed over as long as nothing else was found.
        shortest = ""
        for tail in tails:
            if not shortest or len(tail) < len(shortest):
                shortest = tail
        if shortest and shortest not in (":", ",", ".", "!", "?", ";", "'"):
            keys.append(shortest)
    keys = keys or [whole]
    found = [*keys, *(number for key in keys for number in numbers(key))]
    return list(dict.fromkeys(one for part in found for one in normal(part)))


def is_open_right(answer: object, meant: Sequence[str | float]) -> bool:
    """Whether one of the things that were meant is right."""
    right = [one for part in as_list(answer) for one in normal(str(part))]
    for one in meant:
        if isinstance(one, str):
            if any(isinstance(part, str) and part in one for part in right):
                return True
        elif one in right:
            return True
    return False


def as_list(answer: object) -> list[Any]:
    """The answers of a question that may have several."""
    return list(answer) if isinstance(answer, list | tuple) else [answer]
