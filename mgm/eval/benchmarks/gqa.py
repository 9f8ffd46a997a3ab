"""GQA: questions about scenes, with one right word or phrase."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from mgm.errors import MGMError
from mgm.eval.benchmark import Benchmark, Needed
from mgm.eval.files import read_json
from mgm.eval.judge import Judge
from mgm.eval.llava_questions import llava_questions, write_answers
from mgm.eval.question import Answered, Question


class GQA(Benchmark):
    """Exact answers."""

    name, title, folder = "gqa", "GQA", "gqa"
    splits = scored = ("testdev",)
    sizes = {"testdev": 12578}  # noqa: RUF012

    def needs(self, split: str) -> list[Needed]:
        """Questions, answers and images."""
        site = "https://downloads.cs.stanford.edu/nlp/data/gqa"
        return [
            Needed("llava_gqa_testdev_balanced.jsonl", "eval.zip of LLaVA's docs/Evaluation.md"),
            Needed("data/testdev_balanced_questions.json", "GQA", f"{site}/questions1.2.zip"),
            Needed("data/images", "GQA, unpacked", f"{site}/images.zip"),
        ]

    def questions(self, folder: Path, split: str, protocol: str) -> Iterator[Question]:
        """See `Benchmark`."""
        file = folder / "data" / "testdev_balanced_questions.json"
        truths = read_json(file)
        questions = folder / "llava_gqa_testdev_balanced.jsonl"
        for question in llava_questions(questions, folder / "data" / "images"):
            truth = truths.get(question.id)
            if truth is None:
                raise MGMError(f"{file}: has no question {question.id}")
            kind = truth.get("types", {}).get("structural", "")
            yield replace(question, answer=truth["answer"], category=kind)

    def credit(self, answered: Answered, protocol: str, judge: Judge) -> float:
        """Whether the answer is the right one, letter by letter."""
        return float(submitted(answered.text) == answered.question.answer)

    def submission(self, answered: Sequence[Answered], folder: Path, split: str) -> list[Path]:
        """Answers, and what GQA's evaluator reads."""
        path = folder / "testdev_balanced_predictions.json"
        answers = write_answers(folder / "merge.jsonl", answered)
        path.write_text(json.dumps(predictions(answered)), encoding="utf-8")
        return [answers, path]


def submitted(text: str) -> str:
    """Without full stops at its end, in small letters. Source: convert_gqa_for_eval.py."""
    return text.rstrip(".").lower()


def predictions(answered: Sequence[Answered]) -> list[dict[str, str]]:
    """What GQA's evaluator reads."""
    return [{"questionId": one.question.id, "prediction": submitted(one.text)} for one in answered]
