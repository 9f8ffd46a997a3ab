"""Quantises a frozen language model to 8 or 4 bits (QLoRA)."""

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
    """Quantise the linear layers of the language model, except its LM head, in place.

    4 bits as in QLoRA (https://arxiv.org/abs/2305.14314), 8 bits as in LLM.int8()
    (https://arxiv.org/abs/2208.07339).

    Args:
        model: model with a frozen language model.
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
    from bitsandbytes import nn as bnb

    shape = (linear.in_features, linear.out_features, linear.bias is not None)
    layer: Any
    if arguments.bits == 8:
        layer = bnb.Linear8bitLt(*shape, has_fp16_weights=False)
        layer.weight = bnb.Int8Params(linear.weight.data, requires_grad=False)
    else:
        options: dict[str, Any] = {
            "compress_statistics": arguments.double_quant,
            "quant_type": arguments.quant_type,
        }
        compute = torch.bfloat16 if arguments.bf16 else torch.float32
        layer = bnb.Linear4bit(*shape, compute_dtype=compute, **options)
        layer.weight = bnb.Params4bit(linear.weight.data, requires_grad=False, **options)
    layer.bias = linear.bias
    return layer.to(linear.weight.device)  # the move to the device quantises the weights
