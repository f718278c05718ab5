"""The queue's contract under every order of events: a hypothesis state machine of generators, verifiers, a learner, deaths and late results; of
crashes of the queue, replays of its journal with torn tails, roll-backs, commits, and versions that are never applied."""

from collections import Counter

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import initialize, invariant, precondition, rule
from queue_fakes import partial_of, verdict_of
from queue_under_test import GENERATORS, LEASE_S, NUM_STEPS, VERIFIERS, QueueUnderTest, Running, accepted_ids, ids_of

from actors.queue.desks import MAX_FAILURES
from actors.queue.records import QueueCounts
from rlvr.errors import QueueError
from rlvr.records import VerdictKind, Version

KINDS = st.sampled_from([*VerdictKind, VerdictKind.CORRECT, VerdictKind.WRONG])


class QueueMachine(QueueUnderTest):
    @initialize(
        max_staleness=st.integers(0, 3),
        order=st.sampled_from(["admission", "completion", "window"]),
        window=st.integers(0, 4),
        undecided=st.sampled_from(["zero", "exclude"]),
        max_resamples=st.integers(0, 2),
        deterministic=st.booleans(),
    )
    def with_settings(self, **settings: object) -> None:
        self.begin(**settings)  # type: ignore[arg-type]

    # --- generators

    @rule(generator=st.sampled_from(GENERATORS), n=st.integers(1, 5))
    def lease(self, generator: str, n: int) -> None:
        version, before = self.world.versions[generator], self.queue.counts()
        lease = self.queue.lease(n, generator=generator, applied=version)
        if lease is None:
            return
        assert sum(before.slots.values()) < before.capacity + max(0, len(lease.rollout_ids))
        assert self.world.step == max(self.world.batches, default=0)  # nothing before all batches were handed out again
        assert self.deterministic or 1 <= len(lease.rollout_ids) <= n
        assert lease.step - 1 - version.step <= self.max_staleness
        assert lease.step <= NUM_STEPS
        heads = {partial.rollout_id: partial.spans for partial in lease.partials}
        assert all(lease.step - 1 - span.version.step <= self.max_staleness for head in heads.values() for span in head)
        self.world.running += [Running(generator, lease, id_, version, heads.get(id_, ())) for id_ in lease.rollout_ids]

    @precondition(lambda self: self.world.running)
    @rule(data=st.data(), length=st.integers(2, 9))
    def finish(self, data: st.DataObject, length: int) -> None:
        self._put(self._some_running(data), length)

    @precondition(lambda self: self.world.finished)
    @rule(data=st.data())
    def put_again(self, data: st.DataObject) -> None:
        """A repeated call is refused, but for one whose first answer a crash has swallowed together with what it said."""
        rollout = data.draw(st.sampled_from(self.world.finished))
        (result,) = self.queue.put([rollout])
        self._acknowledged()
        assert not (result.is_accepted and rollout.id in self.world.accepted)
        self.world.accepted |= {rollout.id} if result.is_accepted else set()

    @rule(generator=st.sampled_from(GENERATORS), lag=st.integers(0, 2))
    def apply_weights(self, generator: str, lag: int) -> None:
        """A generator takes a version, some of them never; after a roll-back it keeps what it has until a later one is there."""
        step = max(self.world.checkpoint, self.world.step - lag)
        if step >= self.world.versions[generator].step:
            self.world.versions[generator] = Version(lineage=self.world.lineage, step=step)
        self.queue.applied(self.world.versions[generator], generator=generator)

    @rule(generator=st.sampled_from(GENERATORS))
    def generator_dies(self, generator: str) -> None:
        self.queue.lost(generator)
        self._late(running for running in self.world.running if running.generator == generator)

    @precondition(lambda self: self.world.running)
    @rule(data=st.data(), has_begun=st.booleans())
    def hand_back(self, data: st.DataObject, has_begun: bool) -> None:
        lease_id = data.draw(st.sampled_from(self.world.running)).lease.id
        of_lease = [running for running in self.world.running if running.lease.id == lease_id]
        self.queue.hand_back(lease_id, [partial_of(running.rollout_id, *running.spans) for running in of_lease if has_begun])
        self._acknowledged()
        self._late(of_lease)

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
        self._acknowledged()

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
        self._train()

    @precondition(lambda self: self.world.step > self.world.committed)
    @rule(data=st.data())
    def ask_again(self, data: st.DataObject) -> None:
        step = data.draw(st.integers(self.world.committed + 1, self.world.step))
        assert ids_of(self._batch(step)) == ids_of(self.world.batches[step])

    @rule(data=st.data())
    def commit(self, data: st.DataObject) -> None:
        self.world.committed = data.draw(st.integers(self.world.committed, max(self.world.committed, self.world.checkpoint, self.world.step - 1)))
        self.queue.commit(self.world.committed)
        self.journal.compact(self.queue.state.snapshot())
        self._acknowledged()

    @rule(data=st.data())
    def the_learner_dies(self, data: st.DataObject) -> None:
        """It goes on from a checkpoint that is kept."""
        step = data.draw(st.integers(self.world.committed, self.world.step))
        assert self.queue.roll_back(step) == self.world.lineage + 1
        self._acknowledged()
        self.world.lineage += 1
        self.world.step = self.world.checkpoint = step
        for stale in (-1, self.world.committed - 1):
            if stale < self.world.committed:
                try:
                    self.queue.roll_back(stale)
                except QueueError:
                    continue
                raise AssertionError(f"rolled back to {stale}, below {self.world.committed}")

    @rule(num_slow=st.integers(0, 2))
    def a_turn_that_slow_completions_sit_out(self, num_slow: int) -> None:
        """Takes the run far enough for batches to pass what is slow."""
        self._take_a_fair_turn(num_slow)

    # --- the queue's own death

    @rule(data=st.data(), has_unheard_answers=st.booleans())
    def crash(self, data: st.DataObject, has_unheard_answers: bool) -> None:
        """What was acknowledged is there again, and nothing twice; batches of which nobody heard are handed out."""
        if has_unheard_answers:
            if self.world.running:
                self.queue.put([self._finished(self._some_running(data), 3)])
            self.queue.put_verdicts([verdict_of(answer) for _, answer in self.world.answers])
            if self.world.step < NUM_STEPS and not self.is_broken:
                self._ask(self.world.step + 1)
        self._die(data)
        told, before = self.world.accepted, self.world.step
        self._open()
        ids = accepted_ids(self.files)
        assert told <= self.world.accepted
        assert len(ids) == len(set(ids))
        assert self.queue.lineage == self.world.lineage
        assert self.queue.step >= before
        for step in range(before + 1, self.queue.step + 1):  # handed out, and nobody heard of it
            self.world.batches[step], self.world.step = self._batch(step), step
        for step in range(self.world.committed + 1, self.world.step + 1):
            assert ids_of(self._batch(step)) == ids_of(self.world.batches[step])

    # --- the laws

    @invariant()
    def it_adds_up(self) -> None:
        self.queue.check()
        counts = self.queue.counts()
        assert counts.accepted == counts.consumed + counts.num_dropped + counts.held
        assert counts.accepted == len(self.world.accepted)
        assert counts.consumed == sum(len(batch.rollouts) for batch in self.world.batches.values())
        assert counts.capacity == (self.max_staleness + 1) * sum(self.sizes)
        assert sum(counts.slots.values()) <= counts.capacity + counts.taken_again
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
            if self.is_broken or self.world.step == NUM_STEPS:
                break
            self._take_a_fair_turn()
        assert self.is_broken or self.world.step == NUM_STEPS
        self.queue.close()
        self.journal.close()
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
        self._acknowledged()
        self._train()
        self.it_adds_up()


TestQueueMachine = QueueMachine.TestCase
TestQueueMachine.settings = settings(
    max_examples=150, stateful_step_count=50, deadline=None, derandomize=True, database=None, suppress_health_check=[HealthCheck.too_slow]
)
