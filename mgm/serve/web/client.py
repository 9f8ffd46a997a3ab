"""HTTP client of the Gradio page for controllers and workers, ours and published ones."""

import base64
import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import aiohttp

from mgm.data.text.conversation import build_prompt
from mgm.data.text.templates import IMAGE_MARKER, get_template
from mgm.engine.attribution.mining_attribution import MiningAttribution
from mgm.errors import MGMError
from mgm.serve.http.attribution_json import decode_attribution
from mgm.serve.web.state import ChatHistory, data_url

CONTROLLER_CONNECT_TIMEOUT = 5.0  # seconds to connect to a controller
RESPONSE_READ_TIMEOUT = 300.0  # seconds without a byte of the response
CONNECTION_LOST = "the connection was lost before the answer was complete; retry"
# Compat: templates by a part of the model's name, as in published pages. Source:
# gradio_web_server.py L155-167.
PUBLISHED_TEMPLATES = {"8x7b": "mistral_instruct", "34b": "chatml_direct", "2b": "gemma"}


@dataclass(frozen=True)
class GenerationSettings:
    """Settings of the page, with the published page's defaults.

    Attributes:
        temperature: sampling temperature; 0: greedy.
        top_p: probability mass of nucleus sampling.
        max_new_tokens: maximum tokens per response.
        gen_image: whether images that the model asks for are generated.
        use_ocr: whether the texts in the images are added to the prompt.
    """

    temperature: float = 0.2
    top_p: float = 0.7
    max_new_tokens: int = 512
    gen_image: bool = False
    use_ocr: bool = False


@dataclass(frozen=True)
class PartialResponse:
    """A response as far as it was streamed.

    Attributes:
        text: complete text so far.
        image: content of a generated image file; None: there is none.
    """

    text: str
    image: bytes | None = None


class _UnknownEndpointError(Exception):
    """The server lacks an endpoint: it is a published or an older one."""


