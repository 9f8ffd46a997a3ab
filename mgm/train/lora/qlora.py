"""A frozen language model in 8 or 4 bits, beside which an adapter is trained (QLoRA)."""

from importlib.util import find_spec
from typing import Any

import torch
from torch import nn

from mgm.errors import MGMError
from mgm.model.modeling_mgm import MGMForConditionalGeneration
from mgm.train.args.arguments import TrainingArguments


def quantize_language_model(
    model: MGMForConditionalGeneration, arguments: TrainingArguments
) -> None:
    """Round the weights of the language model's linear layers, but for its head, in place.

    Dettmers et al. 2023 (https://arxiv.org/abs/2305.14314) for 4 bits, 2022
    (https://arxiv.org/abs/2208.07339) for 8.

    Args:
        model: its language model is frozen.
        arguments: the flags `bits`, `quant_type`, `double_quant` and `bf16`.

    Raises:
        MGMError: bitsandbytes is not installed.
    """
    if find_spec("bitsandbytes") is None:
        raise MGMError(f"--bits {arguments.bits} needs bitsandbytes; pip install -e '.[train]'")
    head = model.language_model.get_output_embeddings()
    for parent in list(model.language_model.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.Linear) and child is not head:
                setattr(parent, name, _quantized_linear(child, arguments))


def _quantized_linear(linear: nn.Linear, arguments: TrainingArguments) -> nn.Module:
    from bitsandbytes import nn as rounded

    shape = (linear.in_features, linear.out_features, linear.bias is not None)
    layer: Any
    if arguments.bits == 8:
        layer = rounded.Linear8bitLt(*shape, has_fp16_weights=False)
        layer.weight = rounded.Int8Params(linear.weight.data, requires_grad=False)
    else:
        how: dict[str, Any] = {
            "compress_statistics": arguments.double_quant,
            "quant_type": arguments.quant_type,
        }
        compute = torch.bfloat16 if arguments.bf16 else torch.float32
        layer = rounded.Linear4bit(*shape, compute_dtype=compute, **how)
        layer.weight = rounded.Params4bit(linear.weight.data, requires_grad=False, **how)
    layer.bias = linear.bias
    return layer.to(linear.weight.device)  # where it is rounded
