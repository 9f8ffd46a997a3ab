"""How DeepSpeed starts: in one process too, without compiling for minutes, errors in one line."""

import logging
import os
import socket
from collections.abc import Generator
from contextlib import contextmanager

import torch.distributed as dist

from mgm.errors import MGMError, one_line

logger = logging.getLogger(__name__)


def set_single_process_env() -> None:
    """Describe this process as the only one of a run, where no launcher did.

    DeepSpeed looks for MPI otherwise.
    """
    if "WORLD_SIZE" in os.environ or "RANK" in os.environ or dist.is_initialized():
        return
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    os.environ |= {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    logger.info("--deepspeed: no launcher started this process; it trains alone")


@contextmanager
def deepspeed_errors(enabled: bool) -> Generator[None]:
    """Make one line of what DeepSpeed, or transformers for it, refuses while it starts."""
    try:
        yield
    except MGMError:
        raise
    except (ValueError, RuntimeError, AssertionError, ImportError, KeyError, TypeError) as error:
        if not enabled:
            raise
        raise MGMError(
            f"--deepspeed: DeepSpeed could not start ({type(error).__name__}: {one_line(error)}); "
            "change its settings"
        ) from error


def disable_shm_comm() -> None:
    """Keep DeepSpeed from compiling its shared-memory collectives, which takes minutes on a CPU."""
    from deepspeed import ops

    ops.__compatible_ops__["deepspeed_shm_comm"] = False  # gloo does the same
