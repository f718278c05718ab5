"""The metric catalogue, and the registry that serves it.

Owns every metric's name, kind, unit, help and labels; an actor sets a metric where the fact is known and can set no other. Target labels (role,
replica) come from service discovery, not from here. Names carry base units; labels come from an enum, never from an id.
"""

import enum
import errno
import itertools
from collections.abc import Iterator
from typing import Any, Literal, TypeVar

import msgspec
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, disable_created_metrics
from prometheus_client import Metric as PromMetric
from prometheus_client.registry import Collector

from rlvr.errors import UserError
from rlvr.metrics_server import MetricsServer
from rlvr.records import DropReason, FinishReason, PartialFate, VerdictKind, WorkerLoss


class Role(enum.StrEnum):
    CONTROLLER = "controller"
    QUEUE = "queue"
    GENERATOR = "generator"
    VERIFIER = "verifier"
    LEARNER = "learner"


class LossCause(enum.StrEnum):
    """Why a process of the run was replaced."""

    DIED = "died"  # it ended, or raised
    HUNG = "hung"  # it gave no sign of life
    DRAINED = "drained"  # its node goes away


class SlotState(enum.StrEnum):
    LEASED = "leased"
    GENERATED = "generated"
    VERIFIED = "verified"
    CONSUMED = "consumed"  # trained, or being trained, by weights that no generator has applied yet


class VerifyStage(enum.StrEnum):
    CACHE = "cache"
    PARENT = "parent"
    WORKER = "worker"


class RunState(enum.StrEnum):
    """What the run is doing, or how it ended."""

    STARTING = "starting"
    TRAINING = "training"
    EVALUATING = "evaluating"  # after the last step
    FINISHED = "finished"
    INTERRUPTED = "interrupted"  # stopped as told, by a signal or `firesteel stop`
    FAILED = "failed"


class NodePart(enum.StrEnum):
    """What a node of the cluster is for, as its label rlvr.io/role says."""

    CONTROLLER = "controller"
    GENERATOR = "generator"
    VERIFIER = "verifier"
    LEARNER = "learner"
    SHARED = "shared"  # without that label, such as a laptop


class EvalSplit(enum.StrEnum):
    TRAIN = "train"  # the training problems
    HELD_OUT = "held_out"  # the first greedy evaluation set


PORTS = 100
"""Ports that an actor tries, from the first one on: many may run on one host."""

Kind = Literal["counter", "gauge", "histogram"]


class MetricSpec(msgspec.Struct, frozen=True, kw_only=True):
    """One metric. labels: name and enum of each. role: who sets it. buckets: upper bounds of a histogram."""

    name: str
    kind: Kind
    unit: str
    help: str
    role: Role
    labels: tuple[tuple[str, type[enum.StrEnum]], ...] = ()
    buckets: tuple[float, ...] = ()


_SECONDS = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0, 3000.0)
_FINE_SECONDS = (0.00001, 0.00003, 0.0001, 0.0003, 0.001, 0.01, 0.1, 0.5, 1.0, 1.5, 3.0)
_TOKENS = (8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0, 2048.0, 4096.0, 8192.0, 16384.0, 32768.0)
_VERSIONS = (*map(float, range(17)),)


def _specs(role: Role, *rows: tuple[Any, ...]) -> Iterator[MetricSpec]:
    """A role's rows: kind, name, unit, help; then, where they apply, labels as a dict of enums, and buckets as a tuple."""
    for kind, name, unit, text, *more in rows:
        labels = next((tuple(part.items()) for part in more if isinstance(part, dict)), ())
        buckets = next((part for part in more if isinstance(part, tuple)), ())
        yield MetricSpec(name=name, kind=kind, unit=unit, help=text, role=role, labels=labels, buckets=buckets)


