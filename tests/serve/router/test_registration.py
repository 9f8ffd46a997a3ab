"""Who may register workers, and which bodies are accepted."""

import asyncio
import json
import logging

import aiohttp
import httpx
import pytest
from fastapi.testclient import TestClient

from mgm.errors import MGMError
from mgm.serve.http.server import accepted_keys
from mgm.serve.openai.errors import BadRequestError
from mgm.serve.router.app import Controller, build_controller_app
from mgm.serve.router.registration import REGISTRATION_PATHS, RegistrationPolicy
from mgm.serve.router.worker_registry import (
    MAX_QUEUE_LENGTH,
    MAX_SPEED,
    MAX_WORKERS,
    WorkerRegistry,
)
from tests.serve.router.fake_worker import STATUS, fake_worker, http, json_answer
from tests.serve.servers import ask, running

ADDRESS = "http://localhost:40000"
BODY = {"worker_name": ADDRESS, "worker_status": STATUS, "queue_length": 0}
LOCAL = "127.0.0.1"


def client_of(
    registry: WorkerRegistry | None = None,
    peer: str = LOCAL,
    api_keys: list[str] | None = None,
    **policy: object,
) -> TestClient:
    controller = Controller(registry or WorkerRegistry(), RegistrationPolicy(**policy))
    keys = accepted_keys(api_keys or [], controller.policy.worker_key)
    app = build_controller_app(controller, api_keys=keys)
    return TestClient(app, client=(peer, 1234), raise_server_exceptions=False)


def statuses(client: TestClient, **headers: str) -> set[int]:
    return {
        client.post(path, json=BODY, headers=headers).status_code for path in REGISTRATION_PATHS
    }


@pytest.mark.parametrize("peer", ["127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1"])
def test_loopback_needs_no_key(peer):
    assert statuses(client_of(peer=peer)) == {200}
    # Nor a client key, where clients need one.
    assert statuses(client_of(peer=peer, api_keys=["c"])) == {200}


@pytest.mark.parametrize(
    "peer", ["10.0.0.1", "192.168.1.2", "203.0.113.9", "fe80::1", "::ffff:10.0.0.1", "::", "x", ""]
)
def test_other_machines_need_a_key(peer):
    assert statuses(client_of(peer=peer)) == {403}
    assert statuses(client_of(peer=peer, api_keys=["c"]), Authorization="Bearer c") == {403}
    assert statuses(client_of(peer=peer, worker_key="w")) == {401}
    assert statuses(client_of(peer=peer, worker_key="w"), Authorization="Bearer w") == {200}
    assert statuses(client_of(peer=peer, trust_network=True)) == {200}
    text = client_of(peer=peer).post("/register_worker", json=BODY).json()["error"]["message"]
    assert "--worker-key" in text
    assert "--trust-network" in text


@pytest.mark.parametrize(
    "name",
    [
        *("Forwarded", "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto", "X-Real-IP"),
        *("Via", "X-Forwarded-Anything", "CF-Connecting-IP", "True-Client-IP", "X-Original-Host"),
        *("X-Envoy-External-Address", "Fastly-Client-IP", "Client-IP", "X-Client-IP", "CDN-Loop"),
        *("X-Azure-ClientIP", "X-Azure-SocketIP", "WL-Proxy-Client-IP", "Proxy-Client-IP"),
        *("X-Cluster-Client-IP", "X-Amzn-Trace-Id", "Fly-Client-IP", "X-Of-A-Proxy-To-Come"),
    ],
)
def test_local_proxies_need_a_key(name):
    for value in ("127.0.0.1", "for=127.0.0.1", "", "1.1 localhost"):
        assert statuses(client_of(), **{name: value}) == {403}
        assert statuses(client_of(trust_network=True), **{name: value}) == {200}
        assert statuses(client_of(worker_key="w"), Authorization="Bearer w", **{name: value}) == {
            200
        }


def test_own_network_address_needs_no_key():
    """Such as a worker that is started with the controller's network address."""
    own = ("10.0.0.1", 21001)
    for peer, server, status in (
        ("10.0.0.1", own, 200), ("10.0.0.2", own, 403), ("::ffff:10.0.0.1", own, 200),
        ("fd00::1", ("fd00::1", 1), 200), ("fd00:0::1", ("fd00::1", 1), 200),
        ("", ("", 1), 403), ("x", ("x", 1), 403), ("/run/socket", ("/run/socket", None), 403),
    ):  # fmt: skip
        assert _policy_status(client=(peer, 1), server=server) == status
    assert _policy_status(client=("10.0.0.1", 1), server=own, headers=[(b"via", b"x")]) == 403
    assert _policy_status(client=("10.0.0.1", 1), server=own, http_version="1.0") == 403
    assert _policy_status(client=None, server=None) == 403


def _policy_status(**scope: object) -> int:
    try:
        RegistrationPolicy().check({"headers": [], "http_version": "1.1"} | scope)
    except BadRequestError as error:
        return error.status
    return 200


