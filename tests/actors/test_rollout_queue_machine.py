"""The queue's contract under every order of events: a hypothesis state machine of generators, verifiers, a learner, deaths and late results."""

from collections import Counter
from dataclasses import dataclass, field

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from msgspec.structs import replace
from queue_fakes import Clock, planned, rollout_of, verdict_of

from actors.queue.desks import MAX_FAILURES
from actors.queue.records import QueueCounts
from actors.rollout_queue import RolloutQueue
from rlvr.errors import QueueError
from rlvr.records import Batch, Lease, Rollout, Unverified, VerdictKind, Version, VersionSpan

NUM_STEPS = 6
LEASE_S = 10.0
GENERATORS = ("g0", "g1", "g2")
VERIFIERS = ("v0", "v1")
KINDS = st.sampled_from([*VerdictKind, VerdictKind.CORRECT, VerdictKind.WRONG])


@dataclass
class Running:
    """A completion that a generator is sampling, and the version it began with."""

    generator: str
    lease: Lease
    rollout_id: str
    began: int
    is_late: bool = False


@dataclass
class World:
    """What is outside the queue."""

    versions: dict[str, int] = field(default_factory=lambda: dict.fromkeys(GENERATORS, 0))
    running: list[Running] = field(default_factory=list)
    finished: list[Rollout] = field(default_factory=list)
    answers: list[tuple[str, Unverified]] = field(default_factory=list)
    batches: dict[int, Batch] = field(default_factory=dict)
    accepted: set[str] = field(default_factory=set)
    expiries: int = 0


