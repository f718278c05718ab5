"""The rollout queue as its callers see it: records in and out, wire frames between, and patience while it is being restarted.

Owns the packing on the caller's side, one asynchronous client for actors with an event loop and one blocking client for the learner's thread. Ray
restarts a queue whose process died, and every call of it is idempotent: so a call that met its death is made again, until it has been away for
`PATIENCE_S`. What the queue itself says (`QueueError`, `Closed`, `WireError`) goes through.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

import ray

from actors.queue.records import PutResult, QueueCounts, QueueStatus, RefuseReason
from rlvr import wire
from rlvr.errors import ActorError, FiresteelError
from rlvr.records import Lease, Partial, Rollout, Unverified, Verdict, Version

logger = logging.getLogger(__name__)

T = TypeVar("T")
PATIENCE_S = 120.0
"""A queue that is away for longer is gone."""
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.05, 1.0
"""Between two tries; each pause is twice as long as the one before it."""


class QueueClient:
    """For event loops. Every call may raise Closed, QueueError, or ActorError when the queue is dead and does not come back."""

    def __init__(self, queue: Any, *, patience_s: float = PATIENCE_S) -> None:
        self._queue = queue
        self._patience_s = patience_s

    async def lease(self, n: int, *, generator: str, applied: Version, wait_s: float, holding: Sequence[str] | None = None) -> list[Lease]:
        """Leases of up to n completions together; empty where there is no work within wait_s.

        holding: the leases that the generator has. Others that the queue gave it were lost on the way, and end.
        """
        asked = (n, generator, str(applied), wait_s, None if holding is None else list(holding))
        return wire.unpack(await self._answer(lambda: self._queue.lease.remote(*asked)), list[Lease])

    async def put(self, rollouts: Sequence[Rollout], *, generator: str) -> list[PutResult]:
        """Hand finished rollouts in; the queue says of each whether it took it."""
        frame = wire.pack(list(rollouts))
        return await self._hand_in(lambda: self._queue.put.remote(generator, frame))

    async def applied(self, version: Version, *, generator: str) -> None:
        """The generator samples from this version now."""
        await self._answer(lambda: self._queue.applied.remote(generator, str(version)))

    async def hand_back(self, lease_id: str, partials: Sequence[Partial] = (), *, generator: str) -> int:
        """The generator will not finish this lease: its open places go to whoever asks next, with what was sampled of them.

        Returns how many places that were.
        """
        frame = wire.pack(list(partials))
        given_back: int = await self._answer(lambda: self._queue.hand_back.remote(generator, lease_id, frame))
        return given_back

    async def lease_unverified(self, n: int, *, verifier: str, wait_s: float, holding: Callable[[], Sequence[str]] | None = None) -> list[Unverified]:
        """Up to n answers to judge; empty where there is none within wait_s.

        holding: as of `lease`, but told only after the queue was away: a verifier asks several times at once, and else would end what another of its
        calls is just being given.
        """
        outage = _Outage(self._patience_s)

        def call() -> Awaitable[bytes]:
            held = list(holding()) if holding is not None and outage.num_failures else None
            answer: Awaitable[bytes] = self._queue.lease_unverified.remote(n, verifier, wait_s, held)
            return answer

        return wire.unpack(await _answered(call, outage), list[Unverified])

    async def put_verdicts(self, verdicts: Sequence[Verdict], *, verifier: str) -> list[PutResult]:
        """Hand verdicts in."""
        frame = wire.pack(list(verdicts))
        return await self._hand_in(lambda: self._queue.put_verdicts.remote(verifier, frame))

    async def beat(self, worker: str, *, role: str) -> None:
        """The worker is alive, though it has nothing to say."""
        await self._answer(lambda: self._queue.beat.remote(worker, role))

    async def expect(self, worker: str, *, role: str) -> None:
        """A worker is being started: the learner waits for it."""
        await self._answer(lambda: self._queue.expect.remote(worker, role))

    async def lost(self, worker: str) -> int:
        """A worker is dead or has left; returns how many completions of its leases are given to somebody else."""
        given_back: int = await self._answer(lambda: self._queue.lost.remote(worker))
        return given_back

    async def commit(self, step: int) -> None:
        """Every checkpoint that is kept covers the batches up to `step`: they are never asked for again."""
        await self._answer(lambda: self._queue.commit.remote(step))

    async def roll_back(self, step: int) -> int:
        """The weights go back to the checkpoint of `step`; returns the new lineage. Raises QueueError for a step that is committed away."""
        lineage: int = await self._answer(lambda: self._queue.roll_back.remote(step))
        return lineage

    async def counts(self) -> QueueCounts:
        return wire.unpack(await self._answer(lambda: self._queue.counts.remote()), QueueCounts)

    async def status(self) -> QueueStatus:
        return wire.unpack(await self._answer(lambda: self._queue.status.remote()), QueueStatus)

    async def close(self, *, is_finished: bool) -> QueueCounts:
        """End the queue: every waiter gets Closed. What an unfinished run holds stays in the journal. Returns the final counts."""
        return wire.unpack(await self._answer(lambda: self._queue.close.remote(is_finished)), QueueCounts)

    async def _hand_in(self, call: Callable[[], Awaitable[bytes]]) -> list[PutResult]:
        """Results of a hand-in. One that was made twice finds its own first try, of which the answer was lost: that was no refusal."""
        outage = _Outage(self._patience_s)
        results = wire.unpack(await _answered(call, outage), list[PutResult])
        if not outage.num_failures:
            return results
        return [PutResult(result.rollout_id) if result.refused is RefuseReason.DUPLICATE else result for result in results]

    async def _answer(self, call: Callable[[], Awaitable[T]]) -> T:
        return await _answered(call, _Outage(self._patience_s))


class BlockingQueueClient:
    """For a thread without an event loop: the learner's rank 0."""

    def __init__(self, queue: Any, *, patience_s: float = PATIENCE_S) -> None:
        self._queue = queue
        self._patience_s = patience_s

    def next_batch_frame(self, step: int, *, lineage: int, wait_s: float) -> bytes | None:
        """The frame of step `step`'s Batch, None where it is not complete within wait_s.

        Raises Closed, ActorError, or QueueError, also where the queue is in another lineage than the learner who asks.
        """
        outage = _Outage(self._patience_s)
        while True:
            try:
                frame: bytes | None = ray.get(self._queue.next_batch.remote(step, lineage, wait_s))
            except ray.exceptions.RayError as error:
                time.sleep(outage.pause_s(error))
            else:
                return frame


