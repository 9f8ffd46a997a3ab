"""Converts request bodies of the OpenAI API to engine requests."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from mgm.data.text.conversation import chat_prompt
from mgm.data.text.templates import ConversationTemplate
from mgm.engine.core.errors import RequestError
from mgm.engine.core.request import Request
from mgm.engine.core.structured_output import StructuredOutput
from mgm.errors import MGMError
from mgm.serve.openai.errors import BadRequestError
from mgm.serve.openai.messages import ParsedChat, escape_markers, parse_chat
from mgm.serve.openai.protocol import (
    MAX_SIDE,
    AttributionBody,
    ChatCompletionBody,
    CompletionBody,
    ImageGenerationBody,
    SamplingBody,
)

MIN_TOP_P = 1e-9  # used for top_p 0: only the most likely token is left


@dataclass(frozen=True)
class ParsedRequest:
    """A parsed body, whose images are not fetched yet.

    Attributes:
        model: name of the model.
        sources: URLs or base64 of the images.
        prompts: builds the prompts, with a suffix appended to the last question.
        settings: fields of the engine's `Request`.
        n: choices per prompt.
        stream: whether the response is streamed.
        include_usage: whether the stream ends with the token usage.
        use_ocr: whether the texts in the images are added to the prompt.
        gen_image: whether the image that the answer asks for is generated.
    """

    model: str
    sources: tuple[str, ...]
    prompts: Callable[[str], Sequence[str]]
    settings: dict[str, Any]
    n: int = 1
    stream: bool = False
    include_usage: bool = False
    use_ocr: bool = False
    gen_image: bool = False

    def requests(self, images: Sequence[bytes] = (), suffix: str = "") -> list[Request]:
        """Engine requests, one per choice.

        Args:
            images: image files, in the order of `sources`.
            suffix: appended to the last question.

        Raises:
            BadRequestError: a value is out of range.
        """
        requests = []
        seed = self.settings.get("seed")
        for prompt in self.prompts(suffix):
            for index in range(self.n):
                # Choices differ, and are reproducible.
                seeds = {} if seed is None else {"seed": (seed + index) % 2**63}
                try:
                    requests.append(
                        Request(prompt, images=images, raw=True, **self.settings | seeds)
                    )
                except RequestError as error:
                    field = error.field if error.field in self.settings else None
                    raise BadRequestError(error, field) from error
        return requests


@dataclass(frozen=True)
class ImageGenerationRequest:
    """A request to generate images.

    Attributes:
        prompt: describes the image.
        seeds: one per image; None: random.
        size: width and height in pixels; None: the pipeline's default.
    """

    prompt: str
    seeds: tuple[int | None, ...]
    size: tuple[int, int] | None


def parse_chat_request(
    body: ChatCompletionBody, template: ConversationTemplate, max_tokens: int
) -> ParsedRequest:
    """Parse the body of a chat completion.

    Args:
        body: body of the request.
        template: conversation template of the model.
        max_tokens: maximum tokens per response.

    Raises:
        BadRequestError: fields contradict each other.
    """
    continued = bool(body.continue_final_message)
    if continued and body.messages[-1].role != "assistant":
        raise BadRequestError(
            "Invalid 'continue_final_message': last message must have role 'assistant'.",
            "continue_final_message",
            code="invalid_value",
        )
    if continued and body.add_generation_prompt:
        raise BadRequestError(
            "Invalid 'add_generation_prompt': it contradicts 'continue_final_message'.",
            "add_generation_prompt",
            code="invalid_value",
        )
    chat = parse_chat(body.messages)
    prompts = _prompts_of(chat, template, body.add_generation_prompt is not False, continued)
    settings = _settings(body, body.max_completion_tokens or body.max_tokens, max_tokens)
    settings["logprobs"] = (body.top_logprobs or 0) if body.logprobs else None
    settings["continues_text"] = continued
    return _parsed(
        body,
        prompts,
        settings,
        sources=chat.sources,
        use_ocr=bool(body.use_ocr),
        gen_image=bool(body.gen_image),
    )


def parse_attribution_request(
    body: AttributionBody, template: ConversationTemplate
) -> tuple[ParsedRequest, str]:
    """Parse the body of an attribution: the request, and the answer to attribute.

    Raises:
        BadRequestError: the chat does not end with an answer.
    """
    *before, last = body.messages
    if last.role != "assistant" or not before:
        raise BadRequestError(
            "Invalid 'messages': last message must have role 'assistant', after others.", "messages"
        )
    chat = parse_chat(before)
    (answer,) = parse_chat([last]).messages
    prompts = _prompts_of(chat, template, True, False)
    return ParsedRequest(body.model, chat.sources, prompts, {}), answer.text


def parse_completion_request(body: CompletionBody, max_tokens: int) -> ParsedRequest:
    """Parse the body of a text completion, whose prompts get no template."""
    texts = [body.prompt] if isinstance(body.prompt, str) else body.prompt
    settings = _settings(body, body.max_tokens, max_tokens)
    settings |= {"logprobs": body.logprobs, "continues_text": True}
    return _parsed(body, lambda suffix: [escape_markers(text) + suffix for text in texts], settings)


def parse_image_request(body: ImageGenerationBody, model: str) -> ImageGenerationRequest:
    """Parse the body of an image generation.

    Args:
        body: body of the request.
        model: name of the image generation model; empty: there is none.

    Raises:
        BadRequestError: the model or the size is invalid.
    """
    if not model or body.model != model:
        hint = f"choose {model}" if model else "this server has no model that does"
        raise BadRequestError(
            f"The model {body.model!r:.100} generates no images; {hint}.",
            "model",
            404,
            "model_not_found",
        )
    if not body.prompt.strip():
        raise BadRequestError("Invalid 'prompt': empty string.", "prompt", code="empty_string")
    seeds = [None if body.seed is None else body.seed + index for index in range(body.n or 1)]
    return ImageGenerationRequest(body.prompt, tuple(seeds), _size(body.size))


def _size(value: str | None) -> tuple[int, int] | None:
    if value in (None, "auto"):
        return None
    match = re.fullmatch(r"([0-9]{1,4})x([0-9]{1,4})", value or "")
    sides = tuple(map(int, match.groups())) if match else ()
    if not sides or any(side % 8 or not 8 <= side <= MAX_SIDE for side in sides):
        raise BadRequestError(
            f"Invalid value: {value!r:.40}. Give WIDTHxHEIGHT, multiples of 8 up to {MAX_SIDE}.",
            "size",
            code="invalid_value",
        )
    return sides[0], sides[1]


def _prompts_of(
    chat: ParsedChat, template: ConversationTemplate, add_generation_prompt: bool, continued: bool
) -> Callable[[str], Sequence[str]]:
    def write(suffix: str) -> Sequence[str]:
        messages = chat.with_suffix(suffix).messages
        return [chat_prompt(template, messages, add_generation_prompt, continued)]

    return write


def _parsed(
    body: SamplingBody,
    prompts: Callable[[str], Sequence[str]],
    settings: dict[str, Any],
    sources: tuple[str, ...] = (),
    **more: bool,
) -> ParsedRequest:
    return ParsedRequest(
        body.model,
        sources,
        prompts,
        settings,
        body.n or 1,
        bool(body.stream),
        bool(body.stream_options and body.stream_options.include_usage),
        **more,
    )


def _settings(body: SamplingBody, requested: int | None, max_tokens: int) -> dict[str, Any]:
    """Sampling fields of the engine's `Request`; `requested` tokens are limited to `max_tokens`."""
    given = {
        name: getattr(body, name)
        for name in ("min_p", "repetition_penalty", "presence_penalty", "frequency_penalty")
        if getattr(body, name) is not None
    }
    stop = body.stop or []
    return given | {
        "max_new_tokens": min(requested or max_tokens, max_tokens),
        "temperature": 1.0 if body.temperature is None else float(body.temperature),
        "top_p": 1.0 if body.top_p is None else body.top_p or MIN_TOP_P,
        "top_k": max(body.top_k or 0, 0),
        "stop": [stop] if isinstance(stop, str) else stop,
        "seed": None if body.seed is None else body.seed % 2**63,
        "logit_bias": _logit_bias(body.logit_bias or {}),
        "structured_output": _structured_output(body),
    }


