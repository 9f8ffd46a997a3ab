"""MMMU: questions of thirty college subjects, with choices or open."""

import ast
import json
import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

from mgm.data.text.templates import IMAGE_MARKER
from mgm.errors import MGMError
from mgm.eval.harness.llm_judge import Judge
from mgm.eval.harness.question import Answered, Question, SkippedQuestion, question_or_skip
from mgm.eval.metrics.lmms_eval import lmms_eval_choice
from mgm.eval.metrics.mmmu_open import as_list, is_open_right, parse_open
from mgm.eval.metrics.multiple_choice import by_letter, listed, parse_choice
from mgm.eval.metrics.vlmevalkit import as_two_choices, choice_credit, choice_question
from mgm.eval.tasks.benchmark import LMMS_EVAL, OFFICIAL, PAPER, VLMEVALKIT, Benchmark
from mgm.eval.tasks.dataset_source import Needed, Table
from mgm.eval.tasks.files import present, read_parquet, write_lines
from mgm.eval.tasks.prompts import LETTER, SINGLE_WORD

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
CHOICES = "multiple-choice"
_TABLE, _MD5 = "MMMU_DEV_VAL.tsv", "585e8ad75e73f75dcad265dfd0417d64"
SEED = 42  # by which a letter is drawn where an answer names none, as published


class MMMU(Benchmark):
    """With the official parser, or as others' harnesses score.

    lmms-eval has a parser of its own, and never counts an open question as right; VLMEvalKit makes
    two choices of it. Where an answer names no letter, one is drawn: by the question here.
    """

    name, title, folder = "mmmu", "MMMU", "MMMU"
    splits = tuple(SPLITS)
    scored = ("val", "dev")
    sizes: ClassVar = {"val": 900, "test": 10500, "dev": 150}
    protocols = (PAPER, OFFICIAL, LMMS_EVAL, VLMEVALKIT)
    judged = (VLMEVALKIT,)
    sources: ClassVar = {
        ("val", VLMEVALKIT): Table(_TABLE, 900, _MD5, "validation"),
        ("dev", VLMEVALKIT): Table(_TABLE, 150, _MD5, "dev"),
    }

    def needs(self, split: str) -> list[Needed]:
        """A folder for each subject."""
        return [
            Needed(subject, "the data set MMMU/MMMU of the Hugging Face hub")
            for subject in SUBJECTS
        ]

    def published(
        self, folder: Path, split: str, protocol: str
    ) -> Iterator[Question | SkippedQuestion]:
        """See `Benchmark`. In the published protocol a question has its first image alone."""
        for subject in SUBJECTS:
            files = sorted(present(folder / subject).glob(f"{SPLITS[split]}-*.parquet"))
            if not files:
                raise MGMError(f"{folder / subject}: has no {SPLITS[split]}-*.parquet")
            for file in files:
                for row in read_parquet(file):
                    where = f"{file}, {row.get('id')}"
                    make = partial(self.question, row, subject, protocol, where)
                    yield question_or_skip(where, make)

    def question(self, row: dict[str, Any], subject: str, protocol: str, where: str) -> Question:
        """The question in a record of MMMU's own files; `where` is named in errors.

        Raises:
            MGMError: it is no such record.
        """
        try:
            choices = [str(one) for one in ast.literal_eval(row["options"] or "[]")]
            kind, text = row["question_type"], row["question"]
        except (KeyError, ValueError, SyntaxError) as error:
            raise MGMError(f"{where}: is no record of MMMU ({error})") from error
        numbers = [n for n in range(1, 8) if row.get(f"image_{n}")]
        if protocol == LMMS_EVAL:  # only those that are named
            shown = f"{text}\n{row['options'] if kind == CHOICES else ''}"
            numbers = [n for n in numbers if f"<image {n}>" in shown]
        images = [row[f"image_{n}"]["bytes"] for n in numbers[: 1 if protocol == PAPER else 7]]
        return Question(
            id=str(row["id"]),
            text=prompt(text, choices, kind, protocol),
            images=tuple(images),
            answer=_answer(row.get("answer")),
            group=str(row["id"]),
            category=subject,
            max_new_tokens=512 if protocol == LMMS_EVAL and "test_" in str(row["id"]) else 128,
            facts={"type": kind, "choices": choices},
        )

    def from_row(
        self, row: dict[str, Any], images: tuple[Path, ...], protocol: str, number: int
    ) -> Question:
        """See `Benchmark`; images stand where the question and its choices have them."""
        question = choice_question(row, images)
        text, placed = with_images(question.text, images)
        name = str(row.get("id") or row["index"])
        question = as_two_choices(replace(question, id=name, text=text, images=placed))
        return replace(question, facts={**question.facts, "type": CHOICES})

    def credit(self, answered: Answered, protocol: str, judge: Judge) -> float:
        """See `parse_choice`, `parse_open`."""
        question = answered.question
        if protocol == VLMEVALKIT:
            return choice_credit(answered, judge)
        if question.facts["type"] == CHOICES:
            return float(_letter(answered, protocol) in as_list(question.answer))
        if protocol == LMMS_EVAL:
            return 0.0  # it compares an answer letter by letter, and no letter is ever right
        return float(is_open_right(question.answer, parse_open(answered.text)))

    def parse(self, answered: Answered, protocol: str) -> str | None:
        """See `Benchmark`."""
        if protocol == VLMEVALKIT:
            return super().parse(answered, protocol)
        if answered.question.facts["type"] == CHOICES:
            return _named_letter(answered, protocol) or ""
        return "; ".join(map(str, parse_open(answered.text)))

    def parts(
        self, questions: Sequence[Question], credits: Sequence[float]
    ) -> dict[str, tuple[float, int]]:
        """Of every discipline, and of every subject."""
        pairs = list(zip(questions, credits, strict=True))
        result = {}
        for name, subjects in DISCIPLINES.items():
            own = [credit for one, credit in pairs if one.category in subjects]
            if own:
                result[name] = (100 * sum(own) / len(own), len(own))
        return result | super().parts(questions, credits)

    def submission(self, answered: Sequence[Answered], folder: Path, split: str) -> list[Path]:
        """What the published evaluator reads, or MMMU's server."""
        records = []
        for one in answered:
            facts = one.question.facts
            record = {
                "id": one.question.id,
                "question_type": facts["type"],
                "answer": one.question.answer,
                "response": one.text,
            }
            if facts["type"] == CHOICES:
                names = by_letter(facts["choices"])
                record |= {
                    "parsed_pred": parse_choice(one.text, names) or "",
                    "index2ans": dict(names),
                }
            else:
                record["parsed_pred"] = sorted(parse_open(one.text), key=str)
            records.append(record)
        written = [write_lines(folder / "merge.jsonl", records)]
        if split == "test":
            path = folder / "mmmu_test.json"
            path.write_text(json.dumps(uploaded(answered), indent=2), encoding="utf-8")
            written.append(path)
        return written


