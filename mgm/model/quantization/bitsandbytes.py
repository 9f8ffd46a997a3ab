"""Quantisation of the language model, by bitsandbytes or int8; vision stays in full precision."""

import copy
import importlib.util
from typing import Any

import torch

from mgm.errors import MGMError

# Towers, mining and projector are a small part of the parameters, and errors in them affect every
# token; transformers does not quantise the head either.
FULL_PRECISION = ("vision_tower", "vision_tower_aux", "mining", "projector", "lm_head")

# "int8": weights in 8 bits, each row with a scale. "llm-int8": weights and
# activations in 8 bits, outliers apart (Dettmers et al. 2022). "int4": weights in 4 bits of type
# nf4 (Dettmers et al. 2023). The last two are bitsandbytes'.
QUANTIZATION_KINDS = ("int8", "llm-int8", "int4")


def quantization_options(kind: str | None, dtype: torch.dtype | str) -> dict[str, Any]:
    """Arguments of `MGMForConditionalGeneration.from_pretrained` for a kind of quantisation.

    Args:
        kind: one of `QUANTIZATION_KINDS`; None: no quantisation.
        dtype: dtype of matrix products with "int4".

    Raises:
        MGMError: the kind is unknown, or bitsandbytes is not installed.
    """
    if kind is None:
        return {}
    if kind not in QUANTIZATION_KINDS:
        raise MGMError(f"quantize is {kind!r}; choose None, {', '.join(QUANTIZATION_KINDS)}")
    if kind == "int8":
        return {"int8": True}
    if importlib.util.find_spec("bitsandbytes") is None:
        raise MGMError(
            f"quantize={kind!r} needs bitsandbytes; install the extra: pip install 'mgm[quantize]'"
        )
    from transformers import BitsAndBytesConfig

    if kind == "llm-int8":
        return {"quantization_config": BitsAndBytesConfig(load_in_8bit=True)}
    four_bits = BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=dtype
    )
    return {"quantization_config": four_bits}


def only_linear_layers(config: Any) -> Any:
    """A copy of a quantisation config of transformers that skips `FULL_PRECISION` too."""
    if isinstance(config, dict):
        raise MGMError("quantization_config is a dictionary; give a config object of transformers")
    config = copy.copy(config)
    for name in ("llm_int8_skip_modules", "modules_to_not_convert"):
        if hasattr(config, name):
            setattr(config, name, [*FULL_PRECISION, *(getattr(config, name) or ())])
    return config
