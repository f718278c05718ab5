"""Workers are kept, replaced, and sent away, whatever they do."""

import asyncio
from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Any

import pytest
import ray

from actors.fleet import restarts, worker_pool
from actors.fleet.restarts import Restarts
from actors.fleet.worker_pool import Worker, WorkerPool, worker_name
from rlvr.errors import ActorError
from rlvr.metrics import LossCause

WITHIN_S = 10.0


class FakeActor:
    """A worker's process: runs until it is told to leave, closed, or killed."""

    def __init__(self, name: str, *, starts: bool = True) -> None:
        self.name = name
        self.ends: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.killed = False
        self.error: Exception | None = None
        self.answers_leave = True
        self.ends_after_leave = True
        self.answers = True
        self.start_ends: asyncio.Future[Any] | None = None
        self._starts = starts
        for method in ("start", "run", "leave", "stop", "alive"):
            setattr(self, method, SimpleNamespace(remote=getattr(self, f"_{method}")))

    async def _start(self) -> Any:
        if not self._starts:
            raise ActorError(f"{self.name} cannot start") from self.error
        if self.start_ends is not None:
            await self.start_ends
        return SimpleNamespace(host="127.0.0.1", metrics_port=1, pid=1, node_id="n")

    async def _run(self) -> str:
        return await asyncio.shield(self.ends)

    async def _leave(self) -> None:
        if not self.answers_leave:
            await asyncio.Event().wait()
        if self.ends_after_leave:
            self.ends.set_result("left")

    async def _stop(self) -> None: ...

    async def _alive(self) -> None:
        if not self.answers:
            await asyncio.Event().wait()

    def die(self) -> None:
        self.ends.set_exception(ActorError(f"{self.name} died"))


class FakeHooks:
    def __init__(self) -> None:
        self.gone_workers: list[tuple[str, str | None]] = []
        self.recoveries: list[str] = []

    async def expect(self, name: str) -> None: ...
    async def enter(self, worker: Worker) -> None: ...

    def run(self, worker: Worker) -> Awaitable[str]:
        running: Awaitable[str] = worker.handle.run.remote()
        return running

    async def stands(self, worker: Worker, *, recovery_s: float | None) -> None:
        if recovery_s is not None:
            self.recoveries.append(worker.name)

    async def leaves(self, worker: Worker) -> None: ...

    async def gone(self, worker: Worker, *, error: str | None) -> None:
        self.gone_workers.append((worker.name, error))


class House:
    """A pool with fake actors, and everything that was ever made."""

    def __init__(self, *, most: int = 3, broken: bool = False) -> None:
        self.made: dict[str, FakeActor] = {}
        self.nodes: dict[str, str | None] = {}
        self.hooks = FakeHooks()
        self.broken = broken
        self.error: Exception | None = None
        self.starts_for_ever = False
        self.pool = WorkerPool("generator", make=self._make, hooks=self.hooks, restarts=Restarts(most=most), kill=self._kill)
        self.pool.fails_fast = False

    def _make(self, _replica: str, name: str, _incarnation: int, node: str | None) -> FakeActor:
        made = self.made[name] = FakeActor(name, starts=not self.broken)
        made.error = self.error
        made.start_ends = asyncio.get_running_loop().create_future() if self.starts_for_ever else None
        self.nodes[name] = node
        return self.made[name]

    def _kill(self, handle: FakeActor, _address: Any) -> None:
        handle.killed = True

    async def until(self, holds: Callable[[], bool]) -> None:
        async with asyncio.timeout(WITHIN_S):
            while not holds():  # noqa: ASYNC110 - the pool tells nobody what it does
                await asyncio.sleep(0.005)

    @property
    def names(self) -> list[str]:
        return [worker.name for worker in self.pool.standing]


def run(house: Callable[[], House], story: Callable[[House], Awaitable[None]]) -> None:
    async def play() -> None:
        there = house()
        keeping = asyncio.ensure_future(there.pool.run())
        try:
            await story(there)
            assert not keeping.done(), keeping.result()
        finally:
            keeping.cancel()
            await asyncio.wait([keeping])

    asyncio.run(play())


