"""Slots of requests, and the queue for them."""

import anyio
import pytest

from mgm.serve.http.concurrency_limit import ConcurrencyLimiter, QueueFullError


def test_requests_run_wait_and_are_refused():
    async def main() -> None:
        limiter = ConcurrencyLimiter(1, 1)
        async with limiter.queue() as first:
            assert (limiter.running, limiter.waiting) == (0, 1)
            await first.acquire()
            assert (limiter.running, limiter.waiting) == (1, 0)
            async with limiter.queue() as second:
                assert limiter.length == 2
                with pytest.raises(QueueFullError, match="1 requests are running and 1 are wait"):
                    async with limiter.queue():
                        pass
                with anyio.move_on_after(0.01) as scope:
                    await second.acquire()
                assert scope.cancelled_caught
                first.release()
                await second.acquire()
                assert (limiter.running, limiter.waiting) == (1, 0)
        assert limiter.length == 0

    anyio.run(main)


def test_requests_that_do_not_want_a_slot_yet_fill_the_queue():
    async def main() -> None:
        limiter = ConcurrencyLimiter(1, 1)
        async with limiter.queue(), limiter.queue():
            with pytest.raises(QueueFullError):
                async with limiter.queue():
                    pass

    anyio.run(main)


@pytest.mark.parametrize("sequences", [1, 3])
def test_the_last_sequence_releases_the_slot(sequences):
    async def main() -> None:
        limiter = ConcurrencyLimiter(1, 1)
        async with limiter.queue() as slot:
            await slot.acquire(sequences)
            for _ in range(sequences):
                assert limiter.running == 1
                slot.sequence_finished()
            assert limiter.length == 0
            async with limiter.queue() as next_slot:
                await next_slot.acquire()
                slot.sequence_finished()  # late news of one that was cancelled
                assert limiter.running == 1
        assert limiter.length == 0
        async with limiter.queue() as slot, limiter.queue() as other:
            await slot.acquire()
            with anyio.move_on_after(0.01) as scope:  # nothing was released twice
                await other.acquire()
            assert scope.cancelled_caught

    anyio.run(main)


def test_nobody_comes_in_when_it_is_closed():
    async def main() -> None:
        limiter = ConcurrencyLimiter(1, 1)
        limiter.closed = True
        with pytest.raises(QueueFullError, match="shutting down"):
            async with limiter.queue():
                pass

    anyio.run(main)
