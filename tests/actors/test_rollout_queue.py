"""Laws of the plain rollout queue."""

from queue_fakes import all_correct, rollouts_of

from actors.rollout_queue import RolloutQueue
from rlvr.records import Version


def test_a_full_queue_leases_nothing_until_trained_weights_are_applied() -> None:
    queue = RolloutQueue(rollouts_per_step=4, max_staleness=0)
    lease = queue.lease(4, generator="g0", applied=Version(step=0))
    queue.put(rollouts_of(lease))
    work = queue.lease_unverified(4, verifier="v0")
    queue.put_verdicts(all_correct(work))
    queue.next_batch(step=1)
    assert queue.lease(1, generator="g0", applied=Version(step=0)) is None
    queue.applied(Version(step=1), generator="g0")
    assert queue.lease(1, generator="g0", applied=Version(step=1)) is not None
