"""The ledger of the rollout queue: its groups, its slots and its tally, moved together.

Owns what happens to a place whose work is lost or dropped: it is sampled again, or its group is smaller. Called by the queue and its two desks.
"""

import math
from collections.abc import Callable, Iterable, Sequence

from actors.queue.groups import HELD_STATES, GroupBook, Member, MemberState
from actors.queue.slots import Slots, Tally
from rlvr.records import DropReason


class Ledger:
    """Groups, slots and tally of one queue."""

    def __init__(self, book: GroupBook, slots: Slots, *, max_resamples: int, resample_grace_s: float, clock: Callable[[], float]) -> None:
        self.book = book
        self.slots = slots
        self.tally = Tally()
        self.clock = clock
        self.asked_step = 0
        """The last step that the learner has asked for since the queue's start."""
        self._max_resamples = max_resamples
        self._grace_s = resample_grace_s

    def held(self) -> Sequence[Member]:
        """The members whose rollout is accepted, and neither trained nor dropped."""
        return [member for member in self.members() if member.state in HELD_STATES]

    def members(self) -> Iterable[Member]:
        """The members of all opened groups that are not trained."""
        return (member for group in self.book.untrained.values() for member in group.members)

    def sample_again(self, member: Member) -> None:
        """The member's work is lost: its slot is free, its place pending."""
        self.slots.move(member, MemberState.PENDING)
        self.book.sample_again(member)

    def is_worth_another(self, member: Member) -> bool:
        """Whether a dropped rollout's place is sampled again: while that is worth the wait."""
        due_since = member.group.due_since
        is_young = due_since is None or math.isinf(self._grace_s) or self.clock() - due_since <= self._grace_s
        return is_young and member.resamples < self._max_resamples

    def drop(self, member: Member, reason: DropReason, *, is_ours: bool, is_resampled: bool) -> None:
        """Drop an accepted rollout; its place is sampled again, or its group is smaller.

        is_ours: for a fault of ours, not for what the model wrote.
        """
        self.tally.drop(member.accepted, reason)
        member.partial = None
        if member.state is MemberState.VERIFIED:
            self.book.unsettle(member.group)
        if is_resampled:
            member.resamples += 1
            self.tally.resampled += 1
            self.sample_again(member)
            return
        member.rollout, member.verdict, member.is_ours = None, None, is_ours
        self.tally.closed_members += reason is not DropReason.SHUTDOWN  # at the end no batch is short of it
        self.slots.move(member, MemberState.CLOSED)
        self.book.settled(member.group)

    def mark_due(self, step: int) -> None:
        """The learner asks for `step`: its groups, and older ones, are due from now on."""
        self.asked_step = max(step, self.asked_step)
        for group in self.book.untrained.values():
            if group.step <= step and group.due_since is None:
                group.due_since = self.clock()

    def check(self) -> None:
        """Recount everything from the members. Raises QueueError where the books differ from them."""
        self.tally.check(self.slots.held)
        self.slots.check(self.members())
        self.book.check()
