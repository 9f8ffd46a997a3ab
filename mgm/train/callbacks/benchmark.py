"""Callback that evaluates every checkpoint on benchmarks.

`python -m mgm.eval` runs in a subprocess, so that it changes neither weights nor random state of
the training.
"""

import json
import logging
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from mgm.errors import MGMError
from mgm.train.callbacks.trainer_protocol import TrainerProtocol
from mgm.train.checkpointing.checkpoints import BENCHMARK_DIR

logger = logging.getLogger(__name__)

# Environment variables of torchrun and accelerate: the evaluation is none of their processes.
_LAUNCHER_VARIABLES = (
    "RANK",
    "WORLD_SIZE",
    "LOCAL_",
    "GROUP_",
    "ROLE_",
    "MASTER_",
    "TORCHELASTIC_",
)


class BenchmarkCallback(TrainerCallback):
    """Evaluates every checkpoint on benchmarks, and logs the scores.

    Args:
        benchmarks: as for `python -m mgm.eval --benchmark`.
        data_dir: folder of the benchmarks' files.
        limit: maximum questions per benchmark; 0: all.
    """

    def __init__(self, benchmarks: Sequence[str], data_dir: str, limit: int) -> None:
        self._options = ["--benchmark", *benchmarks, "--data-dir", data_dir]
        if limit:
            self._options += ["--limit", str(limit)]
        self._trainer: TrainerProtocol | None = None

    def check(self) -> None:
        """Check, before the first step, that the benchmarks' files are present.

        Raises:
            MGMError: they are not, or there is no such benchmark.
        """
        result = self._run_eval(["--dry-run", "--model-path", "none"])
        if result.returncode:
            raise MGMError(f"--eval_benchmarks: {_last_line(result.stderr)}")

    def attach(self, trainer: TrainerProtocol) -> None:
        """Add the callback to a trainer, whose `log` gets the scores."""
        self._trainer = trainer
        trainer.add_callback(self)

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Evaluate the checkpoint that was just written."""
        if not state.is_world_process_zero or self._trainer is None:
            return
        start_time = time.perf_counter()
        if args.device.type == "cuda":
            torch.cuda.empty_cache()  # the subprocess needs memory of the same device
        output = Path(str(args.output_dir))
        name = f"checkpoint-{state.global_step}"
        scores = output / BENCHMARK_DIR / name
        target = ["--output-dir", str(scores), "--device", str(args.device)]
        result = self._run_eval(["--model-path", str(output / name), *target])
        self._trainer.throughput_start += time.perf_counter() - start_time  # not training time
        if result.returncode:
            logger.warning("%s was not evaluated: %s", name, _last_line(result.stderr))
            return
        metrics: dict[str, float] = {}
        for file in sorted(scores.glob("*/*/*/score.json")):
            score = json.loads(file.read_text(encoding="utf-8"))
            if score["value"] is not None:
                metrics[f"benchmark/{score['benchmark']}"] = score["value"]
                partial = "" if score["questions"] == score["expected"] else " (partial)"
                logger.info(
                    "%s: %s %.1f%s, %d questions", name, score["benchmark"], score["value"],
                    partial, score["questions"],
                )  # fmt: skip
        self._trainer.log(metrics)

    def _run_eval(self, options: Sequence[str]) -> "subprocess.CompletedProcess[str]":
        environment = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(_LAUNCHER_VARIABLES)
        }
        return subprocess.run(
            [sys.executable, "-m", "mgm.eval", *self._options, *options],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )


def _last_line(text: str) -> str:
    return (text.strip().splitlines() or ["no output"])[-1].removeprefix("error: ")
