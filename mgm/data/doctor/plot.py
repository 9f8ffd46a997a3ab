"""Plots the distributions of sample lengths and image sizes."""

from pathlib import Path

from mgm.atomic import atomic_file
from mgm.data.doctor.checks import Examination
from mgm.errors import MGMError


def plot_examination(examination: Examination, path: Path) -> None:
    """Write a PNG with histograms of lengths and image sizes.

    Raises:
        MGMError: matplotlib is not installed, or the file cannot be written.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MGMError("--plot needs matplotlib; pip install -e '.[playground]'") from error
    figure = Figure(figsize=(12, 4), layout="constrained")
    lengths, learned, sides = figure.subplots(1, 3)
    for axes, values, title in (
        (lengths, examination.lengths, "positions of a sample"),
        (learned, examination.supervised, "of them learned"),
    ):
        axes.set_title(title)
        if values:
            axes.hist(values, bins=60)
        else:
            axes.text(0.5, 0.5, "known with --model", ha="center", transform=axes.transAxes)
        axes.set_ylabel("samples")
    if examination.max_length is not None:
        lengths.axvline(examination.max_length, color="tab:red", label="limit")
        lengths.legend()
    sides.set_title("images, pixels")
    if examination.sizes:
        widths, heights = zip(*examination.sizes.values(), strict=True)
        sides.scatter(widths, heights, s=4, alpha=0.4)
    sides.set_xlabel("width")
    sides.set_ylabel("height")
    with atomic_file(path) as part:
        figure.savefig(part, format="png", dpi=120)
