"""The endpoints of a controller, which passes requests on to workers."""

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from prometheus_client import CollectorRegistry, Counter, Gauge, generate_latest

from mgm.errors import MGMError
from mgm.serve.http.heartbeat import Heart
from mgm.serve.http.middleware import application, json_body
from mgm.serve.http.wire import NO_WORKER, WORKER_GONE, frame
from mgm.serve.openai.errors import BadRequestError
from mgm.serve.openai.responses import SSE, error_body, event, models_body
from mgm.serve.router.worker_registry import Dispatcher

logger = logging.getLogger("mgm.serve")

CONNECT = 5.0  # seconds to reach a worker
LOOK = 1.0  # seconds between two looks at whether a silent worker still lives
PASSED_ON = ("chat/completions", "completions", "images/generations", "mined")  # of /v1
GONE = "the worker that wrote this answer is gone; ask again"


class Controller:
    """Passes requests on, and answers back as they come.

    Args:
        dispatcher: knows the workers.
        keys: one of which workers ask for, if any.
    """

    def __init__(self, dispatcher: Dispatcher, keys: Sequence[str] = ()) -> None:
        self.dispatcher = dispatcher
        self.created = int(time.time())
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "mgm_controller_requests", "Requests by how they went", ["outcome"],
            registry=self.registry,
        )  # fmt: skip
        workers = Gauge("mgm_controller_workers", "Workers that are known", registry=self.registry)
        workers.set_function(lambda: len(dispatcher.workers))
        self._own = {"Authorization": f"Bearer {keys[0]}"} if keys else {}
        self._session: aiohttp.ClientSession | None = None

    @property
    def session(self) -> aiohttp.ClientSession:
        """Connections to workers."""
        if self._session is None:
            timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT)
            connector = aiohttp.TCPConnector(limit=0)
            self._session = aiohttp.ClientSession(timeout=timeout, connector=connector)
        return self._session

    async def close(self) -> None:
        """Leave all connections."""
        if self._session is not None:
            await self._session.close()

    async def status_of(self, address: str) -> Any:
        """What a worker says of itself.

        Raises:
            MGMError: it does not answer.
        """
        try:
            timeout = aiohttp.ClientTimeout(total=CONNECT)
            url = f"{address}/worker_get_status"
            async with self.session.post(url, headers=self._own, timeout=timeout) as response:
                response.raise_for_status()
                return await response.json(content_type=None)
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            raise MGMError(f"the worker {address} does not answer") from error

    async def refresh(self) -> None:
        """Ask all workers how they are; forget those that do not answer."""
        for address, known in list(self.dispatcher.workers.items()):
            try:
                status = await self.status_of(address)
                self.dispatcher.register(address, status, known.heart_beats)
            except MGMError as error:
                logger.warning("%s; it is forgotten", error)
                self.dispatcher.forget(address)

    @asynccontextmanager
    async def asked(
        self, model: str, path: str, body: bytes, headers: dict[str, str]
    ) -> AsyncGenerator[tuple[str, aiohttp.ClientResponse]]:
        """A worker's response to a request, and its address; one that is gone is not asked again.

        Raises:
            BadRequestError: no worker has the model.
        """
        tried: list[str] = []
        while True:
            address = self.dispatcher.choose(model, tried)
            if address is None:
                self.requests.labels("no worker").inc()
                names = [*self.dispatcher.models, *self.dispatcher.drawers]
                found = ", ".join(names) or "none"
                raise BadRequestError(
                    f"no worker has the model {model!r:.100}; there are: {found}",
                    "model",
                    503 if tried else 404,
                    "model_not_found",
                )
            tried.append(address)
            try:
                response = await self._begun(address, path, body, headers)
            except (aiohttp.ClientError, TimeoutError, MGMError) as error:
                logger.warning("the worker %s is gone: %s", address, error)
                self.dispatcher.forget(address)
                continue
            try:
                yield address, response
            finally:
                response.close()
                self.dispatcher.done(address)
            return

    async def _begun(
        self, address: str, path: str, body: bytes, headers: dict[str, str]
    ) -> aiohttp.ClientResponse:
        request = self.session.post(f"{address}{path}", data=body, headers=headers)
        return await self._while_alive(address, request)

    async def pieces(self, address: str, response: aiohttp.ClientResponse) -> AsyncGenerator[bytes]:
        """What a worker sends.

        Raises:
            MGMError: it is gone.
        """
        try:
            while piece := await self._while_alive(address, response.content.readany()):
                yield piece
        except (aiohttp.ClientError, TimeoutError) as error:
            self.dispatcher.forget(address)
            raise MGMError(GONE) from error

    async def _while_alive(self, address: str, coming: Any) -> Any:
        """What comes from a worker, unless it is forgotten before it does."""
        task = asyncio.ensure_future(coming)
        try:
            while True:
                done, _ = await asyncio.wait([task], timeout=LOOK)
                if done:
                    return task.result()
                if not self.dispatcher.alive(address):
                    raise MGMError(GONE)
        finally:
            task.cancel()


