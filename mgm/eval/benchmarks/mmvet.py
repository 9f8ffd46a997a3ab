"""MM-Vet: free-form questions that need several capabilities, graded by an LLM judge."""

import json
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

from mgm.errors import MGMError
from mgm.eval.harness.llm_judge import Judge
from mgm.eval.harness.question import Credit, Question, Response, SkippedQuestion
from mgm.eval.tasks.benchmark import LMMS_EVAL, PAPER, VLMEVALKIT, Benchmark
from mgm.eval.tasks.dataset_source import HubFiles, RequiredFile, Table
from mgm.eval.tasks.files import load_json
from mgm.eval.tasks.llava_format import llava_questions, write_answers_file

REASONING_PROMPT = (
    "First please perform reasoning, and think step by step to provide best answer to the "
    "following question: \n\n"
)
# Attempts of a judge with replies without a grade. Compat: one less in lmms-eval.
GRADING_ATTEMPTS = {PAPER: 5, VLMEVALKIT: 5, LMMS_EVAL: 4}
GRADING_TEMPERATURE_STEP = 0.5  # increase of the judge's temperature per attempt
RETRY_PROMPT = "\nPredict the correctness of the answer (digit): "  # appended by MM-Vet's evaluator


class MMVet(Benchmark):
    """The mean grade by an LLM judge; without a judge, the contained share of the target."""

    name, title, folder, metric = "mmvet", "MM-Vet", "mm-vet", "mean credit"
    splits = scored_splits = ("test",)
    sizes: ClassVar = {"test": 218}
    protocols = (PAPER, LMMS_EVAL, VLMEVALKIT)
    judged = protocols
    sources: ClassVar = {
        ("test", LMMS_EVAL): HubFiles("lmms-lab-encoder/MMVet", "**/test-*.parquet", 218),
        ("test", VLMEVALKIT): Table("MMVet.tsv", 218, "748aa6d4aa9d4de798306a63718455e3"),
    }
    also_published = True

    def published_files(self, split: str) -> list[RequiredFile]:
        """LLaVA's question file, images and targets."""
        return [
            RequiredFile("llava-mm-vet.jsonl", "eval.zip of LLaVA's docs/Evaluation.md"),
            RequiredFile(
                "mm-vet.json",
                "mm-vet.zip of MM-Vet",
                "https://github.com/yuweihao/MM-Vet/releases/download/v1/mm-vet.zip",
            ),
            RequiredFile("images", "mm-vet.zip of MM-Vet"),
        ]

    def published_questions(
        self, folder: Path, split: str, protocol: str
    ) -> Iterator[Question | SkippedQuestion]:
        """Prompts of LLaVA's question file; targets and capabilities of MM-Vet's own."""
        truths = load_json(folder / "mm-vet.json")
        file = folder / "llava-mm-vet.jsonl"

        def text(question: str) -> str:
            return REASONING_PROMPT + question if protocol == LMMS_EVAL else question

        def add_target(question: Question, index: int) -> Question:
            truth = truths.get(f"v1_{question.id}")
            if truth is None:
                raise MGMError(f"{folder / 'mm-vet.json'}: has no v1_{question.id}")
            return replace(
                question,
                target=truth["answer"],
                category="_".join(sorted(truth.get("capability", []))),
                metadata={**question.metadata, "question": truth["question"]},
            )

        yield from llava_questions(file, folder / "images", 1024, text, add_target)

    def row_to_question(
        self, row: dict[str, Any], images: tuple[Path, ...], protocol: str, number: int
    ) -> Question:
        """The bare question; lmms-eval prepends an instruction to reason."""
        name = str(row.get("question_id", row.get("index"))).removeprefix("v1_")
        # Compat: VLMEvalKit has capabilities in the column of categories.
        names = str(row.get("capability") or row.get("category") or "")
        abilities = names.replace(" ", "").split(",")
        return Question(
            id=name,
            text=(REASONING_PROMPT if protocol == LMMS_EVAL else "") + row["question"],
            images=images,
            target=row["answer"],
            group=name,
            category="_".join(sorted(abilities)),
            max_new_tokens=1024,
            metadata={"question": row["question"]},
        )

    def score_one(self, response: Response, protocol: str, judge: Judge) -> float:
        """The judge's grade; 0 without one in any reply, as in all three evaluators.

        Raises:
            MGMError: the judge does not reply.
        """
        question = response.question
        if not judge.is_model:
            return contained_share(response.text, question.target)
        prompt = grading_prompt(
            question.metadata["question"], question.target, response.text, protocol
        )
        reply = ""
        for attempt in range(GRADING_ATTEMPTS[protocol]):
            suffix = RETRY_PROMPT if attempt and protocol == PAPER else ""
            reply = judge.complete(
                prompt + suffix,
                temperature=GRADING_TEMPERATURE_STEP * attempt,
                max_tokens=16,
                accepts=lambda text: parse_grade(text, protocol) is not None,
            )
            grade = parse_grade(reply, protocol)
            if grade is not None:
                return grade
        return Credit(
            0.0, note=f"no grade from 0 to 1 in the judge's replies, the last is {reply!r:.60}"
        )

    def parts(
        self, questions: Sequence[Question], credits: Sequence[float]
    ) -> dict[str, tuple[float, int]]:
        """The mean grade of each capability that questions need."""
        own: dict[str, list[float]] = defaultdict(list)
        for question, credit in zip(questions, credits, strict=True):
            for ability in question.category.split("_"):
                own[ability].append(credit)
        return {name: (100 * sum(c) / len(c), len(c)) for name, c in sorted(own.items()) if name}

    def prediction_ids(self, question: Question) -> set[str]:
        """The ids of LLaVA's answers file and of MM-Vet's evaluator."""
        return {question.id, f"v1_{question.id}"}

    def submission(self, responses: Sequence[Response], folder: Path, split: str) -> list[Path]:
        """LLaVA's answers file, and the results file of MM-Vet's evaluator."""
        path = folder / "mm-vet.json"
        answers = write_answers_file(folder / "merge.jsonl", responses)
        texts = {f"v1_{one.question.id}": one.text for one in responses}
        path.write_text(json.dumps(texts, indent=2), encoding="utf-8")
        return [answers, path]


