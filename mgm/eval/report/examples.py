"""What the report shows of single answers: breakdowns of the credit, and examples with images."""

import base64
import io
import json
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from mgm.atomic import atomic_file
from mgm.data.images.loading import ImageSource, image_size, open_image
from mgm.errors import MGMError
from mgm.eval.harness.question import Question, Response
from mgm.eval.report.score import Score, parsed_answer
from mgm.eval.statistics.intervals import mean_interval
from mgm.eval.tasks.benchmark import Benchmark

SAMPLES_FILE, DETAILS_FILE = "samples.jsonl", "details.json"
MAX_WRONG, MAX_RIGHT = 40, 20  # examples of a benchmark that the page shows
RIGHT_CREDIT = 0.999  # credit from which an answer is right
MAX_THUMBNAILS, THUMBNAIL_SIDE = 4, 240  # thumbnails of an example, and their longer side in pixels
MAX_TEXT = 2000  # characters of a question or answer on the page
LENGTH_BINS = (2, 5, 20)  # ends of bins of answers by length
IMAGE_SIZE_BINS = (336, 768, 1536)  # pixels, of images by their longer side
TEXT_SIZE_BINS = (6, 8, 12, 20)  # pixels, of texts by the height of their capitals

Sample = dict[str, Any]


def write_samples(
    folder: Path,
    benchmark: Benchmark,
    score: Score,
    responses: Sequence[Response],
    without_thinking: bool = False,
) -> None:
    """Write `SAMPLES_FILE`, a line for each response, and `DETAILS_FILE`, which the page shows.

    Args:
        folder: of the score.
        benchmark: that was asked.
        score: of the answers.
        responses: all of them.
        without_thinking: as for `scored_splits`.

    Raises:
        MGMError: a file cannot be written.
    """
    sides: dict[str, int | None] = {}  # several questions may be about one image
    samples = []
    for one in responses:
        filtered = benchmark.filter_response(one, score.protocol, without_thinking)
        parsed = parsed_answer(benchmark, filtered, score.protocol)
        samples.append(_sample(score, one, parsed, _side(one.question, sides)))
    with atomic_file(folder / SAMPLES_FILE) as path, path.open("w", encoding="utf-8") as file:
        for one in samples:
            file.write(json.dumps(one, ensure_ascii=False, default=str) + "\n")
    images = {one.question.id: one.question.images for one in responses}
    details = {
        "breakdowns": breakdowns(score, samples),
        "examples": [
            _cut(one)
            | {"thumbnails": [thumbnail(image) for image in images[one["id"]][:MAX_THUMBNAILS]]}
            for one in choose_examples(samples)
        ],
    }
    with atomic_file(folder / DETAILS_FILE) as path:
        path.write_text(json.dumps(details, ensure_ascii=False, default=str), encoding="utf-8")


def _sample(score: Score, one: Response, parsed: str | None, side: int | None) -> Sample:
    """A line of `SAMPLES_FILE`."""
    question = one.question
    size = question.metadata.get("text_size")
    return {
        "id": question.id,
        "category": question.category,
        "group": question.group,
        "question": question.text,
        "target": question.target,
        "answer": one.text,
        "parsed": parsed,
        "credit": score.credits.get(question.id),
        "finish_reason": one.finish_reason,
        "prompt_tokens": one.prompt_tokens,
        "completion_tokens": one.completion_tokens,
        "images": [str(image) for image in question.images if isinstance(image, str | Path)],
        "image_side": side,
        "text_size": float(size) if isinstance(size, int | float) else None,
    }


def _side(question: Question, known: dict[str, int | None]) -> int | None:
    """The longer side of the first image in pixels; None: there is none, or it is damaged."""
    if not question.images:
        return None
    image = question.images[0]
    if not isinstance(image, str | Path):
        return _longer_side(image)
    if str(image) not in known:
        known[str(image)] = _longer_side(image)
    return known[str(image)]


def breakdowns(score: Score, samples: Sequence[Sample]) -> dict[str, list[Sample]]:
    """Mean credit in per cent by length of the answer, by size of the image and of its text.

    Rows have `name`, `value`, `low`, `high` and `questions`; the interval is None where the row is
    too small.
    """
    bins: dict[str, Callable[[Sample], tuple[int, str] | None]] = {
        "length of the answer": lambda one: _bin(len(one["answer"].split()), LENGTH_BINS, "words"),
        "size of the image": lambda one: _bin(one["image_side"], IMAGE_SIZE_BINS, "pixels"),
        "size of the text": lambda one: text_size_bin(one["text_size"]),
    }
    if score.highest is None:  # credits are no shares
        return {}
    found = {title: _grouped(score, samples, group) for title, group in bins.items()}
    return {title: rows for title, rows in found.items() if rows}


