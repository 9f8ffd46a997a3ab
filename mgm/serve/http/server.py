"""Server start-up: shared options, API keys, uvicorn settings, graceful shutdown."""

import argparse
import logging
import os
import socket
import sys
from collections.abc import Sequence
from typing import Any

import uvicorn
from fastapi import FastAPI

from mgm.errors import MGMError, one_line
from mgm.serve.http.concurrency_limit import ConcurrencyLimiter
from mgm.serve.http.connection import KEEP_ALIVE, LimitedProtocol

# Seconds; by default (5 ms) the event loop waits too long for the engine thread to release the GIL.
THREAD_SWITCH_INTERVAL = 0.0002
# uvicorn's settings. Client addresses are those of sockets: anyone can send a Forwarded header.
CONNECTION_SETTINGS: dict[str, Any] = {
    "http": LimitedProtocol,
    "timeout_keep_alive": KEEP_ALIVE,
    "timeout_graceful_shutdown": 600,  # seconds for running requests after SIGTERM
    "ws": "none",
    "proxy_headers": False,
    "server_header": False,
    "access_log": False,
}


def add_server_options(parser: argparse.ArgumentParser, port: int) -> None:
    """Options of controller and worker."""
    add = parser.add_argument
    add("--host", default="localhost", help="interface to listen on, default localhost")
    add("--port", type=int, default=port, help=f"port to listen on, default {port}")
    add(
        "--api-key",
        action="append",
        default=[],
        metavar="KEY",
        help="API key that clients must send; may be repeated; default: those in the environment "
        "variable MGM_API_KEYS, separated by commas, or none",
    )
    add(
        "--cors-origin",
        action="append",
        default=[],
        metavar="URL",
        help="allowed CORS origin; may be repeated; default: none",
    )


def api_keys(options: argparse.Namespace) -> list[str]:
    """The API keys of the server; none: no authentication.

    Raises:
        MGMError: a key is empty (such as an unset shell variable), or cannot be sent in a header.
    """
    variable = os.environ.get("MGM_API_KEYS")
    keys = options.api_key or ([] if variable is None else variable.split(","))
    origin = "--api-key" if options.api_key else "the environment variable MGM_API_KEYS"
    return [checked_key(key, origin) for key in keys]


def checked_key(key: str, origin: str) -> str:
    """Check that a key can be sent in a header.

    Args:
        key: an API key or worker key.
        origin: flag or environment variable of the key.

    Raises:
        MGMError: the key is empty, or has characters that are not printable ASCII.
    """
    if not key.strip():
        raise MGMError(f"{origin}: the key is empty; give one, or leave {origin} out")
    if not all("!" <= character <= "~" for character in key):
        raise MGMError(
            f"{origin}: a key has a space or a character that is not ASCII, which no client can "
            "send; choose letters, digits and punctuation"
        )
    return key


def add_worker_key_option(parser: argparse.ArgumentParser) -> None:
    """The option for the key that controllers and workers share."""
    parser.add_argument(
        "--worker-key",
        metavar="KEY",
        help="key that authenticates workers and controllers to each other, shared by all of them "
        "and different from API keys; default: the environment variable MGM_WORKER_KEY, or none",
    )


def worker_key(options: argparse.Namespace) -> str | None:
    """The worker key, if there is one.

    Raises:
        MGMError: the key is empty, cannot be sent in a header, or is an API key, too.
    """
    flag = options.worker_key is not None
    key = options.worker_key if flag else os.environ.get("MGM_WORKER_KEY")
    if key is None:
        return None
    origin = "--worker-key" if flag else "the environment variable MGM_WORKER_KEY"
    if key in api_keys(options):
        raise MGMError(f"{origin}: it is an API key, too; clients must not know the workers' key")
    return checked_key(key, origin)


def accepted_keys(clients: Sequence[str], workers: str | None) -> list[str]:
    """The keys that authenticate a request: those of clients, and the worker key.

    Controllers send the worker key with each request to a worker. Without keys: no authentication.
    """
    return [*clients, workers] if clients and workers is not None else list(clients)


def serve(
    app: FastAPI, options: argparse.Namespace, limiter: ConcurrencyLimiter | None = None
) -> int:
    """Serve until SIGINT or SIGTERM, then finish running requests and refuse new ones.

    Args:
        app: application to serve.
        options: command-line options with host and port.
        limiter: closed at shutdown.

    Raises:
        MGMError: the address is in use, or not of this machine.
    """
    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr)
    logging.getLogger("mgm").setLevel(logging.INFO)
    try:
        family = socket.AF_INET6 if ":" in options.host else socket.AF_INET
        listener = socket.create_server((options.host, options.port), family=family, backlog=2048)
    except (OSError, OverflowError) as error:
        reason = one_line(getattr(error, "strerror", None) or error)
        raise MGMError(
            f"--host {options.host} --port {options.port}: cannot listen there ({reason}); "
            "choose another port"
        ) from error
    sys.setswitchinterval(THREAD_SWITCH_INTERVAL)
    config = uvicorn.Config(app, log_level="warning", **CONNECTION_SETTINGS)
    server = _Server(config, limiter)
    server.run(sockets=[listener])
    return 0


class _Server(uvicorn.Server):
    """uvicorn server that refuses new requests after the first SIGINT or SIGTERM."""

    def __init__(self, config: uvicorn.Config, limiter: ConcurrencyLimiter | None) -> None:
        super().__init__(config)
        self._limiter = limiter

    def handle_exit(self, sig: int, frame: object) -> None:
        if self._limiter is not None:
            self._limiter.closed = True
        super().handle_exit(sig, frame)  # ty: ignore[invalid-argument-type]
