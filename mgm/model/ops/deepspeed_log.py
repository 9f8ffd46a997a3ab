"""Silences DeepSpeed's log line about the accelerator, which it prints to standard output."""

import logging


def quiet_deepspeed() -> None:
    """Filter the line out of DeepSpeed's logger.

    Where DeepSpeed is installed, accelerate imports it whenever a model is saved or trained.
    """
    logging.getLogger("DeepSpeed").addFilter(_is_not_about_devices)


def _is_not_about_devices(record: logging.LogRecord) -> bool:
    return record.module != "real_accelerator"
