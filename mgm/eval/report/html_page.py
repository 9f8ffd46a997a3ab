"""The HTML report: a self-contained page; all text of models and data is escaped."""

import html
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from itertools import groupby
from pathlib import Path
from typing import Any

from mgm.eval.report.examples import MAX_TEXT, RIGHT_CREDIT, text_size_bin, truncate
from mgm.eval.report.score import Score

TEXTS_FOLDER = Path(__file__).parents[1] / "texts"
MAX_LISTED = 50  # maximum number of skipped questions, and of notes
PAGE_COLUMNS = ("benchmark", "score", "", "95 %", "questions", "protocol", "published", "notes")
ReportFields = Mapping[str, Any]


def page(title: str, body: str) -> str:
    """A page with the style and script of the report."""
    return (
        "<!doctype html>\n<html lang=en><head><meta charset=utf-8>"
        # Load and run nothing from outside the page.
        "<meta http-equiv=Content-Security-Policy content=\"default-src 'none'; img-src data:; "
        "style-src 'unsafe-inline'; script-src 'unsafe-inline'\">"
        "<meta name=viewport content='width=device-width'>"
        f"<title>{text(title)}</title><style>{_asset('report.css')}</style></head>"
        f"<body>{body}<script>{_asset('report.js')}</script></body></html>\n"
    )


@cache
def _asset(name: str) -> str:
    return (TEXTS_FOLDER / name).read_text(encoding="utf-8")


def report_page(
    model: str,
    paper: Sequence[Sequence[str]],
    rows: Sequence[ReportFields],
    sections: Sequence[tuple[Score, ReportFields]],
) -> str:
    """The report page of a model.

    Args:
        model: name of the model.
        paper: rows of the paper's table, header first; empty: no table.
        rows: cells of the table of all scores, by `PAGE_COLUMNS` without benchmark and interval.
        sections: scores with their breakdowns and examples (see `examples`).
    """
    body = f"<h1>{text(model)}</h1><p class=meta>{_about(sections)}</p>"
    if paper:
        body += f"<h3>As in the paper's table</h3>{html_table(paper[0], paper[1:])}"
    lines, classes = [], []
    for number, ((score, _), row) in enumerate(zip(sections, rows, strict=True)):
        name = f"<a href='#s{number}'>{text(score.title)}</a> {text(score.benchmark)}"
        drawn = bar(score.value, (score.low, score.high), score.highest)
        interval = _interval(score.low, score.high)
        interval = f"sum {interval}" if score.headline and interval else interval
        lines.append(
            [
                Markup(name), row["score"], drawn, interval, row["questions"], row["protocol"],
                row["published"], row["notes"],
            ]
        )  # fmt: skip
        classes.append("" if score.complete else "partial")
    body += f"<h3>All scores</h3>{html_table(PAGE_COLUMNS, lines, classes)}"
    for number, (score, details) in enumerate(sections):
        body += f"<section id=s{number}>{_section(score, details)}</section>"
    return page(model, body)


def _interval(low: float | None, high: float | None) -> str:
    return "" if low is None or high is None else f"{low:.1f} to {high:.1f}"


def _about(sections: Sequence[tuple[Score, ReportFields]]) -> str:
    """Date and package versions of the newest run."""
    run = max((score.run for score, _ in sections), key=lambda one: one.get("date", ""), default={})
    parts = [run.get("date", "")[:10]]
    parts += [f"{name} {version}" for name, version in run.get("versions", {}).items()]
    return text(" · ".join(filter(None, parts)))


class Markup(str):
    """HTML that is already escaped."""


