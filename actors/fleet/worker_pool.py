"""The workers of one role, generators or verifiers: as many as there should be, each replaced when it dies or hangs, each sent away in good order.

Owns the life of a worker from its making to its end, and the numbers of its incarnations. Called by the fleet, which says which places there should
be and what happens when a worker enters or is gone; knows no broadcast and no evaluation.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Never, Protocol

from actors.addresses import host_port
from actors.calls import is_death, outcome, outcome_within, started
from actors.fleet.restarts import Restarts
from actors.nodes import kill_actor
from actors.run.service import Target
from rlvr.errors import ActorError, FiresteelError, UserError
from rlvr.metrics import LossCause

logger = logging.getLogger(__name__)

LEAVE_S = 30.0
"""A leaving worker gets this long to hand in and hand back; then it is killed, and its work is sampled again."""
STOP_S = 20.0
START_SILENCE_S = 120.0
"""A process that loads an engine may not answer for a while; one that is stopped never does."""
TICK_S = 0.5
LEFT = "left"


@dataclass(eq=False)
class Worker:
    """One incarnation of one replica."""

    replica: str
    incarnation: int
    handle: Any
    address: Any = None
    """What its `start` answered: host, metrics_port, pid, node_id."""
    is_standing: bool = False
    is_leaving: bool = False
    cause: LossCause = LossCause.DIED
    heard_at: float | None = None
    """When it last called the queue, as far as the queue says so; a restarted queue has heard nobody yet."""
    given_up: asyncio.Event = field(default_factory=asyncio.Event)
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    """Its `run` has returned or failed."""
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Held while it joins a sender of weights."""

    @property
    def name(self) -> str:
        """What the queue, its leases and the weight broadcast call it."""
        return worker_name(self.replica, self.incarnation)

    def give_up(self, cause: LossCause) -> None:
        """Nobody waits for it any more."""
        self.cause = cause
        self.given_up.set()

    async def unless_given_up(self, work: Awaitable[Any]) -> Any:
        """The outcome of `work`. Raises ActorError where the worker is given up before."""
        doing, giving_up = asyncio.ensure_future(work), asyncio.ensure_future(self.given_up.wait())
        try:
            await asyncio.wait([doing, giving_up], return_when=asyncio.FIRST_COMPLETED)
            if doing.done():
                return doing.result()
            raise ActorError(f"{self.name} gave no sign of life" if self.cause is LossCause.HUNG else f"{self.name} was given up")
        finally:
            doing.cancel()
            giving_up.cancel()


class Hooks(Protocol):
    """What the fleet does for a worker."""

    async def expect(self, name: str) -> None: ...
    async def enter(self, worker: Worker) -> None: ...
    def run(self, worker: Worker) -> Awaitable[str]: ...
    async def stands(self, worker: Worker, *, recovery_s: float | None) -> None: ...
    async def leaves(self, worker: Worker) -> None: ...
    async def gone(self, worker: Worker, *, error: str | None) -> None: ...


def worker_name(replica: str, incarnation: int) -> str:
    return f"{replica}#{incarnation}" if incarnation else replica


