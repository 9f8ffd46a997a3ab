"""A client's disconnect cancels its request within two seconds, in every phase."""

import socket
import threading
import time

import pytest

import mgm
from mgm.serve.tools.tools import WorkerTools
from mgm.serve.worker.app import build_worker_app
from mgm.serve.worker.worker import Limits, Worker
from tests.serve.servers import ask, running, wait_for
from tests.serve.worker.conftest import send, within

MESSAGE = {"role": "user", "content": "hi"}
LONG = {"model": "e", "max_tokens": 2000, "temperature": 0, "seed": 1}
CHAT = ("/v1/chat/completions", LONG | {"messages": [MESSAGE]})
ENDPOINTS = {
    "chat": CHAT,
    "chat stream": (CHAT[0], CHAT[1] | {"stream": True}),
    "four choices": (CHAT[0], CHAT[1] | {"n": 4, "temperature": 1}),
    "completions": ("/v1/completions", LONG | {"prompt": ["a", "b"]}),
    "completions stream": ("/v1/completions", LONG | {"prompt": "a", "stream": True}),
    "published": ("/worker_generate_stream", {"prompt": "a", "max_new_tokens": 2000}),
}


def idle(worker: Worker) -> bool:
    """Whether no sequence runs or waits, and all slots are free."""
    return worker.limiter.length == 0 and not worker.engine.scheduler.busy


def close(connection: socket.socket) -> None:
    connection.close()


def half_close(connection: socket.socket) -> None:
    connection.shutdown(socket.SHUT_WR)


def reset(connection: socket.socket) -> None:
    linger = (1).to_bytes(4, "little") + bytes(4)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    connection.close()


@pytest.mark.parametrize("leave", [close, half_close, reset])
def test_eight_requests_without_streaming(endless_worker, endless_address, leave):
    connections = [send(endless_address, *CHAT) for _ in range(8)]
    wait_for(lambda: endless_worker.limiter.running == 8)
    wait_for(lambda: endless_worker.engine.scheduler.busy)
    with within(2, lambda: idle(endless_worker)):
        for connection in connections:
            leave(connection)
    for connection in connections:
        connection.close()


@pytest.mark.parametrize("endpoint", ENDPOINTS)
def test_every_endpoint(endless_worker, endless_address, endpoint):
    connection = send(endless_address, *ENDPOINTS[endpoint])
    wait_for(lambda: endless_worker.engine.scheduler.running)
    with within(2, lambda: idle(endless_worker)):
        connection.close()


def test_while_other_grammars_are_compiled(endless_worker, endless_address):
    """Waiting for a compilation takes no slot and no thread, so that others go on."""
    blocked = threading.Event()
    waiting = endless_worker._grammar_thread.submit(blocked.wait)
    body = CHAT[1] | {"structured_outputs": {"regex": "[a-c]+"}}
    connections = [send(endless_address, CHAT[0], body) for _ in range(20)]
    wait_for(lambda: endless_worker.limiter.waiting == 20)
    choice = CHAT[1] | {"structured_outputs": {"choice": ["a", "b"]}}
    assert ask(f"{endless_address}{CHAT[0]}", choice)[0] == 200
    with within(2, lambda: idle(endless_worker)):
        for connection in connections:
            connection.close()
    blocked.set()
    waiting.result()
    assert endless_worker._grammar_thread._work_queue.empty()


def test_while_images_are_downloaded(endless_worker, endless_address, dripping_site):
    image = {"type": "image_url", "image_url": {"url": f"{dripping_site}/a.png"}}
    message = {"role": "user", "content": [image]}
    downloader = endless_worker.images.downloader
    for path, body in (
        (CHAT[0], {"messages": [message]}),
        (CHAT[0], {"messages": [message], "stream": True}),
        ("/v1/attribution", {"messages": [message, {"role": "assistant", "content": "a"}]}),
        ("/worker_generate_stream", {"prompt": "<image>", "images": [f"{dripping_site}/a.png"]}),
    ):
        started = time.perf_counter()
        connection = send(endless_address, path, LONG | body)
        wait_for(lambda: downloader.running)
        assert (endless_worker.limiter.running, endless_worker.limiter.waiting) == (0, 1)
        with within(1, lambda: idle(endless_worker) and not downloader.running):
            connection.close()
        assert time.perf_counter() - started < downloader.timeout


