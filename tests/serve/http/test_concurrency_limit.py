"""Slots for running requests, and the queue in front of them."""

import anyio
import pytest

from mgm.serve.http.concurrency_limit import ConcurrencyLimiter, QueueFullError


def test_slots_queue_and_rejection():
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


def test_requests_without_a_slot_count_as_queued():
    async def main() -> None:
        limiter = ConcurrencyLimiter(1, 1)
        async with limiter.queue(), limiter.queue():
            with pytest.raises(QueueFullError):
                async with limiter.queue():
                    pass

    anyio.run(main)


@pytest.mark.parametrize("sequences", [1, 3])
def test_slot_is_released_after_the_last_sequence(sequences):
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
                slot.sequence_finished()  # a late notification of a cancelled sequence
                assert limiter.running == 1
        assert limiter.length == 0
        async with limiter.queue() as slot, limiter.queue() as other:
            await slot.acquire()
            with anyio.move_on_after(0.01) as scope:  # released once only
                await other.acquire()
            assert scope.cancelled_caught

    anyio.run(main)


def test_closed_limiter_rejects_requests():
    async def main() -> None:
        limiter = ConcurrencyLimiter(1, 1)
        limiter.closed = True
        with pytest.raises(QueueFullError, match="shutting down"):
            async with limiter.queue():
                pass

    anyio.run(main)
