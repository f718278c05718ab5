"""What the rollout queue answers: results of a hand-in, its counts, and who feeds it.

Owns these records and nothing else; they cross the wire like those of `rlvr.records`.
"""

import enum

import msgspec

from actors.journal.journal import JournalFacts


class RefuseReason(enum.StrEnum):
    UNKNOWN_LEASE = "unknown_lease"  # never given, or given by a queue that died before it was written down
    GONE_LEASE = "gone_lease"  # expired, lost, handed back, or finished
    DUPLICATE = "duplicate"  # this rollout is here already
    NOT_LEASED = "not_leased"  # the lease names another group, problem or other rollouts
    SPANS = "spans"  # versions older than the lease allows, or that do not exist yet


class PutResult(msgspec.Struct, frozen=True):
    """What became of one rollout or verdict that was handed in."""

    rollout_id: str
    refused: RefuseReason | None = None

    @property
    def is_accepted(self) -> bool:
        return self.refused is None


class QueueCounts(msgspec.Struct, frozen=True, kw_only=True):
    """The queue at one instant: accepted = consumed + dropped + held.

    slots: rollouts by state (leased, generated, verifying, verified, training); their sum is at most `capacity` + `taken_again`.
    staleness: consumed rollouts by staleness, from 0 on. Lengths are completion tokens.
    """

    step: int
    """The last batch that was handed out."""
    applied_step: int
    """The newest version that a generator has applied."""
    capacity: int
    slots: dict[str, int]
    accepted: int
    consumed: int
    dropped: dict[str, int]
    held: int
    dropped_tokens: dict[str, int]
    refused: dict[str, int]
    """Rollouts that were not accepted, by reason."""
    refused_verdicts: dict[str, int]
    leases: dict[str, int]
    """Leases given, by kind: sampling, verifying."""
    leases_ended: dict[str, int]
    """Leases that ended without their work, by kind and cause: sampling_expired, sampling_lost, sampling_handed_back, verifying_expired, ..."""
    verdicts: dict[str, int]
    """Verdicts taken, by kind; a resampled member has one for each of its attempts."""
    resampled: int
    """Dropped members whose place was sampled again."""
    closed_members: int
    """Dropped members whose place stays empty: what batches are short of."""
    short_groups: int
    """Trained groups that lacked a member."""
    short_members: int
    """Members that trained groups lacked."""
    empty_batches: int
    staleness: tuple[int, ...]
    staleness_max_seen: int
    tokens_generated: int
    tokens_trained: int
    mean_length_generated: float
    mean_length_trained: float

    partials: dict[str, int] = {}
    """Unfinished completions that leaving generators handed back, by what became of them."""
    lineage: int = 0
    taken_again: int = 0
    """Slots in training beyond the capacity's account: batches that are handed out again after a roll-back."""

    @property
    def num_dropped(self) -> int:
        return sum(self.dropped.values())


class Producer(msgspec.Struct, frozen=True, kw_only=True):
    """A generator or verifier as the queue knows it."""

    name: str
    role: str
    silent_s: float
    is_expected: bool
    """True until its first call after it was announced."""


class LeaseStatus(msgspec.Struct, frozen=True, kw_only=True):
    """One live lease. members: those without a result so far. age_s: since it was given, or since the queue's last start."""

    id: str
    kind: str
    worker: str
    members: int
    age_s: float


class QueueStatus(msgspec.Struct, frozen=True, kw_only=True):
    """What `firesteel status` and the controller read of a running queue."""

    counts: QueueCounts
    producers: tuple[Producer, ...]
    is_closed: bool
    metrics_port: int
    lineage: int = 0
    incarnation: int = 0
    reached_step: int = 0
    """The last step whose batch was ever handed out; above `counts.step` while batches are handed out again after a roll-back."""
    leases: tuple[LeaseStatus, ...] = ()
    journal: JournalFacts = JournalFacts()


class QueueIdentity(msgspec.Struct, frozen=True, kw_only=True):
    """The process that the queue lives in at present."""

    pid: int
    node_id: str
    metrics_port: int
