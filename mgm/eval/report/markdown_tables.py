"""Tables of the report in Markdown: scores, parts, notes, ablations."""

from collections.abc import Mapping, Sequence
from typing import Any

from mgm.eval.report.ablation_table import ablation_rows, utilisation_lines
from mgm.eval.report.paper_results import compare_with_paper
from mgm.eval.report.score import Score

REPORT_COLUMNS = ("benchmark", "score", "questions", "protocol", "published", "notes")
MAX_NOTED = 20  # questions of a score in report.md


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
        scores: scores of one model.
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
