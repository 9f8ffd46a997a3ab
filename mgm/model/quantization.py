"""Language models in fewer bits; what sees the image stays in full precision."""

import copy
import importlib.util
from typing import Any

import torch

from mgm.errors import MGMError

# Two towers, mining and projector are a few hundred million parameters of billions, and errors in
# them reach every answer; the head is left alone as transformers leaves it.
FULL_PRECISION = ("vision_tower", "vision_tower_aux", "mining", "projector", "lm_head")

# Kinds of quantisation by name, with the package that does it.
KINDS = {"int8": "torchao", "llm-int8": "bitsandbytes", "int4": "bitsandbytes"}


def quantization_config(kind: str, dtype: torch.dtype | str) -> Any:
    """What transformers calls the quantisation of that name.

    Args:
        kind: "int8": weights in 8 bits, each row with a scale, by torchao. "llm-int8": weights and
            activations in 8 bits, outliers apart (Dettmers et al. 2022), by bitsandbytes. "int4":
            weights in 4 bits of the type nf4 (Dettmers et al. 2023), by bitsandbytes.
        dtype: in which products of "int4" are computed.

    Raises:
        MGMError: there is no such kind, or its package is not installed.
    """
    if kind not in KINDS:
        raise MGMError(f"quantize is {kind!r}; choose None, {', '.join(KINDS)}")
    if importlib.util.find_spec(KINDS[kind]) is None:
        raise MGMError(
            f"quantize={kind!r} needs {KINDS[kind]}; install the extra: pip install 'mgm[quantize]'"
        )
    from transformers import BitsAndBytesConfig, TorchAoConfig

    if kind == "llm-int8":
        return BitsAndBytesConfig(load_in_8bit=True)
    if kind == "int4":
        return BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=dtype
        )
    from torchao.quantization import Int8WeightOnlyConfig

    return TorchAoConfig(Int8WeightOnlyConfig())


def only_linear_layers(config: Any) -> Any:
    """A quantisation of transformers that leaves `FULL_PRECISION` alone too."""
    if isinstance(config, dict):
        raise MGMError("quantization_config is a dictionary; give a config object of transformers")
    config = copy.copy(config)
    for name in ("llm_int8_skip_modules", "modules_to_not_convert"):
        if hasattr(config, name):
            setattr(config, name, [*FULL_PRECISION, *(getattr(config, name) or ())])
    return config
