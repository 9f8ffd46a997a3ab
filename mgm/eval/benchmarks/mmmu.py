"""MMMU: multiple-choice and open questions of thirty college subjects."""

import ast
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

from mgm.data.text.templates import IMAGE_MARKER
from mgm.errors import MGMError
from mgm.eval.harness.llm_judge import Judge
from mgm.eval.harness.question import Question, Response, SkippedQuestion, question_or_skip
from mgm.eval.metrics.lmms_eval import lmms_eval_choice
from mgm.eval.metrics.mmmu_open import as_list, is_open_right, parse_open
from mgm.eval.metrics.multiple_choice import (
    choices_by_letter,
    format_choices,
    parse_choice,
    random_letter,
)
from mgm.eval.metrics.vlmevalkit import as_multiple_choice, choice_question, score_multiple_choice
from mgm.eval.tasks.benchmark import LMMS_EVAL, OFFICIAL, PAPER, VLMEVALKIT, Benchmark
from mgm.eval.tasks.dataset_source import RequiredFile, Table
from mgm.eval.tasks.files import read_parquet, require_file, write_jsonl
from mgm.eval.tasks.prompts import LETTER_PROMPT, SHORT_ANSWER_PROMPT

# Source: MMMU's data_utils.py.
DISCIPLINES = {
    "Art and Design": ("Art", "Art_Theory", "Design", "Music"),
    "Business": ("Accounting", "Economics", "Finance", "Manage", "Marketing"),
    "Science": ("Biology", "Chemistry", "Geography", "Math", "Physics"),
    "Health and Medicine": (
        *("Basic_Medical_Science", "Clinical_Medicine", "Diagnostics_and_Laboratory_Medicine"),
        *("Pharmacy", "Public_Health"),
    ),
    "Humanities and Social Science": ("History", "Literature", "Sociology", "Psychology"),
    "Tech and Engineering": (
        *("Agriculture", "Architecture_and_Engineering", "Computer_Science", "Electronics"),
        *("Energy_and_Power", "Materials", "Mechanical_Engineering"),
    ),
}
SUBJECTS = tuple(sorted(name for names in DISCIPLINES.values() for name in names))
SPLITS = {"val": "validation", "test": "test", "dev": "dev"}
MULTIPLE_CHOICE = "multiple-choice"
_TABLE, _MD5 = "MMMU_DEV_VAL.tsv", "585e8ad75e73f75dcad265dfd0417d64"


class MMMU(Benchmark):
    """Accuracy with the official parser, or with those of the harnesses.

    lmms-eval has a parser of its own, and scores open questions as wrong; VLMEvalKit turns them
    into two choices. A response without a letter is a random guess, as published.
    """

    name, title, folder = "mmmu", "MMMU", "MMMU"
    splits = tuple(SPLITS)
    scored_splits = ("val", "dev")
    sizes: ClassVar = {"val": 900, "test": 10500, "dev": 150}
    protocols = (PAPER, OFFICIAL, LMMS_EVAL, VLMEVALKIT)
    judged = (VLMEVALKIT,)
    sources: ClassVar = {
        ("val", VLMEVALKIT): Table(_TABLE, 900, _MD5, "validation"),
        ("dev", VLMEVALKIT): Table(_TABLE, 150, _MD5, "dev"),
    }

    def published_files(self, split: str) -> list[RequiredFile]:
        """A folder of parquet files for each subject."""
        return [
            RequiredFile(subject, "the data set MMMU/MMMU of the Hugging Face hub")
            for subject in SUBJECTS
        ]

    def published_questions(
        self, folder: Path, split: str, protocol: str
    ) -> Iterator[Question | SkippedQuestion]:
        """The rows of all subjects; in the paper's protocol with their first image only."""
        for subject in SUBJECTS:
            files = sorted(require_file(folder / subject).glob(f"{SPLITS[split]}-*.parquet"))
            if not files:
                raise MGMError(f"{folder / subject}: has no {SPLITS[split]}-*.parquet")
            for file in files:
                for row in read_parquet(file):
                    where = f"{file}, {row.get('id')}"
                    make = partial(self.question, row, subject, protocol, where)
                    yield question_or_skip(where, make)

    def question(self, row: dict[str, Any], subject: str, protocol: str, where: str) -> Question:
        """Create a question from a row of MMMU's own files.

        Args:
            row: fields of the row.
            subject: subject of the file.
            protocol: decides prompt and images.
            where: location of the row, for errors.

        Raises:
            MGMError: a field is missing or damaged.
        """
        try:
            choices = [str(one) for one in ast.literal_eval(row["options"] or "[]")]
            kind, text = row["question_type"], row["question"]
        except (KeyError, ValueError, SyntaxError) as error:
            raise MGMError(f"{where}: not a record of MMMU ({error})") from error
        numbers = [n for n in range(1, 8) if row.get(f"image_{n}")]
        if protocol == LMMS_EVAL:  # only images that the text refers to
            shown = f"{text}\n{row['options'] if kind == MULTIPLE_CHOICE else ''}"
            numbers = [n for n in numbers if f"<image {n}>" in shown]
        images = [row[f"image_{n}"]["bytes"] for n in numbers[: 1 if protocol == PAPER else 7]]
        return Question(
            id=str(row["id"]),
            text=mmmu_prompt(text, choices, kind, protocol),
            images=tuple(images),
            target=_parse_target(row.get("answer")),
            group=str(row["id"]),
            category=subject,
            max_new_tokens=512 if protocol == LMMS_EVAL and "test_" in str(row["id"]) else 128,
            metadata={"type": kind, "choices": choices},
        )

    def row_to_question(
        self, row: dict[str, Any], images: tuple[Path, ...], protocol: str, number: int
    ) -> Question:
        """VLMEvalKit's prompt, with images interleaved where the text refers to them."""
        question = choice_question(row, images)
        text, placed = insert_image_markers(question.text, images)
        name = str(row.get("id") or row["index"])
        question = as_multiple_choice(replace(question, id=name, text=text, images=placed))
        return replace(question, metadata={**question.metadata, "type": MULTIPLE_CHOICE})

    def score_one(self, response: Response, protocol: str, judge: Judge) -> float:
        """Multiple choice by letter, open questions by candidate answers; see `mmmu_open`."""
        question = response.question
        if protocol == VLMEVALKIT:
            return score_multiple_choice(response, judge)
        if question.metadata["type"] == MULTIPLE_CHOICE:
            return float(_letter(response, protocol) in as_list(question.target))
        if protocol == LMMS_EVAL:
            return 0.0  # Compat: it iterates over the characters of the text
        return float(is_open_right(question.target, parse_open(response.text)))

    def parse(self, response: Response, protocol: str) -> str | None:
        """The letter, or the candidate answers to an open question."""
        if protocol == VLMEVALKIT:
            return super().parse(response, protocol)
        if response.question.metadata["type"] == MULTIPLE_CHOICE:
            return _parse_letter(response, protocol) or ""
        return "; ".join(map(str, parse_open(response.text)))

    def parts(
        self, questions: Sequence[Question], credits: Sequence[float]
    ) -> dict[str, tuple[float, int]]:
        """The accuracies of disciplines and of subjects."""
        pairs = list(zip(questions, credits, strict=True))
        result = {}
        for name, subjects in DISCIPLINES.items():
            own = [credit for one, credit in pairs if one.category in subjects]
            if own:
                result[name] = (100 * sum(own) / len(own), len(own))
        return result | super().parts(questions, credits)

    def submission(self, responses: Sequence[Response], folder: Path, split: str) -> list[Path]:
        """The records of the published evaluator; for the test also the upload for the server."""
        records = []
        for one in responses:
            metadata = one.question.metadata
            record = {
                "id": one.question.id,
                "question_type": metadata["type"],
                "answer": one.question.target,
                "response": one.text,
            }
            if metadata["type"] == MULTIPLE_CHOICE:
                choices = choices_by_letter(metadata["choices"])
                record |= {
                    "parsed_pred": parse_choice(one.text, choices) or "",
                    "index2ans": dict(choices),
                }
            else:
                record["parsed_pred"] = sorted(parse_open(one.text), key=str)
            records.append(record)
        written = [write_jsonl(folder / "merge.jsonl", records)]
        if split == "test":
            path = folder / "mmmu_test.json"
            path.write_text(json.dumps(server_answers(responses), indent=2), encoding="utf-8")
            written.append(path)
        return written


