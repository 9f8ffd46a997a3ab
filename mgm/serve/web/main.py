"""The program `python -m mgm.serve.gradio_web_server`: serves the Gradio page."""

import argparse
import asyncio
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from mgm.errors import MGMError, Parser, one_line
from mgm.serve.http.server import checked_key
from mgm.serve.web.client import PageClient
from mgm.serve.web.feedback_log import FeedbackLog
from mgm.serve.web.handlers import Handlers
from mgm.serve.web.moderation import Moderator
from mgm.serve.web.page import Page

logger = logging.getLogger("mgm.serve")

ONCE, RELOAD = "once", "reload"
EXAMPLE_FOLDER = Path(__file__).parents[3] / "images"  # in a clone of the repository


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve the page until the program is stopped; returns the exit status."""
    options = parse_page_options(arguments)
    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr)
    logging.getLogger("mgm").setLevel(logging.INFO)
    if options.api_key is not None:
        checked_key(options.api_key, "--api-key")
    client = PageClient(options.controller_url, options.api_key)
    models = None
    if options.model_list_mode == ONCE:
        try:
            models = asyncio.run(client.models()) or None
        except MGMError as error:
            logger.warning("%s (the page retries when it is opened)", error)
    log = FeedbackLog(options.log_dir, options.log_conversations, options.log_images)
    handlers = Handlers(client, log, models, Moderator() if options.moderate else None)
    examples = EXAMPLE_FOLDER if EXAMPLE_FOLDER.is_dir() and not options.embed else None
    page = Page(handlers, examples, options.embed)
    try:
        page.serve(
            options.host, options.port, options.concurrency_count, options.share, options.max_upload
        )
    except OSError as error:
        address = f"--host {options.host} --port {options.port}"
        raise MGMError(f"{address}: {one_line(error)}; choose another port") from error
    return 0


def parse_page_options(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line of the page.

    Raises:
        MGMError: an option is invalid.
    """
    parser = Parser(
        prog="python -m mgm.serve.gradio_web_server",
        description="A web page to chat with models about images.",
    )
    _add_server_options(parser)
    _add_log_options(parser)
    options = parser.parse_args(arguments)
    if options.concurrency_count < 1 or options.max_upload < 1:
        raise MGMError("--concurrency-count and --max-upload: give numbers from 1")
    if not options.controller_url.startswith(("http://", "https://")):
        raise MGMError(f"--controller-url {options.controller_url}: give a URL, http://...")
    if options.moderate and not os.environ.get("OPENAI_API_KEY"):
        raise MGMError("--moderate: give OpenAI's key in the environment variable OPENAI_API_KEY")
    return options


def _add_server_options(parser: argparse.ArgumentParser) -> None:
    """Options of the page and of the controller behind it."""
    add = parser.add_argument
    add("--host", default="localhost", help="interface to listen on, default localhost")
    add("--port", type=int, default=7860, help="port to listen on, default 7860")
    add(
        "--controller-url",
        "--controller",
        metavar="URL",
        default="http://localhost:21001",
        help="URL of a controller, or of a worker; default http://localhost:21001",
    )
    add(
        "--api-key",
        metavar="KEY",
        default=os.environ.get("MGM_API_KEYS", "").split(",")[0] or None,
        help="API key of the controller; default: the first in MGM_API_KEYS",
    )
    add(
        "--concurrency-count",
        type=int,
        default=16,
        metavar="N",
        help="maximum answers streamed at the same time, default 16",
    )
    add(
        "--model-list-mode",
        choices=(ONCE, RELOAD),
        default=ONCE,
        help="request the list of models once at the start, or reload it with the page",
    )
    add("--share", action="store_true", help="get a public URL from Gradio's servers")
    add(
        "--moderate",
        action="store_true",
        help="check questions with OpenAI's moderation; its key in OPENAI_API_KEY",
    )
    add("--embed", action="store_true", help="chat only, without title and examples")
    add(
        "--max-upload",
        type=int,
        default=20,
        metavar="MB",
        help="maximum MiB of an image file, default 20",
    )


def _add_log_options(parser: argparse.ArgumentParser) -> None:
    """Options of the feedback log."""
    add = parser.add_argument
    add(
        "--log-dir",
        type=Path,
        default=Path("work_dirs/serve_log"),
        metavar="FOLDER",
        help="folder of the log of votes, default work_dirs/serve_log",
    )
    add("--log-conversations", action="store_true", help="log every conversation, too")
    add("--log-images", action="store_true", help="save the images of logged conversations")
