"""Every due evaluation is made once, whoever dies meanwhile."""

import asyncio
from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Any, cast

from actors.evaluation import EvaluationPrompt, EvaluationResult, EvaluationRun, EvaluationSample
from actors.fleet.evaluation_keeper import EvaluationKeeper
from actors.fleet.worker_pool import Worker, WorkerPool
from actors.prepare import Plan
from rlvr import wire
from rlvr.config import Config, RunConfig
from rlvr.metrics import LossCause
from rlvr.records import Unverified, Verdict, VerdictKind, Version

WITHIN_S = 10.0
PROMPTS = (EvaluationPrompt(set_name="held-out", problem_id="p", prompt_ids=(1,), gold="1"),)
CONFIG = Config(run=RunConfig(num_steps=4, eval_every_steps=2))


def evaluated(version: Version) -> EvaluationRun:
    return EvaluationRun(version=version, samples=(EvaluationSample(prompt=0, text="1", is_truncated=False, num_tokens=1),), seconds=0.1)


class FakeGenerator:
    """Evaluates what it is told to, when it is let."""

    def __init__(self) -> None:
        self.finished: asyncio.Queue[EvaluationRun] = asyncio.Queue()
        self.pending: list[list[str]] = []
        self.evaluate_from_now = SimpleNamespace(remote=self._evaluate_from_now)
        self.next_evaluation = SimpleNamespace(remote=self.finished.get)

    async def _evaluate_from_now(self, pending: list[str]) -> None:
        self.pending.append(pending)


class FakeVerifier:
    def __init__(self) -> None:
        self.judge_evaluation = SimpleNamespace(remote=self._judge)

    async def _judge(self, frame: bytes) -> bytes:
        cases = wire.unpack(frame, list[Unverified])
        return wire.pack([Verdict(rollout_id=case.rollout_id, lease_id=case.lease_id, kind=VerdictKind.CORRECT, reward=1.0) for case in cases])


def worker(replica: str, handle: Any) -> Worker:
    return Worker(replica=replica, incarnation=0, handle=handle, is_standing=True)


class House:
    def __init__(self) -> None:
        self.generators = [FakeGenerator(), FakeGenerator()]
        self.workers = [worker(f"generator-{index}", handle) for index, handle in enumerate(self.generators)]
        self.results: list[EvaluationResult] = []
        self.keeper = EvaluationKeeper(
            CONFIG,
            cast(Plan, SimpleNamespace(evaluation=PROMPTS)),
            generators=cast(WorkerPool, SimpleNamespace(standing=self.workers)),
            verifiers=cast(WorkerPool, SimpleNamespace(standing=[worker("verifier-0", FakeVerifier())])),
            take=self._take,
        )

    async def _take(self, found: list[EvaluationResult]) -> None:
        self.results.extend(found)

    @property
    def versions(self) -> list[str]:
        return [result.version for result in self.results]

    async def publish(self, *versions: Version, receivers: tuple[str, ...] = ("generator-0.0", "generator-1.0")) -> None:
        for version in versions:
            await self.keeper.published(version, receivers=receivers)


def run(story: Callable[[House], Awaitable[None]]) -> None:
    async def play() -> None:
        async with asyncio.timeout(WITHIN_S):
            await story(House())

    asyncio.run(play())


async def until(holds: Callable[[], bool]) -> None:
    while not holds():  # noqa: ASYNC110 - fakes tell nobody
        await asyncio.sleep(0.005)


def test_the_keeper_ends_after_the_last_due_version() -> None:
    async def story(house: House) -> None:
        keeping = asyncio.ensure_future(house.keeper.run())
        for step in (0, 2, 4):
            assert not keeping.done()
            await house.publish(Version(step=step))
            house.generators[0].finished.put_nowait(evaluated(Version(step=step)))
            await until(lambda step=step: f"0.{step}" in house.versions)  # type: ignore[misc]
        await keeping
        assert house.versions == ["0.0", "0.2", "0.4"]

    run(story)


