"""Formats comparisons as lines, and as tables in Markdown, HTML and JSON."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mgm.atomic import atomic_file
from mgm.eval.compare.comparison import Comparison
from mgm.eval.report import html_page
from mgm.eval.report.markdown_tables import markdown

COMPARISON_COLUMNS = (
    *("benchmark", "baseline", "model", "difference", "95 % interval", "p", "questions", "verdict"),
)
LEGEND = (
    "Differences from the baseline on the questions that both models responded to, in points of "
    "each benchmark's score. Intervals and p-values are paired and clustered by image, without "
    "correction for multiple comparisons. “The same” means that the 90 % interval is within the "
    "margin."
)


def comparison_line(one: Comparison) -> str:
    """Format a comparison as one line."""
    partial = f"{one.partial}; " if one.partial else ""
    return (
        f"{one.benchmark}, {one.scorer}: {one.second} {one.second_value:.2f}, {one.first} "
        f"{one.first_value:.2f}, difference {one.difference:+.2f} ({_interval(one)}, p = "
        f"{one.p_value:.2g}, {one.questions:,} questions of both): {partial}{one.verdict}"
        + "".join(f" ({remark})" for remark in one.remarks)
    )


def _interval(one: Comparison) -> str:
    if one.interval is None:
        return "too few images for an interval"
    return f"95 %: {one.interval.low:+.2f} to {one.interval.high:+.2f}"


def write_comparison(
    path: Path,
    comparisons: Sequence[Comparison],
    problems: Sequence[str] = (),
    unshared: Sequence[str] = (),
) -> None:
    """Write comparisons to a file, in the format of its suffix.

    Args:
        path: path with the suffix .md, .html or .json.
        comparisons: comparisons of several models with one baseline.
        problems: errors of scores that could not be compared.
        unshared: lines about scores that only one model has.

    Raises:
        MGMError: it cannot be written.
    """
    write = {".md": _as_markdown, ".html": _as_html, ".json": _as_json}[path.suffix]
    with atomic_file(path) as part:
        part.write_text(write(comparisons, problems, unshared), encoding="utf-8")


def _cells(one: Comparison) -> list[str]:
    return [
        f"{one.benchmark}, {one.scorer}",
        f"{one.first}: {one.first_value:.2f}",
        f"{one.second}: {one.second_value:.2f}",
        f"{one.difference:+.2f}",
        "too few images" if one.interval is None
        else f"{one.interval.low:+.2f} to {one.interval.high:+.2f}",
        f"{one.p_value:.2g}",
        f"{one.questions:,}" + (f" ({one.partial})" if one.partial else ""),
        "; ".join((one.verdict, *one.remarks)),
    ]  # fmt: skip


def _as_markdown(
    comparisons: Sequence[Comparison], problems: Sequence[str], unshared: Sequence[str]
) -> str:
    listed = "".join(f"\n- {text}" for text in _footnotes(problems, unshared))
    return f"{markdown([COMPARISON_COLUMNS, *map(_cells, comparisons)])}\n{LEGEND}\n{listed}\n"


def _footnotes(problems: Sequence[str], unshared: Sequence[str]) -> list[str]:
    return [f"not compared: {problem}" for problem in problems] + list(unshared)


def _as_html(
    comparisons: Sequence[Comparison], problems: Sequence[str], unshared: Sequence[str]
) -> str:
    rows = []
    reach = max(map(_reach, comparisons), default=1.0)
    for one in comparisons:
        drawn = html_page.Markup("")
        if one.interval is not None:
            share = _share(one)
            ends = one.interval.low * share, one.interval.high * share
            drawn = html_page.bar(one.difference * share, ends, reach, -reach)
        cells = _cells(one)
        cells[1:5] = [cell.replace(" ", "\u00a0") for cell in cells[1:5]]  # each on one line
        rows.append([*cells[:5], drawn, *cells[5:]])
    heads = [
        *COMPARISON_COLUMNS[:5],
        f"±{reach:.3g} % of the highest score",
        *COMPARISON_COLUMNS[5:],
    ]
    listed = "".join(f"<li>{html_page.text(line)}" for line in _footnotes(problems, unshared))
    title = "Comparison with " + (comparisons[0].first if comparisons else "the baseline")
    body = f"<h1>{html_page.text(title)}</h1><p class=meta>{html_page.text(LEGEND)}</p>"
    return html_page.page(title, f"{body}{html_page.html_table(heads, rows)}<ul>{listed}</ul>")


def _share(one: Comparison) -> float:
    """The factor from points of a score to per cent of its maximum, for a common scale."""
    return 100 / (one.highest or 100.0)


def _reach(one: Comparison) -> float:
    """The largest difference that a bar has to show, in per cent of the maximum score."""
    ends = () if one.interval is None else (one.interval.low, one.interval.high)
    return max(abs(end) for end in (*ends, 2 * one.margin)) * _share(one)


def _as_json(
    comparisons: Sequence[Comparison], problems: Sequence[str], unshared: Sequence[str]
) -> str:
    records: list[dict[str, Any]] = []
    for one in comparisons:
        interval = one.interval and [one.interval.low, one.interval.high]
        derived = {"interval": interval, "differ": one.differ, "verdict": one.verdict}
        records.append(asdict(one) | derived)
    content = {
        "format": 1,
        "comparisons": records,
        "problems": list(problems),
        "unshared": list(unshared),
    }
    return json.dumps(content, ensure_ascii=False, indent=1) + "\n"
