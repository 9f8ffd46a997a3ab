"""samples.jsonl with all responses, and examples and breakdowns for the report page."""

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
MAX_WRONG, MAX_RIGHT = 40, 20  # maximum numbers of examples on the page
RIGHT_CREDIT = 0.999  # minimum credit of a right response
MAX_THUMBNAILS, THUMBNAIL_SIDE = 4, 240  # thumbnails of an example; longer side in pixels
MAX_TEXT = 2000  # characters of a question or response on the page
LENGTH_BINS = (2, 5, 20)  # bin edges of response lengths
IMAGE_SIZE_BINS = (336, 768, 1536)  # bin edges of images by their longer side, in pixels
TEXT_SIZE_BINS = (6, 8, 12, 20)  # bin edges of texts by the height of capitals, in pixels

SampleRecord = dict[str, Any]


def write_samples(
    folder: Path,
    benchmark: Benchmark,
    score: Score,
    responses: Sequence[Response],
    without_thinking: bool = False,
) -> None:
    """Write `SAMPLES_FILE`, a line for each response, and `DETAILS_FILE`, which the page shows.

    Args:
        folder: folder of the score.
        benchmark: benchmark of the responses.
        score: score of the responses.
        responses: all responses.
        without_thinking: as for `score_responses`.

    Raises:
        MGMError: a file cannot be written.
    """
    sides: dict[str, int | None] = {}  # cache: questions share images
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


def _sample(score: Score, one: Response, parsed: str | None, side: int | None) -> SampleRecord:
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


def _side(question: Question, sides: dict[str, int | None]) -> int | None:
    """The longer side of the first image in pixels; None: no image, or a damaged one."""
    if not question.images:
        return None
    image = question.images[0]
    if not isinstance(image, str | Path):
        return _longer_side(image)
    if str(image) not in sides:
        sides[str(image)] = _longer_side(image)
    return sides[str(image)]


def breakdowns(score: Score, samples: Sequence[SampleRecord]) -> dict[str, list[SampleRecord]]:
    """Mean credit in per cent, by response length, image size and text size.

    Rows have `name`, `value`, `low`, `high` and `questions`; low and high are None for small rows.
    """
    bins: dict[str, Callable[[SampleRecord], tuple[int, str] | None]] = {
        "length of the response": lambda one: _bin(
            len(one["answer"].split()), LENGTH_BINS, "words"
        ),
        "size of the image": lambda one: _bin(one["image_side"], IMAGE_SIZE_BINS, "pixels"),
        "size of the text": lambda one: text_size_bin(one["text_size"]),
    }
    if score.highest is None:  # credits are not shares
        return {}
    rows_by_title = {title: _grouped(score, samples, group) for title, group in bins.items()}
    return {title: rows for title, rows in rows_by_title.items() if rows}


def text_size_bin(size: float | None) -> tuple[int, str] | None:
    """The bin of a text's height in pixels: index and label."""
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
    score: Score,
    samples: Sequence[SampleRecord],
    group: Callable[[SampleRecord], tuple[int, str] | None],
) -> list[SampleRecord]:
    ids_by_bin: dict[tuple[int, str], list[str]] = defaultdict(list)
    for one in samples:
        name = group(one) if one["credit"] is not None else None
        if name is not None:
            ids_by_bin[name].append(one["id"])
    rows = []
    for (_, name), ids in sorted(ids_by_bin.items()):
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


def choose_examples(samples: Sequence[SampleRecord]) -> list[SampleRecord]:
    """Examples for the page: wrong responses first, then right ones, interleaving categories."""
    score_responses = [one for one in samples if one["credit"] is not None]
    wrong = _interleave(one for one in score_responses if one["credit"] < RIGHT_CREDIT)
    right = _interleave(one for one in score_responses if one["credit"] >= RIGHT_CREDIT)
    others = _interleave(one for one in samples if one["credit"] is None)
    return wrong[:MAX_WRONG] + right[:MAX_RIGHT] + others[:MAX_RIGHT]


def _interleave(samples: Iterable[SampleRecord]) -> list[SampleRecord]:
    """Reorder samples round-robin over categories."""
    queues: dict[str, deque[SampleRecord]] = defaultdict(deque)
    for one in samples:
        queues[one["category"]].append(one)
    result: list[SampleRecord] = []
    while queues:
        for name in sorted(queues):
            result.append(queues[name].popleft())
            if not queues[name]:
                del queues[name]
    return result


def _cut(sample: SampleRecord) -> SampleRecord:
    """A sample with texts truncated for the page."""
    texts = {name: truncate(sample[name]) for name in ("question", "target", "answer", "parsed")
             if sample[name] is not None}  # fmt: skip
    return sample | texts


def truncate(value: object) -> str:
    """Format a value in at most `MAX_TEXT` characters, with a note on truncation.

    A list of texts is shown without duplicates, with the count of each.
    """
    if isinstance(value, list) and all(isinstance(one, str) for one in value):
        counts = Counter(value)
        value = ", ".join(f"{one} ({n})" if n > 1 else one for one, n in counts.most_common())
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    if len(text) <= MAX_TEXT:
        return text
    return f"{text[:MAX_TEXT]} … ({len(text) - MAX_TEXT:,} more characters in {SAMPLES_FILE})"


def _longer_side(source: ImageSource) -> int | None:
    """The longer side in pixels, from the file header if possible; None: damaged."""
    try:
        return max(image_size(source, "an image"))
    except MGMError:
        return None


def thumbnail(source: ImageSource) -> str:
    """A thumbnail as data URL; empty: the image cannot be read."""
    try:
        image = open_image(source, "an image")
    except MGMError:
        return ""
    image.thumbnail((THUMBNAIL_SIDE, THUMBNAIL_SIDE), Image.Resampling.BICUBIC)
    content = io.BytesIO()
    image.convert("RGB").save(content, "JPEG", quality=75)
    return f"data:image/jpeg;base64,{base64.b64encode(content.getvalue()).decode()}"
