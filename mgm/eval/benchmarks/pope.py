"""POPE: is this object in the image, yes or no; half of the questions ask for what is not there."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

from mgm.errors import MGMError
from mgm.eval.harness.llm_judge import Judge
from mgm.eval.harness.question import Answered, Credit, Question, SkippedQuestion, ratio_of_sums
from mgm.eval.metrics.yes_no import NO, YES, extracted_yes_or_no, f1_credit, judged_yes_or_no
from mgm.eval.tasks.benchmark import LMMS_EVAL, OFFICIAL, PAPER, VLMEVALKIT, Benchmark, row_name
from mgm.eval.tasks.dataset_source import HubFiles, Needed, Table
from mgm.eval.tasks.files import read_lines
from mgm.eval.tasks.llava_format import llava_questions, write_answers
from mgm.eval.tasks.prompts import SINGLE_WORD

KINDS = ("adversarial", "popular", "random")


class POPE(Benchmark):
    """The mean of the kinds' F1; in the harnesses' protocols F1 of all questions together.

    The paper's protocol and the official one have the same scorer (POPE's `evaluate.py`, which is
    LLaVA's `eval_pope.py`); the official prompt is the bare question.
    """

    name, title, folder, metric = "pope", "POPE", "pope", "mean F1"
    splits = scored = ("test",)
    sizes: ClassVar = {"test": 8910}
    protocols = (PAPER, OFFICIAL, LMMS_EVAL, VLMEVALKIT)
    judged = (VLMEVALKIT,)
    combine_facts = ("together",)
    sources: ClassVar = {
        ("test", LMMS_EVAL): HubFiles("lmms-lab-encoder/POPE", "data/test-*.parquet", 9000),
        ("test", VLMEVALKIT): Table("POPE.tsv", 5127, "c12f5acb142f2ef1f85a26ba2fbe41d5"),
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

    def published(
        self, folder: Path, split: str, protocol: str
    ) -> Iterator[Question | SkippedQuestion]:
        """See `Benchmark`. Labels belong to questions by their order within a kind."""
        labels = {
            kind: [one["label"] for one in read_lines(folder / f"coco/coco_pope_{kind}.json")]
            for kind in KINDS
        }
        seen = dict.fromkeys(KINDS, 0)

        def complete(question: Question, index: int) -> Question:
            kind = question.category
            if kind not in labels or seen[kind] >= len(labels[kind]):
                raise MGMError(
                    f"{folder}: question {question.id} of kind {kind!r} has no label; the files "
                    "do not belong together"
                )
            label = labels[kind][seen[kind]]
            seen[kind] += 1
            text = question.text
            return replace(
                question,
                id=f"{index}",
                text=text.removesuffix(f"\n{SINGLE_WORD}") if protocol == OFFICIAL else text,
                answer=label,
                facts={**question.facts, "question_id": question.id},
            )

        yield from llava_questions(
            folder / "llava_pope_test.jsonl",
            folder / "val2014",
            complete=complete,
            category=lambda record: str(record.get("category", "")),
        )

    def from_row(
        self, row: dict[str, Any], images: tuple[Path, ...], protocol: str, number: int
    ) -> Question:
        """See `Benchmark`."""
        question = row["question"]
        return Question(
            id=str(number - 1),
            text=f"{question.strip()}\n{SINGLE_WORD}" if protocol == LMMS_EVAL else question,
            images=images,
            answer=row["answer"].strip().lower(),
            group=images[0].name,
            category=row["category"].replace(" ", ""),
            facts={"together": True, "question_id": row_name(row, number)},
        )

    def credit(self, answered: Answered, protocol: str, judge: Judge) -> float:
        """Whether yes or no is right, with what the answer adds to F1.

        Raises:
            MGMError: the judge does not reply.
        """
        if protocol == VLMEVALKIT:
            parsed = judged_yes_or_no(answered, judge)
        else:
            parsed = PARSERS[protocol](answered.text)
        # lmms-eval's recall counts no answer but a plain "no" as a miss.
        return f1_credit(parsed, answered.question.answer, other_is_missed=protocol != LMMS_EVAL)

    def parse(self, answered: Answered, protocol: str) -> str | None:
        """Yes or no; see `Benchmark`."""
        parsed = PARSERS[protocol](answered.text)
        return parsed if parsed in (YES, NO) else ""

    def combine(self, questions: Sequence[Question], credits: Sequence[float]) -> float:
        """F1 of yes, in per cent. Without a true positive it is 0."""
        kinds = _by_kind(questions, credits)
        if questions and questions[0].facts.get("together"):
            # VLMEvalKit's table has a question of several kinds once, and its F1 counts it in each.
            return 100 * ratio_of_sums([credit for own in kinds.values() for _, credit in own])
        scores = [ratio_of_sums([credit for _, credit in own]) for own in kinds.values()]
        return 100 * sum(scores) / len(scores) if scores else 0.0

    def parts(
        self, questions: Sequence[Question], credits: Sequence[float]
    ) -> dict[str, tuple[float, int]]:
        """F1, accuracy and share of yes of each kind."""
        result = {}
        for kind, own in _by_kind(questions, credits).items():
            yes = sum(_is_yes(label, credit) for label, credit in own)
            right = [float(credit) for _, credit in own]
            result[f"{kind}: F1"] = (100 * ratio_of_sums([c for _, c in own]), len(own))
            result[f"{kind}: accuracy"] = (100 * sum(right) / len(right), len(own))
            result[f"{kind}: yes"] = (100 * yes / len(own), len(own))
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


def _stripped(text: str) -> str:
    """lmms-eval's parse: a full stop behind yes makes it neither yes nor no."""
    return text.lower().strip()


PARSERS: Mapping[str, Callable[[str], str]] = {
    PAPER: parse,
    OFFICIAL: parse,
    LMMS_EVAL: _stripped,
    VLMEVALKIT: extracted_yes_or_no,
}


def _by_kind(
    questions: Sequence[Question], credits: Sequence[float]
) -> dict[str, list[tuple[str, Credit]]]:
    """Labels and credits of each kind; a question of several kinds belongs to each of them."""
    result: dict[str, list[tuple[str, Credit]]] = {kind: [] for kind in KINDS}
    for question, credit in zip(questions, credits, strict=True):
        label = question.answer
        if not isinstance(credit, Credit):  # read from a file: what is not right is the opposite
            credit = f1_credit(label if credit else NO if label == YES else YES, label)
        for kind in question.category.split(","):
            result.setdefault(kind, []).append((label, credit))
    return {kind: own for kind, own in result.items() if own}


def _is_yes(label: str, credit: Credit) -> bool:
    """Whether the answer was parsed as yes: a true or a false positive."""
    return bool(credit) if label == YES else bool(credit.denominator)
