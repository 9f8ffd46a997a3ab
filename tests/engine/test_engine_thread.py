"""The engine thread: callers that submit work do not wait for a step."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from mgm import MGMError, Request
from mgm.engine import engine_thread


def hold_steps(engine, monkeypatch) -> tuple[threading.Event, threading.Event]:
    """Block each step until the second event; the first is set when a step is blocked."""
    started, go = threading.Event(), threading.Event()
    original = engine.scheduler.step

    def step() -> None:
        started.set()
        assert go.wait(60)
        original()

    monkeypatch.setattr(engine.scheduler, "step", step)
    return started, go


def hold(started: threading.Event, go: threading.Event) -> None:
    started.set()
    assert go.wait(60)


def test_submit_while_a_step_runs(engine, monkeypatch):
    expected = [engine.answer([Request(text, max_new_tokens=5)])[0] for text in ("hi", "you")]
    started, go = hold_steps(engine, monkeypatch)
    engine.start()
    try:
        first = engine.stream(Request("hi", max_new_tokens=5))
        assert started.wait(60)
        # A step holds `step_lock` now: this would deadlock if it waited for the lock.
        with ThreadPoolExecutor(1) as pool:
            call = pool.submit(engine.stream, Request("you", max_new_tokens=5))
            second = call.result(30)
            go.set()
        assert ["".join(first), "".join(second)] == [one.text for one in expected]
        assert [first.answer, second.answer] == expected
    finally:
        go.set()
        engine.stop()


def test_dropping_a_stream_does_not_wait(engine, monkeypatch):
    started, go = hold_steps(engine, monkeypatch)
    engine.start()
    try:
        stream = engine.subscribe([Request("hi", max_new_tokens=50)], lambda *_: None)[0]
        assert started.wait(60)
        with ThreadPoolExecutor(1) as pool:
            pool.submit(stream.__del__).result(30)
        go.set()
        stream.close()  # runs after the step
        assert stream.answer.finish_reason == "cancelled"
        assert not engine.scheduler.busy
    finally:
        go.set()
        engine.stop()


@pytest.mark.parametrize(("max_seconds", "together"), [(60.0, 3), (0.0, 1)])
def test_calls_run_between_steps(engine, monkeypatch, max_seconds, together):
    monkeypatch.setattr(engine_thread, "MAX_CALL_SECONDS", max_seconds)
    done: list[str] = []
    original = engine.scheduler.step
    monkeypatch.setattr(engine.scheduler, "step", lambda: (done.append("step"), original()))
    started, go = threading.Event(), threading.Event()
    engine.start()
    try:
        engine._core.run_soon(lambda: hold(started, go))
        assert started.wait(60)
        stream = engine.stream(Request("hi", max_new_tokens=8))
        for _ in range(3):
            engine._core.run_soon(lambda: done.append("work"))
        go.set()
        assert "".join(stream)
    finally:
        engine.stop()
    if together == 1:  # a step runs after each call, except the first, which started the answer
        assert done[:6] == ["step", "work", "step", "work", "step", "work"]
    else:
        assert done[:4] == ["work", "work", "work", "step"]


def test_errors_of_calls_reach_the_caller(engine):
    engine.start()

    def fails() -> None:
        raise MGMError("no")

    try:
        with pytest.raises(MGMError, match=r"^no$"):
            engine.run_in_engine(fails)
        assert engine.run_in_engine(lambda: threading.current_thread().name) == "engine"
        running = engine._core._thread
    finally:
        engine.stop()
    with pytest.raises(MGMError, match="stopped"):
        running.submit(fails)
    assert engine.run_in_engine(lambda: threading.current_thread().name) == "MainThread"
