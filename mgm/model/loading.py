"""`load_model` and `save_model`: models from and to folders, without transformers' own output."""

import os
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers.utils import logging as transformers_logging

from mgm.errors import MGMError, one_line
from mgm.model.checkpoint.saved_files import replace_model
from mgm.model.files.hub import checkpoint_folder
from mgm.model.modeling_mgm import MGMForConditionalGeneration
from mgm.model.quantization.bitsandbytes import quantization_options


def load_model(
    path: str | os.PathLike[str],
    dtype: torch.dtype | str | None = None,
    device: torch.device | str | None = None,
    quantize: str | None = None,
    base: str | os.PathLike[str] | None = None,
    merge_lora: bool = True,
    text_only: bool = False,
    **where: Any,
) -> MGMForConditionalGeneration:
    """Load a model of any checkpoint layout, in evaluation mode.

    Args:
        path: a folder in the native or in a published layout, or a repository id of the Hugging
            Face hub, which is downloaded.
        dtype: dtype of the weights; None: as saved.
        device: device of the weights; None: the CPU.
        quantize: "int8", "llm-int8" or "int4", see `mgm.model.quantization.bitsandbytes`; None:
            as they are.
        base: the base model of a stage-1 or LoRA folder; None: the one that the folder names.
        merge_lora: whether a LoRA is merged into the weights.
        text_only: whether the vision side is left out.
        **where: options of the hub: revision, token, cache_dir and so on.

    Raises:
        MGMError: the folder is missing, incomplete, damaged or holds another kind of model.
    """
    folder = checkpoint_folder(path, **where)
    device_map = None if device is None or torch.device(device).type == "cpu" else {"": device}
    bits = quantization_options(quantize, dtype or torch.bfloat16)
    with _quiet_transformers():
        try:
            return MGMForConditionalGeneration.from_pretrained(
                folder,
                dtype=dtype or "auto",
                device_map=device_map,
                **bits,
                base=base,
                merge_lora=merge_lora,
                text_only=text_only,
            )
        except (RuntimeError, SafetensorError) as error:
            raise MGMError(
                f"{folder}: weights do not fit config.json ({one_line(error)[:300]}); copy both "
                "from one model"
            ) from error


def save_model(
    model: MGMForConditionalGeneration, path: str | os.PathLike[str], max_shard_size: str = "5GB"
) -> None:
    """Save a model in the native layout; replaces any model in the folder.

    Raises:
        MGMError: the folder could not be written.
    """
    with replace_model(Path(path)) as part, _quiet_transformers():
        model.save_pretrained(part, max_shard_size=max_shard_size)


@contextmanager
def _quiet_transformers() -> Generator[None]:
    """Silence transformers' load reports and progress bars; errors are raised as MGMError."""
    verbosity = transformers_logging.get_verbosity()
    bars = transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        if bars:
            transformers_logging.enable_progress_bar()
