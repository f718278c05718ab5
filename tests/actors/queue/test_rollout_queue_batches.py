"""Laws of the plain rollout queue: verdicts, batches and their order, the end, deterministic mode, lengths."""

import random

import pytest
from queue_fakes import Clock, Plan, batch_of, fill, planned, queue_of, rollout_of, rollouts_of, verdict_of, verify_all

from actors.queue.records import RefuseReason
from rlvr.errors import Closed, QueueError
from rlvr.records import Rollout, VerdictKind, Version

# --- verdicts


def test_verifiers_see_text_and_gold_and_a_late_verdict_is_refused() -> None:
    clock = Clock()
    queue = planned([1], verify_lease_s=3.0, clock=clock)
    queue.put(rollouts_of(queue.lease(1, generator="g0", applied=Version())))
    (late,) = queue.lease_unverified(9, verifier="v0")
    assert (late.gold, late.problem_id, late.num_tokens) == ("gold of p0", "p0", 3)
    assert queue.lease_unverified(9, verifier="v1") == ()
    clock.now = 3.0
    assert queue.expire() == 1
    (work,) = queue.lease_unverified(9, verifier="v1")
    assert queue.put_verdicts([verdict_of(late)])[0].refused is RefuseReason.GONE_LEASE
    assert queue.put_verdicts([verdict_of(work, VerdictKind.WRONG)])[0].is_accepted
    assert queue.put_verdicts([verdict_of(work)])[0].refused is RefuseReason.DUPLICATE
    (judged,) = batch_of(queue, 1).rollouts
    assert judged.verdict.kind is VerdictKind.WRONG


def test_the_answers_of_a_lost_verifier_are_verified_first() -> None:
    queue = queue_of(rollouts_per_step=4)
    queue.put(rollouts_of(queue.lease(4, generator="g0", applied=Version())))
    first = queue.lease_unverified(2, verifier="v0")
    queue.lost("v0")
    assert [answer.rollout_id for answer in queue.lease_unverified(2, verifier="v1")] == [answer.rollout_id for answer in first]


@pytest.mark.parametrize("kind", [VerdictKind.TIMEOUT, VerdictKind.SANDBOX])
def test_a_fault_of_ours_never_trains_and_its_place_is_sampled_again(kind: VerdictKind) -> None:
    queue = queue_of(rollouts_per_step=2)
    queue.put(rollouts_of(queue.lease(2, generator="g0", applied=Version())))
    broken, fine = queue.lease_unverified(2, verifier="v0")
    queue.put_verdicts([verdict_of(broken, kind), verdict_of(fine)])
    assert queue.next_batch(1) is None
    fill(queue)
    assert broken.rollout_id not in {judged.rollout.id for judged in batch_of(queue, 1).rollouts}
    counts = queue.counts()
    assert (counts.accepted, counts.consumed, counts.dropped["excluded"], counts.resampled) == (3, 2, 1, 1)


@pytest.mark.parametrize(("setting", "dropped"), [("zero", 0), ("exclude", 1)])
def test_an_undecided_answer_trains_or_leaves_its_group_as_configured(setting: str, dropped: int) -> None:
    queue = queue_of(rollouts_per_step=1, undecided=setting)
    queue.put(rollouts_of(queue.lease(1, generator="g0", applied=Version())))
    verify_all(queue, VerdictKind.UNDECIDED)
    assert queue.counts().dropped["excluded"] == dropped


def test_a_place_that_is_excluded_too_often_leaves_its_group_smaller() -> None:
    queue = queue_of(rollouts_per_step=2, max_resamples=2)
    queue.put(rollouts_of(queue.lease(2, generator="g0", applied=Version())))
    broken, fine = queue.lease_unverified(2, verifier="v0")
    queue.put_verdicts([verdict_of(broken, VerdictKind.TIMEOUT), verdict_of(fine)])
    for _ in range(2):
        queue.put(rollouts_of(queue.lease(2, generator="g0", applied=Version())))
        verify_all(queue, VerdictKind.TIMEOUT)
    batch = batch_of(queue, 1)
    assert (len(batch.rollouts), batch.short) == (1, 1)
    assert (queue.counts().short_groups, queue.counts().closed_members, queue.counts().slots["training"]) == (1, 1, 1)


def test_a_group_that_the_learner_has_waited_for_too_long_is_not_sampled_again() -> None:
    clock = Clock()
    queue = queue_of(rollouts_per_step=2, resample_grace_s=30.0, clock=clock)
    queue.put(rollouts_of(queue.lease(2, generator="g0", applied=Version())))
    assert queue.next_batch(1) is None
    clock.now = 31.0
    slow, fine = queue.lease_unverified(2, verifier="v0")
    queue.put_verdicts([verdict_of(slow, VerdictKind.TIMEOUT), verdict_of(fine)])
    assert batch_of(queue, 1).short == 1


