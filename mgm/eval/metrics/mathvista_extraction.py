"""What an answer to a MathVista problem says, extracted before it is compared."""

import re
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from mgm.eval.harness.llm_judge import Judge
from mgm.eval.metrics.anls import edit_distance

MULTI_CHOICE = "multi_choice"


def extract(text: str, problem: Mapping[str, Any], judge: Judge, attempts: int = 1) -> str:
    """What an answer says, in few letters. Source: extract_answer.py.

    Args:
        text: the answer.
        problem: that it is to.
        judge: asked where the answer says more than that.
        attempts: as often a judge is asked that replies nothing.

    Raises:
        MGMError: a judge was asked, and does not answer.
    """
    plain = plain_extraction(text, problem)
    if plain is not None:
        return plain
    if judge.is_model:
        prompt = extraction_prompt(problem["query"], text)
        replies = (judge.complete(prompt, temperature=number / 2) for number in range(attempts))
        return next(filter(str.strip, replies), "")
    return ruled_extraction(text, problem)


def plain_extraction(text: str, problem: Mapping[str, Any]) -> str | None:
    """An answer that says nothing else; None: it does."""
    if text == "":
        return ""
    if problem["question_type"] == MULTI_CHOICE and text in problem["choices"]:
        return text
    for kind, number in (("integer", int), ("float", float)):
        if problem["answer_type"] == kind:
            try:
                return str(number(text))
            except ValueError:
                pass
    return None


def ruled_extraction(text: str, problem: Mapping[str, Any]) -> str:
    """By rules of our own: a letter, the last number or list, or what stands in quotes."""
    quoted = re.search(r'The answer is "(.*)"\.', text)
    if quoted:
        return quoted[1]
    if problem["question_type"] == MULTI_CHOICE:
        letters = re.findall(r"\(([A-Z])\)|(?:answer|option|choice)(?: is)?:? ([A-Z])\b", text)
        if letters:
            return next(filter(None, letters[-1]))
        return text.strip()
    if problem["answer_type"] == "list":
        lists = re.findall(r"\[[^\[\]]*\]", text)
        return lists[-1] if lists else text.strip()
    found = re.findall(r"-?\d[\d,]*\.?\d*", text)
    return found[-1].replace(",", "").rstrip(".") if found else text.strip()


@cache
def _examples() -> str:
    file = Path(__file__).parents[1] / "texts" / "mathvista_extraction.txt"
    return file.read_text(encoding="utf-8").strip()


def extraction_prompt(query: str, text: str) -> str:
    """What the judge is asked. Source: prompts/ext_ans.py."""
    return f"{_examples()}\n\n{query}\n\n{text}\n\nExtracted answer: "


def normal_extraction(
    extraction: object,
    choices: Sequence[str] | None,
    question_type: str,
    answer_type: str,
    precision: float | None,
) -> str | None:
    """What was extracted, in the form that the problem asks for; None: it has no such form.

    Compat: a letter beyond the choices, as any other text, means the choice that is nearest to it.
    Source: calculate_score.py.
    """
    if question_type == MULTI_CHOICE:
        text = extraction.strip() if isinstance(extraction, str) else _written(extraction)
        if text is None:
            text = ""
        found = re.findall(r"\(([a-zA-Z])\)", text)
        letter = found[0].upper() if found else text
        names = [chr(ord("A") + n) for n in range(len(choices or ()))]
        if letter in names:
            return (choices or ())[names.index(letter)]
        return nearest(text if not found else letter, choices or ())
    try:
        if answer_type == "integer":
            return str(int(float(extraction)))  # ty: ignore[invalid-argument-type]
        if answer_type == "float":
            return str(round(float(extraction), precision))  # ty: ignore
    except (ValueError, TypeError, OverflowError):
        return None
    return _written(extraction)


def _written(value: object) -> str | None:
    try:
        return str(value)
    except ValueError:
        return None


def nearest(text: str, choices: Sequence[str]) -> str:
    """The choice at the least distance; the first of several."""
    return min(choices, key=lambda choice: edit_distance(text, choice))


def is_equal(first: object, second: object) -> bool:
    """Whether an answer is right: as values, not as what they mean."""
    return first == second
