"""Request bodies as pydantic models: the OpenAI API with vLLM's additions, and published pages.

Unknown fields are ignored.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag

from mgm.serve.openai.errors import OTHER, TEXT
from mgm.serve.openai.messages import ChatMessage, text_tag

MAX_CHOICES = 16
MAX_STOPS = 16
MAX_LOGPROBS = 20
MAX_PROMPT, MAX_SIDE = 4000, 2048  # image generation: characters of a prompt, pixels per side

NonEmpty = Annotated[str, Field(min_length=1)]
Texts = Annotated[
    Annotated[NonEmpty, Tag(TEXT)]
    | Annotated[list[NonEmpty], Field(min_length=1, max_length=MAX_CHOICES), Tag(OTHER)],
    Discriminator(text_tag),
]


class _Body(BaseModel):
    # Strict: a string is not converted to a number, nor a number to a string.
    model_config = ConfigDict(strict=True, allow_inf_nan=False, protected_namespaces=())

    model: str = Field(min_length=1, description="Model name, as in /v1/models")


class StreamOptions(BaseModel):
    """Options of a streamed response."""

    model_config = ConfigDict(strict=True)

    include_usage: bool | None = None


class JsonSchema(BaseModel):
    """A named JSON schema."""

    model_config = ConfigDict(strict=True, allow_inf_nan=False, populate_by_name=True)

    name: str | None = None
    schema_: dict[str, Any] = Field(alias="schema")
    strict: bool | None = None


class ResponseFormat(BaseModel):
    """`response_format`: text, any JSON object, or a JSON schema."""

    model_config = ConfigDict(strict=True)

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None


class StructuredOutputs(BaseModel):
    """Structured output, as in vLLM's API: exactly one constraint on the response."""

    model_config = ConfigDict(strict=True, allow_inf_nan=False, populate_by_name=True)

    json_: (
        Annotated[
            Annotated[str, Tag(TEXT)] | Annotated[dict[str, Any], Tag(OTHER)],
            Discriminator(text_tag),
        ]
        | None
    ) = Field(None, alias="json")
    regex: str | None = None
    choice: list[str] | None = Field(None, min_length=1)
    grammar: str | None = None
    json_object: bool = False
    disable_any_whitespace: bool = False
    disable_additional_properties: bool = False
    whitespace_pattern: str | None = None


class SamplingBody(_Body):
    """Fields that chat and text completions share."""

    max_tokens: int | None = Field(None, ge=1, lt=2**31)
    temperature: float | None = Field(None, ge=0, le=100)
    top_p: float | None = Field(None, ge=0, le=1)
    top_k: int | None = Field(None, ge=-1, lt=2**31, description="0 and -1: all tokens")
    min_p: float | None = Field(None, ge=0, le=1)
    repetition_penalty: float | None = Field(None, ge=0.01, le=100)
    presence_penalty: float | None = Field(None, ge=-2, le=2)
    frequency_penalty: float | None = Field(None, ge=-2, le=2)
    logit_bias: dict[str, Annotated[float, Field(ge=-100, le=100)]] | None = None
    seed: int | None = None
    stop: (
        Annotated[
            Annotated[NonEmpty, Tag(TEXT)]
            | Annotated[list[NonEmpty], Field(max_length=MAX_STOPS), Tag(OTHER)],
            Discriminator(text_tag),
        ]
        | None
    ) = None
    n: int | None = Field(None, ge=1, le=MAX_CHOICES)
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    response_format: ResponseFormat | None = None
    structured_outputs: StructuredOutputs | None = None


class ChatCompletionBody(SamplingBody):
    """Body of /v1/chat/completions.

    `tools` are accepted and ignored, since clients such as Open WebUI send them with every request;
    a `tool_choice` that requires a call is refused.
    """

    messages: list[ChatMessage] = Field(min_length=1)
    max_completion_tokens: int | None = Field(None, ge=1, lt=2**31)
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=MAX_LOGPROBS)
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None
    tool_choice: Literal["none", "auto"] | None = None
    function_call: Literal["none", "auto"] | None = None
    audio: None = None
    use_ocr: bool | None = Field(None, description="Add the OCR of the images to the prompt")
    gen_image: bool | None = Field(None, description="Generate the image that the model describes")


class AttributionBody(_Body):
    """Body of /v1/attribution: a chat that ends with the model's answer."""

    messages: list[ChatMessage] = Field(min_length=1)


class CompletionBody(SamplingBody):
    """Body of /v1/completions."""

    prompt: Texts
    logprobs: int | None = Field(None, ge=0, le=MAX_LOGPROBS)
    echo: Literal[False] | None = None
    suffix: Literal[""] | None = None
    best_of: Literal[1] | None = None


class ImageGenerationBody(_Body):
    """Body of /v1/images/generations."""

    prompt: str = Field(min_length=1, max_length=MAX_PROMPT)
    n: int | None = Field(None, ge=1, le=4)
    seed: int | None = Field(None, ge=0, lt=2**62)
    size: str | None = None
    response_format: Literal["b64_json"] | None = None


class LegacyBody(BaseModel):
    """Body of /worker_generate_stream, as published pages send it: numbers may be strings."""

    model_config = ConfigDict(allow_inf_nan=False, protected_namespaces=())

    prompt: str
    images: list[str] | None = None
    temperature: float | None = None
    top_p: float | None = None
    max_new_tokens: int | None = None
    stop: Any = None
    gen_image: Any = None
    use_ocr: Any = None


# Bodies of the endpoints that workers serve and controllers relay, by path.
BODIES: dict[str, type[BaseModel]] = {
    "/v1/chat/completions": ChatCompletionBody,
    "/v1/completions": CompletionBody,
    "/v1/images/generations": ImageGenerationBody,
    "/v1/attribution": AttributionBody,
    "/worker_generate_stream": LegacyBody,
}
