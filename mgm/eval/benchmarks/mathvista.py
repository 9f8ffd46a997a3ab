"""MathVista: visual mathematics; answers are extracted from responses before comparison."""

import ast
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

from mgm.eval.harness.llm_judge import Judge
from mgm.eval.harness.question import Question, Response, SkippedQuestion, question_or_skip
from mgm.eval.metrics.mathvista_extraction import (
    MULTI_CHOICE,
    extract_answer,
    extraction_prompt,
    normalize_extraction,
    rule_extraction,
    values_equal,
)
from mgm.eval.metrics.multiple_choice import LETTERS, choices_by_letter, format_choices
from mgm.eval.metrics.vlmevalkit import as_stored, infer_letter
from mgm.eval.tasks.benchmark import LMMS_EVAL, PAPER, VLMEVALKIT, Benchmark
from mgm.eval.tasks.dataset_source import HubFiles, RequiredFile, Table
from mgm.eval.tasks.files import load_json, require_field, require_file, write_jsonl
from mgm.eval.tasks.prompts import LETTER_PROMPT

HINTS = {
    MULTI_CHOICE: "Please answer the question and provide the correct option letter, e.g., A, B, "
    "C, D, at the end.",
    "integer": "Please answer the question requiring an integer answer and provide the final value,"
    " e.g., 1, 2, 3, at the end.",
    "list": "Please answer the question requiring a Python list as an answer and provide the final "
    "list, e.g., [1, 2, 3], [1.2, 1.3, 1.4], at the end.",
}
DECIMALS = {
    1: ("one decimal place", "1.2, 1.3, 1.4"),
    2: ("two decimal places", "1.23, 1.34, 1.45"),
}
EXTRACTION_ATTEMPTS = 5  # maximum attempts of a judge with empty replies


class MathVista(Benchmark):
    """Accuracy of answers that an LLM judge extracts; without a judge, rules do."""

    name, title, folder = "mathvista", "MathVista", "MathVista"
    splits = scored_splits = ("testmini",)
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

    def published_files(self, split: str) -> list[RequiredFile]:
        """Question file and images."""
        site = "https://huggingface.co/datasets/AI4Math/MathVista/resolve/main"
        return [
            RequiredFile("testmini.json", "MathVista's repository, data/testmini.json"),
            RequiredFile("images", "MathVista, unpacked", f"{site}/images.zip"),
        ]

    def published_questions(
        self, folder: Path, split: str, protocol: str
    ) -> Iterator[Question | SkippedQuestion]:
        """Problems of MathVista's own file."""
        file = require_file(folder / f"{split}.json")
        for name, problem in load_json(file).items():
            yield question_or_skip(str(name), partial(_paper_question, folder, str(name), problem))

    def row_to_question(
        self, row: dict[str, Any], images: tuple[Path, ...], protocol: str, number: int
    ) -> Question:
        """The prompt of lmms-eval or VLMEvalKit."""
        listed_choices = row.get("choices") or []
        if isinstance(listed_choices, str):
            listed_choices = ast.literal_eval(listed_choices)
        problem = row | {"choices": [str(one) for one in listed_choices]}
        by_vlmevalkit = protocol == VLMEVALKIT
        if (
            by_vlmevalkit
            and problem["question_type"] == MULTI_CHOICE
            and not problem.get("answer_option")
        ):
            problem["answer_option"] = LETTERS[problem["choices"].index(str(row["answer"]))]
        return Question(
            id=str(row["index"] if by_vlmevalkit else row["pid"]),
            text=row["question"] if by_vlmevalkit else lmms_eval_prompt(problem),
            images=images,
            target=str(row["answer"]),
            group=images[0].name,
            category=str(row["task"] if by_vlmevalkit else row["metadata"]["task"]),
            max_new_tokens=1024 if by_vlmevalkit else 16384,
            metadata={"problem": problem},
        )

    def score_one(self, response: Response, protocol: str, judge: Judge) -> float:
        """Whether the extracted answer, converted to the answer type, is the target."""
        problem = response.question.metadata["problem"]
        if protocol == VLMEVALKIT:
            return float(is_vlmevalkit_match(response, problem, judge))
        normal = _extraction(response, protocol, judge)
        if protocol == LMMS_EVAL:
            return float(str(normal).strip() == response.question.target.strip())
        return float(values_equal(normal, response.question.target))

    def parse(self, response: Response, protocol: str) -> str | None:
        """The answer that rules extract, without a judge."""
        if protocol == VLMEVALKIT:
            return rule_extraction(response.text, response.question.metadata["problem"])
        extraction = _extraction(response, protocol, Judge())
        return "" if extraction is None else str(extraction)

    def submission(self, responses: Sequence[Response], folder: Path, split: str) -> list[Path]:
        """The records of the published scripts."""
        records = [
            dict(one.question.metadata["problem"])
            | {"pid": one.question.id, "query": one.question.text, "response": one.text}
            for one in responses
        ]
        return [write_jsonl(folder / "merge.jsonl", records)]