def with_images(text: str, images: Sequence[Path]) -> tuple[str, tuple[Path, ...]]:
    """A text with our markers for `<image 1>` and so on, and the images in their order.

    Raises:
        ValueError: it names an image that there is not.
    """
    named = [int(number) for number in re.findall(r"<image (\d)>", text)]
    if any(not 1 <= number <= len(images) for number in named):
        raise ValueError(f"it has {len(images)} images, and names <image {max(named)}>")
    if not named:
        return text, tuple(images)
    placed = tuple(images[number - 1] for number in named)
    return re.sub(r"<image \d>", IMAGE_MARKER, text), placed


def uploaded(answered: Sequence[Answered]) -> dict[str, str]:
    """What MMMU's server takes: of an open answer the first of what it may mean.

    Source: convert_to_test.py.
    """
    texts = {}
    for one in answered:
        if one.question.facts["type"] == CHOICES:
            texts[one.question.id] = _letter(one)
        else:
            meant = parse_open(one.text)
            texts[one.question.id] = str(meant[0]) if meant else ""
    return texts


def _letter(answered: Answered, protocol: str = PAPER) -> str:
    question = answered.question
    # Compat: a letter is drawn; by the question, so that the order of others is no matter.
    draw = random.Random(f"{SEED} {question.id}")
    names = by_letter(question.facts["choices"])
    return _named_letter(answered, protocol) or draw.choice(list(names))


def _named_letter(answered: Answered, protocol: str) -> str | None:
    parse = lmms_eval_choice if protocol == LMMS_EVAL else parse_choice
    return parse(answered.text, by_letter(answered.question.facts["choices"]))


def prompt(question: str, choices: Sequence[str], kind: str, protocol: str = PAPER) -> str:
    """What is asked. Source: MMMU's data_utils.py with configs/llava1.5.yaml; lmms-eval's mmmu."""
    if kind != CHOICES:
        return f"{question}\n{'' if protocol != LMMS_EVAL else chr(10)}{SINGLE_WORD}"
    if protocol == LMMS_EVAL:
        return f"{question}\n{listed(choices)}\n\n{LETTER}"
    return f"{question}\n{listed(choices, '({letter}) {text}')}\n\n{LETTER}"


def _answer(text: object) -> object:
    """An answer, or a list of them that is written out."""
    if isinstance(text, str) and text.startswith("["):
        try:
            return ast.literal_eval(text)
        except (ValueError, SyntaxError):
            return text
    return text
