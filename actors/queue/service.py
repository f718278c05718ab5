"""The rollout queue as a service: wire frames in and out, long polls, heartbeats, expiry by our clock.

Owns the waiting around `actors.rollout_queue`, which decides everything. `actors.queue.actor` makes a Ray actor of it; knows no Ray itself.
A long poll waits at most `wait_s`, for a bell that rings when there may be something; closing raises `Closed` at all of them.
Everybody who works for the queue calls it, or `beat`, more often than every `silence_s`: who is silent longer loses its leases.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from typing import TypeVar

import msgspec

from actors.queue.metrics import QueueMetrics
from actors.queue.producers import GENERATOR, VERIFIER, Producers
from actors.queue.records import QueueStatus
from actors.rollout_queue import RolloutQueue
from rlvr.config import Config
from rlvr.errors import QueueError
from rlvr.problems import Problem
from rlvr.records import Batch, Rollout, Verdict, Version
from rlvr.step_plan import StepPlanner
from rlvr.wire import pack, unpack

logger = logging.getLogger(__name__)

T = TypeVar("T")
MAX_WAIT_S = 10.0
"""No long poll is longer, so that a waiter is also heard of."""
MAX_GAP_S = 2.0
"""What lies further apart than this between two looks at the heartbeats is a standstill of the queue itself."""


class QueueSetup(msgspec.Struct, frozen=True, kw_only=True):
    """What the queue is born with: the run's configuration, its training problems and their prompts' token ids by problem id."""

    config: Config
    problems: tuple[Problem, ...]
    prompt_ids: dict[str, tuple[int, ...]]
    incarnation: int = 0
    lineage: int = 0
    silence_s: float = 30.0
    """A worker that is not heard of for so long loses its leases."""
    start_s: float = 900.0
    """A worker that was announced is waited for so long."""
    tick_s: float = 0.5


class Bell:
    """Wakes who waits now; nothing is remembered for later. For one event loop."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def ring(self) -> None:
        self._event.set()
        self._event = asyncio.Event()

    async def wait(self) -> None:
        await self._event.wait()


def build_queue(setup: QueueSetup, *, clock: Callable[[], float]) -> RolloutQueue:
    """The plain queue of a run. Raises KeyError where a problem has no prompt ids."""
    config = setup.config
    planner = StepPlanner(setup.problems, config)
    return RolloutQueue(
        rollouts_per_step=planner.rollouts_per_step,
        max_staleness=config.rollout.max_staleness,
        planner=planner,
        prompts={problem.id: setup.prompt_ids[problem.id] for problem in setup.problems},
        golds={problem.id: problem.answer for problem in setup.problems},
        num_steps=config.run.num_steps,
        lease_s=config.queue.lease_s,
        order=config.queue.order,
        window=config.queue.window,
        undecided=config.verifiers.undecided,
        deterministic=config.run.deterministic,
        seed=config.run.seed,
        incarnation=setup.incarnation,
        lineage=setup.lineage,
        clock=clock,
    )


