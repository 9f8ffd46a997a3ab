"""Bodies of the OpenAI API as requests to the engine."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from mgm.data.text.templates import IMAGE_MARKER
from mgm.engine.core.request import Request
from mgm.errors import MGMError
from mgm.serve.openai.errors import BadRequestError

MAX_CHOICES = 16
MAX_IMAGES = 32  # of a request
MAX_PROMPT, MAX_SIDE = 4000, 2048  # letters, and pixels, of a drawing
FetchImage = Callable[[object, str], bytes]

# What has a meaning that cannot be kept; values that change nothing are let through. Tools are
# offered by clients such as Open WebUI in every request: a model may answer without them, as ours
# always do, unless it is told that it has to use one.
_REFUSED: dict[str, Sequence[object]] = {
    "tool_choice": (None, "none", "auto"),
    "function_call": (None, "none", "auto"),
    "logit_bias": (None, {}),
    "presence_penalty": (None, 0),
    "frequency_penalty": (None, 0),
    "response_format": (None, {"type": "text"}, "b64_json"),
    "audio": (None,),
    "echo": (None, False),
    "suffix": (None, ""),
    "best_of": (None, 1),
}


@dataclass(frozen=True)
class Asked:
    """A body, read.

    Attributes:
        requests: one for each choice.
        model: that is asked for.
        stream: whether the answer comes in pieces.
        include_usage: whether the last piece counts tokens.
        use_ocr: whether texts in the images are read, as help for the model.
        gen_image: whether what the model asks to draw is drawn.
    """

    requests: tuple[Request, ...]
    model: str
    stream: bool
    include_usage: bool
    use_ocr: bool = False
    gen_image: bool = False


def chat_request(
    body: object, fetch_image: FetchImage, limit: int, takes_system: bool = True
) -> Asked:
    """The request of a chat completion.

    Args:
        body: parsed JSON.
        fetch_image: gets the bytes of what an `image_url` names.
        limit: tokens of an answer where the body names no other.
        takes_system: whether the model's template has a place for a system text; else it comes
            before the first question.

    Raises:
        BadRequestError: it is malformed, or asks for what is not there.
    """
    fields = _fields(body)
    messages = fields.get("messages")
    if not isinstance(messages, list) or not messages:
        raise BadRequestError("messages: give a list with at least one message", "messages")
    system, turns, sources = _conversation(messages)
    settings = _settings(fields, limit)
    wanted = _switch(fields, "logprobs")
    settings["logprobs"] = _whole(fields, "top_logprobs", 0, 20) or 0 if wanted else None
    images = [
        fetch_image(source, f"image {number} of {len(sources)}")
        for number, source in enumerate(sources, start=1)
    ]
    if system and not takes_system:
        (first, answer), *rest = turns
        turns, system = [(f"{system}\n\n{first}", answer), *rest], None
    *history, (question, _) = turns
    made = _request(
        question,
        images=images,
        history=[(asked, answer or "") for asked, answer in history],
        system=system,
        **settings,
    )
    return _asked(fields, [made])


def answered_request(body: object, fetch_image: FetchImage) -> tuple[str, Request, str]:
    """Model, question and answer of a chat that ends with the model's message.

    Args:
        body: parsed JSON.
        fetch_image: as for `chat_request`.

    Raises:
        BadRequestError: it is malformed.
    """
    fields = dict(_fields(body))
    messages = fields.get("messages")
    *before, last = messages if isinstance(messages, list) and messages else [None]
    if not isinstance(last, dict) or last.get("role") != "assistant":
        raise BadRequestError("messages: the last one has to be the assistant's", "messages")
    answer = _content(last.get("content") or "", "the last message", None)
    asked = chat_request(fields | {"messages": before}, fetch_image, 1)
    return asked.model, asked.requests[0], answer


def completion_request(body: object, limit: int) -> Asked:
    """The request of a completion: texts that the model goes on writing, as they are."""
    fields = _fields(body)
    prompts = fields.get("prompt")
    prompts = [prompts] if isinstance(prompts, str) else prompts
    if not isinstance(prompts, list) or not prompts or not all(isinstance(p, str) for p in prompts):
        raise BadRequestError("prompt: give a text, or a list of texts", "prompt")
    if len(prompts) > MAX_CHOICES:
        raise BadRequestError(f"prompt: give at most {MAX_CHOICES} texts", "prompt")
    settings = _settings(fields, limit)
    settings["logprobs"] = _whole(fields, "logprobs", 0, 20)
    return _asked(fields, [_request(_plain(text), raw=True, **settings) for text in prompts])


@dataclass(frozen=True)
class Drawing:
    """What is to be drawn.

    Attributes:
        text: of it.
        seeds: one for each image; None: another one every time.
        size: width and height in pixels; None: as the pipeline likes.
    """

    text: str
    seeds: tuple[int | None, ...]
    size: tuple[int, int] | None


def drawing_request(body: object, model: str) -> Drawing:
    """The request of an image.

    Args:
        body: parsed JSON.
        model: what draws is called; empty: nothing does.

    Raises:
        BadRequestError: it is malformed, or nothing draws here.
    """
    fields = _fields(body)
    if not model or fields["model"] != model:
        known = f"choose {model}" if model else "no image is drawn here"
        raise BadRequestError(
            f"the model {fields['model']!r:.100} draws nothing; {known}", "model", 404,
            "model_not_found",
        )  # fmt: skip
    text = fields.get("prompt")
    if not isinstance(text, str) or not text.strip() or len(text) > MAX_PROMPT:
        raise BadRequestError(f"prompt: give a text of at most {MAX_PROMPT} letters", "prompt")
    if fields.get("response_format") not in (None, "b64_json"):
        raise BadRequestError("response_format: choose b64_json", "response_format")
    count = _whole(fields, "n", 1, 4) or 1
    seed = _whole(fields, "seed", 0, 2**62)
    seeds = [None if seed is None else seed + number for number in range(count)]
    return Drawing(text, tuple(seeds), _size(fields.get("size")))


def _size(value: object) -> tuple[int, int] | None:
    if value in (None, "auto"):
        return None
    found = re.fullmatch(r"(\d{1,4})x(\d{1,4})", value) if isinstance(value, str) else None
    sides = tuple(map(int, found.groups())) if found else ()
    if not sides or any(side % 8 or not 8 <= side <= MAX_SIDE for side in sides):
        raise BadRequestError(
            f"size is {value!r:.40}; give WIDTHxHEIGHT, multiples of 8 up to {MAX_SIDE}", "size"
        )
    return sides[0], sides[1]


def _fields(body: object) -> Mapping[str, Any]:
    if not isinstance(body, dict):
        raise BadRequestError("the body is no JSON object")
    if not isinstance(body.get("model"), str) or not body["model"]:
        raise BadRequestError("model: name one, see /v1/models", "model")
    for name, harmless in _REFUSED.items():
        if body.get(name) not in harmless:
            raise BadRequestError(f"{name} is not supported; leave it out", name)
    return body


def _asked(fields: Mapping[str, Any], requests: list[Request]) -> Asked:
    count = _whole(fields, "n", 1, MAX_CHOICES) or 1
    choices = []
    for request in requests:
        for number in range(count):
            # Every choice draws in its own way, and again in the same with the same seed.
            seed = None if request.seed is None else (request.seed + number) % 2**63
            choices.append(replace(request, seed=seed))
    options = fields.get("stream_options") or {}
    if not isinstance(options, dict):
        raise BadRequestError("stream_options: give an object", "stream_options")
    usage = bool(options.get("include_usage"))
    stream, *more = (_switch(fields, name) for name in ("stream", "use_ocr", "gen_image"))
    return Asked(tuple(choices), fields["model"], stream, usage, *more)


def _settings(fields: Mapping[str, Any], limit: int) -> dict[str, Any]:
    """What is said about how to answer; names are those of the API, with vLLM's additions."""
    most = _whole(fields, "max_completion_tokens", 1, 2**31)
    if most is None:
        most = _whole(fields, "max_tokens", 1, 2**31)
    stop = fields.get("stop")
    stops = [] if stop is None else [stop] if isinstance(stop, str) else stop
    if not isinstance(stops, list) or len(stops) > 16:
        raise BadRequestError("stop: give a text, or at most 16", "stop")
    settings: dict[str, Any] = {
        "max_new_tokens": limit if most is None else min(most, limit),
        "temperature": _number(fields, "temperature", 1.0),
        "top_p": _number(fields, "top_p", 1.0) or 1e-9,
        "min_p": _number(fields, "min_p", 0.0),
        "repetition_penalty": _number(fields, "repetition_penalty", 1.0),
        "top_k": max(_whole(fields, "top_k", -1, 2**31) or 0, 0),
        "stop": stops,
    }
    seed = fields.get("seed")
    if seed is not None:
        if not isinstance(seed, int) or isinstance(seed, bool):
            raise BadRequestError(f"seed is {seed!r}; give a whole number", "seed")
        settings["seed"] = seed % 2**63
    return settings


