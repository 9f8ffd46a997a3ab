"""The program `python -m mgm.serve.controller`: registers workers and routes requests to them."""

import argparse
import logging
from collections.abc import Sequence

from mgm.errors import MGMError, Parser
from mgm.serve.http.heartbeat import HeartbeatClient
from mgm.serve.http.server import (
    accepted_keys,
    add_server_options,
    add_worker_key_option,
    api_keys,
    serve,
    worker_key,
)
from mgm.serve.http.wire import HEARTBEAT_TIMEOUT
from mgm.serve.router.app import Controller, build_controller_app
from mgm.serve.router.registration import RegistrationPolicy
from mgm.serve.router.worker_registry import DISPATCH_METHODS, SHORTEST_QUEUE, WorkerRegistry

logger = logging.getLogger("mgm.serve")

MAX_HEARTBEAT_TIMEOUT = 86400.0  # seconds


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a controller; returns the exit status."""
    options = parse_controller_options(arguments)
    key = worker_key(options)
    keys = accepted_keys(api_keys(options), key)
    registry = WorkerRegistry(options.dispatch_method, options.heartbeat_timeout)
    controller = Controller(registry, RegistrationPolicy(key, options.trust_network))
    heartbeat = None
    if options.parent_controller is not None:
        address = options.public_url or f"http://localhost:{options.port}"
        heartbeat = HeartbeatClient(registry.status, address, options.parent_controller, key)
    app = build_controller_app(controller, heartbeat, api_keys=keys, origins=options.cors_origin)
    logger.info("controller on http://%s:%d", options.host, options.port)
    return serve(app, options)


def parse_controller_options(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line of a controller.

    Raises:
        MGMError: an option is invalid.
    """
    parser = Parser(
        prog="python -m mgm.serve.controller",
        description="Register workers and balance requests among them.",
    )
    add_server_options(parser, port=21001)
    add_worker_key_option(parser)
    add = parser.add_argument
    add(
        "--trust-network",
        action="store_true",
        help="without a worker key: everyone who can reach the controller may register workers, "
        "which then get clients' requests; default: only programs on this machine may",
    )
    add(
        "--dispatch-method",
        choices=DISPATCH_METHODS,
        default=SHORTEST_QUEUE,
        help="load-balancing policy: lowest queue length, or random weighted by speed; default: "
        "%(default)s",
    )
    add(
        "--heartbeat-timeout",
        type=float,
        default=HEARTBEAT_TIMEOUT,
        metavar="S",
        help="seconds without a heartbeat before a worker is removed, unless it responds to a "
        f"health check; default {HEARTBEAT_TIMEOUT:.0f}",
    )
    add(
        "--parent-controller",
        metavar="URL",
        help="controller at which this one registers as a worker",
    )
    add("--public-url", metavar="URL", help="URL of this controller for its parent")
    options = parser.parse_args(arguments)
    if not 0 < options.heartbeat_timeout <= MAX_HEARTBEAT_TIMEOUT:
        raise MGMError(
            f"--heartbeat-timeout {options.heartbeat_timeout}: give seconds above 0, at most "
            f"{MAX_HEARTBEAT_TIMEOUT:.0f}"
        )
    return options
