"""What the run's nodes cost: dollars, node-seconds and GPU-seconds, by what each node is for.

Owns the price of a node and the sum over time. A node is paid for as long as Ray sees it alive, whether it works, idles, loads or drains: that is
what is billed. Its price is its label `rlvr.io/usd-per-hour`, else the configuration's for its role; a node without either is counted as unpriced,
never as free. Not seen: pods that wait for a node, and the time between a controller's death and its successor's start. Called by the fleet; asks
nobody.
"""

import logging
import re
import time
from collections import Counter
from collections.abc import Mapping, Sequence

from actors.nodes import Node
from actors.run.history import NodeCost
from rlvr.config import CostConfig
from rlvr.metrics import NodePart, Registry

logger = logging.getLogger(__name__)

ROLE_LABEL = "rlvr.io/role"
PRICE_LABEL = "rlvr.io/usd-per-hour"
PRICE = re.compile(r"[0-9]+(\.[0-9]+)?")


def part_of(node: Node) -> NodePart:
    """What a node is for; one without the label, or with a role that we do not know, is shared."""
    role = node.labels.get(ROLE_LABEL)
    return next((part for part in NodePart if part.value == role), NodePart.SHARED)


def price_of(node: Node, prices: CostConfig) -> float | None:
    """US dollars an hour; None where nobody gave a price, or the label is no number."""
    label = node.labels.get(PRICE_LABEL)
    if label is None:
        fallback: float | None = getattr(prices, f"{part_of(node)}_usd_per_hour")
        return fallback
    return float(label) if PRICE.fullmatch(label) else None


class CostMeter:
    """Adds up from its making on; `before` is what the run had cost until then."""

    def __init__(self, prices: CostConfig, metrics: Registry, *, before: Mapping[str, NodeCost]) -> None:
        self._prices = prices
        self._metrics = metrics
        self._costs = {part.value: before.get(part.value, NodeCost()) for part in NodePart}
        self._counted = time.monotonic()
        self._told: set[str] = set()
        self.num_unpriced = 0
        metrics.gauge("rlvr_cost_budget_usd").set(prices.budget_usd)
        self.show(self._costs)

    def count(self, nodes: Sequence[Node]) -> None:
        """These nodes live now: they have cost what they cost since the last call."""
        now = time.monotonic()
        seconds, self._counted = now - self._counted, now
        alive: Counter[str] = Counter()
        an_hour = dict.fromkeys(self._costs, 0.0)
        self.num_unpriced = 0
        for node in nodes:
            part, price = part_of(node).value, price_of(node, self._prices)
            alive[part] += 1
            an_hour[part] += price or 0.0
            self._costs[part] = self._costs[part].after(seconds, num_gpus=node.num_gpus, usd_per_hour=price)
            if price is None:
                self.num_unpriced += 1
                self._tell(node)
        self._metrics.gauge("rlvr_nodes_unpriced").set(self.num_unpriced)
        for part in NodePart:
            self._metrics.gauge("rlvr_nodes", part=part.value).set(alive[part.value])
            self._metrics.gauge("rlvr_cost_usd_per_hour", part=part.value).set(an_hour[part.value])

    def so_far(self) -> dict[str, NodeCost]:
        """By part, those alone that the run has had."""
        return {part: cost for part, cost in self._costs.items() if cost.node_seconds > 0}

    def show(self, costs: Mapping[str, NodeCost]) -> None:
        """Raise the counters to these totals, which are kept by now: a counter that came back lower would look like one that began anew at 0, and all
        that the run ever cost like the cost of that moment."""
        for part, cost in costs.items():
            self._metrics.raise_to("rlvr_cost_usd_total", cost.usd, part=part)
            self._metrics.raise_to("rlvr_node_seconds_total", cost.node_seconds, part=part)
            self._metrics.raise_to("rlvr_gpu_seconds_total", cost.gpu_seconds, part=part)

    def _tell(self, node: Node) -> None:
        """Once a node: a price that cannot be read is the user's mistake; none at all is usual on a laptop."""
        label = node.labels.get(PRICE_LABEL)
        if label is not None and node.id not in self._told:
            self._told.add(node.id)
            logger.warning('node=%s has the label %s=%s, which is no price; give US dollars an hour, such as "2.50"', node.id, PRICE_LABEL, label)
