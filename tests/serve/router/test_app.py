"""Controller and workers as processes that are killed, stopped and restarted."""

import base64
import io
import json
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from contextlib import ExitStack, suppress

import pytest
from PIL import Image

from mgm.serve.http.heartbeat import HeartbeatClient
from mgm.serve.router.app import Controller, build_controller_app
from mgm.serve.router.worker_registry import WorkerRegistry
from mgm.serve.worker.app import build_worker_app
from mgm.serve.worker.worker import Limits, Worker
from tests.serve.router.fake_worker import STATUS, fake_worker, json_answer
from tests.serve.servers import ask, frames, free_port, is_up, running, start, wait_for
from tests.tiny_model import build

openai = pytest.importorskip("openai")
pytestmark = pytest.mark.process


@pytest.fixture(scope="module")
def endless(tmp_path_factory):
    """A model whose answers always reach the token limit."""
    return build(tmp_path_factory.mktemp("models") / "endless", positions=8192, endless=True)


@pytest.fixture
def programs():
    """Processes that are stopped after the test."""
    started: list[subprocess.Popen[str]] = []
    yield started
    for process in started:
        with process:
            process.kill()


def worker_words(folder, port: int, controller: str, *more: str) -> list[str]:
    return [
        *("--model-path", str(folder), "--model-name", "m", "--device", "cpu"),
        *("--port", str(port), "--controller", controller),
        *("--worker", f"http://localhost:{port}", "--heartbeat-interval", "1", *more),
    ]


def models(controller: str) -> list[str]:
    return ask(f"{controller}/list_models", {})[1]["models"]


def long_body(stream: bool = True) -> dict:
    message = {"role": "user", "content": "hi"}
    body = {"model": "m", "messages": [message], "max_tokens": 4000, "temperature": 0}
    return body | {"stream": stream}


def read_all(url: str, body: dict, chunks: list[bytes], started: threading.Event) -> None:
    request = urllib.request.Request(url, json.dumps(body).encode())
    with urllib.request.urlopen(request, timeout=60) as response:
        chunks.append(response.read1())
        started.set()
        while chunk := response.read1():
            chunks.append(chunk)


def fixed_port() -> int:
    """A free port outside the ephemeral range, which no client connection can get."""
    for port in range(21100, 21200):
        with suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port
    raise AssertionError("no port is free")


def start_logging(port: int) -> subprocess.Popen[str]:
    """Start a controller whose log is read continuously, so that its pipe does not fill."""
    process = start("controller", "--port", str(port))
    threading.Thread(target=process.stderr.read, daemon=True).start()
    return process


@pytest.mark.slow
def test_killed_workers_and_a_restarted_controller(endless, programs):
    ports = [free_port() for _ in range(3)]
    controller = f"http://localhost:{ports[0]}"
    programs.append(start("controller", "--port", str(ports[0]), "--heartbeat-timeout", "4"))
    for port in ports[1:]:
        words = worker_words(endless, port, controller)
        # By the real interpreter: SIGSTOP would stop the stand-in, not the process behind it.
        programs.append(start("model_worker", *words, python=sys.executable))
    wait_for(lambda: is_up(controller))
    wait_for(lambda: ask(f"{controller}/worker_get_status", {})[1]["speed"] == 2)

    # The official client and the published page, through the controller.
    client = openai.OpenAI(base_url=f"{controller}/v1", api_key="none", max_retries=0)
    assert [model.id for model in client.models.list()] == ["m"]
    settings = long_body(False) | {"max_tokens": 7}
    expected = client.chat.completions.create(**settings).choices[0].message.content
    chunks = client.chat.completions.create(**settings | {"stream": True})
    assert "".join(p.choices[0].delta.content or "" for p in chunks) == expected
    body = {"model": "m", "prompt": "hi", "max_new_tokens": 5, "temperature": 0}
    assert frames(f"{controller}/worker_generate_stream", body)[-1]["error_code"] == 0
    (none,) = frames(f"{controller}/worker_generate_stream", body | {"model": "x"})
    assert none["error_code"] == 2
    assert ask(f"{controller}/v1/chat/completions", settings | {"model": "x"})[0] == 404

    # A killed worker: its requests end with an error, and the other worker continues.
    streams: list[list[bytes]] = [[], [], [], []]
    threads = []
    for number, chunks in enumerate(streams):
        path = "v1/chat/completions" if number % 2 else "worker_generate_stream"
        request = long_body() if number % 2 else body | {"max_new_tokens": 4000}
        started = threading.Event()
        arguments = (f"{controller}/{path}", request, chunks, started)
        threads.append(threading.Thread(target=read_all, args=arguments))
        threads[-1].start()
        assert started.wait(30)
    programs[1].send_signal(signal.SIGKILL)
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
    ends = [b"".join(chunks) for chunks in streams]
    broken = [end for end in ends if b"worker disconnected before finishing" in end]
    # Two of them, unless a heartbeat with an older queue length came in between.
    assert 1 <= len(broken) <= 3
    for end in ends:
        if end not in broken:
            last = json.loads(end.split(b"\0")[-2]) if end.endswith(b"\0") else {}
            assert last.get("error_code") == 0 or b"[DONE]" in end
    for end in broken:
        if end.endswith(b"\0"):
            last = json.loads(end.split(b"\0")[-2])
            assert last["error_code"] == 3
    assert client.chat.completions.create(**settings).choices[0].message.content == expected
    assert ask(f"{controller}/worker_get_status", {})[1]["speed"] == 1

    # A hung worker is removed, and its requests end.
    chunks: list[bytes] = []
    started = threading.Event()
    thread = threading.Thread(
        target=read_all, args=(f"{controller}/v1/chat/completions", long_body(), chunks, started)
    )
    thread.start()
    assert started.wait(30)
    programs[2].send_signal(signal.SIGSTOP)
    thread.join(30)
    assert not thread.is_alive()
    assert b"worker disconnected before finishing" in b"".join(chunks)
    assert models(controller) == []
    programs[2].send_signal(signal.SIGCONT)

    # A restarted controller gets its worker back.
    wait_for(lambda: models(controller) == ["m"], 40)
    programs[0].kill()
    programs[0].communicate()
    programs[0] = start("controller", "--port", str(ports[0]))
    wait_for(lambda: is_up(controller) and models(controller) == ["m"], 40)
    assert client.chat.completions.create(**settings).choices[0].message.content == expected


