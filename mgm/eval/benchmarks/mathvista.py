"""MathVista: mathematics in pictures; what an answer says is extracted before it is compared."""

import ast
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

from mgm.eval.harness.llm_judge import Judge
from mgm.eval.harness.question import Answered, Question, SkippedQuestion, question_or_skip
from mgm.eval.metrics.mathvista_extraction import (
    CHOICES,
    extract,
    extraction_prompt,
    is_equal,
    normal_extraction,
    ruled_extraction,
)
from mgm.eval.metrics.multiple_choice import LETTERS, by_letter, listed
from mgm.eval.metrics.vlmevalkit import as_read_back, inferred_letter
from mgm.eval.tasks.benchmark import LMMS_EVAL, PAPER, VLMEVALKIT, Benchmark
from mgm.eval.tasks.dataset_source import HubFiles, Needed, Table
from mgm.eval.tasks.files import field, present, read_json, write_lines
from mgm.eval.tasks.prompts import LETTER

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
TRIES = 5  # as often both harnesses ask a judge that says nothing


class MathVista(Benchmark):
    """The judge extracts what an answer says; without one, rules do."""

    name, title, folder = "mathvista", "MathVista", "MathVista"
    splits = scored = ("testmini",)
    sizes: ClassVar = {"testmini": 1000}
    protocols = judged = (PAPER, LMMS_EVAL, VLMEVALKIT)
    sources: ClassVar = {
        ("testmini", LMMS_EVAL): HubFiles(
            "AI4Math/MathVista", "**/testmini-*.parquet", 1000, "decoded_image"
        ),
        ("testmini", VLMEVALKIT): Table(
            "MathVista_MINI.tsv", 1000, "f199b98e178e5a2a20e7048f5dcb0464"
        ),
    }

    def needs(self, split: str) -> list[Needed]:
        """Questions and images."""
        site = "https://huggingface.co/datasets/AI4Math/MathVista/resolve/main"
        return [
            Needed("testmini.json", "MathVista's repository, data/testmini.json"),
            Needed("images", "MathVista, unpacked", f"{site}/images.zip"),
        ]

    def published(
        self, folder: Path, split: str, protocol: str
    ) -> Iterator[Question | SkippedQuestion]:
        """See `Benchmark`."""
        file = present(folder / f"{split}.json")
        for name, problem in read_json(file).items():
            yield question_or_skip(str(name), partial(_published, folder, str(name), problem))

    def from_row(
        self, row: dict[str, Any], images: tuple[Path, ...], protocol: str, number: int
    ) -> Question:
        """See `Benchmark`."""
        listed_choices = row.get("choices") or []
        if isinstance(listed_choices, str):
            listed_choices = ast.literal_eval(listed_choices)
        problem = row | {"choices": [str(one) for one in listed_choices]}
        harness = protocol == VLMEVALKIT
        if harness and problem["question_type"] == CHOICES and not problem.get("answer_option"):
            problem["answer_option"] = LETTERS[problem["choices"].index(str(row["answer"]))]
        return Question(
            id=str(row["index"] if harness else row["pid"]),
            text=row["question"] if harness else format_query(problem),
            images=images,
            answer=str(row["answer"]),
            group=images[0].name,
            category=str(row["task"] if harness else row["metadata"]["task"]),
            max_new_tokens=1024 if harness else 16384,
            facts={"problem": problem},
        )

    def credit(self, answered: Answered, protocol: str, judge: Judge) -> float:
        """Whether what was extracted, in the form that the problem asks for, is the answer."""
        problem = answered.question.facts["problem"]
        if protocol == VLMEVALKIT:
            return float(is_right_in_vlmevalkit(answered, problem, judge))
        normal = _extraction(answered, protocol, judge)
        if protocol == LMMS_EVAL:
            return float(str(normal).strip() == answered.question.answer.strip())
        return float(is_equal(normal, answered.question.answer))

    def parse(self, answered: Answered, protocol: str) -> str | None:
        """See `Benchmark`; what rules extract, without a judge."""
        if protocol == VLMEVALKIT:
            return ruled_extraction(answered.text, answered.question.facts["problem"])
        found = _extraction(answered, protocol, Judge())
        return "" if found is None else str(found)

    def submission(self, answered: Sequence[Answered], folder: Path, split: str) -> list[Path]:
        """What the published scripts leave."""
        records = [
            dict(one.question.facts["problem"])
            | {"pid": one.question.id, "query": one.question.text, "response": one.text}
            for one in answered
        ]
        return [write_lines(folder / "merge.jsonl", records)]


