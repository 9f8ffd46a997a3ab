"""Request bodies as requests to the engine."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from mgm.data.text.conversation import chat_prompt
from mgm.data.text.templates import Template
from mgm.engine.core.errors import RequestError
from mgm.engine.core.request import Request
from mgm.engine.core.structured_output import StructuredOutput
from mgm.errors import MGMError
from mgm.serve.openai.errors import BadRequestError
from mgm.serve.openai.messages import ParsedChat, parse_chat, plain
from mgm.serve.openai.protocol import (
    MAX_SIDE,
    AttributionBody,
    ChatCompletionBody,
    CompletionBody,
    ImageGenerationBody,
    SamplingBody,
)

MIN_TOP_P = 1e-9  # 0 means the likeliest token alone, which the first one always is


@dataclass(frozen=True)
class ParsedRequest:
    """A body, of which only the images are missing.

    Attributes:
        model: that is asked for.
        sources: of the images: URLs, or image files in base64.
        prompts: writes the texts that the model reads, with a suffix behind the last question.
        settings: fields of `Request`.
        n: answers to each prompt.
        stream: whether the answer comes in chunks.
        include_usage: whether the last chunk counts tokens.
        use_ocr: whether texts in the images are read, as help for the model.
        gen_image: whether the image that the model describes is generated.
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
        """One request to the engine for each choice.

        Args:
            images: files, in the order of `sources`.
            suffix: stands behind the last question.

        Raises:
            BadRequestError: a value is out of range.
        """
        made = []
        seed = self.settings.get("seed")
        for prompt in self.prompts(suffix):
            for number in range(self.n):
                # Every choice samples in its own way, and again in the same with the same seed.
                own = {} if seed is None else {"seed": (seed + number) % 2**63}
                try:
                    made.append(Request(prompt, images=images, raw=True, **self.settings | own))
                except RequestError as error:
                    field = error.field if error.field in self.settings else None
                    raise BadRequestError(error, field) from error
        return made


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
    body: ChatCompletionBody, template: Template, max_tokens: int
) -> ParsedRequest:
    """The request of a chat completion.

    Args:
        body: of it.
        template: by which the model's prompts are written.
        max_tokens: of an answer, at most.

    Raises:
        BadRequestError: values contradict each other.
    """
    continued = bool(body.continue_final_message)
    if continued and body.messages[-1].role != "assistant":
        raise BadRequestError(
            "Invalid 'continue_final_message': the last message is not the assistant's.",
            "continue_final_message",
            code="invalid_value",
        )
    if continued and body.add_generation_prompt:
        raise BadRequestError(
            "Invalid 'add_generation_prompt': it contradicts 'continue_final_message'.",
            "add_generation_prompt",
            code="invalid_value",
        )
    conversation = parse_chat(body.messages)
    prompts = _prompts_of(
        conversation, template, body.add_generation_prompt is not False, continued
    )
    settings = _settings(body, body.max_completion_tokens or body.max_tokens, max_tokens)
    settings["logprobs"] = (body.top_logprobs or 0) if body.logprobs else None
    settings["continues_text"] = continued
    return _parsed(
        body,
        prompts,
        settings,
        sources=conversation.sources,
        use_ocr=bool(body.use_ocr),
        gen_image=bool(body.gen_image),
    )


def parse_attribution_request(
    body: AttributionBody, template: Template
) -> tuple[ParsedRequest, str]:
    """The request of a chat that ends with the model's answer, and that answer.

    Raises:
        BadRequestError: it ends with another message.
    """
    *before, last = body.messages
    if last.role != "assistant" or not before:
        raise BadRequestError(
            "Invalid 'messages': the last one is not the assistant's answer to others.", "messages"
        )
    conversation = parse_chat(before)
    (answer,) = parse_chat([last]).messages
    prompts = _prompts_of(conversation, template, True, False)
    return ParsedRequest(body.model, conversation.sources, prompts, {}), answer.text


