"""Runs questions through a model: grouped by image, sharded over ranks, resumed from the cache."""

import datetime
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from tqdm import tqdm

from mgm.errors import MGMError
from mgm.eval.harness.models import Model
from mgm.eval.harness.question import Question, Response, SkippedQuestion
from mgm.eval.harness.response_cache import ResponseCache


def generate_responses(
    questions: Sequence[Question],
    model: Model,
    cache: ResponseCache,
    rank: int = 0,
    world_size: int = 1,
    title: str = "",
) -> list[SkippedQuestion]:
    """Generate the responses that are not cached yet, into the cache.

    Args:
        questions: questions of a benchmark.
        model: model to run.
        cache: cache of responses.
        rank: rank of this process.
        world_size: number of processes; each runs the questions about its share of the images.
        title: title of the progress bar; empty: no bar.

    Returns:
        The questions of this rank without a response, such as those with a broken image. The next
        run tries them again.

    Raises:
        MGMError: no question can get a response any more, or the cache cannot be written.
    """
    shard_questions = questions_of_rank(questions, rank, world_size)
    skipped: list[SkippedQuestion] = []
    keys: dict[str, str] = {}  # cache keys of running questions
    pending: set[str] = set()  # keys of running and finished questions
    with tqdm(total=len(shard_questions), desc=title, unit=" questions", disable=not title) as bar:

        def missing_questions() -> Iterator[Question]:
            for question in shard_questions:
                try:
                    key = cache.key(question)
                except MGMError as error:
                    skipped.append(SkippedQuestion(question.id, str(error)))
                    bar.update()
                    continue
                if cache.get(key) is not None or key in pending:
                    bar.update()
                    continue
                pending.add(key)
                keys[question.id] = key
                yield question

        last_time = time.perf_counter()
        for result in model.generate(missing_questions()):
            if isinstance(result, SkippedQuestion):
                skipped.append(result)
            else:
                now = time.perf_counter()
                timed = replace(result, seconds=round(now - last_time, 6))
                cache.put(keys.pop(result.question.id), result.text, **timed.details)
                last_time = now
            bar.update()
    return skipped + _skipped_duplicates(shard_questions, skipped, keys, cache)


def _skipped_duplicates(
    questions: Sequence[Question],
    skipped: Sequence[SkippedQuestion],
    keys: Mapping[str, str],
    cache: ResponseCache,
) -> list[SkippedQuestion]:
    """Questions with the same cache key as one that was skipped."""
    reasons = {keys[one.id]: one.reason for one in skipped if one.id in keys}
    known = {one.id for one in skipped}
    others = [one for one in questions if one.id not in known] if reasons else []
    return [
        SkippedQuestion(one.id, reasons[cache.key(one)])
        for one in others
        if cache.key(one) in reasons
    ]


def questions_of_rank(questions: Sequence[Question], rank: int, world_size: int) -> list[Question]:
    """The questions of a rank: those about the same images stay together."""
    groups = group_by_image(questions)[rank::world_size]
    return [question for group in groups for question in group]


def group_by_image(questions: Sequence[Question]) -> list[list[Question]]:
    """Group questions by their images; long prompts first, so that batches have similar lengths."""
    groups: dict[tuple[object, ...], list[Question]] = defaultdict(list)
    for question in questions:
        groups[tuple(_image_key(image) for image in question.images)].append(question)
    return sorted(
        groups.values(),
        key=lambda group: (-len(group[0].images), -max(len(one.text) for one in group)),
    )


def _image_key(image: object) -> object:
    return hash(image) if isinstance(image, bytes) else str(image)


def cached_responses(questions: Sequence[Question], cache: ResponseCache) -> list[Response]:
    """The responses to those questions that are cached."""
    return [one for question in questions if (one := cache.response(question)) is not None]


# Text and details of responses by question id, and skipped questions.
_RankResponses = tuple[dict[str, tuple[str, dict[str, Any]]], list[SkippedQuestion]]


@dataclass
class BenchmarkResponses:
    """The responses to a benchmark, for `gather`.

    Attributes:
        questions: questions of all ranks.
        cache: cache of their responses.
        skipped: records and questions without a response.
    """

    questions: Sequence[Question]
    cache: ResponseCache
    skipped: list[SkippedQuestion] = field(default_factory=list)


def gather(
    benchmarks: Mapping[str, BenchmarkResponses],
    failed: list[str],
    cache: ResponseCache,
    rank: int,
    world_size: int,
) -> None:
    """Gather responses and errors of all ranks on rank 0; they may not share a disk.

    Waits for all ranks; if one ends with an error, torchrun stops all.

    Args:
        benchmarks: benchmarks by name; rank 0 gets the skipped questions of all ranks.
        failed: errors that stopped generation; rank 0 gets those of all ranks.
        cache: cache of the run; rank 0 gets the responses of all ranks.
        rank: rank of this process.
        world_size: number of processes.
    """
    if world_size == 1:
        return
    import torch.distributed as dist

    # By question id, not by cache key: the model's files may differ between machines.
    own: dict[str, _RankResponses] = {}
    for name, benchmark in benchmarks.items():
        questions = questions_of_rank(benchmark.questions, rank, world_size)
        responses = cached_responses(questions, benchmark.cache)
        texts = {one.question.id: (one.text, one.details) for one in responses}
        own[name] = texts, benchmark.skipped if rank else []
    gathered: list[Any] | None = [None] * world_size if rank == 0 else None
    dist.init_process_group("gloo", timeout=datetime.timedelta(days=7))
    dist.gather_object((own, failed if rank else []), gathered)
    dist.destroy_process_group()
    if gathered is None:
        return
    cache.reload()
    failed += dict.fromkeys(message for _, messages in gathered for message in messages)
    for name, benchmark in benchmarks.items():
        for by_name, _ in gathered:
            _merge(benchmark, *by_name[name])


def _merge(
    benchmark: BenchmarkResponses,
    texts: Mapping[str, tuple[str, dict[str, Any]]],
    skipped: Sequence[SkippedQuestion],
) -> None:
    """Add the responses and skipped questions of another rank."""
    known_ids = {one.id for one in benchmark.skipped}
    benchmark.skipped += [one for one in skipped if one.id not in known_ids]
    for question in benchmark.questions:
        if question.id in texts and benchmark.cache.response(question) is None:
            text, details = texts[question.id]
            benchmark.cache.put(benchmark.cache.key(question), text, **details)
