"""Groups: the members of a step's problems, from their opening to their training.

Owns the life of a member and the choice of a batch's groups. Called by the rollout queue; knows no leases, no slots and no clock.
A member is a place in a group; it is sampled anew, under another rollout id, each time its work is lost or dropped.
"""

import enum
import heapq
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from actors.journal.entries import GroupFacts, MemberFacts
from rlvr.errors import QueueError
from rlvr.records import JudgedRollout, Partial, Rollout, Verdict
from rlvr.step_plan import GroupPlan


class Planner(Protocol):
    """Which groups a step trains; `rlvr.step_plan.StepPlanner` is one."""

    def groups_of_step(self, step: int) -> Sequence[GroupPlan]: ...


@dataclass(frozen=True)
class OneGroup:
    """The plan of a queue without problems: each step is one group of one nameless problem."""

    size: int
    problem_id: str = "problem"

    def groups_of_step(self, step: int) -> Sequence[GroupPlan]:
        return (GroupPlan(group_id=f"{step:06d}", problem_id=self.problem_id, size=self.size),)


class MemberState(enum.StrEnum):
    PENDING = "pending"  # to be sampled, holds no slot
    LEASED = "leased"
    GENERATED = "generated"  # accepted, waits for a verifier
    VERIFYING = "verifying"
    VERIFIED = "verified"
    TRAINING = "training"  # handed out in a batch; its slot comes back with the weights
    CLOSED = "closed"  # dropped for good: its group is smaller


SLOT_STATES = (MemberState.LEASED, MemberState.GENERATED, MemberState.VERIFYING, MemberState.VERIFIED, MemberState.TRAINING)
HELD_STATES = (MemberState.GENERATED, MemberState.VERIFYING, MemberState.VERIFIED)


def place_id(step: int, place: int, number: int, times: int) -> str:
    """A place in a group, and how often it was sampled before."""
    return f"{step:06d}/{place:04d}/{number:04d}/{times:02d}"


@dataclass(slots=True, eq=False)
class Member:
    """One place in a group. `attempt` counts the leases that brought no rollout to train."""

    group: "Group"
    number: int
    state: MemberState = MemberState.PENDING
    attempt: int = 0
    resamples: int = 0
    """Rollouts of this place that were accepted, dropped and sampled again."""
    failures: int = 0
    """Sampling leases of this place that expired or came back unfit."""
    step: int = 0
    """The step that its present lease names."""
    lease_id: str = ""
    """Its present lease by a verifier."""
    lost_verifiers: int = 0
    """Verifiers that did not come back with this rollout's verdict."""
    is_ours: bool = False
    """Closed by faults of ours alone."""
    accepted_at: float = 0.0
    rollout: Rollout | None = None
    verdict: Verdict | None = None
    partial: Partial | None = None
    """What a generator that left has of it, until a rollout is accepted or it is too old."""

    @property
    def rollout_id(self) -> str:
        """step/group/member/attempt; sorts in admission order."""
        return place_id(self.group.step, self.group.place, self.number, self.attempt)

    @property
    def draw_id(self) -> str:
        """What a deterministic draw depends on: the place and its resamples, not how often its work was lost."""
        return place_id(self.group.step, self.group.place, self.number, self.resamples)

    @property
    def accepted(self) -> Rollout:
        assert self.rollout is not None, f"{self.rollout_id} is {self.state} without a rollout"
        return self.rollout

    @property
    def judged(self) -> JudgedRollout:
        assert self.verdict is not None, f"{self.rollout_id} is {self.state} without a verdict"
        return JudgedRollout(rollout=self.accepted, verdict=self.verdict)


@dataclass(slots=True, eq=False)
class Group:
    """The completions of one copy of a problem; `serial` counts groups in the order of admission."""

    serial: int
    step: int
    """The step that it was planned for."""
    place: int
    """Its position in that step."""
    plan: GroupPlan
    members: tuple[Member, ...] = ()
    pending: set[int] = field(default_factory=set)
    """Numbers of the members that nobody samples."""
    unsettled: int = 0
    """Members that are neither verified nor closed."""
    passed: int = 0
    """Younger groups that were trained before it."""
    completed: int | None = None
    """When it became complete, as a count of completions."""
    due_since: float | None = None
    """When the learner first asked for its step."""

    def __post_init__(self) -> None:
        self.members = tuple(Member(self, number) for number in range(self.plan.size))
        self.pending = set(range(self.plan.size))
        self.unsettled = len(self.members)