def test_controller_restart_under_load(programs):
    port, seen, stop = fixed_port(), [], threading.Event()
    controller = f"http://localhost:{port}"
    body = {"model": "m", "messages": []}

    def ask_on() -> None:
        while not stop.wait(0.02):
            try:
                outcome: object = ask(f"{controller}/v1/chat/completions", body)[0]
            except OSError:
                outcome = "down"
            seen.append((time.monotonic(), outcome))

    def answer(connection: socket.socket, _: bytes) -> None:
        time.sleep(0.05)
        connection.sendall(json_answer({"ok": True}))

    with ExitStack() as stack:
        workers = [stack.enter_context(fake_worker(answer)) for _ in range(2)]
        for worker in workers:
            beat = HeartbeatClient(lambda: STATUS, worker.address, controller, interval=3.0)
            beat.start()  # before the controller listens
            stack.callback(beat.stop)
        programs.append(start_logging(port))
        wait_for(lambda: is_up(controller) and models(controller) == ["m"], 40)
        threads = [threading.Thread(target=ask_on) for _ in range(4)]
        for thread in threads:
            thread.start()
        stack.callback(lambda: [thread.join(20) for thread in threads])
        stack.callback(stop.set)
        time.sleep(1)
        programs[0].kill()
        programs[0].wait()
        killed = time.monotonic()
        programs.append(start_logging(port))
        # At their next heartbeat, or one or two seconds after a failed one.
        wait_for(lambda: is_up(controller) and models(controller) == ["m"], 40)
        back = time.monotonic()
        wait_for(lambda: time.monotonic() > back + 1, 5)
        stop.set()
        for thread in threads:
            thread.join(20)
        assert {outcome for when, outcome in seen if when < killed - 0.5} == {200}
        assert {outcome for when, outcome in seen if when > killed} <= {"down", 404, 200}
        after = [outcome for when, outcome in seen if when > back + 0.2]
        assert len(after) > 10
        assert set(after) == {200}


def test_published_style_worker_behind_the_controller(tmp_path):
    from benchmarks.published import eager_engine
    from benchmarks.published_worker import application

    published = application(eager_engine(build(tmp_path / "nano"), "cpu"))
    app = build_controller_app(Controller(WorkerRegistry()))
    pixel = io.BytesIO()
    Image.new("RGB", (8, 8)).save(pixel, "PNG")
    body = {"model": "m", "temperature": 0, "max_new_tokens": 6, "stop": "</s>"}
    prompts = [
        {"prompt": "hi"},
        {"prompt": "<image>\nhi", "images": [base64.b64encode(pixel.getvalue()).decode()]},
    ]
    with running(published) as worker, running(app) as controller:
        # The registration of a published worker, which does not read the response.
        registration = {
            "worker_name": worker,
            "check_heart_beat": True,
            "worker_status": {"model_names": ["m"], "speed": 1, "queue_length": 0},
        }
        assert ask(f"{controller}/register_worker", registration)[0] == 200
        beat = {"worker_name": worker, "queue_length": 0}
        assert ask(f"{controller}/receive_heart_beat", beat) == (200, {"exist": True})
        response = ask(f"{controller}/get_worker_address", {"model": "m"})
        assert response == (200, {"address": worker})
        for prompt in prompts:
            direct = frames(f"{worker}/worker_generate_stream", body | prompt)
            assert len(direct) > 1
            assert frames(f"{controller}/worker_generate_stream", body | prompt) == direct


