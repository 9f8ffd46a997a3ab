"""The published workers' stream: NUL-framed JSON, each frame with the whole text so far."""

import base64
import time
from contextlib import aclosing
from functools import partial

from mgm.data.text.templates import IMAGE_MARKER
from mgm.engine.core.request import Answer, Request
from mgm.engine.engine import Engine
from mgm.errors import MGMError
from mgm.serve.http.wire import REQUEST_FAILED, encode_frame
from mgm.serve.openai.errors import BadRequestError, parse_body
from mgm.serve.openai.messages import MAX_IMAGES
from mgm.serve.openai.protocol import LegacyBody
from mgm.serve.openai.requests import MIN_TOP_P, ParsedRequest
from mgm.serve.tools.image_generation import PROMPT_BEGIN, image_prompt
from mgm.serve.worker.streaming import EventStream, Write
from mgm.serve.worker.worker import Worker

QUESTION = "?"  # placeholder, to find the text of a prompt after its question
TEMPERATURE, TOP_P, MAX_TOKENS = 1.0, 1.0, 256  # defaults of published workers
GREEDY = 0.001  # Compat: published workers decode greedily up to this temperature


def legacy_response(worker: Worker, content: bytes) -> EventStream:
    """Respond to a published page or client; errors are frames, too, with status 200.

    Args:
        worker: handles the request.
        content: the body, as published pages send it.
    """
    produce = partial(_write_frames, worker, content, time.perf_counter())
    return EventStream(produce, _error_frame, "text/plain", open_at_once=True)


async def _write_frames(worker: Worker, content: bytes, start_time: float, write: Write) -> None:
    """Write a frame for each chunk of the answer, and a last one with the generated image."""
    async with worker.request_slot("published") as slot:
        body = parse_body(LegacyBody, content)
        parsed = _parse(body, worker.engine, worker.limits.max_tokens)
        requests = await worker.prepare(parsed)
        await slot.acquire()
        text = body.prompt
        await write(encode_frame(text))
        answer: Answer | None = None
        async with aclosing(worker.stream(requests, start_time, slot)) as chunks:
            async for _, chunk in chunks:
                text += chunk.text
                answer = chunk.answer
                if chunk.text or answer is not None:
                    await write(_text_frame(text, answer))
        if answer is not None and parsed.gen_image:
            await _write_image(worker, body.prompt, answer, write)


async def _write_image(worker: Worker, prompt: str, answer: Answer, write: Write) -> None:
    """Write the image that an answer asks for, if any; the text ends with the image prompt."""
    content = await worker.image_of(answer, None)
    if content is not None:
        text = prompt + answer.text.partition(PROMPT_BEGIN)[0]
        text += f"\nPrompt: {image_prompt(answer.text)}\n"
        await write(encode_frame(text, image=base64.b64encode(content).decode()))


def _text_frame(text: str, answer: Answer | None) -> bytes:
    """A frame with the text so far; the last one has the finish reason."""
    if answer is None:
        return encode_frame(text)
    return encode_frame(text, finish_reason=answer.finish_reason)


def _error_frame(error: MGMError) -> bytes:
    return encode_frame(str(error), REQUEST_FAILED)


def _parse(body: LegacyBody, engine: Engine, max_tokens: int) -> ParsedRequest:
    """Parse a published body, whose prompt has the conversation template applied already.

    Raises:
        BadRequestError: the numbers of images and image markers differ.
    """
    sources, markers = body.images or [], body.prompt.count(IMAGE_MARKER)
    if len(sources) > MAX_IMAGES or markers != len(sources):
        raise BadRequestError(
            f"the prompt has {markers} {IMAGE_MARKER} for {len(sources)} images; give as many, at "
            f"most {MAX_IMAGES}",
            "images",
        )
    temperature = TEMPERATURE if body.temperature is None else max(body.temperature, 0.0)
    tokens = MAX_TOKENS if body.max_new_tokens is None else body.max_new_tokens
    settings = {
        "temperature": temperature if temperature > GREEDY else 0.0,
        "top_p": TOP_P if body.top_p is None else body.top_p or MIN_TOP_P,
        "max_new_tokens": max(1, min(tokens, max_tokens)),
        "stop": [body.stop] if isinstance(body.stop, str) and body.stop else [],
    }
    return ParsedRequest(
        "",
        tuple(sources),
        lambda suffix: [_insert_suffix(engine, body.prompt, suffix)],
        settings,
        use_ocr=bool(body.use_ocr),
        gen_image=bool(body.gen_image),
    )


def _insert_suffix(engine: Engine, prompt: str, suffix: str) -> str:
    """A prompt with `suffix` at the end of its last question.

    Published workers insert it elsewhere for most templates, into the middle of a role's name.
    """
    if not suffix:
        return prompt
    after_question = engine.prompt(Request(QUESTION)).rpartition(QUESTION)[2]
    if prompt.endswith(after_question):
        return prompt[: len(prompt) - len(after_question)] + suffix + after_question
    return prompt + suffix
