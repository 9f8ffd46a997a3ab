"""Families of language models: `model_type`, conversation template, published checkpoints.

Any other causal language model of transformers works too; its template is then a training flag.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Family:
    """A family of language models.

    Attributes:
        name: name in scripts and messages.
        text_model_type: `model_type` of its language model in transformers; None: any type that no
            other family has.
        conversation: name of its conversation template.
        published_model_type: `model_type` of its published Mini-Gemini checkpoints; None: no such.
        marker_token: a token that only this family's vocabulary has, to tell families of the same
            model type apart; None: the model type is enough.
    """

    name: str
    text_model_type: str | None
    conversation: str
    published_model_type: str | None = None
    marker_token: str | None = None


FAMILIES = (
    Family(
        name="llama3",
        text_model_type="llama",
        published_model_type="mgm",
        conversation="llama_3",
        marker_token="<|eot_id|>",
    ),
    Family(
        name="yi",
        text_model_type="llama",
        published_model_type="mgm",
        conversation="chatml_direct",
        marker_token="<|im_end|>",
    ),
    Family(
        name="vicuna",
        text_model_type="llama",
        published_model_type="mgm",
        conversation="vicuna_v1",
    ),
    Family(
        name="gemma",
        text_model_type="gemma",
        published_model_type="mgm_gemma",
        conversation="gemma",
    ),
    Family(
        name="mixtral",
        text_model_type="mixtral",
        published_model_type="mgm_mixtral",
        conversation="mistral_instruct",
    ),
    Family(
        name="mistral",
        text_model_type="mistral",
        published_model_type="mgm_mistral",
        conversation="mistral_instruct",
    ),
    Family(name="phi", text_model_type="phi", conversation="phi"),
    Family(name="phi3", text_model_type="phi3", conversation="phi_3", marker_token="<|end|>"),
    Family(name="qwen", text_model_type="qwen3", conversation="qwen_3"),
    # Qwen's form, ChatML, is that of many others; its end token says so.
    Family(name="chatml", text_model_type=None, conversation="qwen_3", marker_token="<|im_end|>"),
)

TEXT_TYPE_OF_PUBLISHED = {
    family.published_model_type: family.text_model_type
    for family in FAMILIES
    if family.published_model_type is not None
}

PUBLISHED_OF_TEXT_TYPE = {text: published for published, text in TEXT_TYPE_OF_PUBLISHED.items()}


def is_mini_gemini(values: Mapping[str, Any]) -> bool:
    """Whether a config.json is that of a Mini-Gemini, in the native or a published layout."""
    # A list: the value may be anything that JSON can hold, and not be hashable.
    return values.get("model_type") in list(TEXT_TYPE_OF_PUBLISHED)


def family_of(
    text_model_type: str, vocabulary: set[str] | frozenset[str] = frozenset()
) -> Family | None:
    """The family of a language model, or None if it belongs to none.

    Args:
        text_model_type: `model_type` of the language model's config.
        vocabulary: tokens of its tokenizer; the marker tokens among them decide.
    """
    fitting = [
        family
        for family in FAMILIES
        if family.text_model_type in (text_model_type, None)
        and (family.marker_token is None or family.marker_token in vocabulary)
    ]
    # Families with this model type are preferred, then those with a marker token.
    return min(
        fitting,
        key=lambda family: (family.text_model_type is None, family.marker_token is None),
        default=None,
    )
