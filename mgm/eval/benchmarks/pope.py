"""POPE: is this object in the image, yes or no; half of the questions ask for what is not there."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from mgm.errors import MGMError
from mgm.eval.harness.llm_judge import Judge
from mgm.eval.harness.question import Answered, Question
from mgm.eval.metrics.yes_no import extracted_yes_or_no
from mgm.eval.tasks.benchmark import LMMS_EVAL, OFFICIAL, PAPER, VLMEVALKIT, Benchmark
from mgm.eval.tasks.dataset_source import HubFiles, Needed, Table
from mgm.eval.tasks.files import read_lines
from mgm.eval.tasks.llava_format import llava_questions, write_answers
from mgm.eval.tasks.prompts import SINGLE_WORD

KINDS = ("adversarial", "popular", "random")


class POPE(Benchmark):
    """The mean of the kinds' F1; in others' protocols F1 of all questions together."""

    name, title, folder, metric = "pope", "POPE", "pope", "mean F1"
    splits = scored = ("test",)
    sizes = {"test": 8910}  # noqa: RUF012
    protocols = (PAPER, OFFICIAL, LMMS_EVAL, VLMEVALKIT)
    sources = {  # noqa: RUF012
        ("test", LMMS_EVAL): HubFiles("lmms-lab-encoder/POPE", "data/test-*.parquet", 9000),
        ("test", VLMEVALKIT): Table("POPE.tsv", 9000, "c12f5acb142f2ef1f85a26ba2fbe41d5"),
    }

    def needs(self, split: str) -> list[Needed]:
        """Questions, labels of each kind, and COCO's images."""
        site = "https://github.com/AoiDragon/POPE/raw/e3e39262c85a6a83f26cf5094022a782cb0df58d"
        labels = [
            Needed(
                f"coco/coco_pope_{kind}.json", "POPE", f"{site}/output/coco/coco_pope_{kind}.json"
            )
            for kind in KINDS
        ]
        return [
            Needed("llava_pope_test.jsonl", "eval.zip of LLaVA's docs/Evaluation.md"),
            *labels,
            Needed("val2014", "COCO, unpacked", "http://images.cocodataset.org/zips/val2014.zip"),
        ]

    def published(self, folder: Path, split: str, protocol: str) -> Iterator[Question]:
        """See `Benchmark`. Labels belong to questions by their order within a kind."""
        labels = {
            kind: [one["label"] for one in read_lines(folder / f"coco/coco_pope_{kind}.json")]
            for kind in KINDS
        }
        seen = dict.fromkeys(KINDS, 0)
        read = llava_questions(
            folder / "llava_pope_test.jsonl",
            folder / "val2014",
            category=lambda record: str(record.get("category", "")),
        )
        for place, question in enumerate(read):
            kind = question.category
            if kind not in labels or seen[kind] >= len(labels[kind]):
                raise MGMError(
                    f"{folder}: question {question.id} of kind {kind!r} has no label; the files "
                    "do not belong together"
                )
            label = labels[kind][seen[kind]]
            seen[kind] += 1
            yield replace(
                question,
                id=f"{place}",
                answer=label,
                facts={**question.facts, "question_id": question.id},
            )

    def from_row(
        self, row: dict[str, Any], images: tuple[Path, ...], protocol: str, number: int
    ) -> Question:
        """See `Benchmark`."""
        asked = row["question"].strip()
        return Question(
            id=str(number - 1),
            text=f"{asked}\n{SINGLE_WORD}" if protocol == LMMS_EVAL else asked,
            images=images,
            answer=row["answer"].strip().lower(),
            group=images[0].name,
            category=row["category"],
            facts={"together": True, "question_id": str(row.get("question_id", number))},
        )

    def credit(self, answered: Answered, protocol: str, judge: Judge) -> float:
        """Whether yes or no is right."""
        parser = {
            PAPER: parse, OFFICIAL: first_word, VLMEVALKIT: extracted_yes_or_no,
            # Compat: as lmms-eval, where a full stop after it makes an answer wrong.
            LMMS_EVAL: lambda text: text.lower().strip(),
        }[protocol]  # fmt: skip
        return float(parser(answered.text) == answered.question.answer)

    def combine(self, questions: Sequence[Question], credits: Sequence[float]) -> float:
        """F1, in per cent; what is looked for are the objects.

        An answer that is neither yes nor no has missed one that is there.
        """
        if questions and questions[0].facts.get("together"):
            return 100 * f1([one.answer for one in questions], credits)
        kinds = [kind for kind in KINDS if any(one.category == kind for one in questions)]
        scores = [
            f1(
                [one.answer for one in questions if one.category == kind],
                [c for one, c in zip(questions, credits, strict=True) if one.category == kind],
            )
            for kind in kinds
        ]
        return 100 * sum(scores) / len(scores) if scores else 0.0

    def parts(
        self, questions: Sequence[Question], credits: Sequence[float]
    ) -> dict[str, tuple[float, int]]:
        """F1, accuracy and share of yes of each kind."""
        result = {}
        for kind in KINDS:
            pairs = [
                (one.answer, credit)
                for one, credit in zip(questions, credits, strict=True)
                if one.category == kind
            ]
            if not pairs:
                continue
            labels, own = map(list, zip(*pairs, strict=True))
            yes = sum((label == "yes") == bool(credit) for label, credit in pairs)
            result[f"{kind}: F1"] = (100 * f1(labels, own), len(pairs))
            result[f"{kind}: accuracy"] = (100 * sum(own) / len(own), len(pairs))
            result[f"{kind}: yes"] = (100 * yes / len(pairs), len(pairs))
        return result

    def submission(self, answered: Sequence[Answered], folder: Path, split: str) -> list[Path]:
        """What the published evaluator reads."""
        return [write_answers(folder / "answers.jsonl", answered)]


def parse(text: str) -> str:
    """Yes, unless a word before the first full stop is No, no or not.

    Compat: "NO", "nope", "cannot" and "No\\nYes" are yes. Source: eval_pope.py.
    """
    words = text.split(".")[0].replace(",", "").split(" ")
    return "no" if {"No", "not", "no"} & set(words) else "yes"


def first_word(text: str) -> str:
    """What an answer begins with; "other" if that is neither yes nor no."""
    words = text.strip().lower().split()
    word = words[0].strip(".,!;:()") if words else ""
    return word if word in ("yes", "no") else "other"


def f1(labels: Sequence[str], credits: Sequence[float]) -> float:
    """F1 of yes. Without any hit it is 0, where the published script divides by zero."""
    pairs = list(zip(labels, credits, strict=True))
    hits = sum(label == "yes" and bool(credit) for label, credit in pairs)
    alarms = sum(label == "no" and not credit for label, credit in pairs)
    missed = sum(label == "yes" and not credit for label, credit in pairs)
    return 2 * hits / (2 * hits + alarms + missed) if hits else 0.0