def controller_application(
    controller: Controller, heart: Heart | None = None, **options: Any
) -> FastAPI:
    """The endpoints of a controller.

    Args:
        controller: that knows workers.
        heart: tells a controller above; None: there is none.
        **options: as for `application`.
    """
    dispatcher = controller.dispatcher

    @asynccontextmanager
    async def living(_: FastAPI) -> AsyncGenerator[None]:
        if heart is not None:
            heart.start()
        yield
        if heart is not None:
            heart.stop()
        await controller.close()

    app = application("mgm controller", lifespan=living, **options)

    @app.get("/health")
    async def health() -> dict[str, Any]:
        return {"status": "ok", "models": dispatcher.models}

    @app.get("/metrics")
    async def metrics() -> Response:
        return Response(generate_latest(controller.registry), media_type="text/plain")

    @app.post("/register_worker")
    async def register(request: Request) -> dict[str, bool]:
        body = await _object(request)
        address = _address(body)
        status = body.get("worker_status") or await controller.status_of(address)
        dispatcher.register(address, status, bool(body.get("check_heart_beat", True)))
        logger.info("registered %s: %s", address, ", ".join(dispatcher.workers[address].names))
        return {"registered": True}

    @app.post("/unregister_worker")
    async def unregister(request: Request) -> dict[str, bool]:
        dispatcher.forget(_address(await _object(request)))
        return {"registered": False}

    @app.post("/receive_heart_beat")
    async def beat(request: Request) -> dict[str, bool]:
        body = await _object(request)
        length = body.get("queue_length")
        if not isinstance(length, int | float) or isinstance(length, bool):
            raise BadRequestError("queue_length: give a number", "queue_length")
        return {"exist": dispatcher.beat(_address(body), length)}

    @app.post("/refresh_all_workers")
    async def refresh() -> dict[str, list[str]]:
        await controller.refresh()
        return {"models": dispatcher.models}

    @app.post("/list_models")
    async def list_models() -> dict[str, list[str]]:
        return {"models": dispatcher.models}

    @app.post("/get_worker_address")
    async def worker_address(request: Request) -> dict[str, str]:
        body = await _object(request)
        return {"address": dispatcher.choose(str(body.get("model"))) or ""}

    @app.post("/worker_get_status")
    async def status() -> dict[str, Any]:
        return dispatcher.status()

    @app.post("/worker_generate_stream")
    async def published(request: Request) -> StreamingResponse:
        body = await _object(request)
        stream = _published(controller, body, await request.body(), _passed_on(request))
        return StreamingResponse(stream, media_type="text/plain")

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        return models_body([*dispatcher.models, *dispatcher.drawers], controller.created)

    @app.post("/v1/{path:path}")
    async def openai(path: str, request: Request) -> Response:
        body = await _object(request)
        model = body.get("model")
        if not isinstance(model, str) or not model:
            raise BadRequestError("model: name one, see /v1/models", "model")
        if path not in PASSED_ON:
            raise BadRequestError(f"/v1/{path:.80}: is not here", status=404)
        passed = (model, f"/v1/{path}", await request.body(), _passed_on(request))
        return await _openai(controller, *passed)

    return app


async def _openai(
    controller: Controller, model: str, path: str, body: bytes, headers: dict[str, str]
) -> Response:
    """Pass a request of the OpenAI API on; a stream is passed back as it comes."""
    asked = controller.asked(model, path, body, headers)
    address, response = await asked.__aenter__()
    kind = response.headers.get("Content-Type", "application/json")
    streams = kind.startswith("text/event-stream")

    async def back() -> AsyncGenerator[bytes]:
        outcome = "ok"
        try:
            async for piece in controller.pieces(address, response):
                yield piece
        except MGMError as error:
            outcome = "gone"
            if not streams:
                raise
            yield event(error_body(str(error), "server_error"))
        finally:
            controller.requests.labels(outcome).inc()
            await asked.__aexit__(None, None, None)

    if streams:
        return StreamingResponse(back(), response.status, headers=SSE, media_type=kind)
    try:
        content = b"".join([piece async for piece in back()])
    except MGMError as error:
        return JSONResponse(error_body(str(error), "server_error"), 502)
    kept = {k: v for k, v in response.headers.items() if k.lower() == "retry-after"}
    return Response(content, response.status, headers=kept, media_type=kind)


async def _published(
    controller: Controller, body: dict[str, Any], raw: bytes, headers: dict[str, str]
) -> AsyncGenerator[bytes]:
    """Pass a published stream on; what goes wrong is its last frame."""
    ends = True  # whether the last piece ended a frame
    try:
        model = str(body.get("model"))
        async with controller.asked(model, "/worker_generate_stream", raw, headers) as asked:
            address, response = asked
            if response.status != 200:
                yield frame(f"the worker answered {response.status}", WORKER_GONE)
                return
            async for piece in controller.pieces(address, response):
                ends = piece.endswith(b"\0")
                yield piece
        controller.requests.labels("ok").inc()
    except BadRequestError as error:
        yield frame(str(error), NO_WORKER)
    except MGMError as error:
        controller.requests.labels("gone").inc()
        yield (b"" if ends else b"\0") + frame(str(error), WORKER_GONE)


async def _object(request: Request) -> dict[str, Any]:
    body = await json_body(request)
    if not isinstance(body, dict):
        raise BadRequestError("the body is no JSON object")
    return body


def _address(body: dict[str, Any]) -> str:
    address = body.get("worker_name")
    if not isinstance(address, str) or not address.startswith(("http://", "https://")):
        raise BadRequestError("worker_name: give the worker's URL", "worker_name")
    return address.rstrip("/")


def _passed_on(request: Request) -> dict[str, str]:
    """Headers that a worker has to see."""
    passed = {"Content-Type": "application/json"}
    if given := request.headers.get("authorization"):
        passed["Authorization"] = given
    return passed
