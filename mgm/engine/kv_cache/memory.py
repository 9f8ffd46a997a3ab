"""Sizes of KV cache and prefix cache, from the memory of the GPU."""

import torch

from mgm.model.modeling_mgm import MGMForConditionalGeneration


def kv_bytes_per_token(model: MGMForConditionalGeneration) -> int:
    """Size of the keys and values of one position in all layers."""
    text = model.config.text_config
    heads = getattr(text, "num_key_value_heads", None) or text.num_attention_heads
    width = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    return 2 * text.num_hidden_layers * heads * width * model.language_model.dtype.itemsize


def cache_bytes(model: MGMForConditionalGeneration, divisor: int, minimum: int) -> int:
    """Cache size in bytes: GPU memory minus weights, divided by `divisor`; on a CPU `minimum`."""
    if model.device.type != "cuda":
        return minimum
    weights = sum(parameter.nbytes for parameter in model.parameters())
    total = torch.cuda.get_device_properties(model.device).total_memory
    return max(total - weights, minimum) // divisor
