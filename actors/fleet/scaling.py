"""How many workers there should be, and where: pure decisions.

Owns three rules: generators that follow the cluster's nodes, generators that follow what the run's metrics say, and what a person may ask for.
Called by the fleet; waits for nothing, starts nothing.
"""

from collections.abc import Iterable, Mapping, Sequence

import msgspec

from actors.nodes import Node, engines_of, matches
from rlvr.config import GeneratorsConfig, VerifiersConfig
from rlvr.errors import UserError

WINDOW_S = 120.0
"""A share is looked at over so long, and after a change for so long again."""
LEARNER_WAITS = 0.2
"""More generators where the learner waits for longer than this share of its time."""
QUEUE_FULL = 0.8
"""Fewer where the slots were all taken at more than this share of the looks, while the learner hardly waited."""
HARDLY_WAITS = 0.05

Seat = tuple[str, int]
"""A node and one of its engines."""


def follow_nodes(
    nodes: Sequence[Node], seats: Mapping[Seat, str], *, labels: Mapping[str, str], device: str, tensor_parallel: int, most: int
) -> dict[Seat, str]:
    """One replica for each engine that the labelled, live and not draining nodes hold; who has a seat keeps it. At most `most`."""
    wanted = [
        (node.id, index)
        for node in nodes
        if not node.is_draining and matches(node.labels, labels)
        for index in range(engines_of(node, device=device, tensor_parallel=tensor_parallel))
    ]
    kept = {seat: seats[seat] for seat in wanted if seat in seats}
    free = (name for index in range(len(wanted) + len(kept)) if (name := f"generator-{index}") not in kept.values())
    taken = dict(kept)
    for seat in wanted:
        if len(taken) >= most:
            break
        if seat not in taken:
            taken[seat] = next(free)
    return taken


class Look(msgspec.Struct, frozen=True):
    """The run at one moment. waited_s: seconds that the learner has waited so far. is_full: all slots were taken."""

    at_s: float
    waited_s: float
    is_full: bool


def next_count(count: int, looks: Sequence[Look], *, changed_at_s: float, least: int, most: int) -> int:
    """The number of generators that the last window asks for: one more, one fewer, or as many as there are."""
    newest = looks[-1]
    window = [look for look in looks if look.at_s >= newest.at_s - WINDOW_S]
    spanned_s = newest.at_s - window[0].at_s
    if spanned_s < WINDOW_S * 0.9 or newest.at_s - changed_at_s < WINDOW_S:
        return min(max(count, least), most)
    waits = (newest.waited_s - window[0].waited_s) / spanned_s
    full = sum(look.is_full for look in window) / len(window)
    step = 1 if waits > LEARNER_WAITS else -1 if full > QUEUE_FULL and waits < HARDLY_WAITS else 0
    return min(max(count + step, least), most)


def check_asked(generators: int | None, verifiers: int | None, *, config: GeneratorsConfig, of_verifiers: VerifiersConfig) -> None:
    """Refuse what a person may not ask for. Raises UserError with one sentence."""
    if generators is not None:
        if config.count == "auto":
            raise UserError(
                'generators.count = "auto": the cluster\'s nodes say how many generators there are; add or remove nodes labelled '
                f"{_labels(config.labels)}, or run with a number"
            )
        if config.scaling == "metrics":
            raise UserError('generators.scaling = "metrics" decides how many generators there are; run with "manual" to decide by hand')
        _check("generators", generators, config.min, config.max, keys="generators.min and generators.max")
    if verifiers is not None:
        _check("verifiers", verifiers, 1, of_verifiers.max, keys="verifiers.max")


def _check(what: str, number: int, least: int, most: int, *, keys: str) -> None:
    if not least <= number <= most:
        raise UserError(f"--{what} must lie between {least} and {most} in this run, got {number}; see {keys} of its run file")


def _labels(labels: Mapping[str, str]) -> str:
    return ", ".join(f"{name}={value}" for name, value in labels.items()) or "(any: generators.labels is empty)"


def seats_by_replica(seats: Mapping[Seat, str]) -> dict[str, str | None]:
    """Replica → the node that it is pinned to."""
    return {replica: node_id for (node_id, _), replica in seats.items()}


def is_full(slots: Mapping[str, int], capacity: int) -> bool:
    return sum(slots.values()) >= capacity


def trimmed(looks: Iterable[Look], now_s: float) -> list[Look]:
    """What a window can still hold."""
    return [look for look in looks if look.at_s >= now_s - 2 * WINDOW_S]
