"""Compares variants of a computation: time, memory and FLOPs, run alternately in one process.

Ratios of medians are compared, so that changes of the machine's speed affect all variants alike.
"""

import argparse
import importlib.metadata
import json
import os
import platform
import statistics
import subprocess
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

OURS, PUBLISHED, LIMIT = "ours", "published", "limit"
PACKAGES = ("torch", "transformers", "timm", "pillow", "simplejpeg")


@dataclass(frozen=True)
class Case:
    """One computation.

    Attributes:
        name: name in tables and charts.
        forms: the variants by name; `LIMIT` is the part of the work that no variant can avoid. They
            return nothing that stays alive, or its release would be counted in the next run.
        difference: relative difference of the results of `OURS` and `PUBLISHED`; None: unknown.
        min_bytes: minimum of bytes that any variant reads and writes, for the roofline limit. None:
            no limit is computed.
        min_flops: minimum of operations, for the same; None: those counted in `OURS`.
    """

    name: str
    forms: dict[str, Callable[[], object]]
    difference: float | None = None
    min_bytes: int | None = None
    min_flops: int | None = None


@dataclass(frozen=True)
class Figure:
    """The measurements of one variant of one case.

    Attributes:
        case: name of the case.
        form: name of the variant.
        seconds: median of all runs.
        fastest: seconds of the fastest run.
        slowest: seconds of the slowest run.
        peak_bytes: peak of memory allocated during the run.
        flops: operations of matrix products and convolutions.
        times_faster: speed relative to the published variant, by medians.
        difference: relative difference from the result of the published variant.
    """

    case: str
    form: str
    seconds: float
    fastest: float
    slowest: float
    peak_bytes: int | None
    flops: int | None
    times_faster: float | None
    difference: float | None = None


@dataclass(frozen=True)
class Settings:
    """The options of the command line.

    Attributes:
        device: "cpu" or "cuda".
        dtype: dtype of weights and inputs.
        repeats: runs of each variant.
        only: substrings of the names of selected cases; empty: all cases.
        small: whether sizes are tiny, for a quick test of the program.
        images: images per batch.
        compile: whether `torch.compile` is measured too.
        out: path of the results without extension; None: they are not saved.
    """

    device: str
    dtype: torch.dtype
    repeats: int
    only: tuple[str, ...]
    small: bool
    images: int
    compile: bool
    out: Path | None


def settings(description: str, arguments: Sequence[str] | None = None) -> Settings:
    """Parse the command line, and set torch's number of threads.

    Args:
        description: description of the program, for `--help`.
        arguments: arguments; default: those of the process.
    """
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16", "float16"])
    parser.add_argument(
        "--threads", type=int, default=torch.get_num_threads(), help="CPU threads of torch"
    )
    parser.add_argument(
        "--repeats", type=int, default=5, help="runs of each variant; the median counts"
    )
    parser.add_argument("--images", type=int, default=1, help="images per batch")
    parser.add_argument("--compile", action="store_true", help="also measure torch.compile")
    parser.add_argument(
        "--only", nargs="+", default=(), help="run only cases whose name contains one of these"
    )
    parser.add_argument(
        "--small", action="store_true", help="tiny sizes, a quick test of the program"
    )
    parser.add_argument("--out", type=Path, help="write OUT.json and OUT.png")
    given = parser.parse_args(arguments)
    if given.device == "cuda" and not torch.cuda.is_available():
        parser.error("argument --device: no CUDA device; use --device cpu")
    if given.repeats < 1 or given.images < 1 or given.threads < 1:
        parser.error("--repeats, --images and --threads must be at least 1")
    torch.set_num_threads(given.threads)
    return Settings(
        given.device,
        getattr(torch, given.dtype),
        given.repeats,
        tuple(given.only),
        given.small,
        given.images,
        given.compile,
        given.out,
    )


