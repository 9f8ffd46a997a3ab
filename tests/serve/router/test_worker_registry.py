"""Load balancing over registered workers."""

import sys
import threading
import time
from collections import Counter

import pytest
from pydantic import ValidationError

from mgm.serve.router.worker_registry import (
    DISPATCH_METHODS,
    LOTTERY,
    MAX_SPEED,
    MIN_SPEED,
    SHORTEST_QUEUE,
    WorkerRegistry,
)


def status(*names: str, speed: float = 1, length: float = 0) -> dict:
    return {"model_names": list(names), "speed": speed, "queue_length": length}


def test_shortest_queue():
    registry = WorkerRegistry(SHORTEST_QUEUE)
    registry.register("a", status("m", length=3), True)
    registry.register("b", status("m", "n", speed=2), True)
    assert [registry.select("m").address for _ in range(8)] == ["b"] * 7 + ["a"]
    registry.finish_request(registry.workers["a"])
    assert registry.select("m", exclude=["b"]).address == "a"
    assert registry.select("m", exclude=["a", "b"]) is None
    assert registry.select("other") is None
    assert registry.models == ["m", "n"]
    assert registry.status() == {"model_names": ["m", "n"], "speed": 3, "queue_length": 11}


def test_lottery_is_weighted_by_speed():
    registry = WorkerRegistry(LOTTERY)
    registry.register("a", status("m", speed=3), True)
    registry.register("b", status("m", speed=1), True)
    drawn = Counter(registry.select("m").address for _ in range(4000))
    assert 0.70 < drawn["a"] / 4000 < 0.80


class Clock:
    """A fake clock that replaces `time.monotonic`."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(time, "monotonic", clock)
    return clock


def test_silent_and_expired_workers(clock):
    registry = WorkerRegistry()
    beats = registry.register("beats", status("m"), True)
    other = registry.register("does not have to", status("n"), False)
    clock.now += 29
    assert registry.heartbeat("beats", 2)
    clock.now += 29
    assert not registry.is_heartbeat_overdue(beats)
    clock.now += 2
    assert registry.is_heartbeat_overdue(beats)
    assert not registry.is_heartbeat_overdue(other)
    assert registry.models == ["m", "n"]  # until a health check fails
    assert registry.heartbeat("beats", 0)
    assert not registry.is_heartbeat_overdue(beats)
    clock.now += 31
    registry.remove("beats")  # it is draining
    assert not registry.is_lost(beats)
    beats.failed_check = True
    assert registry.is_lost(beats)
    registry.register("beats", status("m"), True)  # it came back
    assert not registry.is_lost(beats)


@pytest.mark.parametrize("method", DISPATCH_METHODS)
def test_failing_workers_back_off_exponentially(method, clock):
    registry = WorkerRegistry(method)
    broken = registry.register("broken", status("m", speed=100), False)
    registry.register("good", status("m", length=50), False)

    def chosen(count: int) -> set[str]:
        return {registry.select("m").address for _ in range(count)}

    registry.record_failure(broken)
    for backoff in (1, 2, 4, 8, 16, 30, 30):
        registry.record_failure(broken)  # concurrent failures count once
        assert chosen(20) == {"good"}
        clock.now += backoff + 0.1
        first = next(iter(chosen(1)))
        while first == "good":  # a lottery may draw it first
            first = next(iter(chosen(1)))
        assert chosen(20) == {"good"}  # one probe request
        registry.record_failure(broken)
    # Used if there is no other, and like others after a success.
    assert registry.select("m", ["good"]) is broken
    clock.now += 30.1
    assert registry.select("m", ["good"]) is broken
    registry.record_success(broken)
    assert "broken" in chosen(20)
    # A worker that fails every other request keeps its back-off; after an hour it starts over.
    registry.record_failure(broken)
    clock.now += 20
    assert chosen(20) == {"good"}
    clock.now += 3600
    assert registry.select("m", ["good"]) is broken
    registry.record_failure(broken)
    assert broken.backoff == 1


def test_worker_with_fewest_failures_is_chosen(clock):
    registry = WorkerRegistry()
    often = registry.register("often", status("m"), False)
    once = registry.register("once", status("m", length=9), False)
    registry.record_failure(often)
    clock.now += 1.1
    registry.record_failure(often)
    registry.record_failure(once)
    assert registry.select("m") is once


def test_speed_is_bounded():
    registry = WorkerRegistry()
    registry.register("fast", status("m", speed=MAX_SPEED), False)
    registry.register("honest", status("m"), False)
    drawn = Counter(registry.select("m").address for _ in range(500))
    assert drawn["honest"] >= 4
    for speed in (MIN_SPEED / 2, MAX_SPEED * 2, 1e6):
        with pytest.raises(ValidationError):
            registry.register("a", status("m", speed=speed), False)


@pytest.mark.parametrize(
    "wrong", [None, {}, status(), status("m", speed=0), status("m") | {"speed": "fast"}, [1]]
)
def test_invalid_status(wrong):
    with pytest.raises(ValidationError):
        WorkerRegistry().register("a", wrong, True)


def test_image_models_are_listed_and_not_used_for_chats():
    registry = WorkerRegistry()
    status = {"model_names": ["m"], "speed": 1, "queue_length": 0, "drawers": ["sdxl"]}
    registry.register("a", status, False)
    assert (registry.models, registry.image_models) == (["m"], ["sdxl"])
    assert registry.select("sdxl").address == "a"
    assert registry.status()["drawers"] == ["sdxl"]


def test_status_is_thread_safe():
    """Heartbeats to a parent controller run in a thread of their own."""
    registry, stop = WorkerRegistry(), threading.Event()

    def come_and_go() -> None:
        while not stop.is_set():
            for number in range(50):
                registry.register(f"{number}", status(f"m{number}"), True)
            for number in range(50):
                registry.remove(f"{number}")

    thread = threading.Thread(target=come_and_go)
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    thread.start()
    try:
        for _ in range(300):
            assert registry.status()["speed"] >= 1
    finally:
        stop.set()
        thread.join()
        sys.setswitchinterval(interval)
