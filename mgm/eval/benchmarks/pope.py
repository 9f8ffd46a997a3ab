"""POPE: object hallucination; yes-or-no questions about objects, half of which are absent."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

from mgm.errors import MGMError
from mgm.eval.harness.llm_judge import Judge
from mgm.eval.harness.question import Credit, Question, Response, SkippedQuestion, ratio_of_sums
from mgm.eval.metrics.yes_no import NO, YES, extract_yes_no, f1_credit, judge_yes_no
from mgm.eval.tasks.benchmark import LMMS_EVAL, OFFICIAL, PAPER, VLMEVALKIT, Benchmark, row_id
from mgm.eval.tasks.dataset_source import HubFiles, RequiredFile, Table
from mgm.eval.tasks.files import read_jsonl
from mgm.eval.tasks.llava_format import llava_questions, write_answers_file
from mgm.eval.tasks.prompts import SHORT_ANSWER_PROMPT

POPE_SUBSETS = ("adversarial", "popular", "random")


class POPE(Benchmark):
    """The mean of the F1 scores of three subsets; in the harnesses' protocols the overall F1.

    The paper's protocol and the official one have the same scorer (POPE's `evaluate.py`, which is
    LLaVA's `eval_pope.py`); the official prompt is the bare question.
    """

    name, title, folder, metric = "pope", "POPE", "pope", "mean F1"
    splits = scored_splits = ("test",)
    sizes: ClassVar = {"test": 8910}
    protocols = (PAPER, OFFICIAL, LMMS_EVAL, VLMEVALKIT)
    judged = (VLMEVALKIT,)
    combine_metadata = ("together",)
    sources: ClassVar = {
        ("test", LMMS_EVAL): HubFiles("lmms-lab-encoder/POPE", "data/test-*.parquet", 9000),
        ("test", VLMEVALKIT): Table("POPE.tsv", 5127, "c12f5acb142f2ef1f85a26ba2fbe41d5"),
    }

    def published_files(self, split: str) -> list[RequiredFile]:
        """LLaVA's question file, labels of each subset, and COCO's images."""
        site = "https://github.com/AoiDragon/POPE/raw/e3e39262c85a6a83f26cf5094022a782cb0df58d"
        labels = [
            RequiredFile(
                f"coco/coco_pope_{kind}.json", "POPE", f"{site}/output/coco/coco_pope_{kind}.json"
            )
            for kind in POPE_SUBSETS
        ]
        return [
            RequiredFile("llava_pope_test.jsonl", "eval.zip of LLaVA's docs/Evaluation.md"),
            *labels,
            RequiredFile(
                "val2014", "COCO, unpacked", "http://images.cocodataset.org/zips/val2014.zip"
            ),
        ]

    def published_questions(
        self, folder: Path, split: str, protocol: str
    ) -> Iterator[Question | SkippedQuestion]:
        """Prompts of LLaVA's question file; labels in the same order within a subset."""
        labels = {
            kind: [one["label"] for one in read_jsonl(folder / f"coco/coco_pope_{kind}.json")]
            for kind in POPE_SUBSETS
        }
        counts = dict.fromkeys(POPE_SUBSETS, 0)

        def add_target(question: Question, index: int) -> Question:
            kind = question.category
            if kind not in labels or counts[kind] >= len(labels[kind]):
                raise MGMError(
                    f"{folder}: question {question.id} of subset {kind!r} has no label; the "
                    "files do not match"
                )
            label = labels[kind][counts[kind]]
            counts[kind] += 1
            text = question.text
            return replace(
                question,
                id=f"{index}",
                text=text.removesuffix(f"\n{SHORT_ANSWER_PROMPT}")
                if protocol == OFFICIAL
                else text,
                target=label,
                metadata={**question.metadata, "question_id": question.id},
            )

        yield from llava_questions(
            folder / "llava_pope_test.jsonl",
            folder / "val2014",
            transform=add_target,
            category=lambda record: str(record.get("category", "")),
        )

    def row_to_question(
        self, row: dict[str, Any], images: tuple[Path, ...], protocol: str, number: int
    ) -> Question:
        """lmms-eval appends an instruction, VLMEvalKit does not."""
        question = row["question"]
        return Question(
            id=str(number - 1),
            text=f"{question.strip()}\n{SHORT_ANSWER_PROMPT}"
            if protocol == LMMS_EVAL
            else question,
            images=images,
            target=row["answer"].strip().lower(),
            group=images[0].name,
            category=row["category"].replace(" ", ""),
            metadata={"together": True, "question_id": row_id(row, number)},
        )

    def score_one(self, response: Response, protocol: str, judge: Judge) -> float:
        """Whether yes or no is the target, with the terms of F1.

        Raises:
            MGMError: the judge does not reply.
        """
        if protocol == VLMEVALKIT:
            parsed = judge_yes_no(response, judge)
        else:
            parsed = POPE_PARSERS[protocol](response.text)
        # Compat: in lmms-eval only "no" is a false negative.
        return f1_credit(parsed, response.question.target, other_is_missed=protocol != LMMS_EVAL)

    def parse(self, response: Response, protocol: str) -> str | None:
        """The extracted yes or no."""
        parsed = POPE_PARSERS[protocol](response.text)
        return parsed if parsed in (YES, NO) else ""

    def combine(self, questions: Sequence[Question], credits: Sequence[float]) -> float:
        """The F1 score of yes in per cent; 0 without a true positive."""
        kinds = _by_kind(questions, credits)
        if questions and questions[0].metadata.get("together"):
            # Compat: VLMEvalKit's F1 counts a question of several subsets once for each.
            return 100 * ratio_of_sums([credit for own in kinds.values() for _, credit in own])
        scores = [ratio_of_sums([credit for _, credit in own]) for own in kinds.values()]
        return 100 * sum(scores) / len(scores) if scores else 0.0

    def parts(
        self, questions: Sequence[Question], credits: Sequence[float]
    ) -> dict[str, tuple[float, int]]:
        """F1, accuracy and share of yes of each subset."""
        result = {}
        for kind, own in _by_kind(questions, credits).items():
            yes = sum(_is_yes(label, credit) for label, credit in own)
            right = [float(credit) for _, credit in own]
            result[f"{kind}: F1"] = (100 * ratio_of_sums([c for _, c in own]), len(own))
            result[f"{kind}: accuracy"] = (100 * sum(right) / len(right), len(own))
            result[f"{kind}: yes"] = (100 * yes / len(own), len(own))
        return result

    def submission(self, responses: Sequence[Response], folder: Path, split: str) -> list[Path]:
        """The answers file of the published evaluator."""
        return [write_answers_file(folder / "answers.jsonl", responses)]