def _library_headers(address: str) -> None:
    """Requests of every installed HTTP client."""
    url = f"{address}/register_worker"
    httpx.post(url, json=BODY).raise_for_status()
    requests = pytest.importorskip("requests")  # the published worker's body
    requests.post(url, json=BODY, timeout=5).raise_for_status()
    assert ask(url, BODY)[0] == 200

    async def by_aiohttp() -> int:
        async with aiohttp.ClientSession() as session, session.post(url, json=BODY) as response:
            return response.status

    assert asyncio.run(by_aiohttp()) == 200


def test_http_clients_are_not_taken_for_proxies():
    with running(build_controller_app(Controller(WorkerRegistry()))) as address:
        _library_headers(address)


@pytest.mark.parametrize("name", ["Origin", "Sec-Fetch-Site"])
def test_browsers_cannot_register_workers(name):
    for policy in ({}, {"trust_network": True}):
        assert statuses(client_of(**policy), **{name: "null"}) == {403}


@pytest.mark.parametrize(
    "given",
    ["", "w", "Bearer", "Bearer c", "Bearer w2", "Bearer ww", "Basic w", "Bearer W", "bearer\tw"],
)
def test_only_the_worker_key_counts(given):
    client = client_of(worker_key="w", api_keys=["c"])
    assert statuses(client) == {401}
    assert statuses(client, Authorization=given) == {401}
    assert statuses(client, Authorization="bearer  w") == {200}
    assert client.post("/list_models").status_code == 401
    for key in "cw":
        headers = {"Authorization": f"Bearer {key}"}
        assert client.post("/list_models", headers=headers).status_code == 200


def test_worker_key_and_trusted_network_conflict():
    with pytest.raises(MGMError, match="--trust-network"):
        RegistrationPolicy("w", True)


BAD_STATUS = [
    *(7, "x", [1], {"x": 1}, STATUS | {"model_names": []}, STATUS | {"model_names": "m"}),
    *(STATUS | {"model_names": [name]} for name in ("", 1, None, "a\nb", "a\x00", "a\u2028b")),
    *(STATUS | {"model_names": [name]} for name in ("a\x1b[1m", "a\u202eb", "x" * 257, "\x7f")),
    STATUS | {"model_names": ["m"] * 257},
    STATUS | {"drawers": ["a\rb"]},
    *(
        STATUS | {"speed": speed}
        for speed in (0, -1, 1e-300, 1e-6, 1e6, 1e300, "1", None, True, [1])
    ),
    *(STATUS | {"queue_length": n} for n in (-1, -1e9, -1e-9, 1e300, "0", None, False)),
]
# Values that json.dumps does not write.
RAW_STATUS = [
    '{"model_names": ["\\ud800"], "speed": 1, "queue_length": 0}',
    '{"model_names": ["a\\udfffb"], "speed": 1, "queue_length": 0}',
    *(
        f'{{"model_names": ["m"], "speed": {number}, "queue_length": 0}}'
        for number in ("NaN", "Infinity", "1e999", "9" * 400)
    ),
    *(
        f'{{"model_names": ["m"], "speed": 1, "queue_length": {number}}}'
        for number in ("NaN", "Infinity", "-Infinity", "-1e999", "9" * 400, "-" + "9" * 400)
    ),
]


@pytest.mark.parametrize("status", [*map(json.dumps, BAD_STATUS), *RAW_STATUS])
def test_malformed_status(status):
    registry = WorkerRegistry()
    client = client_of(registry)
    assert client.post("/register_worker", json=BODY).status_code == 200
    body = f'{{"worker_name": "http://localhost:2", "worker_status": {status}}}'
    response = client.post("/register_worker", content=body)
    assert response.status_code == 400
    assert response.json()["error"]["type"] == "invalid_request_error"
    # The same, in the status that a worker returns.
    with fake_worker(lambda *_: None, http(status.encode())) as worker:
        response = client.post("/register_worker", json={"worker_name": worker.address})
        assert response.status_code == 400
    assert set(registry.workers) == {ADDRESS}
    assert client.get("/health").json()["models"] == ["m"]
    assert len(client.get("/v1/models").json()["data"]) == 1


def test_errors_hide_pydantic():
    client = client_of()
    bad_name = BODY | {"worker_status": STATUS | {"model_names": ["a\nb"]}}
    for body in (BODY | {"worker_name": "{reason}"}, bad_name):
        message = client.post("/register_worker", json=body).json()["error"]["message"]
        assert "alue error" not in message
        assert message.startswith("Invalid 'worker_")
    assert (
        "{reason}' is not the address of a worker"
        in client.post("/register_worker", json={"worker_name": "{reason}"}).json()["error"][
            "message"
        ]
    )


