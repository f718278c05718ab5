"""What the rollout queue can carry: rollouts a second through the plain class and through its Ray actor.

The claim: the queue is no bottleneck for millions of rollouts. `python -m benchmarks.rollout_queue` prints one JSON line and writes
benchmarks/results/rollout_queue.json.
"""

import os
import time
from collections.abc import Callable
from statistics import median

import numpy as np
import ray

from actors.queue.actor import QueueActor
from actors.queue.opening import QueueSetup, build_queue
from benchmarks.record import Claim, write
from rlvr.config import Config, PromptsConfig, RolloutConfig, RunConfig
from rlvr.problems import Problem
from rlvr.records import (
    LOGPROB_DTYPE,
    TOKEN_DTYPE,
    Batch,
    FinishReason,
    Lease,
    Rollout,
    Unverified,
    Verdict,
    VerdictKind,
    Version,
    VersionSpan,
)
from rlvr.wire import pack, unpack

NUM_TOKENS = 256
NUM_STEPS = 8
ROLLOUTS_PER_STEP = 1024
REPEATS = 5
PIECE = 32
"""Rollouts of one lease and of one hand-in."""
AIM_PLAIN = 10_000.0
AIM_ACTOR = 2_000.0


def setup() -> QueueSetup:
    config = Config(
        run=RunConfig(num_steps=NUM_STEPS),
        prompts=PromptsConfig(copies_per_step=ROLLOUTS_PER_STEP // 8),
        rollout=RolloutConfig(group_size=8, max_staleness=0),
    )
    return QueueSetup(config=config, problems=(Problem(id="p", prompt="1 + 1?", answer="2"),), prompt_ids={"p": tuple(range(100))})


def rollouts_of(lease: Lease) -> list[Rollout]:
    token_data = np.arange(NUM_TOKENS, dtype=TOKEN_DTYPE).tobytes()
    logprob_data = np.full(NUM_TOKENS, -1.0, dtype=LOGPROB_DTYPE).tobytes()
    spans = (VersionSpan(Version(step=lease.step - 1), 0, NUM_TOKENS),)
    return [
        Rollout(
            id=rollout_id,
            problem_id=lease.problem_id,
            group_id=lease.group_id,
            lease_id=lease.id,
            token_data=token_data,
            logprob_data=logprob_data,
            spans=spans,
            finish_reason=FinishReason.STOP,
            seconds=1.0,
            text="x" * 3 * NUM_TOKENS,
        )
        for rollout_id in lease.rollout_ids
    ]


def verdicts_of(work: list[Unverified]) -> list[Verdict]:
    return [Verdict(rollout_id=answer.rollout_id, lease_id=answer.lease_id, kind=VerdictKind.CORRECT, reward=1.0) for answer in work]


def through_the_class() -> float:
    """Rollouts a second: leased, handed in, verified, batched, released."""
    queue = build_queue(setup(), clock=time.monotonic)
    began = time.perf_counter()
    for step in range(1, NUM_STEPS + 1):
        while leases := queue.leases(PIECE, generator="g0", applied=Version(step=step - 1)):
            queue.put([rollout for lease in leases for rollout in rollouts_of(lease)])
        while work := queue.lease_unverified(PIECE, verifier="v0"):
            queue.put_verdicts(verdicts_of(list(work)))
        assert queue.next_batch(step) is not None
    assert queue.counts().consumed == NUM_STEPS * ROLLOUTS_PER_STEP
    return NUM_STEPS * ROLLOUTS_PER_STEP / (time.perf_counter() - began)


def through_the_actor() -> float:
    """The same, one caller, every call waited for: frames packed and unpacked at both ends."""
    queue = QueueActor.remote(pack(setup()))
    ray.get(queue.counts.remote())
    began = time.perf_counter()
    for step in range(1, NUM_STEPS + 1):
        while leases := unpack(ray.get(queue.lease.remote(PIECE, "g0", f"0.{step - 1}")), list[Lease]):
            ray.get(queue.put.remote("g0", pack([rollout for lease in leases for rollout in rollouts_of(lease)])))
        while work := unpack(ray.get(queue.lease_unverified.remote(PIECE, "v0")), list[Unverified]):
            ray.get(queue.put_verdicts.remote("v0", pack(verdicts_of(work))))
        assert len(unpack(ray.get(queue.next_batch.remote(step, 0)), Batch).rollouts) == ROLLOUTS_PER_STEP
    rate = NUM_STEPS * ROLLOUTS_PER_STEP / (time.perf_counter() - began)
    ray.kill(queue)
    return rate


def main() -> None:
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    arms: dict[str, Callable[[], float]] = {"class": through_the_class, "actor": through_the_actor}
    rates: dict[str, list[float]] = {name: [] for name in arms}
    for _ in range(REPEATS):  # interleaved, so that a busy moment hits both
        for name, arm in arms.items():
            rates[name].append(arm())
    ray.shutdown()
    claims = [
        Claim(claim="the plain queue takes a rollout from lease to batch", measured=median(rates["class"]), aim=AIM_PLAIN, unit="rollouts/s"),
        Claim(claim="its Ray actor does, one caller, each call waited for", measured=median(rates["actor"]), aim=AIM_ACTOR, unit="rollouts/s"),
    ]
    details = {
        "rates": {name: [round(rate, 1) for rate in of_arm] for name, of_arm in rates.items()},
        "tokens_per_rollout": NUM_TOKENS,
        "rollouts_per_step": ROLLOUTS_PER_STEP,
        "rollouts_per_call": PIECE,
        "load_average": [round(load, 2) for load in os.getloadavg()],
    }
    print(write("rollout_queue", claims, command="python -m benchmarks.rollout_queue", details=details))


if __name__ == "__main__":
    main()
