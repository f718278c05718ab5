"""Laws of a generator that leaves, and of one that goes on with what another one has left: no token is lost, none is sampled twice."""

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, cast

import pytest
import ray.exceptions
from generator_fakes import PATIENCE_S, FakeEngine, FakeQueue, generator, lease, run, until

from actors.queue import client as client_module
from actors.queue.client import QueueClient
from learner.weight_protocol import StagedVersion
from rlvr import wire
from rlvr.errors import EngineError
from rlvr.metrics import Registry
from rlvr.records import FinishReason, Lease, Partial, Rollout, Version, VersionSpan

V0, V1 = Version(step=0), Version(step=1)


def begun(rollout_id: str, ids: tuple[int, ...] = (9, 8), *, handovers: int = 1) -> Partial:
    token_data = b"".join(token.to_bytes(4, "little") for token in ids)
    return Partial(
        rollout_id=rollout_id,
        token_data=token_data,
        logprob_data=bytes(4 * len(ids)),
        spans=(VersionSpan(V0, 0, len(ids)),),
        handovers=handovers,
    )


async def leave_after(subject: Any, engine: FakeEngine, version: Version, ready: Callable[[], bool]) -> str:
    """Run until it is so, then leave."""
    engine.staged.put_nowait(StagedVersion(version))
    async with asyncio.TaskGroup() as group:
        running = group.create_task(subject.run())
        await until(ready)
        await subject.leave()
    return cast(str, running.result())


def test_a_leaving_generator_hands_in_what_is_finished_and_hands_back_the_rest_with_its_tokens() -> None:
    async def work() -> tuple[FakeQueue, str]:
        engine = FakeEngine(held=["r0/1", "r1/0"])
        queue = FakeQueue([lease(0), lease(1), lease(2)], closes=lambda queue: False)
        queue.gives_again = False
        outcome = await leave_after(generator(engine, queue), engine, V0, lambda: len(engine.asked) == 6)
        return queue, outcome

    queue, outcome = run(work)
    assert outcome == "left"
    assert sorted(rollout.id for rollout in queue.rollouts) == ["r0/0", "r1/1", "r2/0", "r2/1"]
    assert sorted(queue.handed_back) == ["l0", "l1"]
    assert sorted(partial.rollout_id for partial in queue.partials) == ["r0/1", "r1/0"]
    assert {(partial.token_ids.tolist()[0], partial.spans, partial.handovers) for partial in queue.partials} == {(7, (VersionSpan(V0, 0, 1),), 1)}


@pytest.mark.parametrize("num_asked", [0, 1, 3, 6])
def test_whenever_it_leaves_each_leased_completion_is_handed_in_or_handed_back_exactly_once(num_asked: int) -> None:
    leases = [lease(number) for number in range(4)]

    async def work() -> tuple[FakeEngine, FakeQueue]:
        engine = FakeEngine(held=[name for each in leases for name in each.rollout_ids if name.endswith("1")])
        queue = FakeQueue(leases, closes=lambda queue: False)
        queue.gives_again = False
        assert await leave_after(generator(engine, queue), engine, V0, lambda: len(engine.asked) >= num_asked) == "left"
        return engine, queue

    _, queue = run(work)
    given = [one for one in leases if one not in queue.leases]
    assert len(set(queue.handed_back)) == len(queue.handed_back)
    fates = Counter(rollout.id for rollout in queue.rollouts)
    for each in given:
        finished = [name for name in each.rollout_ids if fates[name]]
        assert all(fates[name] == 1 for name in finished)
        assert (len(finished) < len(each.rollout_ids)) == (each.id in queue.handed_back)
    assert not {partial.rollout_id for partial in queue.partials} & fates.keys()