def html_table(
    heads: Sequence[str], rows: Iterable[Sequence[str]], classes: Sequence[str] = ()
) -> Markup:
    """An HTML table; cells are escaped unless they are `Markup`."""
    lines = []
    for index, row in enumerate(rows):
        kind = f" class='{classes[index]}'" if classes and classes[index] else ""
        lines.append(f"<tr{kind}>{''.join(f'<td>{_markup(cell)}' for cell in row)}</tr>")
    head = "".join(f"<th>{_markup(name)}" for name in heads)
    return Markup(
        f"<div class=scroll><table><thead><tr>{head}</tr></thead>"
        f"<tbody>{''.join(lines)}</tbody></table></div>"
    )


def bar(
    value: float | None,
    interval: tuple[float | None, float | None],
    highest: float | None,
    lowest: float = 0.0,
) -> Markup:
    """A bar with value and interval, from lowest to highest; empty without a value."""
    if value is None:
        return Markup("")
    low, high = interval
    top = highest or max(100.0, value, high or 0.0)

    def percent(one: float) -> float:
        return 100 * min(max((one - lowest) / (top - lowest), 0), 1)

    band = ""
    if low is not None and high is not None:
        left, width = percent(low), percent(high) - percent(low)
        band = f"<i style='left:{left:.2f}%;width:{width:.2f}%'></i>"
    zero = "<u></u>" if lowest < 0 else ""
    return Markup(
        f"<span class=track title='{lowest:g} to {top:g}'>{band}{zero}"
        f"<b style='left:{percent(value):.2f}%'></b></span>"
    )


def _section(score: Score, details: ReportFields) -> str:
    """The section of a score: tables, skipped questions, run settings, examples."""
    parts = [
        {
            "name": name, "value": value, "questions": count,
            "highest": score.part_highest.get(name, score.highest),
            **dict(zip(("low", "high"), score.intervals.get(name, (None, None)), strict=True)),
        }
        for name, (value, count) in score.parts.items()
    ]  # fmt: skip
    tables = _rows("by category", parts)
    for title, rows in _mapping(details.get("breakdowns")).items():
        tables += _rows(f"credit by {title}", rows)
    about = (score.benchmark, score.scorer, score.coverage)
    return (
        f"<h2>{text(score.title)}: {text(score.metric)}</h2>"
        f"<p class=meta>{text(', '.join(filter(None, about)))}</p>"
        f"<div class=columns>{tables}</div>{_ablations(details)}"
        f"{_listed('skipped questions', [(one.id, one.reason) for one in score.skipped])}"
        f"{_listed('notes on credits', list(score.notes.items()))}{_run(score.run)}"
        f"{_examples(details.get('examples') or [])}"
    )


def _ablations(details: ReportFields) -> str:
    """The table of ablations; empty without ablations."""
    rows = details.get("ablations")
    if not rows:
        return ""
    lines = "".join(f"<p>{text(line)}" for line in details["utilisation"])
    return f"<h3>ablations</h3>{html_table(rows[0], rows[1:])}{lines}"


def _rows(title: str, rows: Sequence[ReportFields]) -> str:
    """A table of values with intervals; empty without rows."""
    if not rows:
        return ""
    lines = []
    for one in rows:
        interval = one.get("low"), one.get("high")
        drawn = bar(one["value"], interval, one.get("highest", 100.0))
        value, count = f"{one['value']:.1f}", f"{one['questions']:,}"
        lines.append((one["name"], value, drawn, _interval(*interval), count))
    heads = ("", "score", "", "95 %", "questions")
    return f"<div><h3>{text(title)}</h3>{html_table(heads, lines)}</div>"


def _listed(title: str, pairs: Sequence[tuple[str, str]]) -> str:
    """A collapsed list of questions with reasons; empty without questions."""
    if not pairs:
        return ""
    more = len(pairs) - MAX_LISTED
    rows = [*pairs[:MAX_LISTED], *([(f"and {more:,} more, in score.json", "")] if more > 0 else [])]
    return (
        f"<details><summary>{len(pairs):,} {title}</summary>"
        f"{html_table(('question', 'reason'), rows)}</details>"
    )


