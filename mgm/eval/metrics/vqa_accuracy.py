"""VQA accuracy, and the answer normalisation of EvalAI, VLMEvalKit and lmms-eval.

Compat: details affect scores: commas and question marks are removed first, a period is kept only
before a digit, `'s` becomes a word, "none" is a number.
"""

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ARTICLES = ("a", "an", "the")
PUNCTUATION = (*';/[]"{}()=+\\_-><@`,?!',)
_COUNT = 32  # Compat: re.UNICODE passed as `count`, so that at most 32 periods are removed


@dataclass(frozen=True)
class Marks:
    """Punctuation in numbers, by scorer.

    Attributes:
        comma: within a number; if it matches, punctuation is removed, not replaced by spaces.
        stop: period to remove.
    """

    comma: re.Pattern[str]
    stop: re.Pattern[str]


# Compat: EvalAI's lookbehind is misspelt, "not <= and a digit", so that it always holds.
EVAL_AI_MARKS = Marks(re.compile(r"(?<=\d),+(?=\d)"), re.compile(r"\.(?!\d)"))
# Source: process_punctuation of VLMEvalKit's smp/misc.py, which keeps a period after a digit.
VLMEVALKIT_MARKS = Marks(re.compile(r"\d,\d"), re.compile(r"(?<!\d)\.(?!\d)"))


@cache
def _words() -> dict[str, dict[str, str]]:
    """Maps of contractions to their form with apostrophe, and of number words to digits."""
    file = Path(__file__).parents[1] / "texts" / "vqa_words.json"
    return json.loads(file.read_text(encoding="utf-8"))


def lower_without_marks(text: str) -> str:
    """Lower-case a text, remove commas and question marks, and make `'s` a word."""
    return text.lower().replace(",", "").replace("?", "").replace("'s", " 's").strip()


def remove_punctuation(text: str, marks: Marks = EVAL_AI_MARKS) -> str:
    """Remove punctuation next to a space, or if a number has commas; else replace it by a space."""
    result = text
    has_comma = marks.comma.search(text) is not None
    for mark in PUNCTUATION:
        gone = has_comma or f"{mark} " in text or f" {mark}" in text
        result = result.replace(mark, "" if gone else " ")
    return marks.stop.sub("", result, count=_COUNT)


def normalize_words(text: str) -> str:
    """Remove articles; number words become digits, contractions get apostrophes."""
    words = _words()
    kept = (words["numbers"].get(word, word) for word in text.lower().split())
    return " ".join(words["contractions"].get(word, word) for word in kept if word not in ARTICLES)


def evalai_answer(text: str) -> str:
    """Normalise as EvalAI does. Source: EvalAIAnswerProcessor of m4c_evaluator.py."""
    return normalize_words(remove_punctuation(_on_one_line(lower_without_marks(text))))


def vlmevalkit_answer(text: str) -> str:
    """Normalise as VLMEvalKit does. Source: process_answer of its vqa_eval.py."""
    return normalize_words(remove_punctuation(_on_one_line(text), VLMEVALKIT_MARKS))


def vqav2_answer(text: str) -> str:
    """Normalise as lmms-eval's VQAv2 does: as EvalAI without its first step.

    Source: vqav2_process_results of lmms-eval's tasks/vqav2/utils.py.
    """
    return normalize_words(remove_punctuation(_on_one_line(text)))


def _on_one_line(text: str) -> str:
    return text.replace("\n", " ").replace("\t", " ").strip()


def vqa_accuracy(
    text: str, answers: Sequence[str], normal: Callable[[str], str] = evalai_answer
) -> float:
    """VQA accuracy: min(matches / 3, 1), averaged over leaving out each human answer.

    Args:
        text: the response.
        answers: ten human answers.
        normal: normalises answers before comparison.
    """
    own = normal(text)
    equal = [normal(answer) == own for answer in answers]
    matches = sum(equal)
    if not matches:
        return 0.0
    # Leave-one-out: three matches among the others score 1.
    return sum(min(1.0, (matches - one) / 3) for one in equal) / len(answers)
