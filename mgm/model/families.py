"""One row of facts for each family of language models that Mini-Gemini was published with.

A family decides which published checkpoints are its own and how a conversation is written. Any
other causal language model that transformers can load works too; training names its template.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Family:
    """Facts about a family.

    Attributes:
        name: how scripts and messages call it.
        text_model_type: `model_type` of its language model in transformers.
        published_model_type: `model_type` of its published Mini-Gemini checkpoints.
        conversation: name of its conversation template.
        marker_token: a token that only this family's vocabulary holds, which tells it from others
            of the same model type; None: the family is known by its model type.
    """

    name: str
    text_model_type: str
    published_model_type: str
    conversation: str
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
)

TEXT_TYPE_OF_PUBLISHED = {
    family.published_model_type: family.text_model_type for family in FAMILIES
}

PUBLISHED_OF_TEXT_TYPE = {text: published for published, text in TEXT_TYPE_OF_PUBLISHED.items()}


def family_of(
    text_model_type: str, vocabulary: set[str] | frozenset[str] = frozenset()
) -> Family | None:
    """The family of a language model, or None if it is none of the published ones.

    Args:
        text_model_type: `model_type` of the language model's config.
        vocabulary: tokens of its tokenizer; the marker tokens among them decide.
    """
    candidates = [family for family in FAMILIES if family.text_model_type == text_model_type]
    marked = [family for family in candidates if family.marker_token in vocabulary]
    unmarked = [family for family in candidates if family.marker_token is None]
    return next(iter(marked + unmarked), None)
