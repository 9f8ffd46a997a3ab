"""MME-RealWorld: hard questions about large photographs, charts and satellite images."""

import ast
import re
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

from mgm.eval.harness.llm_judge import Judge
from mgm.eval.harness.question import Answered, Question
from mgm.eval.metrics.vlmevalkit import is_missing
from mgm.eval.tasks.benchmark import LMMS_EVAL, VLMEVALKIT, Benchmark
from mgm.eval.tasks.dataset_source import HubFiles, Table

LITE = (
    "https://huggingface.co/datasets/yifanzhang114/MME-RealWorld-Base64/resolve/main/"
    "mme_realworld_lite.tsv"
)
LISTED = "The choices are listed below:\n"
SELECT = (
    "Select the best answer to the above multiple-choice question based on the image. Respond with "
    "only the letter (A, B, C, D, or E) of the correct option."
)
# What stands before a letter. Source: `extract_characters_regex` of both harnesses.
PREFIXES = (
    *("The best answer is", "The correct answer is", "The answer is", "The answer"),
    *("The best option is", "The correct option is", "Best answer:", "Best option:"),
)
LONG = 10  # words; a longer answer has to name a letter


class MMERealWorld(Benchmark):
    """Accuracy of all questions; perception, reasoning and their subtasks are parts of it.

    VLMEvalKit makes the table of the complete benchmark from its data set; it is read where it was
    put. Source: Zhang et al., "MME-RealWorld" (2024), https://arxiv.org/abs/2408.13257.
    """

    name, title, folder = "mme-realworld", "MME-RealWorld", "mme_realworld"
    splits = scored = ("test", "lite")
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
            "mme_realworld_lite.tsv", 1919, "4c17057d7d3b6c4a0d4397c3dae0881c", url=LITE
        ),
    }

    def from_row(
        self, row: dict[str, Any], images: tuple[Path, ...], protocol: str, number: int
    ) -> Question:
        """See `Benchmark`."""
        choices = row["multi-choice options"]
        if isinstance(choices, str) and choices.startswith("["):
            choices = ast.literal_eval(choices)
        if not isinstance(choices, str):
            choices = LISTED + "\n".join(choices)
        end = "\nThe best answer is: " if protocol == LMMS_EVAL else " \nThe best answer is:"
        return Question(
            id=str(row["index"]),
            text=f"{row['question']} {choices}\n{SELECT}{end}",
            images=images,
            answer=row["answer"],
            group=images[0].name,
            category=row["category"],
            max_new_tokens=16 if protocol == LMMS_EVAL else 1024,
        )

    def credit(self, answered: Answered, protocol: str, judge: Judge) -> float:
        """Whether the letter is right."""
        if protocol == VLMEVALKIT and is_missing(answered.text):
            return 0.0  # it ends with an error there
        return float(extracted_letter(_tagged(answered.text, protocol)) == answered.question.answer)

    def parse(self, answered: Answered, protocol: str) -> str | None:
        """See `Benchmark`."""
        return extracted_letter(_tagged(answered.text, protocol))

    def parts(
        self, questions: Sequence[Question], credits: Sequence[float]
    ) -> dict[str, tuple[float, int]]:
        """Of perception and reasoning, and of every subtask."""
        tasks: dict[str, list[float]] = defaultdict(list)
        for question, credit in zip(questions, credits, strict=True):
            tasks[question.category.partition("/")[0]].append(credit)
        own = {name: (100 * sum(one) / len(one), len(one)) for name, one in sorted(tasks.items())}
        return own | super().parts(questions, credits)


def _tagged(text: str, protocol: str) -> str:
    """An answer; VLMEvalKit looks at what stands between tags, if there are some."""
    tagged = re.search(r"<answer>(.*?)</answer>", text, re.DOTALL)
    return tagged[1].strip().upper() if tagged and protocol == VLMEVALKIT else text


def extracted_letter(text: str) -> str:
    """The first letter from A to E in an answer; empty: there is none.

    Compat: an answer without any that is part of "(a)", as the empty one is, means A.
    Source: `extract_characters_regex` of both harnesses.
    """
    text = text.strip()
    for prefix in PREFIXES:
        text = text.replace(prefix, "")
    found = re.search("[ABCDE]", text)
    if found:
        return found[0]
    if len(text.split()) > LONG:
        return ""
    return next((letter for letter in "ABCDE" if text.lower() in f"({letter.lower()})"), "")
