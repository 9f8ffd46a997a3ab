"""The published workers' stream: NUL-framed JSON, each frame with all the text so far."""

import base64
import math
import time
from contextlib import aclosing
from dataclasses import replace
from typing import Any

from mgm.data.text.templates import IMAGE_MARKER
from mgm.engine.core.request import Answer, Request
from mgm.engine.engine import Engine
from mgm.serve.http.openai_requests import MAX_IMAGES, NOT_FETCHED, Asked, BadRequestError
from mgm.serve.http.wire import FAULT, frame
from mgm.serve.tools.image_generation import BEGIN, drawn_text
from mgm.serve.worker.streaming import EventStream, Write
from mgm.serve.worker.worker import Worker

QUESTION = "?"  # stands for any question where only what comes after it is looked at
# Of a body, with what is taken where they are left out.
NUMBERS = {"temperature": 1.0, "top_p": 1.0, "max_new_tokens": 256}
MIN_TOP_P = 1e-9  # in place of 0, which is the left end of the published page's slider


def legacy_response(worker: Worker, body: Any) -> EventStream:
    """The response to a published page: every error is a frame, too.

    What the answer asks to draw comes in a last frame, whose text ends before its marks.

    Args:
        worker: that answers.
        body: what published pages send.
    """
    started = time.perf_counter()

    async def produce(write: Write) -> None:
        async with worker.answering("published") as slot:
            parsed = await worker.fetch_images(_parsed(body, worker.limits.tokens))
            (request,) = parsed.requests
            prompt = text = request.prompt
            suffix = await worker.tool_text(parsed)
            if suffix:
                request = replace(request, prompt=_with_suffix(worker.engine, prompt, suffix))
            await slot.acquire()
            await write(frame(text))
            answer: Answer | None = None
            async with aclosing(worker.pieces([request], started, slot)) as pieces:
                async for _, piece in pieces:
                    text += piece.text
                    answer = piece.answer
                    if answer is not None:
                        await write(frame(text, finish_reason=answer.finish_reason))
                    elif piece.text:
                        await write(frame(text))
            drawn = None
            if answer is not None and parsed.gen_image:
                drawn = await worker.drawn(answer, None)
            if answer is not None and drawn is not None:
                before = prompt + answer.text.partition(BEGIN)[0]
                image = base64.b64encode(drawn).decode()
                await write(frame(f"{before}\nPrompt: {drawn_text(answer.text)}\n", image=image))

    def error_frame(message: str) -> bytes:
        return frame(message, FAULT)

    return EventStream(produce, error_frame, "text/plain", open_at_once=True)


def _parsed(body: Any, limit: int) -> Asked:
    """The request in a published body; its images are still to be fetched.

    Args:
        body: with a prompt that is written out, and images in base64.
        limit: max tokens of the answer.

    Raises:
        BadRequestError: it is malformed.
    """
    if not isinstance(body, dict) or not isinstance(body.get("prompt"), str):
        raise BadRequestError("prompt: give the text that the model reads", "prompt")
    sources = body.get("images") or []
    if not isinstance(sources, list) or len(sources) > MAX_IMAGES:
        raise BadRequestError(f"images: give a list of at most {MAX_IMAGES}", "images")
    prompt = body["prompt"]
    if prompt.count(IMAGE_MARKER) != len(sources):
        raise BadRequestError(
            f"the prompt has {prompt.count(IMAGE_MARKER)} {IMAGE_MARKER} for {len(sources)} images",
            "images",
        )
    stop = body.get("stop")
    numbers = {name: _number(body, name, default) for name, default in NUMBERS.items()}
    request = Request(
        prompt,
        images=[NOT_FETCHED] * len(sources),
        # Compat: published workers take anything below as greedy.
        temperature=numbers["temperature"] if numbers["temperature"] > 0.001 else 0.0,
        top_p=numbers["top_p"] or MIN_TOP_P,
        max_new_tokens=int(max(1, min(numbers["max_new_tokens"], limit))),
        stop=[stop] if isinstance(stop, str) and stop else [],
        raw=True,
    )
    wants = {name: bool(body.get(name)) for name in ("use_ocr", "gen_image")}
    return Asked((request,), "", True, False, **wants, image_sources=tuple(sources))


def _number(body: dict[str, Any], name: str, default: float) -> float:
    value = body.get(name)
    try:
        number = float(default if value is None else value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        raise BadRequestError(f"{name} is {value!r:.80}; give a number", name)
    return number


def _with_suffix(engine: Engine, prompt: str, suffix: str) -> str:
    """A prompt whose last question ends with `suffix`.

    Published workers put it elsewhere for most templates, into the middle of a role's name.
    """
    ends = engine.prompt(Request(QUESTION)).rpartition(QUESTION)[2]
    if prompt.endswith(ends):
        return prompt[: len(prompt) - len(ends)] + suffix + ends
    return prompt + suffix
