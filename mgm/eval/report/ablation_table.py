"""Tables of ablations in the report, from ablations.json beside score.json.

`mgm.eval.ablation` writes the file.
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
# Fields of `Score.run` that affect responses and scores (see `run_info`).
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


def read_ablations(folder: Path, score: Score) -> dict[str, Any]:
    """Read ablations.json of a score; empty: there is none, or it belongs to other responses.

    Raises:
        MGMError: the file is damaged.
    """
    path = folder / ABLATIONS_FILE
    content = load_json(path) if path.is_file() else {}
    is_current = isinstance(content, dict) and content.get("full_model") == full_model(score)
    return content if is_current else {}


def full_model(score: Score) -> dict[str, Any]:
    """The entry for the full model in ablations.json.

    The digest covers the credit of each question and what credits depend on: weights, precision,
    template, data, judge and settings. It detects other models or responses with equal scores.
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
    mapping = values if isinstance(values, Mapping) else {}
    return [mapping.get(name) for name in names]


def ablation_rows(score: Score, content: Mapping[str, Any]) -> list[Sequence[str]]:
    """Rows of the table of ablations, header first; empty: no ablations."""
    if not content:
        return []
    value = "" if score.value is None else f"{score.value:.1f}"
    first = (
        FULL_MODEL, "", value + _within(score.low, score.high), "",
        _questions(score, score.questions), "",
    )  # fmt: skip
    return [ABLATION_COLUMNS, first, *(_row(score, ablation) for ablation in content["ablations"])]


def _questions(score: Score, count: int) -> str:
    """The number of questions, with that of the benchmark if some are missing."""
    if score.expected is None or count == score.expected:
        return f"{count:,}"
    return f"{count:,} of {score.expected:,} (partial)"


def _row(score: Score, ablation: Mapping[str, Any]) -> Sequence[str]:
    interval = ablation["difference_interval"]
    text = (
        " (too few images)" if interval is None else f" ({interval[0]:+.1f} to {interval[1]:+.1f})"
    )
    return (
        ablation["name"],
        ablation["description"],
        f"{ablation['value']:.1f}{_within(*(ablation['interval'] or (None, None)))}",
        f"{ablation['difference']:+.1f}{text}",
        _questions(score, ablation["questions"]),
        ablation["verdict"],
    )


def _within(low: float | None, high: float | None) -> str:
    return "" if low is None or high is None else f" ({low:.1f} to {high:.1f})"


def utilisation_lines(score: Score, content: Mapping[str, Any]) -> list[str]:
    """A line for the utilisation rate of each encoder."""
    partial = f"; {score.coverage}" if score.coverage else ""
    lines = []
    for utilisation in content.get("utilisation", ()):
        ends, encoder = utilisation["interval"], utilisation["encoder"]
        interval = "too few images" if ends is None else f"95 %: {ends[0]:.2f} to {ends[1]:.2f}"
        lines.append(
            f"utilisation of the {encoder}: {utilisation['rate']:.2f} ({interval}{partial})"
        )
    return lines
