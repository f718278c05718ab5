"""The rollout queue: leases out, rollouts and verdicts in, whole batches to the learner.

Owns the slots and the staleness bound. Called by generators, verifiers and the learner; calls nobody. Knows no Ray, no torch, no tokenizer.
A slot is taken at the lease and given back when weights that trained its rollout are applied, or when the rollout is dropped or its lease ends
without it. Groups are opened and sampled oldest first, so whatever comes back finds a slot before anything younger does.
"""

import math
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Literal

from actors.queue_groups import HELD_STATES, Group, GroupBook, Member, MemberState, OneGroup, Planner
from actors.queue_leases import LeaseTable
from actors.queue_records import PutResult, QueueCounts, RefuseReason
from actors.queue_slots import Slots, Tally
from rlvr.errors import Closed, QueueError
from rlvr.records import Batch, DropReason, JudgedRollout, Lease, Rollout, Unverified, Verdict, VerdictKind, Version
from rlvr.seeds import derive_seed
from rlvr.staleness import oldest_allowed_step, staleness

Order = Literal["admission", "completion", "window"]

MAX_EXPIRIES = 8
"""Sampling leases of one member that may fail before the run ends: something is broken, and going on would be for ever."""
MAX_LOST_VERIFIERS = 3
"""Verifiers that one rollout may take with it before it counts as our fault and is excluded."""


