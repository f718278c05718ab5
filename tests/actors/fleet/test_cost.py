"""Laws of the cost: every node alive is paid by its own price, nothing is free because nobody priced it, and what a run has cost it never forgets."""

import logging

import pytest

from actors.fleet import cost as cost_module
from actors.fleet.cost import CostMeter, part_of, price_of
from actors.nodes import Node
from actors.run.history import NodeCost
from rlvr.config import CostConfig
from rlvr.metrics import NodePart, Registry


class Clock:
    def __init__(self) -> None:
        self.time = 100.0

    def monotonic(self) -> float:
        return self.time


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(cost_module, "time", clock)
    return clock


def node(role: str | None = "generator", price: str | None = None, *, gpus: int = 0, draining: bool = False, id: str = "n") -> Node:
    labels = {"rlvr.io/role": role, "rlvr.io/usd-per-hour": price}
    return Node(id=id, labels={name: value for name, value in labels.items() if value is not None}, num_gpus=gpus, is_draining=draining)


def sample(metrics: Registry, name: str, part: str | None = None) -> float:
    value = metrics.collectors.get_sample_value(name, {"part": part} if part else {})
    assert value is not None
    return value


@pytest.mark.parametrize("role", ["controller", "generator", "verifier", "learner"])
def test_a_nodes_part_is_its_role(role: str) -> None:
    assert part_of(node(role)) == role


@pytest.mark.parametrize("role", [None, "", "generators", "queue"])
def test_a_node_of_no_role_or_of_one_that_is_unknown_is_shared(role: str | None) -> None:
    assert part_of(node(role)) == NodePart.SHARED


def test_a_nodes_own_price_goes_before_its_roles() -> None:
    prices = CostConfig(generator_usd_per_hour=3.0)
    assert price_of(node(price="2.50"), prices) == 2.5
    assert price_of(node(price="0"), prices) == 0.0
    assert price_of(node(), prices) == 3.0
    assert price_of(node("verifier"), prices) is None


@pytest.mark.parametrize("label", ["", "two", "-1", "nan", "inf", "2,50", "1_0", " 1", "١"])
def test_a_label_that_is_no_price_prices_nothing_not_even_by_the_role(label: str) -> None:
    assert price_of(node(price=label), CostConfig(generator_usd_per_hour=3.0)) is None


def test_every_node_alive_is_paid_idle_or_draining_for_as_long_as_it_lives(clock: Clock) -> None:
    metrics = Registry("controller", "controller")
    meter = CostMeter(CostConfig(), metrics, before={})
    learner, generator = node("learner", "36", gpus=4), node("generator", "7.2", gpus=1, draining=True)
    clock.time += 10.0
    meter.count([learner, generator, generator])
    clock.time += 10.0
    meter.count([learner])
    assert sample(metrics, "rlvr_cost_usd_total", "learner") == 0.0, "what is not kept yet is not told"
    meter.show(meter.so_far())
    assert sample(metrics, "rlvr_cost_usd_total", "learner") == pytest.approx(0.2)
    assert sample(metrics, "rlvr_cost_usd_total", "generator") == pytest.approx(0.04)
    assert sample(metrics, "rlvr_gpu_seconds_total", "learner") == 80.0
    assert sample(metrics, "rlvr_node_seconds_total", "generator") == 20.0
    assert sample(metrics, "rlvr_nodes", "generator") == 0.0
    assert sample(metrics, "rlvr_nodes", "learner") == 1.0
    assert sample(metrics, "rlvr_cost_usd_per_hour", "learner") == 36.0
    assert sample(metrics, "rlvr_nodes_unpriced") == 0.0


def test_a_node_without_a_price_is_counted_and_its_hours_are_known_to_be_missing(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    metrics = Registry("controller", "controller")
    meter = CostMeter(CostConfig(budget_usd=5.0), metrics, before={})
    nodes = [node(price="10", id="a"), node("verifier", id="b"), node("learner", "ten", id="c")]
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            clock.time += 3600.0
            meter.count(nodes)
    assert sample(metrics, "rlvr_nodes_unpriced") == 2.0
    assert meter.so_far()["verifier"] == NodeCost(usd=0.0, node_seconds=7200.0, unpriced_seconds=7200.0)
    assert meter.so_far()["generator"].usd == pytest.approx(20.0)
    assert sample(metrics, "rlvr_cost_budget_usd") == 5.0
    assert [record.getMessage() for record in caplog.records] == [
        'node=c has the label rlvr.io/usd-per-hour=ten, which is no price; give US dollars an hour, such as "2.50"'
    ]


def test_what_a_run_has_cost_before_is_not_forgotten(clock: Clock) -> None:
    first = CostMeter(CostConfig(), Registry("controller", "controller"), before={})
    clock.time += 3600.0
    first.count([node(price="2", gpus=1)])
    metrics = Registry("controller", "controller")
    second = CostMeter(CostConfig(), metrics, before=first.so_far())
    assert sample(metrics, "rlvr_cost_usd_total", "generator") == pytest.approx(2.0)
    clock.time += 1800.0
    second.count([node(price="2", gpus=1)])
    assert second.so_far()["generator"] == NodeCost(usd=pytest.approx(3.0), node_seconds=5400.0, gpu_seconds=5400.0)