def report(title: str, cases: Iterable[Case], chosen: Settings) -> list[Figure]:
    """Measure the cases, print a table, and save results and chart.

    Args:
        title: title of the chart.
        cases: generates the cases one at a time, so that only one is in memory.
        chosen: options of the command line.

    Raises:
        SystemExit: no case matches `--only`.
    """
    properties = machine(chosen)
    print("  ".join(f"{name}: {value}" for name, value in properties.items()), flush=True)
    print(
        _line("case", "form", "ms", "from - to", "times", "peak MiB", "GFLOP", "difference"),
        flush=True,
    )
    figures: list[Figure] = []
    for case in cases:
        for figure in measure(case, chosen, properties):
            print(_row(figure), flush=True)
            figures.append(figure)
        if chosen.out is not None:  # after every case, since the next one may fail
            chosen.out.parent.mkdir(parents=True, exist_ok=True)
            content = {"machine": properties, "figures": [asdict(figure) for figure in figures]}
            chosen.out.with_suffix(".json").write_text(json.dumps(content, indent=1) + "\n")
            draw(title, figures, properties, chosen.out.with_suffix(".png"))
    if not figures:
        raise SystemExit(f"--only: no case's name contains {' or '.join(chosen.only)}")
    return figures


def is_selected(name: str, chosen: Settings) -> bool:
    """Whether `--only` selects a case of this name."""
    return not chosen.only or any(part in name for part in chosen.only)


def measure(case: Case, chosen: Settings, properties: dict[str, Any]) -> list[Figure]:
    """Run the variants alternately, `chosen.repeats` times each."""
    flops = {name: _count_flops(run) for name, run in case.forms.items()}  # also warms up
    peaks = {name: _peak_bytes(run, chosen.device) for name, run in case.forms.items()}
    times_by_form: dict[str, list[float]] = {name: [] for name in case.forms}
    for _ in range(chosen.repeats):
        for name, run in case.forms.items():
            times_by_form[name].append(_seconds(run, chosen.device))
    medians = {name: statistics.median(times) for name, times in times_by_form.items()}
    base = medians.get(PUBLISHED)
    figures = [
        Figure(
            case.name,
            name,
            medians[name],
            min(times),
            max(times),
            peaks[name],
            flops[name] or None,
            base and base / medians[name],
            case.difference if name == OURS else None,
        )
        for name, times in times_by_form.items()
    ]
    if case.min_bytes is not None:
        flop_count = flops[OURS] if case.min_flops is None else case.min_flops
        limit = max(
            flop_count / (properties["TFLOP/s"] * 1e12), case.min_bytes / (properties["GB/s"] * 1e9)
        )
        times = base and base / limit
        figures.append(Figure(case.name, LIMIT, limit, limit, limit, None, flop_count, times))
    return figures


