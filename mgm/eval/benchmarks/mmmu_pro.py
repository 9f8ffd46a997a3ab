"""MMMU-Pro (vision): MMMU with ten choices, as screenshots and photographs of the questions."""

import ast
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

from mgm.eval.harness.llm_judge import Judge
from mgm.eval.harness.question import Question, Response
from mgm.eval.metrics.lmms_eval import lmms_eval_choice
from mgm.eval.metrics.multiple_choice import choices_by_letter, random_letter
from mgm.eval.metrics.vlmevalkit import as_multiple_choice, choice_question, score_multiple_choice
from mgm.eval.tasks.benchmark import LMMS_EVAL, OFFICIAL, VLMEVALKIT, Benchmark
from mgm.eval.tasks.dataset_source import HubFiles, Table

OPTION_LETTER_PROMPT = "Answer with the option letter from the given choices directly."
PROMPTS = {
    OFFICIAL: f"{OPTION_LETTER_PROMPT} The last line of your response should be of the following "
    "format: 'Answer: $LETTER' (without quotes) where LETTER is one of options.",
    LMMS_EVAL: OPTION_LETTER_PROMPT,
    VLMEVALKIT: "Answer the following multiple-choice question in the image. Answer directly with "
    "the option letter from the given choices. ",
}
PLACEHOLDER = "placeholder"  # the question in prompts of VLMEvalKit's judge
ANSWER_MARK = "Answer:"  # after which the official parser expects the letter
_HUB = HubFiles("MMMU/MMMU_Pro", "vision/test-*.parquet", 1730)


class MMMUPro(Benchmark):
    """Accuracy with the authors' parser, or those of the harnesses: lmms-eval has exact match.

    Source: Yue et al., "MMMU-Pro" (2024), https://arxiv.org/abs/2409.02813.
    """

    name, title, folder = "mmmu-pro", "MMMU-Pro (vision)", "mmmu_pro"
    splits = scored_splits = ("vision",)
    published_splits = ()
    sizes: ClassVar = {"vision": 1730}
    protocols = (OFFICIAL, LMMS_EVAL, VLMEVALKIT)
    judged = (VLMEVALKIT,)
    sources: ClassVar = {
        ("vision", OFFICIAL): _HUB,
        ("vision", LMMS_EVAL): _HUB,
        ("vision", VLMEVALKIT): Table("MMMU_Pro_V.tsv", 1730, "d01441a87b3dbe721b5a04652ae38009"),
    }

    def row_to_question(
        self, row: dict[str, Any], images: tuple[Path, ...], protocol: str, number: int
    ) -> Question:
        """The instruction only: question and choices are in the image."""
        if protocol == VLMEVALKIT:
            question = choice_question(row | {"question": PLACEHOLDER}, images)
            return as_multiple_choice(replace(question, text=PROMPTS[protocol]))
        return Question(
            id=str(row["id"]),
            text=PROMPTS[protocol],
            images=images,
            target=row["answer"],
            group=str(row["id"]),
            category=row["subject"],
            max_new_tokens=256,
            metadata={
                "choices": choices_by_letter([str(one) for one in ast.literal_eval(row["options"])])
            },
        )

    def score_one(self, response: Response, protocol: str, judge: Judge) -> float:
        """Whether the letter of the response is the target."""
        if protocol == VLMEVALKIT:
            return score_multiple_choice(response, judge)
        question = response.question
        if protocol == LMMS_EVAL:
            return float(response.text == question.target)
        choices = question.metadata["choices"]
        letter = _letter_after_mark(response.text, choices) or lmms_eval_choice(
            response.text, choices
        )
        return float((letter or random_letter(question.id, choices)) == question.target)


def _letter_after_mark(text: str, letters: Any) -> str | None:
    """The letter after the last mark, if there is exactly one.

    Source: `parse_multi_choice_response` of MMMU-Pro's evaluate.py.
    """
    _, mark, tail = text.rpartition(ANSWER_MARK)
    stated = [letter for letter in letters if letter in tail] if mark else []
    return stated[0] if len(stated) == 1 else None