def _run(run: ReportFields) -> str:
    """A collapsed list of the settings and versions of a run."""
    if not run:
        return ""
    lines = "".join(f"<dt>{text(name)}<dd>{text(value)}" for name, value in _flat(run))
    return (
        f"<details><summary>Settings and versions of this run</summary><dl>{lines}</dl></details>"
    )


def _flat(value: ReportFields, prefix: str = "") -> Iterable[tuple[str, str]]:
    for name, one in value.items():
        if isinstance(one, Mapping):
            yield from _flat(one, f"{prefix}{name} ")
        elif isinstance(one, list | tuple):
            shown = ", ".join(str(part) for part in one)
            yield f"{prefix}{name}", truncate(shown)
        elif one is not None:
            yield f"{prefix}{name}", str(one)


def _examples(examples: Sequence[ReportFields]) -> str:
    """Examples with images, and filters for them."""
    if not examples:
        return ""
    categories = sorted({one["category"] for one in examples if one["category"]})
    bins = sorted({size_bin for one in examples
                   if (size_bin := text_size_bin(one.get("text_size"))) is not None})  # fmt: skip
    filters = _select("result", ["right", "wrong", "unscored", "unparsed", "cut"])
    filters += _select("category", categories) if len(categories) > 1 else ""
    filters += _select("size", [name for name, _ in groupby(name for _, name in bins)])
    shown = "".join(map(_example, examples))
    return (
        f"<section class=examples><details><summary>Examples: <span class=shown>"
        f"{len(examples)}</span> of {len(examples)} responses</summary>"
        f"<div class=filters>{filters}<label>search <input name=search type=search></label></div>"
        f"{shown}</details></section>"
    )


def _select(name: str, values: Sequence[str]) -> str:
    if not values:
        return ""
    label = {"result": "responses", "size": "text size"}.get(name, name)
    options = "".join(f"<option value='{_value(one)}'>{text(one)}" for one in values)
    return f"<label>{label} <select name={name}><option value=''>all{options}</select></label>"


def _example(one: ReportFields) -> str:
    credit = one["credit"]
    state = "unscored" if credit is None else "right" if credit >= RIGHT_CREDIT else "wrong"
    states = [state, *(["unparsed"] if one["parsed"] == "" else []),
              *(["cut"] if one["finish_reason"] == "length" else [])]  # fmt: skip
    size = text_size_bin(one.get("text_size"))
    flags = "".join(f"<span class=flag>{name}</span>" for name in states[1:])
    fields = [
        ("question", one["question"]),
        ("response", one["answer"] or "(empty)"),
        ("parsed as", {None: None, "": "(nothing)"}.get(one["parsed"], one["parsed"])),
        ("target", one["target"]),
        ("credit", None if credit is None else f"{credit:.2f}"),
        ("category", one["category"] or None),
        ("text size", size and f"{one['text_size']:g} pixels"),
        ("id", one["id"]),
    ]
    lines = "".join(
        f"<dt>{name}<dd>{text(str(value))}{flags if name == 'response' else ''}"
        for name, value in fields if value is not None
    )  # fmt: skip
    images = "".join(f"<img alt='' loading=lazy src='{_value(image)}'>" for image in
                     one["thumbnails"] if image)  # fmt: skip
    return (
        f"<div class='example {state}' data-result='{'|'.join(states)}' "
        f"data-category='{_value(one['category'])}' data-size='{_value(size[1] if size else '')}'>"
        f"<div>{images}</div><dl>{lines}</dl></div>"
    )


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _markup(cell: str) -> str:
    return cell if isinstance(cell, Markup) else text(cell)


def _value(one: str) -> str:
    """Escape the value of an attribute; the separator of values is replaced."""
    return html.escape(one.replace("|", "/"), quote=True)


def text(value: str) -> str:
    """Escape and truncate a text."""
    shown = value if len(value) <= 2 * MAX_TEXT else truncate(value)
    return html.escape(shown, quote=True)