def machine(chosen: Settings) -> dict[str, Any]:
    """Hardware and versions, with the measured FLOP/s and bandwidth of the roofline limit."""
    device = torch.device(chosen.device)
    properties: dict[str, Any] = {
        "device": torch.cuda.get_device_name() if device.type == "cuda" else _processor(),
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count(),
        "dtype": str(chosen.dtype).removeprefix("torch."),
        "images": chosen.images,
        "repeats": chosen.repeats,
        "python": platform.python_version(),
    }
    for package in PACKAGES:
        try:
            properties[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            properties[package] = "missing"
    side = 256 if chosen.small else 8192 if device.type == "cuda" else 2048
    matrix = torch.randn(side, side, device=device).to(chosen.dtype)
    source = torch.empty((1 if chosen.small else 256) * 2**20, dtype=torch.uint8, device=device)
    target = torch.zeros_like(source)
    product = min(_seconds(lambda: matrix @ matrix, device.type) for _ in range(5))
    copy = min(_seconds(lambda: target.copy_(source), device.type) for _ in range(5))
    properties["TFLOP/s"] = round(2 * side**3 / product / 1e12, 4)
    properties["GB/s"] = round(2 * source.nbytes / copy / 1e9, 1)
    properties["commit"] = _commit()
    return properties


def draw(title: str, figures: Sequence[Figure], properties: dict[str, Any], path: Path) -> None:
    """Plot a bar for every variant of every case, on a logarithmic scale."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    cases = list(dict.fromkeys(figure.case for figure in figures))
    forms = list(dict.fromkeys(figure.form for figure in figures))
    colours = {PUBLISHED: "#b0b0b0", LIMIT: "#2b8a3e"}
    blues = iter(("#1c7ed6", "#74c0fc", "#4263eb", "#91a7ff"))
    plot, axes = plt.subplots(figsize=(9, 1.2 + 0.28 * len(figures)), layout="constrained")
    for position, case in enumerate(cases):
        own = [figure for figure in figures if figure.case == case]
        for index, figure in enumerate(own):
            if figure.form not in colours:
                colours[figure.form] = next(blues, "#364fc7")
            height = 0.8 / len(own)
            y = position - 0.4 + (index + 0.5) * height
            axes.barh(y, figure.seconds * 1000, height * 0.92, color=colours[figure.form])
            times = "" if figure.times_faster is None else f"  {figure.times_faster:.1f}×"
            axes.text(figure.seconds * 1000, y, f" {figure.seconds * 1000:.4g}{times}", va="center")
    axes.set_yticks(range(len(cases)), cases)
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.margins(x=0.25)
    axes.set_xlabel(
        "milliseconds, median (lower is better); × speed-up over the published implementation"
    )
    axes.set_title(
        f"{title}\n{properties['device']}, {properties['threads']} threads, {properties['dtype']}"
    )
    axes.legend(
        [plt.Rectangle((0, 0), 1, 1, color=colours[form]) for form in forms], forms, loc="best"
    )
    axes.spines[["top", "right"]].set_visible(False)
    plot.savefig(path, dpi=110)
    plt.close(plot)


def relative_difference(ours: Iterable[Tensor], theirs: Iterable[Tensor]) -> float:
    """Norm of the difference over the norm of `theirs`; the maximum over several tensors."""
    pairs = [(left.double(), right.double()) for left, right in zip(ours, theirs, strict=True)]
    return max(((left - right).norm() / right.norm()).item() for left, right in pairs)


def _seconds(run: Callable[[], object], device: str) -> float:
    if device == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    run()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def _count_flops(run: Callable[[], object]) -> int:
    with FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops()


def _peak_bytes(run: Callable[[], object], device: str) -> int:
    if device == "cuda":
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        run()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    activities = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=activities, profile_memory=True) as profile:
        run()
    # Each allocation and release is an event with the change in bytes.
    events: Any = profile.profiler
    changes = [
        (event.start_ns(), event.nbytes())
        for event in events.kineto_results.events()
        if event.name() == "[memory]"
    ]
    allocated = peak = 0
    for _, change in sorted(changes, key=lambda entry: entry[0]):
        allocated += change
        peak = max(peak, allocated)
    return peak


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    flags = next((line for line in lines if line.startswith("flags")), "").split()
    extensions = [name for name in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if name in flags]
    return " ".join([names[0] if names else platform.machine(), *extensions])


def _commit() -> str:
    command = ["git", "describe", "--always", "--dirty"]
    folder = Path(__file__).parent
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder, check=False)
    return done.stdout.strip() or "unknown"


def _line(*cells: str) -> str:
    case, form, *figures = cells
    return f"{case:36} {form:12}" + "".join(f"{figure:>15}" for figure in figures)


def _row(figure: Figure) -> str:
    peak, flops, times = figure.peak_bytes, figure.flops, figure.times_faster
    return _line(
        figure.case,
        figure.form,
        f"{figure.seconds * 1000:.4g}",
        f"{figure.fastest * 1000:.4g} - {figure.slowest * 1000:.4g}",
        "" if times is None else f"{times:.2f}",
        "" if peak is None else f"{peak / 2**20:.0f}",
        "" if flops is None else f"{flops / 1e9:.1f}",
        "" if figure.difference is None else f"{figure.difference:.1e}",
    )
