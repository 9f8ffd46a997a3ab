"""What a differential test compares, and the files that its records are kept in."""

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
    """A protocol of ours, and the functions of another project that it promises to equal.

    A record is one of:
        {"row", "answer", "score"}: an answer to the question in a row of the data set, and its
            score from 0 to 1. "replies" are those of a judge, in the order in which it was asked;
            without them there is no judge.
        {"row", "answer", "drawn": true}: the harness drew a choice at random, so that it has no
            score of its own.
        {"row", "answer", "raises": true}: the harness ends with an error; ours is wrong there.
        {"set", "score"}: numbers of records with answers, and the metric over them in per cent.
        {"row", "prompt"}: what the harness asks; where text and images alternate, with `<image>`
            in the places of images. "images" are the numbers of its images, from 1.
    Any of them may have "images_in_row": how many images the row comes with, default 1; and
    "number": that of the row, from 1.

    Attributes:
        benchmark: `NAME:SPLIT` of ours.
        protocol: of it.
        harness: the checkout that `record` reads: "vlmevalkit", "lmms-eval", or the name of an
            official repository.
        functions: their dotted names.
        record: makes answers up and has the harness score them.
        question: makes the question of a row where that is not `Benchmark.row_to_question`.
        differs: the reason why a record differs from ours; None: it does not.
        suffix: of the fixture's name, where a protocol has several.
        rounding: how far the harness may round a metric over a set.
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
        """The name of its fixture: the benchmark and the protocol."""
        benchmark = self.benchmark.replace(":", "-")
        return f"{benchmark}_{self.protocol}{self.suffix}"

    @property
    def fixture(self) -> Path:
        """The file of its records."""
        return FIXTURES / f"{self.name}.jsonl.xz"


def all_cases() -> list[Case]:
    """The cases of every module in `cases`, each of which has a tuple CASES."""
    names = [f"{cases.__name__}.{module.name}" for module in iter_modules(cases.__path__)]
    return [case for name in names for case in import_module(name).CASES]


def write_fixture(case: Case, commit: str, records: Iterable[Record]) -> int:
    """Write records below a line that says where they come from; returns their number."""
    header = {"harness": case.harness, "commit": commit, "functions": case.functions}
    lines = [json.dumps(one, ensure_ascii=False) for one in (header, *records)]
    content = "\n".join(lines).encode("utf-8", "surrogatepass")
    case.fixture.parent.mkdir(exist_ok=True)
    case.fixture.write_bytes(lzma.compress(content, preset=9 | lzma.PRESET_EXTREME))
    return len(lines) - 1


def read_fixture(case: Case) -> tuple[Record, list[Record]]:
    """The header and the records of a fixture."""
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