def text_size_bin(size: float | None) -> tuple[int, str] | None:
    """The bin of a text's height in pixels: its number and its name."""
    return _bin(size, TEXT_SIZE_BINS, "pixels")


def _bin(value: float | None, ends: Sequence[int], unit: str) -> tuple[int, str] | None:
    if value is None:
        return None
    index = sum(value >= end for end in ends)
    if index == 0:
        return index, f"below {ends[0]} {unit}"
    if index == len(ends):
        return index, f"from {ends[-1]} {unit}"
    return index, f"{ends[index - 1]} to {ends[index] - 1} {unit}"


def _grouped(
    score: Score, samples: Sequence[Sample], group: Callable[[Sample], tuple[int, str] | None]
) -> list[Sample]:
    found: dict[tuple[int, str], list[str]] = defaultdict(list)
    for one in samples:
        name = group(one) if one["credit"] is not None else None
        if name is not None:
            found[name].append(one["id"])
    rows = []
    for (_, name), ids in sorted(found.items()):
        credits = [score.credits[one] for one in ids]
        interval = mean_interval(credits, [score.groups[one] for one in ids], scale=100)
        rows.append(
            {
                "name": name,
                "value": 100 * sum(credits) / len(credits),
                "low": interval and interval.low,
                "high": interval and interval.high,
                "questions": len(credits),
            }
        )
    return rows


def choose_examples(samples: Sequence[Sample]) -> list[Sample]:
    """Examples for the page: wrong answers first, then right ones, of all categories in turn."""
    score_responses = [one for one in samples if one["credit"] is not None]
    wrong = _in_turn(one for one in score_responses if one["credit"] < RIGHT_CREDIT)
    right = _in_turn(one for one in score_responses if one["credit"] >= RIGHT_CREDIT)
    others = _in_turn(one for one in samples if one["credit"] is None)
    return wrong[:MAX_WRONG] + right[:MAX_RIGHT] + others[:MAX_RIGHT]


def _in_turn(samples: Iterable[Sample]) -> list[Sample]:
    """Samples so that the categories take turns."""
    queues: dict[str, deque[Sample]] = defaultdict(deque)
    for one in samples:
        queues[one["category"]].append(one)
    result: list[Sample] = []
    while queues:
        for name in sorted(queues):
            result.append(queues[name].popleft())
            if not queues[name]:
                del queues[name]
    return result


def _cut(sample: Sample) -> Sample:
    """A sample whose texts are short enough for a page."""
    texts = {name: truncate(sample[name]) for name in ("question", "target", "answer", "parsed")
             if sample[name] is not None}  # fmt: skip
    return sample | texts


def truncate(value: object) -> str:
    """A text of at most `MAX_TEXT` characters, which says how many were left out.

    Of a list of right answers each is named once, with how often it was given.
    """
    if isinstance(value, list) and all(isinstance(one, str) for one in value):
        counts = Counter(value)
        value = ", ".join(f"{one} ({n})" if n > 1 else one for one, n in counts.most_common())
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    if len(text) <= MAX_TEXT:
        return text
    return f"{text[:MAX_TEXT]} … ({len(text) - MAX_TEXT:,} more characters in {SAMPLES_FILE})"


def _longer_side(source: ImageSource) -> int | None:
    """In pixels, from the head of the file alone where there is one; None: it is damaged."""
    try:
        return max(image_size(source, "an image"))
    except MGMError:
        return None


def thumbnail(source: ImageSource) -> str:
    """A small copy of an image as a data URL; empty: it cannot be read."""
    try:
        image = open_image(source, "an image")
    except MGMError:
        return ""
    image.thumbnail((THUMBNAIL_SIDE, THUMBNAIL_SIDE), Image.Resampling.BICUBIC)
    content = io.BytesIO()
    image.convert("RGB").save(content, "JPEG", quality=75)
    return f"data:image/jpeg;base64,{base64.b64encode(content.getvalue()).decode()}"
