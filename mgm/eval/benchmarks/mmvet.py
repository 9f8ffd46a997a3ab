"""MM-Vet: questions that take several abilities at once, answered freely."""

import json
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from mgm.errors import MGMError
from mgm.eval.harness.llm_judge import Judge
from mgm.eval.harness.question import Answered, Question
from mgm.eval.tasks.benchmark import LMMS_EVAL, PAPER, VLMEVALKIT, Benchmark
from mgm.eval.tasks.dataset_source import HubFiles, Needed, Table
from mgm.eval.tasks.files import read_json
from mgm.eval.tasks.llava_format import llava_questions, write_answers

THINK = (
    "First please perform reasoning, and think step by step to provide best answer to the "
    "following question: \n\n"
)
TRIES = 5  # as often a judge is asked again that names no number, warmer every time
WARMER = 0.5


class MMVet(Benchmark):
    """A judge gives 0.0 to 1.0 to every answer; rules count how much of the truth is in it."""

    name, title, folder, metric = "mmvet", "MM-Vet", "mm-vet", "mean credit"
    splits = scored = ("test",)
    sizes = {"test": 218}  # noqa: RUF012
    protocols = (PAPER, LMMS_EVAL, VLMEVALKIT)
    judged = protocols
    sources = {  # noqa: RUF012
        ("test", LMMS_EVAL): HubFiles("lmms-lab-encoder/MMVet", "**/test-*.parquet", 218),
        ("test", VLMEVALKIT): Table("MMVet.tsv", 218, "748aa6d4aa9d4de798306a63718455e3"),
    }
    also_published = True

    def needs(self, split: str) -> list[Needed]:
        """Questions, images, and what is right."""
        return [
            Needed("llava-mm-vet.jsonl", "eval.zip of LLaVA's docs/Evaluation.md"),
            Needed(
                "mm-vet.json",
                "mm-vet.zip of MM-Vet",
                "https://github.com/yuweihao/MM-Vet/releases/download/v1/mm-vet.zip",
            ),
            Needed("images", "mm-vet.zip of MM-Vet"),
        ]

    def published(self, folder: Path, split: str, protocol: str) -> Iterator[Question]:
        """See `Benchmark`."""
        truths = read_json(folder / "mm-vet.json")
        file = folder / "llava-mm-vet.jsonl"

        def text(asked: str) -> str:
            return THINK + asked if protocol == LMMS_EVAL else asked

        for question in llava_questions(file, folder / "images", 1024, text):
            truth = truths.get(f"v1_{question.id}")
            if truth is None:
                raise MGMError(f"{folder / 'mm-vet.json'}: has no v1_{question.id}")
            yield replace(
                question,
                answer=truth["answer"],
                category="_".join(sorted(truth.get("capability", []))),
                facts={**question.facts, "question": truth["question"]},
            )

    def from_row(
        self, row: dict[str, Any], images: tuple[Path, ...], protocol: str, number: int
    ) -> Question:
        """See `Benchmark`."""
        name = str(row.get("question_id", row.get("index"))).removeprefix("v1_")
        abilities = str(row.get("capability") or "").replace(" ", "").split(",")
        return Question(
            id=name,
            text=(THINK if protocol == LMMS_EVAL else "") + row["question"],
            images=images,
            answer=row["answer"],
            group=name,
            category="_".join(sorted(abilities)),
            max_new_tokens=1024,
            facts={"question": row["question"]},
        )

    def credit(self, answered: Answered, protocol: str, judge: Judge) -> float:
        """What the judge gives.

        Raises:
            MGMError: it does not answer, or names no number from 0 to 1.
        """
        question = answered.question
        if not judge.is_model:
            return contained(answered.text, question.answer)
        prompt = judge_prompt(question.facts["question"], question.answer, answered.text)
        said = ""
        for attempt in range(TRIES):
            said = judge.ask(prompt, temperature=WARMER * attempt, max_tokens=16)
            found = re.match(r"\s*([01](?:\.\d+)?)", said)
            if found and 0 <= float(found[1]) <= 1:
                return float(found[1])
        raise MGMError(
            f"question {question.id}: the judge says {said!r:.60}, no number from 0 to 1"
        )

    def parts(
        self, questions: Sequence[Question], credits: Sequence[float]
    ) -> dict[str, tuple[float, int]]:
        """Of every ability; a question counts for each that it takes."""
        own: dict[str, list[float]] = defaultdict(list)
        for question, credit in zip(questions, credits, strict=True):
            for ability in question.category.split("_"):
                own[ability].append(credit)
        return {name: (100 * sum(c) / len(c), len(c)) for name, c in sorted(own.items()) if name}

    def names_of(self, question: Question) -> set[str]:
        """Published answers and those of MM-Vet's evaluator."""
        return {question.id, f"v1_{question.id}"}

    def submission(self, answered: Sequence[Answered], folder: Path, split: str) -> list[Path]:
        """Answers, and what MM-Vet's evaluator reads."""
        path = folder / "mm-vet.json"
        answers = write_answers(folder / "merge.jsonl", answered)
        texts = {f"v1_{one.question.id}": one.text for one in answered}
        path.write_text(json.dumps(texts, indent=2), encoding="utf-8")
        return [answers, path]


@cache
def _examples() -> str:
    file = Path(__file__).parents[1] / "texts" / "mmvet_judge.txt"
    return file.read_text(encoding="utf-8")


def judge_prompt(question: str, truth: str, answer: str) -> str:
    """What the judge is asked. Source: MM-Vet's evaluator."""
    truth = truth.replace("<AND>", " <AND> ").replace("<OR>", " <OR> ")
    return f"{_examples()}{' | '.join((question, truth, answer, ''))}"


def contained(text: str, truth: str) -> float:
    """Share of what has to be said that an answer says, of the best alternative."""
    low = " ".join(text.lower().split())
    shares = []
    for alternative in truth.lower().split("<or>"):
        elements = [" ".join(one.split()) for one in alternative.split("<and>")]
        shares.append(sum(one in low for one in elements) / len(elements))
    return max(shares)
