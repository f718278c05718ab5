"""The rollout queue: leases out, rollouts and verdicts in, whole batches to the learner.

Owns the slots and the staleness bound. Called by generators, verifiers and the learner; calls nobody. Knows no Ray, no torch, no tokenizer.
A slot is taken at the lease and given back when weights that trained its rollout are applied, or when the rollout is dropped or its lease ends
without it. Groups are opened and sampled oldest first, so whatever comes back finds a slot before anything younger does.
Each method decides, makes the entry that says what happens, and lets `state` do it, which a replay gives the same entries again. Publication
frees slots, only `commit` makes batches final: after a roll-back those since the checkpoint are handed out again, the same ones.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence

from msgspec import structs

from actors.journal import entries
from actors.queue.admission import Admission
from actors.queue.batches import BatchBook, handed_out, stale_members
from actors.queue.desks import MAX_LOST_VERIFIERS, SAMPLING, VERIFYING, SamplingDesk, VerifyingDesk
from actors.queue.groups import Group, GroupBook, Member
from actors.queue.ledger import Ledger
from actors.queue.records import LeaseStatus, PutResult, QueueCounts, RefuseReason
from actors.queue.settings import QueueSettings
from actors.queue.slots import Slots
from actors.queue.state import QueueState
from rlvr.errors import Closed
from rlvr.records import Batch, DropReason, JudgedRollout, Lease, Partial, PartialFate, Rollout, Unverified, Verdict, Version


class RolloutQueue:
    """The plain queue; one thread calls it. Every method but `counts`, `check`, `applied`, `lost`, `expire`, `close` and those of the replay raises
    Closed once closed.
    """

    def __init__(
        self, settings: QueueSettings, *, clock: Callable[[], float] = time.monotonic, record: Callable[[entries.Change], None] = lambda _: None
    ) -> None:
        """record: takes each change, in order; at a replay it is not called."""
        self._settings, self._record, self._prompts, self._is_closed = settings, record, settings.prompt_ids, False
        self._book = GroupBook(settings.plan, settings.rollouts_per_step, settings.num_steps)
        self._slots = Slots(settings.num_slots)
        self._ledger = Ledger(self._book, self._slots, max_resamples=settings.max_resamples, resample_grace_s=settings.grace_s, clock=clock)
        self._sampling = SamplingDesk(self._ledger, incarnation=settings.incarnation, lease_s=settings.lease_s, max_staleness=settings.max_staleness)
        self._verifying = VerifyingDesk(
            self._ledger,
            incarnation=settings.incarnation,
            lease_s=settings.verify_lease_s,
            golds=settings.gold_answers,
            excluded=settings.excluded,
        )
        self._batches = BatchBook(lineage=settings.lineage, is_forgetful=settings.is_forgetful)
        self._admission = Admission(settings, ledger=self._ledger, batches=self._batches, sampling=self._sampling)
        self._tables = {SAMPLING: self._sampling.leases, VERIFYING: self._verifying.leases}
        self.state = QueueState(
            ledger=self._ledger, sampling=self._sampling, verifying=self._verifying, batches=self._batches, open_step=self._admission.open_step
        )

    # --- generators

    def lease(self, n: int, *, generator: str, applied: Version) -> Lease | None:
        """Up to n completions of one group, for a generator that has applied `applied`; None where there is no work for it.

        What a generator that left had begun comes first, else the oldest group that wants some. There is none while all slots are taken, beyond
        the last step, while batches are handed out again, or where that generator is too far behind. In deterministic mode all pending completions
        of the group, whatever n.
        """
        self._require_open()
        if n < 1:
            raise ValueError(f"a lease is of at least one completion, got {n}")
        self.applied(applied, generator=generator)
        entry = self._admission.next_lease(n, worker=generator, applied=applied)
        if entry is None:
            return None
        self._do(entry)
        return self._admission.lease_of(entry)

    def leases(self, n: int, *, generator: str, applied: Version) -> Sequence[Lease]:
        """Leases of up to n completions together, of several groups where one does not hold as many; the whole step in deterministic mode."""
        given: list[Lease] = []
        while n > 0 and (lease := self.lease(n, generator=generator, applied=applied)) is not None:
            given.append(lease)
            n -= 0 if self._settings.deterministic else len(lease.rollout_ids)
        return given

    def put(self, rollouts: Iterable[Rollout]) -> Sequence[PutResult]:
        """Accept finished rollouts; whoever's lease is gone, or who does not fit it, is refused with the reason.

        Raises QueueError where a member's results keep being unfit: the generator is broken.
        """
        self._require_open()
        return self._results("rollout", [PutResult(rollout.id, self._take(rollout)) for rollout in rollouts])

    def hand_back(self, lease_id: str, partials: Sequence[Partial] = ()) -> int:
        """A generator will not finish this lease: what is left of it is done by others. Returns how many completions that is.

        partials: what it has of them; each is continued by whoever samples its place next, unless it would be too old to train by then.
        """
        self._require_open()
        fates = [(partial, self._admission.fate(partial, lease_id)) for partial in partials]
        kept = tuple(partial for partial, fate in fates if fate is PartialFate.CONTINUED)
        discarded = Counter(fate.value for _, fate in fates if fate is not PartialFate.CONTINUED)
        return len(self._end(SAMPLING, lease_id, "handed_back", partials=kept, discarded=discarded))

    def applied(self, version: Version, *, generator: str) -> None:
        """A generator samples from `version` now: the slots of its step and of all earlier ones come back, if it is of the present lineage.

        Raises QueueError where no batch of that step was ever handed out.
        """
        self._admission.require_made(version, generator=generator)
        is_newer = version.lineage == self._batches.lineage and version.step > self.state.applied_step
        if is_newer and not self._is_closed:
            self._do(entries.Applied(lineage=version.lineage, step=version.step, generator=generator))

    # --- verifiers

    def lease_unverified(self, n: int, *, verifier: str) -> Sequence[Unverified]:
        """Up to n answers for a verifier, under one lease; the oldest accepted ones first."""
        self._require_open()
        rollouts = [member.accepted for member in self._verifying.next_waiting(n)]
        if not rollouts:
            return ()
        lease_id = self._verifying.leases.next_id()
        self._do(entries.Leased(kind=VERIFYING, lease_id=lease_id, worker=verifier, step=0, rollout_ids=tuple(rollout.id for rollout in rollouts)))
        return [self._verifying.unverified(rollout, lease_id) for rollout in rollouts]

    def put_verdicts(self, verdicts: Iterable[Verdict]) -> Sequence[PutResult]:
        """Take verdicts; a late one of a gone lease is refused. A rollout without a reward of its own is dropped and its place sampled again."""
        self._require_open()
        return self._results("verdict", [PutResult(verdict.rollout_id, self._judge(verdict)) for verdict in verdicts])

    # --- the learner

    def next_batch(self, step: int, *, lineage: int | None = None) -> Batch | None:
        """The batch of `step`, the same one however often it is asked for; None until its groups are complete.

        It is remembered until it is committed. It may be empty, where everything was excluded as undecided or dropped as stale: a step without an
        update. Raises QueueError for a step that is not the next one nor remembered, for another lineage than the present one (None: any), where its
        rollouts are `absent`, and where every member was lost to faults of ours, which is no step but a broken verifier.
        """
        self._require_open()
        batches = self._batches
        batches.require_next(step, lineage=lineage, num_steps=self._settings.num_steps)
        if batches.is_out(step):
            return batches.batch(step, self._prompts)
        if step > batches.reached:
            chosen = self._choose(step)
            if chosen is None:
                return None
            self._do(handed_out(chosen, step=step, lineage=batches.lineage))
        else:
            batch = batches.batch(step, self._prompts)  # before its slots are taken: it may be absent
            self._do(structs.replace(batches.out[step], lineage=batch.lineage))
        return batches.batch(step, self._prompts)

    def absent(self, step: int) -> Sequence[str]:
        """Ids of the rollouts that must be `recalled` before this batch is handed out again; none where all are here."""
        return self._batches.absent(step)

    def recalled(self, step: int, rollouts: Sequence[JudgedRollout]) -> None:
        """The rollouts of an old batch, in its order."""
        if step in self._batches.out:
            self._batches.recalled(step, rollouts)

    def commit(self, step: int) -> None:
        """Every checkpoint that is kept covers the batches up to `step`: they are forgotten. Raises QueueError for a step beyond the last one."""
        self._require_open()
        self._batches.require_commit(step)
        if step > self._batches.committed:
            self._do(entries.Committed(step=step))

    def roll_back(self, step: int) -> int:
        """The weights are those of the checkpoint of `step` again; returns the new lineage, in which later batches are handed out once more.

        Leases stay valid and what is held stays held: it trains when the batches that were handed out before were so again.
        Raises QueueError for a step that is committed away, or that was never reached.
        """
        self._require_open()
        self._batches.require_roll_back(step)
        self._do(entries.RolledBack(step=step, lineage=self._batches.lineage + 1))
        return self._batches.lineage

    # --- the clock and the controller

    def expire(self) -> int:
        """End the leases whose deadline has passed; returns how many members were given back. Raises QueueError where one keeps expiring."""
        now = self._ledger.clock()
        late = [member for lease_id in self._sampling.leases.expired(now) for member in self._end(SAMPLING, lease_id, "expired")]
        verifying = [member for lease_id in self._verifying.leases.expired(now) for member in self._end(VERIFYING, lease_id, "expired")]
        self._sampling.count_failures(late, self._sampling.not_back())
        return len(late) + len(verifying)

    def lost(self, worker: str, *, but: Sequence[str] = ()) -> int:
        """A generator or verifier is gone: all its leases end now. Returns how many members were given back.

        but: leases that it does have; the others never reached it.
        """
        return sum(
            len(self._end(kind, lease_id, "lost"))
            for kind, table in self._tables.items()
            for lease_id in table.of_worker(worker)
            if lease_id not in but
        )

    def close(self, *, is_finished: bool = True) -> None:
        """End: every lease is gone. What is held is dropped as `shutdown` where the run is finished, so that its final counts hold nothing; else it
        stays, for a resume.
        """
        if self._is_closed:
            return
        self._is_closed = True
        self._end_all("closed")
        for member in self._ledger.held() if is_finished else ():
            self._drop(member, DropReason.SHUTDOWN, is_resampled=False)
        self._do(entries.Ending(is_finished=is_finished))
        self.check()

    # --- after a crash

    def begin_again(self) -> None:
        """After a replay of `state`: in deterministic mode an incomplete step is sampled again whole, under other ids and with the same seeds."""
        if not self._settings.deterministic:
            return
        self._end_all("restart")
        for step in sorted({group.step for group in self._book.untrained.values() if group.unsettled}):
            for member in [member for member in self._ledger.held() if member.group.step == step]:
                self._drop(member, DropReason.INCOMPLETE, is_resampled=True)
            self._do(entries.BegunAgain(step=step))

    # --- what it knows

    @property
    def is_closed(self) -> bool:
        return self._is_closed

    @property
    def step(self) -> int:
        """The last step whose batch was handed out in this lineage."""
        return self._batches.step

    @property
    def reached(self) -> int:
        """The last step whose batch was ever handed out."""
        return self._batches.reached

    @property
    def lineage(self) -> int:
        return self._batches.lineage

    def lease_status(self) -> Sequence[LeaseStatus]:
        """All live leases."""
        now = self._ledger.clock()
        return [lease for table in self._tables.values() for lease in table.status(now)]

    def oldest_held_s(self) -> float:
        """Age of the oldest rollout that is accepted, and neither trained nor dropped; 0 where there is none."""
        held_since = [member.accepted_at for member in self._ledger.held()]
        return self._ledger.clock() - min(held_since) if held_since else 0.0

    def counts(self) -> QueueCounts:
        """Where everything is. Raises QueueError where it does not add up."""
        self._ledger.tally.check(self._slots.held)
        leases = {kind: table.issued for kind, table in self._tables.items()}
        return self._ledger.tally.counts(self._slots, step=self.step, applied_step=self.state.applied_step, lineage=self.lineage, leases=leases)

    def check(self) -> None:
        """Recount everything from the members. Raises QueueError where the books differ from them."""
        self.state.check()

    # --- inside

    def _do(self, change: entries.Change) -> None:
        self.state.do(change)
        self._record(change)
        self._ledger.tally.check(self._slots.held)

    def _take(self, rollout: Rollout) -> RefuseReason | None:
        found = self._sampling.leases.find(rollout.lease_id, rollout.id)
        if isinstance(found, RefuseReason):
            return found
        reason = self._sampling.misfit(rollout, found, is_made=self._admission.is_made)
        if reason is None:
            self._do(entries.Accepted(rollout=rollout))
        else:
            self._do(entries.Unfit(lease_id=rollout.lease_id, rollout_id=rollout.id, reason=reason.value))
            self._sampling.count_failures([found], f"came back unfit ({reason})")
        return reason

    def _judge(self, verdict: Verdict) -> RefuseReason | None:
        found = self._verifying.leases.find(verdict.lease_id, verdict.rollout_id)
        if isinstance(found, RefuseReason):
            return found
        if self._verifying.is_excluded(verdict):
            self._drop(found, DropReason.EXCLUDED, verdict=verdict, is_ours=verdict.kind.is_ours)
        else:
            self._do(entries.Judged(verdict=verdict))
        return None

    def _drop(
        self, member: Member, reason: DropReason, *, is_ours: bool = False, is_resampled: bool | None = None, verdict: Verdict | None = None
    ) -> None:
        """is_resampled: None where that is decided by the member's age and its resamples."""
        again = self._ledger.is_worth_another(member) if is_resampled is None else is_resampled
        id_, num_tokens = member.rollout_id, member.accepted.num_tokens
        self._do(entries.Dropped(rollout_id=id_, reason=reason, is_resampled=again, is_ours=is_ours, num_tokens=num_tokens, verdict=verdict))

    def _end(
        self, kind: str, lease_id: str, cause: str, *, partials: tuple[Partial, ...] = (), discarded: Mapping[str, int] | None = None
    ) -> Sequence[Member]:
        """End a lease without its work; returns the members that others work on. An answer that takes its verifiers with it is dropped."""
        members = list(self._tables[kind].members(lease_id).values())
        if members:
            self._do(entries.Ended(kind=kind, lease_id=lease_id, cause=cause, partials=partials, discarded=dict(discarded or {})))
        for member in [member for member in members if member.lost_verifiers >= MAX_LOST_VERIFIERS]:
            self._drop(member, DropReason.EXCLUDED, is_ours=True)
        return members

    def _end_all(self, cause: str) -> None:
        for kind, table in self._tables.items():
            for lease_id in table.live():
                self._end(kind, lease_id, cause)

    def _results(self, kind: str, results: Sequence[PutResult]) -> Sequence[PutResult]:
        refused = Counter(result.refused.value for result in results if result.refused is not None)
        if refused:
            self._do(entries.Refused(kind=kind, counts=dict(refused)))
        return results

    def _choose(self, step: int) -> Sequence[Group] | None:
        """The complete groups of a batch, without a rollout that would exceed the bound: such a one is dropped first."""
        if step > self._ledger.asked_step:
            self._ledger.mark_due(step)
        while (chosen := self._book.choose(step, self._settings.num_may_pass)) is not None:
            stale = stale_members(chosen, step, max_staleness=self._settings.max_staleness)
            if not stale:
                return chosen
            for member in stale:
                self._drop(member, DropReason.STALE)
        return None

    def _require_open(self) -> None:
        if self._is_closed:
            raise Closed("the rollout queue is closed")
