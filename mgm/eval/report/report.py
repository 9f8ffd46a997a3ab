"""Scores for people: a table in Markdown, and a page with wrong answers and their images."""

import base64
import html
import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from PIL import Image

from mgm.data.images.loading import ImageSource, image_size, open_image
from mgm.errors import MGMError
from mgm.eval.harness.question import Answered
from mgm.eval.report.paper_results import verdict
from mgm.eval.report.score import Score
from mgm.eval.report.statistics import Comparison

COLUMNS = ("benchmark", "score", "questions", "protocol", "published")
WRONG = 50  # answers of each benchmark that the page shows
SIDE = 320  # pixels of an image there
RIGHT = 0.999
WORDS = (2, 5, 20)  # between which answers are counted together
SIDES = (336, 768, 1536)  # pixels, of images likewise

_STYLE = """
body { font-family: system-ui, sans-serif; margin: 2rem auto; max-width: 70rem; padding: 0 1rem; }
table { border-collapse: collapse; } td, th { padding: .3rem .8rem; text-align: left; }
tr + tr { border-top: 1px solid #ddd; } .partial { color: #b00; }
.bar { background: #4a7dbd; height: .8rem; display: inline-block; vertical-align: middle; }
.answer { display: flex; gap: 1rem; margin: 1rem 0; flex-wrap: wrap; }
.answer img { max-width: 20rem; max-height: 20rem; } .answer pre { white-space: pre-wrap; }
"""


def described(score: Score) -> str:
    """The value with its interval; where questions are missing, how many there are instead."""
    if score.value is None:
        return "to be submitted"
    text = f"{score.value:.1f} (95 %: {score.low:.1f} to {score.high:.1f})"
    if not score.complete:
        return f"partial, {score.questions} of {score.expected} questions: {text}"
    return text


def table(scores: Sequence[Score], model: str) -> str:
    """All scores in Markdown.

    Args:
        scores: of one model.
        model: its name; a published one's scores stand beside.
    """
    rows = [COLUMNS, ("---",) * len(COLUMNS), *(_cells(score, model) for score in scores)]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def _cells(score: Score, model: str) -> tuple[str, ...]:
    """What stands in the row of a score, below `COLUMNS`."""
    beside = ""
    if score.value is not None and score.complete:
        found = verdict(model, score.benchmark, score.value, score.low, score.high)
        if found is not None:
            says = "agrees" if found.agrees else "differs"
            beside = f"{found.published:.1f} ({found.difference:+.1f}, {says})"
    name = f"{score.title} ({score.benchmark})"
    return name, described(score), str(score.questions), score.scorer, beside


def parts_table(score: Score) -> str:
    """The score of every category in Markdown; empty: there are no categories."""
    if not score.parts:
        return ""
    lines = [f"\n### {score.title}: {score.metric}\n", "| | | questions |", "|---|---|---|"]
    lines += [f"| {name} | {value:.1f} | {count} |" for name, (value, count) in score.parts.items()]
    return "\n".join(lines) + "\n"


def write_report(
    folder: Path, model: str, scores: Sequence[Score], answered: Mapping[str, Sequence[Answered]]
) -> list[Path]:
    """Write report.md and report.html; returns them.

    Args:
        folder: where they go.
        model: its name.
        scores: of it.
        answered: by the names of benchmarks with their splits.
    """
    text = f"# {model}\n\n{table(scores, model)}" + "".join(map(parts_table, scores))
    (folder / "report.md").write_text(text, encoding="utf-8")
    body = "".join(_section(score, answered.get(score.benchmark, ())) for score in scores)
    rows = "".join(
        f"<tr class='{'' if score.complete else 'partial'}'>"
        + "".join(f"<td>{_text(cell)}</td>" for cell in _cells(score, model))
        + "</tr>"
        for score in scores
    )
    heads = "".join(f"<th>{name}</th>" for name in COLUMNS)
    page = (
        f"<!doctype html><html lang=en><meta charset=utf-8><title>{_text(model)}</title>"
        f"<meta name=viewport content='width=device-width'><style>{_STYLE}</style>"
        f"<h1>{_text(model)}</h1><table><tr>{heads}</tr>{rows}</table>"
        f"{body}</html>"
    )
    (folder / "report.html").write_text(page, encoding="utf-8")
    return [folder / "report.md", folder / "report.html"]


def by_answer_length(score: Score, answered: Sequence[Answered]) -> dict[str, tuple[float, int]]:
    """Mean credit in per cent by the words of the model's answers, and how many there are."""
    return _grouped(score, answered, lambda one: _bin(len(one.text.split()), WORDS, "words"))


