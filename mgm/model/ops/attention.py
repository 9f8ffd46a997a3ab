"""How attention is computed, in the language model and in the low-resolution tower."""

from collections.abc import Generator
from contextlib import contextmanager

from transformers import PretrainedConfig, PreTrainedModel

from mgm.errors import MGMError, one_line

IMPLEMENTATIONS = ("sdpa", "flash_attention_2", "flex_attention", "eager")


def set_attention(model: PreTrainedModel, implementation: str) -> None:
    """Use one of transformers' implementations in every part of the model that attends.

    Args:
        model: the whole model.
        implementation: "sdpa" (torch's own), "flash_attention_2" (package flash-attn, on a GPU),
            "flex_attention" or "eager" (the arithmetic written out).

    Raises:
        MGMError: it is none of these, or cannot be used here.
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
    """By which implementation a model of this config attends."""
    return config._attn_implementation


@contextmanager
def override_attention(config: PretrainedConfig, implementation: str) -> Generator[None]:
    """Have a model attend by another implementation meanwhile.

    Its layers share the config and look there at every call. `set_attn_implementation` would do the
    same for ever, and check on the way what takes longer than a step.
    """
    chosen = config._attn_implementation
    config._attn_implementation = implementation
    try:
        yield
    finally:
        config._attn_implementation = chosen