def test_a_generator_that_leaves_before_it_has_weights_leaves_at_once() -> None:
    async def work() -> str:
        engine, queue = FakeEngine(), FakeQueue([lease(0)])
        subject = generator(engine, queue)
        async with asyncio.TaskGroup() as group:
            running = group.create_task(subject.run())
            await asyncio.sleep(0)
            await subject.leave()
        assert queue.sizes == []
        return running.result()

    assert run(work) == "left"


def test_a_continued_completion_is_handed_in_whole_and_counts_its_handovers() -> None:
    metrics = Registry(role="generator", replica="g")

    async def work() -> tuple[FakeEngine, FakeQueue]:
        engine = FakeEngine()
        queue = FakeQueue([lease(0, partials=(begun("r0/1", handovers=2),))])
        engine.staged.put_nowait(StagedVersion(V1))
        assert await generator(engine, queue, metrics=metrics).run() == "closed"
        return engine, queue

    engine, queue = run(work)
    started, continued = sorted(queue.rollouts, key=lambda rollout: rollout.id)
    assert (started.token_ids.tolist(), started.handovers) == ([7, 1], 0)
    assert continued.token_ids.tolist() == [9, 8, 7, 1]
    assert continued.logprobs.tolist() == [0.0, 0.0, -0.5, -0.25]
    assert continued.spans == (VersionSpan(V0, 0, 2), VersionSpan(V1, 2, 4))
    assert (continued.handovers, continued.text) == (2, "ihga")
    asked = {request.rollout_id: request for request in engine.requests}
    assert (asked["r0/1"].prompt_ids, asked["r0/1"].sampling.max_tokens) == ((3, 4, 9, 8), 2)
    assert metrics.counter("rlvr_completions_continued_total")._value.get() == 1
    assert metrics.counter("rlvr_tokens_generated_total")._value.get() == 4


def test_a_partial_that_is_full_already_is_handed_in_without_sampling() -> None:
    async def work() -> tuple[FakeEngine, FakeQueue]:
        engine = FakeEngine()
        queue = FakeQueue([lease(0, 1, partials=(begun("r0/0", (9, 8, 7, 6)),))])
        engine.staged.put_nowait(StagedVersion(V1))
        await generator(engine, queue).run()
        return engine, queue

    engine, queue = run(work)
    assert engine.asked == []
    [rollout] = queue.rollouts
    assert (rollout.token_ids.tolist(), rollout.finish_reason, rollout.spans) == ([9, 8, 7, 6], FinishReason.LENGTH, (VersionSpan(V0, 0, 4),))


def test_a_continued_completion_that_is_interrupted_again_keeps_both_parts() -> None:
    async def work() -> FakeQueue:
        engine = FakeEngine(held=["r0/0"])
        queue = FakeQueue([lease(0, 1, partials=(begun("r0/0"),))], closes=lambda queue: False)
        queue.gives_again = False
        assert await leave_after(generator(engine, queue), engine, V1, lambda: len(engine.asked) == 1) == "left"
        return queue

    [partial] = run(work).partials
    assert partial.token_ids.tolist() == [9, 8, 7]
    assert partial.spans == (VersionSpan(V0, 0, 2), VersionSpan(V1, 2, 3))
    assert partial.handovers == 2


def test_a_lease_that_comes_to_a_leaving_generator_goes_back_with_the_partials_it_brought() -> None:
    partials = (begun("r0/1"),)

    class SlowQueue(FakeQueue):
        """Its poll is answered only when the generator is leaving."""

        async def lease(self, n: int, *, generator: str, applied: Version, wait_s: float, holding: Sequence[str] | None = None) -> list[Lease]:
            self.sizes.append(n)
            await until(lambda: engine.interrupted)
            return await super().lease(n, generator=generator, applied=applied, wait_s=wait_s)

    engine = FakeEngine()

    async def work() -> FakeQueue:
        queue = SlowQueue([lease(0, partials=partials)], closes=lambda queue: False)
        queue.gives_again = False
        assert await leave_after(generator(engine, queue), engine, V1, lambda: bool(queue.sizes)) == "left"
        return queue

    queue = run(work)
    assert (queue.handed_back, queue.partials, queue.rollouts, engine.asked) == (["l0"], list(partials), [], [])


