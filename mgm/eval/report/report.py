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
from mgm.eval.report.paper_results import PAPER_COLUMNS, compare_with_paper, paper_table
from mgm.eval.report.score import Score, load_score, score_files
from mgm.eval.tasks.benchmark import PAPER
from mgm.eval.tasks.files import load_json

logger = logging.getLogger("mgm.eval")
REPORT_COLUMNS = ("benchmark", "score", "questions", "protocol", "published", "notes")
MAX_NOTED = 20  # questions of a score in report.md
RESULTS_FORMAT = 2  # of results.json; see texts/results.schema.json


def format_score(score: Score) -> str:
    """Format a score with its interval, and with the number of questions if it is partial."""
    text = "to be submitted"
    if score.value is not None:
        interval = "too few images for an interval"
        if score.low is not None and score.high is not None:
            interval = f"95 %: {score.low:.1f} to {score.high:.1f}"
        text = headline(score)
        text += f" (sum {score.value:.1f}; {interval})" if score.headline else f" ({interval})"
    if not score.complete:
        return f"{score.coverage}: {text}"
    return text


def headline(score: Score) -> str:
    """Format a score as in the paper's table: MME as perception / cognition."""
    if score.value is None:
        return "–"
    if score.headline:
        parts = [score.parts.get(name) for name in score.headline]
        return " / ".join("–" if one is None else f"{one[0]:.1f}" for one in parts)
    return f"{score.value:.1f}"


def format_notes(score: Score) -> str:
    """Format the counts of truncated, unparsed, empty and sampled responses, skips and notes."""
    counts = {
        "cut by the token limit": score.counts.get("cut", 0),
        "unparsed": score.counts.get("unparsed", 0),
        "empty": score.counts.get("empty", 0),
        "not greedy": score.counts.get("sampled", 0),
        "skipped": len(score.skipped),
        "with a note": len(score.notes),
    }
    return ", ".join(f"{count} {name}" for name, count in counts.items() if count)


def scores_table(scores: Sequence[Score], model: str) -> str:
    """The table of all scores in Markdown.

    Args:
        scores: of one model.
        model: name of the model; compared with the paper if it is published.
    """
    return markdown([REPORT_COLUMNS, *(score_cells(score, model) for score in scores)])


def score_cells(score: Score, model: str) -> tuple[str, ...]:
    """The cells of a score by `REPORT_COLUMNS`."""
    published = ""
    if score.value is not None and score.complete:
        comparison = compare_with_paper(model, score.benchmark, score.value, score.low, score.high)
        if comparison is not None:
            words = {True: ", agrees", False: ", differs", None: ""}[comparison.agrees]
            published = f"{comparison.published:.1f} ({comparison.difference:+.1f}{words})"
    name = f"{score.title} ({score.benchmark})"
    questions = f"{score.questions:,}"
    return name, format_score(score), questions, score.scorer, published, format_notes(score)


def _page_row(score: Score, model: str) -> dict[str, str]:
    """The row of a score on the page, where the interval has a column of its own."""
    row = dict(zip(REPORT_COLUMNS, score_cells(score, model), strict=True))
    row["score"] = headline(score) if score.value is not None else format_score(score)
    if not score.complete:
        row["questions"] = f"{score.questions:,} of {score.expected or 0:,} (partial)"
    return row


def markdown(rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown, header first."""
    lines = [rows[0], ["---"] * len(rows[0]), *rows[1:]]
    return "".join(f"| {' | '.join(map(_cell, row))} |\n" for row in lines)


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def _heading(score: Score) -> str:
    return f"{score.title}, {score.scorer}" + (f" ({score.coverage})" if score.coverage else "")


def parts_table(score: Score) -> str:
    """The table of parts in Markdown; empty without parts."""
    if not score.parts:
        return ""
    rows = [("", score.metric, "95 % interval", "questions")]
    for name, (value, count) in score.parts.items():
        low, high = score.intervals.get(name, (None, None))
        interval = "" if low is None or high is None else f"{low:.1f} to {high:.1f}"
        rows.append((name, f"{value:.1f}", interval, f"{count:,}"))
    return f"\n### {_heading(score)}\n\n{markdown(rows)}"


def noted_questions(score: Score) -> str:
    """Skipped questions and notes on credits in Markdown; empty without any."""
    lines = [f"{one.id}: skipped, {one.reason}" for one in score.skipped]
    lines += [f"{name}: {note}" for name, note in score.notes.items()]
    if not lines:
        return ""
    more = (
        [f"and {len(lines) - MAX_NOTED} more; results.json has all"]
        if len(lines) > MAX_NOTED
        else []
    )
    shown = "".join(f"- {_cell(line)}\n" for line in lines[:MAX_NOTED] + more)
    return f"\n### {score.title}, {score.scorer}: single questions\n\n{shown}"


def ablations_text(score: Score, content: Mapping[str, Any]) -> str:
    """The table of ablations in Markdown; empty without ablations."""
    rows = ablation_rows(score, content)
    if not rows:
        return ""
    text = f"\n### {_heading(score)}: ablations\n\n{markdown(rows)}"
    return text + "".join(f"\n{line}\n" for line in utilisation_lines(score, content))


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
    all_scores = [(path.parent, score) for path, score in _scores(folder)]
    if current is None:
        runs = [score.run for _, score in all_scores]
        current = max(runs, key=lambda run: run.get("date", ""), default={})
    scores_of_model = []
    for path, score in all_scores:
        if _same_model(score.run, current):
            scores_of_model.append((path, score))
        else:
            logger.warning(
                "%s: another model or other weights (%s, not %s); excluded from the report; give "
                "another --output-dir, or the same --model for --predictions of one model",
                path, score.run.get("model", {}).get("name"), model,
            )  # fmt: skip
    scores = [score for _, score in scores_of_model]
    paper = paper_table(
        model,
        {
            one.benchmark: headline(one) + ("" if one.complete else " (partial)")
            for one in scores
            if one.protocol == PAPER
        },
    )
    text = f"# {model}\n\n"
    text += f"{markdown(paper)}\n" if paper else ""
    ablations = [_ablations(path, score) for path, score in scores_of_model]
    text += scores_table(scores, model) + "".join(map(parts_table, scores))
    text += "".join(map(noted_questions, scores))
    text += "".join(map(ablations_text, scores, ablations))
    rows = [_page_row(score, model) for score in scores]
    sections = [
        (score, _details(path) | {"ablations": ablation_rows(score, content),
                                   "utilisation": utilisation_lines(score, content)})
        for (path, score), content in zip(scores_of_model, ablations, strict=True)
    ]  # fmt: skip
    page = report_page(model, paper, rows, sections)
    for name, content in (
        ("report.md", text),
        ("report.html", page),
        (
            "results.json",
            json.dumps(
                results(model, scores, ablations), ensure_ascii=False, indent=1, allow_nan=False
            )
            + "\n",
        ),
    ):
        with atomic_file(folder / name) as path:
            path.write_text(content, encoding="utf-8")
    return scores


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
