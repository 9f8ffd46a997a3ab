"""Multimodal projector: image tokens from the vision tower's width to the language model's."""

import re

from torch import nn


def build_projector(kind: str, width: int, text_width: int) -> nn.Module:
    """Build the module that projects image tokens (..., width) to (..., text_width).

    Args:
        kind: "linear", "identity", or "mlpNx_gelu": N linear layers with exact GELU between them.
        width: channels of an image token.
        text_width: hidden size of the language model.

    Raises:
        ValueError: the kind is unknown.
    """
    if kind == "identity":
        return nn.Identity()
    if kind == "linear":
        return nn.Linear(width, text_width)
    match = re.fullmatch(r"mlp(\d+)x_gelu", kind)
    if match is None:
        raise ValueError(f"unknown projector {kind!r}")
    layers: list[nn.Module] = [nn.Linear(width, text_width)]
    for _ in range(int(match.group(1)) - 1):
        layers += [nn.GELU(), nn.Linear(text_width, text_width)]
    return nn.Sequential(*layers)
