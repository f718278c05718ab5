"""Laws of a run's cost for people: dollars over three denominators, and silence rather than an invented figure."""

import msgspec
import pytest

from actors.queue.records import QueueCounts
from actors.queue.rollout_queue import RolloutQueue
from actors.queue.settings import QueueSettings
from actors.run.cost import CostSummary, cost_summary, in_words
from actors.run.history import NodeCost


def counts(**known: object) -> QueueCounts:
    return msgspec.structs.replace(RolloutQueue(QueueSettings(rollouts_per_step=4)).counts(), **known)


PRICED = {"generator": NodeCost(usd=6.0, node_seconds=3600.0), "learner": NodeCost(usd=2.0, node_seconds=3600.0)}


def test_a_million_rollouts_cost_what_the_run_cost_over_what_it_made() -> None:
    cost = cost_summary(PRICED, counts(accepted=4000, consumed=2000, verdicts={"correct": 1000, "wrong": 3000}))
    assert cost.usd == 8.0
    assert cost.by_part == {"generator": 6.0, "learner": 2.0}
    assert cost.usd_per_million_generated == pytest.approx(2000.0)
    assert cost.usd_per_million_correct == pytest.approx(8000.0)
    assert cost.usd_per_million_trained == pytest.approx(4000.0)
    assert in_words(cost) == (
        "cost: 8.00 USD (generator 6.00, learner 2.00); a million rollouts: generated 2,000.00, correct 8,000.00, trained 4,000.00 USD"
    )


def test_before_the_first_rollout_there_is_a_sum_and_no_rate() -> None:
    for known in (None, counts()):
        assert in_words(cost_summary(PRICED, known)) == "cost: 8.00 USD (generator 6.00, learner 2.00)"


def test_a_run_without_prices_says_nothing_of_cost() -> None:
    cost = cost_summary({"shared": NodeCost(node_seconds=7200.0, unpriced_seconds=7200.0)}, counts(consumed=5))
    assert cost == CostSummary(unpriced_node_hours=2.0)
    assert in_words(cost) is None
    assert in_words(cost_summary({}, None)) is None


def test_hours_without_a_price_are_said_beside_the_sum() -> None:
    cost = cost_summary(PRICED | {"verifier": NodeCost(node_seconds=1800.0, unpriced_seconds=1800.0)}, None)
    assert in_words(cost) == "cost: 8.00 USD (generator 6.00, learner 2.00, verifier 0.00); 0.5 node-hours had no price and are missing"
