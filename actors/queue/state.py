"""The queue's state and the one way in which it changes: by the entries of its journal, live and at a replay alike.

Owns groups, slots, leases, batches and tally together. Called by the rollout queue, which decides what happens and makes the entries; decides
nothing, so that a replay cannot decide otherwise. The clock is read for deadlines and ages alone.
"""

from collections.abc import Callable, Sequence

from actors.journal.entries import (
    Accepted,
    Applied,
    BegunAgain,
    Change,
    Committed,
    Dropped,
    Ended,
    Ending,
    HandedOut,
    Judged,
    Leased,
    Refused,
    RolledBack,
    Snapshot,
    Unfit,
)
from actors.queue.batches import BatchBook
from actors.queue.desks import SAMPLING, SamplingDesk, VerifyingDesk
from actors.queue.groups import HELD_STATES, GroupBook, Member, MemberState
from actors.queue.ledger import Ledger
from actors.queue.slots import Slots
from rlvr.errors import QueueError
from rlvr.records import JudgedRollout, Rollout

Recall = Callable[[Sequence[str]], Sequence[Rollout | JudgedRollout]]
"""Rollouts by their ids, with their verdicts where they have one."""


class QueueState:
    """Everything that a queue knows and has to remember."""

    def __init__(
        self, *, ledger: Ledger, sampling: SamplingDesk, verifying: VerifyingDesk, batches: BatchBook, open_step: Callable[[], None]
    ) -> None:
        """open_step: opens the groups of the next step."""
        self.ledger, self.sampling, self.verifying, self.batches = ledger, sampling, verifying, batches
        self.applied_step = 0
        self._open_step = open_step
        self._tables = (sampling.leases, verifying.leases)

    @property
    def book(self) -> GroupBook:
        return self.ledger.book

    @property
    def slots(self) -> Slots:
        return self.ledger.slots

    def do(self, change: Change) -> None:
        """What the entry says happens now. Raises QueueError where it cannot follow what happened before."""
        match change:
            case Accepted(rollout=rollout):
                self.verifying.add(self.sampling.accept(rollout))
            case Judged(verdict=verdict):
                self.verifying.judged(verdict)
            case Leased(kind=kind):
                self._lease_for_sampling(change) if kind == SAMPLING else self.verifying.give(change)
            case Ended(kind=kind):
                self.sampling.end(change) if kind == SAMPLING else self.verifying.end(change)
            case Unfit():
                self.sampling.refuse(change.lease_id, change.rollout_id)
            case Dropped():
                member = self.book.find(change.rollout_id)
                self.verifying.forget(member, change.verdict)
                self.ledger.drop(member, change.reason, is_ours=change.is_ours, is_resampled=change.is_resampled)
            case Refused(kind=kind, counts=counts):
                (self.ledger.tally.refused if kind == "rollout" else self.ledger.tally.refused_verdicts).update(counts)
            case HandedOut():
                self._hand_out(change)
            case Applied(step=step):
                self.applied_step = step
                self.slots.release(step)
                self.batches.applied(step)
            case Committed(step=step):
                self.batches.commit(step)
            case RolledBack(step=step, lineage=lineage):
                self.batches.roll_back(step, lineage)
                self.applied_step = min(self.applied_step, step)
            case BegunAgain(step=step):
                self.ledger.tally.closed_members -= self.book.begin_again(step)
            case Ending():
                pass  # what it ended was said before

    def check(self) -> None:
        """Recount everything from the members. Raises QueueError where the books differ from them."""
        self.ledger.check()
        self.verifying.check()
        for state, leases in zip((MemberState.LEASED, MemberState.VERIFYING), self._tables, strict=True):
            if leases.outstanding() != self.slots.by_state[state]:
                raise QueueError(f"{self.slots.by_state[state]} members are {state}, {leases.outstanding()} are under a lease")

    # --- snapshots

    def snapshot(self) -> Snapshot:
        """Everything but the rollouts."""
        batches, (numbers, by_kind) = self.batches, self.ledger.tally.facts()
        return Snapshot(
            step=batches.step,
            reached=batches.reached,
            committed=batches.committed,
            lineage=batches.lineage,
            applied_step=self.applied_step,
            **self.book.counters(),
            batches=tuple(batches.out[step] for step in sorted(batches.out)),
            groups=self.book.facts(),
            num_groups=self.book.num_groups(),
            waiting=tuple(member.rollout_id for member in self.verifying.waiting),
            leases=tuple(fact for table in self._tables for fact in table.facts()),
            issued={key: number for table in self._tables for key, number in table.issued_facts().items()},
            training={str(step): number for step, number in self.slots.training.items()},
            taken_again={str(step): number for step, number in self.slots.again.items()},
            tally=numbers,
            tallies=by_kind,
        )

    def restore(self, snapshot: Snapshot, recall: Recall) -> None:
        """Be what the snapshot says, from nothing; leases have fresh deadlines."""
        self.applied_step = snapshot.applied_step
        self.batches.restore(snapshot.batches, step=snapshot.step, reached=snapshot.reached, committed=snapshot.committed, lineage=snapshot.lineage)
        counters = {"opened_step": snapshot.opened_step, "next_serial": snapshot.next_serial, "completions": snapshot.completions}
        self.book.restore(snapshot.groups, snapshot.num_groups, **counters)
        by_id = {member.rollout_id: member for member in self.ledger.members()}
        self._bring_back(recall)
        self.verifying.waiting.extend(by_id[rollout_id] for rollout_id in snapshot.waiting)
        for table in self._tables:
            table.restore(snapshot.leases, snapshot.issued, by_id, now=self.ledger.clock())
        for lease in snapshot.leases:
            for rollout_id in lease.rollout_ids:
                by_id[rollout_id].lease_id = lease.lease_id
        self.slots.restore(self.ledger.members(), training=snapshot.training, again=snapshot.taken_again)
        self.ledger.tally.restore(snapshot.tally, snapshot.tallies)

    def _bring_back(self, recall: Recall) -> None:
        held = [member for member in self.ledger.members() if member.state in HELD_STATES]
        for member, found in zip(held, recall([member.rollout_id for member in held]), strict=True):
            member.rollout, member.verdict = (found.rollout, found.verdict) if isinstance(found, JudgedRollout) else (found, None)
            member.accepted_at = self.ledger.clock()

    # --- inside

    def _lease_for_sampling(self, entry: Leased) -> None:
        while self.book.opened_step < max(int(rollout_id.partition("/")[0]) for rollout_id in entry.rollout_ids):
            self._open_step()
        self.sampling.give(entry, [self.book.find(rollout_id) for rollout_id in entry.rollout_ids])

    def _hand_out(self, entry: HandedOut) -> None:
        if entry.step <= self.batches.reached:
            self.batches.hand_out(entry, None)
            self.slots.train_again(entry.step, len(entry.rollout_ids))
            return
        members: Sequence[Member] = [self.book.find(rollout_id) for rollout_id in entry.rollout_ids]
        chosen = self.book.of_ids(entry.groups)
        rollouts = [member.judged for member in members]
        tally = self.ledger.tally
        self.batches.hand_out(entry, rollouts)
        self.book.train(entry.step, chosen)
        self.slots.train(entry.step, members)
        tally.consume(entry.step, rollouts)
        tally.short_groups += sum(any(member.state is MemberState.CLOSED for member in group.members) for group in chosen)
        tally.short_members += entry.short
