"""The stream of published workers: what published pages ask, and how they are answered."""

import base64
import logging
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from mgm.data.text.templates import IMAGE_MARKER
from mgm.engine.core.request import Request
from mgm.engine.engine import Engine
from mgm.errors import MGMError
from mgm.serve.http.openai_requests import MAX_IMAGES, BadRequestError
from mgm.serve.http.wire import FAULT, frame
from mgm.serve.tools.image_generation import BEGIN, drawn_text
from mgm.serve.worker.worker import Worker

logger = logging.getLogger("mgm.serve")

QUESTION = "?"  # stands for any question where only what comes after it is looked at


async def published_stream(worker: Worker, body: Any) -> AsyncGenerator[bytes]:
    """NUL-framed JSON; each frame has all the text so far, the prompt before it, as published.

    What the answer asks to draw comes in a last frame, whose text ends before its marks.

    Args:
        worker: that answers.
        body: what published pages send.
    """
    begun = time.perf_counter()
    text = ""
    try:
        async with worker.answering("published"):
            request, shown = await worker.in_thread(_read, worker, body)
            text = shown
            yield frame(text)
            async with aclosing(worker.pieces(request, begun)) as pieces:
                async for piece in pieces:
                    text += piece.text
                    if piece.answer is None and piece.text:
                        yield frame(text)
                    elif piece.answer is not None:
                        yield frame(text, finish_reason=piece.answer.finish_reason)
                        if body.get("gen_image"):
                            drawn = await worker.drawn(piece.answer, None)
                            if drawn is not None:
                                before = shown + piece.answer.text.partition(BEGIN)[0]
                                told = drawn_text(piece.answer.text)
                                image = base64.b64encode(drawn).decode()
                                yield frame(f"{before}\nPrompt: {told}\n", image=image)
    except MGMError as error:
        yield frame(str(error), FAULT)
    except Exception as error:
        logger.exception("a defect", exc_info=error)
        yield frame("the server failed; see its log", FAULT)


def _read(worker: Worker, body: Any) -> tuple[Request, str]:
    """The request in a published body, and the prompt as the page knows it.

    The body has a prompt that is written out, and images in base64.
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
    numbers = {"temperature": 1.0, "top_p": 1.0, "max_new_tokens": 256}
    given = {name: body.get(name, default) for name, default in numbers.items()}
    try:
        temperature, top_p = float(given["temperature"]), float(given["top_p"])
        limit = max(1, min(int(given["max_new_tokens"]), worker.limits.tokens))
    except (TypeError, ValueError) as error:
        raise BadRequestError(f"one of these is no number: {given}") from error
    images = [
        worker.images.fetch(source, f"image {number} of {len(sources)}")
        for number, source in enumerate(sources, start=1)
    ]
    wants = (bool(body.get(name)) for name in ("gen_image", "use_ocr"))
    suffix = worker.companions.suffix(images, *wants)
    request = Request(
        _with_suffix(worker.engine, prompt, suffix) if suffix else prompt,
        images=images,
        # Compat: published workers take anything below as greedy.
        temperature=temperature if temperature > 0.001 else 0.0,
        top_p=top_p,
        max_new_tokens=limit,
        stop=[stop] if isinstance(stop, str) and stop else [],
        raw=True,
    )
    return request, prompt


def _with_suffix(engine: Engine, prompt: str, suffix: str) -> str:
    """A prompt whose last question ends with `suffix`.

    Published workers put it elsewhere for most templates, into the middle of a role's name.
    """
    ends = engine.prompt(Request(QUESTION)).rpartition(QUESTION)[2]
    if prompt.endswith(ends):
        return prompt[: len(prompt) - len(ends)] + suffix + ends
    return prompt + suffix
