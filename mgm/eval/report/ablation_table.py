"""Ablations of a score, as the report shows them: ablations.json, beside score.json.

`mgm.eval.ablation` measures and writes them.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mgm.eval.report.score import Score
from mgm.eval.tasks.files import load_json

ABLATIONS_FILE = "ablations.json"
FULL_MODEL = "full model"
# What decides answers and their scores, of a score's `run` (see `run_info`).
MODEL_FIELDS = ("name", "digest", "dtype", "quantize", "model_base", "conv_mode", "endpoint")
DECIDING_SETTINGS = ("max_new_tokens", "strip_thinking", "answers")
ABLATION_COLUMNS = (
    "ablation",
    "what is changed",
    "score",
    "difference (95 %)",
    "questions",
    "verdict",
)
Content = Mapping[str, Any]


def read_ablations(folder: Path, score: Score) -> dict[str, Any]:
    """What stands in a score's folder; empty: nothing, or it was measured of other answers.

    Raises:
        MGMError: the file is damaged.
    """
    path = folder / ABLATIONS_FILE
    found = load_json(path) if path.is_file() else {}
    same = isinstance(found, dict) and found.get("full_model") == full_model(score)
    return found if same else {}


def full_model(score: Score) -> dict[str, Any]:
    """The score that ablations are compared with, in JSON.

    Its digest is of each question's credit and of what they depend on: weights, precision,
    template, data, judge and settings. Scores of other models or answers have other digests,
    though their values may be equal.
    """
    run = score.run
    content = [
        *(score.benchmark, score.protocol, score.judge, score.credits, score.fractions),
        _of(run.get("model"), MODEL_FIELDS),
        _of(run.get("data"), ("digest",)),
        _of(run.get("settings"), DECIDING_SETTINGS),
    ]
    digest = hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()
    return {"value": score.value, "questions": score.questions, "digest": digest}


def _of(values: object, names: Sequence[str]) -> list[Any]:
    known = values if isinstance(values, Mapping) else {}
    return [known.get(name) for name in names]


def ablation_rows(score: Score, content: Content) -> list[Sequence[str]]:
    """A table of the full model and of each ablation, heads first; empty: there are none."""
    if not content:
        return []
    value = "" if score.value is None else f"{score.value:.1f}"
    first = (
        FULL_MODEL, "", value + _within(score.low, score.high), "",
        _questions(score, score.questions), "",
    )  # fmt: skip
    return [ABLATION_COLUMNS, first, *(_row(score, one) for one in content["ablations"])]


def _questions(score: Score, count: int) -> str:
    """A number of questions, with that of the benchmark where some are missing."""
    if score.expected is None or count == score.expected:
        return f"{count:,}"
    return f"{count:,} of {score.expected:,} (partial)"


def _row(score: Score, one: Content) -> Sequence[str]:
    ends = one["difference_interval"]
    text = " (too few images)" if ends is None else f" ({ends[0]:+.1f} to {ends[1]:+.1f})"
    return (
        one["name"],
        one["description"],
        f"{one['value']:.1f}{_within(*(one['interval'] or (None, None)))}",
        f"{one['difference']:+.1f}{text}",
        _questions(score, one["questions"]),
        one["verdict"],
    )


def _within(low: float | None, high: float | None) -> str:
    return "" if low is None or high is None else f" ({low:.1f} to {high:.1f})"


def utilisation_lines(score: Score, content: Content) -> list[str]:
    """How much of the score each encoder accounts for, in words."""
    lines = []
    for one in content.get("utilisation", ()):
        ends = one["interval"]
        text = "too few images" if ends is None else f"95 %: {ends[0]:.2f} to {ends[1]:.2f}"
        partial = f"; {score.coverage}" if score.coverage else ""
        lines.append(f"utilisation of the {one['encoder']}: {one['rate']:.2f} ({text}{partial})")
    return lines
