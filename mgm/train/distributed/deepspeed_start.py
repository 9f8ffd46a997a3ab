"""DeepSpeed start-up: single-process environment, no compilation on a CPU, one-line errors."""

import logging
import os
import socket
from collections.abc import Callable, Generator
from contextlib import contextmanager

import torch.distributed as dist

from mgm.errors import MGMError, one_line

logger = logging.getLogger(__name__)


def set_single_process_env() -> None:
    """Set the launcher's environment variables for one process, if no launcher did.

    Otherwise DeepSpeed looks for MPI.
    """
    if "WORLD_SIZE" in os.environ or "RANK" in os.environ or dist.is_initialized():
        return
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    os.environ |= {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    logger.info("--deepspeed: no launcher started this process; training in a single process")


@contextmanager
def deepspeed_errors(is_starting: Callable[[], bool]) -> Generator[None]:
    """Turn exceptions of DeepSpeed, and of transformers for it, into a one-line error.

    Args:
        is_starting: whether DeepSpeed was starting when the exception came; all others pass.

    Raises:
        MGMError: DeepSpeed could not start.
    """
    try:
        yield
    except MGMError:
        raise
    except (ValueError, RuntimeError, AssertionError, ImportError, KeyError, TypeError) as error:
        if not is_starting():
            raise
        raise MGMError(
            f"--deepspeed: DeepSpeed could not start ({type(error).__name__}: {one_line(error)}); "
            "change its settings"
        ) from error


def disable_shm_comm() -> None:
    """Disable DeepSpeed's shared-memory collectives, whose compilation takes minutes on a CPU."""
    from deepspeed import ops

    ops.__compatible_ops__["deepspeed_shm_comm"] = False  # gloo is used instead