def test_an_answer_that_takes_its_verifiers_with_it_is_excluded() -> None:
    queue = queue_of(rollouts_per_step=2, max_resamples=0)
    queue.put(rollouts_of(queue.lease(2, generator="g0", applied=Version())))
    for _ in range(3):
        queue.lease_unverified(1, verifier="v0")
        queue.lost("v0")
    verify_all(queue)
    assert batch_of(queue, 1).short == 1
    assert queue.counts().leases_ended["verifying_lost"] == 3


def test_a_step_of_excluded_answers_is_an_empty_batch_but_one_of_our_faults_is_an_error() -> None:
    queue = queue_of(rollouts_per_step=2, max_resamples=0, undecided="exclude")
    queue.put(rollouts_of(queue.lease(2, generator="g0", applied=Version())))
    verify_all(queue, VerdictKind.UNDECIDED)
    assert (batch_of(queue, 1).rollouts, batch_of(queue, 1).short) == ((), 2)
    assert queue.counts().empty_batches == 1
    assert queue.lease(2, generator="g0", applied=Version()) is None  # still on-policy: version 1 first

    broken = queue_of(rollouts_per_step=2, max_resamples=0)
    broken.put(rollouts_of(broken.lease(2, generator="g0", applied=Version())))
    verify_all(broken, VerdictKind.SANDBOX)
    with pytest.raises(QueueError, match="faults of the verifiers"):
        broken.next_batch(1)


# --- batches


def test_a_batch_is_the_same_however_often_it_is_asked_for() -> None:
    queue = queue_of(rollouts_per_step=2, max_staleness=2)
    fill(queue)
    first, second = batch_of(queue, 1), batch_of(queue, 2)
    queue.applied(Version(step=1), generator="g0")
    assert (queue.next_batch(1), queue.next_batch(2)) == (first, second)
    queue.applied(Version(step=2), generator="g0")
    assert (queue.next_batch(1), queue.next_batch(2)) == (first, second)
    queue.commit(1)
    assert queue.next_batch(2) == second
    with pytest.raises(QueueError):
        queue.next_batch(1)
    assert queue.counts().consumed == 4


@pytest.mark.parametrize("step", [0, 2, 7])
def test_a_batch_out_of_turn_is_an_error(step: int) -> None:
    with pytest.raises(QueueError, match=f"batch {step}"):
        queue_of(rollouts_per_step=2, max_staleness=2).next_batch(step)


def test_a_batch_holds_the_groups_that_were_planned_for_its_step_in_order() -> None:
    queue = planned([2, 1], max_staleness=1)
    leases = queue.leases(1000, generator="g0", applied=Version())
    for lease in reversed(leases):
        queue.put(reversed(rollouts_of(lease, version=0)))
    verify_all(queue)
    batch = batch_of(queue, 1)
    assert [judged.rollout.group_id for judged in batch.rollouts] == ["1-0", "1-0", "1-1"]
    assert batch.prompts == {"p0": (1, 2), "p1": (1, 2)}
    assert [judged.rollout.id for judged in batch.rollouts] == sorted(judged.rollout.id for judged in batch.rollouts)


def test_a_plan_that_does_not_fill_its_step_or_names_an_unknown_problem_is_an_error() -> None:
    with pytest.raises(QueueError, match="which is not 3"):
        queue_of(rollouts_per_step=3, planner=Plan([2])).lease(1, generator="g0", applied=Version())
    with pytest.raises(QueueError, match="'p0'"):
        queue_of(rollouts_per_step=2, planner=Plan([2])).lease(1, generator="g0", applied=Version())


# --- order: step 1 has the groups 1-0, 1-1, step 2 has 2-0, 2-1, step 3 ...; 1-0 is slow


def passes_of_a_slow_group(order: str, window: int = 0) -> list[list[str]]:
    """The groups of each batch that the learner gets while the first group is not finished."""
    queue = planned([1, 1], max_staleness=2, order=order, window=window)
    leases = queue.leases(1000, generator="g0", applied=Version())
    for lease in leases[1:]:
        queue.put(rollouts_of(lease, version=0))
        verify_all(queue)
    batches = []
    while (batch := queue.next_batch(len(batches) + 1)) is not None:
        batches.append([judged.rollout.group_id for judged in batch.rollouts])
        if len(batches) == 2:
            break
    queue.check()
    return batches


def test_by_admission_nobody_passes_a_slow_group() -> None:
    assert passes_of_a_slow_group("admission") == []


def test_by_completion_whoever_is_complete_passes_it() -> None:
    assert passes_of_a_slow_group("completion") == [["1-1", "2-0"], ["2-1", "3-0"]]


@pytest.mark.parametrize(("window", "num_batches"), [(0, 0), (1, 0), (2, 1), (3, 1), (4, 2)])
def test_at_most_window_younger_groups_pass_it(window: int, num_batches: int) -> None:
    assert len(passes_of_a_slow_group("window", window)) == num_batches


