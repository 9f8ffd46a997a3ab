"""POPE: is this object in the image, yes or no; half of the questions ask for what is not there."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from mgm.errors import MGMError
from mgm.eval.benchmark import OFFICIAL, PAPER, Benchmark, Needed
from mgm.eval.files import read_lines
from mgm.eval.judge import Judge
from mgm.eval.llava_questions import llava_questions, write_answers
from mgm.eval.question import Answered, Question

KINDS = ("adversarial", "popular", "random")


class POPE(Benchmark):
    """F1 over all three kinds together, and accuracy and F1 of each."""

    name, title, folder, metric = "pope", "POPE", "pope", "mean F1"
    splits = scored = ("test",)
    sizes = {"test": 8910}  # noqa: RUF012
    protocols = (PAPER, OFFICIAL)

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

    def questions(self, folder: Path, split: str, protocol: str) -> Iterator[Question]:
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

    def credit(self, answered: Answered, protocol: str, judge: Judge) -> float:
        """Whether yes or no is right."""
        said = parse(answered.text) if protocol == PAPER else first_word(answered.text)
        return float(said == answered.question.answer)

    def combine(self, questions: Sequence[Question], credits: Sequence[float]) -> float:
        """The mean of the kinds' F1, in per cent; what is looked for are the objects."""
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
