"""The rollout queue as its callers see it: records in and out, wire frames between.

Owns the packing on the caller's side, one asynchronous client for actors with an event loop and one blocking client for the learner's thread.
"""

from collections.abc import Awaitable, Sequence
from typing import Any, TypeVar

import ray

from actors.queue.records import PutResult, QueueCounts, QueueStatus
from rlvr import wire
from rlvr.errors import ActorError, FiresteelError
from rlvr.records import Lease, Rollout, Unverified, Verdict, Version

T = TypeVar("T")


class QueueClient:
    """For event loops. Every call may raise Closed, QueueError, or ActorError when the queue is dead."""

    def __init__(self, queue: Any) -> None:
        self._queue = queue

    async def lease(self, n: int, *, generator: str, applied: Version, wait_s: float) -> list[Lease]:
        """Leases of up to n completions together; empty where there is no work within wait_s."""
        return wire.unpack(await _answer(self._queue.lease.remote(n, generator, str(applied), wait_s)), list[Lease])

    async def put(self, rollouts: Sequence[Rollout], *, generator: str) -> list[PutResult]:
        """Hand finished rollouts in; the queue says of each whether it took it."""
        return wire.unpack(await _answer(self._queue.put.remote(generator, wire.pack(list(rollouts)))), list[PutResult])

    async def applied(self, version: Version, *, generator: str) -> None:
        """The generator samples from this version now."""
        await _answer(self._queue.applied.remote(generator, str(version)))

    async def hand_back(self, lease_id: str, *, generator: str) -> None:
        """The generator will not sample this lease: its places are given to whoever asks next."""
        await _answer(self._queue.hand_back.remote(generator, lease_id))

    async def lease_unverified(self, n: int, *, verifier: str, wait_s: float) -> list[Unverified]:
        """Up to n answers to judge; empty where there is none within wait_s."""
        return wire.unpack(await _answer(self._queue.lease_unverified.remote(n, verifier, wait_s)), list[Unverified])

    async def put_verdicts(self, verdicts: Sequence[Verdict], *, verifier: str) -> list[PutResult]:
        """Hand verdicts in."""
        return wire.unpack(await _answer(self._queue.put_verdicts.remote(verifier, wire.pack(list(verdicts)))), list[PutResult])

    async def beat(self, worker: str, *, role: str) -> None:
        """The worker is alive, though it has nothing to say."""
        await _answer(self._queue.beat.remote(worker, role))

    async def counts(self) -> QueueCounts:
        return wire.unpack(await _answer(self._queue.counts.remote()), QueueCounts)

    async def status(self) -> QueueStatus:
        return wire.unpack(await _answer(self._queue.status.remote()), QueueStatus)

    async def close(self) -> QueueCounts:
        """End the queue: every waiter gets Closed. Returns its final counts."""
        return wire.unpack(await _answer(self._queue.close.remote()), QueueCounts)


class BlockingQueueClient:
    """For a thread without an event loop: the learner's rank 0."""

    def __init__(self, queue: Any) -> None:
        self._queue = queue

    def next_batch_frame(self, step: int, *, wait_s: float) -> bytes | None:
        """The frame of step `step`'s Batch, None where it is not complete within wait_s. Raises Closed, QueueError or ActorError."""
        try:
            frame: bytes | None = ray.get(self._queue.next_batch.remote(step, wait_s))
        except ray.exceptions.RayError as error:
            raise _ours(error) from error
        return frame


async def _answer(call: Awaitable[T]) -> T:
    try:
        return await call
    except ray.exceptions.RayError as error:
        raise _ours(error) from error


def _ours(error: Exception) -> FiresteelError:
    """The queue's own error, or that the queue is gone."""
    cause = getattr(error, "cause", None)
    return cause if isinstance(cause, FiresteelError) else ActorError(f"the rollout queue does not answer: {type(error).__name__}")