def _request(prompt: str, **settings: Any) -> Request:
    try:
        return Request(prompt, **settings)
    except MGMError as error:
        name = str(error).split(" ", 1)[0]
        raise BadRequestError(error, name if name in settings else None) from error


def _conversation(
    messages: Sequence[Any],
) -> tuple[str | None, list[tuple[str, str | None]], list[object]]:
    """System text, questions with answers, and images of messages, in order."""
    system: list[str] = []
    turns: list[tuple[str, str | None]] = []
    sources: list[object] = []
    for number, message in enumerate(messages):
        where = f"messages[{number}]"
        if not isinstance(message, dict):
            raise BadRequestError(f"{where}: is no object", "messages")
        role = message.get("role")
        if role in ("system", "developer"):
            if turns:
                raise BadRequestError(f"{where}: a {role} message comes first", "messages")
            system.append(_content(message.get("content"), where, None))
        elif role == "user":
            text = _content(message.get("content"), where, sources)
            if turns and turns[-1][1] is None:
                text = f"{turns.pop()[0]}\n{text}"
            turns.append((text, None))
        elif role == "assistant":
            if not turns or turns[-1][1] is not None:
                raise BadRequestError(f"{where}: answers no question", "messages")
            answer = _content(message.get("content") or "", where, None)
            turns[-1] = (turns[-1][0], answer)
        else:
            raise BadRequestError(
                f"{where}: role is {role!r}; choose system, user or assistant", "messages"
            )
    if not turns or turns[-1][1] is not None:
        raise BadRequestError("messages: the last one has to be the user's", "messages")
    return ("\n".join(system) if system else None), turns, sources