def test_sigterm_finishes_running_requests(endless, programs):
    ports = [free_port() for _ in range(2)]
    controller = f"http://localhost:{ports[0]}"
    programs.append(start("controller", "--port", str(ports[0])))
    worker = start("model_worker", *worker_words(endless, ports[1], controller))
    programs.append(worker)
    wait_for(lambda: is_up(controller) and models(controller) == ["m"])
    chunks: list[bytes] = []
    started = threading.Event()
    url = f"http://localhost:{ports[1]}/v1/chat/completions"
    body = long_body() | {"max_tokens": 400}
    thread = threading.Thread(target=read_all, args=(url, body, chunks, started))
    thread.start()
    assert started.wait(30)
    worker.send_signal(signal.SIGTERM)
    thread.join(60)
    assert b"".join(chunks).endswith(b"data: [DONE]\n\n")
    assert worker.wait(30) in (0, -signal.SIGTERM)
    assert models(controller) == []


@pytest.mark.slow
def test_nested_controllers(endless):
    import mgm

    worker = Worker(mgm.load(endless, device="cpu"), ("m",), Limits(max_concurrency=2))
    top = Controller(WorkerRegistry())
    with (
        running(build_worker_app(worker)) as below,
        running(build_controller_app(top)) as above,
    ):
        middle = Controller(WorkerRegistry())
        port = free_port()
        heartbeat = HeartbeatClient(
            middle.registry.status, f"http://localhost:{port}", above, interval=0.1
        )
        middle.registry.register(below, worker.status(), False)
        import uvicorn

        config = uvicorn.Config(
            build_controller_app(middle, heartbeat), port=port, log_level="warning"
        )
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, daemon=True)
        thread.start()
        try:
            wait_for(lambda: models(above) == ["m"])
            body = long_body(False) | {"max_tokens": 4}
            direct = ask(f"{below}/v1/chat/completions", body)[1]["choices"]
            assert ask(f"{above}/v1/chat/completions", body)[1]["choices"] == direct
        finally:
            server.should_exit = True
            thread.join(20)
        wait_for(lambda: models(above) == [])


def test_invalid_requests():
    with running(build_controller_app(Controller(WorkerRegistry()), api_keys=["k"])) as address:
        key = {"Authorization": "Bearer k"}
        for path, body, text in (
            ("register_worker", {"worker_name": "file:///etc"}, "worker_name"),
            ("register_worker", {"worker_name": "http://localhost:1"}, "cannot be reached"),
            (
                "register_worker",
                {"worker_name": "http://localhost:1", "worker_status": {"speed": 1}},
                "status",
            ),
            (
                "receive_heart_beat",
                {"worker_name": "http://a", "queue_length": "x"},
                "queue_length",
            ),
            ("receive_heart_beat", [1], "body"),
            ("v1/chat/completions", {"messages": []}, "model"),
        ):
            status, answer = ask(f"{address}/{path}", body, **key)
            assert status == 400
            assert text in answer["error"]["message"]
        assert ask(f"{address}/list_models", {})[0] == 401
        unknown = ask(
            f"{address}/receive_heart_beat", {"worker_name": "http://a", "queue_length": 1}, **key
        )
        assert unknown == (200, {"exist": False})


def test_a_port_in_use(programs):
    with running(build_controller_app(Controller(WorkerRegistry()))) as address:
        port = address.rpartition(":")[2]
        process = start("controller", "--host", "127.0.0.1", "--port", port)
        programs.append(process)
        _, stderr = process.communicate(timeout=60)
        assert process.returncode == 2
        assert f"--port {port}: cannot listen there (Address already in use" in stderr
        assert len(stderr.strip().splitlines()) == 1


def test_controller_has_every_route_of_a_worker():
    worker = build_worker_app(Worker.__new__(Worker))
    controller = build_controller_app(Controller(WorkerRegistry()))
    paths = [
        {(route.path, method) for route in app.routes for method in route.methods}
        for app in (worker, controller)
    ]
    assert paths[0] <= paths[1]


def test_model_by_name():
    registry = WorkerRegistry()
    registry.register("http://a", {"model_names": ["a/b"], "speed": 1, "queue_length": 0}, False)
    with running(build_controller_app(Controller(registry))) as address:
        assert ask(f"{address}/v1/models/a/b")[1]["id"] == "a/b"
        status, answer = ask(f"{address}/v1/models/c")
        assert status == 404
        assert answer["error"]["code"] == "model_not_found"
