"""When a struck part works again: the next fact that proves it, and no hope.

Owns the proofs, role by role. Each is made before the strike from what was seen then, and asked again and again afterwards. Reads; changes nothing.
"""

from collections.abc import Callable, Sequence
from typing import Any

from benchmarks.chaos_parts.processes import Process, is_alive
from benchmarks.chaos_parts.schedule import Kind, Role, Strike
from benchmarks.chaos_parts.sight import Sight, Status, counts_of

FRESH_S = 3.0
"""A worker that the queue has heard of within this is at work."""

Proof = Callable[[Status | None], bool]


def proof_of(strike: Strike, *, replica: str, victim: Process, before: Status | None, sight: Sight) -> Proof:
    """Whether what was struck works again, asked of each status after the strike (after the SIGCONT of a stall).

    generator, engine, verifier: a later incarnation of the replica has called the queue; after a stall also the same one, and work was taken.
    queue: a later incarnation has accepted a rollout. learner: a step was trained, in a later lineage. driver: a step was trained by the resumed run.
    sandbox: a verdict was taken. disk: a rollout was accepted and a step trained.
    """
    if strike.role in (Role.LEARNER, Role.DRIVER):
        trained = _trained(sight, in_later_lineage=strike.kind is not Kind.STALL)
        return lambda _: trained()
    if strike.role is Role.SANDBOX:
        judged = _rises(lambda counts: sum(counts["verdicts"].values()))
        return lambda status: judged(status) and (strike.kind is not Kind.KILL or not is_alive(victim))
    accepted = _rises(lambda counts: counts["accepted"])
    if strike.role is Role.DISK:
        step = _trained(sight, in_later_lineage=False)
        return lambda status: accepted(status) and step()
    if strike.role is Role.QUEUE:
        if strike.kind is Kind.STALL:
            return accepted
        incarnation = ((before or {}).get("queue") or {}).get("incarnation", 0)
        return lambda status: _incarnation(status) > incarnation and accepted(status)
    role = "verifier" if strike.role is Role.VERIFIER else "generator"
    known = newest_incarnation(producers(before), role, replica)
    if strike.kind is Kind.STALL:
        return lambda status: newest_incarnation(producers(status), role, replica) >= known and accepted(status)
    return lambda status: newest_incarnation(producers(status), role, replica) > known


def producers(status: Status | None) -> Sequence[dict[str, Any]]:
    """Who works for the queue, as it knows them."""
    return ((status or {}).get("queue") or {}).get("producers", ())


def newest_incarnation(workers: Sequence[dict[str, Any]], role: str, replica: str) -> int:
    """The highest incarnation of a replica that has called the queue just now; -1 where none has."""
    found = -1
    for worker in workers:
        name, _, number = worker["name"].partition("#")
        if worker["role"] == role and name == replica and not worker["is_expected"] and worker["silent_s"] <= FRESH_S:
            found = max(found, int(number or 0))
    return found


def _incarnation(status: Status | None) -> int:
    return int(((status or {}).get("queue") or {}).get("incarnation", -1))


def _rises(count: Callable[[dict[str, Any]], int]) -> Proof:
    """True once a count is above what it was in the first status that was asked."""
    first: list[int] = []

    def is_higher(status: Status | None) -> bool:
        counts = counts_of(status)
        if counts is None:
            return False
        first.append(count(counts))
        return first[-1] > first[0]

    return is_higher


def _trained(sight: Sight, *, in_later_lineage: bool) -> Callable[[], bool]:
    """True once a step was trained after now; in a later lineage, where what is on its way from the dead one must not count."""
    number, lineage = len(sight.steps()), max((step["lineage"] for step in sight.steps()), default=-1)
    if in_later_lineage:
        return lambda: any(step["lineage"] > lineage for step in reversed(sight.steps()))
    return lambda: len(sight.steps()) > number
