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
from mgm.train.args.validation import parse
from mgm.train.distributed.first_process import ReportedByRank0Error
from mgm.train.distributed.process_errors import (
    LostProcessError,
    end_process,
    lost_process_errors,
)

if TYPE_CHECKING:
    from mgm.train.trainer import MGMTrainer

SECONDS_FOR_FIRST = 5.0  # in which the first process reports an error that all of them have
# In which the launcher ends a process after another one has failed, on a busy machine too.
SECONDS_FOR_LAUNCHER = 60.0


def program() -> None:
    """Run `main` as a command-line program does; one process of several ends at once on an error.

    Taking the interpreter down takes seconds, in which the other processes would report what they
    make of it.
    """
    try:
        run_command(main)
    except SystemExit as end:
        if end.code and int(os.environ.get("WORLD_SIZE", "1")) > 1:
            sys.stderr.flush()
            os._exit(int(end.code))
        raise


def main() -> None:
    """Train as the command line says."""
    logging.basicConfig(format="%(message)s", stream=sys.stderr)
    first = os.environ.get("RANK", "0") == "0"
    logging.getLogger("mgm").setLevel(logging.INFO if first else logging.WARNING)
    quiet_deepspeed()
    transformers_logging.disable_progress_bar()  # of loading and saving; training has its own
    try:
        with lost_process_errors():
            run()
    except ReportedByRank0Error as error:
        time.sleep(SECONDS_FOR_LAUNCHER)
        raise SystemExit(1) from error
    except LostProcessError:
        time.sleep(SECONDS_FOR_LAUNCHER)
        raise
    except MGMError:
        if not first:
            # The first process most often reports the same, and its launcher ends this one then.
            time.sleep(SECONDS_FOR_FIRST)
        raise
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()
        end_process()


def run(words: Sequence[str] | None = None) -> "MGMTrainer":
    """Train, and save the model.

    Args:
        words: the command line's flags and values; None: those of this program.

    Returns:
        The trainer, with the trained `model` and its `state`.

    Raises:
        MGMError: a user error in the flags, the data or a folder, or a full disk.
    """
    arguments = parse(words)
    # Behind the parser, so that --help and wrong flags need not wait for the network's imports.
    from mgm.train.run import train

    return train(arguments)


if __name__ == "__main__":
    program()
