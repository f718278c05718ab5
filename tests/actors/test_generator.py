"""Laws of a generator, with an engine and a queue that the test holds in its hand."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, cast

import numpy as np
import pytest

from actors.engine import Completion, Engine, SampleRequest, Sampling
from actors.evaluation import EvaluationPrompt
from actors.generator import Generator, GeneratorSettings
from actors.queue.records import PutResult
from learner.weight_protocol import StagedVersion
from rlvr.errors import Closed, EngineError, OvertakenError
from rlvr.metrics import Registry
from rlvr.records import FinishReason, Lease, Rollout, Version, VersionSpan

SAMPLING = Sampling(max_tokens=4, temperature=1.0)
PATIENCE_S = 20.0


class FakeEngine:
    """Completes every request at once, under its version; versions are staged by the test."""

    def __init__(self, *, overtaken: Sequence[Version] = ()) -> None:
        self.version = Version(step=-1)
        self.staged: asyncio.Queue[StagedVersion] = asyncio.Queue()
        self.overtaken = set(overtaken)
        self.asked: list[tuple[str, str]] = []
        self.fails = False

    async def next_staged(self, after: Version | None) -> StagedVersion:
        return await self.staged.get()

    async def apply(self, version: Version) -> float:
        if version in self.overtaken:
            raise OvertakenError(f"version {version} is not staged")
        self.version = version
        return 0.25

    async def sample(self, request: SampleRequest) -> Completion:
        await asyncio.sleep(0)
        if self.fails:
            raise EngineError("the engine's process is gone")
        self.asked.append((request.rollout_id, str(self.version)))
        return self._complete(request)

    async def sample_together(self, requests: Sequence[SampleRequest]) -> list[Completion]:
        assert all(request.seed is not None for request in requests)
        self.asked += [(request.rollout_id, str(self.version)) for request in requests]
        return [self._complete(request) for request in requests]

    def _complete(self, request: SampleRequest) -> Completion:
        return Completion(
            rollout_id=request.rollout_id,
            token_ids=np.array([7, 1], np.int32),
            logprobs=np.array([-0.5, -0.25], np.float32),
            spans=(VersionSpan(self.version, 0, 2),),
            finish_reason=FinishReason.STOP,
            seconds=0.1,
        )


class FakeQueue:
    """Hands out the leases it was given, then closes when everything it leased has come back."""

    def __init__(self, leases: Sequence[Lease], *, closes: Callable[["FakeQueue"], bool] | None = None) -> None:
        self.leases = list(leases)
        self.rollouts: list[Rollout] = []
        self.applied_versions: list[Version] = []
        self.sizes: list[int] = []
        self.expected = sum(len(lease.rollout_ids) for lease in leases)
        self.closes = closes or (lambda queue: len(queue.rollouts) >= queue.expected)
        self.changed = asyncio.Event()
        self.given = list(leases)
        self.handed_back: list[str] = []

    async def lease(self, n: int, *, generator: str, applied: Version, wait_s: float) -> list[Lease]:
        self.sizes.append(n)
        while not self.leases:
            if self.closes(self):
                raise Closed("the run is over")
            self.changed.clear()
            await self.changed.wait()
        return [self.leases.pop(0)]

    async def put(self, rollouts: Sequence[Rollout], *, generator: str) -> list[PutResult]:
        self.rollouts += rollouts
        self.changed.set()
        return [PutResult(rollout.id) for rollout in rollouts]

    async def applied(self, version: Version, *, generator: str) -> None:
        self.applied_versions.append(version)
        self.changed.set()

    async def hand_back(self, lease_id: str, *, generator: str) -> None:
        self.handed_back.append(lease_id)
        self.leases += [one for one in self.given if one.id == lease_id]
        self.changed.set()

    async def beat(self, worker: str, *, role: str) -> None: ...


class Letters:
    def decode(self, token_ids: Sequence[int]) -> str:
        return "".join(chr(96 + token_id) for token_id in token_ids)


def lease(number: int, size: int = 2, *, seeds: tuple[int, ...] | None = None) -> Lease:
    ids = tuple(f"r{number}/{index}" for index in range(size))
    return Lease(id=f"l{number}", problem_id="p", group_id="g", rollout_ids=ids, prompt_ids=(3, 4), step=1, seeds=seeds)


def generator(engine: FakeEngine, queue: FakeQueue, **settings: Any) -> Generator:
    chosen = GeneratorSettings(**{"name": "g0", "capacity": 8, "lease_size": 4, "sampling": SAMPLING, "evaluation_sampling": SAMPLING, **settings})
    return Generator(chosen, engine=cast(Engine, engine), queue=queue, decoder=Letters(), metrics=Registry(role="generator", replica="g0"))


def run(work: Callable[[], Any]) -> Any:
    async def within() -> Any:
        async with asyncio.timeout(PATIENCE_S):
            return await work()

    return asyncio.run(within())


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

    async def lease(self, n: int, *, generator: str, applied: Version, wait_s: float) -> list[Lease]:
        while Version(step=1) not in self.applied_versions:
            self.changed.clear()
            await self.changed.wait()
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
        engine.staged.put_nowait(StagedVersion(Version(step=0)))
        engine.staged.put_nowait(StagedVersion(Version(step=1), keep=True))
        await subject.run()
        return engine, queue

    engine, queue = run(work)
    names = [name.split("/")[0] for name, _ in engine.asked]
    assert names == ["evaluation"] * 5 + ["r0"] * 2
    assert queue.handed_back == ([] if deterministic else ["l0"])
    assert len(queue.rollouts) == 2


def test_a_generator_without_evaluation_prompts_evaluates_nothing() -> None:
    async def work() -> FakeEngine:
        engine, queue = FakeEngine(), FakeQueue([lease(0)])
        engine.staged.put_nowait(StagedVersion(Version(step=0), keep=True))
        await generator(engine, queue).run()
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
