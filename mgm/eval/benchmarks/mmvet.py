"""MM-Vet: questions that take several abilities at once, answered freely."""

import json
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

from mgm.errors import MGMError
from mgm.eval.harness.llm_judge import Judge
from mgm.eval.harness.question import Answered, Credit, Question, SkippedQuestion
from mgm.eval.tasks.benchmark import LMMS_EVAL, PAPER, VLMEVALKIT, Benchmark
from mgm.eval.tasks.dataset_source import HubFiles, Needed, Table
from mgm.eval.tasks.files import read_json
from mgm.eval.tasks.llava_format import llava_questions, write_answers

THINK = (
    "First please perform reasoning, and think step by step to provide best answer to the "
    "following question: \n\n"
)
# How often a judge is asked whose reply is no mark. Compat: lmms-eval gives up one try earlier.
TRIES = {PAPER: 5, VLMEVALKIT: 5, LMMS_EVAL: 4}
TEMPERATURE_STEP = 0.5  # of the judge, from one try to the next
SECOND_TRY = "\nPredict the correctness of the answer (digit): "  # of MM-Vet's evaluator


class MMVet(Benchmark):
    """A judge gives 0.0 to 1.0 to every answer; rules count how much of the truth is in it."""

    name, title, folder, metric = "mmvet", "MM-Vet", "mm-vet", "mean credit"
    splits = scored = ("test",)
    sizes: ClassVar = {"test": 218}
    protocols = (PAPER, LMMS_EVAL, VLMEVALKIT)
    judged = protocols
    sources: ClassVar = {
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

    def published(
        self, folder: Path, split: str, protocol: str
    ) -> Iterator[Question | SkippedQuestion]:
        """See `Benchmark`."""
        truths = read_json(folder / "mm-vet.json")
        file = folder / "llava-mm-vet.jsonl"

        def text(asked: str) -> str:
            return THINK + asked if protocol == LMMS_EVAL else asked

        def complete(question: Question, index: int) -> Question:
            truth = truths.get(f"v1_{question.id}")
            if truth is None:
                raise MGMError(f"{folder / 'mm-vet.json'}: has no v1_{question.id}")
            return replace(
                question,
                answer=truth["answer"],
                category="_".join(sorted(truth.get("capability", []))),
                facts={**question.facts, "question": truth["question"]},
            )

        yield from llava_questions(file, folder / "images", 1024, text, complete)

    def from_row(
        self, row: dict[str, Any], images: tuple[Path, ...], protocol: str, number: int
    ) -> Question:
        """See `Benchmark`."""
        name = str(row.get("question_id", row.get("index"))).removeprefix("v1_")
        # VLMEvalKit's table calls abilities a category.
        listed = str(row.get("capability") or row.get("category") or "")
        abilities = listed.replace(" ", "").split(",")
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
        """The judge's mark; 0 where none of its replies is one, as in all three evaluators.

        Raises:
            MGMError: the judge does not reply.
        """
        question = answered.question
        if not judge.is_model:
            return contained(answered.text, question.answer)
        prompt = judge_prompt(question.facts["question"], question.answer, answered.text, protocol)
        reply = ""
        for attempt in range(TRIES[protocol]):
            again = SECOND_TRY if attempt and protocol == PAPER else ""
            reply = judge.ask(
                prompt + again,
                temperature=TEMPERATURE_STEP * attempt,
                max_tokens=16,
                accepts=lambda text: mark(text, protocol) is not None,
            )
            found = mark(reply, protocol)
            if found is not None:
                return found
        return Credit(0.0, note=f"the judge gave no number from 0 to 1, at last {reply!r:.60}")

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
def _instructions(protocol: str) -> str:
    name = "mmvet_judge_vlmevalkit.txt" if protocol == VLMEVALKIT else "mmvet_judge.txt"
    text = (Path(__file__).parents[1] / "texts" / name).read_text(encoding="utf-8")
    # Compat: lmms-eval renamed a variable, and the table's first column with it.
    return text.replace("\n\nQuestion", "\ngpt_query_prompt") if protocol == LMMS_EVAL else text


def judge_prompt(question: str, truth: str, answer: str, protocol: str = PAPER) -> str:
    """What the judge is asked.

    Source: MM-Vet's mm-vet_evaluator.py, and the utils of both harnesses.
    """
    truth = truth.replace("<AND>", " <AND> ").replace("<OR>", " <OR> ")
    row = " | ".join((question, truth, answer, ""))
    return f"{_instructions(protocol)}\n{row.rstrip(' ') if protocol == LMMS_EVAL else row}"


def mark(reply: str, protocol: str = PAPER) -> float | None:
    """The mark in a judge's reply, a number from 0 to 1; None: it has none.

    VLMEvalKit takes the whole reply for the number, the others what stands before the first blank.
    """
    if protocol == LMMS_EVAL:
        reply = reply.strip()
    text = reply if protocol == VLMEVALKIT else reply.split(" ")[0]
    try:
        number = float(text)
    except ValueError:
        return None
    return number if 0 <= number <= 1 else None


def contained(text: str, truth: str) -> float:
    """Share of what has to be said that an answer says, of the best alternative."""
    low = " ".join(text.lower().split())
    shares = []
    for alternative in truth.lower().split("<or>"):
        elements = [" ".join(one.split()) for one in alternative.split("<and>")]
        shares.append(sum(one in low for one in elements) / len(elements))
    return max(shares)
