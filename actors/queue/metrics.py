"""The queue's metrics, set from its counts.

Owns how `QueueCounts` becomes the catalogue's queue metrics. Called by the queue's service, after each change that counts, and by the journal's
thread; decides nothing. A counter follows the queue's own total, so that a queue that has replayed goes on counting where the last one ended.
"""

from collections.abc import Iterable

from actors.queue.records import QueueCounts
from rlvr.metrics import Registry, Role, SlotState
from rlvr.records import Batch, Rollout
from rlvr.staleness import staleness

SHOWN_AS = {
    SlotState.LEASED: ("leased",),
    SlotState.GENERATED: ("generated", "verifying"),
    SlotState.VERIFIED: ("verified",),
    SlotState.CONSUMED: ("training",),
}


class QueueMetrics:
    """One queue's registry and the counts that it last showed."""

    def __init__(self) -> None:
        self.registry = Registry(Role.QUEUE, "queue")

    def opened(self, counts: QueueCounts, *, incarnation: int, torn_bytes: int, max_staleness: int) -> None:
        """The queue has replayed."""
        self.registry.gauge("rlvr_max_staleness_versions").set(max_staleness)
        self.registry.gauge("rlvr_slots_limit").set(counts.capacity)
        self.registry.gauge("rlvr_queue_incarnation").set(incarnation)
        self.registry.counter("rlvr_journal_torn_bytes_total").inc(torn_bytes)
        self.show(counts, oldest_held_s=0.0, journal_bytes=0)

    def committed(self, num_bytes: int, seconds: float) -> None:
        """One group commit of the journal is durable."""
        self.registry.counter("rlvr_journal_bytes_total").inc(num_bytes)
        self.registry.histogram("rlvr_journal_commit_seconds").observe(seconds)

    def failed(self) -> None:
        """A group commit could not be written, and is tried again."""
        self.registry.counter("rlvr_journal_errors_total").inc()

    def accepted(self, rollouts: Iterable[Rollout]) -> None:
        for rollout in rollouts:
            self.registry.histogram("rlvr_accepted_completion_tokens").observe(rollout.num_tokens)

    def trained(self, batch: Batch) -> None:
        """A batch is handed out for the first time."""
        for judged in batch.rollouts:
            self.registry.histogram("rlvr_trained_completion_tokens").observe(judged.rollout.num_tokens)
            self.registry.histogram("rlvr_rollout_staleness_versions").observe(staleness(batch.step, judged.rollout.oldest_version))

    def generators_waiting(self, change: int) -> None:
        """One more long poll for a lease, or one less."""
        self.registry.gauge("rlvr_generators_waiting").inc(change)

    def show(self, counts: QueueCounts, *, oldest_held_s: float, journal_bytes: int) -> None:
        """Set the gauges, and bring the counters to their totals."""
        for state, parts in SHOWN_AS.items():
            self.registry.gauge("rlvr_slots", state=state).set(sum(counts.slots[part] for part in parts))
        self.registry.gauge("rlvr_rollouts_held").set(counts.held)
        self.registry.gauge("rlvr_unverified_rollouts").set(counts.slots["generated"])
        self.registry.gauge("rlvr_queue_oldest_seconds").set(oldest_held_s)
        self.registry.gauge("rlvr_lineage").set(counts.lineage)
        self.registry.gauge("rlvr_journal_size_bytes").set(journal_bytes)
        self.registry.raise_to("rlvr_rollouts_accepted_total", counts.accepted)
        self.registry.raise_to("rlvr_rollouts_trained_total", counts.consumed)
        self.registry.raise_to("rlvr_rollouts_refused_total", sum(counts.refused.values()))
        self.registry.raise_to("rlvr_rollouts_missing_total", counts.short_members)
        self.registry.raise_to("rlvr_leases_expired_total", _taken_back(counts))
        for reason, number in counts.dropped.items():
            self.registry.raise_to("rlvr_rollouts_dropped_total", number, reason=reason)
        for reason, number in counts.dropped_tokens.items():
            self.registry.raise_to("rlvr_tokens_dropped_total", number, reason=reason)
        for fate, number in counts.partials.items():
            self.registry.raise_to("rlvr_partials_total", number, fate=fate)


def _taken_back(counts: QueueCounts) -> int:
    """Leases that ended by their deadline or with their worker; not those that were handed back."""
    return sum(number for end, number in counts.leases_ended.items() if end.endswith(("_expired", "_lost")))
