"""Laws of the verifier actor: as many children as verifiers.workers, for training and evaluation together."""

import asyncio
from pathlib import Path

import msgspec
import pytest

from actors.verifier_actor import VerifierActor
from rlvr import wire
from rlvr.config import Config
from rlvr.records import Unverified, Verdict

pytestmark = pytest.mark.processes

CONFIG = msgspec.convert({"verifiers": {"workers": 2}, "evaluation": {"extract": "all"}}, Config)


def unverified(text: str) -> Unverified:
    return Unverified(rollout_id="r", lease_id="l", problem_id="p", text=text, gold="\\frac{1}{2}", is_truncated=False, num_tokens=3)


def is_alive(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


def test_training_and_evaluation_ask_the_same_children() -> None:
    actor = VerifierActor("verifier-0", CONFIG)
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
