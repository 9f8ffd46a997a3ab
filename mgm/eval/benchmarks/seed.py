"""SEED-Bench: choices about images and about the middle frames of videos."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

from mgm.errors import MGMError
from mgm.eval.harness.llm_judge import Judge
from mgm.eval.harness.question import Answered, Question, SkippedQuestion
from mgm.eval.metrics.multiple_choice import LETTERS, listed
from mgm.eval.metrics.vlmevalkit import choice_credit, choice_question
from mgm.eval.tasks.benchmark import LMMS_EVAL, PAPER, VLMEVALKIT, Benchmark
from mgm.eval.tasks.dataset_source import HubFiles, Needed, Table
from mgm.eval.tasks.files import read_json
from mgm.eval.tasks.llava_format import llava_questions, write_answers
from mgm.eval.tasks.prompts import LETTER

TABLES_SITE = "https://opencompass.openxlab.space/utils/benchmarks/SEEDBench/{name}"


class SEEDBench(Benchmark):
    """Letters."""

    name, title, folder = "seed", "SEED-Bench", "seed_bench"
    splits = scored = ("test", "test-img")
    published_splits = ("test",)
    sizes: ClassVar = {"test": 19242}
    protocols = (PAPER, LMMS_EVAL, VLMEVALKIT)
    judged = (VLMEVALKIT,)
    sources: ClassVar = {
        # Eight frames of every video come with it.
        ("test", LMMS_EVAL): HubFiles("lmms-lab-encoder/SEED-Bench", "**/test-*.parquet", 17990),
        ("test-img", VLMEVALKIT): Table(
            "SEEDBench_IMG.tsv", 14233, "68017231464752261a2526d6ca3a10c0", url=TABLES_SITE
        ),
    }

    def needs(self, split: str) -> list[Needed]:
        """Questions, answers, images and frames."""
        hub = "the data set AILab-CVC/SEED-Bench of the Hugging Face hub"
        return [
            Needed("llava-seed-bench.jsonl", "eval.zip of LLaVA's docs/Evaluation.md"),
            Needed("SEED-Bench.json", hub),
            Needed("SEED-Bench-image", hub),
            Needed("SEED-Bench-video-image", "the middle frames of its videos"),
        ]

    def published(
        self, folder: Path, split: str, protocol: str
    ) -> Iterator[Question | SkippedQuestion]:
        """See `Benchmark`."""
        file = folder / "SEED-Bench.json"
        known = read_json(file)
        kinds = {number: name for name, number in known["question_type"].items()}
        truths = {one["question_id"]: one for one in known["questions"]}

        def complete(question: Question, index: int) -> Question:
            truth = truths.get(question.id)
            if truth is None:
                raise MGMError(f"{file}: has no question {question.id}")
            return replace(
                question,
                answer=truth["answer"],
                category=f"{truth['data_type']}: {kinds[truth['question_type_id']]}",
            )

        yield from llava_questions(folder / "llava-seed-bench.jsonl", folder, complete=complete)

    def from_row(
        self, row: dict[str, Any], images: tuple[Path, ...], protocol: str, number: int
    ) -> Question:
        """See `Benchmark`."""
        if protocol == VLMEVALKIT:
            return choice_question(row, images)
        choices = [row[f"choice_{letter}"] for letter in "abcd"]
        return Question(
            id=str(row["question_id"]),
            text=f"{row['question']}\n{listed(choices)}\n{LETTER}",
            images=images,
            answer=row["answer"],
            group=str(row.get("data_id", row["question_id"])),
            category=f"{row['data_type']}: {row.get('question_type_id', '')}",
            max_new_tokens=1024,
        )

    def credit(self, answered: Answered, protocol: str, judge: Judge) -> float:
        """Whether the letter is right."""
        if protocol == VLMEVALKIT:
            return choice_credit(answered, judge)
        return float(is_right(answered.text, answered.question.answer, protocol))

    def parse(self, answered: Answered, protocol: str) -> str | None:
        """See `Benchmark`."""
        if protocol == VLMEVALKIT:
            return super().parse(answered, protocol)
        if protocol == PAPER:
            return None
        letter = answered.text.strip()[:1].upper()
        return letter if letter in LETTERS else ""

    def parts(
        self, questions: Sequence[Question], credits: Sequence[float]
    ) -> dict[str, tuple[float, int]]:
        """Images, videos, and every kind."""
        parts = super().parts(questions, credits)
        for data in ("image", "video"):
            own = [
                credit
                for question, credit in zip(questions, credits, strict=True)
                if question.category.startswith(data)
            ]
            if own:
                parts[data] = (100 * sum(own) / len(own), len(own))
        return parts

    def submission(self, answered: Sequence[Answered], folder: Path, split: str) -> list[Path]:
        """The published answers."""
        return [write_answers(folder / "merge.jsonl", answered)]


def is_right(text: str, answer: str, protocol: str) -> bool:
    """Whether an answer is the right letter.

    Compat: as published nothing may come with it, so that "A." is wrong where A is right; in
    lmms-eval the first letter counts, a small one, too. Sources: convert_seed_for_submission.py,
    and `seed_process_result` and `seed_aggregation_result` of lmms-eval's seedbench, utils.py.
    """
    if protocol == PAPER:
        return text == answer
    return text.strip()[:1].lower() == answer.strip().lower()