def test_as_many_work_as_there_should_be_up_and_down() -> None:
    async def story(house: House) -> None:
        for number in (1, 3, 1, 2):
            house.pool.count(number)
            await house.until(lambda number=number: len(house.names) == number)  # type: ignore[misc]
        assert house.names == ["generator-0", "generator-1#1"]
        assert ("generator-2", None) in house.hooks.gone_workers

    run(House, story)


def test_a_dead_worker_is_replaced_by_the_next_incarnation_and_its_process_killed() -> None:
    async def story(house: House) -> None:
        house.pool.count(1)
        await house.until(lambda: house.names == ["generator-0"])
        house.made["generator-0"].die()
        await house.until(lambda: house.names == ["generator-0#1"])
        assert house.made["generator-0"].killed
        assert house.hooks.gone_workers == [("generator-0", "generator-0 died")]
        assert house.hooks.recoveries == ["generator-0#1"]

    run(House, story)


def test_a_hung_worker_is_given_up_without_waiting_for_its_answer() -> None:
    async def story(house: House) -> None:
        house.pool.count(1)
        await house.until(lambda: house.names == ["generator-0"])
        house.pool.standing[0].give_up(LossCause.HUNG)
        await house.until(lambda: house.names == ["generator-0#1"])
        assert house.made["generator-0"].killed
        assert "no sign of life" in str(house.hooks.gone_workers[0][1])

    run(House, story)


def test_a_worker_that_leaves_by_itself_for_its_node_is_followed_by_another_without_a_loss() -> None:
    async def story(house: House) -> None:
        house.pool.count(1)
        await house.until(lambda: house.names == ["generator-0"])
        await house.pool.leave(house.pool.standing[0])
        await house.until(lambda: house.names == ["generator-0#1"])
        assert house.hooks.gone_workers == [("generator-0", None)]

    run(House, story)


def test_a_worker_that_does_not_leave_in_time_is_killed() -> None:
    async def story(house: House) -> None:
        house.pool.count(1)
        await house.until(lambda: house.names == ["generator-0"])
        house.made["generator-0"].answers_leave = False
        await house.pool.leave(house.pool.standing[0], within_s=0.05)
        await house.until(lambda: house.made["generator-0"].killed)

    run(House, story)


def test_a_worker_that_says_it_leaves_and_then_hangs_is_killed_and_its_place_is_free_again() -> None:
    async def story(house: House) -> None:
        house.pool.count(1)
        await house.until(lambda: house.names == ["generator-0"])
        house.made["generator-0"].ends_after_leave = False
        await house.pool.leave(house.pool.standing[0], within_s=0.05)
        await house.until(lambda: house.names == ["generator-0#1"])
        assert house.made["generator-0"].killed

    run(House, story)


def test_a_worker_that_is_stopped_while_it_starts_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_pool, "START_SILENCE_S", 0.05)
    monkeypatch.setattr(worker_pool, "TICK_S", 0.01)

    async def story(house: House) -> None:
        house.starts_for_ever = True
        house.pool.count(1)
        await house.until(lambda: "generator-0" in house.made)
        house.starts_for_ever = False
        house.made["generator-0"].answers = False
        await house.until(lambda: house.names == ["generator-0#1"])
        assert house.made["generator-0"].killed

    run(House, story)


def test_a_worker_that_is_not_wanted_any_more_before_it_stands_asks_for_no_place_any_more() -> None:
    async def story(house: House) -> None:
        house.starts_for_ever = True  # as one does for whom the cluster has no node yet
        house.pool.count(2)
        await house.until(lambda: len(house.made) == 2)
        house.made["generator-0"].start_ends.set_result(None)  # type: ignore[union-attr]
        await house.until(lambda: house.names == ["generator-0"])
        house.pool.count(1)
        await house.until(lambda: house.made["generator-1"].killed)
        assert house.hooks.gone_workers == [("generator-1", None)]
        assert house.names == ["generator-0"]
        house.starts_for_ever = False
        house.pool.count(2)
        await house.until(lambda: house.names == ["generator-0", "generator-1#1"])

    run(House, story)