@cache
def _instructions(protocol: str) -> str:
    name = "mmvet_judge_vlmevalkit.txt" if protocol == VLMEVALKIT else "mmvet_judge.txt"
    text = (Path(__file__).parents[1] / "texts" / name).read_text(encoding="utf-8")
    # Compat: lmms-eval renamed the first column of the table.
    return text.replace("\n\nQuestion", "\ngpt_query_prompt") if protocol == LMMS_EVAL else text


def grading_prompt(question: str, target: str, text: str, protocol: str = PAPER) -> str:
    """The judge's prompt: few-shot examples, and a row to complete.

    Source: MM-Vet's mm-vet_evaluator.py, and the utils of both harnesses.
    """
    target = target.replace("<AND>", " <AND> ").replace("<OR>", " <OR> ")
    row = " | ".join((question, target, text, ""))
    return f"{_instructions(protocol)}\n{row.rstrip(' ') if protocol == LMMS_EVAL else row}"


def parse_grade(reply: str, protocol: str = PAPER) -> float | None:
    """Parse the grade in a judge's reply, a number from 0 to 1; None: it has none.

    In VLMEvalKit the grade is the whole reply, in the others the text before the first space.
    """
    if protocol == LMMS_EVAL:
        reply = reply.strip()
    text = reply if protocol == VLMEVALKIT else reply.split(" ")[0]
    try:
        number = float(text)
    except ValueError:
        return None
    return number if 0 <= number <= 1 else None


def contained_share(text: str, target: str) -> float:
    """The share of a target's <AND> elements in a response, of the best <OR> alternative."""
    low = " ".join(text.lower().split())
    shares = []
    for alternative in target.lower().split("<or>"):
        elements = [" ".join(one.split()) for one in alternative.split("<and>")]
        shares.append(sum(one in low for one in elements) / len(elements))
    return max(shares)
