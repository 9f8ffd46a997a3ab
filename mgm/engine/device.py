"""Chooses the device and dtype of a model."""

import torch

from mgm.errors import MGMError

DEVICES = ("cuda", "mps", "cpu")
DTYPES_BY_NAME = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def choose_device(name: str | torch.device | None) -> torch.device:
    """Choose the device `name`; None: the first of cuda, mps and cpu that is available.

    Raises:
        MGMError: the device is not available.
    """
    available = available_devices()
    if name is None:
        return torch.device(available[0])
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise _no_device(name, available) from error
    if device.type not in available:
        raise _no_device(name, available)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise _no_device(name, available)
    return device


def available_devices() -> list[str]:
    """The device types of this machine, the fastest first."""
    available = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    return [kind for kind in DEVICES if available[kind]]


def choose_dtype(name: str | torch.dtype | None, device: torch.device) -> torch.dtype:
    """Choose the dtype `name`; None: float32 on a CPU, else bfloat16, or float16 if it is emulated.

    Raises:
        MGMError: the name is not in `DTYPES_BY_NAME`; the message lists them.
    """
    if isinstance(name, torch.dtype):
        name = str(name).removeprefix("torch.")
    if name is None:
        if device.type == "cpu":
            return torch.float32
        fast = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
        return torch.bfloat16 if fast else torch.float16
    if name not in DTYPES_BY_NAME:
        raise MGMError(f"dtype is {name!r}; choose one of {', '.join(DTYPES_BY_NAME)}")
    return DTYPES_BY_NAME[name]


def cpu_has_bfloat16() -> bool:
    """Whether this CPU has bfloat16 instructions; without them it is emulated, and far slower.

    True if torch is too old to tell.
    """
    if not hasattr(torch.cpu, "get_capabilities"):
        return True
    available = torch.cpu.get_capabilities()
    return any(available.get(name) for name in ("amx_bf16", "avx512_bf16", "avx10_1", "bf16"))


def _no_device(name: object, available: list[str]) -> MGMError:
    return MGMError(
        f"device is {str(name)!r}, which this machine does not have; "
        f"choose {' or '.join(available)}"
    )
