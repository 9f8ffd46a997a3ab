"""One row of facts for each family of language models that Mini-Gemini was published with.

A family decides how a conversation is written, where an answer stops and how stage 2 is trained by
default. Any other causal language model that transformers can load works with the default row.
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
        stop_tokens: tokens that end an answer, besides the tokenizer's end of sequence.
        marker_token: a token that only this family's vocabulary holds, which tells it from others
            of the same model type; None: the family is known by its model type.
        slow_tokenizer: whether the published code tokenised with the sentencepiece implementation.
        pad_token: what the published code pads with when the tokenizer names no padding token.
        plain_stage1: whether stage 1 trains on bare captions, without the conversation template.
        lr_multi: factors on the learning rate in stage 2, by part of the published parameter name.
    """

    name: str
    text_model_type: str
    published_model_type: str
    conversation: str
    stop_tokens: tuple[str, ...] = ()
    marker_token: str | None = None
    slow_tokenizer: bool = True
    pad_token: str | None = None
    plain_stage1: bool = True
    lr_multi: tuple[tuple[str, float], ...] = ()


_FASTER_MINING = (("model.mm_projector", 2.0), ("model.vlm_uni", 2.0))

FAMILIES = (
    Family(
        name="llama3",
        text_model_type="llama",
        published_model_type="mgm",
        conversation="llama_3",
        stop_tokens=("<|eot_id|>",),
        marker_token="<|eot_id|>",
        slow_tokenizer=False,
        pad_token="<|end_of_text|>",
        plain_stage1=False,
    ),
    Family(
        name="yi",
        text_model_type="llama",
        published_model_type="mgm",
        conversation="chatml_direct",
        stop_tokens=("<|im_end|>",),
        marker_token="<|im_end|>",
        pad_token="<unk>",
        lr_multi=_FASTER_MINING,
    ),
    Family(
        name="vicuna",
        text_model_type="llama",
        published_model_type="mgm",
        conversation="vicuna_v1",
        pad_token="<unk>",
    ),
    Family(
        name="gemma",
        text_model_type="gemma",
        published_model_type="mgm_gemma",
        conversation="gemma",
        stop_tokens=("<end_of_turn>",),
        slow_tokenizer=False,
        plain_stage1=False,
    ),
    Family(
        name="mixtral",
        text_model_type="mixtral",
        published_model_type="mgm_mixtral",
        conversation="mistral_instruct",
        pad_token="<unk>",
        lr_multi=_FASTER_MINING,
    ),
    Family(
        name="mistral",
        text_model_type="mistral",
        published_model_type="mgm_mistral",
        conversation="mistral_instruct",
        pad_token="<unk>",
    ),
)

TEXT_TYPE_OF_PUBLISHED = {
    family.published_model_type: family.text_model_type for family in FAMILIES
}
PUBLISHED_OF_TEXT_TYPE = {
    family.text_model_type: family.published_model_type for family in FAMILIES
}


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
