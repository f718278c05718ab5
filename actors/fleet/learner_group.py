"""The learner's ranks as one part of the run: they start together, train together, and are started anew together when one of them is lost.

Owns the ranks' handles and the order of their start. Called by the fleet; decides nothing about lineages, which the queue counts.
"""

import asyncio
import contextlib
import itertools
import logging
from collections.abc import Callable
from typing import Any

import ray

from actors.addresses import host_port
from actors.calls import outcome, outcome_within, started
from actors.learner_actor import RankAddress
from actors.nodes import kill_actor
from actors.run.service import Target
from actors.run.store_actor import StoreAddress
from rlvr.errors import ActorError, FiresteelError
from rlvr.records import Version

logger = logging.getLogger(__name__)

PING_S = 1.0
STOP_S = 20.0
OPEN_S = 60.0
AGAIN_S = 3.0
"""One more look before a rank is given up: what was late may have been this process itself."""


class LearnerGroup:
    """All ranks of one learner. After `end` it can be started again."""

    def __init__(self, *, ranks: int, make: Callable[[int, str], Any], silence_s: float) -> None:
        """make: (rank, actor name) -> handle."""
        self._ranks = ranks
        self._make = make
        self._silence_s = silence_s
        self._incarnation = -1
        self.handles: list[Any] = []
        self.addresses: list[RankAddress] = []
        self.is_loaded = False

    @property
    def names(self) -> list[str]:
        suffix = f"#{self._incarnation}" if self._incarnation else ""
        return [f"learner-{rank}{suffix}" for rank in range(self._ranks)]

    @property
    def first(self) -> Any:
        """Rank 0: it asks the queue, publishes, and has the news."""
        return self.handles[0]

    @property
    def targets(self) -> list[Target]:
        return [
            Target(address=host_port(address.metrics_host, address.metrics_port), role="learner", replica=f"learner-{rank}")
            for rank, address in enumerate(self.addresses)
        ]

    async def start(self, store: StoreAddress, store_actor: Any) -> Version:
        """Start every rank on the newest checkpoint, or on the model. Returns the version that they hold."""
        self._incarnation += 1
        self.is_loaded, self.addresses = False, []
        names = self.names
        self.handles = [self._make(rank, name) for rank, name in enumerate(names)]
        # Rank 0 first: it takes metrics.actor_port itself where ranks share a host, and it alone tells of the learner.
        (master,) = await started(names[:1], [self.first.address.remote()])
        self.addresses = [master, *await started(names[1:], [handle.address.remote() for handle in self.handles[1:]])]
        calls = [handle.load.remote(master.host, master.store_port, store, store_actor) for handle in self.handles]
        loaded: list[Version] = await self.while_alive(started(names, calls))
        if len(set(loaded)) > 1:
            raise ActorError(f"the learner's ranks loaded different versions: {', '.join(map(str, loaded))}")
        self.is_loaded = True
        return loaded[0]

    async def open_broadcast(self) -> tuple[str, int]:
        """Where receivers find the sender of weights."""
        host, port = await outcome_within(OPEN_S, self.names[0], self.first.open_broadcast.remote())
        return str(host), int(port)

    async def set_members(self, receivers: list[str]) -> None:
        await outcome_within(self._silence_s, self.names[0], self.first.set_members.remote(receivers))

    async def run(self, queue: Any, start: Version, *, evaluate_start: bool) -> str:
        """Train until all ranks have ended; returns how. Raises ActorError for the first rank that dies, hangs or fails."""
        names = self.names
        calls = [outcome(name, handle.run.remote(queue, start, evaluate_start)) for name, handle in zip(names, self.handles, strict=True)]
        ends = await self.while_alive(_first_failure_of(calls))
        return str(ends[0])

    async def stop(self) -> None:
        """Ask all ranks to stop before the next step, with a checkpoint."""
        await outcome_within(self._silence_s, self.names[0], self.first.stop.remote())

    async def end(self, *, asks: bool = False) -> None:
        """Nothing of the ranks is left. asks: let them leave their groups by themselves first."""
        leaving = [handle.leave.remote() for handle in self.handles] if asks else []
        if leaving:
            with contextlib.suppress(ray.exceptions.RayError):
                await asyncio.to_thread(ray.wait, leaving, num_returns=len(leaving), timeout=STOP_S)
        for handle, address in itertools.zip_longest(self.handles, self.addresses):
            await asyncio.to_thread(kill_actor, handle, address)
        self.handles, self.addresses, self.is_loaded = [], [], False

    async def while_alive(self, work: Any) -> Any:
        """The outcome of `work`, as long as every rank gives signs of life: a rank that hangs would hold all others in a collective."""
        doing = asyncio.ensure_future(work)
        watching = asyncio.ensure_future(self._watch())
        try:
            await asyncio.wait([doing, watching], return_when=asyncio.FIRST_COMPLETED)
            if not doing.done():
                watching.result()
            return await doing
        finally:
            for task in (doing, watching):
                task.cancel()

    async def is_alive(self) -> bool:
        """Whether rank 0 answers now."""
        return bool(self.handles) and await self._answers(self.names[0], self.first, AGAIN_S)

    async def _answers(self, name: str, handle: Any, within_s: float) -> bool:
        try:
            await outcome_within(within_s, name, handle.alive.remote())
        except FiresteelError as error:
            logger.info("%s does not answer: %s", name, error)
            return False
        return True

    async def _watch(self) -> None:
        """Raises ActorError for the first rank that is silent for too long, or dead."""
        while True:
            for name, handle in zip(self.names, self.handles, strict=True):
                if not await self._answers(name, handle, self._silence_s) and not await self._answers(name, handle, AGAIN_S):
                    raise ActorError(f"{name} gives no sign of life")
            await asyncio.sleep(PING_S)


async def _first_failure_of(calls: list[Any]) -> list[Any]:
    """All outcomes, or the first failure as soon as it is there."""
    tasks = [asyncio.ensure_future(call) for call in calls]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
        for task in done:
            task.result()
        return [task.result() for task in tasks]
    finally:
        for task in tasks:
            task.cancel()
