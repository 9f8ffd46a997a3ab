"""What keeps a worker registered, and what removes it."""

import asyncio
import time
from collections.abc import Awaitable, Callable

import pytest

from mgm.errors import MGMError
from mgm.serve.router import health_check
from mgm.serve.router.health_check import ATTEMPTS, HealthChecker
from mgm.serve.router.worker_client import WorkerClient
from mgm.serve.router.worker_registry import WorkerRegistry, WorkerStatus
from tests.serve.router.fake_worker import STATUS, fake_worker, http, json_answer


class FakeClient(WorkerClient):
    """Returns given statuses, and counts status requests."""

    def __init__(self, answer: Callable[[str], Awaitable[object]]) -> None:
        super().__init__()
        self.answer, self.count = answer, 0

    async def status(self, address: str) -> object:
        self.count += 1
        return await self.answer(address)


@pytest.fixture
def registry(monkeypatch):
    monkeypatch.setattr(health_check, "RETRY_INTERVAL", 0.01)
    registry = WorkerRegistry()
    registry.register("http://a", STATUS, False)
    return registry


async def until_checked(checker: HealthChecker) -> None:
    while checker._checks:
        await asyncio.gather(*checker._checks.values())


async def fails(_: str) -> object:
    raise MGMError("it does not answer")


def test_consecutive_failures_remove_a_worker(registry):
    async def run() -> None:
        outcomes = [False] * (ATTEMPTS - 1) + [True]

        async def at_last(address: str) -> object:
            return STATUS if outcomes.pop(0) else await fails(address)

        checker = HealthChecker(registry, FakeClient(at_last))
        worker = registry.workers["http://a"]
        checker.check(worker)
        checker.check(worker)  # one at a time
        await asyncio.sleep(0)
        assert worker.unhealthy
        await until_checked(checker)
        assert not outcomes
        assert not worker.unhealthy
        assert set(registry.workers) == {"http://a"}

        checker = HealthChecker(registry, FakeClient(fails))
        checker.check(worker)
        await until_checked(checker)
        assert checker.client.count == ATTEMPTS
        assert not registry.workers
        assert not registry.is_lost(worker)  # its running responses continue

    asyncio.run(run())


def test_worker_that_registers_again_stays(registry):
    async def run() -> None:
        async def comes_back(address: str) -> object:
            registry.remove(address)
            registry.register(address, STATUS, False)
            return await fails(address)

        checker = HealthChecker(registry, FakeClient(comes_back))
        checker.check(registry.workers["http://a"])
        await until_checked(checker)
        assert set(registry.workers) == {"http://a"}

    asyncio.run(run())


def test_lost_heartbeats_do_not_remove_a_responding_worker(registry, monkeypatch):
    monkeypatch.setattr(health_check, "WATCH_INTERVAL", 0.01)
    registry.heartbeat_timeout = 0.1
    alive = registry.register("http://alive", STATUS, True)
    hung = registry.register("http://hung", STATUS, True)

    async def answer(address: str) -> object:
        return STATUS if address == "http://alive" else await fails(address)

    async def run() -> None:
        client = FakeClient(answer)
        checker = HealthChecker(registry, client)
        watch = asyncio.create_task(checker.watch())
        await asyncio.sleep(0.05)
        assert client.count == 0
        await asyncio.sleep(0.6)
        watch.cancel()
        await until_checked(checker)
        # Workers without heartbeats, as other programs register them, are not checked.
        assert set(registry.workers) == {"http://a", "http://alive"}
        assert registry.workers["http://alive"] is alive
        assert 3 <= client.count <= 8  # at intervals: a status counts as a heartbeat
        assert registry.is_lost(hung)
        assert not registry.is_lost(alive)

    asyncio.run(run())


def test_worker_that_fails_during_a_check_is_removed_at_once(registry, monkeypatch):
    monkeypatch.setattr(health_check, "RETRY_INTERVAL", 60)
    hung = registry.register("http://hung", STATUS, True)

    async def hangs(address: str) -> object:
        registry.heartbeat_timeout = 0.0
        await asyncio.sleep(0.01)
        return await fails(address)

    async def run() -> None:
        checker = HealthChecker(registry, FakeClient(hangs))
        checker.check(hung)
        await asyncio.wait_for(until_checked(checker), 5)
        assert registry.is_lost(hung)

    asyncio.run(run())


def test_healthy_workers_are_preferred(registry):
    registry.register("http://b", STATUS | {"queue_length": 9}, False)
    registry.workers["http://a"].unhealthy = True
    assert registry.select("m").address == "http://b"
    assert registry.select("m", ["http://b"]).address == "http://a"


def test_concurrent_refreshes_are_shared_and_do_not_wait_for_hung_workers(registry, monkeypatch):
    monkeypatch.setattr(health_check, "REFRESH_TIMEOUT", 0.3)
    registry.register("http://hung", STATUS, False)

    async def answer(address: str) -> object:
        if address == "http://hung":
            await asyncio.sleep(60)
        return STATUS | {"model_names": ["new"]}

    async def run() -> None:
        client = FakeClient(answer)
        checker = HealthChecker(registry, client)
        start_time = time.monotonic()
        await asyncio.gather(*(checker.refresh() for _ in range(50)))
        assert time.monotonic() - start_time < 2
        assert client.count == 2
        assert registry.models == ["m", "new"]
        await checker.close()

    asyncio.run(run())


def test_refresh_is_rate_limited(registry):
    async def answer(_: str) -> object:
        return STATUS

    async def run() -> None:
        client = FakeClient(answer)
        checker = HealthChecker(registry, client)
        for _ in range(20):
            await checker.refresh()
        assert client.count == 1
        checker._last_refresh -= health_check.REFRESH_INTERVAL
        await checker.refresh()
        assert client.count == 2

    asyncio.run(run())


def test_refresh_checks_failing_workers(registry):
    async def run() -> None:
        checker = HealthChecker(registry, FakeClient(fails))
        await checker.refresh()
        assert set(registry.workers) == {"http://a"}  # not after a single failure
        await until_checked(checker)
        assert not registry.workers

    asyncio.run(run())


@pytest.mark.parametrize(
    "status",
    [
        b"no HTTP\r\n\r\n", http(b"{"), http(b"[" * 500_000), http(b"x" * 3_000_000), http(b"\xff"),
        http(b"{}", "503 Down"), http(b"9" * 100_000),
        b"HTTP/1.1 302 Found\r\nLocation: /worker_get_status\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 2\r\n\r\nxx",
        b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n" + b" " * 2_000_000, None,
    ],
)  # fmt: skip
def test_any_status_response(status, monkeypatch):
    monkeypatch.setattr("mgm.serve.router.worker_client.STATUS_TIMEOUT", 0.3)

    async def run() -> None:
        client = WorkerClient("k")
        try:
            start_time = time.monotonic()
            with pytest.raises(MGMError) as caught:
                await client.status(worker.address)
            assert time.monotonic() - start_time < 2
            assert str(caught.value).isprintable()
        finally:
            await client.close()

    with fake_worker(lambda *_: None, status) as worker:
        asyncio.run(run())
        assert len(worker.status_requests) == 1


def test_valid_status():
    async def run() -> object:
        client = WorkerClient()
        try:
            return await client.status(worker.address)
        finally:
            await client.close()

    with fake_worker(lambda *_: None, json_answer(STATUS)) as worker:
        assert asyncio.run(run()) == WorkerStatus(**STATUS)
