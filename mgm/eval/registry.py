"""Registry of benchmarks and benchmark groups by name."""

import logging
from collections.abc import Mapping, Sequence
from itertools import chain

from mgm.errors import MGMError
from mgm.eval.benchmarks.ai2d import AI2D
from mgm.eval.benchmarks.chartqa import ChartQA
from mgm.eval.benchmarks.countbenchqa import CountBenchQA
from mgm.eval.benchmarks.docvqa import DocVQA
from mgm.eval.benchmarks.gqa import GQA
from mgm.eval.benchmarks.hrbench import HRBench
from mgm.eval.benchmarks.infovqa import InfoVQA
from mgm.eval.benchmarks.llava_bench import LLaVABench
from mgm.eval.benchmarks.mathvista import MathVista
from mgm.eval.benchmarks.mmbench import MMBench
from mgm.eval.benchmarks.mme import MME
from mgm.eval.benchmarks.mme_realworld import MMERealWorld
from mgm.eval.benchmarks.mmmu import MMMU
from mgm.eval.benchmarks.mmmu_pro import MMMUPro
from mgm.eval.benchmarks.mmstar import MMStar
from mgm.eval.benchmarks.mmvet import MMVet
from mgm.eval.benchmarks.mmvp import MMVP
from mgm.eval.benchmarks.nano import Nano
from mgm.eval.benchmarks.ocrbench import OCRBench
from mgm.eval.benchmarks.pope import POPE
from mgm.eval.benchmarks.qbench import QBench
from mgm.eval.benchmarks.realworldqa import RealWorldQA
from mgm.eval.benchmarks.scienceqa import ScienceQA
from mgm.eval.benchmarks.seed import SEEDBench
from mgm.eval.benchmarks.textvqa import TextVQA
from mgm.eval.benchmarks.textvqa_no_ocr import TextVQAWithoutOCR
from mgm.eval.benchmarks.vizwiz import VizWiz
from mgm.eval.benchmarks.vqav2 import VQAv2
from mgm.eval.benchmarks.vstar import VStar
from mgm.eval.tasks.benchmark import PAPER, Benchmark

logger = logging.getLogger("mgm.eval")
# Table 1 of the paper; the other benchmarks of its evaluation; high-resolution benchmarks.
_PAPER = (TextVQA, MMBench, MME, MMVet, MMMU, MathVista)
_OTHERS = (VQAv2, GQA, VizWiz, ScienceQA, POPE, SEEDBench, LLaVABench, QBench)
_HIGH_RESOLUTION = (
    *(DocVQA, VStar, HRBench, MMERealWorld, AI2D, RealWorldQA, MMVP, MMStar, MMMUPro),
    *(TextVQAWithoutOCR, OCRBench, ChartQA, InfoVQA, CountBenchQA),
)
_ALL = (*_PAPER, *_OTHERS, *_HIGH_RESOLUTION, Nano)
BENCHMARKS: Mapping[str, Benchmark] = {cls.name: cls() for cls in _ALL}
# Members run with their default split; HR-Bench with both splits.
BENCHMARK_GROUPS: Mapping[str, tuple[str, ...]] = {
    "paper": tuple(cls.name for cls in _PAPER),
    "highres": (*(cls.name for cls in _HIGH_RESOLUTION), f"{HRBench.name}:8k"),
    "all": (*(cls.name for cls in _ALL if cls is not Nano), f"{HRBench.name}:8k"),
}


def expand_groups(names: Sequence[str]) -> list[str]:
    """Expand groups to the names of their benchmarks, without duplicates."""
    members = (BENCHMARK_GROUPS.get(name, (name,)) for name in names)
    return list(dict.fromkeys(chain.from_iterable(members)))


def get_benchmark(name: str, protocol: str | None = None) -> tuple[Benchmark, str]:
    """Look up a benchmark and its split by `NAME` or `NAME:SPLIT`.

    Args:
        name: name of the benchmark.
        protocol: a name without a split means the first split that supports this protocol; None:
            the first split.

    Raises:
        MGMError: unknown benchmark.
    """
    benchmark_name, _, split = name.partition(":")
    if benchmark_name not in BENCHMARKS:
        names = ", ".join((*BENCHMARKS, *BENCHMARK_GROUPS))
        raise MGMError(f"unknown benchmark {benchmark_name!r}; choose from {names}")
    benchmark = BENCHMARKS[benchmark_name]
    supporting = [one for one in benchmark.splits if protocol in benchmark.protocols_of(one)]
    return benchmark, split or (supporting or benchmark.splits)[0]


def resolve_benchmark(name: str, protocol: str | None = None) -> tuple[Benchmark, str, str]:
    """Look up a benchmark, its split and its protocol by `NAME` or `NAME:SPLIT`.

    Args:
        name: name of the benchmark.
        protocol: to use; a split without it falls back to its default protocol, with a warning.
            None: the default protocol.

    Raises:
        MGMError: unknown benchmark or split.
    """
    benchmark, split = get_benchmark(name, protocol)
    supported = benchmark.protocols_of(split) or [PAPER]
    chosen = protocol if protocol in supported else supported[0]
    benchmark.check(split, chosen)
    if protocol and chosen != protocol:
        title = f"{benchmark.name}:{split}"
        logger.warning("%s has no protocol %s; falling back to %s", title, protocol, chosen)
    return benchmark, split, chosen
