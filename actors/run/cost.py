"""What a run has cost, per million rollouts: for summary.json, `status` and the last lines of `firesteel run`.

Owns the three denominators: rollouts generated (accepted by the queue), verified correct, and trained. Trained is the honest one, since it pays for
whatever was dropped; what the nodes cost is counted by `actors.fleet.cost`.
"""

from collections.abc import Mapping

import msgspec

from actors.queue.records import QueueCounts
from actors.run.history import NodeCost
from rlvr.records import VerdictKind


class CostSummary(msgspec.Struct, frozen=True, kw_only=True):
    """US dollars. `usd` is None where no node had a price; what unpriced nodes cost is not in it."""

    usd: float | None = None
    by_part: dict[str, float] = {}
    unpriced_node_hours: float = 0.0
    usd_per_million_generated: float | None = None
    usd_per_million_correct: float | None = None
    usd_per_million_trained: float | None = None


def cost_summary(costs: Mapping[str, NodeCost], counts: QueueCounts | None) -> CostSummary:
    """costs: by what the nodes are for. counts: None where the queue has not said any."""
    unpriced_hours = sum(cost.unpriced_seconds for cost in costs.values()) / 3600
    if not any(cost.node_seconds > cost.unpriced_seconds for cost in costs.values()):
        return CostSummary(unpriced_node_hours=unpriced_hours)
    usd = sum(cost.usd for cost in costs.values())
    return CostSummary(
        usd=usd,
        by_part={part: cost.usd for part, cost in costs.items()},
        unpriced_node_hours=unpriced_hours,
        usd_per_million_generated=_per_million(usd, counts.accepted if counts else 0),
        usd_per_million_correct=_per_million(usd, counts.verdicts.get(VerdictKind.CORRECT, 0) if counts else 0),
        usd_per_million_trained=_per_million(usd, counts.consumed if counts else 0),
    )


def in_words(cost: CostSummary) -> str | None:
    """One line for people; None where nobody has given a price."""
    if cost.usd is None:
        return None
    parts = ", ".join(f"{part} {usd:.2f}" for part, usd in cost.by_part.items())
    rates = (
        ("generated", cost.usd_per_million_generated),
        ("correct", cost.usd_per_million_correct),
        ("trained", cost.usd_per_million_trained),
    )
    a_million = ", ".join(f"{name} {usd:,.2f}" for name, usd in rates if usd is not None)
    missing = f"; {cost.unpriced_node_hours:.1f} node-hours had no price and are missing" if cost.unpriced_node_hours else ""
    return f"cost: {cost.usd:.2f} USD ({parts}){f'; a million rollouts: {a_million} USD' if a_million else ''}{missing}"


def _per_million(usd: float, rollouts: int) -> float | None:
    return 1e6 * usd / rollouts if rollouts else None
