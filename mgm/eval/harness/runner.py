"""Has questions answered: each image is seen once, nothing twice, and a kill loses nothing."""

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
    """Have every question answered that was not yet; answers go into the cache.

    Args:
        questions: of a benchmark.
        model: answers.
        cache: of answers.
        rank: the number of this one.
        world_size: that share the work: each takes other images.
        title: of the progress bar; empty: there is none.

    Returns:
        What this process could not ask, such as a question whose image is broken. It is asked anew
        by the next run.

    Raises:
        MGMError: no question can be answered any more, or an answer cannot be written.
    """
    own = shard(questions, rank, world_size)
    skipped: list[SkippedQuestion] = []
    keys: dict[str, str] = {}  # of questions that are being answered
    pending: set[str] = set()  # keys that were asked for
    with tqdm(total=len(own), desc=title, unit=" questions", disable=not title) as bar:

        def open_questions() -> Iterator[Question]:
            for question in own:
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

        since = time.perf_counter()
        for one in model.generate(open_questions()):
            if isinstance(one, SkippedQuestion):
                skipped.append(one)
            else:
                now = time.perf_counter()
                timed = replace(one, seconds=round(now - since, 6))
                cache.put(keys.pop(one.question.id), one.text, **timed.details)
                since = now
            bar.update()
    return skipped + _twins(own, skipped, keys, cache)


def _twins(
    questions: Sequence[Question],
    skipped: Sequence[SkippedQuestion],
    keys: Mapping[str, str],
    cache: ResponseCache,
) -> list[SkippedQuestion]:
    """Questions equal to one that was asked, and could not be answered."""
    reasons = {keys[one.id]: one.reason for one in skipped if one.id in keys}
    known = {one.id for one in skipped}
    others = [one for one in questions if one.id not in known] if reasons else []
    return [
        SkippedQuestion(one.id, reasons[cache.key(one)])
        for one in others
        if cache.key(one) in reasons
    ]


def shard(questions: Sequence[Question], rank: int, world_size: int) -> list[Question]:
    """The questions that one of several processes asks: those about the same images together."""
    groups = group_by_image(questions)[rank::world_size]
    return [question for group in groups for question in group]


def group_by_image(questions: Sequence[Question]) -> list[list[Question]]:
    """Questions about the same images together; the longest prompts first, to be of a length."""
    groups: dict[tuple[object, ...], list[Question]] = defaultdict(list)
    for question in questions:
        groups[tuple(_name(image) for image in question.images)].append(question)
    return sorted(
        groups.values(),
        key=lambda group: (-len(group[0].images), -max(len(one.text) for one in group)),
    )


def _name(image: object) -> object:
    return hash(image) if isinstance(image, bytes) else str(image)


def cached_responses(questions: Sequence[Question], cache: ResponseCache) -> list[Response]:
    """The questions that have answers, with these."""
    return [one for question in questions if (one := cache.response(question)) is not None]


@dataclass
class BenchmarkResponses:
    """What a benchmark's processes have to know of one another.

    Attributes:
        questions: that are asked.
        answers: their cache.
        skipped: records and questions that could not be asked.
    """

    questions: Sequence[Question]
    answers: ResponseCache
    skipped: list[SkippedQuestion] = field(default_factory=list)


def gather(
    benchmarks: Mapping[str, BenchmarkResponses],
    failed: list[str],
    cache: ResponseCache,
    rank: int,
    world_size: int,
) -> None:
    """Have the first process know the answers and faults of all, which may be on other machines.

    It waits for every process; one that ends in an error ends all, by torchrun.

    Args:
        benchmarks: by their names; what others skipped is added in the first process.
        failed: errors that ended a benchmark; those of others are added in the first process.
        cache: whose files the answers are in; those of others are added in the first process.
        rank: the number of this one.
        world_size: that share the work.
    """
    if world_size == 1:
        return
    import torch.distributed as dist

    # By question: files of a model on another machine may differ.
    own = {
        name: (
            {
                answer.question.id: (answer.text, answer.details)
                for answer in cached_responses(shard(one.questions, rank, world_size), one.answers)
            },
            one.skipped if rank else [],
        )
        for name, one in benchmarks.items()
    }
    parts: list[Any] | None = [None] * world_size if rank == 0 else None
    dist.init_process_group("gloo", timeout=datetime.timedelta(days=7))
    dist.gather_object((own, failed if rank else []), parts)
    dist.destroy_process_group()
    if parts is None:
        return
    cache.reload()
    failed += dict.fromkeys(message for _, messages in parts for message in messages)
    for name, one in benchmarks.items():
        known = {skipped.id for skipped in one.skipped}
        for answers, skipped in (part[name] for part, _ in parts):
            one.skipped += [other for other in skipped if other.id not in known]
            for question in one.questions:
                if question.id in answers and one.answers.response(question) is None:
                    text, details = answers[question.id]
                    one.answers.put(one.answers.key(question), text, **details)