@dataclass
class GroupBook:
    """The groups that are opened and not yet trained, in admission order."""

    planner: Planner
    rollouts_per_step: int
    num_steps: int | None
    opened_step: int = 0
    untrained: dict[int, Group] = field(default_factory=dict)
    _serial: int = 0
    _completions: int = 0
    _to_sample: list[int] = field(default_factory=list)
    """Heap of serials of groups that may have a pending member."""
    _to_continue: list[int] = field(default_factory=list)
    """Heap of serials of groups that may have a pending member with a partial."""
    _by_place: dict[tuple[int, int], Group] = field(default_factory=dict)
    _num_groups: dict[int, int] = field(default_factory=dict)

    def open_step(self) -> Sequence[Group]:
        """Open the groups of the next step; none beyond the last one. Raises QueueError where the plan does not fill the step."""
        if self.num_steps is not None and self.opened_step >= self.num_steps:
            return ()
        step = self.opened_step + 1
        plans = self.planner.groups_of_step(step)
        if sum(plan.size for plan in plans) != self.rollouts_per_step or any(plan.size < 1 for plan in plans):
            sizes = [plan.size for plan in plans]
            raise QueueError(f"the plan of step {step} has groups of {sizes} rollouts, which is not {self.rollouts_per_step}")
        self.opened_step = step
        groups = [Group(self._serial + place, step, place, plan) for place, plan in enumerate(plans)]
        self._serial += len(groups)
        for group in groups:
            self._admit(group)
        self._num_groups[step] = len(groups)
        return groups

    def find(self, rollout_id: str) -> Member:
        """The untrained member that has this rollout id now. Raises QueueError where there is none."""
        step, place, number, _ = (int(part) for part in rollout_id.split("/"))
        group = self._by_place.get((step, place))
        if group is None or number >= len(group.members) or group.members[number].rollout_id != rollout_id:
            raise QueueError(f"no untrained member has the rollout id {rollout_id}")
        return group.members[number]

    def sample_again(self, member: Member) -> None:
        """A member is pending once more, under its next rollout id."""
        member.attempt += 1
        member.rollout = member.verdict = None
        member.lost_verifiers = 0
        member.group.pending.add(member.number)
        heapq.heappush(self._to_sample, member.group.serial)
        if member.partial is not None:
            heapq.heappush(self._to_continue, member.group.serial)

    def pending_of(self, group: Group, n: int) -> Sequence[Member]:
        """Up to n pending members of a group: those with a partial first, then by number."""
        pending = sorted((group.members[number] for number in group.pending), key=lambda member: (member.partial is None, member.number))
        return pending[:n]

    def take(self, members: Iterable[Member]) -> None:
        """These pending members are being sampled."""
        for member in members:
            member.group.pending.remove(member.number)

    def next_to_continue(self) -> Group | None:
        """The oldest opened group with a pending member that has a partial."""
        while self._to_continue:
            group = self.untrained.get(self._to_continue[0])
            if group is not None and any(group.members[number].partial is not None for number in group.pending):
                return group
            heapq.heappop(self._to_continue)
        return None

    def next_to_sample(self) -> Group | None:
        """The oldest opened group with a pending member."""
        while self._to_sample:
            group = self.untrained.get(self._to_sample[0])
            if group is not None and group.pending:
                return group
            heapq.heappop(self._to_sample)
        return None

    def settled(self, group: Group) -> bool:
        """One more member is verified or closed; returns whether the group is complete now."""
        group.unsettled -= 1
        if group.unsettled:
            return False
        self._completions += 1
        group.completed = self._completions
        return True

    def unsettle(self, group: Group) -> None:
        """A verified member is not any more."""
        group.unsettled += 1
        group.completed = None

    def choose(self, step: int, window: float) -> Sequence[Group] | None:
        """As many complete groups as `step` was planned with, by `choose_groups`; None while they are not there."""
        if step > self.opened_step:
            return None
        return choose_groups(self.untrained.values(), self._num_groups[step], window)

    def check(self) -> None:
        """Recount. Raises QueueError where a group's books differ from its members."""
        for group in self.untrained.values():
            unsettled = sum(member.state not in (MemberState.VERIFIED, MemberState.CLOSED) for member in group.members)
            pending = {member.number for member in group.members if member.state is MemberState.PENDING}
            is_booked = (group.unsettled, group.pending, group.completed is None) == (unsettled, pending, unsettled > 0)
            if not is_booked:
                raise QueueError(f"group {group.serial} books {group.unsettled} unsettled, {group.pending} pending; has {unsettled}, {pending}")

    def train(self, step: int, chosen: Iterable[Group]) -> None:
        """Take the groups of a batch out, in their order; whoever is older and stays has been passed."""
        del self._num_groups[step]
        for group in chosen:
            del self.untrained[group.serial]
            del self._by_place[group.step, group.place]
            for older in self.untrained.values():
                if older.serial > group.serial:
                    break
                older.passed += 1

    def of_ids(self, group_ids: Iterable[str]) -> Sequence[Group]:
        """Untrained groups by the ids of their plans, in the order asked. Raises QueueError where one is not there."""
        by_id = {group.plan.group_id: group for group in self.untrained.values()}
        try:
            return [by_id[group_id] for group_id in group_ids]
        except KeyError as error:
            raise QueueError(f"group {error} is not there, or is trained") from error

    def begin_again(self, step: int) -> int:
        """Every place of a step is as when it was opened, but for the ids that it has used; returns how many were closed.

        None of them may be accepted or leased.
        """
        members = [member for group in self.untrained.values() if group.step == step for member in group.members]
        closed = [member for member in members if member.state is MemberState.CLOSED]
        for member in members:
            member.resamples, member.is_ours, member.partial = 0, False, None
        for member in closed:
            member.state = MemberState.PENDING
            self.unsettle(member.group)
            self.sample_again(member)
        return len(closed)

    # --- a snapshot

    def facts(self) -> tuple[GroupFacts, ...]:
        return tuple(_facts_of(group) for group in self.untrained.values())

    def counters(self) -> dict[str, int]:
        """What the book counts, by the snapshot's fields."""
        return {"opened_step": self.opened_step, "next_serial": self._serial, "completions": self._completions}

    def num_groups(self) -> dict[str, int]:
        """Groups planned for each step that was opened and not trained."""
        return {str(step): number for step, number in self._num_groups.items()}

    def restore(self, facts: Iterable[GroupFacts], num_groups: Mapping[str, int], *, opened_step: int, next_serial: int, completions: int) -> None:
        """The groups of a snapshot; their rollouts and verdicts are given to their members by the caller."""
        self.opened_step, self._serial, self._completions = opened_step, next_serial, completions
        self._num_groups = {int(step): number for step, number in num_groups.items()}
        for of_one in facts:
            self._admit(_group_of(of_one, self.planner.groups_of_step(of_one.step)[of_one.place]))

    def _admit(self, group: Group) -> None:
        self.untrained[group.serial] = group
        self._by_place[group.step, group.place] = group
        heapq.heappush(self._to_sample, group.serial)
        heapq.heappush(self._to_continue, group.serial)


