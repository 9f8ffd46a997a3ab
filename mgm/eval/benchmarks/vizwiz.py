"""VizWiz: questions of blind people about their photographs; known to its server alone."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from mgm.eval.benchmark import Benchmark, Needed
from mgm.eval.judge import Judge
from mgm.eval.llava_questions import llava_questions, write_answers
from mgm.eval.question import Answered, Question
from mgm.eval.vqa_text import agreement, normal_answer


class VizWiz(Benchmark):
    """A file for the server."""

    name, title, folder = "vizwiz", "VizWiz", "vizwiz"
    splits = ("test",)
    scored = ()
    sizes = {"test": 8000}  # noqa: RUF012

    def needs(self, split: str) -> list[Needed]:
        """Questions and images."""
        site = "https://vizwiz.cs.colorado.edu/VizWiz_final/images"
        return [
            Needed("llava_test.jsonl", "eval.zip of LLaVA's docs/Evaluation.md"),
            Needed("test", "VizWiz, unpacked", f"{site}/test.zip"),
        ]

    def questions(self, folder: Path, split: str, protocol: str) -> Iterator[Question]:
        """See `Benchmark`."""
        for number, question in enumerate(
            llava_questions(folder / "llava_test.jsonl", folder / "test")
        ):
            image = question.group
            facts = {**question.facts, "image": image, "question_id": question.id}
            yield replace(question, id=f"{number}", facts=facts)

    def credit(self, answered: Answered, protocol: str, judge: Judge) -> float:
        """Agreement with ten people, where they are known."""
        return agreement(answered.text, answered.question.answer or [])

    def submission(self, answered: Sequence[Answered], folder: Path, split: str) -> list[Path]:
        """Answers, and what the server takes."""
        path = folder / "vizwiz_test.json"
        answers = write_answers(folder / "answers.jsonl", answered)
        records = [
            {"image": one.question.facts["image"], "answer": normal_answer(one.text)}
            for one in answered
        ]
        path.write_text(json.dumps(records), encoding="utf-8")
        return [answers, path]