def test_what_a_lost_evaluator_left_is_given_to_another_generator() -> None:
    async def story(house: House) -> None:
        keeping = asyncio.ensure_future(house.keeper.run())
        await until(lambda: bool(house.generators[0].pending))
        await house.publish(Version(step=0), Version(step=2))
        house.workers[0].is_standing = False
        house.workers[0].give_up(LossCause.HUNG)
        await until(lambda: bool(house.generators[1].pending))
        assert house.generators[1].pending == [["0.0", "0.2"]]
        keeping.cancel()

    run(story)


def test_an_evaluator_that_a_broadcast_has_missed_reads_the_version_from_the_log() -> None:
    async def story(house: House) -> None:
        keeping = asyncio.ensure_future(house.keeper.run())
        await until(lambda: bool(house.generators[0].pending))
        await house.publish(Version(step=0))
        assert house.generators[0].pending == [[]]
        await house.publish(Version(step=2), receivers=("generator-1.0",))
        assert house.generators[0].pending == [[], ["0.0", "0.2"]]
        keeping.cancel()

    run(story)


def test_an_evaluation_that_comes_before_the_news_of_its_version_counts() -> None:
    async def story(house: House) -> None:
        keeping = asyncio.ensure_future(house.keeper.run())
        await house.publish(Version(step=0), Version(step=2))
        for step in (0, 2, 4):
            house.generators[0].finished.put_nowait(evaluated(Version(step=step)))
        await keeping
        await house.publish(Version(step=4))
        assert house.versions == ["0.0", "0.2", "0.4"]
        assert house.keeper.pending == []

    run(story)


def test_an_evaluation_of_a_version_that_was_rolled_back_does_not_count() -> None:
    async def story(house: House) -> None:
        keeping = asyncio.ensure_future(house.keeper.run())
        await house.publish(Version(step=0), Version(step=2))
        house.generators[0].finished.put_nowait(evaluated(Version(step=4)))
        await until(lambda: len(house.results) == 1)
        await house.keeper.roll_back(Version(lineage=1, step=2))
        for version in (Version(step=4), Version(step=2), Version(lineage=1, step=4), Version(step=0)):
            house.generators[0].finished.put_nowait(evaluated(version))
        await keeping
        assert house.versions == ["0.4", "0.2", "1.4", "0.0"]

    run(story)


def test_an_evaluation_that_comes_twice_counts_once() -> None:
    async def story(house: House) -> None:
        keeping = asyncio.ensure_future(house.keeper.run())
        await house.publish(Version(step=0), Version(step=2))
        for version in (Version(step=0), Version(step=0), Version(step=2)):
            house.generators[0].finished.put_nowait(evaluated(version))
        await until(lambda: len(house.results) == 2)
        assert house.versions == ["0.0", "0.2"]
        keeping.cancel()

    run(story)


def test_after_a_roll_back_later_versions_are_evaluated_again_and_the_start_is_not() -> None:
    async def story(house: House) -> None:
        keeping = asyncio.ensure_future(house.keeper.run())
        for step in (0, 2):
            await house.publish(Version(step=step))
            house.generators[0].finished.put_nowait(evaluated(Version(step=step)))
        await until(lambda: len(house.results) == 2)
        assert not house.keeper.wants(2)
        await house.keeper.roll_back(Version(lineage=1, step=0))
        assert house.keeper.wants(2)
        await house.publish(Version(lineage=1, step=2))
        assert house.keeper.pending == [Version(lineage=1, step=2)]
        keeping.cancel()

    run(story)


def test_a_resumed_run_evaluates_what_the_log_still_holds_and_names_what_is_lost() -> None:
    house = House()
    lost = house.keeper.restore([Version(step=0)], [Version(step=3)], start=Version(lineage=1, step=4))
    assert lost == [2]
    house = House()
    assert house.keeper.restore([Version(step=0)], [Version(step=2)], start=Version(lineage=1, step=3)) == []
    assert house.keeper.pending == [Version(step=2)]
    assert not house.keeper.is_complete
