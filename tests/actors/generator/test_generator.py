"""Laws of a generator, with an engine and a queue that the test holds in its hand."""

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
from generator_fakes import FakeEngine, FakeQueue, generator, lease, run, until

from actors.evaluation import EvaluationPrompt
from learner.weight_protocol import StagedVersion
from rlvr.errors import EngineError
from rlvr.records import Lease, Version


def test_every_leased_rollout_is_handed_in_once_with_its_lease_and_text() -> None:
    async def work() -> FakeQueue:
        engine, queue = FakeEngine(), FakeQueue([lease(0), lease(1)])
        engine.staged.put_nowait(StagedVersion(Version(step=0)))
        await generator(engine, queue).run()
        return queue

    queue = run(work)
    assert sorted(rollout.id for rollout in queue.rollouts) == ["r0/0", "r0/1", "r1/0", "r1/1"]
    assert all((rollout.lease_id, rollout.text, rollout.generator) == (f"l{rollout.id[1]}", "ga", "g0") for rollout in queue.rollouts)
    assert queue.applied_versions == [Version(step=0)]
    assert max(queue.sizes) <= 4


def test_nothing_is_leased_before_published_weights_are_applied() -> None:
    async def work() -> tuple[FakeQueue, bool]:
        engine, queue = FakeEngine(), FakeQueue([lease(0)])
        task = asyncio.ensure_future(generator(engine, queue).run())
        for _ in range(20):
            await asyncio.sleep(0)
        untouched = queue.sizes == []
        engine.staged.put_nowait(StagedVersion(Version(step=0)))
        await task
        return queue, untouched

    queue, untouched = run(work)
    assert untouched
    assert len(queue.rollouts) == 2


def test_a_version_that_was_overtaken_is_passed_over_for_the_newer_one() -> None:
    async def work() -> FakeQueue:
        engine = FakeEngine(overtaken=[Version(step=1)])
        queue = FakeQueue([lease(0)], closes=lambda queue: queue.applied_versions[-1:] == [Version(step=2)])
        for step in (0, 1, 2):
            engine.staged.put_nowait(StagedVersion(Version(step=step)))
        await generator(engine, queue).run()
        return queue

    assert run(work).applied_versions == [Version(step=0), Version(step=2)]


def test_an_evaluation_is_of_the_version_that_is_kept_and_no_lease_is_taken_meanwhile() -> None:
    prompts = tuple(EvaluationPrompt(set_name="held", problem_id=str(index), prompt_ids=(3,), gold="1") for index in range(5))

    async def work() -> tuple[FakeEngine, Any]:
        engine, queue = FakeEngine(), FakeQueue([lease(0)])
        subject = generator(engine, queue, evaluation=prompts)
        subject.evaluate_from_now([])
        engine.staged.put_nowait(StagedVersion(Version(step=0), keep=True))
        await subject.run()
        return engine, await subject.next_evaluation()

    engine, evaluation = run(work)
    assert evaluation.version == Version(step=0)
    assert [sample.prompt for sample in evaluation.samples] == [0, 1, 2, 3, 4]
    names = [name.split("/")[0] for name, _ in engine.asked]
    assert names[:5] == ["evaluation"] * 5, "rollouts are leased only when the evaluation has ended"


class WakingQueue(FakeQueue):
    """As the real one: a poll that waits is answered when new weights are applied, before the generator goes on."""

    is_polled = False

    async def lease(self, n: int, *, generator: str, applied: Version, wait_s: float, holding: Sequence[str] | None = None) -> list[Lease]:
        self.is_polled = True
        while Version(step=1) not in self.applied_versions:
            await self.something(within_s=10.0)
        return await super().lease(n, generator=generator, applied=applied, wait_s=wait_s)

    async def applied(self, version: Version, *, generator: str) -> None:
        await super().applied(version, generator=generator)
        for _ in range(5):
            await asyncio.sleep(0)


@pytest.mark.parametrize("deterministic", [False, True])
def test_a_lease_that_comes_while_an_evaluation_begins_is_not_sampled_beside_it(deterministic: bool) -> None:
    prompts = tuple(EvaluationPrompt(set_name="held", problem_id=str(index), prompt_ids=(3,), gold="1") for index in range(5))

    async def work() -> tuple[FakeEngine, FakeQueue]:
        engine, queue = FakeEngine(), WakingQueue([lease(0, seeds=(1, 2))])
        subject = generator(engine, queue, evaluation=prompts, deterministic=deterministic)
        subject.evaluate_from_now([])
        engine.staged.put_nowait(StagedVersion(Version(step=0)))
        running = asyncio.ensure_future(subject.run())
        await until(lambda: queue.is_polled)
        engine.staged.put_nowait(StagedVersion(Version(step=1), keep=True))
        await running
        return engine, queue

    engine, queue = run(work)
    names = [name.split("/")[0] for name, _ in engine.asked]
    assert names == ["evaluation"] * 5 + ["r0"] * 2
    assert queue.handed_back == ([] if deterministic else ["l0"])
    assert len(queue.rollouts) == 2


def test_a_generator_that_was_not_asked_to_evaluate_evaluates_nothing() -> None:
    prompts = (EvaluationPrompt(set_name="held", problem_id="e", prompt_ids=(3,), gold="1"),)

    async def work() -> FakeEngine:
        engine, queue = FakeEngine(), FakeQueue([lease(0)])
        engine.staged.put_nowait(StagedVersion(Version(step=0), keep=True))
        await generator(engine, queue, evaluation=prompts).run()
        return engine

    assert {name.split("/")[0] for name, _ in run(work).asked} == {"r0"}


def test_deterministic_mode_samples_a_whole_lease_with_its_seeds() -> None:
    async def work() -> FakeQueue:
        engine, queue = FakeEngine(), FakeQueue([lease(0, 4, seeds=(1, 2, 3, 4))])
        engine.staged.put_nowait(StagedVersion(Version(step=0)))
        await generator(engine, queue, deterministic=True).run()
        return queue

    assert [rollout.id for rollout in run(work).rollouts] == ["r0/0", "r0/1", "r0/2", "r0/3"]


def test_a_dead_engine_ends_the_generator_with_its_error() -> None:
    async def work() -> None:
        engine, queue = FakeEngine(), FakeQueue([lease(0)])
        engine.fails = True
        engine.staged.put_nowait(StagedVersion(Version(step=0)))
        await generator(engine, queue).run()

    with pytest.raises(ExceptionGroup) as raised:
        run(work)
    assert raised.group_contains(EngineError, match="process is gone")
