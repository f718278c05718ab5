"""Laws of the plain rollout queue: slots, staleness, and which results it takes, each in the smallest case that shows it."""

import pytest
from msgspec.structs import replace
from queue_fakes import Clock, all_correct, batch_of, fill, planned, queue_of, rollout_of, rollouts_of, verify_all

from actors.queue.desks import MAX_FAILURES
from actors.queue.records import RefuseReason
from rlvr.errors import QueueError
from rlvr.records import Version, VersionSpan

# --- slots


def test_a_full_queue_leases_nothing_until_trained_weights_are_applied() -> None:
    queue = queue_of(rollouts_per_step=4, max_staleness=0)
    lease = queue.lease(4, generator="g0", applied=Version(step=0))
    queue.put(rollouts_of(lease))
    work = queue.lease_unverified(4, verifier="v0")
    queue.put_verdicts(all_correct(work))
    queue.next_batch(step=1)
    assert queue.lease(1, generator="g0", applied=Version(step=0)) is None
    queue.applied(Version(step=1), generator="g0")
    assert queue.lease(1, generator="g0", applied=Version(step=1)) is not None


@pytest.mark.parametrize("max_staleness", [0, 1, 3])
def test_at_most_max_staleness_plus_one_steps_of_rollouts_hold_slots(max_staleness: int) -> None:
    queue = planned([2, 2], max_staleness=max_staleness)
    leases = queue.leases(1000, generator="g0", applied=Version(step=0))
    assert sum(len(lease.rollout_ids) for lease in leases) == (max_staleness + 1) * 4
    assert [lease.step for lease in leases] == sorted(lease.step for lease in leases)


def test_weights_of_a_later_step_free_the_slots_of_a_version_that_was_never_applied() -> None:
    queue = queue_of(rollouts_per_step=2, max_staleness=1)
    fill(queue)
    batch_of(queue, 1), batch_of(queue, 2)
    assert queue.counts().slots["training"] == 4
    queue.applied(Version(step=2), generator="g1")
    assert queue.counts().slots["training"] == 0


def test_weights_free_the_slots_of_their_step_and_of_no_later_one() -> None:
    queue = queue_of(rollouts_per_step=2, max_staleness=2)
    fill(queue)
    batch_of(queue, 1), batch_of(queue, 2)
    queue.applied(Version(step=1), generator="g0")
    assert queue.counts().slots == {"leased": 0, "generated": 0, "verifying": 0, "verified": 2, "training": 2}


def test_a_lease_that_ends_without_its_work_gives_its_slots_back() -> None:
    clock = Clock()
    queue = queue_of(rollouts_per_step=3, lease_s=10.0, clock=clock)
    first = queue.lease(3, generator="g0", applied=Version())
    assert queue.lease(1, generator="g1", applied=Version()) is None
    clock.now = 10.0
    assert queue.expire() == 3
    again = queue.lease(3, generator="g1", applied=Version())
    assert again is not None
    assert set(again.rollout_ids).isdisjoint(first.rollout_ids)
    assert queue.hand_back(again.id) == 3
    assert queue.lease(3, generator="g1", applied=Version()) is not None
    assert queue.lost("g1") == 3
    assert queue.counts().slots["leased"] == 0


def test_work_that_came_back_is_leased_before_anything_younger() -> None:
    queue = queue_of(rollouts_per_step=2, max_staleness=2)
    leases = [queue.lease(2, generator=f"g{i}", applied=Version()) for i in range(3)]
    assert [lease.step for lease in leases] == [1, 2, 3]
    queue.lost("g2")
    queue.lost("g0")
    assert queue.lease(2, generator="g1", applied=Version()).step == 1


def test_no_work_is_leased_beyond_the_last_step() -> None:
    queue = queue_of(rollouts_per_step=2, max_staleness=3, num_steps=2)
    assert len(queue.leases(1000, generator="g0", applied=Version())) == 2
    with pytest.raises(QueueError, match="the run has 2"):
        queue.next_batch(3)


# --- versions and staleness


def test_a_generator_that_is_too_far_behind_gets_no_lease_of_that_step_but_one_of_an_older_step() -> None:
    queue = queue_of(rollouts_per_step=2, max_staleness=1)
    fill(queue)  # steps 1 and 2
    batch_of(queue, 1)
    queue.applied(Version(step=1), generator="g1")
    assert queue.lease(2, generator="g0", applied=Version(step=0)) is None  # step 3 may start from version 1
    third = queue.lease(2, generator="g1", applied=Version(step=1))
    assert third.step == 3

    queue = queue_of(rollouts_per_step=2, max_staleness=1)
    for name in ("g0", "g1"):
        queue.lease(2, generator=name, applied=Version())
    queue.lost("g0")
    assert queue.lease(2, generator="g2", applied=Version(step=0)).step == 1


