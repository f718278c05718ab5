"""The queue's two desks: sampling work goes out and rollouts come in at one, answers go out and verdicts come in at the other.

Own the leases, and what a result must look like to be accepted. Called by the rollout queue, which decides who gets work; knows no batches.
Each desk *judges* a result (which reads and changes nothing) apart from *doing* what the journal's entry says, live and at a replay alike.
"""

from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence

from msgspec.structs import replace

from actors.journal.entries import Ended, Leased
from actors.queue.groups import Member, MemberState
from actors.queue.leases import LeaseTable
from actors.queue.ledger import Ledger
from actors.queue.records import RefuseReason
from rlvr.errors import QueueError
from rlvr.records import Partial, PartialFate, Rollout, Unverified, Verdict, VerdictKind, Version
from rlvr.staleness import oldest_allowed_step

SAMPLING = "sampling"
VERIFYING = "verifying"
MAX_FAILURES = 8
"""Sampling leases of one place that may expire or come back unfit before the run ends: it would go on for ever."""
MAX_LOST_VERIFIERS = 3
"""Verifiers that one rollout may take with it before that counts as our fault and it is excluded."""
LOSSES = ("expired", "lost")
"""Causes for which a lease's end is its worker's failure."""


class SamplingDesk:
    """Leases of completions to generators."""

    def __init__(self, ledger: Ledger, *, incarnation: int, lease_s: float, max_staleness: int) -> None:
        self._ledger = ledger
        self._lease_s = lease_s
        self._max_staleness = max_staleness
        self.leases = LeaseTable(SAMPLING, incarnation=incarnation, lease_s=lease_s)

    # --- judging

    def misfit(self, rollout: Rollout, member: Member, *, is_made: Callable[[Version], bool]) -> RefuseReason | None:
        """Why this rollout does not fit the lease of its member, if so. is_made: whether there are such weights."""
        plan = member.group.plan
        if (rollout.group_id, rollout.problem_id) != (plan.group_id, plan.problem_id):
            return RefuseReason.NOT_LEASED
        is_sound = all(is_made(span.version) for span in rollout.spans) and not self.is_too_old(rollout.oldest_version, member.step)
        return None if is_sound else RefuseReason.SPANS

    def is_too_old(self, oldest: Version, step: int) -> bool:
        """Whether a completion whose oldest token is of this version cannot be trained by `step`."""
        return oldest.step < oldest_allowed_step(step, self._max_staleness)

    def continued(self, members: Sequence[Member], *, step: int) -> tuple[Partial, ...]:
        """The partials with which these members can be leased, under their present ids."""
        partials = [(member, member.partial) for member in members if member.partial is not None]
        return tuple(replace(p, rollout_id=member.rollout_id) for member, p in partials if not self.is_too_old(p.oldest_version, step))

    def count_failures(self, members: Sequence[Member], what: str) -> None:
        """Raises QueueError where a place fails on and on."""
        for member in members:
            member.failures += 1
            if member.failures >= MAX_FAILURES:
                name = member.rollout_id
                raise QueueError(f"rollout {name} {what}, time {member.failures} for its place: raise queue.lease_s or mend the generators")

    def not_back(self) -> str:
        """What the members of an expired lease did."""
        return f"was not back within lease_s = {self._lease_s} s"

    # --- doing

    def give(self, entry: Leased, members: Sequence[Member]) -> None:
        """Lease members that `entry.step` will train; a partial that is too old for it is gone, and its place starts anew."""
        fates = self._ledger.tally.partials
        for member in members:
            if member.partial is not None and self.is_too_old(member.partial.oldest_version, entry.step):
                member.partial = None
                fates[PartialFate.TOO_OLD] += 1
            fates[PartialFate.CONTINUED] += member.partial is not None
            member.step = entry.step
            self._ledger.slots.move(member, MemberState.LEASED)
        self._ledger.book.take(members)
        self.leases.grant(entry.lease_id, {member.rollout_id: member for member in members}, worker=entry.worker, now=self._ledger.clock())

    def accept(self, rollout: Rollout) -> Member:
        """The member that this rollout is now accepted for."""
        member = self._settle(rollout.lease_id, rollout.id)
        member.rollout, member.accepted_at, member.partial = rollout, self._ledger.clock(), None
        self._ledger.slots.move(member, MemberState.GENERATED)
        self._ledger.tally.accept(rollout)
        return member

    def refuse(self, lease_id: str, rollout_id: str) -> Member:
        """A result does not fit: the member that is sampled again."""
        member = self._settle(lease_id, rollout_id)
        member.partial = None
        self._ledger.sample_again(member)
        return member

    def end(self, entry: Ended) -> Sequence[Member]:
        """End a lease without its work; returns the members that are sampled again."""
        partials = {partial.rollout_id: partial for partial in entry.partials}
        members = self.leases.revoke(entry.lease_id)
        self._ledger.tally.leases_ended[f"sampling_{entry.cause}"] += bool(members)
        self._ledger.tally.partials.update(entry.discarded)
        for member in members:
            member.partial = partials.get(member.rollout_id, member.partial)
            self._ledger.sample_again(member)
        return members

    def _settle(self, lease_id: str, rollout_id: str) -> Member:
        member = self.leases.find(lease_id, rollout_id)
        if isinstance(member, RefuseReason):
            raise QueueError(f"rollout {rollout_id} is not under lease {lease_id}: {member}")
        self.leases.settle(lease_id, rollout_id)
        return member


