"""A queue with its journal, and the world around them: what generators, verifiers and the learner have in their hands.

Owns what every rule of the queue's state machine does alike, and what the world may take for granted of each answer.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine
from msgspec.structs import replace
from queue_fakes import Clock, MemoryFiles, partial_of, planned, reopened, rollout_of

from actors.journal.entries import Accepted
from actors.journal.journal import Journal
from actors.journal.reading import SegmentReader
from actors.queue.rollout_queue import RolloutQueue
from rlvr.errors import QueueError
from rlvr.records import Batch, JudgedRollout, Lease, Rollout, Unverified, Version, VersionSpan

NUM_STEPS = 6
LEASE_S = 10.0
GENERATORS = ("g0", "g1", "g2")
VERIFIERS = ("v0", "v1")


@dataclass
class Running:
    """A completion that a generator is sampling: what another one has sampled of it, and the version that this one began with."""

    generator: str
    lease: Lease
    rollout_id: str
    began: Version
    head: tuple[VersionSpan, ...] = ()
    is_late: bool = False

    @property
    def spans(self) -> list[tuple[Version, int]]:
        """With two more tokens of the version that its generator began with."""
        return [*((span.version, span.end - span.start) for span in self.head), (self.began, 2)]


@dataclass
class World:
    """What is outside the queue."""

    versions: dict[str, Version] = field(default_factory=lambda: dict.fromkeys(GENERATORS, Version()))
    running: list[Running] = field(default_factory=list)
    finished: list[Rollout] = field(default_factory=list)
    answers: list[tuple[str, Unverified]] = field(default_factory=list)
    batches: dict[int, Batch] = field(default_factory=dict)
    """The last one that was handed out of each step."""
    accepted: set[str] = field(default_factory=set)
    expiries: int = 0
    lineage: int = 0
    checkpoint: int = 0
    """The step from which this lineage goes on."""
    step: int = 0
    """The last one that the learner has in this lineage."""
    committed: int = 0
    durable: tuple[int, int] = (0, 0)
    """The segment, and its length, of which the outside was told."""


class QueueUnderTest(RuleBasedStateMachine):
    """Without rules: those are the test's."""

    queue: RolloutQueue
    journal: Journal

    def begin(self, *, deterministic: bool, max_staleness: int, order: str, **others: object) -> None:
        self.deterministic = deterministic and order == "admission"
        self.max_staleness, self.order = 0 if self.deterministic else max_staleness, order
        self.sizes = (2, 1) if order == "admission" else (2, 2)
        self.clock, self.world, self.is_broken, self.files = Clock(), World(), False, MemoryFiles()
        self.settings = {"order": order, **others}
        self._open()

    def _open(self) -> None:
        self.queue, self.journal = reopened(
            self.files,
            lambda incarnation, record: planned(
                self.sizes,
                max_staleness=self.max_staleness,
                num_steps=NUM_STEPS,
                lease_s=LEASE_S,
                verify_lease_s=LEASE_S / 2,
                clock=self.clock,
                deterministic=self.deterministic,
                incarnation=incarnation,
                record=record,
                is_forgetful=True,
                **self.settings,
            ),
            segment_bytes=4096,
            keep_segments=True,
            has_thread=False,
        )
        self._late(self.world.running, is_late=False)  # a lease that was ended just before may be live again
        self.world.accepted = set(accepted_ids(self.files))
        self._acknowledged()

    def _die(self, data: st.DataObject) -> None:
        """What nobody was told of may be lost from any byte on, and its last bytes may be wrong."""
        self.journal.close()
        newest = max(self.files.data)
        data_of_newest = self.files.data[newest]
        least = self.world.durable[1] if self.world.durable[0] == newest else 0
        kept = data_of_newest[: data.draw(st.integers(least, len(data_of_newest)))]
        if len(kept) > least and data.draw(st.booleans()):
            kept = kept[:-1] + bytes([kept[-1] ^ 1])
        self.files.data[newest] = kept

    def _acknowledged(self) -> None:
        self.journal.write()
        newest = max(self.files.data)
        self.world.durable = (newest, len(self.files.data[newest]))

    def _some_running(self, data: st.DataObject) -> Running:
        return self.world.running.pop(data.draw(st.integers(0, len(self.world.running) - 1)))

    def _finished(self, running: Running, length: int) -> Rollout:
        """Its first tokens may be another generator's; its last one is of what its own has by now."""
        now = self.world.versions[running.generator]
        spans = [*((span.version, span.end - span.start) for span in running.head), (running.began, length)]
        if now.step > running.began.step:
            spans.append((now, 1))
        whole = partial_of(running.rollout_id, *spans)
        rollout = rollout_of(running.lease, running.rollout_id)
        rollout = replace(rollout, token_data=whole.token_data, logprob_data=whole.logprob_data, spans=whole.spans)
        self.world.finished.append(rollout)
        return rollout

    def _put(self, running: Running, length: int) -> None:
        rollout = self._finished(running, length)
        (result,) = self.queue.put([rollout])
        self._acknowledged()
        assert not (result.is_accepted and running.is_late)
        if result.is_accepted:
            assert rollout.id not in self.world.accepted
            self.world.accepted.add(rollout.id)

    def _late(self, runnings: Iterable[Running], *, is_late: bool = True) -> None:
        for running in runnings:
            running.is_late = is_late

    def _ask(self, step: int) -> Batch | None:
        """As the service asks: what is not in memory is recalled first."""
        absent = self.queue.absent(step)
        if absent:
            self.journal.write()
            self.queue.recalled(step, [judged for judged in self.journal.recall(absent) if isinstance(judged, JudgedRollout)])
        try:
            return self.queue.next_batch(step, lineage=self.world.lineage)
        except QueueError as error:
            self.is_broken = "faults of the verifiers" in str(error)
            if not self.is_broken:
                raise
            return None

    def _batch(self, step: int) -> Batch:
        batch = self._ask(step)
        assert batch is not None
        return batch

    def _train(self) -> None:
        step = self.world.step + 1
        if step > NUM_STEPS or self.is_broken:
            return
        batch = self._ask(step)
        self._acknowledged()
        if batch is None:
            assert step not in self.world.batches, "a batch that was handed out once is there again at once"
            return
        assert (batch.step, batch.lineage) == (step, self.world.lineage)
        assert len(batch.rollouts) + batch.short == sum(self.sizes)
        assert list(ids_of(batch)) == sorted(ids_of(batch))
        assert all(step - 1 - judged.rollout.oldest_version.step in range(self.max_staleness + 1) for judged in batch.rollouts)
        assert not any(judged.verdict.kind.is_ours for judged in batch.rollouts)
        groups = {judged.rollout.group_id for judged in batch.rollouts}
        earlier = {judged.rollout.group_id for other in self.world.batches.values() if other.step != step for judged in other.rollouts}
        assert groups.isdisjoint(earlier)
        if self.order == "admission" or self.max_staleness == 0:
            assert all(group.startswith(f"{step}-") for group in groups)
        if step in self.world.batches:
            assert ids_of(batch) == ids_of(self.world.batches[step])
        self.world.batches[step], self.world.step = batch, step


def ids_of(batch: Batch) -> tuple[str, ...]:
    return tuple(judged.rollout.id for judged in batch.rollouts)


def accepted_ids(files: MemoryFiles) -> list[str]:
    """What an audit reads of the journal, archive and all."""
    segments = sorted((files.archive | files.data).items())
    readers = [SegmentReader(data, number=number, is_newest=number == segments[-1][0]) for number, data in segments]
    return [entry.rollout.id for reader in readers for _, entry in reader if isinstance(entry, Accepted)]
