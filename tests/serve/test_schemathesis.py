"""Requests that schemathesis makes of /openapi.json, to worker and controller."""

import json
from contextlib import suppress

import pytest

import mgm
from mgm.serve.http.wire import parse_worker_address
from mgm.serve.router.app import Controller, build_controller_app
from mgm.serve.router.worker_registry import WorkerRegistry
from mgm.serve.worker.app import build_worker_app
from mgm.serve.worker.worker import Limits, Worker
from tests.serve.servers import ask, running

schemathesis = pytest.importorskip("schemathesis")
hypothesis = pytest.importorskip("hypothesis")

pytestmark = pytest.mark.slow
EXAMPLES = 25  # of each endpoint, well-formed and again malformed
CHAT = {"model": "tiny", "messages": [{"role": "user", "content": "hi"}], "temperature": 0}


@pytest.fixture(scope="module")
def worker(tiny_folder):
    worker = Worker(mgm.load(tiny_folder, device="cpu"), ("tiny",), Limits(max_tokens=8))
    with running(build_worker_app(worker)) as address:
        yield address


@pytest.fixture(scope="module")
def controller(worker):
    """One that has the worker, which is not removed while its heartbeats are made up."""
    registry = WorkerRegistry()
    with running(build_controller_app(Controller(registry))) as address:
        status = ask(f"{worker}/worker_get_status", {})[1]
        body = {"worker_name": worker, "check_heart_beat": False, "worker_status": status}
        assert ask(f"{address}/register_worker", body)[0] == 200
        assert parse_worker_address(worker) in registry.workers
        yield address


@pytest.mark.parametrize("server", ["worker", "controller"])
def test_no_request_breaks_a_server(server, request):
    address = request.getfixturevalue(server)
    expected = ask(f"{address}/v1/chat/completions", CHAT)[1]["choices"]
    schema = schemathesis.openapi.from_url(f"{address}/openapi.json")
    statuses: dict[str, set[int]] = {}
    for result in schema.get_all_operations():
        operation = result.ok()
        if "register" in operation.path:
            continue  # they would take the worker off, or put others on
        for mode in schemathesis.GenerationMode:
            statuses.setdefault(operation.label, set()).update(sent(operation, mode))
    assert statuses["POST /v1/chat/completions"] >= {200, 400}
    assert statuses["POST /v1/completions"] >= {200, 400}
    assert ask(f"{address}/v1/chat/completions", CHAT)[1]["choices"] == expected


def sent(operation, mode) -> set[int]:
    """The statuses of an endpoint's answers; each of them is checked."""
    statuses: set[int] = set()
    strategy = operation.as_strategy(generation_mode=mode)

    @hypothesis.settings(
        max_examples=EXAMPLES,
        deadline=None,
        database=None,
        derandomize=True,
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    @hypothesis.given(strategy)
    def check(case) -> None:
        if mode is schemathesis.GenerationMode.POSITIVE and isinstance(case.body, dict):
            case.body["model"] = "tiny"  # or all would end there
            case.body.pop("structured_outputs", None)  # which takes exactly one of its fields
        answer = case.call(timeout=30)
        statuses.add(answer.status_code)
        assert answer.status_code < 500, (case.body, answer.text)
        assert b"Traceback" not in answer.content
        if answer.status_code >= 400:
            error = json.loads(answer.content)["error"]
            assert set(error) == {"message", "type", "param", "code"}
            assert error["message"]
            assert "\n" not in error["message"]

    with suppress(hypothesis.errors.Unsatisfiable):  # without a parameter nothing is malformed
        check()
    return statuses
