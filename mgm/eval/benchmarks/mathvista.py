"""MathVista: mathematics in pictures; what an answer says is extracted before it is compared."""

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from mgm.eval.benchmark import PAPER, Benchmark
from mgm.eval.files import field, present, read_json, write_lines
from mgm.eval.judge import Judge
from mgm.eval.letters import listed
from mgm.eval.question import Answered, Question
from mgm.eval.source import Needed

CHOICES = "multi_choice"
HINTS = {
    CHOICES: "Please answer the question and provide the correct option letter, e.g., A, B, C, D, "
    "at the end.",
    "integer": "Please answer the question requiring an integer answer and provide the final value,"
    " e.g., 1, 2, 3, at the end.",
    "list": "Please answer the question requiring a Python list as an answer and provide the final "
    "list, e.g., [1, 2, 3], [1.2, 1.3, 1.4], at the end.",
}
DECIMALS = {
    1: ("one decimal place", "1.2, 1.3, 1.4"),
    2: ("two decimal places", "1.23, 1.34, 1.45"),
}


class MathVista(Benchmark):
    """The judge extracts what an answer says; without one, rules do."""

    name, title, folder = "mathvista", "MathVista", "MathVista"
    splits = scored = ("testmini",)
    sizes = {"testmini": 1000}  # noqa: RUF012
    protocols = (PAPER,)
    judged = (PAPER,)

    def needs(self, split: str) -> list[Needed]:
        """Questions and images."""
        site = "https://huggingface.co/datasets/AI4Math/MathVista/resolve/main"
        return [
            Needed("testmini.json", "MathVista's repository, data/testmini.json"),
            Needed("images", "MathVista, unpacked", f"{site}/images.zip"),
        ]

    def published(self, folder: Path, split: str, protocol: str) -> Iterator[Question]:
        """See `Benchmark`."""
        file = present(folder / f"{split}.json")
        for name, problem in read_json(file).items():
            where = f"{file}, {name}"
            image = problem.get("image")
            yield Question(
                id=str(name),
                text=query(problem),
                images=(folder / image,) if image else (),
                answer=field(problem, "answer", where),
                group=str(image or name),
                category=problem.get("metadata", {}).get("task", ""),
                max_new_tokens=1024,
                facts={"problem": problem},
            )

    def credit(self, answered: Answered, protocol: str, judge: Judge) -> float:
        """Whether what was extracted, in the form that the problem asks for, is the answer."""
        problem = answered.question.facts["problem"]
        found = extract(answered.text, problem | {"query": answered.question.text}, judge)
        normal = normal_extraction(
            found,
            problem["choices"],
            problem["question_type"],
            problem["answer_type"],
            problem["precision"],
        )
        return float(is_equal(normal, answered.question.answer))

    def submission(self, answered: Sequence[Answered], folder: Path, split: str) -> list[Path]:
        """What the published scripts leave."""
        records = [
            dict(one.question.facts["problem"])
            | {"pid": one.question.id, "query": one.question.text, "response": one.text}
            for one in answered
        ]
        return [write_lines(folder / "merge.jsonl", records)]


def query(problem: Mapping[str, Any]) -> str:
    """What is asked. Source: model_math_vista.py.

    Compat: where the published code has no hint (three decimal places) it fails; ours gives none.
    """
    kind = problem["answer_type"]
    if problem["question_type"] == CHOICES:
        hint = HINTS[CHOICES]
    elif kind == "float":
        words, examples = DECIMALS.get(problem["precision"], ("", ""))
        hint = (
            f"Please answer the question requiring a floating-point number with {words} and "
            f"provide the final value, e.g., {examples}, at the end."
            if words
            else ""
        )
    else:
        hint = HINTS[kind]
    question = f"Question: {problem['question']}"
    if problem.get("unit"):
        question += f" (Unit: {problem['unit']})"
    lines = [f"Hint: {hint}"] if hint else []
    lines.append(question)
    if problem.get("choices"):
        lines.append(f"Choices:\n{listed(problem['choices'], '({letter}) {text}')}")
    return "\n".join(lines)


def extract(text: str, problem: Mapping[str, Any], judge: Judge) -> str:
    """What an answer says, in few letters. Source: extract_answer.py.

    Raises:
        MGMError: a judge was asked, and does not answer.
    """
    plain = plain_extraction(text, problem)
    if plain is not None:
        return plain
    if judge.is_model:
        return judge.ask(extraction_prompt(problem["query"], text))
    return ruled_extraction(text, problem)


def plain_extraction(text: str, problem: Mapping[str, Any]) -> str | None:
    """An answer that says nothing else; None: it does."""
    if text == "":
        return ""
    if problem["question_type"] == CHOICES and text in problem["choices"]:
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
    if problem["question_type"] == CHOICES:
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
    if question_type == CHOICES:
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
    return min(choices, key=lambda choice: distance(text, choice))


def distance(first: str, second: str) -> int:
    """Letters to put in, take out or exchange (Levenshtein)."""
    before = list(range(len(second) + 1))
    for row, letter in enumerate(first, start=1):
        now = [row]
        for column, other in enumerate(second, start=1):
            now.append(min(before[column] + 1, now[-1] + 1, before[column - 1] + (letter != other)))
        before = now
    return before[-1]


def is_equal(first: object, second: object) -> bool:
    """Whether an answer is right: as values, not as what they mean."""
    return first == second
