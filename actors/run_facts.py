"""What a run has come to so far, and the summary of it.

Owns the numbers that the controller gathers step by step, so that the summary of a run that ends badly holds what was known. Asks nobody.
"""

import time
from collections.abc import Sequence

from actors.evaluation import TRAIN_SET, EvaluationResult
from actors.learner_actor import Published
from actors.queue.records import QueueCounts
from actors.summary import ProcessSummary, RolloutSummary, SecondsSummary, Summary, WeightSummary


class RunFacts:
    """Filled in by the controller; `summary` may be asked at any time."""

    def __init__(self, name: str, *, headline_set: str | None) -> None:
        self.name = name
        self.headline_set = headline_set
        self.steps = 0
        self.results: list[EvaluationResult] = []
        self.published: list[Published] = []
        self.counts: QueueCounts | None = None
        self.pauses: list[float] = []
        self.processes = ProcessSummary(generators=0, verifiers=0, learner_ranks=0)
        self._began = self._stood = self._last_step = time.monotonic()
        self.has_stood = False

    def stands(self, processes: ProcessSummary) -> None:
        """Every actor has started: training begins."""
        self.processes = processes
        self.has_stood = True
        self._stood = self._last_step = time.monotonic()

    def stepped(self, step: int, counts: QueueCounts) -> None:
        """Step `step` was trained."""
        self.steps, self.counts, self._last_step = step, counts, time.monotonic()

    @property
    def seconds(self) -> float:
        """Since the run began."""
        return time.monotonic() - self._began

    @property
    def setup_seconds(self) -> float:
        return self._stood - self._began

    @property
    def rollouts_per_second(self) -> float:
        """Trained rollouts over the seconds of training so far."""
        training = self._last_step - self._stood
        return self.counts.consumed / training if self.counts is not None and training > 0 else 0.0

    def accuracy(self, name: str | None, *, step: int) -> float | None:
        """Of one set under one version; None where it was not measured."""
        return next((result.accuracy for result in self.results if result.set == name and result.step == step), None)

    def summary(self, *, stopped: str, error: str | None) -> Summary:
        counts = self.counts
        return Summary(
            name=self.name,
            steps=self.steps,
            versions_published=len(self.published),
            accuracy_before=self.accuracy(self.headline_set, step=0),
            accuracy_after=self.accuracy(self.headline_set, step=self.steps) if self.steps else None,
            train_accuracy_after=self.accuracy(TRAIN_SET, step=self.steps) if self.steps else None,
            rollouts=RolloutSummary(
                accepted=counts.accepted if counts else 0,
                consumed=counts.consumed if counts else 0,
                dropped=dict(counts.dropped) if counts else {},
                held=counts.held if counts else 0,
            ),
            tokens_generated=counts.tokens_generated if counts else 0,
            staleness_max_seen=counts.staleness_max_seen if counts else 0,
            verdicts=dict(counts.verdicts) if counts else {},
            processes=self.processes,
            seconds=SecondsSummary(setup=self.setup_seconds, training=self._last_step - self._stood, total=self.seconds),
            rollouts_per_second=self.rollouts_per_second,
            weights=WeightSummary(
                versions=len(self.published), bytes_sent=sum(each.bytes_sent for each in self.published), pause_seconds_max=longest(self.pauses)
            ),
            stopped=stopped,
            error=error,
        )


def longest(pauses: Sequence[float]) -> float:
    return max(pauses, default=0.0)
