"""Progress callback: a tqdm bar with loss and throughput, or log lines without a terminal."""

import logging
import shutil
import sys
from typing import Any

from tqdm import tqdm
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from mgm.train.callbacks.validation import describe_metrics

logger = logging.getLogger(__name__)

BAR = "{percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}{postfix}]"


class ProgressBarCallback(TrainerCallback):
    """Shows steps, loss and throughput on a bar; in a log file, as one line per report."""

    def __init__(self) -> None:
        self.bar: tqdm | None = None
        self.logs_lines = False

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Choose between bar and lines; the bar of a resumed run starts at its step."""
        shown = state.is_world_process_zero and not args.disable_tqdm and sys.stderr.isatty()
        self.logs_lines = not shown
        self.bar = tqdm(
            total=state.max_steps,
            initial=state.global_step,
            bar_format=BAR,
            # Some terminals report 0 columns; shutil then returns 80.
            ncols=min(shutil.get_terminal_size().columns, 120),
            disable=not shown,
        )

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Advance the bar."""
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
        """Show loss and throughput, or the metrics of a validation."""
        if self.bar is not None and logs and "eval_loss" in logs and state.is_world_process_zero:
            tqdm.write(f"step {state.global_step}: {describe_metrics(logs)}", file=sys.stderr)
        if self.bar is None or not logs or "loss" not in logs:
            return
        loss, rate = logs["loss"], logs["learning_rate"]
        speed = f"{logs['tokens_per_second']:,.0f} tokens/s, {logs['samples_per_second']:.1f}"
        speed += " samples/s" + (f", MFU {logs['mfu']:.0%}" if "mfu" in logs else "")
        self.bar.set_postfix_str(f"loss {loss:.3f}, {speed}", False)
        if self.logs_lines:
            position = f"step {state.global_step} of {state.max_steps}"
            sources = "".join(
                f", {name.removeprefix('loss/')} {value:.3f}"
                for name, value in logs.items()
                if name.startswith("loss/")
            )
            loss = f"loss {loss:.3f}{f' ({sources[2:]})' if sources else ''}"
            logger.info("%s: %s, learning rate %.1e, %s", position, loss, rate, speed)

    def close(self) -> None:
        """Close the bar, so that later output starts on a new line."""
        if self.bar is not None:
            self.bar.close()
            self.bar = None
