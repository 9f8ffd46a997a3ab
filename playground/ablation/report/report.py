"""Writes report.md, report.json and plots from collected results."""

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mgm.atomic import atomic_file
from playground.ablation.report.analysis import Family, Row, controls, family, scores, spreads
from playground.ablation.report.collection import collect
from playground.ablation.report.plots import plot_differences, plot_scores
from playground.ablation.report.results import ALL, BINS, PRIMARY, Results, read_results
from playground.ablation.report.statistics import EQUIVALENCE, Estimate, seeds_needed
from playground.ablation.study import Study

INTERVALS = """Points are per cent of questions with an exact match; for probes (P), per cent of
characters recognised and, in the column without text, of cells with the right object. Intervals are
95 %, by a two-way bootstrap over seeds and images; with one seed, for that training only. Columns
are cap heights in pixels of 256, with the number of questions."""


def write_report(study: Study, out: Path, results: Path) -> str:
    """Collect the results of finished units, and write the report to the same folder.

    Args:
        study: the study.
        out: folder of units; may be missing if results were collected before.
        results: folder of collected results and of the report.

    Returns:
        The report in Markdown.

    Raises:
        MGMError: there are no results, or they are inconsistent.
    """
    collect(study, out, results)
    collected = read_results(study, results)
    families = [family(collected, study, comparison) for comparison in study.comparisons]
    sizes = {size: scores(collected, size, list(study.arms)) for size in study.sizes}
    sizes = {size: rows for size, rows in sizes.items() if rows}
    tests = {
        (size, arm): rows
        for size in sizes
        for arm in study.arms
        if (rows := controls(collected, size, arm))
    }
    sections = [_status(study, collected), _costs(study, collected)]
    sections += [_scores(study, size, rows) for size, rows in sizes.items()]
    sections += [_family(study, one) for one in families]
    sections += [_controls(size, arm, rows) for (size, arm), rows in tests.items()]
    sections += [_spreads(collected, study, size) for size in sizes]
    text = (
        "\n\n".join(["# Results of the fusion experiments", INTERVALS, *filter(None, sections)])
        + "\n"
    )
    content = {
        "scores": {size: _rows_json(rows) for size, rows in sizes.items()},
        "differences": [
            {
                "title": one.comparison.title,
                "size": one.comparison.size,
                "reference": one.comparison.reference,
                "seeds": one.seeds,
                "is_complete": one.is_complete,
                "missing": one.missing,
                "rivals": _rows_json(one.rows),
            }
            for one in families
        ],
        "controls": {f"{size}/{arm}": _rows_json(rows) for (size, arm), rows in tests.items()},
        "spread_between_seeds": {size: spreads(collected, study, size) for size in sizes},
        "failed": collected.failed,
        "other_settings": collected.other_settings,
    }
    with atomic_file(results / "report.json") as part:
        part.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    _plot(study, sizes, families, results)
    with atomic_file(results / "report.md") as part:
        part.write_text(text, encoding="utf-8")
    return text


def _plot(
    study: Study, sizes: Mapping[str, Mapping[str, Row]], families: Sequence[Family], folder: Path
) -> None:
    shown = [name for name in BINS if name not in (PRIMARY, ALL)]
    for size, rows in sizes.items():
        title = f"{size}: {study.sizes[size].title}"
        plot_scores(rows, shown, title, folder / f"scores_{size}.png")
    for number, one in enumerate(families, start=1):
        if one.rows:
            bins = [PRIMARY, *shown]
            path = folder / f"differences_{number}.png"
            plot_differences(one.rows, bins, _family_title(one), path)


def _status(study: Study, results: Results) -> str:
    finished = Counter(unit.size for unit in results.units)
    planned = Counter(unit.size.name for unit in study.units)
    hours = sum(sum(unit.content["phases"].values()) for unit in results.units) / 3600
    lines = ["## Runs", ""]
    done = ", ".join(f"{size}: {finished[size]} of {planned[size]}" for size in planned)
    lines.append(f"Finished units: {done}; {hours:.1f} CPU hours.")
    commits = Counter(unit.content["settings"]["commit"][:12] for unit in results.units)
    lines.append("Code: " + ", ".join(f"{c} ({n} units)" for c, n in commits.items()) + ".")
    if results.other_settings:
        names = ", ".join(results.other_settings)
        lines.append(f"Not used, because the settings have changed: {names}.")
    lines.append(f"Failed: {len(results.failed) or 'none'}.")
    for name, failure in results.failed.items():
        lines += [f"- {name}: {failure['reason']}", *(f"  `{line}`" for line in failure["log"])]
    return "\n".join(lines)


