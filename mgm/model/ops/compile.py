"""Checks that `torch.compile` works on this machine."""

from typing import Any

import torch
from torch import Tensor

from mgm.errors import MGMError, one_line


def check_compiler(device: torch.device, **options: Any) -> None:
    """Compile a small function, to fail early and in one line.

    Args:
        device: device to compile for.
        **options: options of `torch.compile`, such as `mode`.

    Raises:
        MGMError: compiling fails here, or with these options.
    """
    try:
        torch.compile(_sine, **options)(torch.ones(8, device=device))
    except RuntimeError as error:
        reason = one_line(str(error).partition("\n\n")[0])  # advice for torch's developers follows
        raise MGMError(
            f"torch.compile does not work here ({reason}); install a compiler (on Debian: "
            "apt install g++), change the options, or leave compiling out"
        ) from error


def _sine(x: Tensor) -> Tensor:
    return x.sin() + 1
