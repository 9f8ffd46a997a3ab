"""Who gets a request."""

import time
from collections import Counter

import pytest

from mgm.errors import MGMError
from mgm.serve.router.worker_registry import LOTTERY, SHORTEST_QUEUE, Dispatcher


def status(*names: str, speed: float = 1, length: float = 0) -> dict:
    return {"model_names": list(names), "speed": speed, "queue_length": length}


def test_the_shortest_queue():
    dispatcher = Dispatcher(SHORTEST_QUEUE)
    dispatcher.register("a", status("m", length=3), True)
    dispatcher.register("b", status("m", "n", speed=2), True)
    assert [dispatcher.choose("m") for _ in range(7)] == ["b"] * 6 + ["a"]
    dispatcher.done("a")
    assert dispatcher.choose("m", but=["b"]) == "a"
    assert dispatcher.choose("m", but=["a", "b"]) is None
    assert dispatcher.choose("other") is None
    assert dispatcher.models == ["m", "n"]
    assert dispatcher.status() == {"model_names": ["m", "n"], "speed": 3, "queue_length": 10}


def test_the_lottery_draws_by_speed():
    dispatcher = Dispatcher(LOTTERY)
    dispatcher.register("a", status("m", speed=3), True)
    dispatcher.register("b", status("m", speed=1), True)
    drawn = Counter(dispatcher.choose("m") for _ in range(4000))
    assert 0.70 < drawn["a"] / 4000 < 0.80


def test_silent_workers_are_forgotten():
    dispatcher = Dispatcher(expiration=0.05)
    dispatcher.register("beats", status("m"), True)
    dispatcher.register("does not have to", status("n"), False)
    time.sleep(0.03)
    assert dispatcher.beat("beats", 2)
    time.sleep(0.03)
    assert dispatcher.alive("beats")
    time.sleep(0.06)
    assert not dispatcher.alive("beats")
    assert not dispatcher.beat("beats", 0)
    assert dispatcher.models == ["n"]


@pytest.mark.parametrize(
    "wrong", [None, {}, status(), status("m", speed=0), status("m") | {"speed": "fast"}, [1]]
)
def test_a_wrong_status(wrong):
    with pytest.raises(MGMError, match="status"):
        Dispatcher().register("a", wrong, True)


def test_what_draws_is_found_and_does_not_chat():
    dispatcher = Dispatcher()
    status = {"model_names": ["m"], "speed": 1, "queue_length": 0, "drawers": ["sdxl"]}
    dispatcher.register("a", status, False)
    assert (dispatcher.models, dispatcher.drawers) == (["m"], ["sdxl"])
    assert dispatcher.choose("sdxl") == "a"
    assert dispatcher.status()["drawers"] == ["sdxl"]
