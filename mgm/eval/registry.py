"""All benchmarks by their names."""

import logging
from collections.abc import Mapping, Sequence

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
# Table 1 of the paper; what else it was evaluated on; and where high resolution shows.
_PAPER = (TextVQA, MMBench, MME, MMVet, MMMU, MathVista)
_OTHERS = (VQAv2, GQA, VizWiz, ScienceQA, POPE, SEEDBench, LLaVABench, QBench)
_HIGH_RESOLUTION = (
    *(DocVQA, VStar, HRBench, MMERealWorld, AI2D, RealWorldQA, MMVP, MMStar, MMMUPro),
    *(TextVQAWithoutOCR, OCRBench, ChartQA, InfoVQA, CountBenchQA),
)
_ALL = (*_PAPER, *_OTHERS, *_HIGH_RESOLUTION, Nano)
BENCHMARKS: Mapping[str, Benchmark] = {kind.name: kind() for kind in _ALL}
# Names of several: each with its usual split, and HR-Bench with both.
BENCHMARK_GROUPS: Mapping[str, tuple[str, ...]] = {
    "paper": tuple(kind.name for kind in _PAPER),
    "highres": (*(kind.name for kind in _HIGH_RESOLUTION), f"{HRBench.name}:8k"),
    "all": (*(kind.name for kind in _ALL if kind is not Nano), f"{HRBench.name}:8k"),
}


def expand_groups(names: Sequence[str]) -> list[str]:
    """Names of benchmarks, in place of those of groups too; each once."""
    return list(dict.fromkeys(one for name in names for one in BENCHMARK_GROUPS.get(name, (name,))))


def get_benchmark(name: str, protocol: str | None = None) -> tuple[Benchmark, str]:
    """A benchmark and its split, of `NAME` or `NAME:SPLIT`.

    Args:
        name: what is asked for.
        protocol: without a split it is the first that has this protocol; None: the first.

    Raises:
        MGMError: there is none of that name.
    """
    kind, _, split = name.partition(":")
    if kind not in BENCHMARKS:
        names = ", ".join((*BENCHMARKS, *BENCHMARK_GROUPS))
        raise MGMError(f"no benchmark is called {kind!r}; choose from {names}")
    found = BENCHMARKS[kind]
    having = [one for one in found.splits if protocol in found.protocols_of(one)]
    return found, split or (having or found.splits)[0]


def resolve_benchmark(name: str, protocol: str | None = None) -> tuple[Benchmark, str, str]:
    """A benchmark, its split and its protocol, of `NAME` or `NAME:SPLIT`.

    Args:
        name: what is asked for.
        protocol: that is wanted; a split without it has its usual one, with a warning. None: the
            usual one.

    Raises:
        MGMError: there is no such benchmark or split.
    """
    kind, split = get_benchmark(name, protocol)
    offered = kind.protocols_of(split) or [PAPER]
    found = protocol if protocol in offered else offered[0]
    kind.check(split, found)
    if protocol and found != protocol:
        logger.warning("%s:%s has no protocol %s; %s is used", kind.name, split, protocol, found)
    return kind, split, found
