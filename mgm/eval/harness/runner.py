"""Has questions answered: each image is seen once, nothing twice, and a kill loses nothing."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence

from tqdm import tqdm

from mgm.errors import MGMError
from mgm.eval.harness.models import Answerer
from mgm.eval.harness.question import Answered, Question, SkippedQuestion
from mgm.eval.harness.response_cache import AnswerCache


def run(
    questions: Sequence[Question],
    answerer: Answerer,
    cache: AnswerCache,
    process: int = 0,
    processes: int = 1,
    title: str = "",
) -> list[SkippedQuestion]:
    """Have every question answered that was not yet; answers go into the cache.

    Args:
        questions: of a benchmark.
        answerer: answers.
        cache: of answers.
        process: the number of this one.
        processes: that share the work: each takes other images.
        title: of the progress bar; empty: there is none.

    Returns:
        What this process could not ask, such as a question whose image is broken. It is asked anew
        by the next run.

    Raises:
        MGMError: no question can be answered any more, or an answer cannot be written.
    """
    own = share(questions, process, processes)
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

        for one in answerer.answers(open_questions()):
            if isinstance(one, SkippedQuestion):
                skipped.append(one)
            else:
                cache.put(keys.pop(one.question.id), one.text)
            bar.update()
    return skipped + _twins(own, skipped, keys, cache)


def _twins(
    questions: Sequence[Question],
    skipped: Sequence[SkippedQuestion],
    keys: Mapping[str, str],
    cache: AnswerCache,
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


def share(questions: Sequence[Question], process: int, processes: int) -> list[Question]:
    """The questions that one of several processes asks: those about the same images together."""
    groups = by_image(questions)[process::processes]
    return [question for group in groups for question in group]


def by_image(questions: Sequence[Question]) -> list[list[Question]]:
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


def answered(questions: Sequence[Question], cache: AnswerCache) -> list[Answered]:
    """The questions that have answers, with these."""
    found = ((question, cache.answer(question)) for question in questions)
    return [Answered(question, text) for question, text in found if text is not None]