class WorkerPool:
    """Everybody of one role."""

    def __init__(
        self,
        role: str,
        *,
        make: Callable[[str, str, int, str | None], Any],
        hooks: Hooks,
        restarts: Restarts,
        kill: Callable[[Any, Any], None] = kill_actor,
    ) -> None:
        """make: (replica, worker name, incarnation, node id or None) -> handle. kill: ends a handle's process, given its address too, for certain."""
        self._kill = kill
        self.role = role
        self._make = make
        self._hooks = hooks
        self._restarts = restarts
        self._places: dict[str, str | None] = {}
        self._incarnations: dict[str, int] = {}
        self._workers: dict[str, Worker] = {}
        self._keepers: dict[str, asyncio.Task[None]] = {}
        self._lost_at: dict[str, float] = {}
        self._changed = asyncio.Event()
        self._placed = asyncio.Event()
        self._is_over = False
        self.fails_fast = True
        """Until the run has stood: then the first failure ends it, and no crash loop is waited for."""

    @property
    def wanted(self) -> int:
        return len(self._places)

    @property
    def standing(self) -> list[Worker]:
        """Those that work, in the order of their replicas."""
        return [worker for _, worker in sorted(self._workers.items(), key=lambda item: _order(item[0])) if worker.is_standing]

    @property
    def alive(self) -> list[Worker]:
        """Those that have been made and are not gone, starting ones included."""
        return list(self._workers.values())

    @property
    def targets(self) -> list[Target]:
        return [
            Target(address=host_port(worker.address.host, worker.address.metrics_port), role=self.role, replica=worker.replica)
            for worker in self.standing
        ]

    def count(self, number: int) -> None:
        """There should be `number` workers, wherever Ray finds room."""
        self.place({f"{self.role}-{index}": None for index in range(number)})

    def place(self, places: Mapping[str, str | None]) -> None:
        """There should be these replicas, on these nodes (None: anywhere). Whoever is not among them leaves."""
        self._places = dict(places)
        self._changed.set()
        self._placed.set()
        self._placed = asyncio.Event()

    async def run(self) -> Never:
        """Keep the places filled. Raises ActorError where one of them cannot be."""
        async with asyncio.TaskGroup() as keepers:
            while True:
                self._changed.clear()
                for replica in () if self._is_over else self._places.keys() - self._keepers.keys():
                    self._keepers[replica] = keepers.create_task(self._keep(replica), name=f"keep {replica}")
                for worker in self.alive:
                    if not worker.is_leaving and worker.replica not in self._places:
                        if worker.is_standing:
                            keepers.create_task(self.leave(worker), name=f"leave {worker.name}")
                        else:
                            worker.is_leaving = True
                            worker.give_up(LossCause.DRAINED)  # now: while it waits for a place, an autoscaler brings one
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(TICK_S):
                        await self._changed.wait()
        raise AssertionError("a pool ends by an error or by being cancelled")

    async def leave(self, worker: Worker, *, within_s: float = LEAVE_S, cause: LossCause = LossCause.DRAINED) -> None:
        """Ask a worker to hand in, hand back and leave; give it up where it does not."""
        worker.is_leaving, worker.cause = True, cause
        async with asyncio.TaskGroup() as group:
            group.create_task(self._hooks.leaves(worker), name=f"tell of {worker.name}")
            try:
                async with asyncio.timeout(within_s):
                    await outcome(worker.name, worker.handle.leave.remote())
                    await worker.ended.wait()
            except (FiresteelError, TimeoutError) as error:
                logger.warning("worker=%s does not leave by itself (%s): it is killed, its work is given to others", worker.name, error)
                worker.give_up(cause)

    async def stop(self, *, asks: bool = True) -> None:
        """End everybody at once: the run is over."""
        ends = [asyncio.ensure_future(self._end(worker, asks=asks)) for worker in self.alive]
        if ends:
            await asyncio.wait(ends)

    async def _keep(self, replica: str) -> None:
        """Keep one place filled, by one incarnation after the other, until it is no place any more or the queue has closed."""
        try:
            while replica in self._places:
                worker = self._new(replica)
                error: str | None = None
                try:
                    end = await self._live(worker)
                except FiresteelError as failure:
                    if self.fails_fast and not (is_death(failure) or worker.given_up.is_set()):
                        raise
                    if worker.is_leaving and not worker.is_standing:
                        await self._bury(worker, None, asks=False)
                        continue
                    end, error, placed = "", str(failure), self._placed
                    await self._bury(worker, error)
                    wait_s = self._restarts.died(replica, failure)
                    logger.warning("worker=%s is lost (%s): %s; it is replaced in %.1f s", worker.name, worker.cause, error, wait_s)
                    await self._wait_unless_unwanted(replica, wait_s, placed)
                else:
                    await self._bury(worker, None)
                if end and end != LEFT:
                    self._is_over = True
                    return
        finally:
            self._keepers.pop(replica, None)
            self._changed.set()

    def _new(self, replica: str) -> Worker:
        incarnation = self._incarnations.get(replica, -1) + 1
        self._incarnations[replica] = incarnation
        name = worker_name(replica, incarnation)
        worker = Worker(replica=replica, incarnation=incarnation, handle=self._make(replica, name, incarnation, self._places[replica]))
        self._workers[replica] = worker
        return worker

    async def _live(self, worker: Worker) -> str:
        await self._hooks.expect(worker.name)
        [worker.address] = await worker.unless_given_up(self._started(worker))
        await worker.unless_given_up(self._hooks.enter(worker))
        running = asyncio.ensure_future(outcome(worker.name, self._hooks.run(worker)))
        try:
            worker.is_standing = True
            self._restarts.started(worker.replica)
            lost_at = self._lost_at.pop(worker.replica, None)
            await self._hooks.stands(worker, recovery_s=None if lost_at is None else time.monotonic() - lost_at)
            return str(await worker.unless_given_up(running))
        finally:
            running.cancel()

    async def _started(self, worker: Worker) -> Any:
        """The answer of its `start`. Raises ActorError where it was there and gives no sign of life any more."""
        starting = asyncio.ensure_future(started([worker.name], [worker.handle.start.remote()]))
        watching = asyncio.ensure_future(self._watch_start(worker))
        try:
            await asyncio.wait([starting, watching], return_when=asyncio.FIRST_COMPLETED)
            if not starting.done():
                watching.result()
            return await starting
        finally:
            starting.cancel()
            watching.cancel()

    async def _watch_start(self, worker: Worker) -> None:
        await outcome(worker.name, worker.handle.alive.remote())  # as long as its place takes to come
        while True:
            await outcome_within(START_SILENCE_S, worker.name, worker.handle.alive.remote())
            await asyncio.sleep(TICK_S)

    async def _bury(self, worker: Worker, error: str | None, *, asks: bool = True) -> None:
        """Nothing of this worker is left, and everybody knows it; who comes after it is announced before. asks: it may end by itself."""
        worker.is_standing = False
        worker.ended.set()
        if worker.replica in self._places and not self._is_over:
            await self._hooks.expect(worker_name(worker.replica, worker.incarnation + 1))
        if self._workers.get(worker.replica) is worker:
            del self._workers[worker.replica]
        if error is not None:
            self._lost_at.setdefault(worker.replica, time.monotonic())
        await self._hooks.gone(worker, error=error)
        await self._end(worker, asks=asks and error is None)

    async def _end(self, worker: Worker, *, asks: bool = True) -> None:
        """End its processes: by its own `stop` where it still answers, and then for certain."""
        if asks:
            try:
                await outcome_within(STOP_S, worker.name, worker.handle.stop.remote())
            except (ActorError, UserError) as error:
                logger.info("worker=%s does not stop by itself: %s", worker.name, error)
        await asyncio.to_thread(self._kill, worker.handle, worker.address)

    async def _wait_unless_unwanted(self, replica: str, wait_s: float, placed: asyncio.Event) -> None:
        """Back off; where the place is one node, wait for `placed` too: the node may have gone, which the next placing knows."""
        ends_at = time.monotonic() + wait_s
        while replica in self._places and time.monotonic() < ends_at:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(asyncio.get_running_loop().time() + ends_at - time.monotonic()):
                    await self._placed.wait()
        if self._places.get(replica) is not None:
            await placed.wait()


def _order(replica: str) -> tuple[int, str]:
    number = replica.rpartition("-")[2]
    return (int(number) if number.isdigit() else 0, replica)