class QueueWithOutages:
    """A queue actor whose process dies under every third call; what `FakeQueue` is told is what arrived."""

    def __init__(self, queue: FakeQueue) -> None:
        self.queue = queue
        self.num_calls = 0

    def __getattr__(self, method: str) -> Any:
        outer = self

        class Method:
            def remote(self, *arguments: Any) -> Any:
                return outer.call(method, *arguments)

        return Method()

    async def call(self, method: str, *arguments: Any) -> Any:
        self.num_calls += 1
        if self.num_calls % 3 == 0:
            raise ray.exceptions.ActorUnavailableError("it restarts", None)
        if method == "lease":
            n, name, applied, wait_s, _ = arguments
            try:
                return wire.pack(await self.queue.lease(n, generator=name, applied=Version.parse(applied), wait_s=wait_s))
            except Exception as error:
                raise ray.exceptions.RayTaskError(method, "a trace", error) from error
        if method == "put":
            name, frame = arguments
            return wire.pack(await self.queue.put(wire.unpack(frame, list[Rollout]), generator=name))
        if method == "applied":
            return await self.queue.applied(Version.parse(arguments[1]), generator=arguments[0])
        assert method == "beat"
        return None


def test_a_queue_that_is_away_for_a_while_costs_no_rollout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "FIRST_PAUSE_S", 0.001)

    async def work() -> FakeQueue:
        engine, queue = FakeEngine(), FakeQueue([lease(number) for number in range(12)])
        engine.staged.put_nowait(StagedVersion(V0))
        client = QueueClient(QueueWithOutages(queue), patience_s=PATIENCE_S)
        assert await generator(engine, cast(FakeQueue, client)).run() == "closed"
        return queue

    rollouts = run(work).rollouts
    assert sorted(rollout.id for rollout in rollouts) == sorted(name for number in range(12) for name in lease(number).rollout_ids)


def test_an_engine_that_hangs_ends_the_generator_and_its_beat() -> None:
    async def work() -> None:
        engine, queue = FakeEngine(), FakeQueue([], closes=lambda queue: False)
        engine.hangs = True
        await generator(engine, queue).run()

    with pytest.raises(ExceptionGroup) as raised:
        run(work)
    assert raised.group_contains(EngineError, match="has not answered")


def test_what_is_leased_follows_the_pace_and_the_cap_holds() -> None:
    async def work() -> tuple[FakeQueue, float]:
        engine, queue = FakeEngine(), FakeQueue([lease(number) for number in range(20)])
        engine.staged.put_nowait(StagedVersion(V0))
        started = asyncio.get_running_loop().time()
        await generator(engine, queue, max_tokens_per_second=100.0).run()
        return queue, asyncio.get_running_loop().time() - started

    queue, seconds = run(work)
    assert sum(rollout.num_tokens for rollout in queue.rollouts) == 80
    assert seconds >= 0.5, "80 tokens at 100 a second, a part of them on credit"


def test_a_generator_says_which_leases_it_has_until_the_last_of_their_rollouts_is_handed_in() -> None:
    async def work() -> tuple[list[str], list[str]]:
        engine, queue = FakeEngine(held=["r0/1"]), FakeQueue([lease(0), lease(1)])
        engine.staged.put_nowait(StagedVersion(V0))
        async with asyncio.TaskGroup() as group:
            group.create_task(generator(engine, queue).run())
            await until(lambda: len(queue.rollouts) == 3 and queue.holding == ["l0"])
            while_sampling = queue.holding
            queue.closes = lambda queue: len(queue.rollouts) == 4 and not queue.holding
            engine.let_go("r0/1")
        return while_sampling, queue.holding

    assert run(work) == (["l0"], [])
