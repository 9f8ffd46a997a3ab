"""Who gets a request."""

import sys
import threading
import time
from collections import Counter

import pytest
from pydantic import ValidationError

from mgm.serve.router.worker_registry import LOTTERY, SHORTEST_QUEUE, WorkerRegistry


def status(*names: str, speed: float = 1, length: float = 0) -> dict:
    return {"model_names": list(names), "speed": speed, "queue_length": length}


def test_the_shortest_queue():
    registry = WorkerRegistry(SHORTEST_QUEUE)
    registry.register("a", status("m", length=3), True)
    registry.register("b", status("m", "n", speed=2), True)
    assert [registry.select("m").address for _ in range(7)] == ["b"] * 6 + ["a"]
    registry.done(registry.workers["a"])
    assert registry.select("m", exclude=["b"]).address == "a"
    assert registry.select("m", exclude=["a", "b"]) is None
    assert registry.select("other") is None
    assert registry.models == ["m", "n"]
    assert registry.status() == {"model_names": ["m", "n"], "speed": 3, "queue_length": 10}


def test_the_lottery_draws_by_speed():
    registry = WorkerRegistry(LOTTERY)
    registry.register("a", status("m", speed=3), True)
    registry.register("b", status("m", speed=1), True)
    drawn = Counter(registry.select("m").address for _ in range(4000))
    assert 0.70 < drawn["a"] / 4000 < 0.80


def test_silent_workers_are_removed():
    registry = WorkerRegistry(heartbeat_timeout=0.05)
    registry.register("beats", status("m"), True)
    registry.register("does not have to", status("n"), False)
    worker = registry.workers["beats"]
    time.sleep(0.03)
    assert registry.heartbeat("beats", 2)
    time.sleep(0.03)
    assert set(registry.workers) == {"beats", "does not have to"}
    assert not worker.timed_out
    time.sleep(0.06)
    assert not registry.heartbeat("beats", 0)
    assert worker.timed_out
    assert registry.models == ["n"]


@pytest.mark.parametrize(
    "wrong", [None, {}, status(), status("m", speed=0), status("m") | {"speed": "fast"}, [1]]
)
def test_a_wrong_status(wrong):
    with pytest.raises(ValidationError):
        WorkerRegistry().register("a", wrong, True)


def test_what_draws_is_found_and_does_not_chat():
    registry = WorkerRegistry()
    status = {"model_names": ["m"], "speed": 1, "queue_length": 0, "drawers": ["sdxl"]}
    registry.register("a", status, False)
    assert (registry.models, registry.drawers) == (["m"], ["sdxl"])
    assert registry.select("sdxl").address == "a"
    assert registry.status()["drawers"] == ["sdxl"]


def test_a_status_is_had_while_workers_come_and_go():
    """A parent's heartbeats have a thread of their own."""
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