def test_max_staleness_0_is_fully_on_policy() -> None:
    queue = queue_of(rollouts_per_step=2, num_steps=4)
    for step in range(1, 5):
        assert step == 1 or queue.lease(2, generator="g0", applied=Version(step=step - 2)) is None
        fill(queue, applied=step - 1)
        assert {judged.rollout.oldest_version.step for judged in batch_of(queue, step).rollouts} == {step - 1}
    assert queue.counts().staleness == (8,)


@pytest.mark.parametrize("spans", [((0, 0, 1), (1, 1, 3)), ((2, 0, 3),)], ids=["older than the lease allows", "not made yet"])
def test_a_rollout_of_versions_that_do_not_fit_its_lease_is_refused_and_sampled_again(spans: tuple[tuple[int, int, int], ...]) -> None:
    queue = queue_of(rollouts_per_step=2)
    fill(queue)
    batch_of(queue, 1)
    lease = queue.lease(2, generator="g0", applied=Version(step=1))
    good, other = rollouts_of(lease, version=1)
    bad = replace(other, spans=tuple(VersionSpan(Version(step=v), a, b) for v, a, b in spans))
    assert [result.refused for result in queue.put([good, bad])] == [None, RefuseReason.SPANS]
    again = queue.lease(2, generator="g0", applied=Version(step=1))
    assert len(again.rollout_ids) == 1
    queue.check()


def test_a_rollout_may_be_sampled_by_two_versions() -> None:
    queue = queue_of(rollouts_per_step=1, max_staleness=1)
    fill(queue)
    batch_of(queue, 1)
    lease = queue.lease(1, generator="g0", applied=Version(step=1))
    rollout = rollout_of(lease, lease.rollout_ids[0], version=1)
    spans = (VersionSpan(Version(step=1), 0, 2), VersionSpan(Version(step=2), 2, 3))
    batch_of(queue, 2)
    mixed = replace(rollout, spans=spans)
    assert queue.put([mixed])[0].is_accepted
    verify_all(queue)
    batch_of(queue, 3)
    assert queue.counts().staleness == (1, 2)


def test_a_generator_cannot_have_applied_what_was_never_trained() -> None:
    with pytest.raises(QueueError, match="step 0 is the last"):
        queue_of(rollouts_per_step=1).applied(Version(step=1), generator="g0")


# --- results


def test_a_result_is_accepted_once() -> None:
    queue = queue_of(rollouts_per_step=3)
    lease = queue.lease(3, generator="g0", applied=Version())
    first, second, third = rollouts_of(lease)
    assert [result.refused for result in queue.put([first, first, second])] == [None, RefuseReason.DUPLICATE, None]
    assert [result.refused for result in queue.put([third, third])] == [None, RefuseReason.DUPLICATE]  # though its lease has ended with it
    assert (queue.counts().accepted, queue.counts().refused["duplicate"]) == (3, 2)


def test_a_result_of_a_lease_that_is_gone_is_refused_even_after_its_place_was_sampled_again() -> None:
    clock = Clock()
    queue = queue_of(rollouts_per_step=2, lease_s=5.0, clock=clock)
    late = rollouts_of(queue.lease(2, generator="g0", applied=Version()))
    clock.now = 5.0
    queue.expire()
    assert {result.refused for result in queue.put(late)} == {RefuseReason.GONE_LEASE}
    again = queue.lease(2, generator="g1", applied=Version())
    assert all(result.is_accepted for result in queue.put(rollouts_of(again)))
    assert {result.refused for result in queue.put(late)} == {RefuseReason.GONE_LEASE}
    assert queue.counts().accepted == 2


def test_a_result_of_another_incarnation_or_of_no_lease_is_refused() -> None:
    queue, other = (queue_of(rollouts_per_step=1, incarnation=incarnation) for incarnation in (0, 1))
    queue.lease(1, generator="g0", applied=Version())
    lease = other.lease(1, generator="g0", applied=Version())
    assert queue.put(rollouts_of(lease))[0].refused is RefuseReason.UNKNOWN_LEASE
    (rollout,) = rollouts_of(lease)
    assert other.put([replace(rollout, id="x")])[0].refused is RefuseReason.NOT_LEASED


def test_a_result_that_names_another_group_is_refused() -> None:
    queue = queue_of(rollouts_per_step=1)
    (rollout,) = rollouts_of(queue.lease(1, generator="g0", applied=Version()))
    foreign = replace(rollout, group_id="another")
    assert queue.put([foreign])[0].refused is RefuseReason.NOT_LEASED
    assert queue.lease(1, generator="g0", applied=Version()) is not None


def test_a_place_whose_leases_keep_expiring_ends_the_run() -> None:
    clock = Clock()
    queue = queue_of(rollouts_per_step=1, lease_s=1.0, clock=clock)
    for _ in range(MAX_FAILURES - 1):
        queue.lease(1, generator="g0", applied=Version())
        clock.now += 1.0
        assert queue.expire() == 1
    queue.lease(1, generator="g0", applied=Version())
    clock.now += 1.0
    with pytest.raises(QueueError, match=r"lease_s = 1\.0"):
        queue.expire()