def parse_pope_answer(text: str) -> str:
    """Parse as POPE does: yes, unless a word of the first sentence is No, no or not.

    Compat: "NO", "nope", "cannot" and "No\\nYes" are yes. Source: eval_pope.py.
    """
    words = text.split(".")[0].replace(",", "").split(" ")
    return "no" if {"No", "not", "no"} & set(words) else "yes"


def parse_pope_as_lmms_eval(text: str) -> str:
    """Parse as lmms-eval does: the whole text, so that "yes." is neither yes nor no."""
    return text.lower().strip()


POPE_PARSERS: Mapping[str, Callable[[str], str]] = {
    PAPER: parse_pope_answer,
    OFFICIAL: parse_pope_answer,
    LMMS_EVAL: parse_pope_as_lmms_eval,
    VLMEVALKIT: extract_yes_no,
}


def _by_kind(
    questions: Sequence[Question], credits: Sequence[float]
) -> dict[str, list[tuple[str, Credit]]]:
    """Labels and credits of each subset; a question may belong to several."""
    result: dict[str, list[tuple[str, Credit]]] = {kind: [] for kind in POPE_SUBSETS}
    for question, credit in zip(questions, credits, strict=True):
        label = question.target
        if not isinstance(
            credit, Credit
        ):  # from a saved score: a wrong answer is the opposite of the label
            credit = f1_credit(label if credit else NO if label == YES else YES, label)
        for kind in question.category.split(","):
            result.setdefault(kind, []).append((label, credit))
    return {kind: own for kind, own in result.items() if own}


def _is_yes(label: str, credit: Credit) -> bool:
    """Whether the response was parsed as yes: a true or false positive."""
    return bool(credit) if label == YES else bool(credit.denominator)
