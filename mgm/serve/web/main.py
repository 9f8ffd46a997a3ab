"""What `python -m mgm.serve.gradio_web_server` does: serve a page to chat on."""

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
EXAMPLES = Path(__file__).parents[3] / "images"  # in a clone of the repository


def main(words: Sequence[str] | None = None) -> int:
    """Serve the page until the program is ended; returns the exit status."""
    options = parse(words)
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
            logger.warning("%s; the page looks again when it is opened", error)
    log = FeedbackLog(options.log_dir, options.log_conversations, options.log_images)
    actions = Handlers(client, log, models, Moderator() if options.moderate else None)
    examples = EXAMPLES if EXAMPLES.is_dir() and not options.embed else None
    page = Page(actions, examples, options.embed)
    try:
        page.serve(
            options.host, options.port, options.concurrency_count, options.share, options.max_upload
        )
    except OSError as error:
        place = f"--host {options.host} --port {options.port}"
        raise MGMError(f"{place}: {one_line(error)}; choose another port") from error
    return 0


def parse(words: Sequence[str] | None) -> argparse.Namespace:
    """The options of the command line.

    Raises:
        MGMError: one of them is wrong.
    """
    parser = Parser(
        prog="python -m mgm.serve.gradio_web_server",
        description="A web page to chat with models about images.",
    )
    add = parser.add_argument
    add("--host", default="localhost", help="interface to listen at, default localhost")
    add("--port", type=int, default=7860, help="default 7860")
    add(
        "--controller-url",
        "--controller",
        metavar="URL",
        default="http://localhost:21001",
        help="a controller, or a worker that stands alone; default http://localhost:21001",
    )
    add(
        "--api-key",
        metavar="KEY",
        default=os.environ.get("MGM_API_KEYS", "").split(",")[0] or None,
        help="that the controller asks for; default: the first in MGM_API_KEYS",
    )
    add(
        "--concurrency-count",
        type=int,
        default=16,
        metavar="N",
        help="answers that are shown at once, default 16",
    )
    add(
        "--model-list-mode",
        choices=(ONCE, RELOAD),
        default=ONCE,
        help="when the page asks for the models: at its start, or whenever it is opened",
    )
    add("--share", action="store_true", help="a public address by Gradio's servers")
    add(
        "--moderate",
        action="store_true",
        help="have OpenAI's moderation look at questions; its key in OPENAI_API_KEY",
    )
    add("--embed", action="store_true", help="chat alone, without title and examples")
    add(
        "--log-dir",
        type=Path,
        default=Path("work_dirs/serve_log"),
        metavar="FOLDER",
        help="where votes go, default work_dirs/serve_log",
    )
    add("--log-conversations", action="store_true", help="keep every conversation there")
    add("--log-images", action="store_true", help="keep the images of what is kept there")
    add(
        "--max-upload",
        type=int,
        default=20,
        metavar="MB",
        help="of an image file, default 20",
    )
    options = parser.parse_args(words)
    if options.concurrency_count < 1 or options.max_upload < 1:
        raise MGMError("--concurrency-count and --max-upload: give numbers from 1")
    if not options.controller_url.startswith(("http://", "https://")):
        raise MGMError(f"--controller-url {options.controller_url}: give a URL, http://...")
    if options.moderate and not os.environ.get("OPENAI_API_KEY"):
        raise MGMError("--moderate: give OpenAI's key in the environment variable OPENAI_API_KEY")
    return options
