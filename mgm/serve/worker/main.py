"""The program `python -m mgm.serve.model_worker`: loads a model and serves it."""

import argparse
import logging
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mgm.engine.scheduler.config import SchedulerConfig
from mgm.errors import MGMError, Parser
from mgm.serve.common.model_args import add_model_options, check_model_options, load_from_options
from mgm.serve.http.heartbeat import HeartbeatClient, split_controller_url
from mgm.serve.http.server import (
    accepted_keys,
    add_server_options,
    add_worker_key_option,
    api_keys,
    serve,
    worker_key,
)
from mgm.serve.http.wire import HEARTBEAT_INTERVAL, parse_worker_address
from mgm.serve.tools.tools import WorkerTools
from mgm.serve.worker.image_download import DOWNLOAD_TIMEOUT, ImageDownloader

if TYPE_CHECKING:
    from mgm.serve.worker.worker import Worker

logger = logging.getLogger("mgm.serve")

MAX_INTERVAL = 86400.0  # seconds between two heartbeats


def main(arguments: Sequence[str] | None = None) -> int:
    """Load the model and serve it; returns the exit status."""
    options = parse_worker_options(arguments)
    # After parsing: these load torch, which --help does without.
    from mgm.serve.worker.app import build_worker_app
    from mgm.serve.worker.image_fetcher import ImageFetcher
    from mgm.serve.worker.worker import Limits, Worker

    keys, key = api_keys(options), worker_key(options)
    if keys and key is None and not options.no_register:
        logger.warning(
            "--api-key without --worker-key: controllers cannot relay requests to this worker"
        )
    attention = "flash_attention_2" if options.use_flash_attn else None
    tools = WorkerTools(options.gen_model)
    config = SchedulerConfig(max_num_seqs=options.limit_model_concurrency)
    engine = load_from_options(options, attention=attention, scheduler_config=config)
    name = options.model_name or _model_name(options.model_path)
    # Downloads can fill the queue, but the slots stay free for requests without URLs.
    downloader = ImageDownloader(
        options.allow_private_urls, options.image_timeout, max_requests=max(options.max_queue, 1)
    )
    worker = Worker(
        engine,
        (name,),
        Limits(
            options.limit_model_concurrency,
            options.max_queue,
            options.max_new_tokens,
            options.request_timeout,
        ),
        ImageFetcher(downloader),
        tools,
    )
    heartbeat = _heartbeat(worker, options, key)
    app = build_worker_app(
        worker,
        api_keys=accepted_keys(keys, key),
        origins=options.cors_origin,
        lifespan=None if heartbeat is None else heartbeat.lifespan,
    )
    logger.info("serving %s on http://%s:%d", name, options.host, options.port)
    return serve(app, options, worker.limiter)


def _heartbeat(
    worker: "Worker", options: argparse.Namespace, key: str | None
) -> HeartbeatClient | None:
    """Heartbeats to the controller; None with `--no-register`."""
    if options.no_register:
        return None
    return HeartbeatClient(
        worker.status,
        options.worker_address or f"http://localhost:{options.port}",
        options.controller_address,
        key,
        options.heartbeat_interval,
        lambda: worker.limiter.closed,
    )


def parse_worker_options(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line of a worker.

    Raises:
        MGMError: an option is invalid.
    """
    parser = Parser(prog="python -m mgm.serve.model_worker", description="Serve a model by HTTP.")
    add_server_options(parser, port=21002)
    add_worker_key_option(parser)
    add_model_options(parser)
    _add_registration_options(parser)
    _add_limit_options(parser)
    add = parser.add_argument
    add("--model-name", metavar="NAME", help="model name in the API; default: the folder's name")
    add("--device", help="cuda, cuda:1, mps or cpu; default: the fastest available one")
    add("--use-flash-attn", action="store_true", help="use FlashAttention-2 (flash-attn)")
    add(
        "--gen-model",
        metavar="FOLDER",
        help="text-to-image pipeline of diffusers, for /v1/images/generations",
    )
    add("--allow-private-urls", action="store_true", help="fetch images from private networks too")
    # Compat: every token is streamed at once, and every model is multi-modal.
    add("--stream-interval", type=int, default=1, help=argparse.SUPPRESS)
    add("--multi-modal", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    _check_options(options)
    return options


def _add_registration_options(parser: argparse.ArgumentParser) -> None:
    """Options for registration and heartbeats at the controller."""
    add = parser.add_argument
    add("--worker-address", "--worker", metavar="URL", help="URL of this worker for its controller")
    add(
        "--controller-address",
        "--controller",
        metavar="URL",
        default="http://localhost:21001",
        help="URL of the controller, default http://localhost:21001",
    )
    add(
        "--heartbeat-interval",
        type=float,
        default=HEARTBEAT_INTERVAL,
        metavar="S",
        help=f"seconds between two heartbeats to the controller, default {HEARTBEAT_INTERVAL:.0f}",
    )
    add("--no-register", action="store_true", help="serve without a controller")


def _add_limit_options(parser: argparse.ArgumentParser) -> None:
    """Options that limit concurrency, the queue, and tokens and seconds of a request."""
    add = parser.add_argument
    add(
        "--limit-model-concurrency",
        type=int,
        default=16,
        metavar="N",
        help="maximum requests running at the same time, default 16",
    )
    add(
        "--max-queue",
        type=int,
        default=64,
        metavar="N",
        help="maximum requests waiting in the queue; more get HTTP 429; default 64",
    )
    add(
        "--max-new-tokens",
        type=int,
        default=4096,
        metavar="N",
        help="maximum tokens per response, default 4096",
    )
    add(
        "--request-timeout",
        type=float,
        default=600,
        metavar="S",
        help="maximum seconds per response, default 600",
    )
    add(
        "--image-timeout",
        type=float,
        default=DOWNLOAD_TIMEOUT,
        metavar="S",
        help="seconds to download all images of a request, default %(default)g",
    )


def _check_options(options: argparse.Namespace) -> None:
    """Raise an MGMError if an option is out of range, or no URL."""
    for name in ("limit_model_concurrency", "max_new_tokens"):
        if getattr(options, name) < 1:
            flag = name.replace("_", "-")
            raise MGMError(f"--{flag} {getattr(options, name)}: give a number from 1")
    if options.max_queue < 0 or options.request_timeout <= 0:
        raise MGMError("--max-queue and --request-timeout: give positive numbers")
    if not 0 < options.heartbeat_interval <= MAX_INTERVAL:
        raise MGMError(
            f"--heartbeat-interval {options.heartbeat_interval}: give seconds above 0, at most "
            f"{MAX_INTERVAL:.0f}"
        )
    split_controller_url(options.controller_address)
    if options.worker_address is not None:
        parse_worker_address(options.worker_address)
    if not 0 < options.image_timeout < math.inf:
        raise MGMError(f"--image-timeout {options.image_timeout:g}: give a positive number")
    check_model_options(options)


def _model_name(path: str) -> str:
    """The folder's name; that of a checkpoint is preceded by its parent's, as published."""
    folder = Path(path)
    if folder.name.startswith("checkpoint-"):
        return f"{folder.parent.name}_{folder.name}"
    return folder.name