def insert_image_markers(text: str, images: Sequence[Path]) -> tuple[str, tuple[Path, ...]]:
    """Replace `<image 1>` and so on by our image marker; returns text, and images in that order.

    Raises:
        ValueError: the text refers to an image that the row does not have.
    """
    numbers = [int(number) for number in re.findall(r"<image (\d)>", text)]
    if any(not 1 <= number <= len(images) for number in numbers):
        raise ValueError(f"refers to <image {max(numbers)}> of {len(images)} images")
    if not numbers:
        return text, tuple(images)
    placed = tuple(images[number - 1] for number in numbers)
    return re.sub(r"<image \d>", IMAGE_MARKER, text), placed


def server_answers(responses: Sequence[Response]) -> dict[str, str]:
    """The upload for MMMU's server; of an open question the first candidate answer.

    Source: convert_to_test.py.
    """
    texts = {}
    for one in responses:
        if one.question.metadata["type"] == MULTIPLE_CHOICE:
            texts[one.question.id] = _letter(one)
        else:
            candidates = parse_open(one.text)
            texts[one.question.id] = str(candidates[0]) if candidates else ""
    return texts


def _letter(response: Response, protocol: str = PAPER) -> str:
    question = response.question
    choices = choices_by_letter(question.metadata["choices"])
    return _parse_letter(response, protocol) or random_letter(question.id, choices)


def _parse_letter(response: Response, protocol: str) -> str | None:
    parse = lmms_eval_choice if protocol == LMMS_EVAL else parse_choice
    return parse(response.text, choices_by_letter(response.question.metadata["choices"]))


def mmmu_prompt(question: str, choices: Sequence[str], kind: str, protocol: str = PAPER) -> str:
    """The prompt. Source: MMMU's data_utils.py with configs/llava1.5.yaml; lmms-eval's mmmu."""
    if kind != MULTIPLE_CHOICE:
        return f"{question}\n{'' if protocol != LMMS_EVAL else chr(10)}{SHORT_ANSWER_PROMPT}"
    if protocol == LMMS_EVAL:
        return f"{question}\n{format_choices(choices)}\n\n{LETTER_PROMPT}"
    return f"{question}\n{format_choices(choices, '({letter}) {text}')}\n\n{LETTER_PROMPT}"


def _parse_target(text: object) -> object:
    """A target: text, or the Python literal of a list."""
    if isinstance(text, str) and text.startswith("["):
        try:
            return ast.literal_eval(text)
        except (ValueError, SyntaxError):
            return text
    return text
