"""What cases of lmms-eval need: its tasks' modules, and answers without reasoning."""

from collections.abc import Callable, Iterator, Sequence
from random import Random
from types import ModuleType, SimpleNamespace
from typing import Any

from tests.eval.differential.case import Case, Record, sets_of
from tests.eval.differential.checkout import Checkout
from tests.eval.differential.made_up import choice_answer, long_answers

REASONING_TAGS = [["<think>", "</think>"], ["<analysis>", "</analysis>"]]  # default of its program
LETTER_PROMPT = "Answer with the option's letter from the given choices directly."
SHORT_PROMPT = {"pre_prompt": "", "post_prompt": f"\n{LETTER_PROMPT}"}  # of most tasks
Doc = dict[str, Any]


def task(harness: Checkout, name: str) -> ModuleType:
    """The module of a task, such as "mmstar.utils"."""
    return harness.module(f"lmms_eval.tasks.{name}")


def without_reasoning(harness: Checkout, answer: str) -> str:
    """An answer as a task gets it."""
    strip = harness.module("lmms_eval.api.reasoning").strip_reasoning_tags
    return strip(answer, REASONING_TAGS)


def answers_to(
    random: Random,
    docs: Sequence[Doc],
    choices: Callable[[Doc], dict[str, str]],
    right: Callable[[Doc], str],
    count: int = 2100,
) -> list[tuple[Doc, str]]:
    """Answers to questions with choices, and some that are far too long."""
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
    """Stands for the module `random` in a module of a harness, and notes that it is used."""

    def __init__(self, module: ModuleType, name: str) -> None:
        self.used = False
        setattr(module, name, SimpleNamespace(choice=self._draw, randint=self._draw, seed=id))

    def _draw(self, *values: Any) -> Any:
        self.used = True
        return values[0][0] if len(values) == 1 else values[0]

    def pop(self) -> bool:
        """Whether it was used since this was asked last."""
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
    """Answers scored by `process_results` and an aggregation over each alone, then over sets."""
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
    """The choices in a list of a row."""
    return lambda doc: dict(zip("ABCDEFGHIJ", doc[name], strict=False))


def lmms_case(
    benchmark: str, record: Callable[..., Any], module: str, *names: str, **more: Any
) -> Case:
    functions = tuple(f"lmms_eval.tasks.{module}.{name}" for name in names)
    return Case(benchmark, "lmms-eval", "lmms-eval", functions, record, **more)
