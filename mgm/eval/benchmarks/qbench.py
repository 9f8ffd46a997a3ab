"""Q-Bench: multiple choice about image quality."""

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

from mgm.eval.harness.llm_judge import Judge
from mgm.eval.harness.question import Question, Response, SkippedQuestion, question_or_skip
from mgm.eval.metrics.multiple_choice import LETTERS, format_choices
from mgm.eval.tasks.benchmark import Benchmark
from mgm.eval.tasks.dataset_source import RequiredFile
from mgm.eval.tasks.files import load_json, require_field, require_file, write_jsonl
from mgm.eval.tasks.prompts import LETTER_PROMPT

QUESTION_TYPES = ("yes-or-no", "what", "how")


class QBench(Benchmark):
    """Accuracy; the targets of the test are not public."""

    name, title, folder = "qbench", "Q-Bench", "qbench"
    splits = ("dev", "test")
    scored_splits = ("dev",)
    sizes: ClassVar = {"dev": 1495, "test": 1495}

    def published_files(self, split: str) -> list[RequiredFile]:
        """Question file and images."""
        site = "https://huggingface.co/datasets/nanyangtu/LLVisionQA-QBench/resolve/main"
        return [
            RequiredFile(f"llvisionqa_{split}.json", "Q-Bench", f"{site}/llvisionqa_{split}.json"),
            RequiredFile("images_llvisionqa", "Q-Bench, unpacked", f"{site}/images_llvisionqa.tar"),
        ]

    def published_questions(
        self, folder: Path, split: str, protocol: str
    ) -> Iterator[Question | SkippedQuestion]:
        """The published prompts. Source: model_vqa_qbench.py."""
        file = folder / f"llvisionqa_{split}.json"
        images = require_file(folder / "images_llvisionqa")

        def make(record: dict[str, Any], number: int) -> Question:
            where = f"{file}, record {number}"
            choices = require_field(record, "candidates", where)
            answer = record.get("correct_ans")
            question = f"{require_field(record, 'question', where)}\n{format_choices(choices)}\n"
            return Question(
                id=str(number),
                text=f"{question}{LETTER_PROMPT}",
                images=(images / require_field(record, "img_path", where),),
                target=LETTERS[choices.index(answer)] if answer in choices else None,
                group=record["img_path"],
                category=QUESTION_TYPES[record["type"]] if record.get("type") in (0, 1, 2) else "",
                max_new_tokens=1024,
                metadata={"record": record, "choices": choices},
            )

        for number, record in enumerate(load_json(file)):
            where = f"{file.name}, record {number}"
            yield question_or_skip(where, partial(make, record, number))

    def score_one(self, response: Response, protocol: str, judge: Judge) -> float:
        """Whether the first character is the target."""
        return float(response.text.strip()[:1] == response.question.target)

    def parse(self, response: Response, protocol: str) -> str | None:
        """The first character, if it is a letter."""
        letter = response.text.strip()[:1]
        return letter if letter in LETTERS else ""

    def submission(self, responses: Sequence[Response], folder: Path, split: str) -> list[Path]:
        """The answers file of the published scripts: records with responses."""
        records = [{**one.question.metadata["record"], "response": one.text} for one in responses]
        return [write_jsonl(folder / f"llvisionqa_{split}_answers.jsonl", records)]
