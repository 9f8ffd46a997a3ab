"""MME-RealWorld: multiple choice about high-resolution photographs, charts, satellite images."""

import ast
import re
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

from mgm.eval.harness.llm_judge import Judge
from mgm.eval.harness.question import Question, Response
from mgm.eval.metrics.vlmevalkit import is_missing
from mgm.eval.tasks.benchmark import LMMS_EVAL, VLMEVALKIT, Benchmark
from mgm.eval.tasks.dataset_source import HubFiles, Table

LITE_URL = (
    "https://huggingface.co/datasets/yifanzhang114/MME-RealWorld-Base64/resolve/main/"
    "mme_realworld_lite.tsv"
)
CHOICES_PREFIX = "The choices are listed below:\n"
SELECT_PROMPT = (
    "Select the best answer to the above multiple-choice question based on the image. Respond with "
    "only the letter (A, B, C, D, or E) of the correct option."
)
# Phrases to remove. Source: `extract_characters_regex` of both harnesses.
PREFIXES = (
    *("The best answer is", "The correct answer is", "The answer is", "The answer"),
    *("The best option is", "The correct option is", "Best answer:", "Best option:"),
)
MAX_SHORT_WORDS = 10  # words; a longer response needs a capital letter


class MMERealWorld(Benchmark):
    """Accuracy, with parts for perception, reasoning and their subtasks.

    VLMEvalKit generates the table of the complete benchmark; it has to be added by hand.
    Source: Zhang et al., "MME-RealWorld" (2024), https://arxiv.org/abs/2408.13257.
    """

    name, title, folder = "mme-realworld", "MME-RealWorld", "mme_realworld"
    splits = scored_splits = ("test", "lite")
    published_splits = ()
    sizes: ClassVar = {"test": 23609, "lite": 1919}
    protocols = (LMMS_EVAL, VLMEVALKIT)
    sources: ClassVar = {
        ("test", LMMS_EVAL): HubFiles(
            "yifanzhang114/MME-RealWorld-Lmms-eval", "**/train-*.parquet", 23609, "bytes"
        ),
        ("lite", LMMS_EVAL): HubFiles(
            "yifanzhang114/MME-RealWorld-lite-lmms-eval", "**/train-*.parquet", 1919, "bytes"
        ),
        ("test", VLMEVALKIT): Table(
            "MME-RealWorld.tsv", 23609, "fd341132362fc41e707cb37ee6e4dcda", url=None
        ),
        ("lite", VLMEVALKIT): Table(
            "mme_realworld_lite.tsv", 1919, "4c17057d7d3b6c4a0d4397c3dae0881c", url=LITE_URL
        ),
    }

    def row_to_question(
        self, row: dict[str, Any], images: tuple[Path, ...], protocol: str, number: int
    ) -> Question:
        """Question and choices in the wording of the harness (they differ in whitespace)."""
        choices = row["multi-choice options"]
        if isinstance(choices, str) and choices.startswith("["):
            choices = ast.literal_eval(choices)
        if not isinstance(choices, str):
            choices = CHOICES_PREFIX + "\n".join(choices)
        end = "\nThe best answer is: " if protocol == LMMS_EVAL else " \nThe best answer is:"
        return Question(
            id=str(row["index"]),
            text=f"{row['question']} {choices}\n{SELECT_PROMPT}{end}",
            images=images,
            target=row["answer"],
            group=images[0].name,
            category=row["category"],
            max_new_tokens=16 if protocol == LMMS_EVAL else 1024,
        )

    def score_one(self, response: Response, protocol: str, judge: Judge) -> float:
        """Whether the letter of the response is the target."""
        if protocol == VLMEVALKIT and is_missing(response.text):
            return 0.0  # Compat: an error in VLMEvalKit
        return float(
            mme_realworld_letter(_tagged(response.text, protocol)) == response.question.target
        )

    def parse(self, response: Response, protocol: str) -> str | None:
        """The letter by the rules of both harnesses."""
        return mme_realworld_letter(_tagged(response.text, protocol))

    def parts(
        self, questions: Sequence[Question], credits: Sequence[float]
    ) -> dict[str, tuple[float, int]]:
        """The accuracies of perception and reasoning, and of each subtask."""
        tasks: dict[str, list[float]] = defaultdict(list)
        for question, credit in zip(questions, credits, strict=True):
            tasks[question.category.partition("/")[0]].append(credit)
        own = {name: (100 * sum(one) / len(one), len(one)) for name, one in sorted(tasks.items())}
        return own | super().parts(questions, credits)


def _tagged(text: str, protocol: str) -> str:
    """The text to parse: for VLMEvalKit that in <answer> tags, if there are any."""
    tagged = re.search(r"<answer>(.*?)</answer>", text, re.DOTALL)
    return tagged[1].strip().upper() if tagged and protocol == VLMEVALKIT else text


def mme_realworld_letter(text: str) -> str:
    """The first letter from A to E in a response; empty: none.

    Compat: a response that is a substring of "(a)", such as the empty one, means A.
    Source: `extract_characters_regex` of both harnesses.
    """
    text = text.strip()
    for prefix in PREFIXES:
        text = text.replace(prefix, "")
    match = re.search("[ABCDE]", text)
    if match:
        return match[0]
    if len(text.split()) > MAX_SHORT_WORDS:
        return ""
    return next((letter for letter in "ABCDE" if text.lower() in f"({letter.lower()})"), "")
