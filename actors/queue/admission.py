"""Which sampling work there is, and for whom: groups in their order, the step that will train them, what may be continued.

Owns these decisions. Called by the rollout queue; changes nothing but the groups that it opens, which the plan of the run determines.
"""

from collections.abc import Iterator, Sequence

from actors.journal.entries import Leased
from actors.queue.batches import BatchBook
from actors.queue.desks import SAMPLING, SamplingDesk
from actors.queue.groups import Group, Member
from actors.queue.ledger import Ledger
from actors.queue.settings import QueueSettings
from rlvr.errors import QueueError
from rlvr.records import Lease, Partial, PartialFate, Version
from rlvr.seeds import derive_seed
from rlvr.staleness import oldest_allowed_step


class Admission:
    """Decides about leases of sampling work."""

    def __init__(self, settings: QueueSettings, *, ledger: Ledger, batches: BatchBook, sampling: SamplingDesk) -> None:
        self._ledger, self._batches, self._sampling = ledger, batches, sampling
        self._prompts, self._known = settings.prompt_ids, settings.prompt_ids.keys() & settings.gold_answers.keys()
        self._max_staleness, self._needs_equal_groups = settings.max_staleness, settings.num_may_pass > 0
        self._lease_s, self._seed = settings.lease_s, settings.request_seed

    def open_step(self) -> None:
        """Open the groups of the next step. Raises QueueError where the queue cannot run that plan."""
        groups = self._ledger.book.open_step()
        if self._needs_equal_groups and len({group.plan.size for group in groups}) > 1:
            raise QueueError(f"queue.order other than admission needs groups of one size, step {groups[0].step} has {[g.plan.size for g in groups]}")
        for group in groups:
            if group.plan.problem_id not in self._known:
                raise QueueError(f"step {group.step} plans problem {group.plan.problem_id!r}, which has no prompt or no gold answer here")
        self._ledger.mark_due(self._ledger.asked_step)

    def is_made(self, version: Version) -> bool:
        """Whether there can be such weights: of this lineage up to its step, of earlier ones up to the last step ever reached."""
        batches = self._batches
        return version.lineage <= batches.lineage and version.step <= (batches.step if version.lineage == batches.lineage else batches.reached)

    def require_made(self, version: Version, *, generator: str) -> None:
        """Raises QueueError where a generator says that it applied weights which cannot be."""
        if not self.is_made(version):
            raise QueueError(
                f"generator {generator} applied version {version}, but step {self._batches.step} is the last "
                f"one that was handed out in lineage {self._batches.lineage}"
            )

    def next_lease(self, n: int, *, worker: str, applied: Version) -> Leased | None:
        """What a generator that has applied `applied` may sample now: up to n members of one group, all of it in deterministic mode."""
        for group in self._groups_to_sample() if not self._batches.is_behind and self._ledger.slots.free > 0 else ():
            step = self._training_step(group)
            if applied.step >= oldest_allowed_step(step, self._max_staleness):
                wanted = n if self._seed is None else group.plan.size
                members = self._ledger.book.pending_of(group, min(wanted, self._ledger.slots.free))
                return Leased(
                    kind=SAMPLING,
                    lease_id=self._sampling.leases.next_id(),
                    worker=worker,
                    step=step,
                    rollout_ids=tuple(member.rollout_id for member in members),
                    continued=tuple(partial.rollout_id for partial in self._sampling.continued(members, step=step)),
                )
        return None

    def lease_of(self, entry: Leased) -> Lease:
        """What the generator gets of a lease that is given."""
        members = list(self._sampling.leases.members(entry.lease_id).values())
        plan = members[0].group.plan
        return Lease(
            id=entry.lease_id,
            problem_id=plan.problem_id,
            group_id=plan.group_id,
            rollout_ids=entry.rollout_ids,
            prompt_ids=self._prompts[plan.problem_id],
            step=entry.step,
            seeds=self._seeds(members),
            deadline_s=self._lease_s,
            partials=self._sampling.continued(members, step=entry.step),
        )

    def fate(self, partial: Partial, lease_id: str) -> PartialFate:
        """What may become of an unfinished completion of a lease that is handed back."""
        member = self._sampling.leases.members(lease_id).get(partial.rollout_id)
        if member is None or self._seed is not None or not all(self.is_made(span.version) for span in partial.spans):
            return PartialFate.UNFIT
        is_too_old = self._sampling.is_too_old(partial.oldest_version, self._training_step(member.group))
        return PartialFate.TOO_OLD if is_too_old else PartialFate.CONTINUED

    def _groups_to_sample(self) -> Iterator[Group]:
        """The oldest group that another generator has begun, then the oldest one that wants some."""
        book = self._ledger.book
        to_continue = book.next_to_continue()
        if to_continue is not None:
            yield to_continue
        if book.next_to_sample() is None:
            self.open_step()
        oldest = book.next_to_sample()
        if oldest is not None:
            yield oldest

    def _training_step(self, group: Group) -> int:
        """The step that will train a group, as far as that is known: never earlier than the next one."""
        return max(group.step, self._batches.reached + 1)

    def _seeds(self, members: Sequence[Member]) -> tuple[int, ...] | None:
        return None if self._seed is None else tuple(derive_seed(self._seed, "rollout", member.draw_id) for member in members)
