"""The report of a model: report.md, report.html and results.json of all scores in a folder.

Scores of earlier runs are in folders of their own and stay part of the report.
"""

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mgm.atomic import atomic_file
from mgm.errors import MGMError
from mgm.eval.report.ablation_table import ablation_rows, read_ablations, utilisation_lines
from mgm.eval.report.examples import DETAILS_FILE
from mgm.eval.report.html_page import report_page
from mgm.eval.report.markdown_tables import (
    REPORT_COLUMNS,
    ablations_text,
    format_score,
    headline,
    markdown,
    noted_questions,
    parts_table,
    score_cells,
    scores_table,
)
from mgm.eval.report.paper_results import PAPER_COLUMNS, compare_with_paper, paper_table
from mgm.eval.report.score import Score, load_score, score_files
from mgm.eval.tasks.benchmark import PAPER
from mgm.eval.tasks.files import load_json

logger = logging.getLogger("mgm.eval")
RESULTS_FORMAT = 2  # format of results.json; see texts/results.schema.json


def _page_row(score: Score, model: str) -> dict[str, str]:
    """The row of a score on the page, where the interval has a column of its own."""
    row = dict(zip(REPORT_COLUMNS, score_cells(score, model), strict=True))
    row["score"] = headline(score) if score.value is not None else format_score(score)
    if not score.complete:
        row["questions"] = f"{score.questions:,} of {score.expected or 0:,} (partial)"
    return row


def write_report(folder: Path, model: str, current: Mapping[str, Any] | None = None) -> list[Score]:
    """Write the report of all scores below a folder.

    Args:
        folder: output folder.
        model: name of the model.
        current: `Score.run` of a score of the model, to exclude scores of other weights; None:
            that of the newest score.

    Returns:
        The scores in the report.

    Raises:
        MGMError: a file cannot be written.
    """
    scored_folders = _scores_of_model(folder, model, current)
    scores = [score for _, score in scored_folders]
    ablations = [_ablations(path, score) for path, score in scored_folders]
    formatted = {
        score.benchmark: headline(score) + ("" if score.complete else " (partial)")
        for score in scores
        if score.protocol == PAPER
    }
    paper = paper_table(model, formatted)
    text = f"# {model}\n\n"
    text += f"{markdown(paper)}\n" if paper else ""
    text += scores_table(scores, model) + "".join(map(parts_table, scores))
    text += "".join(map(noted_questions, scores))
    text += "".join(map(ablations_text, scores, ablations))
    rows = [_page_row(score, model) for score in scores]
    sections = [
        (
            score,
            _details(path)
            | {
                "ablations": ablation_rows(score, content),
                "utilisation": utilisation_lines(score, content),
            },
        )
        for (path, score), content in zip(scored_folders, ablations, strict=True)
    ]
    content = results(model, scores, ablations)
    files = {
        "report.md": text,
        "report.html": report_page(model, paper, rows, sections),
        "results.json": json.dumps(content, ensure_ascii=False, indent=1, allow_nan=False) + "\n",
    }
    for name, content in files.items():
        with atomic_file(folder / name) as path:
            path.write_text(content, encoding="utf-8")
    return scores


def _scores_of_model(
    folder: Path, model: str, current: Mapping[str, Any] | None
) -> list[tuple[Path, Score]]:
    """The scores of a model with their folders; others are excluded with a warning."""
    scored_folders = [(path.parent, score) for path, score in _scores(folder)]
    if current is None:
        runs = [score.run for _, score in scored_folders]
        current = max(runs, key=lambda run: run.get("date", ""), default={})
    kept = []
    for path, score in scored_folders:
        if _same_model(score.run, current):
            kept.append((path, score))
        else:
            logger.warning(
                "%s: another model or other weights (%s, not %s); excluded from the report; give "
                "another --output-dir, or the same --model for --predictions of one model",
                *(path, score.run.get("model", {}).get("name"), model),
            )
    return kept


def _scores(folder: Path) -> Iterator[tuple[Path, Score]]:
    """Load the scores below a folder, the paper's benchmarks first."""
    scores = []
    for path in score_files(folder):
        try:
            scores.append((path, load_score(path)))
        except MGMError as error:
            logger.warning("%s; excluded from the report", error)
    order = {name: index for index, name in enumerate(PAPER_COLUMNS)}
    yield from sorted(scores, key=lambda one: (order.get(one[1].benchmark, len(order)), one[0]))


def _same_model(run: Mapping[str, Any], current: Mapping[str, Any]) -> bool:
    """Whether two runs have the same model name and weights, as far as both are known."""
    own, other = run.get("model", {}), current.get("model", {})
    return all(own.get(name) in (other.get(name), None) or other.get(name) is None
               for name in ("name", "digest"))  # fmt: skip


def _details(folder: Path) -> dict[str, Any]:
    """Load breakdowns and examples of a score; empty without any."""
    try:
        details = load_json(folder / DETAILS_FILE) if (folder / DETAILS_FILE).is_file() else {}
    except MGMError as error:
        logger.warning("%s; the report shows no examples", error)
        details = {}
    return details if isinstance(details, dict) else {}


def _ablations(folder: Path, score: Score) -> dict[str, Any]:
    """Load the ablations of a score; empty without any."""
    try:
        content = read_ablations(folder, score)
        json.dumps(content, allow_nan=False)
        return content
    except (MGMError, ValueError) as error:
        logger.warning("%s, ablations: %s; excluded from the report", folder, error)
        return {}


def results(
    model: str, scores: Sequence[Score], ablations: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """The content of results.json, see texts/results.schema.json."""
    return {
        "format": RESULTS_FORMAT,
        "model": model,
        "results": [
            _result(score, model)
            | {name: list(content.get(name, ())) for name in ("ablations", "utilisation")}
            for score, content in zip(scores, ablations, strict=True)
        ],
    }


def _result(score: Score, model: str) -> dict[str, Any]:
    comparison = None
    if score.value is not None and score.complete:
        comparison = compare_with_paper(model, score.benchmark, score.value, score.low, score.high)
    return {
        "benchmark": score.benchmark,
        "title": score.title,
        "protocol": score.protocol,
        "judge": score.judge,
        "metric": score.metric,
        "value": score.value,
        "interval": None if score.low is None else [score.low, score.high],
        "highest": score.highest,
        "questions": score.questions,
        "expected": score.expected,
        "complete": score.complete,
        "published": comparison and comparison.published,
        "parts": [
            {
                "name": name,
                "value": value,
                "interval": list(score.intervals[name]) if name in score.intervals else None,
                "highest": score.part_highest.get(name, score.highest),
                "questions": count,
            }
            for name, (value, count) in score.parts.items()
        ],
        "counts": score.counts | {"skipped": len(score.skipped), "notes": len(score.notes)},
        "skipped": [{"id": one.id, "reason": one.reason} for one in score.skipped],
        "notes": [{"id": name, "reason": note} for name, note in score.notes.items()],
        "run": score.run,
    }
