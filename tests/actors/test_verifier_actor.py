"""Laws of the verifier actor: as many children as verifiers.workers, for training and evaluation together."""

import asyncio
import os
from pathlib import Path

import msgspec

from actors.verifier_actor import VerifierActor
from rlvr import wire
from rlvr.config import Config
from rlvr.records import Unverified, Verdict
from verifier.verify import Verifier

CONFIG = msgspec.convert({"verifiers": {"workers": 2}, "evaluation": {"extract": "all"}}, Config)


def descendants(pid: int) -> int:
    """Processes below `pid`."""
    below = [int(child) for task in Path(f"/proc/{pid}/task").iterdir() for child in (task / "children").read_text().split()]
    return len(below) + sum(map(descendants, below))


def unverified(text: str) -> Unverified:
    return Unverified(rollout_id="r", lease_id="l", problem_id="p", text=text, gold="\\frac{1}{2}", is_truncated=False, num_tokens=3)


def test_training_and_evaluation_ask_the_same_children() -> None:
    with Verifier.for_training(CONFIG):
        alone = descendants(os.getpid())
    actor = VerifierActor("verifier-0", CONFIG)
    asyncio.run(actor.start())
    try:
        assert descendants(os.getpid()) == alone > 0
        frame = wire.pack([unverified("it is 0.5"), unverified("it is \\sin(\\frac{\\pi}{6})"), unverified("it is 0.4")])
        verdicts = wire.unpack(asyncio.run(actor.judge_evaluation(frame)), list[Verdict])
        assert [verdict.kind.value for verdict in verdicts][::2] == ["correct", "wrong"]
    finally:
        asyncio.run(actor.stop())
    assert descendants(os.getpid()) == 0
