"""What `firesteel status` shows of a live run, as JSON.

Owns the keys of `/status`. Called by the controller; asks nobody, since every part is looked at anyway.
"""

from collections.abc import Sequence
from typing import Any

import msgspec

from actors.fleet.fleet import Fleet
from actors.run.facts import RunFacts
from actors.run.service import Target
from learner.broadcaster import Membership
from rlvr.config import Config


def run_status(
    config: Config,
    fleet: Fleet,
    facts: RunFacts,
    *,
    state: str,
    started: str,
    targets: Sequence[Target],
    checkpoint: int | None,
    membership: Membership | None,
) -> dict[str, Any]:
    """started: as run.json has it, by which a command knows that this is the run it means. checkpoint: step of the newest durable one. membership:
    the newest epoch of the broadcast."""
    queue = fleet.queue.status if fleet.is_started else None
    pools = (fleet.generators, fleet.verifiers)
    return {
        "name": config.run.name,
        "state": state,
        "started": started,
        "step": facts.steps,
        "num_steps": config.run.num_steps,
        "version": str(facts.published[-1].version) if facts.published else None,
        "rollouts_per_second": facts.rollouts_per_second,
        "seconds": facts.seconds,
        "actors": [msgspec.to_builtins(target) for target in targets],
        "processes": fleet.processes,
        "wanted": {pool.role: pool.wanted for pool in pools},
        "alive": {pool.role: len(pool.standing) for pool in pools},
        "restarts": dict(facts.restarts),
        "lineage": queue.lineage if queue is not None else None,
        "incarnation": queue.incarnation if queue is not None else None,
        "epoch": membership.epoch if membership is not None else None,
        "receivers": list(membership.members) if membership is not None else [],
        "checkpoint": checkpoint,
        "cost": msgspec.to_builtins(facts.cost),
        "queue": msgspec.to_builtins(queue) if queue is not None else None,
        "evaluations": [msgspec.to_builtins(result) for result in facts.results[-4:]],
    }