class RolloutQueue:
    """The plain queue; one thread calls it. Every method but `counts`, `check`, `applied`, `lost`, `expire` and `close` raises Closed once closed."""

    def __init__(
        self,
        *,
        rollouts_per_step: int,
        max_staleness: int = 0,
        planner: Planner | None = None,
        prompts: Mapping[str, Sequence[int]] | None = None,
        golds: Mapping[str, str] | None = None,
        num_steps: int | None = None,
        lease_s: float = 600.0,
        verify_lease_s: float = 120.0,
        order: Order = "admission",
        window: int = 0,
        undecided: Literal["zero", "exclude"] = "zero",
        max_resamples: int = 2,
        resample_grace_s: float = 30.0,
        deterministic: bool = False,
        seed: int = 1,
        incarnation: int = 0,
        lineage: int = 0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """prompts: token ids by problem id; golds: gold answers by problem id. Without a planner each step is one group of one nameless problem.

        resample_grace_s: how long after the learner first asked for its step a group's excluded members are still sampled again; each at most
        `max_resamples` times. The clock has no say in deterministic mode.
        """
        if rollouts_per_step < 1 or max_staleness < 0:
            raise ValueError(f"rollouts_per_step {rollouts_per_step} must be >= 1 and max_staleness {max_staleness} >= 0")
        if deterministic and (max_staleness or order != "admission"):
            raise ValueError(f"deterministic mode needs max_staleness 0 and order admission, got {max_staleness} and {order}")
        self._max_staleness = max_staleness
        self._window = {"admission": 0.0, "completion": math.inf, "window": float(window)}[order]
        self._excluded = {kind for kind in VerdictKind if kind.is_ours or (kind is VerdictKind.UNDECIDED and undecided == "exclude")}
        self._max_resamples = max_resamples
        self._resample_grace_s = math.inf if deterministic else resample_grace_s
        self._deterministic = deterministic
        self._seed = seed
        self._lineage = lineage
        self._lease_s = lease_s
        self._num_steps = num_steps
        self._clock = clock
        nameless = OneGroup(rollouts_per_step)
        self._prompts = {nameless.problem_id: ()} if prompts is None else {problem: tuple(ids) for problem, ids in prompts.items()}
        self._golds = {nameless.problem_id: ""} if golds is None else dict(golds)
        self._book = GroupBook(planner or nameless, rollouts_per_step, num_steps)
        self._slots = Slots((max_staleness + 1) * rollouts_per_step)
        self._tally = Tally()
        self._sampling = LeaseTable("sampling", incarnation=incarnation, lease_s=lease_s)
        self._verifying = LeaseTable("verifying", incarnation=incarnation, lease_s=verify_lease_s)
        self._unverified: deque[Member] = deque()
        self._batches: dict[int, Batch] = {}
        self._step = 0
        self._asked_step = 0
        self._applied_step = 0
        self._is_closed = False

    # --- generators

    def lease(self, n: int, *, generator: str, applied: Version) -> Lease | None:
        """Up to n completions of the oldest group that wants some, for a generator that has applied `applied`; None where there is no work for it.

        There is none while all slots are taken, beyond the last step, or where that generator is too far behind. In deterministic mode all
        pending completions of the group, whatever n.
        """
        self._require_open()
        if n < 1:
            raise ValueError(f"a lease is of at least one completion, got {n}")
        self.applied(applied, generator=generator)
        group = self._book.next_to_sample() if self._slots.free else None
        if group is None and self._slots.free:
            self._open_step()
            group = self._book.next_to_sample()
        if group is None or applied.step < oldest_allowed_step(self._training_step(group), self._max_staleness):
            return None
        wanted = group.plan.size if self._deterministic else n
        return self._grant(group, self._book.take_pending(group, min(wanted, self._slots.free)), generator)

    def leases(self, n: int, *, generator: str, applied: Version) -> Sequence[Lease]:
        """Leases of up to n completions together, of several groups where one does not hold as many; the whole step in deterministic mode."""
        given: list[Lease] = []
        while n > 0 and (lease := self.lease(n, generator=generator, applied=applied)) is not None:
            given.append(lease)
            n -= 0 if self._deterministic else len(lease.rollout_ids)
        return given

    def put(self, rollouts: Iterable[Rollout]) -> Sequence[PutResult]:
        """Accept finished rollouts; whoever's lease is gone, or who does not fit it, is refused with the reason.

        Raises QueueError where a member's results keep being unfit: the generator is broken.
        """
        self._require_open()
        results = [PutResult(rollout.id, self._take_rollout(rollout)) for rollout in rollouts]
        self._tally.refused.update(result.refused for result in results if result.refused is not None)
        self._tally.check(self._slots.held)
        return results

    def hand_back(self, lease_id: str) -> int:
        """A generator will not finish this lease: what is left of it is sampled again. Returns how many completions that is."""
        self._require_open()
        return self._end_sampling(lease_id, "handed_back")

    def applied(self, version: Version, *, generator: str) -> None:
        """A generator samples from `version` now: the slots of its step and of all earlier ones come back.

        Raises QueueError where no batch of that step was ever handed out.
        """
        if version.step > self._step:
            raise QueueError(f"generator {generator} applied version {version}, but step {self._step} is the last one that was handed out")
        if version.step <= self._applied_step:
            return
        self._applied_step = version.step
        self._slots.release(version.step)
        for step in [step for step in self._batches if step < min(version.step, self._step)]:
            del self._batches[step]

    # --- verifiers

    def lease_unverified(self, n: int, *, verifier: str) -> Sequence[Unverified]:
        """Up to n answers for a verifier, under one lease; the oldest accepted ones first."""
        self._require_open()
        members = [self._unverified.popleft() for _ in range(min(n, len(self._unverified)))]
        if not members:
            return ()
        lease_id = self._verifying.grant({member.rollout_id: member for member in members}, worker=verifier, now=self._clock())
        for member in members:
            self._slots.move(member, MemberState.VERIFYING)
        return [_unverified(_accepted(member), lease_id, self._golds) for member in members]

    def put_verdicts(self, verdicts: Iterable[Verdict]) -> Sequence[PutResult]:
        """Take verdicts; a late one of a gone lease is refused. A rollout without a reward of its own is dropped and its place sampled again."""
        self._require_open()
        results = [PutResult(verdict.rollout_id, self._take_verdict(verdict)) for verdict in verdicts]
        self._tally.refused_verdicts.update(result.refused for result in results if result.refused is not None)
        self._tally.check(self._slots.held)
        return results

    # --- the learner

    def next_batch(self, step: int) -> Batch | None:
        """The batch of `step`, the same one however often it is asked for; None until its groups are complete.

        A batch is forgotten when weights of a later step are applied, the last one never. It may be empty, where everything was excluded as
        undecided or dropped as stale: a step without an update. Raises QueueError for a step that is not the next one nor remembered, and
        where every member was lost to faults of ours, which is no step but a broken verifier.
        """
        self._require_open()
        if step in self._batches:
            return self._batches[step]
        if step != self._step + 1 or (self._num_steps is not None and step > self._num_steps):
            raise QueueError(f"batch {step} was asked for; step {self._step} was the last, and the run has {self._num_steps or 'no last'} step(s)")
        self._mark_due(step)
        chosen = self._choose_fresh(step)
        return None if chosen is None else self._hand_out(step, chosen)

    # --- the clock and the controller

    def expire(self) -> int:
        """End the leases whose deadline has passed; returns how many members were given back. Raises QueueError where one keeps expiring."""
        now = self._clock()
        given_back = 0
        for lease_id in self._sampling.expired(now):
            given_back += self._end_sampling(lease_id, "expired")
        for lease_id in self._verifying.expired(now):
            given_back += self._end_verifying(lease_id, "expired")
        return given_back

    def lost(self, worker: str) -> int:
        """A generator or verifier is gone: all its leases end now. Returns how many members were given back."""
        sampling = sum(self._end_sampling(lease_id, "lost") for lease_id in self._sampling.of_worker(worker))
        return sampling + sum(self._end_verifying(lease_id, "lost") for lease_id in self._verifying.of_worker(worker))

    def close(self) -> None:
        """End: what is held is dropped as `shutdown`, so that the final counts add up with nothing held; every lease is gone."""
        self._is_closed = True
        self._sampling.clear()
        self._verifying.clear()
        self._unverified.clear()
        for member in self._members():
            if member.state in HELD_STATES:
                self._tally.drop(_accepted(member), DropReason.SHUTDOWN)
            self._slots.move(member, MemberState.CLOSED)
        self._book.untrained.clear()
        self.check()

    @property
    def is_closed(self) -> bool:
        return self._is_closed

    @property
    def step(self) -> int:
        """The last step whose batch was handed out."""
        return self._step

    def counts(self) -> QueueCounts:
        """Where everything is. Raises QueueError where it does not add up."""
        self._tally.check(self._slots.held)
        leases = {table.kind: table.issued for table in (self._sampling, self._verifying)}
        return self._tally.counts(self._slots, step=self._step, applied_step=self._applied_step, leases=leases)

    def check(self) -> None:
        """Recount everything from the members. Raises QueueError where the books differ from them."""
        self._tally.check(self._slots.held)
        self._slots.check(self._members())
        states = self._slots.by_state
        booked = {MemberState.LEASED: self._sampling, MemberState.VERIFYING: self._verifying}
        for state, table in booked.items():
            if table.outstanding() != states[state]:
                raise QueueError(f"{states[state]} members are {state}, {table.outstanding()} are under a lease")
        if len(self._unverified) != states[MemberState.GENERATED]:
            raise QueueError(f"{states[MemberState.GENERATED]} members are generated, {len(self._unverified)} wait for a verifier")
        self._book.check()

    # --- sampling

    def _open_step(self) -> None:
        for group in self._book.open_step():
            if group.plan.problem_id not in self._prompts or group.plan.problem_id not in self._golds:
                raise QueueError(f"step {group.step} plans problem {group.plan.problem_id!r}, which has no prompt or no gold answer here")
            group.due_since = self._clock() if group.step <= self._asked_step else None

    def _training_step(self, group: Group) -> int:
        """The step that will train a group, as far as that is known: never earlier than the next one."""
        return max(group.step, self._step + 1)

    def _grant(self, group: Group, members: Sequence[Member], generator: str) -> Lease:
        step = self._training_step(group)
        for member in members:
            member.step = step
            self._slots.move(member, MemberState.LEASED)
        by_id = {member.rollout_id: member for member in members}
        return Lease(
            id=self._sampling.grant(by_id, worker=generator, now=self._clock()),
            problem_id=group.plan.problem_id,
            group_id=group.plan.group_id,
            rollout_ids=tuple(by_id),
            prompt_ids=self._prompts[group.plan.problem_id],
            step=step,
            seeds=tuple(derive_seed(self._seed, "rollout", rollout_id) for rollout_id in by_id) if self._deterministic else None,
            deadline_s=self._lease_s,
        )

    def _take_rollout(self, rollout: Rollout) -> RefuseReason | None:
        found = self._sampling.find(rollout.lease_id, rollout.id)
        if isinstance(found, RefuseReason):
            return found
        self._sampling.settle(rollout.lease_id, rollout.id)
        reason = self._misfit(rollout, found)
        if reason is not None:
            self._sample_again(found)
            self._count_failure(found, f"came back unfit ({reason})")
            return reason
        found.rollout = rollout
        self._slots.move(found, MemberState.GENERATED)
        self._unverified.append(found)
        self._tally.accept(rollout)
        return None

    def _misfit(self, rollout: Rollout, member: Member) -> RefuseReason | None:
        plan = member.group.plan
        if (rollout.group_id, rollout.problem_id) != (plan.group_id, plan.problem_id):
            return RefuseReason.NOT_LEASED
        is_too_old = rollout.oldest_version.step < oldest_allowed_step(member.step, self._max_staleness)
        is_unmade = max(span.version.step for span in rollout.spans) > self._step
        return RefuseReason.SPANS if is_too_old or is_unmade else None

    def _sample_again(self, member: Member) -> None:
        self._slots.move(member, MemberState.PENDING)
        self._book.sample_again(member)

    def _end_sampling(self, lease_id: str, cause: str) -> int:
        members = self._sampling.revoke(lease_id)
        self._tally.leases_ended[f"sampling_{cause}"] += bool(members)
        for member in members:
            self._sample_again(member)
        for member in members if cause == "expired" else ():
            self._count_failure(member, f"was not back within lease_s = {self._lease_s} s")
        return len(members)

    def _count_failure(self, member: Member, what: str) -> None:
        member.failures += 1
        if member.failures >= MAX_EXPIRIES:
            raise QueueError(f"rollout {member.rollout_id} {what}, for the {member.failures}th time: raise queue.lease_s or mend the generators")

    # --- verifying

    def _take_verdict(self, verdict: Verdict) -> RefuseReason | None:
        found = self._verifying.find(verdict.lease_id, verdict.rollout_id)
        if isinstance(found, RefuseReason):
            return found
        self._verifying.settle(verdict.lease_id, verdict.rollout_id)
        self._tally.verdicts[verdict.kind.value] += 1
        if verdict.kind in self._excluded:
            self._drop(found, DropReason.EXCLUDED, is_ours=verdict.kind.is_ours)
        else:
            found.verdict = verdict
            self._slots.move(found, MemberState.VERIFIED)
            self._book.settled(found.group)
        return None

    def _end_verifying(self, lease_id: str, cause: str) -> int:
        members = self._verifying.revoke(lease_id)
        self._tally.leases_ended[f"verifying_{cause}"] += bool(members)
        for member in reversed(members):
            member.lost_verifiers += 1
            if member.lost_verifiers >= MAX_LOST_VERIFIERS:
                self._drop(member, DropReason.EXCLUDED, is_ours=True)
            else:
                self._slots.move(member, MemberState.GENERATED)
                self._unverified.appendleft(member)
        return len(members)

    def _drop(self, member: Member, reason: DropReason, *, is_ours: bool) -> None:
        """Drop an accepted rollout that is not verified; sample its place again while that is worth the wait, else the group is smaller."""
        self._tally.drop(_accepted(member), reason)
        due_since = member.group.due_since
        is_young = due_since is None or self._clock() - due_since <= self._resample_grace_s
        if is_young and member.resamples < self._max_resamples:
            member.resamples += 1
            self._tally.resampled += 1
            self._sample_again(member)
        else:
            member.rollout, member.is_ours = None, is_ours
            self._tally.closed_members += 1
            self._slots.move(member, MemberState.CLOSED)
            self._book.settled(member.group)

    # --- batches

    def _mark_due(self, step: int) -> None:
        """The learner asks for `step`: from the first time on its groups, and older ones, are due."""
        if step == self._asked_step:
            return
        self._asked_step = step
        for group in self._book.untrained.values():
            if group.step <= step and group.due_since is None:
                group.due_since = self._clock()

    def _choose_fresh(self, step: int) -> Sequence[Group] | None:
        """The complete groups of a batch, without a rollout that would exceed the bound: such a one is dropped first."""
        while (chosen := self._book.choose(step, self._window)) is not None:
            verified = [member for group in chosen for member in group.members if member.state is MemberState.VERIFIED]
            stale = [member for member in verified if staleness(step, _accepted(member).oldest_version) > self._max_staleness]
            if not stale:
                return chosen
            for member in stale:
                self._book.unsettle(member.group)
                self._drop(member, DropReason.STALE, is_ours=False)
        return None

    def _hand_out(self, step: int, chosen: Sequence[Group]) -> Batch:
        places = [member for group in chosen for member in group.members]
        if all(member.state is MemberState.CLOSED and member.is_ours for member in places):
            raise QueueError(f"all {len(places)} rollouts of step {step} were lost to faults of the verifiers (timeout, sandbox): see their log")
        members = sorted((member for member in places if member.state is MemberState.VERIFIED), key=lambda member: member.rollout_id)
        batch = Batch(
            step=step,
            lineage=self._lineage,
            rollouts=tuple(_judged(member) for member in members),
            prompts={member.group.plan.problem_id: self._prompts[member.group.plan.problem_id] for member in members},
            short=len(places) - len(members),
        )
        self._book.train(step, chosen)
        self._slots.train(step, members)
        self._tally.consume(step, batch.rollouts)
        self._tally.short_groups += sum(any(member.state is MemberState.CLOSED for member in group.members) for group in chosen)
        self._step = step
        self._batches[step] = batch
        self._tally.check(self._slots.held)
        return batch

    def _members(self) -> Iterable[Member]:
        return (member for group in self._book.untrained.values() for member in group.members)

    def _require_open(self) -> None:
        if self._is_closed:
            raise Closed("the rollout queue is closed")


def _accepted(member: Member) -> Rollout:
    assert member.rollout is not None, f"{member.rollout_id} is {member.state} without a rollout"
    return member.rollout


def _judged(member: Member) -> JudgedRollout:
    assert member.verdict is not None, f"{member.rollout_id} is {member.state} without a verdict"
    return JudgedRollout(rollout=_accepted(member), verdict=member.verdict)


def _unverified(rollout: Rollout, lease_id: str, golds: Mapping[str, str]) -> Unverified:
    return Unverified(
        rollout_id=rollout.id,
        lease_id=lease_id,
        problem_id=rollout.problem_id,
        text=rollout.text,
        gold=golds[rollout.problem_id],
        is_truncated=rollout.is_truncated,
        num_tokens=rollout.num_tokens,
    )
