"""ScienceQA: multiple choice of school science, about half of it with an image."""

import re
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

from mgm.errors import MGMError
from mgm.eval.harness.llm_judge import Judge
from mgm.eval.harness.question import Question, Response, SkippedQuestion, question_or_skip
from mgm.eval.metrics.multiple_choice import format_choices
from mgm.eval.metrics.vlmevalkit import choice_question, score_multiple_choice
from mgm.eval.tasks.benchmark import LMMS_EVAL, PAPER, VLMEVALKIT, Benchmark
from mgm.eval.tasks.dataset_source import HubFiles, RequiredFile, Table
from mgm.eval.tasks.files import load_json, require_field
from mgm.eval.tasks.llava_format import write_answers_file
from mgm.eval.tasks.prompts import LETTER_PROMPT

ABCDE = "ABCDE"

SCIENCEQA_URL = "https://opencompass.openxlab.space/utils/benchmarks/ScienceQA/{name}"


class ScienceQA(Benchmark):
    """Accuracy, with parts for questions with and without an image."""

    name, title, folder = "scienceqa", "ScienceQA", "scienceqa"
    splits = scored_splits = ("test", "test-img")
    published_splits = ("test",)
    sizes: ClassVar = {"test": 4241}
    protocols = (PAPER, LMMS_EVAL, VLMEVALKIT)
    judged = (VLMEVALKIT,)
    sources: ClassVar = {
        ("test", LMMS_EVAL): HubFiles(
            "lmms-lab-encoder/ScienceQA", "ScienceQA-FULL/test-*.parquet", 4241
        ),
        ("test-img", LMMS_EVAL): HubFiles(
            "lmms-lab-encoder/ScienceQA", "ScienceQA-IMG/test-*.parquet", 2017
        ),
        ("test-img", VLMEVALKIT): Table(
            "ScienceQA_TEST.tsv", 2017, "e42e9e00f9c59a80d8a5db35bc32b71f", url=SCIENCEQA_URL
        ),
    }

    def published_files(self, split: str) -> list[RequiredFile]:
        """LLaVA's question file, targets and images."""
        hub = "ScienceQA's repository, data/scienceqa"
        return [
            RequiredFile("llava_test_CQM-A.json", "eval.zip of LLaVA's docs/Evaluation.md"),
            RequiredFile("problems.json", hub),
            RequiredFile("pid_splits.json", hub),
            RequiredFile("images/test", "ScienceQA, unpacked"),
        ]

    def published_questions(
        self, folder: Path, split: str, protocol: str
    ) -> Iterator[Question | SkippedQuestion]:
        """Prompts of LLaVA's question file; targets of ScienceQA's problems."""
        problems = load_json(folder / "problems.json")
        file = folder / "llava_test_CQM-A.json"

        def make(record: dict[str, Any]) -> Question:
            name = str(require_field(record, "id", file))
            if name not in problems:
                raise MGMError(f"{folder / 'problems.json'}: has no problem {name}")
            problem = problems[name]
            question = record["conversations"][0]["value"].replace("<image>", "").strip()
            image = record.get("image")
            return Question(
                id=name,
                text=f"{question}\n{LETTER_PROMPT}",
                images=(folder / "images" / "test" / image,) if image else (),
                target=ABCDE[problem["answer"]],
                group=name,
                category="image" if image else "text",
                max_new_tokens=1024,
                metadata={"prompt": question, "choices": problem["choices"]},
            )

        for number, record in enumerate(load_json(file), start=1):
            yield question_or_skip(f"{file.name}, record {number}", partial(make, record))

    def row_to_question(
        self, row: dict[str, Any], images: tuple[Path, ...], protocol: str, number: int
    ) -> Question:
        """Context, question and choices; in VLMEvalKit's protocol its own prompt."""
        if protocol == VLMEVALKIT:
            return choice_question(row, images)
        hint = f"Context: {row['hint']}\n" if row["hint"] else ""
        question = f"{hint}{row['question']}\n{format_choices(row['choices'])}"
        return Question(
            id=str(number - 1),
            text=f"{question}\n{LETTER_PROMPT}",
            images=images,
            target=ABCDE[row["answer"]],
            group=str(number - 1),
            category="image" if images else "text",
            max_new_tokens=16,
            metadata={"prompt": question, "choices": row["choices"]},
        )

    def score_one(self, response: Response, protocol: str, judge: Judge) -> float:
        """Whether the letter of the response is the target."""
        if protocol == VLMEVALKIT:
            return score_multiple_choice(response, judge)
        if protocol == LMMS_EVAL:
            return float(is_lmms_eval_match(response.text, response.question.target))
        letter = parse_scienceqa_letter(response.text)
        index = predicted_index(letter, response.question.metadata["choices"])
        return float(index >= 0 and ABCDE[index] == response.question.target)

    def parse(self, response: Response, protocol: str) -> str | None:
        """The letter by LLaVA's parser; None in lmms-eval, which matches the whole text."""
        if protocol == VLMEVALKIT:
            return super().parse(response, protocol)
        if protocol == LMMS_EVAL:
            return None
        letter = parse_scienceqa_letter(response.text)
        return letter if letter in ABCDE else ""

    def submission(self, responses: Sequence[Response], folder: Path, split: str) -> list[Path]:
        """The answers file of the published scripts."""
        return [write_answers_file(folder / "answers.jsonl", responses)]


def parse_scienceqa_letter(text: str) -> str:
    """Parse the letter of a response as LLaVA does; "FAILED" without one.

    Source: eval_science_qa.py.
    """
    if text in ABCDE and len(text) == 1:
        return text
    if len(text) >= 3 and text[0] in ABCDE and text[1:3] == ". ":
        return text[0]
    letters = re.findall(r"The answer is ([A-Z]).", text)
    return letters[0] if len(letters) == 1 else "FAILED"


def is_lmms_eval_match(text: str, target: str) -> bool:
    """Whether a response is the target, or starts with it as a capital letter and a period.

    Source: `sqa_process_results` of lmms-eval's scienceqa, utils.py.
    """
    text, expected = text.strip(), target.lower()
    with_stop = text[:1].isupper() and text[1:2] == "."
    return text.lower() == expected or (with_stop and text[0].lower() == expected)


def predicted_index(letter: str, choices: Sequence[str]) -> int:
    """The index of the choice of a letter; -1: none."""
    return ABCDE.index(letter) if letter and letter in ABCDE[: len(choices)] else -1
