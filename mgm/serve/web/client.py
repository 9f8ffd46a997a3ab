"""What a page asks controllers and workers, ours and published ones."""

import base64
import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import aiohttp

from mgm.data.text.conversation import prompt
from mgm.data.text.templates import IMAGE_MARKER, get_template
from mgm.engine.attribution.mining_attribution import MiningAttribution
from mgm.errors import MGMError
from mgm.serve.http.attribution_json import decode_attribution
from mgm.serve.web.state import ChatHistory, data_url

CONNECT = 5.0  # seconds to reach a server
SILENCE = 300.0  # seconds without a sign of an answer
LOST = "the connection broke before the answer was complete; ask again"
# Compat: published pages tell templates by models' names. Source: gradio_web_server.py L155-167.
PUBLISHED_TEMPLATES = {"8x7b": "mistral_instruct", "34b": "chatml_direct", "2b": "gemma"}


@dataclass(frozen=True)
class GenerationSettings:
    """How to answer, as on the published page.

    Attributes:
        temperature: 0: always the likeliest word.
        top_p: share of the likeliest words that may be drawn.
        max_new_tokens: of an answer.
        gen_image: whether what the model asks to draw is drawn.
        use_ocr: whether texts in the images are read, as help for the model.
    """

    temperature: float = 0.2
    top_p: float = 0.7
    max_new_tokens: int = 512
    gen_image: bool = False
    use_ocr: bool = False


@dataclass(frozen=True)
class PartialResponse:
    """An answer as far as it was heard.

    Attributes:
        text: all of it.
        drawn: the bytes of an image that was drawn; None: none.
    """

    text: str
    drawn: bytes | None = None


class _OldServerError(Exception):
    """The server does not know what it was asked for."""


