"""At least one question of every benchmark, split and protocol with public targets."""

from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from mgm.eval.harness.question import Question
from mgm.eval.registry import BENCHMARKS
from mgm.eval.tasks.benchmark import LMMS_EVAL, VLMEVALKIT

# A row with the fields of the tables of all harnesses.
ROW: dict[str, Any] = {
    "index": "7", "id": "validation_Art_1", "question_id": "7", "questionId": "7", "pid": "7",
    "image_id": 3, "imageId": "n1", "question": "Which colour is it?", "hint": "Look.",
    "A": "red", "B": "blue", "C": "green", "D": "", "answer": "B", "answers": ["blue"] * 10,
    "category": "colour", "subject": "Art", "l2_category": "colour", "split": "validation",
    "choices": ["red", "blue"], "options": "['red', 'blue']", "label": "B",
    "text": "Which?\n(A) red\n(B) blue", "cycle_category": "0", "task": "textbook",
    "metadata": {"task": "textbook"}, "question_type": "multi_choice", "answer_type": "text",
    "precision": None, "unit": None, "query": "Which?", "answer_option": "B",
    "types": {"structural": "query"}, "data_type": "image", "question_type_id": 1,
    "choice_a": "red", "choice_b": "blue", "choice_c": "green", "choice_d": "grey",
    "multi-choice options": ["(A) red", "(B) blue"], "dataset": "IIIT5K", "number": 4,
    "Question": "Which?", "Options": "(a) red (b) blue", "Correct Answer": "(b)",
    "capability": "ocr,math", "docId": 2, "type": "human",
}  # fmt: skip
YES_NO = {"question": "Is it blue? Please answer yes or no.", "answer": "Yes"}
OTHER: dict[tuple[str, str], list[dict[str, Any]]] = {
    ("mme", ""): [
        YES_NO | {"category": "existence", "question_id": "a.jpg", "image_path": "a.jpg"},
        YES_NO | {"category": "existence", "question_id": "a.jpg", "image_path": "a.jpg",
                  "question": "Is it red? Please answer yes or no.", "answer": "No"},
    ],
    ("pope", ""): [YES_NO | {"category": "random"}, YES_NO | {"category": "popular"},
                   YES_NO | {"category": "random", "answer": "No"}],
    ("mathvista", ""): [
        {"answer": "blue"},
        {"question_type": "free_form", "answer_type": "integer", "answer": "14", "choices": None},
        {"question_type": "free_form", "answer_type": "float", "answer": "1.5", "precision": 1.0,
         "choices": None},
        {"question_type": "free_form", "answer_type": "list", "answer": "[1, 2]", "choices": None},
    ],
    ("scienceqa", LMMS_EVAL): [{"answer": 1}],
    ("ai2d", LMMS_EVAL): [{"answer": "1", "options": ["red", "blue"]}],
    ("vqav2", LMMS_EVAL): [{"answers": [{"answer": "blue", "answer_id": n} for n in range(10)]}],
    ("textvqa", VLMEVALKIT): [{"answer": str(["blue"] * 10)}],
    ("docvqa", VLMEVALKIT): [{"answer": "['blue', 'Blue']"}],
    ("infovqa", VLMEVALKIT): [{"answer": "['blue']"}],
    ("ocrbench", LMMS_EVAL): [
        {"answer": ["blue"], "question_type": "Regular Text Recognition"},
        {"answer": ["x^2"], "dataset": "HME100k",
         "question_type": "Handwritten Mathematical Expression Recognition"},
    ],
    ("ocrbench", VLMEVALKIT): [
        {"answer": "['blue']", "category": "Regular Text Recognition"},
        {"answer": "['x^2']", "category": "Handwritten Mathematical Expression Recognition"},
    ],
    ("chartqa", ""): [{"answer": "14%"}, {"answer": "blue"}],
    ("countbenchqa", ""): [{"answer": "4"}],
    ("mme-realworld", ""): [{"category": "Perception/OCR"}],
    ("mmstar", ""): [{"category": "math"}],
    ("mmmu", VLMEVALKIT): [{}, {"A": "", "B": "", "C": "", "answer": "14"}],
    ("mmbench", ""): [{}, {"index": "1000007", "answer": "A"}, {"index": "8", "answer": "A"}],
}  # fmt: skip


@cache
def protocols() -> list[tuple[str, str, str]]:
    """Names of benchmarks, splits and protocols."""
    return [
        (name, split, protocol)
        for name, kind in BENCHMARKS.items()
        for split in kind.splits
        for protocol in kind.protocols_of(split)
        if split in kind.scored_splits
    ]


def questions_of(data: Path, name: str, split: str, protocol: str) -> list[Question]:
    """Questions of a harness's rows, or of the published files in `data`, from `fixtures`."""
    kind = BENCHMARKS[name]
    if (split, protocol) not in kind.sources:
        if name == "nano":
            return [Question("a/0", "Which?", target="B", group="a", metadata={"prompt": "Which?"})]
        # Files of the first split are used for all. The last hold every category.
        return list(kind.questions(kind.folder_in(data), kind.splits[0], protocol))[-6:]
    return list(_of_rows(name, split, protocol))


def _of_rows(name: str, split: str, protocol: str) -> Iterator[Question]:
    kind = BENCHMARKS[name]
    others = OTHER.get((name, protocol)) or OTHER.get((name, ""), [{}])
    for number, other in enumerate(others, start=1):
        row = ROW | {"split": kind_split(name, split)} | other
        yield kind.row_to_question(row, (Path(f"{number}.png"),), protocol, number)


def kind_split(name: str, split: str) -> str:
    """The split name in a table."""
    return {"val": "validation"}.get(split, split) if name == "mmmu" else "human"
