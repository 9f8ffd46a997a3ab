"""What one of several processes meets: others that are gone, loader workers, its own end."""

import atexit
import os
import re
import sys
from collections.abc import Generator
from contextlib import contextmanager

from mgm.errors import MGMError, one_line, write_output

# What gloo and NCCL say when a process that they wait for is gone.
LOST = ("Connection reset by peer", "Connection closed by peer", "remote process exited")
# What comes before the error's own line where a worker of the data loader raised it.
_ERROR_OF_OURS = re.compile(r".*\bmgm(\.\w+)+Error: ", re.DOTALL)


class LostProcessError(MGMError):
    """Another process of the run is gone, whose own output says why."""


@contextmanager
def lost_process_errors() -> Generator[None]:
    """Make one line of what is raised in a process that waits for one that has ended.

    Raises:
        LostProcessError: the block was waiting for another process, which is gone.
    """
    try:
        yield
    except RuntimeError as error:
        if not any(words in str(error) for words in LOST):
            raise
        raise LostProcessError(
            f"another process of this run has ended, or cannot be reached "
            f"({one_line(error)[:200]}); its own output says why, and the same command goes on "
            "from the last checkpoint"
        ) from error


@contextmanager
def data_loader_errors() -> Generator[None]:
    """Make one line of what the worker processes of a data loader raise, and of their deaths.

    Raises:
        MGMError: the worker's own error, or that a worker died.
    """
    try:
        yield
    except MGMError as error:
        if "in DataLoader worker process" not in str(error):
            raise
        raise MGMError(_ERROR_OF_OURS.sub("", str(error)).strip()) from error
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise MGMError(
            f"{one_line(error)}: a process that prepares samples died, most often for want of "
            "memory; take fewer with --dataloader_num_workers"
        ) from error


def end_process() -> None:
    """End one process of several, with status 0 and without taking the interpreter down.

    What torch keeps alive of a destroyed group has threads that may drop a tensor while Python
    goes down, and the process aborts after all was saved (pytorch/pytorch#190489). Children of
    multiprocessing end in the same way.
    """
    atexit._run_exitfuncs()
    sys.stderr.flush()
    write_output("")
    os._exit(0)
