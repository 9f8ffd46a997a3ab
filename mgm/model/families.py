"""The families of language models: conversation template and published checkpoints of each.

A family decides how a conversation is written, and which published checkpoints are its own. Any
other causal language model that transformers can load works too; training names its template.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Family:
    """A family of language models.

    Attributes:
        name: how scripts and messages call it.
        text_model_type: `model_type` of its language model in transformers; None: of any type that
            no other row names.
        conversation: name of its conversation template.
        published_model_type: `model_type` of its published Mini-Gemini checkpoints, if there are.
        marker_token: a token that only this family's vocabulary holds, which tells it from others
            of the same model type; None: the family is known by its model type.
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


def family_of(
    text_model_type: str, vocabulary: set[str] | frozenset[str] = frozenset()
) -> Family | None:
    """The family of a language model, or None if no row is about it.

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
    # Its own type comes before any type, and a marker token before none.
    return min(
        fitting,
        key=lambda family: (family.text_model_type is None, family.marker_token is None),
        default=None,
    )