class PageClient:
    """Asks a controller, or a worker that stands alone.

    Args:
        address: its URL.
        key: that it asks for, if any.
    """

    def __init__(self, address: str, key: str | None = None) -> None:
        self.address = address.rstrip("/")
        self._headers = {} if key is None else {"Authorization": f"Bearer {key}"}

    async def models(self) -> list[str]:
        """Names of the models that answer now.

        Raises:
            MGMError: the controller cannot be reached.
        """
        try:
            await self._json(f"{self.address}/refresh_all_workers", {})
            found = await self._json(f"{self.address}/list_models", {})
        except _OldServerError:  # a worker of ours that stands alone
            status = await self._json(f"{self.address}/worker_get_status", {})
            found = {"models": status.get("model_names", [])}
        return sorted(str(name) for name in found.get("models", []))

    async def answer(
        self, conversation: ChatHistory, model: str, settings: GenerationSettings
    ) -> AsyncGenerator[PartialResponse]:
        """The answer to the last question, again and again with more of it.

        Raises:
            MGMError: there is none, or no more of it; says why.
        """
        try:
            async for heard in self._chat(conversation, model, settings):
                yield heard
        except _OldServerError:
            async for heard in self._published(conversation, model, settings):
                yield heard

    async def mined(self, conversation: ChatHistory, model: str) -> list[MiningAttribution]:
        """What was mined of each image for the last answer.

        Raises:
            MGMError: the server cannot tell.
        """
        body = {"model": model, "messages": conversation.messages()}
        try:
            return decode_attribution(await self._json(f"{self.address}/v1/attribution", body))
        except _OldServerError as error:
            raise MGMError("this server cannot tell what was mined; it is too old") from error

    async def _chat(
        self, conversation: ChatHistory, model: str, settings: GenerationSettings
    ) -> AsyncGenerator[PartialResponse]:
        body = {
            "model": model,
            "messages": conversation.messages(),
            "temperature": settings.temperature,
            "top_p": settings.top_p,
            "max_tokens": settings.max_new_tokens,
            "stream": True,
        }
        body |= {name: True for name in ("gen_image", "use_ocr") if getattr(settings, name)}
        heard, complete = PartialResponse(""), False
        async with self._asked(f"{self.address}/v1/chat/completions", body) as response:
            async for line in response.content:
                event = line.decode().removeprefix("data:").strip()
                if event == "[DONE]":
                    complete = True
                if not event or complete:
                    continue
                heard = _more(heard, json.loads(event))
                yield heard
        if not complete:
            raise MGMError(LOST)

    async def _published(
        self, conversation: ChatHistory, model: str, settings: GenerationSettings
    ) -> AsyncGenerator[PartialResponse]:
        """Compat: ask a published worker, which has to be told the prompt."""
        found = await self._json(f"{self.address}/get_worker_address", {"model": model})
        if not found.get("address"):
            raise MGMError(f"no worker has the model {model}")
        name = model.lower()
        known = (template for mark, template in PUBLISHED_TEMPLATES.items() if mark in name)
        template = get_template(next(known, "vicuna_v1"))
        asked = [one for one in conversation.exchanges[:-1] if one.answer]
        asked.append(conversation.exchanges[-1])
        turns = [
            (one.question + f"\n{IMAGE_MARKER}" * len(one.images), one.answer or None)
            for one in asked
        ]
        text = prompt(template, turns)
        body = {
            "model": model,
            "prompt": text,
            "temperature": settings.temperature,
            "top_p": settings.top_p,
            "max_new_tokens": settings.max_new_tokens,
            "stop": template.stop,
            "images": [data_url(path).partition(",")[2] for one in asked for path in one.images],
            "gen_image": settings.gen_image,
            "use_ocr": settings.use_ocr,
        }
        rest = b""
        async with self._asked(f"{found['address']}/worker_generate_stream", body) as response:
            async for piece in response.content.iter_any():
                *frames, rest = (rest + piece).split(b"\0")
                for frame in filter(None, frames):
                    told = json.loads(frame)
                    if told["error_code"]:
                        raise MGMError(told["text"])
                    drawn = base64.b64decode(told["image"]) if "image" in told else None
                    yield PartialResponse(told["text"][len(text) :].strip(), drawn)
        if rest:
            raise MGMError(LOST)

    async def _json(self, url: str, body: Any) -> Any:
        async with self._asked(url, body) as response:
            return await response.json(content_type=None)

    @asynccontextmanager
    async def _asked(self, url: str, body: Any) -> AsyncGenerator[aiohttp.ClientResponse]:
        """A good response to a POST.

        Raises:
            MGMError: there is none.
            _OldServerError: the server does not know the address.
        """
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT, sock_read=SILENCE)
        # The key is for this server, and not for the workers that it names.
        headers = self._headers if url.startswith(f"{self.address}/") else {}
        try:
            async with (
                aiohttp.ClientSession(timeout=timeout) as session,
                session.post(url, json=body, headers=headers) as response,
            ):
                if response.status != 200:
                    raise _refusal(response.status, await response.text())
                yield response
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
            raise MGMError(f"nobody answers at {self.address}; is the controller up?") from error
        except (TimeoutError, aiohttp.ClientError) as error:
            raise MGMError(LOST) from error
        except ValueError as error:
            if isinstance(error, MGMError):
                raise
            raise MGMError(f"{self.address} answers with what is no JSON") from error


def _more(heard: PartialResponse, event: Any) -> PartialResponse:
    """What was heard after one more event of a chat."""
    if "error" in event:
        raise MGMError(event["error"].get("message") or LOST)
    for choice in event.get("choices", []):
        delta = choice.get("delta", {})
        heard = PartialResponse(heard.text + (delta.get("content") or ""), heard.drawn)
        for image in delta.get("images", []):
            content = image["image_url"]["url"].partition(",")[2]
            heard = PartialResponse(heard.text, base64.b64decode(content))
    return heard


def _refusal(status: int, text: str) -> Exception:
    """What a bad response means."""
    try:
        said = json.loads(text)
    except ValueError:
        said = None
    error = said.get("error") if isinstance(said, dict) else None
    if isinstance(error, dict) and (status, error.get("code"), error.get("message")) != (
        404, None, "Not Found",
    ):  # fmt: skip
        return MGMError(error.get("message") or f"the server refused ({status})")
    if status in (404, 405):
        return _OldServerError()
    return MGMError(f"the server answered {status}")
