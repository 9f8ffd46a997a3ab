"""`python -m mgm.train`: train a Mini-Gemini, stage 1 or stage 2."""

import logging
import os
import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch.distributed as dist
from transformers.utils import logging as transformers_logging

from mgm.errors import MGMError, run_command
from mgm.model.ops.deepspeed_log import quiet_deepspeed
from mgm.train.args.validation import parse_arguments
from mgm.train.distributed.collectives import ReportedByRank0Error
from mgm.train.distributed.process_errors import (
    LostProcessError,
    end_process,
    lost_process_errors,
)

if TYPE_CHECKING:
    from mgm.train.trainer import MGMTrainer

RANK0_REPORT_SECONDS = 5.0  # time for rank 0 to report an error of all ranks
# In which the launcher terminates a rank after another one has failed, on a busy machine too.
LAUNCHER_SECONDS = 60.0


def run_entry_point() -> None:
    """Run `main` as a command-line program; in a distributed run, exit at once on an error.

    Interpreter shutdown takes seconds, in which other ranks would report errors that follow from
    this one.
    """
    try:
        run_command(main)
    except SystemExit as end:
        if end.code and int(os.environ.get("WORLD_SIZE", "1")) > 1:
            sys.stderr.flush()
            os._exit(int(end.code))
        raise


def main() -> None:
    """Set up logging, train, and make each error reported by one rank only."""
    logging.basicConfig(format="%(message)s", stream=sys.stderr)
    first = os.environ.get("RANK", "0") == "0"
    logging.getLogger("mgm").setLevel(logging.INFO if first else logging.WARNING)
    quiet_deepspeed()
    transformers_logging.disable_progress_bar()  # bars of loading and saving; training has its own
    try:
        with lost_process_errors():
            run_training()
    except ReportedByRank0Error as error:
        time.sleep(LAUNCHER_SECONDS)
        raise SystemExit(1) from error
    except LostProcessError:
        time.sleep(LAUNCHER_SECONDS)
        raise
    except MGMError:
        if not first:
            # Rank 0 most often reports the same error, and the launcher then terminates this rank.
            time.sleep(RANK0_REPORT_SECONDS)
        raise
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()
        end_process()


def run_training(argv: Sequence[str] | None = None) -> "MGMTrainer":
    """Parse the flags, train, and save the model.

    Args:
        argv: flags and values; None: those of the command line.

    Returns:
        The trainer, with the trained `model` and its `state`.

    Raises:
        MGMError: a user error in the flags, the data or a folder, or a full disk.
    """
    arguments = parse_arguments(argv)
    # Imported after parsing, so that --help and wrong flags need not wait for it.
    from mgm.train.run import train

    return train(arguments)


if __name__ == "__main__":
    run_entry_point()
