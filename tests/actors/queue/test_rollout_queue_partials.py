"""Laws of completions that a leaving generator hands back: they are continued, first of all, if they can still train, and make nothing shorter."""

import random
from statistics import fmean

import pytest
from msgspec.structs import replace
from queue_fakes import MemoryFiles, batch_of, fill, partial_of, planned, reopened, rollout_of, rollouts_of, verify_all

from actors.queue.rollout_queue import RolloutQueue
from rlvr.records import Lease, Partial, Version


def test_a_partial_is_leased_again_under_the_next_id_of_its_place_before_anything_else() -> None:
    queue = planned([2], max_staleness=1)
    first, second = queue.leases(4, generator="g0", applied=Version())
    queue.hand_back(first.id)
    queue.hand_back(second.id, [partial_of(second.rollout_ids[1], (Version(), 5))])
    lease = queue.lease(1, generator="g1", applied=Version())
    assert lease.rollout_ids == ("000002/0000/0001/01",)
    assert [(partial.rollout_id, partial.num_tokens) for partial in lease.partials] == [(lease.rollout_ids[0], 5)]
    assert queue.lease(1, generator="g1", applied=Version()).rollout_ids == ("000001/0000/0000/01",)
    assert queue.counts().partials == {"continued": 1, "too_old": 0, "unfit": 0}
    queue.check()


def test_a_partial_that_could_not_train_in_time_is_sampled_from_the_start() -> None:
    queue = planned([1], max_staleness=1, order="completion")
    slow, fast = queue.leases(2, generator="g0", applied=Version())
    queue.put(rollouts_of(fast, version=0))
    verify_all(queue)
    batch_of(queue, 1)
    queue.applied(Version(step=1), generator="g0")
    third = queue.lease(1, generator="g0", applied=Version(step=1))
    queue.hand_back(slow.id, [partial_of(slow.rollout_ids[0], (Version(), 5))])  # may be continued now: it would train in step 2
    queue.put(rollouts_of(third, version=1))
    verify_all(queue)
    batch_of(queue, 2)
    queue.applied(Version(step=2), generator="g0")
    lease = queue.lease(1, generator="g0", applied=Version(step=2))
    assert (lease.group_id, lease.step, lease.partials) == ("1-0", 3, ())
    queue.hand_back(lease.id, [partial_of(lease.rollout_ids[0], (Version(), 5))])
    assert queue.counts().partials == {"continued": 0, "too_old": 2, "unfit": 0}


@pytest.mark.parametrize("what", ["another lease", "weights that are not made", "deterministic"])
def test_a_partial_that_does_not_fit_is_counted_and_its_place_starts_anew(what: str) -> None:
    queue = planned([2], deterministic=what == "deterministic")
    lease = queue.lease(2, generator="g0", applied=Version())
    version = Version(step=1) if what == "weights that are not made" else Version()
    rollout_id = "000009/0000/0000/00" if what == "another lease" else lease.rollout_ids[0]
    assert queue.hand_back(lease.id, [partial_of(rollout_id, (version, 3))]) == 2
    assert queue.lease(2, generator="g1", applied=Version()).partials == ()
    assert queue.counts().partials["unfit"] == 1


def test_the_tokens_of_a_partial_survive_a_second_generator_that_dies_and_a_crash_of_the_queue() -> None:
    def make(incarnation: int, record: object) -> RolloutQueue:
        return planned([1], incarnation=incarnation, record=record)

    files = MemoryFiles()
    queue, journal = reopened(files, make, has_thread=False)
    lease = queue.lease(1, generator="g0", applied=Version())
    queue.hand_back(lease.id, [partial_of(lease.rollout_ids[0], (Version(), 5))])
    queue.lease(1, generator="g1", applied=Version())
    queue.lost("g1")
    journal.close()
    again, _ = reopened(files, make, has_thread=False)
    (partial,) = again.lease(1, generator="g2", applied=Version()).partials
    assert partial.num_tokens == 5