_QUEUE = _specs(
    Role.QUEUE,
    ("gauge", "rlvr_slots", "slots", "Slots taken, by the state of their rollout.", {"state": SlotState}),
    ("gauge", "rlvr_slots_limit", "slots", "Slots that may be taken at once: (max_staleness + 1) * rollouts per step."),
    ("gauge", "rlvr_max_staleness_versions", "versions", "The configured bound on staleness; 0 = on-policy."),
    ("counter", "rlvr_rollouts_accepted_total", "rollouts", "Rollouts accepted from generators; equals trained + dropped + held."),
    ("counter", "rlvr_rollouts_trained_total", "rollouts", "Rollouts handed to the learner in a batch."),
    ("counter", "rlvr_rollouts_dropped_total", "rollouts", "Accepted rollouts that will not train, by reason.", {"reason": DropReason}),
    ("counter", "rlvr_tokens_dropped_total", "tokens", "Completion tokens of dropped rollouts, by reason.", {"reason": DropReason}),
    ("counter", "rlvr_rollouts_refused_total", "rollouts", "Rollouts refused because their lease is gone or their id is known."),
    ("counter", "rlvr_rollouts_missing_total", "rollouts", "Members that groups lacked when they trained."),
    ("gauge", "rlvr_rollouts_held", "rollouts", "Accepted rollouts that are neither trained nor dropped yet."),
    ("counter", "rlvr_leases_expired_total", "leases", "Leases taken back at their deadline or from a worker that died."),
    ("gauge", "rlvr_generators_waiting", "generators", "Generators that wait for a lease: back-pressure of the staleness bound."),
    ("gauge", "rlvr_unverified_rollouts", "rollouts", "Rollouts that wait for a verifier."),
    ("gauge", "rlvr_queue_oldest_seconds", "seconds", "Age of the oldest rollout held."),
    ("histogram", "rlvr_rollout_staleness_versions", "versions", "Staleness of the rollouts of each batch.", _VERSIONS),
    ("histogram", "rlvr_accepted_completion_tokens", "tokens", "Completion length of the accepted rollouts.", _TOKENS),
    ("histogram", "rlvr_trained_completion_tokens", "tokens", "Completion length of the trained rollouts.", _TOKENS),
    ("gauge", "rlvr_lineage", "lineages", "The surviving lineage: how often the run was rolled back to a checkpoint."),
    ("gauge", "rlvr_queue_incarnation", "starts", "How often the queue has started before in this run."),
    (
        "counter",
        "rlvr_partials_total",
        "rollouts",
        "Unfinished completions handed back by leaving generators, by what became of them.",
        {"fate": PartialFate},
    ),
    ("counter", "rlvr_journal_bytes_total", "bytes", "Bytes appended to the journal."),
    ("gauge", "rlvr_journal_size_bytes", "bytes", "Bytes of the journal's segments that no checkpoint covers yet."),
    ("histogram", "rlvr_journal_commit_seconds", "seconds", "Seconds of one group commit of the journal.", _SECONDS),
    ("counter", "rlvr_journal_errors_total", "errors", "Group commits that failed and were tried again."),
    ("counter", "rlvr_journal_torn_bytes_total", "bytes", "Bytes of a torn tail that a replay has cut."),
)
_GENERATOR = _specs(
    Role.GENERATOR,
    ("counter", "rlvr_tokens_generated_total", "tokens", "Completion tokens sampled."),
    ("counter", "rlvr_rollouts_generated_total", "rollouts", "Completions finished, by why they ended.", {"finish_reason": FinishReason}),
    ("histogram", "rlvr_completion_tokens", "tokens", "Length of the sampled completions.", _TOKENS),
    ("histogram", "rlvr_rollout_seconds", "seconds", "Seconds of one completion.", _SECONDS),
    ("gauge", "rlvr_requests_in_flight", "requests", "Completions being sampled."),
    ("counter", "rlvr_generator_idle_seconds_total", "seconds", "Seconds without anything to sample: back-pressure of the staleness bound."),
    ("counter", "rlvr_generator_evaluation_seconds_total", "seconds", "Seconds for which this generator evaluated and took no leases."),
    ("gauge", "rlvr_policy_version", "steps", "Step of the policy version that the engine samples from."),
    ("counter", "rlvr_weights_applied_total", "versions", "Policy versions applied."),
    ("histogram", "rlvr_weight_pause_seconds", "seconds", "Seconds for which sampling stood while weights were applied.", _SECONDS),
    ("gauge", "rlvr_generator_lineage", "lineages", "Lineage of the policy version that the engine samples from."),
    ("counter", "rlvr_broadcast_joins_total", "joins", "Times that this generator has joined a sender of weights."),
    ("counter", "rlvr_completions_continued_total", "rollouts", "Completions that another generator had begun."),
)
_VERIFIER = _specs(
    Role.VERIFIER,
    (
        "counter",
        "rlvr_verdicts_total",
        "verdicts",
        "Verdicts by kind and by where they were decided.",
        {"kind": VerdictKind, "stage": VerifyStage},
    ),
    ("histogram", "rlvr_verify_seconds", "seconds", "Seconds of one verdict, by where it was decided.", {"stage": VerifyStage}, _FINE_SECONDS),
    ("counter", "rlvr_verifier_kills_total", "processes", "Children given up, by why.", {"reason": WorkerLoss}),
    ("counter", "rlvr_verdicts_misjudged_total", "verdicts", "Verdicts that came out otherwise when the child that gave them was found broken."),
    ("counter", "rlvr_verifier_retries_total", "verdicts", "Comparisons asked again of a fresh child."),
    ("gauge", "rlvr_verifier_workers", "processes", "Children ready or busy."),
    ("gauge", "rlvr_verifier_waiting", "comparisons", "Comparisons that wait for a child."),
)
_LEARNER = _specs(
    Role.LEARNER,
    ("gauge", "rlvr_learner_step", "steps", "Steps trained."),
    ("gauge", "rlvr_learner_step_timestamp_seconds", "seconds", "Unix time at which the last step ended; 0 before the first."),
    ("gauge", "rlvr_published_version", "steps", "Step of the newest published policy version."),
    (
        "gauge",
        "rlvr_learner_waiting_seconds",
        "seconds",
        "Seconds for which the learner has waited for the batch that it asks for now; 0 while it trains.",
    ),
    ("counter", "rlvr_learner_wait_seconds_total", "seconds", "Seconds for which the learner waited for a batch."),
    ("counter", "rlvr_tokens_trained_total", "tokens", "Completion tokens of trained rollouts; per rollout, the mean length trained."),
    ("histogram", "rlvr_train_seconds", "seconds", "Seconds of one training step.", _SECONDS),
    ("gauge", "rlvr_reward_mean", "reward", "Mean reward of the last batch."),
    ("gauge", "rlvr_uniform_groups_ratio", "ratio", "Share of the last batch's groups whose rewards are all equal, so that they teach nothing."),
    ("gauge", "rlvr_truncated_ratio", "ratio", "Share of the last batch's completions that were cut at a limit."),
    ("gauge", "rlvr_loss", "nats", "Loss of the last step."),
    ("gauge", "rlvr_entropy_nats", "nats", "Mean entropy of a completion token in the last step."),
    ("gauge", "rlvr_kl_nats", "nats", "Mean KL to the reference of a completion token in the last step."),
    ("gauge", "rlvr_clipped_tokens_ratio", "ratio", "Share of the last step's tokens whose ratio was clipped."),
    ("gauge", "rlvr_logprob_gap_nats", "nats", "Mean absolute gap between the sampler's and the learner's logprobs in the last step."),
    ("gauge", "rlvr_gradient_norm", "norm", "Largest global gradient norm of the last step, before clipping."),
    ("gauge", "rlvr_learning_rate", "rate", "Learning rate of the last step."),
    ("histogram", "rlvr_weight_broadcast_seconds", "seconds", "Seconds from the start of a broadcast to the last receiver's digest.", _SECONDS),
    ("counter", "rlvr_weight_bytes_sent_total", "bytes", "Bytes of weights broadcast."),
    ("histogram", "rlvr_checkpoint_seconds", "seconds", "Seconds from the start of a checkpoint until it is durable.", _SECONDS),
    ("histogram", "rlvr_checkpoint_pause_seconds", "seconds", "Seconds for which training stood for a checkpoint.", _SECONDS),
    ("gauge", "rlvr_checkpoint_step", "steps", "Step of the newest durable checkpoint."),
    ("gauge", "rlvr_checkpoint_every_steps", "steps", "Steps between checkpoints, as configured; 0 = only at the end."),
    ("gauge", "rlvr_checkpoint_timestamp_seconds", "seconds", "Unix time at which the newest checkpoint became durable; 0 before the first."),
    ("counter", "rlvr_checkpoint_failures_total", "checkpoints", "Checkpoints that could not be written, or were found damaged."),
    ("gauge", "rlvr_weight_epoch", "epochs", "Epoch of the broadcast group: how often it was formed."),
    ("gauge", "rlvr_weight_receivers", "receivers", "Members of the broadcast group, without the sender."),
    ("counter", "rlvr_weight_receivers_lost_total", "receivers", "Receivers that a broadcast has lost."),
    ("histogram", "rlvr_version_log_seconds", "seconds", "Seconds of one entry of the version log.", _SECONDS),
)
_CONTROLLER = _specs(
    Role.CONTROLLER,
    ("gauge", "rlvr_run_state", "states", "1 for what the run is doing or how it ended, 0 for the rest.", {"state": RunState}),
    ("gauge", "rlvr_actors", "actors", "Actors alive, by part.", {"part": Role}),
    ("gauge", "rlvr_actors_wanted", "actors", "Actors that there should be, by part.", {"part": Role}),
    ("counter", "rlvr_restarts_total", "actors", "Actors replaced, by part and cause.", {"part": Role, "cause": LossCause}),
    ("histogram", "rlvr_recovery_seconds", "seconds", "Seconds from noticing a loss until the replacement works, by part.", {"part": Role}, _SECONDS),
    ("gauge", "rlvr_nodes_draining", "nodes", "Ray nodes that are going away."),
    ("gauge", "rlvr_nodes", "nodes", "Ray nodes alive, by what they are for.", {"part": NodePart}),
    ("gauge", "rlvr_nodes_unpriced", "nodes", "Ray nodes alive whose price nobody gave: their cost is missing from the total."),
    ("counter", "rlvr_node_seconds_total", "seconds", "Seconds for which nodes were alive, idle or not; kept over restarts.", {"part": NodePart}),
    ("counter", "rlvr_gpu_seconds_total", "seconds", "The same, times the GPUs of the node.", {"part": NodePart}),
    ("counter", "rlvr_cost_usd_total", "usd", "US dollars that the nodes have cost; kept over restarts.", {"part": NodePart}),
    ("gauge", "rlvr_cost_usd_per_hour", "usd", "US dollars that the nodes alive cost in an hour.", {"part": NodePart}),
    ("gauge", "rlvr_cost_budget_usd", "usd", "US dollars that the run may cost, as configured; 0 = no budget."),
    ("gauge", "rlvr_accuracy_ratio", "ratio", "Accuracy of the newest evaluation.", {"split": EvalSplit}),
    ("gauge", "rlvr_evaluated_version", "steps", "Step of the version that the newest evaluation measured.", {"split": EvalSplit}),
    ("histogram", "rlvr_evaluation_seconds", "seconds", "Seconds of one evaluation.", _SECONDS),
)
CATALOGUE: tuple[MetricSpec, ...] = (*_QUEUE, *_GENERATOR, *_VERIFIER, *_LEARNER, *_CONTROLLER)

