"""The rollout queue: leases out, rollouts and verdicts in, whole batches to the learner.

Owns the slots and the staleness bound. Called by generators, verifiers and the learner; calls nobody. Knows no Ray, no torch, no tokenizer.
A slot is taken at the lease and given back when weights that trained its rollout are applied, or when the rollout is dropped or its lease ends
without it. Groups are opened and sampled oldest first, so whatever comes back finds a slot before anything younger does.
"""

import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Literal

from actors.queue.desks import SamplingDesk, VerifyingDesk
from actors.queue.groups import HELD_STATES, Group, GroupBook, Member, MemberState, OneGroup, Planner
from actors.queue.ledger import Ledger
from actors.queue.records import PutResult, QueueCounts, RefuseReason
from actors.queue.slots import Slots
from rlvr.errors import Closed, QueueError
from rlvr.records import Batch, DropReason, Lease, Rollout, Unverified, Verdict, VerdictKind, Version
from rlvr.seeds import derive_seed
from rlvr.staleness import oldest_allowed_step, staleness

Order = Literal["admission", "completion", "window"]


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
        self._deterministic = deterministic
        self._seed = seed
        self._lineage = lineage
        self._lease_s = lease_s
        self._num_steps = num_steps
        nameless = OneGroup(rollouts_per_step)
        self._prompts = {nameless.problem_id: ()} if prompts is None else {problem: tuple(ids) for problem, ids in prompts.items()}
        self._golds = {nameless.problem_id: ""} if golds is None else dict(golds)
        self._book = GroupBook(planner or nameless, rollouts_per_step, num_steps)
        self._slots = Slots((max_staleness + 1) * rollouts_per_step)
        grace_s = math.inf if deterministic else resample_grace_s
        self._ledger = Ledger(self._book, self._slots, max_resamples=max_resamples, resample_grace_s=grace_s, clock=clock)
        self._tally = self._ledger.tally
        self._sampling = SamplingDesk(self._ledger, incarnation=incarnation, lease_s=lease_s, max_staleness=max_staleness)
        excluded = {kind for kind in VerdictKind if kind.is_ours or (kind is VerdictKind.UNDECIDED and undecided == "exclude")}
        self._verifying = VerifyingDesk(self._ledger, incarnation=incarnation, lease_s=verify_lease_s, golds=self._golds, excluded=excluded)
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
        return self._give(group, self._book.take_pending(group, min(wanted, self._slots.free)), generator)

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
        results = [PutResult(rollout.id, self._take(rollout)) for rollout in rollouts]
        self._tally.refused.update(result.refused for result in results if result.refused is not None)
        self._tally.check(self._slots.held)
        return results

    def hand_back(self, lease_id: str) -> int:
        """A generator will not finish this lease: what is left of it is sampled again. Returns how many completions that is."""
        self._require_open()
        return self._sampling.end(lease_id, "handed_back")

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
        return self._verifying.give(n, worker=verifier)

    def put_verdicts(self, verdicts: Iterable[Verdict]) -> Sequence[PutResult]:
        """Take verdicts; a late one of a gone lease is refused. A rollout without a reward of its own is dropped and its place sampled again."""
        self._require_open()
        results = [PutResult(verdict.rollout_id, self._verifying.take(verdict)) for verdict in verdicts]
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
        if step > self._asked_step:
            self._asked_step = step
            self._ledger.mark_due(step)
        chosen = self._choose_fresh(step)
        return None if chosen is None else self._hand_out(step, chosen)

    # --- the clock and the controller

    def expire(self) -> int:
        """End the leases whose deadline has passed; returns how many members were given back. Raises QueueError where one keeps expiring."""
        now = self._ledger.clock()
        sampling = sum(self._sampling.end(lease_id, "expired") for lease_id in self._sampling.leases.expired(now))
        return sampling + sum(self._verifying.end(lease_id, "expired") for lease_id in self._verifying.leases.expired(now))

    def lost(self, worker: str) -> int:
        """A generator or verifier is gone: all its leases end now. Returns how many members were given back."""
        sampling = sum(self._sampling.end(lease_id, "lost") for lease_id in self._sampling.leases.of_worker(worker))
        return sampling + sum(self._verifying.end(lease_id, "lost") for lease_id in self._verifying.leases.of_worker(worker))

    def close(self) -> None:
        """End: what is held is dropped as `shutdown`, so that the final counts add up with nothing held; every lease is gone."""
        self._is_closed = True
        self._sampling.leases.clear()
        self._verifying.clear()
        self._ledger.close()
        self.check()

    @property
    def is_closed(self) -> bool:
        return self._is_closed

    @property
    def step(self) -> int:
        """The last step whose batch was handed out."""
        return self._step

    def oldest_held_s(self) -> float:
        """Age of the oldest rollout that is accepted, and neither trained nor dropped; 0 where there is none."""
        held_since = [member.accepted_at for member in self._ledger.members() if member.state in HELD_STATES]
        return self._ledger.clock() - min(held_since) if held_since else 0.0

    def counts(self) -> QueueCounts:
        """Where everything is. Raises QueueError where it does not add up."""
        self._tally.check(self._slots.held)
        leases = {table.kind: table.issued for table in (self._sampling.leases, self._verifying.leases)}
        return self._tally.counts(self._slots, step=self._step, applied_step=self._applied_step, leases=leases)

    def check(self) -> None:
        """Recount everything from the members. Raises QueueError where the books differ from them."""
        self._ledger.check()
        self._verifying.check()
        for state, leases in ((MemberState.LEASED, self._sampling.leases), (MemberState.VERIFYING, self._verifying.leases)):
            if leases.outstanding() != self._slots.by_state[state]:
                raise QueueError(f"{self._slots.by_state[state]} members are {state}, {leases.outstanding()} are under a lease")

    # --- inside

    def _open_step(self) -> None:
        groups = self._book.open_step()
        if self._window and len({group.plan.size for group in groups}) > 1:
            raise QueueError(f"queue.order other than admission needs groups of one size, step {groups[0].step} has {[g.plan.size for g in groups]}")
        for group in groups:
            if group.plan.problem_id not in self._prompts or group.plan.problem_id not in self._golds:
                raise QueueError(f"step {group.step} plans problem {group.plan.problem_id!r}, which has no prompt or no gold answer here")
        self._ledger.mark_due(self._asked_step)

    def _training_step(self, group: Group) -> int:
        """The step that will train a group, as far as that is known: never earlier than the next one."""
        return max(group.step, self._step + 1)

    def _give(self, group: Group, members: Sequence[Member], generator: str) -> Lease:
        step = self._training_step(group)
        rollout_ids = tuple(member.rollout_id for member in members)
        return Lease(
            id=self._sampling.give(members, step=step, worker=generator),
            problem_id=group.plan.problem_id,
            group_id=group.plan.group_id,
            rollout_ids=rollout_ids,
            prompt_ids=self._prompts[group.plan.problem_id],
            step=step,
            seeds=tuple(derive_seed(self._seed, "rollout", rollout_id) for rollout_id in rollout_ids) if self._deterministic else None,
            deadline_s=self._lease_s,
        )

    def _take(self, rollout: Rollout) -> RefuseReason | None:
        taken = self._sampling.take(rollout, made_step=self._step)
        if isinstance(taken, RefuseReason):
            return taken
        self._verifying.add(taken)
        return None

    def _choose_fresh(self, step: int) -> Sequence[Group] | None:
        """The complete groups of a batch, without a rollout that would exceed the bound: such a one is dropped first."""
        while (chosen := self._book.choose(step, self._window)) is not None:
            verified = [member for group in chosen for member in group.members if member.state is MemberState.VERIFIED]
            stale = [member for member in verified if staleness(step, member.accepted.oldest_version) > self._max_staleness]
            if not stale:
                return chosen
            for member in stale:
                self._book.unsettle(member.group)
                self._ledger.drop(member, DropReason.STALE, is_ours=False)
        return None

    def _hand_out(self, step: int, chosen: Sequence[Group]) -> Batch:
        places = [member for group in chosen for member in group.members]
        if all(member.state is MemberState.CLOSED and member.is_ours for member in places):
            raise QueueError(f"all {len(places)} rollouts of step {step} were lost to faults of the verifiers (timeout, sandbox): see their log")
        members = sorted((member for member in places if member.state is MemberState.VERIFIED), key=lambda member: member.rollout_id)
        batch = Batch(
            step=step,
            lineage=self._lineage,
            rollouts=tuple(member.judged for member in members),
            prompts={member.group.plan.problem_id: self._prompts[member.group.plan.problem_id] for member in members},
            short=len(places) - len(members),
        )
        self._book.train(step, chosen)
        self._slots.train(step, members)
        self._tally.consume(step, batch.rollouts)
        self._tally.short_groups += sum(any(member.state is MemberState.CLOSED for member in group.members) for group in chosen)
        self._tally.short_members += batch.short
        self._step = step
        self._batches[step] = batch
        self._tally.check(self._slots.held)
        return batch

    def _require_open(self) -> None:
        if self._is_closed:
            raise Closed("the rollout queue is closed")
