"""The published workers' stream: NUL-framed JSON, each frame with all the text so far."""

import base64
import time
from contextlib import aclosing

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

QUESTION = "?"  # stands for any question where only what comes after it is looked at
TEMPERATURE, TOP_P, MAX_TOKENS = 1.0, 1.0, 256  # of bodies that name none
GREEDY = 0.001  # Compat: published workers take temperatures up to this as 0


def legacy_response(worker: Worker, content: bytes) -> EventStream:
    """The response to a published page: every error is a frame, too.

    What the answer asks to draw comes in a last frame, whose text ends before its marks.

    Args:
        worker: that answers.
        content: the body that published pages send.
    """
    started = time.perf_counter()

    async def produce(write: Write) -> None:
        async with worker.request_slot("published") as slot:
            body = parse_body(LegacyBody, content)
            parsed = _parsed(body, worker.engine, worker.limits.tokens)
            requests = await worker.prepare(parsed)
            text = body.prompt
            await slot.acquire()
            await write(encode_frame(text))
            answer: Answer | None = None
            async with aclosing(worker.pieces(requests, started, slot)) as pieces:
                async for _, piece in pieces:
                    text += piece.text
                    answer = piece.answer
                    if answer is not None:
                        await write(encode_frame(text, finish_reason=answer.finish_reason))
                    elif piece.text:
                        await write(encode_frame(text))
            drawn = None
            if answer is not None and parsed.gen_image:
                drawn = await worker.drawn(answer, None)
            if answer is not None and drawn is not None:
                before = body.prompt + answer.text.partition(PROMPT_BEGIN)[0]
                image = base64.b64encode(drawn).decode()
                await write(
                    encode_frame(f"{before}\nPrompt: {image_prompt(answer.text)}\n", image=image)
                )

    def error_frame(error: MGMError) -> bytes:
        return encode_frame(str(error), REQUEST_FAILED)

    return EventStream(produce, error_frame, "text/plain", open_at_once=True)


def _parsed(body: LegacyBody, engine: Engine, max_tokens: int) -> ParsedRequest:
    """The request in a published body, whose prompt is written out.

    Raises:
        BadRequestError: its images do not belong to the prompt.
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
        lambda suffix: [_with_suffix(engine, body.prompt, suffix)],
        settings,
        use_ocr=bool(body.use_ocr),
        gen_image=bool(body.gen_image),
    )


def _with_suffix(engine: Engine, prompt: str, suffix: str) -> str:
    """A prompt whose last question ends with `suffix`.

    Published workers put it elsewhere for most templates, into the middle of a role's name.
    """
    if not suffix:
        return prompt
    ends = engine.prompt(Request(QUESTION)).rpartition(QUESTION)[2]
    if prompt.endswith(ends):
        return prompt[: len(prompt) - len(ends)] + suffix + ends
    return prompt + suffix