def _published(folder: Path, name: str, problem: dict[str, Any]) -> Question:
    image = problem.get("image")
    return Question(
        id=name,
        text=query(problem),
        images=(folder / image,) if image else (),
        answer=field(problem, "answer", name),
        group=str(image or name),
        category=problem.get("metadata", {}).get("task", ""),
        max_new_tokens=1024,
        facts={"problem": problem},
    )


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


def format_query(problem: Mapping[str, Any]) -> str:
    """What lmms-eval asks, in its task mathvista_testmini_format.

    Source: mathvista_evals.py. Where it has no hint (three decimal places) it fails; ours has none.
    """
    kind = problem["answer_type"]
    if problem["question_type"] == CHOICES:
        hint = LETTER
    elif kind == "float":
        words, _ = DECIMALS.get(problem["precision"], ("", ""))
        hint = f"Answer the question using a single floating-point number with {words}."
        hint = hint if words else ""
    else:
        hint = {
            "integer": "Answer the question using a single integer number.",
            "list": "Answer the question using a Python list.",
        }[kind]
    unit = f" (Unit: {problem['unit']})" if problem.get("unit") else ""
    lines = (f"{problem['question']}{unit}", listed(problem["choices"]), hint)
    return "\n".join(line for line in lines if line).strip()


def _extraction(answered: Answered, protocol: str, judge: Judge) -> Any:
    """What an answer says, in the form that the problem asks for; None: nothing."""
    problem = answered.question.facts["problem"]
    if protocol == PAPER:
        problem = problem | {"query": answered.question.text}
    attempts = TRIES if protocol == LMMS_EVAL else 1
    return normal_extraction(
        extract(answered.text, problem, judge, attempts),
        problem["choices"],
        problem["question_type"],
        problem["answer_type"],
        problem["precision"],
    )


def is_right_in_vlmevalkit(answered: Answered, problem: Mapping[str, Any], judge: Judge) -> bool:
    """Whether VLMEvalKit counts it: as it stands, or what a judge finds in it.

    Source: its mathvista.py. A list is never right there.

    Raises:
        MGMError: a judge was asked, and does not answer.
    """
    text = as_read_back(answered.text)
    meant = _meant(text, problem)
    is_zero = problem["question_type"] != CHOICES and meant is not None and not float(meant)
    if meant is None or is_zero:  # Compat: 0 counts as nothing found, and the judge is asked
        if judge.is_model:
            prompt = extraction_prompt(answered.question.text, text)
            asked = (judge.ask(prompt, temperature=0.5 * number) for number in range(TRIES))
            text = as_read_back(next(filter(None, asked), ""))
        else:
            text = ruled_extraction(text, problem)
        meant = _meant(text, problem)
    right = "answer_option" if problem["question_type"] == CHOICES else "answer"
    return meant is not None and meant == problem[right]


def _meant(text: str, problem: Mapping[str, Any]) -> str | None:
    """The letter that a text names; of a number the answer, if it is that and nothing else."""
    if problem["question_type"] == CHOICES:
        return inferred_letter(text, by_letter(problem["choices"]))
    number = {"integer": int, "float": float}.get(problem["answer_type"])
    try:
        same = number is not None and number(text) == number(problem["answer"])
    except ValueError:
        return None
    return problem["answer"] if same else None