def test_deterministic_seeds_do_not_depend_on_how_often_a_place_was_lost() -> None:
    queue = planned([2], deterministic=True)
    first = queue.lease(1, generator="g0", applied=Version())
    queue.lost("g0")
    second = queue.lease(1, generator="g1", applied=Version())
    assert set(second.rollout_ids).isdisjoint(first.rollout_ids)
    assert second.seeds == first.seeds


# --- length


def lengths_trained(*, has_partials: bool, preempted_every: int | None, seed: int) -> list[int]:
    """Lengths that train where a completion ends with each token by chance, one token a tick, and generators are preempted now and then.

    A preempted generator hands its work back, with its tokens or without; whoever continues them draws the rest anew.
    """
    draw = random.Random(seed)
    queue = planned([8], max_staleness=0, num_steps=60)
    step, tick, running = 1, 0, list[tuple[Lease, str, int]]()
    lengths: list[int] = []
    while step <= 60:
        tick += 1
        for lease in queue.leases(8, generator="g0", applied=Version(step=step - 1)):
            begun = {partial.rollout_id: partial.num_tokens for partial in lease.partials}
            running += [(lease, rollout_id, begun.get(rollout_id, 0)) for rollout_id in lease.rollout_ids]
        running = [(lease, rollout_id, length + 1) for lease, rollout_id, length in running]
        done = [entry for entry in running if draw.random() < 1 / 20]
        running = [entry for entry in running if entry not in done]
        queue.put([rollout_of(lease, rollout_id, version=step - 1, length=length) for lease, rollout_id, length in done])
        lengths += [length for _, _, length in done]
        if preempted_every and tick % preempted_every == 0:
            for lease_id in {lease.id for lease, _, _ in running}:
                begun_here = [begun_of(rollout_id, length, step) for lease, rollout_id, length in running if lease.id == lease_id]
                queue.hand_back(lease_id, begun_here if has_partials else [])
            running = []
        verify_all(queue)
        if queue.next_batch(step) is not None:
            queue.applied(Version(step=step), generator="g0")
            step += 1
    assert queue.counts().mean_length_trained == pytest.approx(fmean(lengths))
    return lengths


def begun_of(rollout_id: str, length: int, step: int) -> Partial:
    return partial_of(rollout_id, (Version(step=step - 1), length))


def test_preemption_does_not_shorten_completions_that_are_continued_while_sampling_them_anew_would() -> None:
    undisturbed = fmean(lengths_trained(has_partials=True, preempted_every=None, seed=1))
    continued = fmean(lengths_trained(has_partials=True, preempted_every=12, seed=2))
    anew = fmean(lengths_trained(has_partials=False, preempted_every=12, seed=3))
    assert continued == pytest.approx(undisturbed, rel=0.15)  # 480 geometric lengths each: 4.5% standard error of a mean
    assert anew < 0.6 * undisturbed


def test_the_steps_of_a_continued_completion_count_from_its_oldest_token() -> None:
    queue = planned([1], max_staleness=1)
    fill(queue)
    batch_of(queue, 1)
    queue.applied(Version(step=1), generator="g0")
    lease = queue.lease(1, generator="g0", applied=Version(step=1))
    queue.hand_back(lease.id, [partial_of(lease.rollout_ids[0], (Version(step=1), 2))])
    batch_of(queue, 2)
    queue.applied(Version(step=2), generator="g1")
    lease = queue.lease(1, generator="g1", applied=Version(step=2))
    whole = partial_of(lease.rollout_ids[0], (Version(step=1), 2), (Version(step=2), 4))
    rollout = rollout_of(lease, lease.rollout_ids[0], length=6)
    assert queue.put([replace(rollout, spans=whole.spans, handovers=1)])[0].is_accepted
    verify_all(queue)
    batch_of(queue, 3)
    assert queue.counts().staleness == (1, 2)
