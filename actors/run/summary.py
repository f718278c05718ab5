"""What a run leaves behind in one file: `summary.json`.

Owns its keys. Made by the controller at every end of a run, good or bad; read by people, by `make demo` and by benchmarks.
"""

import msgspec

from actors.run.cost import CostSummary


class RolloutSummary(msgspec.Struct, frozen=True, kw_only=True):
    """accepted = consumed + dropped + held."""

    accepted: int
    consumed: int
    dropped: dict[str, int]
    held: int


class ProcessSummary(msgspec.Struct, frozen=True, kw_only=True):
    generators: int
    verifiers: int
    learner_ranks: int


class SecondsSummary(msgspec.Struct, frozen=True, kw_only=True):
    setup: float
    """Until every actor stood and generators and learner had joined the broadcast; version 0 is published after it."""
    training: float
    """From there to the last trained step; the broadcast of version 0 and evaluations on the way included."""
    total: float


class WeightSummary(msgspec.Struct, frozen=True, kw_only=True):
    versions: int
    bytes_sent: int
    pause_seconds_max: float
    """From calling pause to the return of resume, the longest of all engines."""


class UsageSummary(msgspec.Struct, frozen=True, kw_only=True):
    """Of one role, over all its processes."""

    process_seconds: float
    gpu_seconds: float


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """A whole run. Accuracies are fractions, of bf16-rounded weights: on the first greedy evaluation set, and on the training problems; None where
    there is no such set, or it was not evaluated, or none of its answers could be judged."""

    name: str
    steps: int
    versions_published: int
    accuracy_before: float | None
    accuracy_after: float | None
    train_accuracy_after: float | None
    rollouts: RolloutSummary
    tokens_generated: int
    staleness_max_seen: int
    verdicts: dict[str, int]
    processes: ProcessSummary
    seconds: SecondsSummary
    rollouts_per_second: float
    """Consumed rollouts over the seconds of training."""
    weights: WeightSummary
    stopped: str
    """finished, interrupted or failed."""
    error: str | None
    lineage: int = 0
    """Of the last version: how often weights went back to a checkpoint."""
    resumes: int = 0
    """Controllers that went on with the run after the first."""
    restarts: dict[str, int] = {}
    """Parts that died or hung and were replaced, by part."""
    cost: CostSummary = CostSummary()
    """Of the nodes that the run had."""
    usage: dict[str, UsageSummary] = {}
    """By role. Seconds, rates and versions of a resumed run are those of all its processes together."""
