"""Short answers in one form, so that they can be compared: as EvalAI and published scorers do.

Compat: its oddities decide scores (reference E1): a comma and a question mark go before anything
else, a full stop stays only before a digit, `'s` is set off, "none" is a number.
"""

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ARTICLES = ("a", "an", "the")
PUNCTUATION = (*';/[]"{}()=+\\_-><@`,?!',)
_COUNT = 32  # re.UNICODE, passed in the place of a count: so many full stops go, at most


@dataclass(frozen=True)
class Marks:
    """How a scorer treats the marks within numbers.

    Attributes:
        comma: a comma within a number; an answer that has one loses its marks without a blank.
        stop: a full stop that goes.
    """

    comma: re.Pattern[str]
    stop: re.Pattern[str]


# EvalAI's look-behind is misspelt: it reads "not <= and a digit", which never stands before a stop.
EVAL_AI_MARKS = Marks(re.compile(r"(?<=\d),+(?=\d)"), re.compile(r"\.(?!\d)"))
# Source: process_punctuation of VLMEvalKit's smp/misc.py, which keeps a stop behind a digit.
VLMEVALKIT_MARKS = Marks(re.compile(r"\d,\d"), re.compile(r"(?<!\d)\.(?!\d)"))


@cache
def _words() -> dict[str, dict[str, str]]:
    """Contractions with their apostrophes, and numbers with their digits."""
    file = Path(__file__).parents[1] / "texts" / "vqa_words.json"
    return json.loads(file.read_text(encoding="utf-8"))


def tokenized(text: str) -> str:
    """In lower case, without commas and question marks, `'s` set off."""
    return text.lower().replace(",", "").replace("?", "").replace("'s", " 's").strip()


def without_punctuation(text: str, marks: Marks = EVAL_AI_MARKS) -> str:
    """Marks go where a blank is beside one, or where a number has commas; else they part words."""
    result = text
    has_comma = marks.comma.search(text) is not None
    for mark in PUNCTUATION:
        gone = has_comma or f"{mark} " in text or f" {mark}" in text
        result = result.replace(mark, "" if gone else " ")
    return marks.stop.sub("", result, count=_COUNT)


def without_articles(text: str) -> str:
    """Numbers as digits, no articles, contractions with their apostrophes."""
    words = _words()
    kept = (words["numbers"].get(word, word) for word in text.lower().split())
    return " ".join(words["contractions"].get(word, word) for word in kept if word not in ARTICLES)


def normal_answer(text: str) -> str:
    """An answer as EvalAI compares it. Source: EvalAIAnswerProcessor of m4c_evaluator.py."""
    return without_articles(without_punctuation(_on_one_line(tokenized(text))))


def vlmevalkit_answer(text: str) -> str:
    """An answer as VLMEvalKit compares it. Source: process_answer of its vqa_eval.py."""
    return without_articles(without_punctuation(_on_one_line(text), VLMEVALKIT_MARKS))


def vqav2_answer(text: str) -> str:
    """An answer as lmms-eval's VQAv2 compares it: EvalAI's form without its first step.

    Source: vqav2_process_results of lmms-eval's tasks/vqav2/utils.py.
    """
    return without_articles(without_punctuation(_on_one_line(text)))


def _on_one_line(text: str) -> str:
    return text.replace("\n", " ").replace("\t", " ").strip()


def agreement(
    text: str, answers: Sequence[str], normal: Callable[[str], str] = normal_answer
) -> float:
    """Share of credit for an answer that people gave, too: leave-one-out, as VQA counts it.

    Args:
        text: the model's.
        answers: those of ten people.
        normal: the form in which answers are compared.
    """
    own = normal(text)
    equal = [normal(answer) == own for answer in answers]
    matches = sum(equal)
    if not matches:
        return 0.0
    # Each person is left out once; three of the others are enough.
    return sum(min(1.0, (matches - one) / 3) for one in equal) / len(answers)
