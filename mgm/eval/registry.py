"""All benchmarks by their names."""

from collections.abc import Mapping

from mgm.errors import MGMError
from mgm.eval.benchmarks.chartqa import ChartQA
from mgm.eval.benchmarks.countbenchqa import CountBenchQA
from mgm.eval.benchmarks.docvqa import DocVQA
from mgm.eval.benchmarks.gqa import GQA
from mgm.eval.benchmarks.infovqa import InfoVQA
from mgm.eval.benchmarks.llava_bench import LLaVABench
from mgm.eval.benchmarks.mathvista import MathVista
from mgm.eval.benchmarks.mmbench import MMBench
from mgm.eval.benchmarks.mme import MME
from mgm.eval.benchmarks.mmmu import MMMU
from mgm.eval.benchmarks.mmvet import MMVet
from mgm.eval.benchmarks.nano import Nano
from mgm.eval.benchmarks.ocrbench import OCRBench
from mgm.eval.benchmarks.pope import POPE
from mgm.eval.benchmarks.qbench import QBench
from mgm.eval.benchmarks.scienceqa import ScienceQA
from mgm.eval.benchmarks.seed import SEEDBench
from mgm.eval.benchmarks.textvqa import TextVQA
from mgm.eval.benchmarks.textvqa_no_ocr import TextVQAWithoutOCR
from mgm.eval.benchmarks.vizwiz import VizWiz
from mgm.eval.benchmarks.vqav2 import VQAv2
from mgm.eval.tasks.benchmark import Benchmark

_ALL = (
    *(TextVQA, MMBench, MME, MMVet, MMMU, MathVista),
    *(VQAv2, GQA, VizWiz, ScienceQA, POPE, SEEDBench, LLaVABench, QBench, DocVQA, Nano),
    *(TextVQAWithoutOCR, OCRBench, ChartQA, InfoVQA, CountBenchQA),
)
BENCHMARKS: Mapping[str, Benchmark] = {kind.name: kind() for kind in _ALL}


def benchmark(name: str, protocol: str | None = None) -> tuple[Benchmark, str]:
    """A benchmark and its split, of `NAME` or `NAME:SPLIT`.

    Args:
        name: what is asked for.
        protocol: without a split it is the first that has this protocol; None: the first.

    Raises:
        MGMError: there is none of that name.
    """
    kind, _, split = name.partition(":")
    if kind not in BENCHMARKS:
        raise MGMError(f"no benchmark is called {kind!r}; choose from {', '.join(BENCHMARKS)}")
    found = BENCHMARKS[kind]
    having = [one for one in found.splits if protocol in found.protocols_of(one)]
    return found, split or (having or found.splits)[0]