class PageClient:
    """Client of a controller, or of a worker without one.

    Args:
        address: URL of the controller or worker.
        key: API key, if the server needs one.
    """

    def __init__(self, address: str, key: str | None = None) -> None:
        self.address = address.rstrip("/")
        self._headers = {} if key is None else {"Authorization": f"Bearer {key}"}

    async def models(self) -> list[str]:
        """Names of the models that are served now.

        Raises:
            MGMError: the controller cannot be reached.
        """
        try:
            await self._post_json(f"{self.address}/refresh_all_workers", {})
            listed = await self._post_json(f"{self.address}/list_models", {})
        except _UnknownEndpointError:  # a worker without a controller
            status = await self._post_json(f"{self.address}/worker_get_status", {})
            listed = {"models": status.get("model_names", [])}
        return sorted(str(name) for name in listed.get("models", []))

    async def stream(
        self, history: ChatHistory, model: str, settings: GenerationSettings
    ) -> AsyncGenerator[PartialResponse]:
        """Stream the answer to the last question; each response has the text so far.

        Raises:
            MGMError: generation fails, or the connection is lost.
        """
        try:
            async for response in self._stream_chat(history, model, settings):
                yield response
        except _UnknownEndpointError:
            async for response in self._stream_legacy(history, model, settings):
                yield response

    async def attribution(self, history: ChatHistory, model: str) -> list[MiningAttribution]:
        """Request the attribution of the last answer to the pixels of each image.

        Raises:
            MGMError: the server cannot compute it.
        """
        body = {"model": model, "messages": history.messages()}
        try:
            return decode_attribution(await self._post_json(f"{self.address}/v1/attribution", body))
        except _UnknownEndpointError as error:
            raise MGMError(
                "this server has no attribution; it is a published one, or too old"
            ) from error

    async def _stream_chat(
        self, history: ChatHistory, model: str, settings: GenerationSettings
    ) -> AsyncGenerator[PartialResponse]:
        body = {
            "model": model,
            "messages": history.messages(),
            "temperature": settings.temperature,
            "top_p": settings.top_p,
            "max_tokens": settings.max_new_tokens,
            "stream": True,
        }
        body |= {name: True for name in ("gen_image", "use_ocr") if getattr(settings, name)}
        partial, complete = PartialResponse(""), False
        async with self._post(f"{self.address}/v1/chat/completions", body) as response:
            async for line in response.content:
                event = line.decode().removeprefix("data:").strip()
                if event == "[DONE]":
                    complete = True
                if not event or complete:
                    continue
                partial = _apply_event(partial, json.loads(event))
                yield partial
        if not complete:
            raise MGMError(CONNECTION_LOST)

    async def _stream_legacy(
        self, history: ChatHistory, model: str, settings: GenerationSettings
    ) -> AsyncGenerator[PartialResponse]:
        """Compat: stream from a published worker, which needs the prompt with its template."""
        worker = await self._post_json(f"{self.address}/get_worker_address", {"model": model})
        if not worker.get("address"):
            raise MGMError(f"no worker has the model {model}")
        name = model.lower()
        templates = (template for part, template in PUBLISHED_TEMPLATES.items() if part in name)
        template = get_template(next(templates, "vicuna_v1"))
        turns = [turn for turn in history.turns[:-1] if turn.answer]
        turns.append(history.turns[-1])
        questions_and_answers = [
            (turn.question + f"\n{IMAGE_MARKER}" * len(turn.images), turn.answer or None)
            for turn in turns
        ]
        text = build_prompt(template, questions_and_answers)
        body = {
            "model": model,
            "prompt": text,
            "temperature": settings.temperature,
            "top_p": settings.top_p,
            "max_new_tokens": settings.max_new_tokens,
            "stop": template.stop,
            "images": [data_url(path).partition(",")[2] for turn in turns for path in turn.images],
            "gen_image": settings.gen_image,
            "use_ocr": settings.use_ocr,
        }
        rest = b""
        async with self._post(f"{worker['address']}/worker_generate_stream", body) as response:
            async for chunk in response.content.iter_any():
                *frames, rest = (rest + chunk).split(b"\0")
                for frame in filter(None, frames):
                    yield _parse_frame(frame, text)
        if rest:
            raise MGMError(CONNECTION_LOST)

    async def _post_json(self, url: str, body: Any) -> Any:
        async with self._post(url, body) as response:
            return await response.json(content_type=None)

    @asynccontextmanager
    async def _post(self, url: str, body: Any) -> AsyncGenerator[aiohttp.ClientResponse]:
        """Send a POST; yields the response, whose status is 200.

        Raises:
            MGMError: the server cannot be reached, or responds with an error.
            _UnknownEndpointError: the server has no such endpoint.
        """
        timeout = aiohttp.ClientTimeout(
            total=None, sock_connect=CONTROLLER_CONNECT_TIMEOUT, sock_read=RESPONSE_READ_TIMEOUT
        )
        # The key is for this server, not for the workers whose addresses it returns.
        headers = self._headers if url.startswith(f"{self.address}/") else {}
        try:
            async with (
                aiohttp.ClientSession(timeout=timeout) as session,
                session.post(url, json=body, headers=headers) as response,
            ):
                if response.status != 200:
                    raise _response_error(response.status, await response.text())
                yield response
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
            raise MGMError(
                f"cannot connect to {self.address}; is the controller running?"
            ) from error
        except (TimeoutError, aiohttp.ClientError) as error:
            raise MGMError(CONNECTION_LOST) from error
        except ValueError as error:
            if isinstance(error, MGMError):
                raise
            raise MGMError(f"{self.address} responded with invalid JSON") from error


def _parse_frame(frame: bytes, prompt_text: str) -> PartialResponse:
    """The response in a frame of the published stream, whose text starts with the prompt."""
    content = json.loads(frame)
    if content["error_code"]:
        raise MGMError(content["text"])
    image = base64.b64decode(content["image"]) if "image" in content else None
    return PartialResponse(content["text"][len(prompt_text) :].strip(), image)


def _apply_event(partial: PartialResponse, event: Any) -> PartialResponse:
    """A partial response with the delta of one more server-sent event."""
    if "error" in event:
        raise MGMError(event["error"].get("message") or CONNECTION_LOST)
    for choice in event.get("choices", []):
        delta = choice.get("delta", {})
        partial = PartialResponse(partial.text + (delta.get("content") or ""), partial.image)
        for image in delta.get("images", []):
            content = image["image_url"]["url"].partition(",")[2]
            partial = PartialResponse(partial.text, base64.b64decode(content))
    return partial


def _response_error(status: int, text: str) -> Exception:
    """The error in a response whose status is not 200."""
    try:
        body = json.loads(text)
    except ValueError:
        body = None
    error = body.get("error") if isinstance(body, dict) else None
    if isinstance(error, dict) and (status, error.get("code"), error.get("message")) != (
        404, None, "Not Found",
    ):  # fmt: skip
        return MGMError(error.get("message") or f"the server refused the request ({status})")
    if status in (404, 405):
        return _UnknownEndpointError()
    return MGMError(f"the server responded with status {status}")
