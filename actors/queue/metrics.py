"""The queue's metrics, set from its counts.

Owns how `QueueCounts` becomes the catalogue's queue metrics. Called by the queue's service, after each change that counts; decides nothing.
"""

from collections.abc import Iterable, Mapping

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

    def __init__(self, counts: QueueCounts) -> None:
        self.registry = Registry(Role.QUEUE, "queue")
        self._shown = counts
        self.registry.gauge("rlvr_slots_limit").set(counts.capacity)

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

    def show(self, counts: QueueCounts, *, oldest_held_s: float) -> None:
        """Set the gauges, and move the counters by what has changed since the last time."""
        before, self._shown = self._shown, counts
        for state, parts in SHOWN_AS.items():
            self.registry.gauge("rlvr_slots", state=state).set(sum(counts.slots[part] for part in parts))
        self.registry.gauge("rlvr_rollouts_held").set(counts.held)
        self.registry.gauge("rlvr_unverified_rollouts").set(counts.slots["generated"])
        self.registry.gauge("rlvr_queue_oldest_seconds").set(oldest_held_s)
        self._move("rlvr_rollouts_accepted_total", counts.accepted - before.accepted)
        self._move("rlvr_rollouts_trained_total", counts.consumed - before.consumed)
        self._move("rlvr_rollouts_refused_total", _grown(counts.refused, before.refused))
        self._move("rlvr_rollouts_missing_total", counts.short_members - before.short_members)
        self._move("rlvr_leases_expired_total", _taken_back(counts) - _taken_back(before))
        for reason, number in counts.dropped.items():
            self._move("rlvr_rollouts_dropped_total", number - before.dropped[reason], reason=reason)
        for reason, number in counts.dropped_tokens.items():
            self._move("rlvr_tokens_dropped_total", number - before.dropped_tokens[reason], reason=reason)

    def _move(self, name: str, by: int, **labels: str) -> None:
        self.registry.counter(name, **labels).inc(by)


def _grown(now: Mapping[str, int], before: Mapping[str, int]) -> int:
    return sum(now.values()) - sum(before.values())


def _taken_back(counts: QueueCounts) -> int:
    """Leases that ended by their deadline or with their worker; not those that were handed back."""
    return sum(number for end, number in counts.leases_ended.items() if end.endswith(("_expired", "_lost")))
