"""The page's command line, and moderation."""

import asyncio
import os
import socket

import pytest
from fastapi import FastAPI, Request

from mgm.errors import MGMError
from mgm.serve.web.main import main, parse_page_options
from mgm.serve.web.moderation import Moderator
from tests.serve.servers import ask, free_port, running, start, wait_for


def test_published_flags():
    words = "--host 0.0.0.0 --port 1 --controller-url http://c --concurrency-count 3 --embed"
    options = parse_page_options([*words.split(), "--model-list-mode", "reload", "--share"])
    assert (options.controller_url, options.concurrency_count) == ("http://c", 3)
    assert options.share
    assert parse_page_options(["--controller", "http://c"]).controller_url == "http://c"


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ("--controller c", "give a URL"),
        ("--concurrency-count 0", "numbers from 1"),
        ("--model-list-mode never", "once"),
        ("--moderate", "OPENAI_API_KEY"),
    ],
)
def test_invalid_options(words, text, monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with pytest.raises(MGMError, match=text):
        parse_page_options(words.split())


@pytest.mark.process
def test_port_in_use():
    pytest.importorskip("gradio")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        words = ["--host", "127.0.0.1", "--port", str(port), "--model-list-mode", "reload"]
        with pytest.raises(MGMError, match=f"--port {port}: .*choose another port"):
            main(words)


@pytest.mark.process
def test_page_starts_without_a_controller(tmp_path):
    pytest.importorskip("gradio")
    port = free_port()
    words = ["--port", str(port), "--controller", f"http://localhost:{free_port()}"]
    process = start("gradio_web_server", *words, "--log-dir", str(tmp_path))
    try:

        def up() -> bool:
            assert process.poll() is None
            try:
                return ask(f"http://localhost:{port}/config", timeout=2)[0] == 200
            except OSError:
                return False

        wait_for(up, 60)
    finally:
        process.terminate()
        _, stderr = process.communicate(timeout=20)
    assert "cannot connect to http://localhost" in stderr
    assert "Traceback" not in stderr


def test_moderation(monkeypatch):
    app = FastAPI()
    seen = []

    @app.post("/v1/moderations")
    async def moderate(request: Request) -> dict:
        body = await request.json()
        seen.append((request.headers["authorization"], body["input"]))
        if body["input"] == "odd":
            return {"results": 7}
        return {"results": [{"flagged": body["input"] == "bad"}]}

    with running(app) as address:
        monkeypatch.setitem(os.environ, "OPENAI_BASE_URL", f"{address}/v1")
        monkeypatch.setitem(os.environ, "OPENAI_API_KEY", "secret")
        moderator = Moderator()
        asyncio.run(moderator.check("good"))
        with pytest.raises(MGMError, match="flagged"):
            asyncio.run(moderator.check("bad"))
        with pytest.raises(MGMError, match="does not respond"):
            asyncio.run(moderator.check("odd"))
    assert seen[0] == ("Bearer secret", "good")
    with pytest.raises(MGMError, match="does not respond"):
        asyncio.run(moderator.check("good"))