class _Outage:
    """How long the queue has been away for one call."""

    def __init__(self, patience_s: float) -> None:
        self._patience_s = patience_s
        self._began: float | None = None
        self.num_failures = 0

    def pause_s(self, error: Exception) -> float:
        """Seconds until the next try. Raises what the caller is to hear where there is none."""
        now = time.monotonic()
        if self._began is None:
            self._began = now
        if not _may_come_back(error) or now - self._began >= self._patience_s:
            raise _ours(error) from error
        if not self.num_failures:
            logger.info("the rollout queue is away (%s); asking again for up to %.0f s", type(error).__name__, self._patience_s)
        self.num_failures += 1
        return float(min(FIRST_PAUSE_S * 2 ** min(self.num_failures - 1, 10), LONGEST_PAUSE_S))


async def _answered(call: Callable[[], Awaitable[T]], outage: _Outage) -> T:
    while True:
        try:
            return await call()
        except ray.exceptions.RayError as error:
            pause_s = outage.pause_s(error)
        await asyncio.sleep(pause_s)


def _may_come_back(error: Exception) -> bool:
    """Whether the queue's process died or cannot be reached; one that could not even be built (a journal that it refuses) is not restarted."""
    return isinstance(error, ray.exceptions.RayActorError) and not error.actor_init_failed


def _ours(error: Exception) -> FiresteelError:
    """The queue's own error, or that the queue is gone."""
    cause = getattr(error, "cause", None)
    if isinstance(cause, FiresteelError):
        return cause
    if isinstance(error, ray.exceptions.RayActorError) and error.actor_init_failed:
        return ActorError(f"the rollout queue does not start: {str(error).strip().splitlines()[-1]}")
    return ActorError(f"the rollout queue does not answer: {type(error).__name__}")
