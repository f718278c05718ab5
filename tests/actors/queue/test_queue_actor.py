"""The queue's Ray actor: the service's methods through a real Ray."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from msgspec.structs import replace
from queue_fakes import all_correct, rollouts_of

from actors.queue.records import PutResult, QueueCounts, QueueIdentity, QueueStatus
from actors.queue.service import QueueSetup
from rlvr.config import Config, GeneratorsConfig, RolloutConfig, RunConfig
from rlvr.errors import Closed, QueueError
from rlvr.problems import Problem
from rlvr.records import Batch, Lease, Unverified
from rlvr.wire import pack, unpack


def setup_of(*, num_steps: int = 2, group_size: int = 4, max_staleness: int = 0) -> QueueSetup:
    config = Config(
        run=RunConfig(num_steps=num_steps),
        rollout=RolloutConfig(group_size=group_size, max_staleness=max_staleness),
        generators=GeneratorsConfig(count=1),
    )
    problem = Problem(id="p", prompt="1 + 1?", answer="2")
    return QueueSetup(config=config, problems=(problem,), prompt_ids={"p": (1, 2, 3)}, tick_s=0.05)


def test_importing_the_actor_imports_neither_torch_nor_vllm() -> None:
    code = "import sys, actors.queue.actor; print([name for name in ('torch', 'vllm', 'transformers', 'sympy') if name in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


@pytest.mark.ray
def test_a_run_goes_through_the_actor_and_its_end_raises_closed_at_waiters(ray_session: None) -> None:
    import ray

    from actors.queue.actor import QueueActor

    queue = QueueActor.options(name="queue-of-a-test").remote(pack(setup_of()))
    watch = queue.run.remote()
    for step in (1, 2):
        waiting = queue.next_batch.remote(step, 0, 10.0)
        (lease,) = unpack(ray.get(queue.lease.remote(4, "g0", f"0.{step - 1}", 5.0)), list[Lease])
        assert (lease.prompt_ids, lease.step) == ((1, 2, 3), step)
        answers = queue.lease_unverified.remote(4, "v0", 10.0)
        results = unpack(ray.get(queue.put.remote("g0", pack(rollouts_of(lease)))), list[PutResult])
        assert all(result.is_accepted for result in results)
        work = unpack(ray.get(answers), list[Unverified])
        ray.get(queue.put_verdicts.remote("v0", pack(all_correct(work))))
        batch = unpack(ray.get(waiting), Batch)
        assert (batch.step, len(batch.rollouts)) == (step, 4)
        ray.get(queue.applied.remote("g0", f"0.{step}"))
    with pytest.raises(QueueError):
        ray.get(queue.next_batch.remote(5, 0, 0.0))
    waiter = queue.lease.remote(4, "g0", "0.2", 10.0)
    counts = unpack(ray.get(queue.close.remote()), QueueCounts)
    assert (counts.accepted, counts.consumed, counts.held) == (8, 8, 0)
    ray.get(watch)
    with pytest.raises(Closed):
        ray.get(waiter)
    ray.kill(queue)


@pytest.mark.ray
def test_a_killed_queue_is_started_again_by_ray_under_the_same_handle_with_all_that_it_had_acknowledged(ray_session: None, tmp_path: Path) -> None:
    import ray

    from actors.queue.actor import QueueActor

    queue = QueueActor.options(max_restarts=-1).remote(pack(replace(setup_of(), journal=str(tmp_path / "journal"))))
    (lease,) = unpack(ray.get(queue.lease.remote(4, "g0", "0.0", 5.0)), list[Lease])
    ray.get(queue.put.remote("g0", pack(rollouts_of(lease)[:3])))
    os.kill(unpack(ray.get(queue.identity.remote()), QueueIdentity).pid, signal.SIGKILL)
    deadline = time.monotonic() + 60.0
    while True:
        try:
            status = unpack(ray.get(queue.status.remote()), QueueStatus)
            break
        except ray.exceptions.RayActorError:
            assert time.monotonic() < deadline
    assert (status.incarnation, status.counts.held, [found.id for found in status.leases]) == (1, 3, [lease.id])
    results = unpack(ray.get(queue.put.remote("g0", pack(rollouts_of(lease)[3:]))), list[PutResult])
    assert all(result.is_accepted for result in results)
    ray.kill(queue)