def test_what_became_too_old_while_others_passed_it_is_dropped_with_its_length_and_sampled_again() -> None:
    queue = planned([1], max_staleness=1, order="completion")
    slow, fast = queue.leases(1000, generator="g0", applied=Version())
    queue.put(rollouts_of(fast, version=0))
    verify_all(queue)
    batch_of(queue, 1)
    queue.applied(Version(step=1), generator="g0")
    third = queue.lease(1, generator="g0", applied=Version(step=1))
    queue.put(rollouts_of(third, version=1))
    verify_all(queue)
    batch_of(queue, 2)
    queue.put(rollouts_of(slow, version=0, length=lambda _: 50))  # accepted: its lease is live, and it might have trained in time
    verify_all(queue)
    assert queue.next_batch(3) is None
    assert (queue.counts().dropped["stale"], queue.counts().dropped_tokens["stale"]) == (1, 50)
    queue.applied(Version(step=2), generator="g0")
    again = queue.lease(1, generator="g0", applied=Version(step=2))
    assert (again.group_id, again.step) == ("1-0", 3)
    queue.check()


# --- the end


def test_closing_drops_what_is_held_and_everybody_gets_closed() -> None:
    queue = queue_of(rollouts_per_step=3, max_staleness=1)
    lease = queue.lease(3, generator="g0", applied=Version())
    queue.put(rollouts_of(lease)[:2])
    queue.lease_unverified(1, verifier="v0")
    queue.close()
    queue.close()
    counts = queue.counts()
    assert (counts.accepted, counts.consumed, counts.dropped["shutdown"], counts.held) == (2, 0, 2, 0)
    calls = [
        lambda: queue.lease(1, generator="g0", applied=Version()),
        lambda: queue.put(rollouts_of(lease)),
        lambda: queue.lease_unverified(1, verifier="v0"),
        lambda: queue.put_verdicts([]),
        lambda: queue.next_batch(1),
        lambda: queue.hand_back(lease.id),
    ]
    for call in calls:
        with pytest.raises(Closed):
            call()


# --- deterministic mode


def test_deterministic_mode_leases_a_whole_step_in_id_order_with_seeds_that_depend_on_run_seed_and_id_alone() -> None:
    def seeds_of(seed: int) -> dict[str, int]:
        queue = planned([2, 3], deterministic=True, seed=seed)
        leases = queue.leases(1, generator="g0", applied=Version())
        ids = [rollout_id for lease in leases for rollout_id in lease.rollout_ids]
        assert ids == sorted(ids)
        assert len(ids) == 5
        return dict(zip(ids, [seed for lease in leases for seed in lease.seeds or ()], strict=True))

    assert seeds_of(1) == seeds_of(1)
    assert set(seeds_of(1).values()).isdisjoint(seeds_of(2).values())
    assert len(set(seeds_of(1).values())) == 5
    assert planned([2]).lease(2, generator="g0", applied=Version()).seeds is None


def test_deterministic_mode_needs_max_staleness_0_and_admission_order() -> None:
    for settings in ({"max_staleness": 1}, {"order": "completion"}):
        with pytest.raises(ValueError, match="deterministic"):
            queue_of(rollouts_per_step=2, deterministic=True, **settings)


# --- length


def trained_and_generated_length(order: str, seed: int) -> tuple[float, float, int]:
    """A simulated run in which a completion takes as long as it is; returns mean lengths trained and generated, and what was dropped as stale."""
    random_ = random.Random(seed)
    queue = planned([2] * 2, max_staleness=3, num_steps=200, order=order, max_resamples=0)
    running: list[tuple[float, Rollout]] = []
    now, step, version = 0.0, 1, 0
    while step <= 200:
        for lease in queue.leases(1000, generator="g0", applied=Version(step=version)):
            lengths = [random_.choice((2, 40)) for _ in lease.rollout_ids]
            running += [
                (now + length, rollout_of(lease, id_, version=version, length=length)) for id_, length in zip(lease.rollout_ids, lengths, strict=True)
            ]
        running.sort(key=lambda entry: entry[0])
        if running:
            now, done = running.pop(0)
            queue.put([done])
            verify_all(queue)
        while step <= 200 and queue.next_batch(step) is not None:
            version, step = step, step + 1
            queue.applied(Version(step=version), generator="g0")
        queue.check()
    counts = queue.counts()
    return counts.mean_length_trained, counts.mean_length_generated, counts.dropped["stale"]


def test_admission_order_trains_the_lengths_that_were_generated_and_completion_order_loses_the_long_ones_visibly() -> None:
    trained, generated, stale = trained_and_generated_length("admission", seed=3)
    assert (trained, stale) == (generated, 0)
    trained, generated, stale = trained_and_generated_length("completion", seed=3)
    assert stale > 0
    assert trained < 0.97 * generated