def test_in_the_queue_and_during_prefill(endless_folder):
    """The engine is blocked in a step; a waiting request and a prompt are cancelled."""
    worker = Worker(mgm.load(endless_folder, device="cpu"), ("e",), Limits(max_concurrency=1))
    go_on = threading.Event()
    step = worker.engine.scheduler.step

    def wait_and_step() -> None:
        go_on.wait(20)
        step()

    worker.engine.scheduler.step = wait_and_step
    with running(build_worker_app(worker)) as address:
        first = send(address, *CHAT)
        wait_for(lambda: worker.engine.scheduler.busy)  # its prompt was not prefilled yet
        second = send(address, *CHAT)
        wait_for(lambda: worker.limiter.waiting == 1)
        with within(2, lambda: worker.limiter.waiting == 0):
            second.close()
        assert worker.limiter.running == 1
        first.close()
        time.sleep(0.2)  # so that the server has received it
        with within(2, lambda: idle(worker)):
            go_on.set()
        assert ask(f"{address}{CHAT[0]}", CHAT[1] | {"max_tokens": 1})[0] == 200


def test_during_preparation_of_the_prompt(endless_folder):
    """The thread finishes in the background, and what it submits is cancelled at once."""
    worker = Worker(mgm.load(endless_folder, device="cpu"), ("e",), Limits(max_concurrency=1))
    entered, go_on, left = threading.Event(), threading.Event(), threading.Event()
    listen = worker.engine.subscribe

    def slowly(*arguments):
        entered.set()
        go_on.wait(20)
        stream = listen(*arguments)
        left.set()
        return stream

    worker.engine.subscribe = slowly
    with running(build_worker_app(worker)) as address:
        connection = send(address, CHAT[0], CHAT[1] | {"max_tokens": 4000})
        assert entered.wait(20)
        with within(2, lambda: worker.limiter.length == 0):
            connection.close()
        go_on.set()
        with within(1, lambda: idle(worker)):
            assert left.wait(20)
        assert ask(f"{address}{CHAT[0]}", CHAT[1] | {"max_tokens": 1})[0] == 200


def test_during_image_generation(endless_folder):
    entered, go_on = threading.Event(), threading.Event()

    class Slow(WorkerTools):
        def generate_image(self, *_: object) -> bytes:
            entered.set()
            go_on.wait(20)
            return b"image"

    worker = Worker(mgm.load(endless_folder, device="cpu"), ("e",), tools=Slow("sdxl"))
    with running(build_worker_app(worker)) as address:
        body = {"model": "sdxl", "prompt": "a cat"}
        connections = [send(address, "/v1/images/generations", body) for _ in range(20)]
        entered.wait(20)
        wait_for(lambda: worker.image_limiter.length == 20)
        # More requests than slots wait for images, and text requests go on.
        assert ask(f"{address}{CHAT[0]}", CHAT[1] | {"max_tokens": 2}, timeout=5)[0] == 200
        with within(2, lambda: worker.image_limiter.length == 0):
            for connection in connections:
                connection.close()
        go_on.set()


def test_clients_that_do_not_read_keep_no_slot(endless_folder):
    """With an answer larger than the socket buffers."""
    worker = Worker(mgm.load(endless_folder, device="cpu"), ("e",), Limits(max_concurrency=1))
    body = {"prompt": "a" * 3000, "max_new_tokens": 1000, "temperature": 0}
    with running(build_worker_app(worker)) as address:
        with socket.socket() as connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            send(address, "/worker_generate_stream", body, connection)
            wait_for(lambda: worker.limiter.running)
            wait_for(lambda: worker.limiter.running == 0, 60)
            status, _ = ask(f"{address}{CHAT[0]}", CHAT[1] | {"max_tokens": 2}, timeout=5)
            assert status == 200
            content = b""
            while not content.endswith(b"0\r\n\r\n"):
                content += connection.recv(2**20)
        frames = content.count(b"\0")
        assert 2 < frames < 1000  # what could not be sent at once is sent in larger parts
        assert b'"finish_reason": "length"' in content