class VerifyingDesk:
    """Leases of answers to verifiers, the oldest accepted ones first."""

    def __init__(self, ledger: Ledger, *, incarnation: int, lease_s: float, golds: Mapping[str, str], excluded: Collection[VerdictKind]) -> None:
        self._ledger = ledger
        self._golds = golds
        self._excluded = excluded
        self.waiting: deque[Member] = deque()
        self.leases = LeaseTable(VERIFYING, incarnation=incarnation, lease_s=lease_s)

    # --- judging

    def next_waiting(self, n: int) -> Sequence[Member]:
        """The first n that wait."""
        return [self.waiting[place] for place in range(min(n, len(self.waiting)))]

    def is_excluded(self, verdict: Verdict) -> bool:
        """Whether a rollout of this verdict cannot train."""
        return verdict.kind in self._excluded

    def unverified(self, rollout: Rollout, lease_id: str) -> Unverified:
        """What a verifier gets to see of a rollout."""
        return Unverified(
            rollout_id=rollout.id,
            lease_id=lease_id,
            problem_id=rollout.problem_id,
            text=rollout.text,
            gold=self._golds[rollout.problem_id],
            is_truncated=rollout.is_truncated,
            num_tokens=rollout.num_tokens,
        )

    # --- doing

    def add(self, member: Member) -> None:
        """A rollout was accepted."""
        self.waiting.append(member)

    def give(self, entry: Leased) -> None:
        """The first that wait are leased. Raises QueueError where the entry names others."""
        members = [self.waiting.popleft() for _ in entry.rollout_ids if self.waiting]
        if tuple(member.rollout_id for member in members) != entry.rollout_ids:
            raise QueueError(f"lease {entry.lease_id} names {entry.rollout_ids[:3]}..., which are not the first that wait")
        self.leases.grant(entry.lease_id, {member.rollout_id: member for member in members}, worker=entry.worker, now=self._ledger.clock())
        for member in members:
            member.lease_id = entry.lease_id
            self._ledger.slots.move(member, MemberState.VERIFYING)

    def judged(self, verdict: Verdict) -> None:
        """Take a verdict that trains."""
        member = self.leases.members(verdict.lease_id)[verdict.rollout_id]
        self.leases.settle(verdict.lease_id, verdict.rollout_id)
        self._ledger.tally.verdicts[verdict.kind.value] += 1
        member.verdict = verdict
        self._ledger.slots.move(member, MemberState.VERIFIED)
        self._ledger.book.settled(member.group)

    def forget(self, member: Member, verdict: Verdict | None) -> None:
        """A member is about to be dropped; verdict: the one that it is dropped for."""
        if verdict is not None:
            self._ledger.tally.verdicts[verdict.kind.value] += 1
        if member.state is MemberState.VERIFYING:
            self.leases.settle(member.lease_id, member.rollout_id)
        elif member.state is MemberState.GENERATED:
            self.waiting.remove(member)

    def end(self, entry: Ended) -> Sequence[Member]:
        """End a lease without its verdicts; returns the members that wait again, before all others."""
        members = self.leases.revoke(entry.lease_id)
        self._ledger.tally.leases_ended[f"verifying_{entry.cause}"] += bool(members)
        for member in reversed(members):
            member.lost_verifiers += entry.cause in LOSSES
            self._ledger.slots.move(member, MemberState.GENERATED)
            self.waiting.appendleft(member)
        return members

    def check(self) -> None:
        """Raises QueueError where other rollouts wait than the ledger says."""
        generated = self._ledger.slots.by_state[MemberState.GENERATED]
        if len(self.waiting) != generated:
            raise QueueError(f"{generated} members are generated, {len(self.waiting)} wait for a verifier")