def by_image_size(score: Score, answered: Sequence[Answered]) -> dict[str, tuple[float, int]]:
    """Mean credit in per cent by the longer side of the first image, and how many there are."""

    def size(one: Answered) -> tuple[int, str] | None:
        longer = _longer_side(one.question.images[0]) if one.question.images else None
        return None if longer is None else _bin(longer, SIDES, "pixels")

    return _grouped(score, answered, size)


def _longer_side(source: ImageSource) -> int | None:
    """In pixels, from the head of the file alone where there is one; None: it is damaged."""
    try:
        return max(image_size(source, "an image"))
    except MGMError:
        return None


def _bin(value: int, ends: Sequence[int], unit: str) -> tuple[int, str]:
    """Between which of some numbers a value lies: its place, and in words."""
    place = sum(value >= end for end in ends)
    if place == 0:
        return place, f"below {ends[0]} {unit}"
    if place == len(ends):
        return place, f"from {ends[-1]} {unit}"
    return place, f"{ends[place - 1]} to {ends[place] - 1} {unit}"


def _grouped(
    score: Score, answered: Sequence[Answered], group: Callable[[Answered], tuple[int, str] | None]
) -> dict[str, tuple[float, int]]:
    found: dict[tuple[int, str], list[float]] = {}
    for one in answered:
        name = group(one) if one.question.id in score.credits else None
        if name is not None:
            found.setdefault(name, []).append(score.credits[one.question.id])
    return {
        name: (100 * sum(credits) / len(credits), len(credits))
        for (_, name), credits in sorted(found.items())
    }


def _bars(title: str, parts: Mapping[str, tuple[float, int]]) -> str:
    """A bar for each part, as long as its value; nothing where there are no parts."""
    if not parts:
        return ""
    most = max(100.0, *(value for value, _ in parts.values()))
    bars = "".join(
        f"<tr><td>{_text(name)}<td>{value:.1f}<td>{count}"
        f"<td><span class=bar style='width:{max(value, 0) / most * 15:.2f}rem'></span></tr>"
        for name, (value, count) in parts.items()
    )
    heads = "<tr><th><th>score<th>questions<th></tr>"
    return f"<h3>{title}</h3><table>{heads}{bars}</table>"


def _section(score: Score, answered: Sequence[Answered]) -> str:
    """Categories with bars, and wrong answers with their images."""
    bars = (
        _bars("by category", score.parts)
        + _bars("credit by length of the answer", by_answer_length(score, answered))
        + _bars("credit by size of the image", by_image_size(score, answered))
    )
    wrong = [one for one in answered if score.credits.get(one.question.id, 1) < RIGHT]
    shown = "".join(_wrong(one, score.credits[one.question.id]) for one in wrong[:WRONG])
    return (
        f"<h2>{_text(score.title)}: {_text(score.metric)}</h2>{bars}"
        f"<details><summary>{len(wrong)} answers without full credit"
        f"{f', the first {WRONG}' if len(wrong) > WRONG else ''}</summary>{shown}</details>"
    )


def _wrong(answered: Answered, credit: float) -> str:
    question = answered.question
    images = "".join(f"<img alt='' src='{_small(image)}'>" for image in question.images)
    facts = (
        ("question", question.text),
        ("answer", answered.text),
        ("right", str(question.answer)),
        ("credit", f"{credit:.2f}"),
        ("id", question.id),
    )
    lines = "".join(f"<tr><th>{name}<td><pre>{_text(text)}</pre></tr>" for name, text in facts)
    return f"<div class=answer><div>{images}</div><table>{lines}</table></div>"


def _small(source: ImageSource) -> str:
    """An image, made smaller, as a URL that holds it."""
    try:
        image = open_image(source, "an image")
    except MGMError:
        return ""
    image.thumbnail((SIDE, SIDE), Image.Resampling.BICUBIC)
    content = io.BytesIO()
    image.save(content, "JPEG", quality=80)
    return f"data:image/jpeg;base64,{base64.b64encode(content.getvalue()).decode()}"


def _text(text: str) -> str:
    return html.escape(text, quote=True)


def compared(first: str, second: str, benchmark: str, found: Comparison) -> str:
    """Two models on one benchmark, in a line."""
    interval = f"{found.interval.low:+.1f} to {found.interval.high:+.1f}"
    if found.differ:
        says = f"{second if found.difference > 0 else first} is better"
    elif found.needed is None:
        says = "they are the same"
    else:
        says = f"they cannot be told apart; it would take some {found.needed:,} questions"
    return (
        f"{benchmark}: {second} {found.difference:+.2f} points (95 %: {interval}, "
        f"{found.questions:,} questions of both): {says}"
    )