def _facts_of(group: Group) -> GroupFacts:
    members = tuple(
        MemberFacts(
            state=member.state.value,
            attempt=member.attempt,
            resamples=member.resamples,
            step=member.step,
            lost_verifiers=member.lost_verifiers,
            is_ours=member.is_ours,
            partial=member.partial,
        )
        for member in group.members
    )
    return GroupFacts(serial=group.serial, step=group.step, place=group.place, passed=group.passed, completed=group.completed, members=members)


def _group_of(facts: GroupFacts, plan: GroupPlan) -> Group:
    group = Group(facts.serial, facts.step, facts.place, plan, passed=facts.passed, completed=facts.completed)
    for member, of_one in zip(group.members, facts.members, strict=True):
        member.state, member.attempt, member.resamples = MemberState(of_one.state), of_one.attempt, of_one.resamples
        member.step, member.lost_verifiers, member.is_ours, member.partial = of_one.step, of_one.lost_verifiers, of_one.is_ours, of_one.partial
    group.pending = {member.number for member in group.members if member.state is MemberState.PENDING}
    group.unsettled = sum(member.state not in (MemberState.VERIFIED, MemberState.CLOSED) for member in group.members)
    return group


def choose_groups(untrained: Iterable[Group], num_groups: int, window: float) -> Sequence[Group] | None:
    """The groups of the next batch: first complete first, but at most `window` younger groups pass one that is not trained yet.

    untrained: in admission order. window: 0 = strictly by admission, infinity = by completion. Returns None where the next group in line is
    not complete.
    """
    waiting = list(untrained)
    if sum(group.completed is not None for group in waiting) < num_groups:
        return None
    passed = {group.serial: group.passed for group in waiting}
    chosen: list[Group] = []
    while len(chosen) < num_groups:
        first = next((group for group in waiting if passed[group.serial] >= window), None)
        first = first or min(waiting, key=lambda group: math.inf if group.completed is None else group.completed)
        if first.completed is None:
            return None
        waiting.remove(first)
        for older in waiting:
            if older.serial > first.serial:
                break
            passed[older.serial] += 1
        chosen.append(first)
    return chosen
