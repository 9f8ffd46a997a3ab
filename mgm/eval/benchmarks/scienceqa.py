"""ScienceQA: school questions with choices, about half of them with an image."""

import re
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

from mgm.errors import MGMError
from mgm.eval.harness.llm_judge import Judge
from mgm.eval.harness.question import Answered, Question, SkippedQuestion, question_or_skip
from mgm.eval.metrics.multiple_choice import listed
from mgm.eval.metrics.vlmevalkit import choice_credit, choice_question
from mgm.eval.tasks.benchmark import LMMS_EVAL, PAPER, VLMEVALKIT, Benchmark
from mgm.eval.tasks.dataset_source import HubFiles, Needed, Table
from mgm.eval.tasks.files import field, read_json
from mgm.eval.tasks.llava_format import write_answers
from mgm.eval.tasks.prompts import LETTER

LETTERS = "ABCDE"

TABLES_SITE = "https://opencompass.openxlab.space/utils/benchmarks/ScienceQA/{name}"


class ScienceQA(Benchmark):
    """Letters; questions with an image are counted for themselves, too."""

    name, title, folder = "scienceqa", "ScienceQA", "scienceqa"
    splits = scored = ("test", "test-img")
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
            "ScienceQA_TEST.tsv", 2017, "e42e9e00f9c59a80d8a5db35bc32b71f", url=TABLES_SITE
        ),
    }

    def needs(self, split: str) -> list[Needed]:
        """Questions, answers and images."""
        hub = "ScienceQA's repository, data/scienceqa"
        return [
            Needed("llava_test_CQM-A.json", "eval.zip of LLaVA's docs/Evaluation.md"),
            Needed("problems.json", hub),
            Needed("pid_splits.json", hub),
            Needed("images/test", "ScienceQA, unpacked"),
        ]

    def published(
        self, folder: Path, split: str, protocol: str
    ) -> Iterator[Question | SkippedQuestion]:
        """See `Benchmark`."""
        problems = read_json(folder / "problems.json")
        file = folder / "llava_test_CQM-A.json"

        def make(record: dict[str, Any]) -> Question:
            name = str(field(record, "id", file))
            if name not in problems:
                raise MGMError(f"{folder / 'problems.json'}: has no problem {name}")
            problem = problems[name]
            asked = record["conversations"][0]["value"].replace("<image>", "").strip()
            image = record.get("image")
            return Question(
                id=name,
                text=f"{asked}\n{LETTER}",
                images=(folder / "images" / "test" / image,) if image else (),
                answer=LETTERS[problem["answer"]],
                group=name,
                category="image" if image else "text",
                max_new_tokens=1024,
                facts={"prompt": asked, "choices": problem["choices"]},
            )

        for number, record in enumerate(read_json(file), start=1):
            yield question_or_skip(f"{file.name}, record {number}", partial(make, record))

    def from_row(
        self, row: dict[str, Any], images: tuple[Path, ...], protocol: str, number: int
    ) -> Question:
        """See `Benchmark`."""
        if protocol == VLMEVALKIT:
            return choice_question(row, images)
        hint = f"Context: {row['hint']}\n" if row["hint"] else ""
        asked = f"{hint}{row['question']}\n{listed(row['choices'])}"
        return Question(
            id=str(number - 1),
            text=f"{asked}\n{LETTER}",
            images=images,
            answer=LETTERS[row["answer"]],
            group=str(number - 1),
            category="image" if images else "text",
            max_new_tokens=16,
            facts={"prompt": asked, "choices": row["choices"]},
        )

    def credit(self, answered: Answered, protocol: str, judge: Judge) -> float:
        """Whether the letter is right."""
        if protocol == VLMEVALKIT:
            return choice_credit(answered, judge)
        if protocol == LMMS_EVAL:
            return float(is_lmms_eval_match(answered.text, answered.question.answer))
        said = parse(answered.text)
        index = predicted_index(said, answered.question.facts["choices"])
        return float(index >= 0 and LETTERS[index] == answered.question.answer)

    def parse(self, answered: Answered, protocol: str) -> str | None:
        """See `Benchmark`."""
        if protocol == VLMEVALKIT:
            return super().parse(answered, protocol)
        if protocol == LMMS_EVAL:
            return None
        letter = parse(answered.text)
        return letter if letter in LETTERS else ""

    def submission(self, answered: Sequence[Answered], folder: Path, split: str) -> list[Path]:
        """The published answers."""
        return [write_answers(folder / "answers.jsonl", answered)]


def parse(text: str) -> str:
    """The letter that an answer is, begins with, or names; else "FAILED".

    Source: eval_science_qa.py.
    """
    if text in LETTERS and len(text) == 1:
        return text
    if len(text) >= 3 and text[0] in LETTERS and text[1:3] == ". ":
        return text[0]
    found = re.findall(r"The answer is ([A-Z]).", text)
    return found[0] if len(found) == 1 else "FAILED"


def is_lmms_eval_match(text: str, answer: str) -> bool:
    """Whether an answer is the right letter, or a capital one with a full stop behind it.

    Source: `sqa_process_results` of lmms-eval's scienceqa, utils.py.
    """
    text, right = text.strip(), answer.lower()
    with_stop = text[:1].isupper() and text[1:2] == "."
    return text.lower() == right or (with_stop and text[0].lower() == right)


def predicted_index(letter: str, choices: Sequence[str]) -> int:
    """The number of the choice that a letter means; -1: there is none."""
    return LETTERS.index(letter) if letter and letter in LETTERS[: len(choices)] else -1
