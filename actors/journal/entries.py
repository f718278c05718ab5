"""What a journal's entries say.

Owns these records and nothing else. The queue makes them, one for each change of its state, and makes the same changes from them at a replay.
They grow at their end only, each new field with a default; a change that an older reader would misread is a new `FORMAT`.
"""

import msgspec

from rlvr.records import DropReason, Partial, Rollout, Verdict

FORMAT = 1


class Header(msgspec.Struct, frozen=True, kw_only=True, tag="header"):
    format: int
    run: str
    segment: int
    incarnation: int
    lineage: int
    at: float


class Group(msgspec.Struct, frozen=True, kw_only=True, tag="group"):
    """The first entry of every group commit but a segment's first one, which the header begins."""

    serial: int


class Leased(msgspec.Struct, frozen=True, kw_only=True, tag="leased"):
    kind: str
    lease_id: str
    worker: str
    step: int
    rollout_ids: tuple[str, ...]
    continued: tuple[str, ...] = ()


class Ended(msgspec.Struct, frozen=True, kw_only=True, tag="ended"):
    kind: str
    lease_id: str
    cause: str
    partials: tuple[Partial, ...] = ()
    discarded: dict[str, int] = {}


class Accepted(msgspec.Struct, frozen=True, kw_only=True, tag="accepted"):
    rollout: Rollout


class Unfit(msgspec.Struct, frozen=True, kw_only=True, tag="unfit"):
    lease_id: str
    rollout_id: str
    reason: str


class Judged(msgspec.Struct, frozen=True, kw_only=True, tag="judged"):
    verdict: Verdict


class Dropped(msgspec.Struct, frozen=True, kw_only=True, tag="dropped"):
    rollout_id: str
    reason: DropReason
    is_resampled: bool
    is_ours: bool
    num_tokens: int
    verdict: Verdict | None = None


class Refused(msgspec.Struct, frozen=True, kw_only=True, tag="refused"):
    kind: str
    counts: dict[str, int]


class HandedOut(msgspec.Struct, frozen=True, kw_only=True, tag="batch"):
    step: int
    lineage: int
    rollout_ids: tuple[str, ...]
    groups: tuple[str, ...]
    short: int


class Applied(msgspec.Struct, frozen=True, kw_only=True, tag="applied"):
    lineage: int
    step: int
    generator: str


class Committed(msgspec.Struct, frozen=True, kw_only=True, tag="committed"):
    step: int


class RolledBack(msgspec.Struct, frozen=True, kw_only=True, tag="rolled_back"):
    step: int
    lineage: int


class BegunAgain(msgspec.Struct, frozen=True, kw_only=True, tag="begun_again"):
    step: int


class Ending(msgspec.Struct, frozen=True, kw_only=True, tag="closed"):
    is_finished: bool


class MemberFacts(msgspec.Struct, frozen=True, kw_only=True):
    """One place of an untrained group. Its rollout and verdict, where its state has them, are in the entries of its present rollout id."""

    state: str
    attempt: int
    resamples: int
    step: int
    lost_verifiers: int
    is_ours: bool
    partial: Partial | None


class GroupFacts(msgspec.Struct, frozen=True, kw_only=True):
    serial: int
    step: int
    place: int
    passed: int
    completed: int | None
    members: tuple[MemberFacts, ...]


class LeaseFacts(msgspec.Struct, frozen=True, kw_only=True):
    lease_id: str
    kind: str
    worker: str
    rollout_ids: tuple[str, ...]
    """Without a result so far."""
    settled: tuple[str, ...]


class Snapshot(msgspec.Struct, frozen=True, kw_only=True, tag="snapshot"):
    """The queue's whole state at one instant, rollouts left out: those of `batches` and of held members are in the entries before it."""

    step: int
    """The last step whose batch was handed out in this lineage."""
    reached: int
    """The last step whose batch was ever handed out."""
    committed: int
    lineage: int
    applied_step: int
    opened_step: int
    next_serial: int
    completions: int
    batches: tuple[HandedOut, ...]
    """Of the steps above `committed`, in order; their lineage is the one of the last hand-out."""
    groups: tuple[GroupFacts, ...]
    """Opened and not trained, in the order of their admission."""
    num_groups: dict[str, int]
    """Groups that each opened step which was not trained yet was planned with."""
    waiting: tuple[str, ...]
    """Ids that wait for a verifier, in their order."""
    leases: tuple[LeaseFacts, ...]
    issued: dict[str, int]
    """Leases ever given, by `incarnation-kind`."""
    training: dict[str, int]
    """Slots that trained batches hold, by step."""
    taken_again: dict[str, int]
    """Those of them that were taken again after a roll-back, by step."""
    tally: dict[str, int]
    tallies: dict[str, dict[str, int]]


Change = (
    Leased | Ended | Accepted | Unfit | Judged | Dropped | Refused | HandedOut | Applied | Committed | RolledBack | BegunAgain | Ending
)  # what a queue does
Entry = Header | Group | Snapshot | Change
