"""Laws of the versions that a generator samples from and evaluates: which it applies, which it passes over, and that a lost sender stops nothing."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from generator_fakes import FakeEngine, FakeLog, FakeQueue, generator, lease, run, until

from actors.evaluation import EvaluationPrompt, EvaluationRun
from actors.generator import weights as generator_weights
from actors.generator.generator import Generator
from learner.weight_protocol import StagedVersion
from rlvr.records import Version

PROMPTS = tuple(EvaluationPrompt(set_name="held", problem_id=str(index), prompt_ids=(3,), gold="1") for index in range(3))
V0, V1, V2 = Version(step=0), Version(step=1), Version(step=2)


@pytest.fixture(autouse=True)
def _hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generator_weights, "WATCH_S", 0.001)


async def running_while(subject: Generator, work: Callable[[], Any]) -> Any:
    """What `work` gives while the generator runs, which then leaves."""
    async with asyncio.TaskGroup() as group:
        task = group.create_task(subject.run())
        result = await work()
        await subject.leave()
        await task
    return result


def unending(*leases: Any) -> FakeQueue:
    queue = FakeQueue(leases, closes=lambda queue: False)
    queue.gives_again = False
    return queue


def evaluated_under(engine: FakeEngine, version: Version) -> list[str]:
    """Under which versions the samples of this version's evaluation were sampled."""
    return [under for name, under in engine.asked if name.startswith(f"evaluation/{version}/")]


def test_a_newer_lineage_is_passed_over_until_it_reaches_the_step_that_is_sampled_from() -> None:
    async def work() -> tuple[FakeEngine, FakeQueue]:
        engine, queue = FakeEngine(), unending()
        for version in (Version(0, 5), Version(1, 3), Version(1, 4), Version(1, 5), Version(1, 6)):
            engine.staged.put_nowait(StagedVersion(version, keep=True))
        await running_while(generator(engine, queue), lambda: until(lambda: Version(1, 6) in queue.applied_versions))
        return engine, queue

    engine, queue = run(work)
    assert queue.applied_versions == [Version(0, 5), Version(1, 5), Version(1, 6)]
    assert engine.passed_over == [Version(1, 3), Version(1, 4)]


def test_the_evaluator_takes_an_older_kept_version_only_when_nothing_is_in_flight() -> None:
    async def work() -> tuple[FakeEngine, FakeQueue]:
        engine, queue = FakeEngine(held=["r0/1"]), unending(lease(0))
        subject = generator(engine, queue, evaluation=PROMPTS)
        subject.evaluate_from_now([])
        engine.staged.put_nowait(StagedVersion(Version(0, 5)))

        async def roll_back() -> EvaluationRun:
            await until(lambda: len(engine.asked) == 2)
            engine.staged.put_nowait(StagedVersion(Version(1, 3), keep=True))
            await until(engine.staged.empty)
            for _ in range(20):
                await asyncio.sleep(0.001)
            assert engine.version == Version(0, 5)
            engine.let_go("r0/1")
            return await subject.next_evaluation()

        evaluation = await running_while(subject, roll_back)
        assert evaluation.version == Version(1, 3)
        return engine, queue

    engine, queue = run(work)
    assert evaluated_under(engine, Version(1, 3)) == ["1.3"] * 3
    assert all(len(rollout.spans) == 1 and rollout.spans[0].version == Version(0, 5) for rollout in queue.rollouts)


def test_a_lost_sender_does_not_stop_sampling_and_a_new_one_is_followed() -> None:
    async def work() -> FakeQueue:
        engine, queue = FakeEngine(), unending(lease(0))
        engine.staged.put_nowait(StagedVersion(V0))

        async def lose_and_join() -> None:
            await until(lambda: len(queue.rollouts) == 2)
            engine.sender_is_lost = True
            queue.leases.append(lease(1))
            await until(lambda: len(queue.rollouts) == 4)
            engine.staged.put_nowait(StagedVersion(Version(1, 0)))
            engine.sender_is_lost = False
            await until(lambda: Version(1, 0) in queue.applied_versions)
            queue.leases.append(lease(2))
            await until(lambda: len(queue.rollouts) == 6)

        await running_while(generator(engine, queue), lose_and_join)
        return queue

    queue = run(work)
    versions = {rollout.id[:2]: rollout.spans[0].version for rollout in queue.rollouts}
    assert versions == {"r0": V0, "r1": V0, "r2": Version(1, 0)}


def test_a_joiner_that_starts_from_the_log_samples_before_any_broadcast() -> None:
    async def work() -> FakeQueue:
        engine, queue = FakeEngine(), unending(lease(0))
        engine.sender_is_lost = True
        subject = generator(engine, queue, log=FakeLog([V2]))
        assert not await subject.start_from_log(V1)
        assert await subject.start_from_log(V2)
        await running_while(subject, lambda: until(lambda: len(queue.rollouts) == 2))
        return queue

    queue = run(work)
    assert queue.applied_versions == [V2]
    assert {rollout.spans[0].version for rollout in queue.rollouts} == {V2}


def test_an_engine_whose_first_weights_are_those_of_a_pending_evaluation_samples_from_them() -> None:
    async def work() -> FakeQueue:
        engine, queue = FakeEngine(), unending(lease(0))
        subject = generator(engine, queue, log=FakeLog([V0]), evaluation=PROMPTS)
        subject.evaluate_from_now([V0])
        await running_while(subject, lambda: until(lambda: len(queue.rollouts) == 2))
        return queue

    queue = run(work)
    assert queue.applied_versions == [V0]
    assert {rollout.spans[0].version for rollout in queue.rollouts} == {V0}


