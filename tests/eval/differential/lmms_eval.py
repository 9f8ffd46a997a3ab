"""Helpers for cases of lmms-eval: modules of tasks, responses without reasoning, aggregation."""

from collections.abc import Callable, Iterator, Sequence
from random import Random
from types import ModuleType, SimpleNamespace
from typing import Any

from tests.eval.differential.case import Case, Record, sets_of
from tests.eval.differential.checkout import Checkout
from tests.eval.differential.made_up import choice_answer, long_answers

REASONING_TAGS = [["<think>", "</think>"], ["<analysis>", "</analysis>"]]  # default of its program
LETTER_PROMPT = "Answer with the option's letter from the given choices directly."
SHORT_PROMPT = {"pre_prompt": "", "post_prompt": f"\n{LETTER_PROMPT}"}  # default of most tasks
Doc = dict[str, Any]


def task(harness: Checkout, name: str) -> ModuleType:
    """The module of a task, such as "mmstar.utils"."""
    return harness.module(f"lmms_eval.tasks.{name}")


def without_reasoning(harness: Checkout, answer: str) -> str:
    """A response as a task gets it."""
    strip = harness.module("lmms_eval.api.reasoning").strip_reasoning_tags
    return strip(answer, REASONING_TAGS)


def answers_to(
    random: Random,
    docs: Sequence[Doc],
    choices: Callable[[Doc], dict[str, str]],
    right: Callable[[Doc], str],
    count: int = 2100,
) -> list[tuple[Doc, str]]:
    """Responses to multiple-choice questions, some of them very long."""
    pairs = []
    for number in range(count):
        doc = docs[number % len(docs)]
        pairs.append((doc, choice_answer(random, choices(doc), right(doc))))
    return pairs + [(docs[0], text) for text in long_answers(right(docs[0]))]


def sets(
    random: Random, numbers: Sequence[Sequence[int]], score: Callable[[list[int]], float]
) -> Iterator[Record]:
    """Sets of records with a metric over them, from 0 to 1."""
    for own in sets_of(random, [list(group) for group in numbers]):
        yield {"set": own, "score": 100 * score(own)}


class Draws:
    """Replaces the module `random` in a module of a harness, and records its use."""

    def __init__(self, module: ModuleType, name: str) -> None:
        self.used = False
        setattr(module, name, SimpleNamespace(choice=self._draw, randint=self._draw, seed=id))

    def _draw(self, *values: Any) -> Any:
        self.used = True
        return values[0][0] if len(values) == 1 else values[0]

    def pop(self) -> bool:
        """Whether it was used since the last call."""
        used, self.used = self.used, False
        return used


def simple(
    harness: Checkout,
    random: Random,
    pairs: list[tuple[Doc, str]],
    process: Callable[[Doc, list[str]], Any],
    aggregate: Callable[[list[Any]], float],
    more: Callable[[int], Record] = lambda number: {},
) -> Iterator[Record]:
    """Responses scored by `process_results` and the aggregation: single ones, then sets."""
    results = []
    for number, (doc, answer) in enumerate(pairs):
        results.append(process(doc, [without_reasoning(harness, answer)]))
        score = float(aggregate([results[-1]]))
        yield {"row": doc, "answer": answer, "score": score} | more(number)
    singles = [[number] for number in range(len(pairs))]
    yield from sets(random, singles, lambda own: float(aggregate([results[n] for n in own])))


def mean(scores: list[float]) -> float:
    """The mean of scores."""
    return sum(scores) / len(scores)


def lettered(name: str) -> Callable[[Doc], dict[str, str]]:
    """The choices of a row as a list."""
    return lambda doc: dict(zip("ABCDEFGHIJ", doc[name], strict=False))


def lmms_case(
    benchmark: str, record: Callable[..., Any], module: str, *names: str, **more: Any
) -> Case:
    functions = tuple(f"lmms_eval.tasks.{module}.{name}" for name in names)
    return Case(benchmark, "lmms-eval", "lmms-eval", functions, record, **more)
