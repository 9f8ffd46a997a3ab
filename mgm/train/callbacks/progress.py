"""What a run shows while it trains: one bar with the loss, or lines where there is no terminal."""

import logging
import shutil
import sys
from typing import Any

from tqdm import tqdm
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from mgm.train.callbacks.validation import described

logger = logging.getLogger(__name__)

BAR = "{percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}{postfix}]"


class Progress(TrainerCallback):
    """A bar of all steps, with the latest loss; in a log file a line for each report."""

    def __init__(self) -> None:
        self.bar: tqdm | None = None
        self.lines = False

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Choose between bar and lines, and draw the bar at the step that the run goes on from."""
        shown = state.is_world_process_zero and not args.disable_tqdm and sys.stderr.isatty()
        self.lines = not shown
        self.bar = tqdm(
            total=state.max_steps,
            initial=state.global_step,
            bar_format=BAR,
            # Some terminals say that they are 0 wide; shutil then answers 80.
            ncols=min(shutil.get_terminal_size().columns, 120),
            disable=not shown,
        )

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Move the bar on."""
        if self.bar is not None:
            self.bar.update(state.global_step - self.bar.n)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Show the loss and the learning rate that the Trainer reports, and what was measured."""
        if self.bar is not None and logs and "eval_loss" in logs and state.is_world_process_zero:
            tqdm.write(f"step {state.global_step}: {described(logs)}", file=sys.stderr)
        if self.bar is None or not logs or "loss" not in logs:
            return
        loss, rate = logs["loss"], logs["learning_rate"]
        speed = f"{logs['tokens_per_second']:,.0f} tokens/s, {logs['samples_per_second']:.1f}"
        speed += " samples/s" + (f", MFU {logs['mfu']:.0%}" if "mfu" in logs else "")
        self.bar.set_postfix_str(f"loss {loss:.3f}, {speed}", False)
        if self.lines:
            place = f"step {state.global_step} of {state.max_steps}"
            sources = "".join(
                f", {name.removeprefix('loss/')} {value:.3f}"
                for name, value in logs.items()
                if name.startswith("loss/")
            )
            loss = f"loss {loss:.3f}{f' ({sources[2:]})' if sources else ''}"
            logger.info("%s: %s, learning rate %.1e, %s", place, loss, rate, speed)

    def close(self) -> None:
        """Leave the bar's line, so that what follows starts a new one."""
        if self.bar is not None:
            self.bar.close()
            self.bar = None
