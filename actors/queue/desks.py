"""The queue's two desks: sampling work goes out and rollouts come in at one, answers go out and verdicts come in at the other.

Own the leases, and what a result must look like to be accepted. Called by the rollout queue, which decides who gets work; knows no batches.
"""

from collections import deque
from collections.abc import Collection, Mapping, Sequence

from actors.queue.groups import Member, MemberState
from actors.queue.leases import LeaseTable
from actors.queue.ledger import Ledger
from actors.queue.records import RefuseReason
from rlvr.errors import QueueError
from rlvr.records import DropReason, Rollout, Unverified, Verdict, VerdictKind
from rlvr.staleness import oldest_allowed_step

MAX_FAILURES = 8
"""Sampling leases of one place that may expire or come back unfit before the run ends: it would go on for ever."""
MAX_LOST_VERIFIERS = 3
"""Verifiers that one rollout may take with it before that counts as our fault and it is excluded."""


class SamplingDesk:
    """Leases of completions to generators."""

    def __init__(self, ledger: Ledger, *, incarnation: int, lease_s: float, max_staleness: int) -> None:
        self._ledger = ledger
        self._lease_s = lease_s
        self._max_staleness = max_staleness
        self.leases = LeaseTable("sampling", incarnation=incarnation, lease_s=lease_s)

    def give(self, members: Sequence[Member], *, step: int, worker: str) -> str:
        """Lease members that `step` will train; returns the lease's id."""
        for member in members:
            member.step = step
            self._ledger.slots.move(member, MemberState.LEASED)
        return self.leases.grant({member.rollout_id: member for member in members}, worker=worker, now=self._ledger.clock())

    def take(self, rollout: Rollout, *, made_step: int) -> Member | RefuseReason:
        """The member that this rollout is now accepted for, or why it is refused. Versions after `made_step` do not exist.

        A result that does not fit its lease sends its place back to be sampled again. Raises QueueError where that goes on and on.
        """
        found = self.leases.find(rollout.lease_id, rollout.id)
        if isinstance(found, RefuseReason):
            return found
        self.leases.settle(rollout.lease_id, rollout.id)
        reason = self._misfit(rollout, found, made_step)
        if reason is not None:
            self._ledger.sample_again(found)
            _count_failure(found, f"came back unfit ({reason})")
            return reason
        found.rollout, found.accepted_at = rollout, self._ledger.clock()
        self._ledger.slots.move(found, MemberState.GENERATED)
        self._ledger.tally.accept(rollout)
        return found

    def end(self, lease_id: str, cause: str) -> int:
        """End a lease without its work; returns how many members are sampled again."""
        members = self.leases.revoke(lease_id)
        self._ledger.tally.leases_ended[f"sampling_{cause}"] += bool(members)
        for member in members:
            self._ledger.sample_again(member)
        for member in members if cause == "expired" else ():
            _count_failure(member, f"was not back within lease_s = {self._lease_s} s")
        return len(members)

    def _misfit(self, rollout: Rollout, member: Member, made_step: int) -> RefuseReason | None:
        plan = member.group.plan
        if (rollout.group_id, rollout.problem_id) != (plan.group_id, plan.problem_id):
            return RefuseReason.NOT_LEASED
        is_too_old = rollout.oldest_version.step < oldest_allowed_step(member.step, self._max_staleness)
        is_unmade = max(span.version.step for span in rollout.spans) > made_step
        return RefuseReason.SPANS if is_too_old or is_unmade else None


class VerifyingDesk:
    """Leases of answers to verifiers, the oldest accepted ones first."""

    def __init__(self, ledger: Ledger, *, incarnation: int, lease_s: float, golds: Mapping[str, str], excluded: Collection[VerdictKind]) -> None:
        self._ledger = ledger
        self._golds = golds
        self._excluded = excluded
        self._waiting: deque[Member] = deque()
        self.leases = LeaseTable("verifying", incarnation=incarnation, lease_s=lease_s)

    def add(self, member: Member) -> None:
        """A rollout was accepted."""
        self._waiting.append(member)

    def give(self, n: int, *, worker: str) -> Sequence[Unverified]:
        """Up to n answers under one lease."""
        members = [self._waiting.popleft() for _ in range(min(n, len(self._waiting)))]
        if not members:
            return ()
        lease_id = self.leases.grant({member.rollout_id: member for member in members}, worker=worker, now=self._ledger.clock())
        for member in members:
            self._ledger.slots.move(member, MemberState.VERIFYING)
        return [self._unverified(member.accepted, lease_id) for member in members]

    def take(self, verdict: Verdict) -> RefuseReason | None:
        """Take a verdict, or say why it is refused; a rollout whose verdict cannot train is dropped."""
        found = self.leases.find(verdict.lease_id, verdict.rollout_id)
        if isinstance(found, RefuseReason):
            return found
        self.leases.settle(verdict.lease_id, verdict.rollout_id)
        self._ledger.tally.verdicts[verdict.kind.value] += 1
        if verdict.kind in self._excluded:
            self._ledger.drop(found, DropReason.EXCLUDED, is_ours=verdict.kind.is_ours)
        else:
            found.verdict = verdict
            self._ledger.slots.move(found, MemberState.VERIFIED)
            self._ledger.book.settled(found.group)
        return None

    def end(self, lease_id: str, cause: str) -> int:
        """End a lease without its verdicts; returns how many answers wait again, before all others."""
        members = self.leases.revoke(lease_id)
        self._ledger.tally.leases_ended[f"verifying_{cause}"] += bool(members)
        for member in reversed(members):
            member.lost_verifiers += 1
            if member.lost_verifiers >= MAX_LOST_VERIFIERS:
                self._ledger.drop(member, DropReason.EXCLUDED, is_ours=True)
            else:
                self._ledger.slots.move(member, MemberState.GENERATED)
                self._waiting.appendleft(member)
        return len(members)

    def clear(self) -> None:
        """Nobody will verify any more."""
        self._waiting.clear()
        self.leases.clear()

    def check(self) -> None:
        """Raises QueueError where other rollouts wait than the ledger says."""
        generated = self._ledger.slots.by_state[MemberState.GENERATED]
        if len(self._waiting) != generated:
            raise QueueError(f"{generated} members are generated, {len(self._waiting)} wait for a verifier")

    def _unverified(self, rollout: Rollout, lease_id: str) -> Unverified:
        return Unverified(
            rollout_id=rollout.id,
            lease_id=lease_id,
            problem_id=rollout.problem_id,
            text=rollout.text,
            gold=self._golds[rollout.problem_id],
            is_truncated=rollout.is_truncated,
            num_tokens=rollout.num_tokens,
        )


def _count_failure(member: Member, what: str) -> None:
    member.failures += 1
    if member.failures >= MAX_FAILURES:
        raise QueueError(f"rollout {member.rollout_id} {what}, time {member.failures} for its place: raise queue.lease_s or mend the generators")
