"""LLaVA-Bench in the wild: an LLM judge rates free-form responses relative to GPT-4's."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cache
from math import isfinite
from pathlib import Path
from typing import ClassVar

from mgm.errors import MGMError
from mgm.eval.harness.llm_judge import Judge
from mgm.eval.harness.question import Credit, Question, Response, SkippedQuestion, ratio_of_sums
from mgm.eval.tasks.benchmark import PAPER, Benchmark
from mgm.eval.tasks.dataset_source import RequiredFile
from mgm.eval.tasks.files import read_jsonl
from mgm.eval.tasks.llava_format import llava_questions, write_answers_file

REVIEW_ATTEMPTS = 3  # maximum attempts until a reply has two scores
# Temperature of the first attempt, and its increase with each further one.
REVIEW_TEMPERATURE, REVIEW_TEMPERATURE_STEP = 0.2, 0.3
REVIEW_SYSTEM_PROMPT = (
    "You are a helpful and precise assistant for checking the quality of the answer."
)
MAX_SCORE = 10
FAILED_SCORES = (-1.0, -1.0)  # scores for a reply without scores, as in LLaVA's review


class LLaVABench(Benchmark):
    """Relative score: the judge's scores in per cent of those of the reference answers.

    A ratio of means, not a mean of ratios. Source: summarize_gpt_review.py of LLaVA.
    """

    name, title, folder = "llava-bench", "LLaVA-Bench (wild)", "llava-bench-in-the-wild"
    metric = "relative marks"
    splits = scored_splits = ("test",)
    sizes: ClassVar = {"test": 60}
    judged = (PAPER,)

    def published_files(self, split: str) -> list[RequiredFile]:
        """LLaVA's question file, images, captions and reference answers."""
        hub = "the data set liuhaotian/llava-bench-in-the-wild of the Hugging Face hub"
        names = ("questions.jsonl", "context.jsonl", "answers_gpt4.jsonl", "images")
        return [RequiredFile(name, hub) for name in names]

    def published_questions(
        self, folder: Path, split: str, protocol: str
    ) -> Iterator[Question | SkippedQuestion]:
        """Questions with GPT-4's reference answers and the captions of images."""
        captions = {one["image"]: one["caption"] for one in read_jsonl(folder / "context.jsonl")}
        references = {
            str(one["question_id"]): one["text"]
            for one in read_jsonl(folder / "answers_gpt4.jsonl")
        }

        def add_target(question: Question, index: int) -> Question:
            if question.id not in references:
                raise MGMError(f"{folder / 'answers_gpt4.jsonl'}: has no question {question.id}")
            return replace(
                question,
                target=references[question.id],
                metadata={**question.metadata, "caption": captions.get(question.group, "")},
            )

        yield from llava_questions(
            folder / "questions.jsonl",
            folder / "images",
            1024,
            transform=add_target,
            category=lambda record: str(record.get("category", "")),
        )

    def score_one(self, response: Response, protocol: str, judge: Judge) -> float:
        """The judge's scores of response and reference; without a judge, the F1 of their words.

        Raises:
            MGMError: the judge does not reply.
        """
        if not judge.is_model:
            return word_f1(response.text, response.question.target)
        prompt, reply = review_prompt(response), ""
        for attempt in range(REVIEW_ATTEMPTS):
            reply = judge.complete(
                prompt,
                temperature=REVIEW_TEMPERATURE + REVIEW_TEMPERATURE_STEP * attempt,
                max_tokens=1024,
                accepts=lambda text: parse_scores(text) is not None,
                system=REVIEW_SYSTEM_PROMPT,
            )
            scores = parse_scores(reply)
            if scores is not None:
                return _to_credit(*scores)
        return _to_credit(
            *FAILED_SCORES,
            note=f"no two scores in {REVIEW_ATTEMPTS} replies of the judge: {reply!r:.60}",
        )

    def combine(self, questions: Sequence[Question], credits: Sequence[float]) -> float:
        """The sum of scores in per cent of that of the references."""
        return 100 * ratio_of_sums(credits)

    def highest(self, questions: Sequence[Question], part: str = "") -> float | None:
        """None: responses may be better than the reference."""
        return None

    def submission(self, responses: Sequence[Response], folder: Path, split: str) -> list[Path]:
        """The answers file of the published scripts."""
        return [write_answers_file(folder / "answers.jsonl", responses)]


@cache
def _instructions() -> str:
    """The judge's instructions, the same for all categories. Source: rule.json of LLaVA."""
    file = Path(__file__).parents[1] / "texts" / "llava_bench_judge.txt"
    return file.read_text(encoding="utf-8")


def review_prompt(response: Response) -> str:
    """The judge's prompt. Source: eval_gpt_review_bench.py of LLaVA."""
    question = response.question
    caption = question.metadata["caption"]
    context = "\n".join(caption) if isinstance(caption, list) else caption
    return (
        f"[Context]\n{context}\n\n[Question]\n{question.metadata['prompt']}\n\n"
        f"[Assistant 1]\n{question.target}\n\n[End of Assistant 1]\n\n"
        f"[Assistant 2]\n{response.text}\n\n[End of Assistant 2]\n\n"
        f"[System]\n{_instructions()}\n\n"
    )


def parse_scores(review: str) -> tuple[float, float] | None:
    """Parse the scores of reference and response in a review; None: it has none.

    They are the first line: two numbers, separated by one space or comma. Source: parse_score of
    LLaVA's eval_gpt_review_bench.py.
    """
    words = review.split("\n")[0].replace(",", " ").split(" ")
    try:
        reference, own = map(float, words)
    except ValueError:
        return None
    return (reference, own) if isfinite(reference) and isfinite(own) else None


def _to_credit(reference: float, own: float, note: str = "") -> Credit:
    share = min(max(own / MAX_SCORE, 0.0), 1.0)
    return Credit(share, numerator=own, denominator=reference, note=note)


def word_f1(text: str, reference: str) -> float:
    """The F1 score of the words of two texts."""
    own, other = (re.findall(r"\w+", one.lower()) for one in (text, reference))
    if not own or not other:
        return float(own == other)
    rest, common = list(other), 0
    for word in own:
        if word in rest:
            rest.remove(word)
            common += 1
    return 2 * common / (len(own) + len(other))
