"""The rollout queue as a service: wire frames in and out, long polls, heartbeats, expiry by our clock.

Owns the waiting around `actors.queue.rollout_queue`, which decides everything. `actors.queue.actor` makes a Ray actor of it; knows no Ray itself.
A long poll waits at most `wait_s`, for a bell that rings when there may be something; closing raises `Closed` at all of them.
Everybody who works for the queue calls it, or `beat`, more often than every `silence_s`: who is silent longer loses its leases.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

from actors.journal.journal import JournalFacts
from actors.queue.bells import Bell, poll
from actors.queue.desks import SAMPLING
from actors.queue.fence import FENCE_S, Fence
from actors.queue.growth import Growth
from actors.queue.metrics import QueueMetrics
from actors.queue.opening import QueueSetup, open_queue
from actors.queue.producers import GENERATOR, VERIFIER, Producers
from actors.queue.records import QueueStatus
from rlvr.errors import QueueError
from rlvr.records import Batch, JudgedRollout, Partial, Rollout, Verdict, Version
from rlvr.wire import pack, unpack

__all__ = ["QueueService", "QueueSetup"]

logger = logging.getLogger(__name__)

T = TypeVar("T")
MAX_GAP_S = 2.0
"""What lies further apart than this between two looks at the heartbeats is a standstill of the queue itself."""


class QueueService:
    """One event loop calls it; every answer that holds records is a wire frame."""

    def __init__(self, setup_frame: bytes, clock: Callable[[], float] = time.monotonic) -> None:
        setup = unpack(setup_frame, QueueSetup)
        self._metrics = QueueMetrics()
        self._fence, self._growth = Fence(clock), Growth()
        self._queue, self._journal = open_queue(setup, clock=clock, observer=self._metrics, is_held=self._fence.is_up)
        if self._journal is not None:
            self._fence.heard()  # the first beat of the controller's lock comes right after the start, and the replay's time does not count
        self._incarnation = self._journal.incarnation if self._journal else 0
        self._clock = clock
        self._watched_at = clock()
        self._awake_s = 0.0  # seconds that this process has watched: where it stood still itself, nobody else was silent
        silence_s = setup.config.queue.silence_s if setup.silence_s is None else setup.silence_s
        self._producers = Producers(silence_s=silence_s, start_s=setup.start_s, clock=lambda: self._awake_s)
        for lease in self._queue.lease_status():  # of workers that may have died meanwhile: who stays silent loses them
            self._producers.heard(lease.worker, GENERATOR if lease.kind == SAMPLING else VERIFIER)
        self._tick_s = setup.tick_s
        self._metrics.opened(
            self._queue.counts(),
            incarnation=self._incarnation,
            torn_bytes=self._facts().torn_bytes,
            max_staleness=setup.config.rollout.max_staleness,
        )
        self._metrics_config = setup.config.metrics
        self._metrics_port = 0
        self._applied: dict[str, Version] = {}
        self._frame: tuple[int, int, bytes] = (0, 0, b"")  # lineage and step of the last batch, and how it was packed
        self._observed_step = self._queue.reached
        self._is_said = False  # that the controller is silent
        self._work, self._answers, self._batches, self._closing = Bell(), Bell(), Bell(), Bell()

    async def run(self) -> None:
        """Watch deadlines and heartbeats until the queue closes; whoever started the queue awaits this and hears of its errors."""
        while not self._queue.is_closed:
            self._watch()
            self._show()
            await self._closing.wait(self._tick_s)

    # --- generators

    async def lease(self, n: int, generator: str, applied: str, wait_s: float = 0.0, holding: Sequence[str] | None = None) -> bytes:
        """A list of `Lease` of up to n completions together, empty where there is no work within wait_s; a whole step in deterministic mode.

        holding: the ids of the leases that the generator has; others that it was given never reached it, and end.
        """
        await self._owned()
        self._producers.heard(generator, GENERATOR)
        self._end_unheard(generator, holding)
        self._note_applied(generator, Version.parse(applied))
        self._metrics.generators_waiting(1)
        try:
            leases = await self._poll(
                lambda: self._queue.leases(n, generator=generator, applied=self._applied[generator]),
                self._work,
                wait_s,
                is_over=self._is_lost_since_now(generator),
            )
        finally:
            self._metrics.generators_waiting(-1)
        return pack(list(leases or ()))

    async def put(self, generator: str, frame: bytes) -> bytes:
        """Takes a list of `Rollout`, answers with a list of `PutResult`."""
        await self._owned()
        self._producers.heard(generator, GENERATOR)
        rollouts = unpack(frame, list[Rollout])
        results = self._queue.put(rollouts)
        await self._durable()
        self._metrics.accepted(rollout for rollout, result in zip(rollouts, results, strict=True) if result.is_accepted)
        self._answers.ring()
        if not all(result.is_accepted for result in results):
            self._work.ring()
        return pack(list(results))

    async def hand_back(self, generator: str, lease_id: str, frame: bytes | None = None) -> int:
        """The generator will not finish this lease. Takes a list of `Partial` of what it has begun; returns how many completions others do."""
        await self._owned()
        self._producers.heard(generator, GENERATOR)
        given_back = self._queue.hand_back(lease_id, unpack(frame, list[Partial]) if frame else ())
        await self._durable()
        self._work.ring()
        return given_back

    async def applied(self, generator: str, version: str) -> None:
        """The generator samples from this version now."""
        await self._owned()
        self._producers.heard(generator, GENERATOR)
        self._note_applied(generator, Version.parse(version))

    # --- verifiers

    async def lease_unverified(self, n: int, verifier: str, wait_s: float = 0.0, holding: Sequence[str] | None = None) -> bytes:
        """A list of up to n `Unverified`, empty where there is none within wait_s. holding: as of `lease`."""
        await self._owned()
        self._producers.heard(verifier, VERIFIER)
        self._end_unheard(verifier, holding)
        is_over = self._is_lost_since_now(verifier)
        work = await self._poll(lambda: self._queue.lease_unverified(n, verifier=verifier), self._answers, wait_s, is_over=is_over)
        return pack(list(work or ()))

    async def put_verdicts(self, verifier: str, frame: bytes) -> bytes:
        """Takes a list of `Verdict`, answers with a list of `PutResult`."""
        await self._owned()
        self._producers.heard(verifier, VERIFIER)
        results = self._queue.put_verdicts(unpack(frame, list[Verdict]))
        await self._durable()
        self._batches.ring()
        self._work.ring()  # an excluded rollout gives its slot back
        return pack(list(results))

    # --- the learner

    async def next_batch(self, step: int, lineage: int, wait_s: float = 0.0) -> bytes | None:
        """The `Batch` of a step; None where it is not complete within wait_s. It is handed out once that is in the journal.

        Raises QueueError where it cannot fill for want of producers, and for a lineage that is not the present one.
        """
        await self._owned()
        await self._recall(step)
        batch = await self._poll(lambda: self._batch_or_producers(step, lineage), self._batches, wait_s)
        await self._durable()
        if batch is None:
            return None
        if self._frame[:2] != (batch.lineage, step):
            self._frame = (batch.lineage, step, pack(batch))
        if step > self._observed_step:
            self._observed_step = step
            self._metrics.trained(batch)
        return self._frame[2]

    async def commit(self, step: int) -> None:
        """Every checkpoint that is kept covers the batches up to `step`: what the journal holds of them alone is removed."""
        await self._owned()
        before = self._facts()
        self._queue.commit(step)
        if self._journal is not None:
            self._journal.compact(self._queue.state.snapshot())
            await self._durable()
            self._growth.committed(self._facts().num_bytes)
            logger.info("step=%d is committed, the journal was %d bytes in %d segments", step, before.num_bytes, before.segments)

    async def roll_back(self, step: int) -> int:
        """The learner goes on from the checkpoint of `step`; returns the new lineage."""
        await self._owned()
        lineage = self._queue.roll_back(step)
        await self._durable()
        logger.warning(
            "the run is rolled back to step=%d; batches up to step=%d are handed out again, lineage=%d", step, self._queue.reached, lineage
        )
        self._ring_all()
        return lineage

    # --- the controller

    async def expect(self, worker: str, role: str) -> None:
        """A worker (role generator or verifier) is being started: the learner waits for it. Leases that another one of its name left behind end."""
        if any(lease.worker == worker for lease in self._queue.lease_status()):
            self._lose(worker)
        self._producers.expect(worker, role)

    async def beat(self, worker: str, role: str) -> None:
        """A worker is alive, though it has nothing to say."""
        self._producers.heard(worker, role)

    async def lost(self, worker: str) -> int:
        """A worker is dead or has left, or is given up; returns how many completions of its leases others do. Should it call again, it is refused."""
        self._producers.retire(worker)
        return self._lose(worker)

    async def serve_metrics(self) -> int:
        """Serve this actor's metrics as `metrics` says; returns the port, the same one however often it is asked."""
        self._metrics_port = self._metrics_port or self._metrics.registry.serve(self._metrics_config.bind, self._metrics_config.actor_port)
        return self._metrics_port

    async def keep_alive(self) -> None:
        """The controller owns the run, as its lock has just proved: where it stops saying so, nothing changes any more."""
        was_up = self._fence.is_up()
        self._fence.heard()
        if was_up:
            logger.warning("the controller is back: the queue goes on")
            self._ring_all()

    async def counts(self) -> bytes:
        """`QueueCounts`."""
        return pack(self._queue.counts())

    async def status(self) -> bytes:
        """`QueueStatus`."""
        return pack(
            QueueStatus(
                counts=self._queue.counts(),
                producers=self._producers.all(),
                is_closed=self._queue.is_closed,
                metrics_port=self._metrics_port,
                lineage=self._queue.lineage,
                incarnation=self._incarnation,
                reached_step=self._queue.reached,
                leases=tuple(self._queue.lease_status()),
                journal=self._facts(),
            )
        )

    async def close(self, is_finished: bool = True) -> bytes:
        """End; every waiter gets `Closed`. Answers with the final `QueueCounts`: a finished run holds nothing any more, another one goes on later."""
        self._fence.lift()
        self._queue.close(is_finished=is_finished)
        self._ring_all()
        if self._journal is not None:
            await self._durable()
            await asyncio.to_thread(self._journal.close)
        self._show()
        return pack(self._queue.counts())

    def close_metrics(self) -> None:
        """Stop serving metrics; an actor need not, its process ends."""
        self._metrics.registry.close()

    # --- inside

    async def _durable(self) -> None:
        """Everything that has happened so far is in the journal, and this is still the run's queue. Raises QueueError where the journal fails for
        too long.
        """
        if self._journal is not None:
            await asyncio.wrap_future(self._journal.flushed())
        await self._owned()

    async def _owned(self) -> None:
        """The controller owns the run, or did FENCE_S ago. One that is silent may have lost it to another one, which begins from this journal:
        nothing changes and nothing is acknowledged until it is heard again.
        """
        while self._fence.is_up():
            await self._closing.wait(self._tick_s)

    async def _poll(self, take: Callable[[], T | None], bell: Bell, wait_s: float, *, is_over: Callable[[], bool] = lambda: False) -> T | None:
        """A long poll that gets nothing while the fence is up."""
        return await poll(lambda: None if self._fence.is_up() else take(), bell, wait_s, is_over=is_over)

    async def _recall(self, step: int) -> None:
        """The rollouts of an old batch come back from the journal."""
        absent = self._queue.absent(step)
        if absent and self._journal is not None:
            found = await asyncio.to_thread(self._journal.recall, absent)
            self._queue.recalled(step, [judged for judged in found if isinstance(judged, JudgedRollout)])

    def _facts(self) -> JournalFacts:
        return self._journal.facts() if self._journal is not None else JournalFacts()

    def _end_unheard(self, worker: str, holding: Sequence[str] | None) -> None:
        if holding is not None and self._queue.lost(worker, but=holding):
            self._ring_all()

    def _is_lost_since_now(self, worker: str) -> Callable[[], bool]:
        """Whether the worker was lost after this moment: nothing must be leased to a poll that a dead one has left behind."""
        losses = self._producers.losses(worker)
        return lambda: self._producers.losses(worker) != losses

    def _note_applied(self, generator: str, version: Version) -> None:
        """A long poll that waits for work goes on with the version that its generator has by then."""
        self._applied[generator] = version
        self._queue.applied(version, generator=generator)
        self._work.ring()

    def _show(self) -> None:
        self._growth.look(self._facts().num_bytes)
        self._metrics.show(self._queue.counts(), oldest_held_s=self._queue.oldest_held_s(), journal_bytes=self._facts().num_bytes)

    def _watch(self) -> None:
        if self._journal is not None:
            self._journal.check()
        if self._fence.is_up():
            self._watched_at = self._clock()  # who waits for the controller is not silent
            if not self._is_said:
                self._is_said = True
                logger.warning("the controller is silent for %.0f s and may have lost the run: nothing is accepted until it is heard again", FENCE_S)
            return
        self._is_said = False
        now = self._clock()
        self._awake_s += min(now - self._watched_at, MAX_GAP_S)
        self._watched_at = now
        if self._journal is not None and self._journal.is_snapshot_due():
            self._journal.compact(self._queue.state.snapshot())
        given_back = self._queue.expire()
        for worker in self._producers.silent():
            logger.warning("worker=%s silent for too long; its work is given to others, look at its log", worker)
            given_back += self._lose(worker)
        if given_back:
            self._ring_all()
        if not (self._producers.has(GENERATOR) and self._producers.has(VERIFIER)):
            self._batches.ring()

    def _lose(self, worker: str) -> int:
        self._producers.gone(worker)
        self._applied.pop(worker, None)
        given_back = self._queue.lost(worker)
        self._ring_all()
        return given_back

    def _batch_or_producers(self, step: int, lineage: int) -> Batch | None:
        """The batch if it is complete; else there must be somebody left who can complete it."""
        batch = self._queue.next_batch(step, lineage=lineage)
        if batch is None:
            self._require_producers(step)
        return batch

    def _require_producers(self, step: int) -> None:
        slots: Mapping[str, int] = self._queue.counts().slots
        if not self._producers.has(VERIFIER):
            raise QueueError(f"batch {step} cannot fill: no verifier is left")
        if not self._producers.has(GENERATOR) and not (slots["generated"] or slots["verifying"]):
            raise QueueError(f"batch {step} cannot fill: no generator is left")

    def _ring_all(self) -> None:
        for bell in (self._work, self._answers, self._batches, self._closing):
            bell.ring()
