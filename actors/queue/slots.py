"""Slots and tallies: how much work is under way, and what became of what was accepted.

Owns the counting of the rollout queue's contract: slots by state, conservation (accepted = consumed + dropped + held), lengths. Called by the
rollout queue, which decides; nothing is decided here.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from actors.queue.groups import HELD_STATES, SLOT_STATES, Member, MemberState
from actors.queue.records import QueueCounts, RefuseReason
from rlvr.errors import QueueError
from rlvr.records import DropReason, JudgedRollout, PartialFate, Rollout
from rlvr.staleness import staleness


class Slots:
    """The slots that members take, by state; those in training come back step by step."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.by_state: Counter[MemberState] = Counter()
        self.training: dict[int, int] = {}
        self.again: dict[int, int] = {}
        """Slots in training by step, of batches that are handed out again after their slots had come back."""

    @property
    def taken(self) -> int:
        return sum(self.by_state.values())

    @property
    def free(self) -> int:
        """Slots that may be leased; fewer than none where batches are handed out again beside what is held."""
        return self.capacity - self.taken

    @property
    def taken_again(self) -> int:
        return sum(self.again.values())

    @property
    def held(self) -> int:
        """Accepted, neither consumed nor dropped."""
        return sum(self.by_state[state] for state in HELD_STATES)

    def move(self, member: Member, state: MemberState) -> None:
        """A member changes its state, and its slot with it."""
        if member.state in SLOT_STATES:
            self.by_state[member.state] -= 1
        if state in SLOT_STATES:
            self.by_state[state] += 1
        member.state = state

    def train(self, step: int, members: Sequence[Member]) -> None:
        """The members of a batch are handed out."""
        for member in members:
            self.move(member, MemberState.TRAINING)
        self.training[step] = len(members)

    def train_again(self, step: int, num_members: int) -> None:
        """A batch is handed out again; it takes the slots again that have come back."""
        if step not in self.training:
            self.training[step] = self.again[step] = num_members
            self.by_state[MemberState.TRAINING] += num_members

    def release(self, applied_step: int) -> None:
        """Weights of `applied_step` are applied: the slots of that step and of all earlier ones come back."""
        self.again = {step: number for step, number in self.again.items() if step > applied_step}
        for step in [step for step in self.training if step <= applied_step]:
            self.by_state[MemberState.TRAINING] -= self.training.pop(step)

    def check(self, members: Iterable[Member]) -> None:
        """Recount. Raises QueueError where the books differ or more slots are taken than there are."""
        recount = Counter(member.state for member in members if member.state in SLOT_STATES)
        recount[MemberState.TRAINING] = sum(self.training.values())
        if +recount != +self.by_state:
            raise QueueError(f"slots are booked as {dict(self.by_state)}, the members' states say {dict(recount)}")
        if self.taken > self.capacity + self.taken_again:
            raise QueueError(f"{self.taken} slots are taken of {self.capacity}, and {self.taken_again} again after a roll-back")

    def restore(self, members: Iterable[Member], *, training: Mapping[str, int], again: Mapping[str, int]) -> None:
        """The slots of a snapshot's members and batches."""
        self.training = {int(step): number for step, number in training.items()}
        self.again = {int(step): number for step, number in again.items()}
        self.by_state = Counter(member.state for member in members if member.state in SLOT_STATES)
        self.by_state[MemberState.TRAINING] = sum(self.training.values())


class Tally:
    """What was accepted and what became of it."""

    def __init__(self) -> None:
        self.accepted = 0
        self.consumed = 0
        self.tokens_accepted = 0
        self.tokens_consumed = 0
        self.dropped: Counter[DropReason] = Counter()
        self.dropped_tokens: Counter[DropReason] = Counter()
        self.refused: Counter[str] = Counter()
        self.refused_verdicts: Counter[str] = Counter()
        self.leases_ended: Counter[str] = Counter()
        self.verdicts: Counter[str] = Counter()
        self.partials: Counter[str] = Counter()
        self.staleness: Counter[int] = Counter()
        self.resampled = 0
        self.closed_members = 0
        self.short_groups = 0
        self.short_members = 0
        self.empty_batches = 0

    def accept(self, rollout: Rollout) -> None:
        self.accepted += 1
        self.tokens_accepted += rollout.num_tokens

    def drop(self, rollout: Rollout, reason: DropReason) -> None:
        self.dropped[reason] += 1
        self.dropped_tokens[reason] += rollout.num_tokens

    def consume(self, step: int, rollouts: Sequence[JudgedRollout]) -> None:
        """The rollouts of a batch are handed to the learner."""
        self.consumed += len(rollouts)
        self.empty_batches += not rollouts
        for judged in rollouts:
            self.tokens_consumed += judged.rollout.num_tokens
            self.staleness[staleness(step, judged.rollout.oldest_version)] += 1

    def check(self, held: int) -> None:
        """Raises QueueError where accepted = consumed + dropped + held does not hold."""
        dropped = sum(self.dropped.values())
        if self.accepted != self.consumed + dropped + held:
            raise QueueError(f"conservation: {self.accepted} accepted, but {self.consumed} consumed + {dropped} dropped + {held} held")

    def facts(self) -> tuple[dict[str, int], dict[str, dict[str, int]]]:
        """The numbers, and the numbers by kind, for a snapshot."""
        numbers = {name: value for name, value in vars(self).items() if isinstance(value, int)}
        by_kind = {name: {str(kind): n for kind, n in value.items()} for name, value in vars(self).items() if isinstance(value, Counter)}
        return numbers, by_kind

    def restore(self, numbers: Mapping[str, int], by_kind: Mapping[str, Mapping[str, int]]) -> None:
        """Those of a snapshot."""
        for name, value in numbers.items():
            setattr(self, name, value)
        for name, values in by_kind.items():
            counter = getattr(self, name)
            counter.clear()
            counter.update({int(kind): n for kind, n in values.items()} if name == "staleness" else values)

    def counts(self, slots: Slots, *, step: int, applied_step: int, lineage: int, leases: dict[str, int]) -> QueueCounts:
        """The record of all this."""
        oldest = max(self.staleness, default=-1)
        return QueueCounts(
            step=step,
            applied_step=applied_step,
            capacity=slots.capacity,
            slots={state.value: slots.by_state[state] for state in SLOT_STATES},
            accepted=self.accepted,
            consumed=self.consumed,
            dropped={reason.value: self.dropped[reason] for reason in DropReason},
            held=slots.held,
            dropped_tokens={reason.value: self.dropped_tokens[reason] for reason in DropReason},
            refused={reason.value: self.refused[reason] for reason in RefuseReason},
            refused_verdicts={reason.value: self.refused_verdicts[reason] for reason in RefuseReason},
            leases=leases,
            leases_ended=dict(self.leases_ended),
            verdicts=dict(self.verdicts),
            resampled=self.resampled,
            closed_members=self.closed_members,
            short_groups=self.short_groups,
            short_members=self.short_members,
            empty_batches=self.empty_batches,
            staleness=tuple(self.staleness[age] for age in range(oldest + 1)),
            staleness_max_seen=max(oldest, 0),
            tokens_generated=self.tokens_accepted,
            tokens_trained=self.tokens_consumed,
            mean_length_generated=self.tokens_accepted / self.accepted if self.accepted else 0.0,
            mean_length_trained=self.tokens_consumed / self.consumed if self.consumed else 0.0,
            partials={fate.value: self.partials[fate] for fate in PartialFate},
            lineage=lineage,
            taken_again=slots.taken_again,
        )
