"""What `python -m mgm.serve.controller` does: share requests among workers."""

import argparse
import logging
from collections.abc import Sequence

from mgm.errors import MGMError, Parser
from mgm.serve.http.heartbeat import Heart
from mgm.serve.http.server import add_server_options, api_keys, serve
from mgm.serve.http.wire import EXPIRATION
from mgm.serve.router.app import Controller, controller_application
from mgm.serve.router.worker_registry import METHODS, SHORTEST_QUEUE, Dispatcher

logger = logging.getLogger("mgm.serve")


def main(words: Sequence[str] | None = None) -> int:
    """Run a controller; returns the exit status."""
    options = parse(words)
    keys = api_keys(options)
    controller = Controller(Dispatcher(options.dispatch_method, options.expiration), keys)
    heart = None
    if options.parent_controller is not None:
        address = options.own_address or f"http://localhost:{options.port}"
        key = keys[0] if keys else None
        heart = Heart(controller.dispatcher.status, address, options.parent_controller, key)
    app = controller_application(controller, heart, api_keys=keys, origins=options.cors_origin)
    logger.info("controller on http://%s:%d", options.host, options.port)
    return serve(app, options)


def parse(words: Sequence[str] | None) -> argparse.Namespace:
    """The options of the command line."""
    parser = Parser(
        prog="python -m mgm.serve.controller", description="Share requests among workers."
    )
    add_server_options(parser, port=21001)
    add = parser.add_argument
    add("--dispatch-method", choices=METHODS, default=SHORTEST_QUEUE, help="who gets a request")
    add(
        "--expiration",
        type=float,
        default=EXPIRATION,
        metavar="S",
        help=f"seconds after which a silent worker is forgotten, default {EXPIRATION:.0f}",
    )
    add("--parent-controller", metavar="URL", help="a controller that this one is a worker of")
    add("--own-address", metavar="URL", help="where that one reaches this one")
    options = parser.parse_args(words)
    if options.expiration <= 0:
        raise MGMError(f"--expiration {options.expiration}: give a number above 0")
    return options
