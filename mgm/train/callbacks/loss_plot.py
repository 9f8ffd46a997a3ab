"""The curves of a run as a picture, renewed at every save."""

import logging
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from mgm.atomic import atomic_file

logger = logging.getLogger(__name__)

FILE = "curves.png"
NAMES = {"loss": "all that is learned", "eval_loss": "hold-out"}  # in the legend
SHOWN = (("loss", "loss"), ("learning_rate", "learning rate"), ("tokens_per_second", "tokens/s"))


class LossPlot(TrainerCallback):
    """Draws the curves at every save."""

    def on_save(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: Any,
    ) -> None:
        """Draw them, in the first process of a run."""
        if args.process_index == 0:
            draw_curves(state.log_history, Path(str(args.output_dir)))


def draw_curves(history: Sequence[dict[str, Any]], folder: Path) -> None:
    """Draw what was logged so far into `curves.png`, if matplotlib is installed.

    Args:
        history: of the Trainer's state.
        folder: of the run.
    """
    if find_spec("matplotlib") is None:
        logger.info("%s is not drawn: matplotlib is not installed; pip install -e '.[train]'", FILE)
        return
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 3.6), layout="constrained")
    for axes, (name, title) in zip(figure.subplots(1, len(SHOWN)), SHOWN, strict=True):
        parts = {key for entry in history for key in entry if key.startswith(f"{name}/")}
        parts |= {key for entry in history for key in entry if key == f"eval_{name}"}
        for key in (name, *sorted(parts)):
            points = [(entry["step"], entry[key]) for entry in history if key in entry]
            label = NAMES.get(key, key.removeprefix(f"{name}/"))
            if points:
                axes.plot(*zip(*points, strict=True), linewidth=1, label=label)
        if parts:
            axes.legend(fontsize="small")
        axes.set_title(title)
        axes.set_xlabel("step")
        axes.grid(alpha=0.3)
    with atomic_file(folder / FILE) as part:
        figure.savefig(part, format="png", dpi=110)
