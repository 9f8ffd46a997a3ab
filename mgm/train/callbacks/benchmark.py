"""Benchmarks that a run is measured by while it trains: each checkpoint answers them.

`python -m mgm.eval` does it, in a process of its own: the run goes on as if it had not been.
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
from mgm.train.checkpointing.checkpoints import BENCHMARKS

logger = logging.getLogger(__name__)

# What torchrun and accelerate tell the processes of this run, of which that one is none.
_OF_THIS_RUN = ("RANK", "WORLD_SIZE", "LOCAL_", "GROUP_", "ROLE_", "MASTER_", "TORCHELASTIC_")


class BenchmarkCallback(TrainerCallback):
    """Has every checkpoint answer benchmarks, and reports the scores.

    Args:
        benchmarks: as for `python -m mgm.eval --benchmark`.
        data: their folder.
        limit: questions of each; 0: all.
    """

    def __init__(self, benchmarks: Sequence[str], data: str, limit: int) -> None:
        self._words = ["--benchmark", *benchmarks, "--data", data]
        if limit:
            self._words += ["--limit", str(limit)]
        self._trainer: TrainerProtocol | None = None

    def check(self) -> None:
        """Look whether the questions are there, before the first step.

        Raises:
            MGMError: they are not, or there is no such benchmark.
        """
        found = self._evaluate(["--dry-run", "--model-path", "none"])
        if found.returncode:
            raise MGMError(f"--eval_benchmarks: {_last_line(found.stderr)}")

    def report_to(self, trainer: TrainerProtocol) -> None:
        """Scores go into this trainer's log."""
        self._trainer = trainer
        trainer.add_callback(self)

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Measure the checkpoint that was just written."""
        if not state.is_world_process_zero or self._trainer is None:
            return
        begun = time.perf_counter()
        if args.device.type == "cuda":
            torch.cuda.empty_cache()  # the other process needs room beside this one
        output = Path(str(args.output_dir))
        name = f"checkpoint-{state.global_step}"
        place = output / BENCHMARKS / name
        where = ["--output", str(place), "--device", str(args.device)]
        found = self._evaluate(["--model-path", str(output / name), *where])
        self._trainer.since += time.perf_counter() - begun  # it is no time of training
        if found.returncode:
            logger.warning("%s was not measured: %s", name, _last_line(found.stderr))
            return
        metrics: dict[str, float] = {}
        for file in sorted(place.glob("*/*/*/score.json")):
            score = json.loads(file.read_text(encoding="utf-8"))
            if score["value"] is not None:
                metrics[f"benchmark/{score['benchmark']}"] = score["value"]
                partial = "" if score["questions"] == score["expected"] else " (partial)"
                logger.info(
                    "%s: %s %.1f%s, %d questions", name, score["benchmark"], score["value"],
                    partial, score["questions"],
                )  # fmt: skip
        self._trainer.log(metrics)

    def _evaluate(self, words: Sequence[str]) -> "subprocess.CompletedProcess[str]":
        environment = {
            name: value for name, value in os.environ.items() if not name.startswith(_OF_THIS_RUN)
        }
        return subprocess.run(
            [sys.executable, "-m", "mgm.eval", *self._words, *words],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )


def _last_line(text: str) -> str:
    return (text.strip().splitlines() or ["no output"])[-1].removeprefix("error: ")
