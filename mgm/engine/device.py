"""Where a model runs, and in which precision."""

import torch

from mgm.errors import MGMError

DEVICES = ("cuda", "mps", "cpu")
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def choose_device(name: str | torch.device | None) -> torch.device:
    """The device called `name`; None: the first of cuda, mps and cpu that is there.

    Raises:
        MGMError: there is no such device here.
    """
    there = available_devices()
    if name is None:
        return torch.device(there[0])
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise _no_device(name, there) from error
    if device.type not in there:
        raise _no_device(name, there)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise _no_device(name, there)
    return device


def available_devices() -> list[str]:
    """The kinds of device of this machine, the fastest first."""
    there = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    return [kind for kind in DEVICES if there[kind]]


def choose_dtype(name: str | torch.dtype | None, device: torch.device) -> torch.dtype:
    """The precision called `name`.

    None: float32 on a CPU, else bfloat16 or, where that is slow, float16.

    Raises:
        MGMError: there is no such precision; the message lists the names.
    """
    if isinstance(name, torch.dtype):
        name = str(name).removeprefix("torch.")
    if name is None:
        if device.type == "cpu":
            return torch.float32
        fast = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
        return torch.bfloat16 if fast else torch.float16
    if name not in DTYPES:
        raise MGMError(f"dtype is {name!r}; choose one of {', '.join(DTYPES)}")
    return DTYPES[name]


def cpu_has_bfloat16() -> bool:
    """Whether this CPU has instructions for bfloat16; without them it is emulated, far slower.

    A torch that is too old to tell is taken at the user's word: True.
    """
    if not hasattr(torch.cpu, "get_capabilities"):
        return True
    there = torch.cpu.get_capabilities()
    return any(there.get(name) for name in ("amx_bf16", "avx512_bf16", "avx10_1", "bf16"))


def _no_device(name: object, there: list[str]) -> MGMError:
    return MGMError(
        f"device is {str(name)!r}, which this machine does not have; choose {' or '.join(there)}"
    )
