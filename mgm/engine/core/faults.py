"""Whose fault an error is: that of one request, or of the device and so of all."""

import logging

import torch

from mgm.engine.core.errors import GenerationError
from mgm.errors import MGMError, one_line

logger = logging.getLogger("mgm.engine")


def is_device_fault(error: BaseException) -> bool:
    """Whether the device itself is out of memory or failed, rather than what it was given."""
    return isinstance(error, torch.OutOfMemoryError | torch.AcceleratorError)


def is_device_failure(error: BaseException) -> bool:
    """Whether the device failed, and nothing that it holds can be relied on."""
    return is_device_fault(error) and not isinstance(error, torch.OutOfMemoryError)


def as_fault(error: BaseException, doing: str) -> MGMError:
    """What ends a request of which something was being done when an error was raised.

    An error that nothing expects is logged, with its traceback.

    Args:
        error: any; an MGMError speaks for itself.
        doing: what was done, as "reading the prompt".
    """
    if isinstance(error, MGMError):
        return error
    if isinstance(error, torch.OutOfMemoryError):
        return GenerationError(
            f"the device has too little memory for {doing} ({one_line(error)[:200]}); "
            "ask for fewer answers at once, or shorter ones"
        )
    logger.error("a request failed while %s", doing, exc_info=error)
    reason = f"{type(error).__name__}: {one_line(error)[:300]}"
    return GenerationError(f"the model failed while {doing} ({reason})")