class QueueService:
    """One event loop calls it; every answer that holds records is a wire frame."""

    def __init__(self, setup_frame: bytes, clock: Callable[[], float] = time.monotonic) -> None:
        setup = unpack(setup_frame, QueueSetup)
        self._queue = build_queue(setup, clock=clock)
        self._clock = clock
        self._watched_at = clock()
        self._awake_s = 0.0  # seconds that this process has watched: where it stood still itself, nobody else was silent
        self._producers = Producers(silence_s=setup.silence_s, start_s=setup.start_s, clock=lambda: self._awake_s)
        self._tick_s = setup.tick_s
        self._metrics = QueueMetrics(self._queue.counts())
        self._metrics_bind = setup.config.metrics.bind
        self._metrics_port = 0
        self._applied: dict[str, Version] = {}
        self._frame: tuple[int, bytes] = (0, b"")  # the last batch as it was packed
        self._work, self._answers, self._batches, self._closing = Bell(), Bell(), Bell(), Bell()

    async def run(self) -> None:
        """Watch deadlines and heartbeats until the queue closes; whoever started the queue awaits this and hears of its errors."""
        while not self._queue.is_closed:
            self._watch()
            self._show()
            await _within(self._tick_s, self._closing)

    # --- generators

    async def lease(self, n: int, generator: str, applied: str, wait_s: float = 0.0) -> bytes:
        """A list of `Lease` of up to n completions together, empty where there is no work within wait_s; a whole step in deterministic mode."""
        self._producers.heard(generator, GENERATOR)
        self._note_applied(generator, Version.parse(applied))
        self._metrics.generators_waiting(1)
        try:
            leases = await _poll(
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
        self._producers.heard(generator, GENERATOR)
        rollouts = unpack(frame, list[Rollout])
        results = self._queue.put(rollouts)
        self._metrics.accepted(rollout for rollout, result in zip(rollouts, results, strict=True) if result.is_accepted)
        self._answers.ring()
        if not all(result.is_accepted for result in results):
            self._work.ring()
        return pack(list(results))

    async def hand_back(self, generator: str, lease_id: str) -> int:
        """The generator will not finish this lease."""
        self._producers.heard(generator, GENERATOR)
        given_back = self._queue.hand_back(lease_id)
        self._work.ring()
        return given_back

    async def applied(self, generator: str, version: str) -> None:
        """The generator samples from this version now."""
        self._producers.heard(generator, GENERATOR)
        self._note_applied(generator, Version.parse(version))

    # --- verifiers

    async def lease_unverified(self, n: int, verifier: str, wait_s: float = 0.0) -> bytes:
        """A list of up to n `Unverified`, empty where there is none within wait_s."""
        self._producers.heard(verifier, VERIFIER)
        is_over = self._is_lost_since_now(verifier)
        work = await _poll(lambda: self._queue.lease_unverified(n, verifier=verifier), self._answers, wait_s, is_over=is_over)
        return pack(list(work or ()))

    async def put_verdicts(self, verifier: str, frame: bytes) -> bytes:
        """Takes a list of `Verdict`, answers with a list of `PutResult`."""
        self._producers.heard(verifier, VERIFIER)
        results = self._queue.put_verdicts(unpack(frame, list[Verdict]))
        self._batches.ring()
        self._work.ring()  # an excluded rollout gives its slot back
        return pack(list(results))

    # --- the learner

    async def next_batch(self, step: int, wait_s: float = 0.0) -> bytes | None:
        """The `Batch` of a step; None where it is not complete within wait_s. Raises QueueError where it cannot fill for want of producers."""
        batch = await _poll(lambda: self._batch_or_producers(step), self._batches, wait_s)
        if batch is None:
            return None
        if self._frame[0] != step:
            self._frame = (step, pack(batch))
            self._metrics.trained(batch)
        return self._frame[1]

    # --- the controller

    async def expect(self, worker: str, role: str) -> None:
        """A worker (role generator or verifier) is being started: the learner waits for it."""
        self._producers.expect(worker, role)

    async def beat(self, worker: str, role: str) -> None:
        """A worker is alive, though it has nothing to say."""
        self._producers.heard(worker, role)

    async def lost(self, worker: str) -> int:
        """A worker is dead or has left; returns how many completions of its leases are given to somebody else."""
        return self._lose(worker)

    async def serve_metrics(self) -> int:
        """Serve this actor's metrics on a free port of `metrics.bind`; returns the port, the same one however often it is asked."""
        self._metrics_port = self._metrics_port or self._metrics.registry.serve(self._metrics_bind)
        return self._metrics_port

    async def counts(self) -> bytes:
        """`QueueCounts`."""
        return pack(self._queue.counts())

    async def status(self) -> bytes:
        """`QueueStatus`."""
        return pack(
            QueueStatus(
                counts=self._queue.counts(), producers=self._producers.all(), is_closed=self._queue.is_closed, metrics_port=self._metrics_port
            )
        )

    async def close(self) -> bytes:
        """End; every waiter gets `Closed`. Answers with the final `QueueCounts`."""
        self._queue.close()
        self._ring_all()
        self._show()
        return pack(self._queue.counts())

    def close_metrics(self) -> None:
        """Stop serving metrics; an actor need not, its process ends."""
        self._metrics.registry.close()

    # --- inside

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
        self._metrics.show(self._queue.counts(), oldest_held_s=self._queue.oldest_held_s())

    def _watch(self) -> None:
        now = self._clock()
        self._awake_s += min(now - self._watched_at, MAX_GAP_S)
        self._watched_at = now
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

    def _batch_or_producers(self, step: int) -> Batch | None:
        """The batch if it is complete; else there must be somebody left who can complete it."""
        batch = self._queue.next_batch(step)
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


async def _poll(take: Callable[[], T | None], bell: Bell, wait_s: float, *, is_over: Callable[[], bool] = lambda: False) -> T | None:
    """What `take` gives as soon as that is something; None after wait_s, or once it is over.

    Nothing happens between a vain `take` and the wait, so no ring is missed.
    """
    deadline = time.monotonic() + min(wait_s, MAX_WAIT_S)
    while not is_over():
        if found := take():
            return found
        left = deadline - time.monotonic()
        if left <= 0 or not await _within(left, bell):
            break
    return None


async def _within(wait_s: float, bell: Bell) -> bool:
    """Whether the bell rang within wait_s."""
    try:
        async with asyncio.timeout(wait_s):
            await bell.wait()
    except TimeoutError:
        return False
    return True
