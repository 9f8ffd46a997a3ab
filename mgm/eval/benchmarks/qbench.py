"""Q-Bench: choices about how good an image is."""

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

from mgm.eval.harness.llm_judge import Judge
from mgm.eval.harness.question import Answered, Question, SkippedQuestion, question_or_skip
from mgm.eval.metrics.multiple_choice import LETTERS, listed
from mgm.eval.tasks.benchmark import Benchmark
from mgm.eval.tasks.dataset_source import Needed
from mgm.eval.tasks.files import field, present, read_json, write_lines
from mgm.eval.tasks.prompts import LETTER

KINDS = ("yes-or-no", "what", "how")


class QBench(Benchmark):
    """Letters; the answers of the test are known to its server alone."""

    name, title, folder = "qbench", "Q-Bench", "qbench"
    splits = ("dev", "test")
    scored = ("dev",)
    sizes: ClassVar = {"dev": 1495, "test": 1495}

    def needs(self, split: str) -> list[Needed]:
        """Questions and images."""
        site = "https://huggingface.co/datasets/nanyangtu/LLVisionQA-QBench/resolve/main"
        return [
            Needed(f"llvisionqa_{split}.json", "Q-Bench", f"{site}/llvisionqa_{split}.json"),
            Needed("images_llvisionqa", "Q-Bench, unpacked", f"{site}/images_llvisionqa.tar"),
        ]

    def published(
        self, folder: Path, split: str, protocol: str
    ) -> Iterator[Question | SkippedQuestion]:
        """See `Benchmark`. Source: model_vqa_qbench.py."""
        file = folder / f"llvisionqa_{split}.json"
        images = present(folder / "images_llvisionqa")

        def make(record: dict[str, Any], number: int) -> Question:
            where = f"{file}, record {number}"
            choices = field(record, "candidates", where)
            right = record.get("correct_ans")
            asked = f"{field(record, 'question', where)}\n{listed(choices)}\n"
            return Question(
                id=str(number),
                text=f"{asked}{LETTER}",
                images=(images / field(record, "img_path", where),),
                answer=LETTERS[choices.index(right)] if right in choices else None,
                group=record["img_path"],
                category=KINDS[record["type"]] if record.get("type") in (0, 1, 2) else "",
                max_new_tokens=1024,
                facts={"record": record, "choices": choices},
            )

        for number, record in enumerate(read_json(file)):
            where = f"{file.name}, record {number}"
            yield question_or_skip(where, partial(make, record, number))

    def credit(self, answered: Answered, protocol: str, judge: Judge) -> float:
        """Whether it begins with the right letter."""
        return float(answered.text.strip()[:1] == answered.question.answer)

    def parse(self, answered: Answered, protocol: str) -> str | None:
        """See `Benchmark`."""
        letter = answered.text.strip()[:1]
        return letter if letter in LETTERS else ""

    def submission(self, answered: Sequence[Answered], folder: Path, split: str) -> list[Path]:
        """The published answers: the records, with what was said."""
        records = [{**one.question.facts["record"], "response": one.text} for one in answered]
        return [write_lines(folder / f"llvisionqa_{split}_answers.jsonl", records)]
