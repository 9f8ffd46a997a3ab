"""Plots of a report: scores by cap height, and differences with their intervals."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes

from mgm.atomic import atomic_file
from playground.ablation.report.statistics import EQUIVALENCE, Estimate


def plot_scores(
    scores: Mapping[str, Mapping[str, Estimate]], bins: Sequence[str], title: str, path: Path
) -> None:
    """Plot a line for each arm: its score in each height bin, with 95 % intervals.

    Args:
        scores: estimates by arm and bin.
        bins: names of bins, in order.
        title: title of the plot.
        path: PNG file to write.
    """
    figure, axis = plt.subplots(figsize=(10, 5))
    colors = mpl.colormaps["tab20"](range(20))
    for index, (arm, estimates) in enumerate(scores.items()):
        width = 0.5 * (index / max(len(scores) - 1, 1) - 0.5)
        positions = [number + width for number in range(len(bins))]
        _draw(axis, positions, [estimates[name] for name in bins], arm, colors[index % 20])
    axis.set_xticks(range(len(bins)), bins)
    axis.set_xlabel("cap height of the text, pixels of 256")
    axis.set_ylabel("exact match, %")
    axis.set_title(title)
    axis.grid(axis="y", alpha=0.3)
    axis.legend(ncols=2, fontsize="small")
    _save(figure, path)


def plot_differences(
    differences: Mapping[str, Mapping[str, Estimate]],
    bins: Sequence[str],
    title: str,
    path: Path,
) -> None:
    """Plot a panel for each bin: the differences of a family, with the equivalence range shaded.

    Args:
        differences: estimates by rival and bin.
        bins: names of bins, one panel each.
        title: title of the plot.
        path: PNG file to write.
    """
    figure, axes = plt.subplots(
        1, len(bins), figsize=(2.2 * len(bins) + 2, 0.4 * len(differences) + 1.8), sharey=True
    )
    names = list(differences)
    for axis, name in zip([axes] if len(bins) == 1 else axes, bins, strict=True):
        axis.axvspan(-EQUIVALENCE, EQUIVALENCE, color="tab:green", alpha=0.15)
        axis.axvline(0, color="black", linewidth=0.8)
        for row, rival in enumerate(names):
            _draw_horizontal(axis, row, differences[rival][name])
        axis.set_title(name, fontsize="small")
        axis.grid(axis="x", alpha=0.3)
        axis.set_yticks(range(len(names)), names)
        axis.set_ylim(len(names) - 0.5, -0.5)
    figure.suptitle(title)
    figure.supxlabel("difference in points, simultaneous 95 % intervals", fontsize="small")
    _save(figure, path)


def _draw(
    axis: Axes, positions: Sequence[float], estimates: Sequence[Estimate], label: str, color: Any
) -> None:
    """Draw points with vertical intervals."""
    values = [one.value for one in estimates]
    halves = [one.interval.high - one.value if one.interval else 0.0 for one in estimates]
    axis.errorbar(
        *(positions, values, halves), label=label, color=color, marker="o", capsize=2, linewidth=1
    )


def _draw_horizontal(axis: Axes, row: int, one: Estimate) -> None:
    half = one.interval.high - one.value if one.interval else 0.0
    axis.errorbar(one.value, row, xerr=half, color="tab:blue", marker="o", capsize=3)


def _save(figure: Any, path: Path) -> None:
    figure.tight_layout()
    with atomic_file(path) as part:
        # Without matplotlib's version, so that equal results give equal files.
        figure.savefig(part, format="png", dpi=100, metadata={"Software": None})
    plt.close(figure)