def _paper_question(folder: Path, name: str, problem: dict[str, Any]) -> Question:
    image = problem.get("image")
    return Question(
        id=name,
        text=paper_prompt(problem),
        images=(folder / image,) if image else (),
        target=require_field(problem, "answer", name),
        group=str(image or name),
        category=problem.get("metadata", {}).get("task", ""),
        max_new_tokens=1024,
        metadata={"problem": problem},
    )


def paper_prompt(problem: Mapping[str, Any]) -> str:
    """The published prompt. Source: model_math_vista.py.

    The published code fails for answers with three decimals, which have no hint; here there is
    none in the prompt.
    """
    kind = problem["answer_type"]
    if problem["question_type"] == MULTI_CHOICE:
        hint = HINTS[MULTI_CHOICE]
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
        lines.append(f"Choices:\n{format_choices(problem['choices'], '({letter}) {text}')}")
    return "\n".join(lines)


def lmms_eval_prompt(problem: Mapping[str, Any]) -> str:
    """The prompt of lmms-eval's task mathvista_testmini_format. Source: mathvista_evals.py.

    As in `paper_prompt`, answers with three decimals have no hint.
    """
    kind = problem["answer_type"]
    if problem["question_type"] == MULTI_CHOICE:
        hint = LETTER_PROMPT
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
    lines = (f"{problem['question']}{unit}", format_choices(problem["choices"]), hint)
    return "\n".join(line for line in lines if line).strip()


def _extraction(response: Response, protocol: str, judge: Judge) -> Any:
    """The extracted answer, converted to the answer type; None: impossible."""
    problem = response.question.metadata["problem"]
    if protocol == PAPER:
        problem = problem | {"query": response.question.text}
    attempts = EXTRACTION_ATTEMPTS if protocol == LMMS_EVAL else 1
    return normalize_extraction(
        extract_answer(response.text, problem, judge, attempts),
        problem["choices"],
        problem["question_type"],
        problem["answer_type"],
        problem["precision"],
    )


def is_vlmevalkit_match(response: Response, problem: Mapping[str, Any], judge: Judge) -> bool:
    """Whether VLMEvalKit scores a response as right: literally, or as extracted by a judge.

    Lists are never right. Source: mathvista.py of VLMEvalKit.

    Raises:
        MGMError: the judge does not reply.
    """
    text = as_stored(response.text)
    literal = _literal_answer(text, problem)
    is_zero = (
        problem["question_type"] != MULTI_CHOICE and literal is not None and not float(literal)
    )
    if literal is None or is_zero:  # Compat: 0 is falsy, so that the judge extracts
        if judge.is_model:
            prompt = extraction_prompt(response.question.text, text)
            replies = (
                judge.complete(prompt, temperature=0.5 * number)
                for number in range(EXTRACTION_ATTEMPTS)
            )
            text = as_stored(next(filter(None, replies), ""))
        else:
            text = rule_extraction(text, problem)
        literal = _literal_answer(text, problem)
    target_field = "answer_option" if problem["question_type"] == MULTI_CHOICE else "answer"
    return literal is not None and literal == problem[target_field]


def _literal_answer(text: str, problem: Mapping[str, Any]) -> str | None:
    """The letter in a text; of a number the target, if the text is equal to it."""
    if problem["question_type"] == MULTI_CHOICE:
        return infer_letter(text, choices_by_letter(problem["choices"]))
    number = {"integer": int, "float": float}.get(problem["answer_type"])
    try:
        equal = number is not None and number(text) == number(problem["answer"])
    except ValueError:
        return None
    return problem["answer"] if equal else None
