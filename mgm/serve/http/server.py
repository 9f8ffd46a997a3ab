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

SWITCH = 0.0002  # seconds that one thread keeps the interpreter from another
# Of uvicorn.Config. Addresses of clients are those of their sockets: whatever a Forwarded header
# says, anyone can say.
CONNECTION_SETTINGS: dict[str, Any] = {
    "http": LimitedProtocol,
    "timeout_keep_alive": KEEP_ALIVE,
    "timeout_graceful_shutdown": 600,  # seconds for what is running when the program has to end
    "ws": "none",
    "proxy_headers": False,
    "server_header": False,
    "access_log": False,
}


def add_server_options(parser: argparse.ArgumentParser, port: int) -> None:
    """Options of every server."""
    add = parser.add_argument
    add("--host", default="localhost", help="interface to listen at, default localhost")
    add("--port", type=int, default=port, help=f"default {port}")
    add(
        "--api-key",
        action="append",
        default=[],
        metavar="KEY",
        help="one that clients have to send; may come several times; default: those in the "
        "environment variable MGM_API_KEYS, separated by commas, or none",
    )
    add(
        "--cors-origin",
        action="append",
        default=[],
        metavar="URL",
        help="origin of web pages that may ask; may come several times; default: none",
    )


def api_keys(options: argparse.Namespace) -> list[str]:
    """The keys of which clients have to send one; none: the server is open to all.

    Raises:
        MGMError: one is empty, as an unset shell variable is, or cannot be sent in a header.
    """
    variable = os.environ.get("MGM_API_KEYS")
    keys = options.api_key or ([] if variable is None else variable.split(","))
    origin = "--api-key" if options.api_key else "the environment variable MGM_API_KEYS"
    return [checked_key(key, origin) for key in keys]


def checked_key(key: str, origin: str) -> str:
    """An API key that clients can send.

    Args:
        key: as the user gave it.
        origin: the flag or the environment variable that it comes from.

    Raises:
        MGMError: it is empty, or has other characters than letters, digits and signs of ASCII.
    """
    if not key.strip():
        raise MGMError(f"{origin}: the key is empty; give one, or leave {origin} out")
    if not all("!" <= character <= "~" for character in key):
        raise MGMError(
            f"{origin}: a key has a blank or a character that is not ASCII, which no client can "
            "send; choose letters, digits and signs"
        )
    return key


def add_worker_key_option(parser: argparse.ArgumentParser) -> None:
    """The key of workers, which controllers and workers share."""
    parser.add_argument(
        "--worker-key",
        metavar="KEY",
        help="key by which workers and controllers know one another, the same for all of them, "
        "apart from those of clients; default: the environment variable MGM_WORKER_KEY, or none",
    )


def worker_key(options: argparse.Namespace) -> str | None:
    """The key of workers, if there is one.

    Raises:
        MGMError: it is empty, cannot be sent in a header, or is a client's, too.
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
    """The keys of which a request has to carry one; none: the server is open to all.

    Controllers send the workers' key with each request to a worker, so that it is taken where
    clients need a key.
    """
    return [*clients, workers] if clients and workers is not None else list(clients)


def serve(
    app: FastAPI, options: argparse.Namespace, admission: ConcurrencyLimiter | None = None
) -> int:
    """Serve until SIGINT or SIGTERM; what is running then is finished, and nothing else begins.

    Raises:
        MGMError: the address is taken, or not of this machine.
    """
    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr)
    logging.getLogger("mgm").setLevel(logging.INFO)
    try:
        family = socket.AF_INET6 if ":" in options.host else socket.AF_INET
        taken = socket.create_server((options.host, options.port), family=family, backlog=2048)
    except (OSError, OverflowError) as error:
        reason = one_line(getattr(error, "strerror", None) or error)
        raise MGMError(
            f"--host {options.host} --port {options.port}: cannot be listened at ({reason}); "
            "choose another port"
        ) from error
    # What computes gives the interpreter up at every operation, and else gets it back 5 ms later.
    sys.setswitchinterval(SWITCH)
    config = uvicorn.Config(app, log_level="warning", **CONNECTION_SETTINGS)
    server = _Server(config, admission)
    server.run(sockets=[taken])
    return 0


class _Server(uvicorn.Server):
    """Lets nobody in from the signal on."""

    def __init__(self, config: uvicorn.Config, admission: ConcurrencyLimiter | None) -> None:
        super().__init__(config)
        self._admission = admission

    def handle_exit(self, sig: int, frame: object) -> None:
        if self._admission is not None:
            self._admission.closed = True
        super().handle_exit(sig, frame)  # ty: ignore[invalid-argument-type]
