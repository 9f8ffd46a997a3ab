"""Callback that plots loss, learning rate and throughput into `curves.png` at every save."""

import logging
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from mgm.atomic import atomic_file
from mgm.errors import one_line

if TYPE_CHECKING:
    from matplotlib.figure import Figure

logger = logging.getLogger(__name__)

PLOT_FILE = "curves.png"
CURVE_LABELS = {"loss": "training", "eval_loss": "validation"}
PANELS = (("loss", "loss"), ("learning_rate", "learning rate"), ("tokens_per_second", "tokens/s"))


class LossPlotCallback(TrainerCallback):
    """Plots the log history at every save."""

    def on_save(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: Any,
    ) -> None:
        """Plot it, in the first process."""
        if args.process_index == 0:
            plot_losses(state.log_history, Path(str(args.output_dir)))


def plot_losses(history: Sequence[dict[str, Any]], folder: Path) -> None:
    """Plot the log history into `curves.png`, if matplotlib is installed.

    A plot that fails is logged as a warning: it must not end a run.

    Args:
        history: `log_history` of the Trainer's state.
        folder: folder of the run.
    """
    if find_spec("matplotlib") is None:
        logger.info(
            "%s is not plotted: matplotlib is not installed; pip install -e '.[train]'", PLOT_FILE
        )
        return
    try:
        figure = _figure(history)
        with atomic_file(folder / PLOT_FILE) as part:
            figure.savefig(part, format="png", dpi=110)
    except Exception as error:  # noqa: BLE001  of matplotlib, its fonts and settings, or the disk
        logger.warning("%s is not plotted (%s); the run continues", PLOT_FILE, one_line(error))


def _figure(history: Sequence[dict[str, Any]]) -> "Figure":
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 3.6), layout="constrained")
    for axes, (name, title) in zip(figure.subplots(1, len(PANELS)), PANELS, strict=True):
        parts = {key for entry in history for key in entry if key.startswith(f"{name}/")}
        parts |= {key for entry in history for key in entry if key == f"eval_{name}"}
        labels: list[str] = []
        for key in (name, *sorted(parts)):
            points = [(entry["step"], entry[key]) for entry in history if key in entry]
            if points:
                axes.plot(*zip(*points, strict=True), linewidth=1, label=f"{len(labels)}")
                labels.append(CURVE_LABELS.get(key, key.removeprefix(f"{name}/")))
        if parts:
            # A data set's name is no formula, and matplotlib hides labels that start with `_`.
            legend = axes.legend(fontsize="small")
            for text, label in zip(legend.get_texts(), labels, strict=True):
                text.set_parse_math(False)
                text.set_text(label)
        axes.set_title(title)
        axes.set_xlabel("step")
        axes.grid(alpha=0.3)
    return figure
