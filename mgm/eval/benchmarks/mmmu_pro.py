"""MMMU-Pro (vision): MMMU's questions with ten choices, in screenshots and photographs of them."""

import ast
import random
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

from mgm.eval.harness.llm_judge import Judge
from mgm.eval.harness.question import Answered, Question
from mgm.eval.metrics.lmms_eval import lmms_eval_choice
from mgm.eval.metrics.multiple_choice import by_letter
from mgm.eval.metrics.vlmevalkit import as_two_choices, choice_credit, choice_question
from mgm.eval.tasks.benchmark import LMMS_EVAL, OFFICIAL, VLMEVALKIT, Benchmark
from mgm.eval.tasks.dataset_source import HubFiles, Table

LETTER = "Answer with the option letter from the given choices directly."
PROMPTS = {
    OFFICIAL: f"{LETTER} The last line of your response should be of the following format: "
    "'Answer: $LETTER' (without quotes) where LETTER is one of options.",
    LMMS_EVAL: LETTER,
    VLMEVALKIT: "Answer the following multiple-choice question in the image. Answer directly with "
    "the option letter from the given choices. ",
}
PLACEHOLDER = "placeholder"  # what VLMEvalKit shows its judge for the question
MARK = "Answer:"  # behind which the official parser looks for a letter first
SEED = 42  # by which a letter is drawn where an answer names none
_HUB = HubFiles("MMMU/MMMU_Pro", "vision/test-*.parquet", 1730)


class MMMUPro(Benchmark):
    """With the authors' parser, or as others' harnesses score: lmms-eval wants the bare letter.

    Source: Yue et al., "MMMU-Pro" (2024), https://arxiv.org/abs/2409.02813.
    """

    name, title, folder = "mmmu-pro", "MMMU-Pro (vision)", "mmmu_pro"
    splits = scored = ("vision",)
    published_splits = ()
    sizes: ClassVar = {"vision": 1730}
    protocols = (OFFICIAL, LMMS_EVAL, VLMEVALKIT)
    judged = (VLMEVALKIT,)
    sources: ClassVar = {
        ("vision", OFFICIAL): _HUB,
        ("vision", LMMS_EVAL): _HUB,
        ("vision", VLMEVALKIT): Table("MMMU_Pro_V.tsv", 1730, "d01441a87b3dbe721b5a04652ae38009"),
    }

    def from_row(
        self, row: dict[str, Any], images: tuple[Path, ...], protocol: str, number: int
    ) -> Question:
        """See `Benchmark`."""
        if protocol == VLMEVALKIT:
            question = choice_question(row | {"question": PLACEHOLDER}, images)
            return as_two_choices(replace(question, text=PROMPTS[protocol]))
        return Question(
            id=str(row["id"]),
            text=PROMPTS[protocol],
            images=images,
            answer=row["answer"],
            group=str(row["id"]),
            category=row["subject"],
            max_new_tokens=256,
            facts={"choices": by_letter([str(one) for one in ast.literal_eval(row["options"])])},
        )

    def credit(self, answered: Answered, protocol: str, judge: Judge) -> float:
        """Whether the letter is right."""
        if protocol == VLMEVALKIT:
            return choice_credit(answered, judge)
        question = answered.question
        if protocol == LMMS_EVAL:
            return float(answered.text == question.answer)
        names = question.facts["choices"]
        letter = _behind_mark(answered.text, names) or lmms_eval_choice(answered.text, names)
        # Compat: a letter is drawn; by the question, so that the order of others is no matter.
        letter = letter or random.Random(f"{SEED} {question.id}").choice(list(names))
        return float(letter == question.answer)


def _behind_mark(text: str, letters: Any) -> str | None:
    """The only letter behind the last mark.

    Source: `parse_multi_choice_response` of MMMU-Pro's evaluate.py.
    """
    _, mark, tail = text.rpartition(MARK)
    named = [letter for letter in letters if letter in tail] if mark else []
    return named[0] if len(named) == 1 else None