class QueueMachine(RuleBasedStateMachine):
    queue: RolloutQueue

    @initialize(
        max_staleness=st.integers(0, 3),
        order=st.sampled_from(["admission", "completion", "window"]),
        window=st.integers(0, 4),
        undecided=st.sampled_from(["zero", "exclude"]),
        max_resamples=st.integers(0, 2),
    )
    def begin(self, max_staleness: int, order: str, window: int, undecided: str, max_resamples: int) -> None:
        self.max_staleness, self.order = max_staleness, order
        self.sizes = (2, 1) if order == "admission" else (2, 2)
        self.clock, self.world, self.is_broken = Clock(), World(), False
        self.queue = planned(
            self.sizes,
            max_staleness=max_staleness,
            order=order,
            window=window,
            undecided=undecided,
            max_resamples=max_resamples,
            num_steps=NUM_STEPS,
            lease_s=LEASE_S,
            verify_lease_s=LEASE_S / 2,
            clock=self.clock,
        )

    # --- generators

    @rule(generator=st.sampled_from(GENERATORS), n=st.integers(1, 5))
    def lease(self, generator: str, n: int) -> None:
        version = self.world.versions[generator]
        lease = self.queue.lease(n, generator=generator, applied=Version(step=version))
        if lease is None:
            return
        assert 1 <= len(lease.rollout_ids) <= n
        assert lease.step - 1 - version <= self.max_staleness
        assert lease.step <= NUM_STEPS
        self.world.running += [Running(generator, lease, rollout_id, version) for rollout_id in lease.rollout_ids]

    @precondition(lambda self: self.world.running)
    @rule(data=st.data(), length=st.integers(2, 9))
    def finish(self, data: st.DataObject, length: int) -> None:
        running = self.world.running.pop(data.draw(st.integers(0, len(self.world.running) - 1)))
        self._put(running, length)

    @precondition(lambda self: self.world.finished)
    @rule(data=st.data())
    def put_again(self, data: st.DataObject) -> None:
        (result,) = self.queue.put([data.draw(st.sampled_from(self.world.finished))])
        assert not result.is_accepted

    @rule(generator=st.sampled_from(GENERATORS), lag=st.integers(0, 2))
    def apply_weights(self, generator: str, lag: int) -> None:
        version = max(self.world.versions[generator], len(self.world.batches) - lag)
        self.world.versions[generator] = version
        self.queue.applied(Version(step=version), generator=generator)

    @rule(generator=st.sampled_from(GENERATORS))
    def generator_dies(self, generator: str) -> None:
        self.queue.lost(generator)
        self._late(running for running in self.world.running if running.generator == generator)

    @precondition(lambda self: self.world.running)
    @rule(data=st.data())
    def hand_back(self, data: st.DataObject) -> None:
        lease_id = data.draw(st.sampled_from(self.world.running)).lease.id
        self.queue.hand_back(lease_id)
        self._late(running for running in self.world.running if running.lease.id == lease_id)

    # --- verifiers

    @rule(verifier=st.sampled_from(VERIFIERS), n=st.integers(1, 6))
    def lease_unverified(self, verifier: str, n: int) -> None:
        self.world.answers += [(verifier, answer) for answer in self.queue.lease_unverified(n, verifier=verifier)]

    @precondition(lambda self: self.world.answers)
    @rule(data=st.data(), kind=KINDS)
    def judge(self, data: st.DataObject, kind: VerdictKind) -> None:
        _, answer = self.world.answers.pop(data.draw(st.integers(0, len(self.world.answers) - 1)))
        self.queue.put_verdicts([verdict_of(answer, kind)])
        assert not self.queue.put_verdicts([verdict_of(answer, kind)])[0].is_accepted

    @rule(verifier=st.sampled_from(VERIFIERS), is_forgotten=st.booleans())
    def verifier_dies(self, verifier: str, is_forgotten: bool) -> None:
        self.queue.lost(verifier)
        for entry in [entry for entry in self.world.answers if entry[0] == verifier]:
            assert not self.queue.put_verdicts([verdict_of(entry[1])])[0].is_accepted
            if is_forgotten:
                self.world.answers.remove(entry)

    # --- the clock and the learner

    @precondition(lambda self: self.world.expiries < MAX_FAILURES - 1)
    @rule(seconds=st.sampled_from([1.0, LEASE_S / 2, LEASE_S, 10 * LEASE_S]))
    def time_passes(self, seconds: float) -> None:
        self.world.expiries += 1
        self.clock.now += seconds
        self.queue.expire()
        if seconds >= LEASE_S:
            self._late(self.world.running)

    @rule()
    def next_batch(self) -> None:
        self._train(len(self.world.batches) + 1)

    @precondition(lambda self: self.world.batches)
    @rule()
    def ask_again(self) -> None:
        last = len(self.world.batches)
        assert self.queue.next_batch(last) == self.world.batches[last]

    @rule(num_slow=st.integers(0, 2))
    def a_turn_that_slow_completions_sit_out(self, num_slow: int) -> None:
        """Takes the run far enough for batches to pass what is slow."""
        self._take_a_fair_turn(num_slow)

    # --- the laws

    @invariant()
    def it_adds_up(self) -> None:
        self.queue.check()
        counts = self.queue.counts()
        assert counts.accepted == counts.consumed + counts.num_dropped + counts.held
        assert counts.accepted == len(self.world.accepted)
        assert sum(counts.slots.values()) <= counts.capacity == (self.max_staleness + 1) * sum(self.sizes)
        assert counts.staleness_max_seen <= self.max_staleness

    @invariant()
    def no_rollout_is_trained_twice(self) -> None:
        trained = Counter(judged.rollout.id for batch in self.world.batches.values() for judged in batch.rollouts)
        assert all(count == 1 for count in trained.values())
        assert trained.keys() <= self.world.accepted

    def teardown(self) -> None:
        """However it came here, a fair schedule ends the run, with every batch made."""
        if not hasattr(self, "queue"):
            return
        self._late(self.world.running)
        for worker in (*GENERATORS, *VERIFIERS):
            self.queue.lost(worker)
        for _ in range(20 * NUM_STEPS):
            if self.is_broken or len(self.world.batches) == NUM_STEPS:
                break
            self._take_a_fair_turn()
        assert self.is_broken or len(self.world.batches) == NUM_STEPS
        self.queue.close()
        counts: QueueCounts = self.queue.counts()
        assert counts.held == 0
        assert self.is_broken or counts.consumed + counts.closed_members == NUM_STEPS * sum(self.sizes)

    def _take_a_fair_turn(self, num_slow: int = 0) -> None:
        for generator in GENERATORS:
            self.apply_weights(generator, 0)
            self.lease(generator, 4)
        while len(self.world.running) > num_slow:
            self._put(self.world.running.pop(), 3)
        for answer in self.queue.lease_unverified(100, verifier="v0"):
            self.queue.put_verdicts([verdict_of(answer)])
        if len(self.world.batches) < NUM_STEPS:
            self._train(len(self.world.batches) + 1)
        self.it_adds_up()

    # --- doing

    def _put(self, running: Running, length: int) -> None:
        """Its first token is of the version it began with, its last one of what its generator has by now."""
        now = self.world.versions[running.generator]
        rollout = rollout_of(running.lease, running.rollout_id, version=running.began, length=length)
        if now > running.began:
            spans = (VersionSpan(Version(step=running.began), 0, 1), VersionSpan(Version(step=now), 1, length))
            rollout = replace(rollout, spans=spans)
        (result,) = self.queue.put([rollout])
        assert not (result.is_accepted and running.is_late)
        if result.is_accepted:
            assert rollout.id not in self.world.accepted
            self.world.accepted.add(rollout.id)
        self.world.finished.append(rollout)

    def _late(self, runnings: object) -> None:
        for running in runnings:  # type: ignore[attr-defined]
            running.is_late = True

    def _train(self, step: int) -> None:
        if step > NUM_STEPS or self.is_broken:
            return
        try:
            batch = self.queue.next_batch(step)
        except QueueError as error:
            self.is_broken = "faults of the verifiers" in str(error)
            if not self.is_broken:
                raise
            return
        if batch is None:
            return
        assert len(batch.rollouts) + batch.short == sum(self.sizes)
        assert [judged.rollout.id for judged in batch.rollouts] == sorted(judged.rollout.id for judged in batch.rollouts)
        assert all(step - 1 - judged.rollout.oldest_version.step in range(self.max_staleness + 1) for judged in batch.rollouts)
        assert not any(judged.verdict.kind.is_ours for judged in batch.rollouts)
        groups = {judged.rollout.group_id for judged in batch.rollouts}
        earlier = {judged.rollout.group_id for other in self.world.batches.values() for judged in other.rollouts}
        assert groups.isdisjoint(earlier)
        if self.order == "admission" or self.max_staleness == 0:
            assert all(group.startswith(f"{step}-") for group in groups)
        self.world.batches[step] = batch


TestQueueMachine = QueueMachine.TestCase
TestQueueMachine.settings = settings(
    max_examples=150, stateful_step_count=50, deadline=None, derandomize=True, database=None, suppress_health_check=[HealthCheck.too_slow]
)