def _costs(study: Study, results: Results) -> str:
    lines = ["## Cost of the vision side", ""]
    lines += ["| arm | | encoders | parameters | GFLOPs of an image | image tokens |"]
    lines += ["|---|---|---|---:|---:|---:|"]
    costs = {unit.arm: unit.content["cost"] for unit in results.units}
    for name, arm in study.arms.items():
        if name in costs:
            cost = costs[name]
            lines.append(
                f"| {name} | {arm.title} | {arm.encoders} | {cost['parameters']:,} "
                f"| {cost['flops'] / 1e9:.2f} | {cost['image_tokens']} |"
            )
    return "\n".join(lines) if costs else ""


def _scores(study: Study, size: str, rows: Mapping[str, Row]) -> str:
    heading = f"## Size {size}: {study.sizes[size].title}"
    titles = {name: f"{name} {study.arms[name].title}" for name in rows}
    plot = f"![scores by cap height](scores_{size}.png)"
    return "\n\n".join([heading, _table("arm", titles, rows), plot])


def _family_title(one: Family) -> str:
    return f"{one.comparison.size}: {one.comparison.title}"


def _family(study: Study, one: Family) -> str:
    reference = one.comparison.reference
    lines = [f"## {_family_title(one)}"]
    missing = f" Without results: {', '.join(one.missing)}." if one.missing else ""
    if not one.rows:
        return "\n\n".join([*lines, f"No results yet.{missing}"])
    lines.append(
        f"{reference} minus each rival, paired by {len(one.seeds)} of {one.planned} seeds and by "
        f"question; intervals are simultaneous over the rivals. The primary outcome is "
        f"{PRIMARY} pixels; other bins are exploratory. Equivalent: within "
        f"{EQUIVALENCE:g} points.{missing}"
    )
    titles = {name: f"{reference} - {name} {study.arms[name].title}" for name in one.rows}
    note = "incomplete" if not one.is_complete else "one seed" if len(one.seeds) == 1 else ""
    verdicts = {name: note or f"**{row[PRIMARY].verdict}**" for name, row in one.rows.items()}
    lines.append(_table("difference", titles, one.rows, signed=True, last=("verdict", verdicts)))
    number = next(i for i, c in enumerate(study.comparisons, start=1) if c == one.comparison)
    return "\n\n".join([*lines, f"![differences](differences_{number}.png)"])


def _controls(size: str, arm: str, rows: Mapping[str, Row]) -> str:
    return "\n\n".join(
        [
            f"## Size {size}, {arm}: ablations at inference",
            "The trained models with an ablation, minus the unchanged models "
            "([ablations](../../../docs/ablations.md)).",
            _table("change", {name: f"`{name}`" for name in rows}, rows, signed=True),
        ]
    )


def _spreads(results: Results, study: Study, size: str) -> str:
    rows = spreads(results, study, size)
    if not rows:
        return ""
    lines = [f"## Size {size}: spread between seeds, {PRIMARY} pixels", ""]
    lines += ["| arm | seeds | standard deviation | seeds to detect 5, 3, 2 points |"]
    lines += ["|---|---:|---:|---:|"]
    for arm, (seeds, spread) in rows.items():
        needed = ", ".join(str(seeds_needed(spread, points) or "> 100") for points in (5, 3, 2))
        lines.append(f"| {arm} | {seeds} | {spread:.2f} | {needed} |")
    return "\n".join(lines)


def _table(
    heading: str,
    titles: Mapping[str, str],
    rows: Mapping[str, Row],
    signed: bool = False,
    last: tuple[str, Mapping[str, str]] | None = None,
) -> str:
    """Format a Markdown table: a row for each estimate, a column for each bin."""
    bins = [name for name in BINS if any(row[name].questions for row in rows.values())]
    questions = next(iter(rows.values()))
    columns = [heading, "seeds", *(f"{name} ({questions[name].questions:,})" for name in bins)]
    lines = ["| " + " | ".join([*columns, *([last[0]] if last else [])]) + " |"]
    lines.append("|---|" + "---:|" * (len(columns) - 1 + (last is not None)))
    for name, row in rows.items():
        cells = [titles[name], str(row[ALL].seeds), *(_cell(row[one], signed) for one in bins)]
        lines.append("| " + " | ".join([*cells, *([last[1][name]] if last else [])]) + " |")
    return "\n".join(lines)


def _cell(one: Estimate, signed: bool) -> str:
    if math.isnan(one.value):
        return "-"
    sign = "+" if signed else ""
    text = f"{one.value:{sign}.1f}"
    if one.interval is None:
        return text
    return f"{text} ({one.interval.low:{sign}.1f} to {one.interval.high:{sign}.1f})"


def _rows_json(rows: Mapping[str, Row]) -> dict[str, Any]:
    """Convert estimates by row and bin to JSON."""
    return {
        name: {
            height_bin: {
                "value": one.value,
                "interval": one.interval and [one.interval.low, one.interval.high],
                "seeds": one.seeds,
                "questions": one.questions,
            }
            for height_bin, one in row.items()
            if one.questions
        }
        for name, row in rows.items()
    }
