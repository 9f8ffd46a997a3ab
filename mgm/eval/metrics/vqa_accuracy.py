"""Short answers in one form, so that they can be compared: as EvalAI and published scorers do.

Compat: its oddities decide scores (reference E1): a comma and a question mark go before anything
else, a full stop stays only before a digit, `'s` is set off, "none" is a number.
"""

import json
import re
from functools import cache
from pathlib import Path

ARTICLES = ("a", "an", "the")
PUNCTUATION = (*';/[]"{}()=+\\_-><@`,?!',)
# What was meant to look behind is read as "not <= and a digit", which never stands before a stop.
_STOP = re.compile(r"\.(?!\d)")
_COMMA_IN_NUMBER = re.compile(r"(?<=\d),+(?=\d)")
_COUNT = 32  # re.UNICODE, passed in the place of a count: so many full stops go, at most


@cache
def _words() -> dict[str, dict[str, str]]:
    """Contractions with their apostrophes, and numbers with their digits."""
    file = Path(__file__).parents[1] / "texts" / "vqa_words.json"
    return json.loads(file.read_text(encoding="utf-8"))


def tokenized(text: str) -> str:
    """In lower case, without commas and question marks, `'s` set off."""
    return text.lower().replace(",", "").replace("?", "").replace("'s", " 's").strip()


def without_punctuation(text: str) -> str:
    """Marks go where a blank is beside one, or where a number has commas; else they part words."""
    result = text
    for mark in PUNCTUATION:
        beside = f"{mark} " in text or f" {mark}" in text
        gone = beside or _COMMA_IN_NUMBER.search(text) is not None
        result = result.replace(mark, "" if gone else " ")
    return _STOP.sub("", result, count=_COUNT)


def without_articles(text: str) -> str:
    """Numbers as digits, no articles, contractions with their apostrophes."""
    words = _words()
    kept = (words["numbers"].get(word, word) for word in text.lower().split())
    return " ".join(words["contractions"].get(word, word) for word in kept if word not in ARTICLES)


def normal_answer(text: str) -> str:
    """An answer in its one form."""
    text = tokenized(text).replace("\n", " ").replace("\t", " ").strip()
    return without_articles(without_punctuation(text))


def agreement(text: str, answers: list[str]) -> float:
    """Share of credit for an answer that people gave, too: leave-one-out, as VQA counts it.

    Args:
        text: the model's.
        answers: those of ten people.
    """
    own = normal_answer(text)
    equal = [normal_answer(answer) == own for answer in answers]
    if not answers or not any(equal):
        return 0.0
    matches = sum(equal)
    # Each person is left out once; three of the others are enough.
    return sum(min(1.0, (matches - one) / 3) for one in equal) / len(answers)
