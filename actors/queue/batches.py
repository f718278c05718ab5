"""The batches that were handed out, for as long as the learner may ask for them again.

Owns the steps: the last one handed out, the last one ever reached, the last one that every checkpoint covers; and the lineage. Called by the rollout
queue, which makes the batches. What a batch consists of is remembered until it is committed; its rollouts only while they are recent, where
somebody else (the journal) can bring them back.
"""

from collections.abc import Mapping, Sequence

from actors.journal.entries import HandedOut
from actors.queue.groups import Group, Member, MemberState
from rlvr.errors import QueueError
from rlvr.records import Batch, JudgedRollout
from rlvr.staleness import staleness


class BatchBook:
    """The steps of a run and their batches."""

    def __init__(self, *, lineage: int, is_forgetful: bool) -> None:
        """is_forgetful: rollouts of old batches need not be kept, `recalled` brings them back."""
        self.lineage = lineage
        self.step = 0
        """The last step whose batch was handed out in this lineage."""
        self.reached = 0
        """The last step whose batch was ever handed out."""
        self.committed = 0
        self.out: dict[int, HandedOut] = {}
        self._is_forgetful = is_forgetful
        self._rollouts: dict[int, tuple[JudgedRollout, ...]] = {}

    @property
    def is_behind(self) -> bool:
        """After a roll-back, until all batches were handed out again."""
        return self.step < self.reached

    def is_out(self, step: int) -> bool:
        """Whether the batch of a step was handed out in this lineage, or before the checkpoint that it goes on from."""
        return self.committed < step <= self.step

    def absent(self, step: int) -> Sequence[str]:
        """Ids of the rollouts of a batch that was handed out and whose rollouts have to be recalled; none where all are here."""
        return self.out[step].rollout_ids if step in self.out and step not in self._rollouts else ()

    def batch(self, step: int, prompts: Mapping[str, tuple[int, ...]]) -> Batch:
        """One that was handed out. prompts: token ids by problem id, of all problems. Raises QueueError where its rollouts are absent."""
        rollouts = self._rollouts.get(step)
        if rollouts is None:
            raise QueueError(f"the rollouts of batch {step} are not in memory any more, and were not recalled")
        of_batch = {judged.rollout.problem_id: prompts[judged.rollout.problem_id] for judged in rollouts}
        return Batch(step=step, lineage=self.lineage, rollouts=rollouts, prompts=of_batch, short=self.out[step].short)

    def recalled(self, step: int, rollouts: Sequence[JudgedRollout]) -> None:
        """The rollouts of a batch are here again. Raises QueueError where they are others than were handed out."""
        if tuple(judged.rollout.id for judged in rollouts) != self.out[step].rollout_ids:
            raise QueueError(f"batch {step} comes back with other rollouts than it was handed out with")
        self._rollouts[step] = tuple(rollouts)

    def hand_out(self, entry: HandedOut, rollouts: Sequence[JudgedRollout] | None) -> None:
        """The next batch is handed out; rollouts: None for one that is handed out again."""
        if entry.step != self.step + 1 or entry.lineage != self.lineage:
            raise QueueError(f"batch {entry.step} of lineage {entry.lineage} does not follow step {self.step} of lineage {self.lineage}")
        self.step, self.reached = entry.step, max(entry.step, self.reached)
        self.out[entry.step] = entry
        if rollouts is not None:
            self._rollouts[entry.step] = tuple(rollouts)

    def applied(self, step: int) -> None:
        """Weights of a step are in use: no learner that lives asks for batches before it. The last one is kept whatever is applied."""
        if self._is_forgetful:
            for earlier in [other for other in self._rollouts if other < min(step, self.step)]:
                del self._rollouts[earlier]

    def commit(self, step: int) -> None:
        self.committed = max(step, self.committed)
        for covered in [other for other in self.out if other <= self.committed]:
            del self.out[covered]
            self._rollouts.pop(covered, None)

    def require_next(self, step: int, *, lineage: int | None, num_steps: int | None) -> None:
        """Raises QueueError where this step is neither the next one nor remembered, or of another lineage (None: any)."""
        if lineage is not None and lineage != self.lineage:
            raise QueueError(f"batch {step} was asked for lineage {lineage}; the run went on as lineage {self.lineage}")
        if not self.is_out(step) and (step != self.step + 1 or (num_steps is not None and step > num_steps)):
            raise QueueError(f"batch {step} was asked for; step {self.step} was the last, and the run has {num_steps or 'no last'} step(s)")

    def require_commit(self, step: int) -> None:
        """Raises QueueError where this step cannot be committed: nothing below the learner's own step may go."""
        if step > self.step:
            raise QueueError(f"step {step} cannot be committed: step {self.step} is the last one that was handed out")

    def require_roll_back(self, step: int) -> None:
        """Raises QueueError where the run cannot go on from a checkpoint of this step."""
        if not self.committed <= step <= self.reached:
            raise QueueError(
                f"the queue cannot be rolled back to step {step}: it has the batches of steps {self.committed + 1} to {self.reached}; "
                "an older checkpoint than the oldest kept one was loaded, or one of another run"
            )

    def roll_back(self, step: int, lineage: int) -> None:
        self.step, self.lineage = step, lineage

    def restore(self, out: Sequence[HandedOut], *, step: int, reached: int, committed: int, lineage: int) -> None:
        """Those of a snapshot; all rollouts have to be recalled."""
        self.step, self.reached, self.committed, self.lineage = step, reached, committed, lineage
        self.out = {entry.step: entry for entry in out}
        self._rollouts.clear()


def stale_members(chosen: Sequence[Group], step: int, *, max_staleness: int) -> Sequence[Member]:
    """The verified members of a batch's groups that are too old to be trained by `step`."""
    verified = [member for group in chosen for member in group.members if member.state is MemberState.VERIFIED]
    return [member for member in verified if staleness(step, member.accepted.oldest_version) > max_staleness]


def handed_out(chosen: Sequence[Group], *, step: int, lineage: int) -> HandedOut:
    """The batch of these complete groups, by id. Raises QueueError where every member was lost to faults of ours."""
    places = [member for group in chosen for member in group.members]
    if all(member.state is MemberState.CLOSED and member.is_ours for member in places):
        raise QueueError(f"all {len(places)} rollouts of step {step} were lost to faults of the verifiers (timeout, sandbox): see their log")
    ids = tuple(sorted(member.rollout_id for member in places if member.state is MemberState.VERIFIED))
    groups = tuple(group.plan.group_id for group in chosen)
    return HandedOut(step=step, lineage=lineage, rollout_ids=ids, groups=groups, short=len(places) - len(ids))