def parse_completion_request(body: CompletionBody, max_tokens: int) -> ParsedRequest:
    """The request of a completion: texts that the model goes on writing, as they are."""
    texts = [body.prompt] if isinstance(body.prompt, str) else body.prompt
    if not texts or not all(texts):
        raise BadRequestError(
            "Invalid 'prompt': empty string. Give a text, or a list of texts.",
            "prompt",
            code="empty_string",
        )
    settings = _settings(body, body.max_tokens, max_tokens)
    settings |= {"logprobs": body.logprobs, "continues_text": True}
    return _parsed(body, lambda suffix: [plain(text) + suffix for text in texts], settings)


def parse_image_request(body: ImageGenerationBody, model: str) -> ImageGenerationRequest:
    """The request of an image.

    Args:
        body: of it.
        model: name of what generates images here; empty: nothing does.

    Raises:
        BadRequestError: another model is asked for, or the size is none.
    """
    if not model or body.model != model:
        known = f"choose {model}" if model else "none does here"
        raise BadRequestError(
            f"The model {body.model!r:.100} generates no images; {known}.",
            "model",
            404,
            "model_not_found",
        )
    if not body.prompt.strip():
        raise BadRequestError("Invalid 'prompt': empty string.", "prompt", code="empty_string")
    seeds = [None if body.seed is None else body.seed + number for number in range(body.n or 1)]
    return ImageGenerationRequest(body.prompt, tuple(seeds), _size(body.size))


def _size(value: str | None) -> tuple[int, int] | None:
    if value in (None, "auto"):
        return None
    found = re.fullmatch(r"([0-9]{1,4})x([0-9]{1,4})", value or "")
    sides = tuple(map(int, found.groups())) if found else ()
    if not sides or any(side % 8 or not 8 <= side <= MAX_SIDE for side in sides):
        raise BadRequestError(
            f"Invalid value: {value!r:.40}. Give WIDTHxHEIGHT, multiples of 8 up to {MAX_SIDE}.",
            "size",
            code="invalid_value",
        )
    return sides[0], sides[1]


def _prompts_of(
    conversation: ParsedChat, template: Template, opens: bool, continued: bool
) -> Callable[[str], Sequence[str]]:
    def write(suffix: str) -> Sequence[str]:
        messages = conversation.with_suffix(suffix).messages
        return [chat_prompt(template, messages, opens, continued)]

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


def _settings(body: SamplingBody, wanted: int | None, max_tokens: int) -> dict[str, Any]:
    """Fields of `Request` that say how to answer."""
    given = {
        name: getattr(body, name)
        for name in ("min_p", "repetition_penalty", "presence_penalty", "frequency_penalty")
        if getattr(body, name) is not None
    }
    stop = body.stop or []
    return given | {
        "max_new_tokens": min(wanted or max_tokens, max_tokens),
        "temperature": 1.0 if body.temperature is None else float(body.temperature),
        "top_p": 1.0 if body.top_p is None else body.top_p or MIN_TOP_P,
        "top_k": max(body.top_k or 0, 0),
        "stop": [stop] if isinstance(stop, str) else stop,
        "seed": None if body.seed is None else body.seed % 2**63,
        "logit_bias": _logit_bias(body.logit_bias or {}),
        "structured_output": _structured_output(body),
    }


def _logit_bias(given: dict[str, float]) -> dict[int, float]:
    """Bias by token id; JSON has the ids as strings."""
    wrong = [name for name in given if not re.fullmatch(r"[0-9]{1,9}", name)]
    if wrong:
        raise BadRequestError(
            f"Invalid key in 'logit_bias': {wrong[0]!r:.40}. Keys are token ids.",
            "logit_bias",
            code="invalid_value",
        )
    return {int(name): float(value) for name, value in given.items()}


def _structured_output(body: SamplingBody) -> StructuredOutput | None:
    """What an answer has to match.

    Raises:
        BadRequestError: two things contradict each other, or it is none.
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