def test_a_pending_evaluation_is_of_exactly_that_version_and_rollouts_go_on_with_the_newer_one() -> None:
    async def work() -> tuple[FakeEngine, FakeQueue, list[EvaluationRun]]:
        engine, queue = FakeEngine(held=["r0/1"]), unending(lease(0))
        subject = generator(engine, queue, log=FakeLog([V0, V1, V2]), evaluation=PROMPTS)
        engine.staged.put_nowait(StagedVersion(V2))

        async def take_over() -> list[EvaluationRun]:
            await until(lambda: len(engine.asked) == 2)
            subject.evaluate_from_now([V1, V0, V2])
            for _ in range(20):
                await asyncio.sleep(0.001)
            engine.let_go("r0/1")
            evaluations = [await subject.next_evaluation() for _ in range(3)]
            queue.leases.append(lease(1))
            await until(lambda: len(queue.rollouts) == 4)
            return evaluations

        return engine, queue, await running_while(subject, take_over)

    engine, queue, evaluations = run(work)
    assert [evaluation.version for evaluation in evaluations] == [V0, V1, V2]
    for version in (V0, V1, V2):
        assert evaluated_under(engine, version) == [str(version)] * 3
    assert all([span.version for span in rollout.spans] == [V2] for rollout in queue.rollouts)
    assert queue.applied_versions == [V2], "the queue never hears of a version that rollouts are not sampled from"


def test_where_the_log_has_no_way_back_a_pending_evaluation_waits_for_the_next_version() -> None:
    async def work() -> tuple[FakeEngine, FakeQueue, bool]:
        engine, queue = FakeEngine(), unending()
        subject = generator(engine, queue, log=FakeLog([V0]), evaluation=PROMPTS)
        engine.staged.put_nowait(StagedVersion(V1))

        async def take_over() -> bool:
            await until(lambda: V1 in queue.applied_versions)
            subject.evaluate_from_now([V0])
            for _ in range(20):
                await asyncio.sleep(0.001)
            stayed = engine.version == V1
            engine.staged.put_nowait(StagedVersion(V2))
            assert (await subject.next_evaluation()).version == V0
            await until(lambda: V2 in queue.applied_versions)
            queue.leases.append(lease(0))
            await until(lambda: len(queue.rollouts) == 2)
            return stayed

        return engine, queue, await running_while(subject, take_over)

    engine, queue, stayed = run(work)
    assert stayed
    assert engine.applied == [(V1, False), (V0, True), (V2, False)]
    assert {rollout.spans[0].version for rollout in queue.rollouts} == {V2}


def test_a_version_is_evaluated_once_though_it_is_pending_and_comes_by_broadcast() -> None:
    async def work() -> list[Version]:
        engine, queue = FakeEngine(), unending()
        subject = generator(engine, queue, log=FakeLog([V0, V1]), evaluation=PROMPTS)
        subject.evaluate_from_now([V0, V1])
        engine.staged.put_nowait(StagedVersion(V0, keep=True))
        engine.staged.put_nowait(StagedVersion(V1, keep=True))

        async def wait() -> list[Version]:
            await until(lambda: V1 in queue.applied_versions)
            return [(await subject.next_evaluation()).version for _ in range(2)]

        return await running_while(subject, wait)

    assert run(work) == [V0, V1]


def test_a_pending_version_that_nobody_has_any_more_is_an_evaluation_without_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generator_weights, "LOG_S", 0.01)

    async def work() -> EvaluationRun:
        engine, queue = FakeEngine(), unending()
        subject = generator(engine, queue, evaluation=PROMPTS)
        subject.evaluate_from_now([V0])
        engine.staged.put_nowait(StagedVersion(V1))
        return await running_while(subject, subject.next_evaluation)

    evaluation = run(work)
    assert (evaluation.version, evaluation.samples) == (V0, ())


def test_an_evaluation_that_the_generator_leaves_is_nobodys_result() -> None:
    async def work() -> bool:
        engine = FakeEngine(held=[f"evaluation/{V0}/2/0"])
        subject = generator(engine, unending(), evaluation=PROMPTS)
        subject.evaluate_from_now([])
        engine.staged.put_nowait(StagedVersion(V0, keep=True))
        await running_while(subject, lambda: until(lambda: len(engine.asked) == 3))
        return subject._weights.evaluations.empty()

    assert run(work)


def test_a_damaged_file_of_the_log_is_of_no_use_and_does_no_harm() -> None:
    async def work() -> tuple[FakeQueue, EvaluationRun]:
        engine, queue = FakeEngine(), unending(lease(0))
        engine.damaged = {V0}
        subject = generator(engine, queue, log=FakeLog([V0, V1]), evaluation=PROMPTS)
        assert not await subject.start_from_log(V0)
        subject.evaluate_from_now([V0])
        engine.staged.put_nowait(StagedVersion(V1))

        async def both() -> EvaluationRun:
            await until(lambda: len(queue.rollouts) == 2)
            return await subject.next_evaluation()

        return queue, await running_while(subject, both)

    queue, evaluation = run(work)
    assert (evaluation.version, evaluation.samples) == (V0, ())
    assert queue.applied_versions == [V1]