def _logit_bias(given: dict[str, float]) -> dict[int, float]:
    """Bias by token id; keys are strings in JSON."""
    invalid = [name for name in given if not re.fullmatch(r"[0-9]{1,9}", name)]
    if invalid:
        raise BadRequestError(
            f"Invalid key in 'logit_bias': {invalid[0]!r:.40}. Keys are token ids.",
            "logit_bias",
            code="invalid_value",
        )
    return {int(name): float(value) for name, value in given.items()}


def _structured_output(body: SamplingBody) -> StructuredOutput | None:
    """The constraint of `response_format` or `structured_outputs`; None: there is none.

    Raises:
        BadRequestError: both are given, or it is invalid.
    """
    form, given = body.response_format, body.structured_outputs
    plain_text = form is None or form.type == "text"
    if not plain_text and given is not None:
        raise BadRequestError(
            "Invalid 'structured_outputs': it contradicts 'response_format'; leave one out.",
            "structured_outputs",
            code="invalid_value",
        )
    try:
        if form is None or form.type == "text":
            return None if given is None else StructuredOutput(**given.model_dump(by_alias=True))
        if form.type == "json_object":
            return StructuredOutput(json_object=True)
        if form.json_schema is not None:
            return StructuredOutput(json=form.json_schema.schema_)
    except MGMError as error:
        origin = "structured_outputs" if plain_text else "response_format"
        raise BadRequestError(error, origin, code="invalid_value") from error
    raise BadRequestError(
        "Missing required parameter: 'response_format.json_schema'.",
        "response_format.json_schema",
        code="missing_required_parameter",
    )
