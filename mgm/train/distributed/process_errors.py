"""Errors of distributed runs and of DataLoader workers in one line; exit of a process."""

import atexit
import os
import re
import sys
from collections.abc import Generator
from contextlib import contextmanager

from mgm.errors import MGMError, one_line, write_output

# Messages of gloo and NCCL when a peer process has ended.
LOST_PEER = ("Connection reset by peer", "Connection closed by peer", "remote process exited")
# Traceback that precedes the message of an MGMError from a DataLoader worker.
_WORKER_TRACEBACK = re.compile(r".*\bmgm(\.\w+)+Error: ", re.DOTALL)


class LostProcessError(MGMError):
    """Another process of the run has ended; its output has the reason."""


@contextmanager
def lost_process_errors() -> Generator[None]:
    """Turn the exception of a collective whose peer has ended into a one-line error.

    Raises:
        LostProcessError: the block was waiting for another process, which has ended.
    """
    try:
        yield
    except RuntimeError as error:
        if not any(words in str(error) for words in LOST_PEER):
            raise
        raise LostProcessError(
            f"another process of this run has ended, or cannot be reached "
            f"({one_line(error)[:200]}); its output has the reason, and the same command "
            "resumes from the last checkpoint"
        ) from error


@contextmanager
def data_loader_errors() -> Generator[None]:
    """Turn exceptions of DataLoader workers, and their deaths, into one-line errors.

    Raises:
        MGMError: the worker's own error, or that a worker died.
    """
    try:
        yield
    except MGMError as error:
        if "in DataLoader worker process" not in str(error):
            raise
        raise MGMError(_WORKER_TRACEBACK.sub("", str(error)).strip()) from error
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise MGMError(
            f"{one_line(error)}: a DataLoader worker died, most often because memory ran out; use "
            "fewer with --dataloader_num_workers"
        ) from error


def end_process() -> None:
    """Exit a process of a distributed run with status 0, without interpreter shutdown.

    Threads of a destroyed process group may free a tensor during shutdown and abort the process
    after all was saved (pytorch/pytorch#190489). Children of multiprocessing exit in the same way.
    """
    atexit._run_exitfuncs()
    sys.stderr.flush()
    write_output("")
    os._exit(0)
