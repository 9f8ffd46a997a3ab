"""LLaVA-Bench in the wild: free answers, compared with those of a language model that saw texts."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cache
from math import isfinite
from pathlib import Path
from typing import ClassVar

from mgm.errors import MGMError
from mgm.eval.harness.llm_judge import Judge
from mgm.eval.harness.question import Answered, Credit, Question, SkippedQuestion, ratio_of_sums
from mgm.eval.tasks.benchmark import PAPER, Benchmark
from mgm.eval.tasks.dataset_source import Needed
from mgm.eval.tasks.files import read_lines
from mgm.eval.tasks.llava_format import llava_questions, write_answers

TRIES = 3  # of a judge whose reply has no two marks
TEMPERATURE, TEMPERATURE_STEP = 0.2, 0.3  # of the first try, and what each further one adds
SYSTEM = "You are a helpful and precise assistant for checking the quality of the answer."
HIGHEST_MARK = 10
NO_MARKS = (-1.0, -1.0)  # what LLaVA's review takes for a reply without marks


class LLaVABench(Benchmark):
    """The mean of the judge's marks for answers, in per cent of that for the reference's.

    Source: summarize_gpt_review.py of LLaVA: a ratio of means, no mean of ratios.
    """

    name, title, folder = "llava-bench", "LLaVA-Bench (wild)", "llava-bench-in-the-wild"
    metric = "relative marks"
    splits = scored = ("test",)
    sizes: ClassVar = {"test": 60}
    judged = (PAPER,)

    def needs(self, split: str) -> list[Needed]:
        """Questions, images, captions and reference answers."""
        hub = "the data set liuhaotian/llava-bench-in-the-wild of the Hugging Face hub"
        names = ("questions.jsonl", "context.jsonl", "answers_gpt4.jsonl", "images")
        return [Needed(name, hub) for name in names]

    def published(
        self, folder: Path, split: str, protocol: str
    ) -> Iterator[Question | SkippedQuestion]:
        """See `Benchmark`."""
        captions = {one["image"]: one["caption"] for one in read_lines(folder / "context.jsonl")}
        references = {
            str(one["question_id"]): one["text"]
            for one in read_lines(folder / "answers_gpt4.jsonl")
        }

        def complete(question: Question, index: int) -> Question:
            if question.id not in references:
                raise MGMError(f"{folder / 'answers_gpt4.jsonl'}: has no question {question.id}")
            return replace(
                question,
                answer=references[question.id],
                facts={**question.facts, "caption": captions.get(question.group, "")},
            )

        yield from llava_questions(
            folder / "questions.jsonl",
            folder / "images",
            1024,
            complete=complete,
            category=lambda record: str(record.get("category", "")),
        )

    def credit(self, answered: Answered, protocol: str, judge: Judge) -> float:
        """The answer's mark with the reference's; by rules, the words they share.

        Raises:
            MGMError: the judge does not reply.
        """
        if not judge.is_model:
            return shared_words(answered.text, answered.question.answer)
        prompt, reply = judge_prompt(answered), ""
        for attempt in range(TRIES):
            reply = judge.ask(
                prompt,
                temperature=TEMPERATURE + TEMPERATURE_STEP * attempt,
                max_tokens=1024,
                accepts=lambda text: marks(text) is not None,
                system=SYSTEM,
            )
            found = marks(reply)
            if found is not None:
                return _credit(*found)
        return _credit(
            *NO_MARKS, note=f"the judge gave no two marks in {TRIES} tries: {reply!r:.60}"
        )

    def combine(self, questions: Sequence[Question], credits: Sequence[float]) -> float:
        """The sum of the answers' marks in per cent of the sum of the reference's."""
        return 100 * ratio_of_sums(credits)

    def highest(self, questions: Sequence[Question], part: str = "") -> float | None:
        """There is no bound: answers may be better than the reference."""
        return None

    def submission(self, answered: Sequence[Answered], folder: Path, split: str) -> list[Path]:
        """The published answers."""
        return [write_answers(folder / "answers.jsonl", answered)]


@cache
def _instructions() -> str:
    """Source: rule.json of LLaVA, whose three kinds of questions have the same."""
    file = Path(__file__).parents[1] / "texts" / "llava_bench_judge.txt"
    return file.read_text(encoding="utf-8")


def judge_prompt(answered: Answered) -> str:
    """What the judge is asked. Source: eval_gpt_review_bench.py of LLaVA."""
    question = answered.question
    caption = question.facts["caption"]
    context = "\n".join(caption) if isinstance(caption, list) else caption
    return (
        f"[Context]\n{context}\n\n[Question]\n{question.facts['prompt']}\n\n"
        f"[Assistant 1]\n{question.answer}\n\n[End of Assistant 1]\n\n"
        f"[Assistant 2]\n{answered.text}\n\n[End of Assistant 2]\n\n"
        f"[System]\n{_instructions()}\n\n"
    )


def marks(review: str) -> tuple[float, float] | None:
    """The marks of the reference and of the answer in a review; None: it has none.

    Two numbers in the first line, with one blank or comma between them and nothing else. Source:
    parse_score of LLaVA's eval_gpt_review_bench.py.
    """
    words = review.split("\n")[0].replace(",", " ").split(" ")
    try:
        reference, own = map(float, words)
    except ValueError:
        return None
    return (reference, own) if isfinite(reference) and isfinite(own) else None


def _credit(reference: float, own: float, note: str = "") -> Credit:
    share = min(max(own / HIGHEST_MARK, 0.0), 1.0)
    return Credit(share, numerator=own, denominator=reference, note=note)


def shared_words(text: str, reference: str) -> float:
    """F1 of the words of two texts."""
    own, other = (re.findall(r"\w+", one.lower()) for one in (text, reference))
    if not own or not other:
        return float(own == other)
    rest, common = list(other), 0
    for word in own:
        if word in rest:
            rest.remove(word)
            common += 1
    return 2 * common / (len(own) + len(other))
