"""Every part of one run: started, watched, replaced, scaled, ended.

Owns the parts and what they have to be told of each other: who receives weights, whose work the queue gives to others, who evaluates. Called by
the controller, which decides what a run does next; knows no batch and no summary. `actors.fleet.watch` looks after the parts while they work.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Any

from actors.calls import STILL_WAITING_S, outcome_within
from actors.cluster import metrics_host
from actors.engine.settings import BroadcastAddress
from actors.fleet.blueprints import Blueprints
from actors.fleet.cost import CostMeter
from actors.fleet.evaluation_keeper import EvaluationKeeper
from actors.fleet.learner_group import LearnerGroup
from actors.fleet.queue_keeper import QueueKeeper
from actors.fleet.restarts import Restarts
from actors.fleet.scaling import check_asked
from actors.fleet.watch import FleetWatch
from actors.fleet.worker_pool import Worker, WorkerPool
from actors.queue.producers import GENERATOR, VERIFIER
from actors.run.service import Target
from learner.version_log import versions
from learner.weight_protocol import receiver_names
from rlvr.errors import FiresteelError
from rlvr.metrics import LossCause, Registry
from rlvr.records import Version
from rlvr.store import Store

logger = logging.getLogger(__name__)

LOG_S = 300.0
"""A whole version comes from the store within this, or its generator starts with the next broadcast of a new process."""

Event = Callable[..., None]


class Fleet:
    """The parts of one run and their loops."""

    def __init__(self, blueprints: Blueprints, store: Store, *, metrics: Registry, cost: CostMeter, event: Event) -> None:
        """event: (kind, **facts), kept in events.jsonl."""
        self.cost = cost
        self._blueprints = blueprints
        self._config = blueprints.config
        self._store = store
        self._metrics = metrics
        self._event = event
        self.restarts = Restarts(most=self._config.run.max_restarts)
        self.generators = WorkerPool(
            GENERATOR,
            make=lambda replica, name, incarnation, node: blueprints.make_generator(
                replica, name, incarnation, queue=self.queue.handle, node_id=node
            ),
            hooks=_GeneratorHooks(self),
            restarts=self.restarts,
        )
        self.verifiers = WorkerPool(
            VERIFIER,
            make=lambda replica, name, _incarnation, _node: blueprints.make_verifier(replica, name),
            hooks=_Hooks(self),
            restarts=self.restarts,
        )
        self.learners = LearnerGroup(ranks=self._config.learner.ranks, make=blueprints.make_rank, silence_s=self._config.queue.silence_s)
        self.queue: QueueKeeper
        self.evaluations: EvaluationKeeper
        self.is_started = False
        self.learner_waited_s = 0.0
        """How long the learner has waited for batches so far; the controller counts it."""
        self._sender: tuple[str, int] | None = None
        self._receiving: dict[str, Worker] = {}
        self.replaced: set[str] = set()
        """Workers that are not to come back."""
        self._learner_lost_at: float | None = None

    @property
    def targets(self) -> list[Target]:
        queue = self.queue.targets if self.is_started else []
        return [*queue, *self.verifiers.targets, *self.generators.targets, *self.learners.targets]

    @property
    def processes(self) -> list[dict[str, Any]]:
        """Where each process of the run lives, for `status`."""
        found = [
            {"role": pool.role, "replica": worker.replica, "name": worker.name, "pid": worker.address.pid, "node_id": worker.address.node_id}
            for pool in (self.generators, self.verifiers)
            for worker in pool.standing
        ]
        for rank, address in enumerate(self.learners.addresses):
            found.append(
                {"role": "learner", "replica": f"learner-{rank}", "name": self.learners.names[rank], "pid": address.pid, "node_id": address.node_id}
            )
        if self.is_started and self.queue.identity is not None:
            found.append(
                {"role": "queue", "replica": "queue", "name": "queue", "pid": self.queue.identity.pid, "node_id": self.queue.identity.node_id}
            )
        return found

    async def start_queue(self) -> None:
        """Start the queue, which replays its journal, and say how many workers there should be."""
        self._blueprints.make_store()
        self.queue = QueueKeeper(
            self._blueprints.make_queue(),
            host=metrics_host(self._config.metrics.bind),
            silence_s=self._config.queue.silence_s,
            restarts=self.restarts,
            lost=self._lost_queue,
            back=self._queue_is_back,
        )
        self.is_started = True
        await self.queue.start()
        self.verifiers.count(self._config.verifiers.count)
        if self._config.generators.count != "auto":
            self.generators.count(self._config.generators.count)

    def loops(self) -> dict[str, Awaitable[Any]]:
        """What goes on as long as the run: each of them raises where it cannot."""
        return {
            "queue": self.queue.run(),
            "queue-watch": self.queue.watch(),
            "generators": self.generators.run(),
            "verifiers": self.verifiers.run(),
            **FleetWatch(self, self._blueprints, metrics=self._metrics, event=self._event).loops(),
        }

    async def start_learner(self, *, is_fresh: bool) -> Version:
        """Start the learner on its newest checkpoint, roll the queue back to it, and let living generators join its broadcast.

        is_fresh: the first start of a new run, which has nothing to roll back. Returns the version to publish first.
        """
        self._sender = None
        loaded = await self.learners.start(self._blueprints.store, self._blueprints.store_actor)
        lineage = 0 if is_fresh else await self.queue.client.roll_back(loaded.step)
        start = Version(lineage=lineage, step=loaded.step)
        self._sender = await self.learners.open_broadcast()
        await self.learners.while_alive(self._join_all())
        await self._tell_members()
        return start

    def learner_lost(self, error: str) -> None:
        """A rank died or hung: all of them go."""
        self._learner_lost_at = self._learner_lost_at or time.monotonic()
        self._sender = None
        self._metrics.counter("rlvr_restarts_total", part="learner", cause=LossCause.HUNG if "no sign of life" in error else LossCause.DIED).inc()
        self._event("lost", part="learner", name="learner", error=error)

    def learner_works(self) -> None:
        """It has trained a step."""
        if self._learner_lost_at is not None:
            seconds = time.monotonic() - self._learner_lost_at
            self._learner_lost_at = None
            self._metrics.histogram("rlvr_recovery_seconds", part="learner").observe(seconds)
            self._event("replaced", part="learner", name="learner", seconds=seconds)

    async def wait_until_standing(self) -> None:
        """Until everybody works, or, where the cluster still grows, one of each has worked for a while."""
        began: float | None = None
        while True:
            pools = (self.generators, self.verifiers)
            if all(pool.standing for pool in pools):
                began = began or time.monotonic()
                if all(len(pool.standing) >= pool.wanted for pool in pools) or time.monotonic() - began > STILL_WAITING_S:
                    break
            await asyncio.sleep(0.05)
        for pool in pools:
            pool.fails_fast = False

    def scale(self, generators: int | None, verifiers: int | None) -> None:
        """As a person asks. Raises UserError for what this run does not allow."""
        check_asked(generators, verifiers, config=self._config.generators, of_verifiers=self._config.verifiers)
        for pool, number in ((self.generators, generators), (self.verifiers, verifiers)):
            if number is not None and number != pool.wanted:
                self._event("scaled", part=pool.role, wanted=number, before=pool.wanted)
                pool.count(number)

    async def stop(self, *, asks: bool = True) -> None:
        """End every process of the run. asks: in good order, where they still answer."""
        if self.is_started and not asks:
            await self.queue.kill()
        async with asyncio.TaskGroup() as ends:
            ends.create_task(self.generators.stop(asks=asks))
            ends.create_task(self.verifiers.stop(asks=asks))
            ends.create_task(self.learners.end(asks=asks))
        if self.is_started:
            await self.queue.kill()

    # --- what workers do to each other

    async def expect(self, name: str, role: str) -> None:
        await self.queue.client.expect(name, role=role)

    async def enter_generator(self, worker: Worker) -> None:
        """It joins the sender of weights, if there is one, starts from the version log, if there is something in it, and may have to evaluate."""
        self._receiving[worker.name] = worker
        await self._join(worker)
        if self.is_training:
            await self._start_from_log(worker)
        await self.evaluations.enters(worker)
        await self._tell_members()

    async def stands(self, worker: Worker, role: str, *, recovery_s: float | None) -> None:
        self._event("stands", part=role, name=worker.name, seconds=recovery_s)
        if recovery_s is not None:
            self._metrics.histogram("rlvr_recovery_seconds", part=role).observe(recovery_s)

    async def leaves_broadcast(self, worker: Worker) -> None:
        """It is about to leave: no broadcast waits for it."""
        if self._receiving.pop(worker.name, None) is not None:
            await self._tell_members()

    async def gone(self, worker: Worker, role: str, *, error: str | None) -> None:
        """Its work goes to others, its place in the broadcast is free, somebody else evaluates."""
        self._receiving.pop(worker.name, None)
        self.evaluations.gone(worker)
        kind = "left" if error is None else "lost"
        self._event(kind, part=role, name=worker.name, cause=worker.cause, error=error)
        if error is not None:
            self._metrics.counter("rlvr_restarts_total", part=role, cause=worker.cause).inc()
        self.replaced.add(worker.name)
        await self.lose(worker.name)
        if role == GENERATOR:
            await self._tell_members()

    async def lose(self, name: str) -> None:
        """The queue gives this worker's work to others, and refuses it from now on."""
        try:
            await self.queue.client.lost(name)
        except FiresteelError as failure:
            logger.info("the queue does not hear that worker=%s is gone (%s): it hears it again", name, failure)

    @property
    def is_training(self) -> bool:
        return not self.generators.fails_fast

    async def _join_all(self) -> None:
        async with asyncio.TaskGroup() as joins:
            for worker in list(self._receiving.values()):
                joins.create_task(self._join_or_give_up(worker))

    async def _join_or_give_up(self, worker: Worker) -> None:
        try:
            await self._join(worker)
        except FiresteelError as error:
            logger.warning("generator=%s cannot join the new sender of weights: %s", worker.name, error)
            worker.give_up(LossCause.DIED)

    async def _join(self, worker: Worker) -> None:
        async with worker.turn:
            if self._sender is None:
                return
            host, port = self._sender
            weights = self._config.weights
            address = BroadcastAddress(host=host, port=port, generator=worker.name, backend=self._blueprints.backend, deadline_s=weights.deadline_s)
            joining = outcome_within(2 * weights.deadline_s, worker.name, worker.handle.join_broadcast.remote(address))
            try:
                await worker.unless_given_up(joining)
            except FiresteelError as error:
                if worker.given_up.is_set() or await self.learners.is_alive():
                    raise
                logger.warning("generator=%s found no sender of weights (%s): it joins the next one", worker.name, error)

    async def _start_from_log(self, worker: Worker) -> None:
        logged = await asyncio.to_thread(versions, self._store)
        if logged:
            await worker.unless_given_up(outcome_within(LOG_S, worker.name, worker.handle.start_from_log.remote(str(max(logged)))))

    async def _tell_members(self) -> None:
        """The sender hears who should receive; a sender that is gone hears it when it is back."""
        if self._sender is None:
            return
        parallel = self._config.generators.tensor_parallel
        receivers = [name for worker in self._receiving.values() for name in receiver_names(worker.name, tensor_parallel=parallel)]
        try:
            await self.learners.set_members(receivers)
        except FiresteelError as error:
            logger.info("the learner does not hear who receives (%s); it will when it is back", error)

    def _lost_queue(self, error: str) -> None:
        self._metrics.counter("rlvr_restarts_total", part="queue", cause=LossCause.DIED).inc()
        self._event("lost", part="queue", name="queue", error=error)

    def _queue_is_back(self, seconds: float) -> None:
        self._metrics.histogram("rlvr_recovery_seconds", part="queue").observe(seconds)
        self._event("replaced", part="queue", name="queue", seconds=seconds)


class _Hooks:
    """What the fleet does for a verifier."""

    role = VERIFIER

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet

    async def expect(self, name: str) -> None:
        await self._fleet.expect(name, self.role)

    async def enter(self, worker: Worker) -> None:
        """Nothing: a verifier pulls."""

    def run(self, worker: Worker) -> Awaitable[str]:
        running: Awaitable[str] = worker.handle.run.remote(self._fleet.queue.handle)
        return running

    async def stands(self, worker: Worker, *, recovery_s: float | None) -> None:
        await self._fleet.stands(worker, self.role, recovery_s=recovery_s)

    async def leaves(self, worker: Worker) -> None:
        await self._fleet.leaves_broadcast(worker)

    async def gone(self, worker: Worker, *, error: str | None) -> None:
        await self._fleet.gone(worker, self.role, error=error)


class _GeneratorHooks(_Hooks):
    """What the fleet does for a generator."""

    role = GENERATOR

    async def enter(self, worker: Worker) -> None:
        await self._fleet.enter_generator(worker)

    def run(self, worker: Worker) -> Awaitable[str]:
        running: Awaitable[str] = worker.handle.run.remote()
        return running
