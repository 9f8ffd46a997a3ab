"""Cases of differential tests against other projects, and fixtures with their records."""

import json
import lzma
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from random import Random
from typing import Any

from mgm.eval.harness.question import Question
from tests.eval.differential import cases
from tests.eval.differential.checkout import Checkout

FIXTURES = Path(__file__).parent / "fixtures"
Record = dict[str, Any]


@dataclass(frozen=True)
class Case:
    """A protocol, and the functions of another project whose results it must equal.

    A record is one of:
        {"row", "answer", "score"}: a response to the question in a row of the data set, and its
            score from 0 to 1. "replies" are those of the LLM judge in order; without them there is
            no judge.
        {"row", "answer", "drawn": true}: the harness chose a letter at random, so that the score is
            random.
        {"row", "answer", "raises": true}: the harness raises; here the response is wrong.
        {"set", "score"}: numbers of records with responses, and their metric in per cent.
        {"row", "prompt"}: the harness's prompt; for interleaved images with `<image>` in their
            positions. "images" are the numbers of its images, from 1.
    Each may have "images_in_row", the number of images of the row, default 1; and "number", the
    number of the row, from 1.

    Attributes:
        benchmark: `NAME:SPLIT`.
        protocol: protocol of the benchmark.
        harness: the checkout that `record` reads: "vlmevalkit", "lmms-eval", or the name of an
            official repository.
        functions: dotted names of the functions.
        record: generates responses and scores them with the harness.
        question: makes the question of a row; default: `Benchmark.row_to_question`.
        differs: why a record differs from ours; None: it must be equal.
        suffix: suffix of the fixture's name, if a protocol has several cases.
        rounding: maximum rounding error of the harness's metric over a set.
    """

    benchmark: str
    protocol: str
    harness: str
    functions: tuple[str, ...]
    record: Callable[[Checkout, Random], Iterable[Record]]
    question: Callable[[Record], Question] | None = None
    differs: Callable[[Record], str | None] = lambda record: None
    suffix: str = ""
    rounding: float = 1e-6

    @property
    def name(self) -> str:
        """Name of the fixture: benchmark and protocol."""
        benchmark = self.benchmark.replace(":", "-")
        return f"{benchmark}_{self.protocol}{self.suffix}"

    @property
    def fixture(self) -> Path:
        """File of the records."""
        return FIXTURES / f"{self.name}.jsonl.xz"


def all_cases() -> list[Case]:
    """The cases of every module in `cases`, from its tuple CASES."""
    names = [f"{cases.__name__}.{module.name}" for module in iter_modules(cases.__path__)]
    return [case for name in names for case in import_module(name).CASES]


def write_fixture(case: Case, commit: str, records: Iterable[Record]) -> int:
    """Write records with a header of their origin; returns their number."""
    header = {"harness": case.harness, "commit": commit, "functions": case.functions}
    lines = [json.dumps(one, ensure_ascii=False) for one in (header, *records)]
    content = "\n".join(lines).encode("utf-8", "surrogatepass")
    case.fixture.parent.mkdir(exist_ok=True)
    case.fixture.write_bytes(lzma.compress(content, preset=9 | lzma.PRESET_EXTREME))
    return len(lines) - 1


def read_fixture(case: Case) -> tuple[Record, list[Record]]:
    """Header and records of a fixture."""
    text = lzma.decompress(case.fixture.read_bytes()).decode("utf-8", "surrogatepass")
    header, *records = map(json.loads, text.split("\n"))
    return header, records


def sets_of(
    random: Random, numbers: list[list[int]], count: int = 300, max_size: int = 40
) -> Iterator[list[int]]:
    """Sets of records, made of groups that stay whole.

    Args:
        random: draws them.
        numbers: of the records of each group.
        count: of sets.
        most: groups in a set.
    """
    for _ in range(count):
        groups = random.sample(numbers, random.randint(1, min(max_size, len(numbers))))
        yield [number for group in groups for number in group]
