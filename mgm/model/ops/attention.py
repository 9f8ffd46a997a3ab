"""Selects the attention implementation: SDPA, FlashAttention, FlexAttention or eager."""

from collections.abc import Generator
from contextlib import contextmanager

from transformers import PretrainedConfig, PreTrainedModel

from mgm.errors import MGMError, one_line

IMPLEMENTATIONS = ("sdpa", "flash_attention_2", "flex_attention", "eager")


def set_attention(model: PreTrainedModel, implementation: str) -> None:
    """Set transformers' attention implementation in the language model and the ViT.

    Args:
        model: the whole model.
        implementation: "sdpa" (torch's own), "flash_attention_2" (package flash-attn, on a GPU),
            "flex_attention" or "eager" (plain matrix products).

    Raises:
        MGMError: the implementation is unknown, or not available here.
    """
    if implementation not in IMPLEMENTATIONS:
        raise MGMError(
            f"attention {implementation!r} is not known; choose one of {', '.join(IMPLEMENTATIONS)}"
        )
    try:
        # Not the high-resolution tower, which has no attention.
        model.set_attn_implementation(
            dict.fromkeys(("", "text_config", "vision_config"), implementation)
        )
    except (ImportError, ValueError) as error:
        remedy = "; pip install -e '.[flash]'" if implementation.startswith("flash") else ""
        raise MGMError(f"attention {implementation!r}: {one_line(error)}{remedy}") from error


def attention_implementation(config: PretrainedConfig) -> str:
    """The attention implementation of a model with this config."""
    return config._attn_implementation


@contextmanager
def override_attention(config: PretrainedConfig, implementation: str) -> Generator[None]:
    """Use another attention implementation within the block.

    Layers share the config and read it at every call. `set_attn_implementation` runs checks that
    take longer than a decode step.
    """
    chosen = config._attn_implementation
    config._attn_implementation = implementation
    try:
        yield
    finally:
        config._attn_implementation = chosen
