"""What DeepSpeed says about devices, unasked, on standard output."""

import logging


def quiet_deepspeed() -> None:
    """Keep it out of what programs write.

    Where DeepSpeed is installed, accelerate imports it whenever a model is saved or trained.
    """
    logging.getLogger("DeepSpeed").addFilter(_is_not_about_devices)


def _is_not_about_devices(record: logging.LogRecord) -> bool:
    return record.module != "real_accelerator"
