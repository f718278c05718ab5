"""What a run has come to so far, over all processes that it has had, and the summary of it.

Owns the numbers that the controller gathers step by step, so that the summary of a run that ends badly holds what was known, and that a resumed run
goes on from. Asks nobody.
"""

import time
from collections import Counter
from collections.abc import Mapping, Sequence

import msgspec

from actors.evaluation import TRAIN_SET, EvaluationResult
from actors.learner_news import Published
from actors.queue.records import QueueCounts
from actors.run.cost import CostSummary, cost_summary
from actors.run.history import FactsSoFar, NodeCost, Usage
from actors.run.summary import ProcessSummary, RolloutSummary, SecondsSummary, Summary, UsageSummary, WeightSummary


class Employed(msgspec.Struct, frozen=True, kw_only=True):
    """Processes of one role, and the GPUs that they hold."""

    processes: int
    gpus: float = 0.0


class RunFacts:
    """Filled in by the controller; `summary` and `so_far` may be asked at any time."""

    def __init__(
        self,
        name: str,
        *,
        headline_set: str | None,
        num_steps: int = 0,
        before: FactsSoFar | None = None,
        results: Sequence[EvaluationResult] = (),
    ) -> None:
        """before, results: of a run that is resumed; what it was, and its evaluations as evals.jsonl has them."""
        self.name = name
        self.headline_set = headline_set
        self.num_steps = num_steps
        self.before = before if before is not None else FactsSoFar(name=name)
        self.resumes = self.before.resumes + (before is not None)
        self.steps = self.before.steps
        self.results: list[EvaluationResult] = list(results)
        self.published: list[Published] = []
        self.counts: QueueCounts | None = None
        self.pauses: list[float] = []
        self.restarts: Counter[str] = Counter(self.before.restarts)
        self.lineage = 0
        self.costs: Mapping[str, NodeCost] = self.before.costs
        """Of the run's nodes; the controller counts them."""
        self.processes = ProcessSummary(generators=0, verifiers=0, learner_ranks=0)
        self._began = self._stood = self._last_step = self._counted = time.monotonic()
        self._employed: Mapping[str, Employed] = {}
        self._usage = {role: (usage.process_seconds, usage.gpu_seconds) for role, usage in self.before.usage.items()}
        self.has_stood = False

    def stands(self, processes: ProcessSummary) -> None:
        """Every actor has started: training begins."""
        self.processes = processes
        self.has_stood = True
        self._stood = self._last_step = time.monotonic()

    def stepped(self, step: int, counts: QueueCounts) -> None:
        """Step `step` was trained."""
        self.steps, self.counts, self._last_step = step, counts, time.monotonic()

    def employs(self, employed: Mapping[str, Employed]) -> None:
        """From now on so many processes work for the run, by role: call it at every change."""
        self._count_usage()
        self._employed = dict(employed)

    @property
    def seconds(self) -> float:
        """While the run had a controller."""
        return self.before.total_seconds + time.monotonic() - self._began

    @property
    def setup_seconds(self) -> float:
        """Of this process's own start."""
        return self._stood - self._began

    @property
    def training_seconds(self) -> float:
        return self.before.training_seconds + self._last_step - self._stood

    @property
    def versions_published(self) -> int:
        return self.before.versions_published + len(self.published)

    @property
    def rollouts_per_second(self) -> float:
        """Trained rollouts over the seconds of training so far."""
        training = self.training_seconds
        return self.counts.consumed / training if self.counts is not None and training > 0 else 0.0

    @property
    def usage(self) -> dict[str, Usage]:
        """By role, until now."""
        self._count_usage()
        return {role: Usage(process_seconds=process, gpu_seconds=gpu) for role, (process, gpu) in self._usage.items()}

    def so_far(self, *, stopped: str | None = None) -> FactsSoFar:
        """What a resume would go on from."""
        return FactsSoFar(
            name=self.name,
            stopped=stopped,
            steps=self.steps,
            num_steps=self.num_steps,
            versions_published=self.versions_published,
            bytes_sent=self._bytes_sent,
            pause_seconds_max=self._longest_pause,
            setup_seconds=self.before.setup_seconds + self.setup_seconds,
            training_seconds=self.training_seconds,
            total_seconds=self.seconds,
            resumes=self.resumes,
            restarts=dict(self.restarts),
            usage=self.usage,
            costs=dict(self.costs),
        )

    @property
    def cost(self) -> CostSummary:
        """Until now."""
        return cost_summary(self.costs, self.counts)

    def accuracy(self, name: str | None, *, step: int) -> float | None:
        """Of one set under one step's newest version; None where it was not measured. After a roll-back a step has a version in each lineage."""
        return next((result.accuracy for result in reversed(self.results) if result.set == name and result.step == step), None)

    def summary(self, *, stopped: str, error: str | None) -> Summary:
        counts = self.counts
        return Summary(
            name=self.name,
            steps=self.steps,
            versions_published=self.versions_published,
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
            seconds=SecondsSummary(
                setup=self.before.setup_seconds + self.setup_seconds,
                training=self.training_seconds,
                total=self.seconds,
            ),
            rollouts_per_second=self.rollouts_per_second,
            weights=WeightSummary(versions=self.versions_published, bytes_sent=self._bytes_sent, pause_seconds_max=self._longest_pause),
            stopped=stopped,
            error=error,
            lineage=self.lineage,
            resumes=self.resumes,
            restarts=dict(self.restarts),
            cost=self.cost,
            usage={role: UsageSummary(process_seconds=usage.process_seconds, gpu_seconds=usage.gpu_seconds) for role, usage in self.usage.items()},
        )

    @property
    def _bytes_sent(self) -> int:
        return self.before.bytes_sent + sum(each.bytes_sent for each in self.published)

    @property
    def _longest_pause(self) -> float:
        return max((self.before.pause_seconds_max, *self.pauses))

    def _count_usage(self) -> None:
        now = time.monotonic()
        for role, employed in self._employed.items():
            process, gpu = self._usage.get(role, (0.0, 0.0))
            passed = now - self._counted
            self._usage[role] = (process + employed.processes * passed, gpu + employed.gpus * passed)
        self._counted = now
