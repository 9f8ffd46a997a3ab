"""FastAPI application of a controller: worker registration, and requests relayed to workers."""

import asyncio
import logging
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, nullcontext
from typing import Annotated, Any

from fastapi import Depends, FastAPI, Request
from fastapi.responses import Response
from prometheus_client import CollectorRegistry, Counter, Gauge, generate_latest
from pydantic import BaseModel, Field

from mgm.serve.http.heartbeat import HeartbeatClient
from mgm.serve.http.middleware import build_app
from mgm.serve.http.openapi import describe_bodies
from mgm.serve.openai.errors import BodyModel, parse_body
from mgm.serve.openai.protocol import BODIES
from mgm.serve.openai.responses import model_list
from mgm.serve.router.health_check import HealthChecker
from mgm.serve.router.registration import (
    REGISTRATION_PATHS,
    Heartbeat,
    Registration,
    RegistrationPolicy,
    Unregistration,
)
from mgm.serve.router.relay import Relay, RelayedRequest
from mgm.serve.router.relay_response import LegacyErrors, OpenAIErrors, RelayResponse
from mgm.serve.router.worker_client import WorkerClient
from mgm.serve.router.worker_registry import WorkerRegistry

logger = logging.getLogger("mgm.serve")


class RoutedBody(BaseModel):
    """The only field of a relayed body that the controller reads: the model."""

    model: Annotated[str, Field(strict=True, min_length=1)]


class Controller:
    """State of a controller: registered workers, health checks, connections, metrics.

    Args:
        registry: registry of the workers.
        policy: who may register workers; its worker key authenticates the controller to workers.
    """

    def __init__(self, registry: WorkerRegistry, policy: RegistrationPolicy | None = None) -> None:
        self.registry, self.policy = registry, policy or RegistrationPolicy()
        self.created = int(time.time())
        self.client = WorkerClient(self.policy.worker_key)
        self.health = HealthChecker(registry, self.client)
        self.metrics = CollectorRegistry()
        outcomes = Counter(
            "mgm_controller_requests", "Relayed requests by outcome", ["outcome"],
            registry=self.metrics,
        )  # fmt: skip
        workers = Gauge("mgm_controller_workers", "Registered workers", registry=self.metrics)
        workers.set_function(lambda: len(registry.workers))
        self.relay = Relay(registry, self.client, self.health, outcomes)

    @asynccontextmanager
    async def running(self) -> AsyncGenerator[None]:
        """Watch heartbeats while the server runs; then stop health checks and close connections."""
        watch = asyncio.create_task(self.health.watch())
        try:
            yield
        finally:
            watch.cancel()
            await self.health.close()
            await self.client.close()

    @property
    def model_names(self) -> list[str]:
        """All models; image generation models come last."""
        return [*self.registry.models, *self.registry.image_models]


def build_controller_app(
    controller: Controller, heartbeat: HeartbeatClient | None = None, **options: Any
) -> FastAPI:
    """Build the FastAPI application of a controller.

    Args:
        controller: state of the controller.
        heartbeat: registers this controller as a worker of a parent controller.
        **options: options of `build_app`.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncGenerator[None]:
        heartbeats = heartbeat.lifespan(app) if heartbeat is not None else nullcontext()
        async with controller.running(), heartbeats:
            yield

    app = build_app(
        "mgm controller", lifespan=lifespan, keyless_paths=REGISTRATION_PATHS, **options
    )
    _add_status_endpoints(app, controller)
    _add_registration_endpoints(app, controller)
    _add_relayed_endpoints(app, controller)
    describe_bodies(
        app,
        {
            **BODIES,
            "/get_worker_address": RoutedBody,
            "/register_worker": Registration,
            "/unregister_worker": Unregistration,
            "/receive_heart_beat": Heartbeat,
        },
    )
    return app


def _add_status_endpoints(app: FastAPI, controller: Controller) -> None:
    """Health, metrics, models, and the status for a parent controller."""
    registry = controller.registry

    @app.get("/health")
    async def health() -> dict[str, Any]:
        return {"status": "ok", "models": registry.models}

    @app.get("/metrics")
    async def metrics() -> Response:
        return Response(generate_latest(controller.metrics), media_type="text/plain")

    @app.post("/worker_get_status")
    async def status() -> dict[str, Any]:
        return registry.status()

    @app.post("/refresh_all_workers")
    async def refresh() -> dict[str, list[str]]:
        await controller.health.refresh()
        return {"models": registry.models}

    @app.post("/list_models")
    async def list_models() -> dict[str, list[str]]:
        return {"models": registry.models}

    @app.post("/get_worker_address")
    async def worker_address(request: Request) -> dict[str, str]:
        worker = registry.select((await _body_of(request, RoutedBody)).model)
        return {"address": "" if worker is None else worker.address}

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        return model_list(controller.model_names, controller.created)

    @app.get("/v1/models/{name:path}")
    async def model(name: str) -> dict[str, Any]:
        if name not in controller.model_names:
            raise controller.relay.model_not_found(name)
        return model_list([name], controller.created)["data"][0]


def _add_registration_endpoints(app: FastAPI, controller: Controller) -> None:
    """Registration and heartbeats of workers, guarded by `controller.policy`."""
    registry = controller.registry

    async def check_sender(request: Request) -> None:
        controller.policy.check(request.scope)

    guarded = [Depends(check_sender)]

    @app.post("/register_worker", dependencies=guarded)
    async def register(request: Request) -> dict[str, bool]:
        body = await _body_of(request, Registration)
        status = body.worker_status or await controller.client.status(body.worker_name)
        worker = registry.register(body.worker_name, status, body.check_heart_beat)
        logger.info("registered %s: %.300s", worker.address, ", ".join(worker.names))
        return {"registered": True}

    @app.post("/unregister_worker", dependencies=guarded)
    async def unregister(request: Request) -> dict[str, bool]:
        registry.remove((await _body_of(request, Unregistration)).worker_name)
        return {"registered": False}

    @app.post("/receive_heart_beat", dependencies=guarded)
    async def heartbeat(request: Request) -> dict[str, bool]:
        body = await _body_of(request, Heartbeat)
        exists = registry.heartbeat(body.worker_name, body.queue_length, body.worker_status)
        return {"exist": exists}


def _add_relayed_endpoints(app: FastAPI, controller: Controller) -> None:
    """Endpoints of workers, whose requests are relayed to a worker with the model."""

    async def openai(request: Request) -> Response:
        relayed = await RelayedRequest.of(request, (await _body_of(request, RoutedBody)).model)
        return RelayResponse(controller.relay, relayed, OpenAIErrors())

    for path in BODIES:
        if path.startswith("/v1/"):
            app.post(path)(openai)
    # Its name in earlier versions.
    app.post("/v1/mined", include_in_schema=False)(openai)

    @app.post("/worker_generate_stream")
    async def generate_stream(request: Request) -> Response:
        relayed = await RelayedRequest.of(request, (await _body_of(request, RoutedBody)).model)
        return RelayResponse(controller.relay, relayed, LegacyErrors(), streams=True)


async def _body_of(request: Request, kind: type[BodyModel]) -> BodyModel:
    return parse_body(kind, await request.body())