def _content(content: object, where: str, sources: list[object] | None) -> str:
    """The text of a message; a marker stands where an image is, which `sources` gets."""
    if isinstance(content, str):
        return _plain(content)
    if not isinstance(content, list):
        raise BadRequestError(
            f"{where}: has no content; give a text or a list of parts", "messages"
        )
    text = ""
    for part in content:
        kind = part.get("type") if isinstance(part, dict) else None
        if kind == "text" and isinstance(part.get("text"), str):
            text += _plain(part["text"])
        elif kind == "image_url" and sources is not None:
            url = part.get("image_url")
            sources.append(url.get("url") if isinstance(url, dict) else url)
            if len(sources) > MAX_IMAGES:
                raise BadRequestError(f"messages: at most {MAX_IMAGES} images", "messages")
            text += f"{IMAGE_MARKER}\n"
        else:
            valid = "text or image_url" if sources is not None else "text"
            raise BadRequestError(f"{where}: a part is of type {kind!r}; give {valid}", "messages")
    return text


def _plain(text: str) -> str:
    """A text in which nothing stands for an image."""
    return text.replace(IMAGE_MARKER, IMAGE_MARKER.replace("<", "< "))


def _switch(fields: Mapping[str, Any], name: str) -> bool:
    value = fields.get(name)
    if value is not None and not isinstance(value, bool):
        raise BadRequestError(f"{name} is {value!r:.80}; give true or false", name)
    return bool(value)


def _number(fields: Mapping[str, Any], name: str, default: float) -> float:
    value = fields.get(name)
    if value is None:
        return default
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise BadRequestError(f"{name} is {value!r:.80}; give a number", name)
    return float(value)


def _whole(fields: Mapping[str, Any], name: str, least: int, most: int) -> int | None:
    value = fields.get(name)
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise BadRequestError(
            f"{name} is {value!r:.80}; give a whole number from {least} to {most}", name
        )
    return value
