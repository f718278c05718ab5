"""Pools of locked workers for the tests of the sandbox."""

from collections.abc import Callable, Iterator, Sequence

import msgspec
import pytest

from rlvr.config import RewardConfig, VerifiersConfig
from rlvr.records import VerdictKind
from verifier.rewards import Graded
from verifier.sandbox.crew import CrewSettings
from verifier.sandbox.lock import Limits
from verifier.sandbox.pool import Pool
from verifier.sandbox.protocol import Question, rules_number
from verifier.sandbox.tasks import Settled, Task
from verifier.sandbox.zygote import Setup
from verifier.verify import Verifier

LIMITS = Limits(memory_bytes=1 << 30, lifetime_cpu_s=600)
Ask = Callable[..., list[Settled]]


def attack_settings(*, reward: str = "sandbox_attacks:attack", num_workers: int = 2, cpu_budget_s: float = 0.3, wall_s: float = 20.0) -> CrewSettings:
    """Workers that run `sandbox_attacks.attack`; the wall is far off, so that a loaded machine changes nothing."""
    return CrewSettings(
        setup=Setup(limits=LIMITS, reward=reward),
        rules=rules_number(""),
        num_workers=num_workers,
        cpu_budget_s=cpu_budget_s,
        wall_s=wall_s,
        draw_sentinels=tuple,
        recheck=lambda tasks: None,
    )


def attack_tasks(names: Sequence[str]) -> list[Task]:
    records = [Graded(rollout_id="r", problem_id="p", kind=VerdictKind.WRONG, answer=name, text="", gold="") for name in names]
    return [Task(Question.REWARD, msgspec.msgpack.encode(record)) for record in records]


@pytest.fixture(scope="session")
def attacked() -> Iterator[Pool]:
    """One pool for all attacks."""
    pool = Pool(attack_settings())
    pool.start()
    yield pool
    pool.close()


@pytest.fixture(scope="session")
def verifier() -> Iterator[Verifier]:
    """One verifier with the default settings and two workers."""
    with Verifier(VerifiersConfig(workers=2), RewardConfig(extract="all")) as running:
        yield running
