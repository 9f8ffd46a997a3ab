"""Classifies errors: device errors end all sequences, other errors end one request."""

import logging

import torch

from mgm.engine.core.errors import GenerationError
from mgm.errors import MGMError, one_line

logger = logging.getLogger("mgm.engine")


def is_device_error(error: BaseException) -> bool:
    """Whether an error is a device error: out of memory, or a failure such as a CUDA error."""
    return isinstance(error, torch.OutOfMemoryError | torch.AcceleratorError)


def is_device_failure(error: BaseException) -> bool:
    """Whether the device has failed, so that the contents of its memory are lost."""
    return is_device_error(error) and not isinstance(error, torch.OutOfMemoryError)


def as_request_error(error: BaseException, doing: str) -> MGMError:
    """Convert an error raised while a request was processed to the error that ends the request.

    Unexpected errors are logged with their traceback.

    Args:
        error: any exception; an MGMError is returned unchanged.
        doing: the failed operation, for the message, such as "prefilling a prompt".
    """
    if isinstance(error, MGMError):
        return error
    if isinstance(error, torch.OutOfMemoryError):
        return GenerationError(
            f"the device ran out of memory while {doing} ({one_line(error)[:200]}); "
            "send fewer requests at once, or shorter ones"
        )
    logger.error("a request failed while %s", doing, exc_info=error)
    reason = f"{type(error).__name__}: {one_line(error)[:300]}"
    return GenerationError(f"the model failed while {doing} ({reason})")
