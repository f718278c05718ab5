"""What the processes of a run would serve, without a run: a registry of each role whose metrics move.

It makes data for tests of the queries; whether a real run sets the metrics is for other tests to say. Every metric of the catalogue moves, so that a
new one is covered from the start; vLLM's are made by hand, under the names and types that an engine exposes, and served as a generator serves them.
"""

import itertools
import time
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from rlvr.metrics import CATALOGUE, MetricSpec, Registry, Role, RunState

REPLICAS = {Role.CONTROLLER: 1, Role.QUEUE: 1, Role.GENERATOR: 3, Role.VERIFIER: 2, Role.LEARNER: 1}
VLLM_COUNTERS = ("num_preemptions", "prefix_cache_hits", "prefix_cache_queries", "prompt_tokens", "generation_tokens")
VLLM_GAUGES = ("kv_cache_usage_perc", "num_requests_running", "num_requests_waiting")
VLLM_HISTOGRAMS = ("time_to_first_token_seconds", "inter_token_latency_seconds")


class SimulatedRun:
    """Target groups as service discovery gives them, and one tick of all metrics."""

    def __init__(self, name: str) -> None:
        self.name, self.step = name, 0
        self.registries = [Registry(role, f"{role}-{number}") for role, count in REPLICAS.items() for number in range(count)]
        self._engines = [_Engine(registry) for registry in self.registries if registry.role is Role.GENERATOR]
        self.targets: list[dict[str, Any]] = []

    def __enter__(self) -> "SimulatedRun":
        for registry in self.registries:
            target = f"127.0.0.1:{registry.serve('127.0.0.1')}"
            self.targets.append({"targets": [target], "labels": {"run": self.name, "role": registry.role.value, "replica": registry.replica}})
        return self

    def __exit__(self, *_: object) -> None:
        for registry in self.registries:
            registry.close()

    def tick(self) -> None:
        """One more step: counters grow, gauges move, histograms observe."""
        self.step += 1
        for registry, spec in itertools.product(self.registries, CATALOGUE):
            if spec.role is registry.role:
                for values in itertools.product(*(values for _, values in spec.labels)):
                    self._move(registry, spec, dict(zip((label for label, _ in spec.labels), values, strict=True)))
        for engine in self._engines:
            engine.tick(self.step)

    def _move(self, registry: Registry, spec: MetricSpec, labels: dict[str, str]) -> None:
        if spec.kind == "counter":
            registry.counter(spec.name, **labels).inc(0.2 if spec.unit == "seconds" else 4.0)
        elif spec.kind == "histogram":
            registry.histogram(spec.name, **labels).observe(spec.buckets[self.step % 4])
        else:
            registry.gauge(spec.name, **labels).set(self._level(spec, labels))

    def _level(self, spec: MetricSpec, labels: dict[str, str]) -> float:
        if spec.name == "rlvr_run_state":
            return float(labels["state"] == RunState.TRAINING)
        if spec.name.endswith("_timestamp_seconds"):
            return time.time()
        if spec.name in ("rlvr_learner_step", "rlvr_published_version", "rlvr_policy_version", "rlvr_evaluated_version"):
            return float(self.step)
        return {"rlvr_slots_limit": 64.0, "rlvr_checkpoint_every_steps": 20.0, "rlvr_cost_budget_usd": 100.0}.get(spec.name, 1.0 + self.step % 3)


class _Engine:
    """vLLM's metrics, as far as the dashboard asks for them."""

    def __init__(self, generator: Registry) -> None:
        own = CollectorRegistry()
        self._counters = [Counter(f"vllm:{name}", name, registry=own) for name in VLLM_COUNTERS]
        self._gauges = [Gauge(f"vllm:{name}", name, registry=own) for name in VLLM_GAUGES]
        self._histograms = [Histogram(f"vllm:{name}", name, registry=own) for name in VLLM_HISTOGRAMS]
        generator.add(own, prefix="vllm:")

    def tick(self, step: int) -> None:
        for counter in self._counters:
            counter.inc(10)
        for gauge in self._gauges:
            gauge.set(0.1 * (step % 10))
        for histogram in self._histograms:
            histogram.observe(0.05)