def test_a_process_that_is_killed_while_the_run_starts_is_replaced_and_does_not_end_the_run() -> None:
    async def story(house: House) -> None:
        house.pool.fails_fast = True
        house.broken, house.error = True, ray.exceptions.ActorDiedError()
        house.pool.count(1)
        await house.until(lambda: "generator-0" in house.made)
        house.broken = False
        await house.until(lambda: len(house.names) == 1)
        assert house.names != ["generator-0"]

    run(House, story)


def test_places_are_pinned_to_their_nodes() -> None:
    async def story(house: House) -> None:
        house.pool.place({"generator-0": "node-a", "generator-1": "node-b"})
        await house.until(lambda: len(house.names) == 2)
        assert house.nodes == {"generator-0": "node-a", "generator-1": "node-b"}
        house.pool.place({"generator-1": "node-b"})
        await house.until(lambda: house.names == ["generator-1"])

    run(House, story)


def test_a_pinned_worker_that_dies_is_replaced_where_the_next_placing_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(restarts, "FIRST_WAIT_S", 0.0)

    async def story(house: House) -> None:
        house.pool.place({"generator-0": "node-a"})
        await house.until(lambda: house.names == ["generator-0"])
        house.made["generator-0"].die()  # with its node, as far as anybody knows
        await house.until(lambda: house.made["generator-0"].killed)
        for _ in range(10):
            await asyncio.sleep(0)  # nobody is made meanwhile
        house.pool.place({"generator-0": "node-b"})
        await house.until(lambda: house.names == ["generator-0#1"])
        assert house.nodes == {"generator-0": "node-a", "generator-0#1": "node-b"}

    run(House, story)


def test_a_worker_whose_node_went_away_while_the_run_starts_does_not_end_the_run() -> None:
    async def story(house: House) -> None:
        house.pool.fails_fast = True
        house.broken, house.error = True, ray.exceptions.ActorUnschedulableError("the node is dead")
        house.pool.place({"generator-0": "node-a"})
        await house.until(lambda: "generator-0" in house.made)
        house.broken = False
        await house.until(lambda: house.made["generator-0"].killed)
        house.pool.place({"generator-0": "node-b"})
        await house.until(lambda: house.names == ["generator-0#1"])

    run(House, story)


def test_a_crash_loop_ends_the_pool_with_the_last_error() -> None:
    async def play() -> None:
        house = House(most=1, broken=True)
        house.pool.count(1)
        async with asyncio.timeout(WITHIN_S):
            with pytest.raises(BaseExceptionGroup) as caught:
                await house.pool.run()
        assert caught.group_contains(ActorError, match="generator-0 died 2 times.*cannot start")

    asyncio.run(play())


def test_before_the_run_stands_the_first_failure_ends_it() -> None:
    async def play() -> None:
        house = House(broken=True)
        house.pool.fails_fast = True
        house.pool.count(1)
        async with asyncio.timeout(WITHIN_S):
            with pytest.raises(BaseExceptionGroup) as caught:
                await house.pool.run()
        assert caught.group_contains(ActorError, match="generator-0 cannot start")

    asyncio.run(play())


def test_a_worker_whose_queue_has_closed_is_not_replaced() -> None:
    async def story(house: House) -> None:
        house.pool.count(1)
        await house.until(lambda: house.names == ["generator-0"])
        house.made["generator-0"].ends.set_result("closed")
        await house.until(lambda: not house.names)
        assert list(house.made) == ["generator-0"]

    run(House, story)


def test_a_worker_is_named_by_replica_and_incarnation() -> None:
    assert [worker_name("verifier-2", number) for number in (0, 1, 12)] == ["verifier-2", "verifier-2#1", "verifier-2#12"]
