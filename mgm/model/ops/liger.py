"""liger-kernel's Triton kernels for training: RMSNorm, rotary embeddings, MLP and loss.

They need a GPU; Triton's interpreter (TRITON_INTERPRET=1) runs them anywhere, for tests.
"""

import importlib.util
import os
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from mgm.errors import MGMError
from mgm.model.labels import IGNORE_INDEX


def apply_liger_kernel(language_model: PreTrainedModel, options: dict[str, Any]) -> None:
    """Replace norms, rotary embeddings and MLPs of a model that liger-kernel supports.

    Args:
        language_model: changed in place.
        options: kernels by liger-kernel's names, such as `rms_norm`; the loss is not replaced, see
            `liger_linear_cross_entropy`.

    Raises:
        MGMError: liger-kernel is not installed, or there is no GPU.
    """
    if importlib.util.find_spec("liger_kernel") is None:
        raise MGMError("liger-kernel is not installed; install it: pip install 'mgm[liger]'")
    if not torch.cuda.is_available() and os.environ.get("TRITON_INTERPRET") != "1":
        raise MGMError("liger-kernel needs a GPU, and torch finds none; leave the kernels out")
    from liger_kernel.transformers import _apply_liger_kernel_to_instance

    losses = {"cross_entropy": False, "fused_linear_cross_entropy": False}
    _apply_liger_kernel_to_instance(model=language_model, **(options | losses))


def liger_linear_cross_entropy(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor
) -> Tensor:
    """liger-kernel's version of `mgm.model.ops.fused_linear_cross_entropy`."""
    from liger_kernel.ops.fused_linear_cross_entropy import LigerFusedLinearCrossEntropyFunction

    loss, *_ = LigerFusedLinearCrossEntropyFunction.apply(
        hidden, weight, targets, bias, None, IGNORE_INDEX, 0.0, 0.0, "sum"
    )
    return loss
