"""MathVista's answer extraction, by an LLM judge or by rules, and normalisation."""

import re
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from mgm.eval.harness.llm_judge import Judge
from mgm.eval.metrics.anls import edit_distance

MULTI_CHOICE = "multi_choice"


def extract_answer(text: str, problem: Mapping[str, Any], judge: Judge, attempts: int = 1) -> str:
    """Extract the answer from a response. Source: extract_answer.py.

    Args:
        text: the response.
        problem: problem of the question.
        judge: extracts from responses that contain more than the answer.
        attempts: maximum number of prompts to a judge with empty replies.

    Raises:
        MGMError: the judge does not reply.
    """
    plain = literal_extraction(text, problem)
    if plain is not None:
        return plain
    if judge.is_model:
        prompt = extraction_prompt(problem["query"], text)
        replies = (judge.complete(prompt, temperature=number / 2) for number in range(attempts))
        return next(filter(str.strip, replies), "")
    return rule_extraction(text, problem)


def literal_extraction(text: str, problem: Mapping[str, Any]) -> str | None:
    """The answer, if the response contains nothing else; None: it does."""
    if text == "":
        return ""
    if problem["question_type"] == MULTI_CHOICE and text in problem["choices"]:
        return text
    for kind, convert in (("integer", int), ("float", float)):
        if problem["answer_type"] == kind:
            try:
                return str(convert(text))
            except ValueError:
                pass
    return None


def rule_extraction(text: str, problem: Mapping[str, Any]) -> str:
    """Extract by rules of our own: a letter, the last number or list, or a quoted text."""
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
    numbers = re.findall(r"-?\d[\d,]*\.?\d*", text)
    return numbers[-1].replace(",", "").rstrip(".") if numbers else text.strip()


@cache
def _examples() -> str:
    file = Path(__file__).parents[1] / "texts" / "mathvista_extraction.txt"
    return file.read_text(encoding="utf-8").strip()


def extraction_prompt(query: str, text: str) -> str:
    """The judge's prompt. Source: prompts/ext_ans.py."""
    return f"{_examples()}\n\n{query}\n\n{text}\n\nExtracted answer: "


def normalize_extraction(
    extraction: object,
    choices: Sequence[str] | None,
    question_type: str,
    answer_type: str,
    precision: float | None,
) -> str | None:
    """Convert an extracted answer to the answer type of the problem; None: impossible.

    Compat: any text that is not a valid letter, be it a letter beyond the choices, means the choice
    with the lowest edit distance. Source: calculate_score.py.
    """
    if question_type == MULTI_CHOICE:
        text = extraction.strip() if isinstance(extraction, str) else _to_text(extraction)
        if text is None:
            text = ""
        letters = re.findall(r"\(([a-zA-Z])\)", text)
        letter = letters[0].upper() if letters else text
        names = [chr(ord("A") + n) for n in range(len(choices or ()))]
        if letter in names:
            return (choices or ())[names.index(letter)]
        return nearest_choice(text if not letters else letter, choices or ())
    try:
        if answer_type == "integer":
            return str(int(float(extraction)))  # ty: ignore[invalid-argument-type]
        if answer_type == "float":
            return str(round(float(extraction), precision))  # ty: ignore
    except (ValueError, TypeError, OverflowError):
        return None
    return _to_text(extraction)


def _to_text(value: object) -> str | None:
    try:
        return str(value)
    except ValueError:
        return None


def nearest_choice(text: str, choices: Sequence[str]) -> str:
    """The choice with the lowest edit distance to a text; the first of several."""
    return min(choices, key=lambda choice: edit_distance(text, choice))


def values_equal(first: object, second: object) -> bool:
    """Whether two values are equal. Source: `safe_equal` of calculate_score.py."""
    return first == second
