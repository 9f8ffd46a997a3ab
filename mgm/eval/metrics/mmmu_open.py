"""MMMU's parser and scorer of open questions. Source: MMMU's eval_utils.py."""

import re
from collections.abc import Sequence
from typing import Any

INDICATORS = ("could be ", "so ", "is ", "thus ", "therefore ", "final ", "answer ", "result ")
# Numbers start where no digit precedes, which keeps matching linear in their length.
_NUMBERS = (
    r"-?\b\d{1,3}(?:,\d{3})+\b",
    r"-?(?<!\d)\d+(?:\.\d+)?[eE][+-]?\d+",
    r"-?(?:(?<!\d)\d+\.\d+|\.\d+|(?<!\d)\d+\b)(?![eE][+-]?\d+)(?![,\d])",
)


def normalize_open(text: str) -> list[str | float]:
    """Normalise: a number rounded to two decimals, or lower case; a lone letter gets a space."""
    text = text.strip()
    try:
        return [round(float(text.replace(",", "")), 2)]
    except ValueError:
        low = text.lower()
        return [f" {low}", f"{low} "] if len(low) == 1 else [low]


def numbers(text: str) -> list[str]:
    """All numbers in a text: with commas, scientific, and plain."""
    return [number for pattern in _NUMBERS for number in re.findall(pattern, text)]


def parse_open(text: str) -> list[str | float]:
    """Candidate answers in a response to an open question, normalised.

    Compat: only line breaks end a sentence, since the published pattern needs capitals and the text
    is in lower case. Source: `parse_open_response` of MMMU's eval_utils.py.
    """
    keys = []
    whole = text.strip().strip(".").lower()
    lines = whole.split("\n")
    for index, line in enumerate(lines):
        last = index == len(lines) - 1
        marks = (*INDICATORS, "=") if last else INDICATORS
        tails = [line.split(mark)[-1].strip() for mark in marks if mark in line]
        # Compat: an empty tail does not count as the shortest.
        shortest = ""
        for tail in tails:
            if not shortest or len(tail) < len(shortest):
                shortest = tail
        if shortest and shortest not in (":", ",", ".", "!", "?", ";", "'"):
            keys.append(shortest)
    keys = keys or [whole]
    candidates = [*keys, *(number for key in keys for number in numbers(key))]
    return list(dict.fromkeys(one for part in candidates for one in normalize_open(part)))


def is_open_right(target: object, candidates: Sequence[str | float]) -> bool:
    """Whether a candidate answer is a target, or contains it. Source: `eval_open`."""
    targets = [one for part in as_list(target) for one in normalize_open(str(part))]
    for candidate in candidates:
        if isinstance(candidate, str):
            if any(isinstance(one, str) and one in candidate for one in targets):
                return True
        elif candidate in targets:
            return True
    return False


def as_list(target: object) -> list[Any]:
    """The targets of a question, which may be a single one."""
    return list(target) if isinstance(target, list | tuple) else [target]
