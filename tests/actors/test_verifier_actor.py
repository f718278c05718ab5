"""Laws of the verifier actor: as many children as verifiers.workers, for training and evaluation together."""

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec
import pytest

from actors.queue.records import PutResult
from actors.verifier_actor import VerifierActor
from rlvr import wire
from rlvr.config import Config
from rlvr.errors import Closed
from rlvr.records import Unverified, Verdict

pytestmark = [pytest.mark.processes, pytest.mark.ray]

CONFIG = msgspec.convert({"verifiers": {"workers": 2}, "evaluation": {"extract": "all"}}, Config)


def unverified(text: str) -> Unverified:
    return Unverified(rollout_id="r", lease_id="l", problem_id="p", text=text, gold="\\frac{1}{2}", is_truncated=False, num_tokens=3)


def is_alive(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


def test_training_and_evaluation_ask_the_same_children(ray_session: None) -> None:
    actor = VerifierActor("verifier-0#1", "verifier-0", CONFIG)
    asyncio.run(actor.start())
    children = actor._training.worker_pids
    try:
        assert len(children) >= 2
        assert actor._evaluation.worker_pids == children
        frame = wire.pack([unverified("it is 0.5"), unverified("it is \\sin(\\frac{\\pi}{6})"), unverified("it is 0.4")])
        verdicts = wire.unpack(asyncio.run(actor.judge_evaluation(frame)), list[Verdict])
        assert [verdict.kind.value for verdict in verdicts][::2] == ["correct", "wrong"]
    finally:
        asyncio.run(actor.stop())
    assert not any(is_alive(pid) for pid in children)


class FakeQueue:
    """Has one answer to judge; after that it is empty, or closed."""

    def __init__(self, *, is_closed_then: bool) -> None:
        self.cases = [unverified("it is \\boxed{0.5}")]
        self.verdicts: list[Verdict] = []
        self.is_closed_then = is_closed_then
        self.on_lease = asyncio.Event()
        self.beats: list[str] = []

    async def lease_unverified(self, n: int, *, verifier: str, wait_s: float, holding: Callable[[], Sequence[str]] | None = None) -> list[Unverified]:
        if self.cases:
            self.on_lease.set()
            return [self.cases.pop()]
        if self.is_closed_then and self.verdicts:
            raise Closed("the run is over")
        await asyncio.sleep(0.001)
        return []

    async def put_verdicts(self, verdicts: Sequence[Verdict], *, verifier: str) -> list[PutResult]:
        self.verdicts += verdicts
        return [PutResult(verdict.rollout_id) for verdict in verdicts]

    async def beat(self, worker: str, *, role: str) -> None:
        self.beats.append(worker)


@pytest.mark.parametrize("leaves", [True, False])
def test_a_leaving_verifier_hands_in_what_it_judges(ray_session: None, leaves: bool) -> None:
    async def work() -> tuple[str, FakeQueue]:
        actor = VerifierActor("verifier-0#1", "verifier-0", CONFIG)
        await actor.start()
        try:
            queue = FakeQueue(is_closed_then=not leaves)
            async with asyncio.timeout(30.0), asyncio.TaskGroup() as group:
                running = group.create_task(actor._run(queue))
                await queue.on_lease.wait()
                if leaves:
                    await actor.leave()
            return running.result(), queue
        finally:
            await actor.stop()

    outcome, queue = asyncio.run(work())
    assert outcome == ("left" if leaves else "closed")
    assert [verdict.kind.value for verdict in queue.verdicts] == ["correct"]
    assert set(queue.beats) == {"verifier-0#1"}
