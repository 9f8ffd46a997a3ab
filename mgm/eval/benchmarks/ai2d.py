"""AI2D: multiple choice about diagrams of grade school science."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

from mgm.eval.harness.llm_judge import Judge
from mgm.eval.harness.question import Question, Response
from mgm.eval.metrics.lmms_eval import exact_match
from mgm.eval.metrics.multiple_choice import LETTERS, format_choices
from mgm.eval.metrics.vlmevalkit import choice_question, score_multiple_choice
from mgm.eval.tasks.benchmark import LMMS_EVAL, VLMEVALKIT, Benchmark
from mgm.eval.tasks.dataset_source import HubFiles, Table
from mgm.eval.tasks.prompts import LETTER_PROMPT


class AI2D(Benchmark):
    """Accuracy; in `test-no-mask` the labels of diagrams are not masked by letters.

    Source: Kembhavi et al., "A Diagram Is Worth A Dozen Images" (2016),
    https://arxiv.org/abs/1603.07396.
    """

    name, title, folder = "ai2d", "AI2D", "ai2d"
    splits = scored_splits = ("test", "test-no-mask")
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

    def row_to_question(
        self, row: dict[str, Any], images: tuple[Path, ...], protocol: str, number: int
    ) -> Question:
        """Choices as lines with letters; in VLMEvalKit's protocol its own prompt."""
        if protocol == VLMEVALKIT:
            return choice_question(row, images)
        return Question(
            id=str(number - 1),
            text=f"{row['question']}\n{format_choices(row['options'])}\n{LETTER_PROMPT}",
            images=images,
            target=LETTERS[int(row["answer"])],
            group=images[0].name,
            max_new_tokens=16,
        )

    def filter_response(
        self, response: Response, protocol: str, without_thinking: bool = False
    ) -> Response:
        """Also extract the letter, which lmms-eval does before it removes reasoning.

        Source: `MultiChoiceRegexFilter` of lmms-eval's ai2d, utils.py.
        """
        match = re.match(r"\s*([A-Z])\.", response.text) if protocol == LMMS_EVAL else None
        response = replace(response, text=match[1]) if match else response
        return super().filter_response(response, protocol, without_thinking)

    def score_one(self, response: Response, protocol: str, judge: Judge) -> float:
        """Whether the letter of the response is the target."""
        if protocol == VLMEVALKIT:
            return score_multiple_choice(response, judge)
        return float(exact_match(response.text, response.question.target))
