"""What a fleet's owner does while the parts work: finds the silent, follows the cluster's nodes, and scales by what the metrics say.

Owns three endless loops; their decisions are in `actors.fleet.scaling`. Made by the fleet, which starts, replaces and ends the parts.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any, Never

from actors import nodes
from actors.calls import STILL_WAITING_S
from actors.fleet.blueprints import Blueprints
from actors.fleet.scaling import Look, Seat, follow_nodes, is_full, next_count, seats_by_replica, trimmed
from actors.queue.producers import GENERATOR
from rlvr.metrics import LossCause, Registry

if TYPE_CHECKING:
    from actors.fleet.fleet import Fleet

logger = logging.getLogger(__name__)

WATCH_S = 0.5
NODES_S = 2.0
LOOK_S = 5.0
COST_S = 5.0
AWAITED = "generator-awaited"
"""Stands for generators whose nodes have not come yet."""


class FleetWatch:
    """The loops of one fleet."""

    def __init__(self, fleet: "Fleet", blueprints: Blueprints, *, metrics: Registry, event: Callable[..., None]) -> None:
        self._fleet = fleet
        self._blueprints = blueprints
        self._config = blueprints.config
        self._metrics = metrics
        self._event = event
        self._seats: dict[Seat, str] = {}
        self._looks: list[Look] = []
        self._count_changed_at = 0.0
        self._nodes_missed_at: float | None = None

    def loops(self) -> dict[str, Awaitable[Any]]:
        return {
            "silence": self._watch_silence(),
            "nodes": self._follow_nodes(),
            "scaling": self._scale_by_metrics(),
            "cost": self._count_cost(),
        }

    async def _watch_silence(self) -> Never:
        """Finds workers that live and work no more: the queue has not heard of them for too long, and may have struck them off already."""
        incarnation: int | None = None
        while True:
            self._fleet.queue.changed.clear()
            await self._fleet.queue.changed.wait()
            status = self._fleet.queue.status
            assert status is not None
            silent_s = {producer.name: producer.silent_s for producer in status.producers}
            for name in self._fleet.replaced & silent_s.keys():  # a queue that was restarted has forgotten who is not to come back
                await self._fleet.lose(name)
            now = time.monotonic()
            for worker in [worker for pool in (self._fleet.generators, self._fleet.verifiers) for worker in pool.standing]:
                if worker.name in silent_s:
                    worker.heard_at = now - silent_s[worker.name]
                elif worker.heard_at is None or status.incarnation != incarnation:  # a queue that was just restarted knows nobody yet
                    worker.heard_at = now
                if now - worker.heard_at >= self._config.queue.silence_s and not worker.is_leaving:
                    worker.give_up(LossCause.HUNG)
            incarnation = status.incarnation
            await asyncio.sleep(WATCH_S)

    def _show(self) -> None:
        settings = self._config.generators
        least = settings.min if settings.count == "auto" else 0  # without any node there is no seat, and yet an engine is missing
        for pool in (self._fleet.generators, self._fleet.verifiers):
            self._metrics.gauge("rlvr_actors", part=pool.role).set(len(pool.standing))
            self._metrics.gauge("rlvr_actors_wanted", part=pool.role).set(max(pool.wanted, least if pool.role == GENERATOR else 0))
        self._metrics.gauge("rlvr_actors", part="learner").set(len(self._fleet.learners.handles) if self._fleet.learners.is_loaded else 0)
        self._metrics.gauge("rlvr_actors_wanted", part="learner").set(self._config.learner.ranks)
        self._metrics.gauge("rlvr_actors", part="queue").set(self._fleet.queue.identity is not None)
        self._metrics.gauge("rlvr_actors_wanted", part="queue").set(1)

    async def _follow_nodes(self) -> Never:
        """Workers leave nodes that go away; with generators.count = "auto" there is an engine for each place of a labelled node."""
        async with asyncio.TaskGroup() as leaves:  # who takes his time to leave does not keep the next one from hearing that he must
            while True:
                there = await asyncio.to_thread(nodes.live_nodes)
                if self._config.generators.count == "auto":
                    await self._follow(there)
                self._show()
                leaving = {node.id for node in there if node.is_draining}
                self._metrics.gauge("rlvr_nodes_draining").set(len(leaving))
                for pool in (self._fleet.generators, self._fleet.verifiers):
                    for worker in pool.standing:
                        if worker.address.node_id in leaving and not worker.is_leaving:
                            self._event("draining", part=pool.role, name=worker.name, node=worker.address.node_id)
                            leaves.create_task(pool.leave(worker))
                await asyncio.sleep(NODES_S)

    async def _follow(self, there: Sequence[nodes.Node]) -> None:
        """An engine for each place that these nodes have."""
        settings = self._config.generators
        self._seats = follow_nodes(
            there,
            self._seats,
            labels=settings.labels,
            device=self._blueprints.device,
            tensor_parallel=settings.tensor_parallel,
            most=settings.max,
        )
        self._fleet.generators.place(seats_by_replica(self._seats))
        await self._await_nodes()

    async def _count_cost(self) -> Never:
        """Every node that lives is paid for, whatever it does."""
        while True:
            self._fleet.cost.count(await asyncio.to_thread(nodes.live_nodes))
            await asyncio.sleep(COST_S)

    async def _await_nodes(self) -> None:
        """Without a node for generators the run waits: the learner hears that some are expected, and people that there is none."""
        if self._seats:
            self._nodes_missed_at = None
            return
        if self._nodes_missed_at is None or time.monotonic() - self._nodes_missed_at > STILL_WAITING_S:
            self._nodes_missed_at = time.monotonic()
            logger.warning("no live Ray node matches generators.labels: the run waits until one comes")
        await self._fleet.queue.client.expect(AWAITED, role=GENERATOR)

    async def _scale_by_metrics(self) -> Never:
        """With generators.scaling = "metrics": one generator more or fewer, as the last minutes say."""
        settings = self._config.generators
        while True:
            await asyncio.sleep(LOOK_S)
            status = self._fleet.queue.status
            if settings.scaling != "metrics" or status is None or not self._fleet.is_training:
                continue
            now = time.monotonic()
            self._looks = [*trimmed(self._looks, now), Look(now, self._fleet.learner_waited_s, is_full(status.counts.slots, status.counts.capacity))]
            wanted = next_count(
                self._fleet.generators.wanted, self._looks, changed_at_s=self._count_changed_at, least=settings.min, most=settings.max
            )
            if wanted != self._fleet.generators.wanted:
                self._count_changed_at = now
                self._event("scaled", part=GENERATOR, wanted=wanted, before=self._fleet.generators.wanted, by="metrics")
                self._fleet.generators.count(wanted)
