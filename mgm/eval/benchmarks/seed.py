"""SEED-Bench: multiple choice about images and video frames."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

from mgm.errors import MGMError
from mgm.eval.harness.llm_judge import Judge
from mgm.eval.harness.question import Question, Response, SkippedQuestion
from mgm.eval.metrics.multiple_choice import LETTERS, format_choices
from mgm.eval.metrics.vlmevalkit import choice_question, score_multiple_choice
from mgm.eval.tasks.benchmark import LMMS_EVAL, PAPER, VLMEVALKIT, Benchmark
from mgm.eval.tasks.dataset_source import HubFiles, RequiredFile, Table
from mgm.eval.tasks.files import load_json
from mgm.eval.tasks.llava_format import llava_questions, write_answers_file
from mgm.eval.tasks.prompts import LETTER_PROMPT

SEED_URL = "https://opencompass.openxlab.space/utils/benchmarks/SEEDBench/{name}"


class SEEDBench(Benchmark):
    """Accuracy, with parts for images, videos and question types."""

    name, title, folder = "seed", "SEED-Bench", "seed_bench"
    splits = scored_splits = ("test", "test-img")
    published_splits = ("test",)
    sizes: ClassVar = {"test": 19242}
    protocols = (PAPER, LMMS_EVAL, VLMEVALKIT)
    judged = (VLMEVALKIT,)
    sources: ClassVar = {
        # Includes eight frames of every video.
        ("test", LMMS_EVAL): HubFiles("lmms-lab-encoder/SEED-Bench", "**/test-*.parquet", 17990),
        ("test-img", VLMEVALKIT): Table(
            "SEEDBench_IMG.tsv", 14233, "68017231464752261a2526d6ca3a10c0", url=SEED_URL
        ),
    }

    def published_files(self, split: str) -> list[RequiredFile]:
        """LLaVA's question file, targets, images and video frames."""
        hub = "the data set AILab-CVC/SEED-Bench of the Hugging Face hub"
        return [
            RequiredFile("llava-seed-bench.jsonl", "eval.zip of LLaVA's docs/Evaluation.md"),
            RequiredFile("SEED-Bench.json", hub),
            RequiredFile("SEED-Bench-image", hub),
            RequiredFile("SEED-Bench-video-image", "the middle frames of its videos"),
        ]

    def published_questions(
        self, folder: Path, split: str, protocol: str
    ) -> Iterator[Question | SkippedQuestion]:
        """Prompts of LLaVA's question file; targets and question types of SEED-Bench's own."""
        file = folder / "SEED-Bench.json"
        content = load_json(file)
        kinds = {number: name for name, number in content["question_type"].items()}
        truths = {one["question_id"]: one for one in content["questions"]}

        def add_target(question: Question, index: int) -> Question:
            truth = truths.get(question.id)
            if truth is None:
                raise MGMError(f"{file}: has no question {question.id}")
            return replace(
                question,
                target=truth["answer"],
                category=f"{truth['data_type']}: {kinds[truth['question_type_id']]}",
            )

        yield from llava_questions(folder / "llava-seed-bench.jsonl", folder, transform=add_target)

    def row_to_question(
        self, row: dict[str, Any], images: tuple[Path, ...], protocol: str, number: int
    ) -> Question:
        """Question and choices; several images are frames of a video."""
        if protocol == VLMEVALKIT:
            return choice_question(row, images)
        choices = [row[f"choice_{letter}"] for letter in "abcd"]
        return Question(
            id=str(row["question_id"]),
            text=f"{row['question']}\n{format_choices(choices)}\n{LETTER_PROMPT}",
            images=images,
            target=row["answer"],
            group=str(row.get("data_id", row["question_id"])),
            category=f"{row['data_type']}: {row.get('question_type_id', '')}",
            max_new_tokens=1024,
        )

    def score_one(self, response: Response, protocol: str, judge: Judge) -> float:
        """Whether the letter of the response is the target."""
        if protocol == VLMEVALKIT:
            return score_multiple_choice(response, judge)
        return float(is_seed_match(response.text, response.question.target, protocol))

    def parse(self, response: Response, protocol: str) -> str | None:
        """The first letter; None in the paper's protocol, which matches the whole text."""
        if protocol == VLMEVALKIT:
            return super().parse(response, protocol)
        if protocol == PAPER:
            return None
        letter = response.text.strip()[:1].upper()
        return letter if letter in LETTERS else ""

    def parts(
        self, questions: Sequence[Question], credits: Sequence[float]
    ) -> dict[str, tuple[float, int]]:
        """The accuracies of images, of videos, and of each question type."""
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

    def submission(self, responses: Sequence[Response], folder: Path, split: str) -> list[Path]:
        """The answers file of the published scripts."""
        return [write_answers_file(folder / "merge.jsonl", responses)]


def is_seed_match(text: str, answer: str, protocol: str) -> bool:
    """Whether a response is the target.

    Compat: exact match as published, so that "A." is wrong; lmms-eval compares the first character,
    ignoring case. Sources: convert_seed_for_submission.py,
    and `seed_process_result` and `seed_aggregation_result` of lmms-eval's seedbench, utils.py.
    """
    if protocol == PAPER:
        return text == answer
    return text.strip()[:1].lower() == answer.strip().lower()
