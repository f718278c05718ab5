"""The catalogue keeps its own rules, and a registry serves it and nothing else."""

import re
import socket
import urllib.request

import pytest
from prometheus_client import CollectorRegistry, Counter, ProcessCollector
from prometheus_client.parser import text_string_to_metric_families

from rlvr.errors import UserError
from rlvr.metrics import CATALOGUE, PORTS, MetricSpec, Registry, Role
from rlvr.records import VerdictKind

UNITS = {"seconds", "bytes", "tokens", "versions", "nats", "ratio", "usd"}


def scrape(port: int) -> dict[str, float]:
    text = urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10).read().decode()
    return {
        sample.name + "".join(f" {key}={value}" for key, value in sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_every_name_is_unique() -> None:
    assert len({spec.name for spec in CATALOGUE}) == len(CATALOGUE)


@pytest.mark.parametrize("spec", CATALOGUE, ids=lambda spec: spec.name)
def test_every_metric_keeps_the_rules_of_names(spec: MetricSpec) -> None:
    assert re.fullmatch(r"rlvr_[a-z]+(_[a-z]+)*", spec.name)
    assert spec.name.endswith("_total") == (spec.kind == "counter")
    assert bool(spec.buckets) == (spec.kind == "histogram")
    assert list(spec.buckets) == sorted(spec.buckets)
    assert spec.help.endswith(".")
    if spec.unit in UNITS and not (spec.unit == "versions" and spec.kind == "counter") and spec.kind != "gauge":
        assert spec.unit in spec.name
    assert not {"role", "replica", "run"} & {label for label, _ in spec.labels}, "these are labels of the target"


def test_a_registry_serves_its_roles_metrics_from_zero_and_its_process() -> None:
    registry = Registry(role="verifier", replica="v0")
    port = registry.serve("127.0.0.1")
    try:
        before = scrape(port)
        registry.counter("rlvr_verdicts_total", kind="correct", stage="cache").inc()
        registry.histogram("rlvr_verify_seconds", stage="worker").observe(0.02)
        registry.gauge("rlvr_verifier_workers").set(3)
        after = scrape(port)
    finally:
        registry.close()
    assert before["rlvr_verdicts_total kind=timeout stage=worker"] == 0.0
    assert before["process_resident_memory_bytes"] > 0
    assert sum(name.startswith("rlvr_verdicts_total") for name in before) == len(VerdictKind) * 3
    assert after["rlvr_verdicts_total kind=correct stage=cache"] == 1.0
    assert after["rlvr_verify_seconds_bucket le=0.1 stage=worker"] == 1.0
    assert after["rlvr_verifier_workers"] == 3.0
    assert not any(name.startswith("rlvr_slots") for name in after)


@pytest.mark.parametrize("role", Role)
def test_every_metric_of_a_role_can_be_set(role: Role) -> None:
    registry = Registry(role=role, replica="r")
    for spec in CATALOGUE:
        if spec.role is role:
            metric = getattr(registry, spec.kind)(spec.name, **{label: next(iter(values)) for label, values in spec.labels})
            metric.observe(1.0) if spec.kind == "histogram" else metric.inc(1.0)


def test_what_the_catalogue_does_not_give_is_refused() -> None:
    registry = Registry(role="verifier", replica="v0")
    for attempt, reason in [
        (lambda: registry.counter("rlvr_verdict_total"), "no counter rlvr_verdict_total for the role verifier"),
        (lambda: registry.gauge("rlvr_slots", state="leased"), "no gauge rlvr_slots for the role verifier"),
        (lambda: registry.gauge("rlvr_verdicts_total", kind="correct"), "no gauge rlvr_verdicts_total"),
        (lambda: registry.counter("rlvr_verdicts_total"), r"has the labels \['kind', 'stage'\], got \[\]"),
        (lambda: registry.counter("rlvr_verdicts_total", kind="nice", stage="cache"), "'nice' is not a valid VerdictKind"),
        (lambda: Registry(role="cook", replica="c0"), "'cook' is not a valid Role"),
    ]:
        with pytest.raises(ValueError, match=reason):
            attempt()


def test_a_counter_is_raised_to_a_total_and_never_falls() -> None:
    registry = Registry(role="queue", replica="queue")
    for total in (3, 5, 5, 2, 6):
        registry.raise_to("rlvr_rollouts_dropped_total", total, reason="stale")
    assert registry.collectors.get_sample_value("rlvr_rollouts_dropped_total", {"reason": "stale"}) == 6.0
    with pytest.raises(ValueError, match="no counter rlvr_slots"):
        registry.raise_to("rlvr_slots", 1)


def test_registries_of_one_process_do_not_meet() -> None:
    first, second = (Registry(role="learner", replica=f"learner-{rank}") for rank in range(2))
    first.gauge("rlvr_learner_step").set(5)
    ports = [first.serve("127.0.0.1"), second.serve("127.0.0.1")]
    try:
        assert [scrape(port)["rlvr_learner_step"] for port in ports] == [5.0, 0.0]
    finally:
        first.close()
        second.close()


def test_actors_of_one_host_take_the_next_free_port() -> None:
    registries = [Registry(role="queue", replica="queue") for _ in range(3)]
    with socket.create_server(("127.0.0.1", 0)) as taken:
        first = taken.getsockname()[1]
        try:
            ports = [registry.serve("127.0.0.1", first) for registry in registries]
        finally:
            for registry in registries:
                registry.close()
    assert first < ports[0] < ports[1] < ports[2] < first + PORTS


def test_ports_that_are_all_in_use_are_the_users_to_know(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rlvr.metrics.PORTS", 1)
    with (
        socket.create_server(("127.0.0.1", 0)) as taken,
        pytest.raises(UserError, match=r"metrics.actor_port: metrics cannot be served on 127.0.0.1, ports (\d+) to \1: Address already in use"),
    ):
        Registry(role="queue", replica="queue").serve("127.0.0.1", taken.getsockname()[1])
    with pytest.raises(UserError, match=r"metrics cannot be served on 203.0.113.1:"):
        Registry(role="queue", replica="queue").serve("203.0.113.1")


def test_a_librarys_own_metrics_are_served_under_their_names_and_nothing_else_of_its_registry() -> None:
    library = CollectorRegistry()
    Counter("vllm:generation_tokens", "Tokens.", registry=library).inc(3)
    Counter("other", "Not asked for.", registry=library).inc()
    ProcessCollector(registry=library)
    registry = Registry(role="generator", replica="generator-0")
    registry.add(library, prefix="vllm:")
    try:
        served = scrape(registry.serve("127.0.0.1"))
    finally:
        registry.close()
    assert served["vllm:generation_tokens_total"] == 3.0
    assert "rlvr_requests_in_flight" in served
    assert not any(name.startswith("other") for name in served)


def test_the_colon_of_a_librarys_names_stays_whatever_a_scraper_would_rather_have() -> None:
    library = CollectorRegistry()
    Counter("vllm:generation_tokens", "Tokens.", registry=library)
    registry = Registry(role="generator", replica="generator-0")
    registry.add(library, prefix="vllm:")
    port = registry.serve("127.0.0.1")
    prometheus_2 = "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,text/plain;version=0.0.4;q=0.5"
    try:
        request = urllib.request.Request(f"http://127.0.0.1:{port}/metrics", headers={"Accept": prometheus_2})
        text = urllib.request.urlopen(request, timeout=10).read().decode()
    finally:
        registry.close()
    assert "\nvllm:generation_tokens_total 0.0\n" in text


def test_a_rank_that_does_not_show_its_facts_serves_its_process_alone() -> None:
    registry = Registry(role="learner", replica="learner-1", shows=False)
    registry.gauge("rlvr_learner_step").set(5)
    try:
        served = scrape(registry.serve("127.0.0.1"))
    finally:
        registry.close()
    assert "process_cpu_seconds_total" in served
    assert not any(name.startswith("rlvr_") for name in served)


def test_closing_twice_or_unserved_does_nothing() -> None:
    registry = Registry(role="queue", replica="queue")
    registry.close()
    registry.serve("127.0.0.1")
    registry.close()
    registry.close()