@pytest.mark.parametrize(
    "length", ["-1", "-1e9", "NaN", "Infinity", "-Infinity", "9" * 400, '"1"', "null", "true", "[]"]
)
def test_malformed_heartbeat(length):
    registry = WorkerRegistry()
    client = client_of(registry)
    client.post("/register_worker", json=BODY)
    body = f'{{"worker_name": "{ADDRESS}", "queue_length": {length}}}'
    response = client.post("/receive_heart_beat", content=body)
    assert response.status_code == 400
    assert response.json()["error"]["param"] == "queue_length"
    assert registry.workers[ADDRESS].queue_length == 0


def test_heartbeat_restores_model_names():
    registry = WorkerRegistry()
    client = client_of(registry)
    other = BODY | {"worker_status": STATUS | {"model_names": ["other"]}}
    client.post("/register_worker", json=other)
    beat = {"worker_name": ADDRESS, "queue_length": 0}
    assert client.post("/receive_heart_beat", json=beat).json() == {"exist": True}
    assert registry.models == ["other"]
    client.post("/receive_heart_beat", json=beat | {"worker_status": STATUS})
    assert registry.models == STATUS["model_names"]


@pytest.mark.parametrize("path", [*REGISTRATION_PATHS, "/get_worker_address"])
@pytest.mark.parametrize(
    "body",
    [
        *(b"", b"{", b"[]", b"null", b"1", b'"x"', b"\xff", b"[" * 100_000, b"9" * 5000, b"{}"),
        *(b'{"worker_name": 1, "model": 1}', b'{"worker_name": "\\ud800", "model": ""}'),
        *(b'{"worker_name": null, "model": null}', b'{"worker_name": [], "model": []}'),
        b'{"worker_name": "http://a:1/?x\\r\\nforged", "model": {}}',
    ],
)
def test_malformed_bodies(path, body):
    response = client_of().post(path, content=body)
    assert response.status_code == 400
    assert set(response.json()["error"]) == {"message", "type", "param", "code"}


@pytest.mark.parametrize("path", ["/list_models", "/refresh_all_workers", "/worker_get_status"])
@pytest.mark.parametrize("body", [b"", b"{", b"null", b"\xff"])
def test_endpoints_without_a_body(path, body):
    assert client_of().post(path, content=body).status_code == 200


def test_names_are_escaped_in_the_log(caplog):
    registry = WorkerRegistry()
    client = client_of(registry)
    with caplog.at_level(logging.INFO, "mgm.serve"):
        client.post("/register_worker", json=BODY | {"worker_name": f"{ADDRESS}\nforged"})
        client.post("/get_worker_address", json={"model": "a\nforged"})
        client.post("/v1/chat/completions", content=b'{"model": "a\\n\\ud800forged"}')
        with fake_worker(lambda *_: None, http(b"\nforged\n", "500 \x1b[31mforged")) as worker:
            client.post("/register_worker", json={"worker_name": worker.address})
    assert caplog.records
    assert all(record.getMessage().isprintable() for record in caplog.records)


def test_at_most_1000_workers():
    registry = WorkerRegistry()
    client = client_of(registry)
    for number in range(MAX_WORKERS):
        registry.register(f"http://localhost:{number + 1}", STATUS, True)
    response = client.post("/register_worker", json=BODY)
    assert response.status_code == 400
    assert "1000" in response.json()["error"]["message"]
    # Registered workers may register again.
    registered = BODY | {"worker_name": "http://localhost:7"}
    assert client.post("/register_worker", json=registered).status_code == 200


def test_status_for_a_parent_controller_is_valid():
    registry = WorkerRegistry()
    for number in range(300):
        status = {
            "model_names": [f"m{number}"],
            "speed": MAX_SPEED,
            "queue_length": MAX_QUEUE_LENGTH,
        }
        registry.register(f"http://localhost:{number + 1}", status, True)
    WorkerRegistry().register(ADDRESS, registry.status(), True)


def test_worker_key_is_sent_to_keyed_workers_only():
    """Requests of the controller carry the worker key, never a client's."""
    with fake_worker(lambda connection, _: connection.sendall(json_answer({}))) as worker:
        for policy, sent in (({"worker_key": "w"}, b"Bearer w"), ({}, None)):
            with client_of(api_keys=["c"], **policy) as client:
                key = {"Authorization": "Bearer w"}
                body = {"worker_name": worker.address}
                assert client.post("/register_worker", json=body, headers=key).status_code == 200
                headers = {"Authorization": "Bearer c"}
                for path in ("/v1/chat/completions", "/worker_generate_stream"):
                    answer = client.post(path, json={"model": "m"}, headers=headers)
                    assert answer.status_code == 200
                client.post("/refresh_all_workers", headers=headers)
            requests = worker.requests + worker.status_requests
            assert len(requests) >= 4
            for request in requests:
                lines = request.split(b"\r\n")
                keys = [line for line in lines if line.lower().startswith(b"authorization")]
                assert keys == ([] if sent is None else [b"Authorization: " + sent])
            worker.requests.clear()
            worker.status_requests.clear()
