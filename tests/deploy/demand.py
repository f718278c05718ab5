"""A driver that asks a cluster for the actors of a run and says which nodes there are. Commands come as lines of JSON, as do answers.

`{"generators": 3}` makes or ends actors until there are so many; the keys are generators, verifiers, ranks. Each line is answered by the live nodes.
The actors ask for the resources and labels that those of deploy/base/run.toml ask for, and have no engine, sandbox or model in them.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

import msgspec
import ray

from actors import cluster, nodes
from actors.fleet import blueprints
from actors.fleet.blueprints import Blueprints
from actors.prepare import Plan
from actors.run.store_actor import StoreAddress
from rlvr.config import Config
from rlvr.config_file import load_config

RUN_FILE = Path(__file__).resolve().parents[2] / "deploy" / "base" / "run.toml"


class Placeholder:
    """Takes an actor's place."""


def blueprints_of(config: Config) -> Blueprints:
    plan = Plan(
        problems=(),
        prompts={},
        golds={},
        evaluation=(),
        stop_token_ids=(),
        evaluation_stop_token_ids=(),
        evaluation_max_tokens=1,
        max_model_len=1,
        rollouts_per_step=1,
    )
    here = cluster.connect(config, namespace="demand")
    return Blueprints(config, plan, here, store=StoreAddress(kind="folder", where="", is_shared=True, node_id=""), journal="")


def main() -> None:
    blueprints.spawn = lambda actor, *arguments, **options: cluster.spawn(Placeholder, **options)  # the options are real, the class is not
    made = blueprints_of(load_config(RUN_FILE, ()))
    make = {
        "generators": lambda name: made.make_generator(name, name, 0, queue=None, node_id=None),
        "verifiers": lambda name: made.make_verifier(name, name),
        "ranks": lambda name: made.make_rank(int(name.rpartition("-")[2]), name),
    }
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # Ray's news of the cluster go there
    actors: dict[str, list[Any]] = {role: [] for role in make}
    for line in sys.stdin:
        for role, number in json.loads(line).items():
            while len(actors[role]) > number:
                ray.kill(actors[role].pop())
            while len(actors[role]) < number:
                actors[role].append(make[role](f"{role}-{len(actors[role])}"))
        answers.write(json.dumps(msgspec.to_builtins(nodes.live_nodes())) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