_BY_NAME = {spec.name: spec for spec in CATALOGUE}
Metric = TypeVar("Metric", Counter, Gauge, Histogram)


class Registry:
    """The metrics of one actor: those of its role, all at zero from the start, and those of its process."""

    def __init__(self, role: str, replica: str, *, shows: bool = True) -> None:
        """shows: False = only the process is served, as of a learner rank whose facts rank 0 tells: gauges must not be told twice."""
        disable_created_metrics()  # type: ignore[no-untyped-call]  # a third of all series, and nobody asks when a counter was made
        self.role, self.replica = Role(role), replica
        self.collectors = CollectorRegistry()
        shown = self.collectors if shows else CollectorRegistry()
        self._metrics = {spec.name: _make(spec, shown) for spec in CATALOGUE if spec.role == self.role}
        self._totals: dict[tuple[object, ...], float] = {}
        self._server: MetricsServer | None = None
        ProcessCollector(registry=self.collectors)

    def counter(self, name: str, **labels: str) -> Counter:
        """The counter of that name. Raises ValueError for a name or label that the catalogue does not give this role."""
        return self._find(Counter, name, labels)

    def gauge(self, name: str, **labels: str) -> Gauge:
        """The gauge of that name, with the same refusals."""
        return self._find(Gauge, name, labels)

    def histogram(self, name: str, **labels: str) -> Histogram:
        """The histogram of that name, with the same refusals."""
        return self._find(Histogram, name, labels)

    def raise_to(self, name: str, total: float, **labels: str) -> None:
        """Bring a counter to a total that somebody else counts; a lower total, as after a restart, changes nothing."""
        key = (name, *sorted(labels.items()))
        growth = total - self._totals.get(key, 0.0)
        if growth > 0:
            self.counter(name, **labels).inc(growth)
            self._totals[key] = total

    def add(self, others: CollectorRegistry, *, prefix: str) -> None:
        """Serve the metrics of another registry too, those whose names begin with `prefix`: a library's own, under their public names."""
        self.collectors.register(_Others(others, prefix))

    def serve(self, bind: str, first_port: int = 0) -> int:
        """Serve `/metrics` on a thread, on the first free one of PORTS ports from `first_port`; 0 = on any free one. Returns the port.

        Raises UserError where there is none, or `bind` is no address of this machine.
        """
        candidates = range(first_port, min(first_port + PORTS, 65536)) if first_port else range(1)
        for port in candidates:
            try:
                self._server = MetricsServer(self.collectors, bind, port)
            except OSError as error:
                if error.errno == errno.EADDRINUSE and port != candidates[-1]:
                    continue
                where = f"{bind}, ports {candidates[0]} to {candidates[-1]}" if first_port else bind
                raise UserError(f"metrics.bind and metrics.actor_port: metrics cannot be served on {where}: {error.strerror or error}") from error
            return self._server.port
        raise AssertionError("a range of ports is never empty")

    def close(self) -> None:
        """Stop serving; without effect where nothing is served."""
        if self._server is not None:
            self._server.close()
            self._server = None

    def _find(self, kind: type[Metric], name: str, labels: dict[str, str]) -> Metric:
        metric = self._metrics.get(name)
        if not isinstance(metric, kind):
            raise ValueError(f"the catalogue has no {kind.__name__.lower()} {name} for the role {self.role}")
        spec = _BY_NAME[name]
        if labels.keys() != dict(spec.labels).keys():
            raise ValueError(f"{name} has the labels {list(dict(spec.labels))}, got {list(labels)}")
        if not labels:
            return metric
        return metric.labels(**{label: values(labels[label]).value for label, values in spec.labels})


class _Others(Collector):
    """The families of another registry whose names begin with a prefix."""

    def __init__(self, others: CollectorRegistry, prefix: str) -> None:
        self._others, self._prefix = others, prefix

    def collect(self) -> Iterator[PromMetric]:
        return (family for family in self._others.collect() if family.name.startswith(self._prefix))


def _make(spec: MetricSpec, collectors: CollectorRegistry) -> Counter | Gauge | Histogram:
    """One metric with every label value present, so that a rate of what has not happened yet is 0 and not absent."""
    names = [label for label, _ in spec.labels]
    metric: Counter | Gauge | Histogram
    if spec.kind == "histogram":
        metric = Histogram(spec.name, spec.help, names, buckets=spec.buckets, registry=collectors)
    else:
        metric = (Counter if spec.kind == "counter" else Gauge)(spec.name, spec.help, names, registry=collectors)
    for values in itertools.product(*(values for _, values in spec.labels)) if names else ():
        metric.labels(*(value.value for value in values))
    return metric
