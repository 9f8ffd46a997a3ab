"""AI2D: diagrams of school science, with choices."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

from mgm.eval.harness.llm_judge import Judge
from mgm.eval.harness.question import Answered, Question
from mgm.eval.metrics.lmms_eval import exact_match
from mgm.eval.metrics.multiple_choice import LETTERS, listed
from mgm.eval.metrics.vlmevalkit import choice_credit, choice_question
from mgm.eval.tasks.benchmark import LMMS_EVAL, VLMEVALKIT, Benchmark
from mgm.eval.tasks.dataset_source import HubFiles, Table
from mgm.eval.tasks.prompts import LETTER


class AI2D(Benchmark):
    """Letters; in `test-no-mask` the labels of a diagram are not covered by letters.

    Source: Kembhavi et al., "A Diagram Is Worth A Dozen Images" (2016),
    https://arxiv.org/abs/1603.07396.
    """

    name, title, folder = "ai2d", "AI2D", "ai2d"
    splits = scored = ("test", "test-no-mask")
    published_splits = ()
    sizes: ClassVar = {"test": 3088, "test-no-mask": 3088}
    protocols = (LMMS_EVAL, VLMEVALKIT)
    judged = (VLMEVALKIT,)
    sources: ClassVar = {
        ("test", LMMS_EVAL): HubFiles("lmms-lab-encoder/ai2d", "**/test-*.parquet", 3088),
        ("test-no-mask", LMMS_EVAL): HubFiles(
            "Efficient-Large-Model/ai2d-no-mask", "**/test-*.parquet", 3088
        ),
        ("test", VLMEVALKIT): Table("AI2D_TEST.tsv", 3088, "0f593e0d1c7df9a3d69bf1f947e71975"),
        ("test-no-mask", VLMEVALKIT): Table(
            "AI2D_TEST_NO_MASK.tsv", 3088, "fd8f463634d4fe9fbd23b876e8eea5be"
        ),
    }

    def from_row(
        self, row: dict[str, Any], images: tuple[Path, ...], protocol: str, number: int
    ) -> Question:
        """See `Benchmark`."""
        if protocol == VLMEVALKIT:
            return choice_question(row, images)
        return Question(
            id=str(number - 1),
            text=f"{row['question']}\n{listed(row['options'])}\n{LETTER}",
            images=images,
            answer=LETTERS[int(row["answer"])],
            group=images[0].name,
            max_new_tokens=16,
        )

    def cleaned(
        self, answered: Answered, protocol: str, without_thinking: bool = False
    ) -> Answered:
        """See `Benchmark`; lmms-eval takes the letter before it takes reasoning out.

        Source: `MultiChoiceRegexFilter` of lmms-eval's ai2d, utils.py.
        """
        found = re.match(r"\s*([A-Z])\.", answered.text) if protocol == LMMS_EVAL else None
        answered = replace(answered, text=found[1]) if found else answered
        return super().cleaned(answered, protocol, without_thinking)

    def credit(self, answered: Answered, protocol: str, judge: Judge) -> float:
        """Whether the letter is right."""
        if protocol == VLMEVALKIT:
            return choice_credit(answered, judge)
        return float(exact_match(answered.text, answered.question.answer))
