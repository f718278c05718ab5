"""The Ray nodes of a run: which are alive, which go away, and how a process on one of them is killed for certain.

Owns what the fleet asks of Ray about nodes; each call blocks for a moment, so the fleet makes them in threads. Decides nothing.
"""

import contextlib
import logging
import os
import signal
import time
from collections.abc import Mapping
from typing import Any

import msgspec
import ray
from ray._private.state import state as ray_state
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

logger = logging.getLogger(__name__)

ENDS_S = 2.0
"""An actor that Ray ends is gone by then."""


class Node(msgspec.Struct, frozen=True, kw_only=True):
    """One live node."""

    id: str
    labels: dict[str, str]
    num_gpus: int
    is_draining: bool


def live_nodes() -> list[Node]:
    """The live nodes, in an order that does not change while they live."""
    leaving = draining()
    return [
        Node(
            id=node["NodeID"],
            labels=dict(node["Labels"]),
            num_gpus=int(node["Resources"].get("GPU", 0)),
            is_draining=node["NodeID"] in leaving,
        )
        for node in sorted(ray.nodes(), key=lambda node: str(node["NodeID"]))
        if node["Alive"]
    ]


def draining() -> set[str]:
    """Ids of the nodes that have been told to go: by SIGTERM, by the autoscaler, or by hand.

    Ray has no public call for it; its own trainer asks the same one.
    """
    return set(ray_state.get_draining_nodes())


def matches(labels: Mapping[str, str], wanted: Mapping[str, str]) -> bool:
    """Whether a node's labels satisfy a selector of exact values."""
    return all(labels.get(name) == value for name, value in wanted.items())


def engines_of(node: Node, *, device: str, tensor_parallel: int) -> int:
    """Engines that one node holds: its GPUs over those of an engine; one on a CPU node."""
    return node.num_gpus // tensor_parallel if device == "cuda" else 1


def kill_actor(handle: Any, address: Any) -> None:
    """End an actor for certain; its `address` (pid, node_id) is None where it never said one.

    Ray ends it in good order; a process that hangs never hears of that.
    """
    with contextlib.suppress(ray.exceptions.RayError):
        ray.kill(handle, no_restart=True)
    if address is not None:
        kill_process(address.node_id, address.pid, after_s=ENDS_S)


def kill_process(node_id: str, pid: int, *, after_s: float = 0.0) -> None:
    """SIGKILL a process of this run on any node, if it still lives after so long. On another node nobody waits for it."""
    if node_id == ray.get_runtime_context().get_node_id():
        _kill(pid, after_s)
        return
    there = NodeAffinitySchedulingStrategy(node_id, soft=False)
    try:
        ray.remote(_kill).options(num_cpus=0, scheduling_strategy=there, max_retries=0).remote(pid, after_s)
    except ray.exceptions.RayError as error:
        logger.warning("pid=%d of node=%s cannot be killed now (%s); the queue refuses whatever it does", pid, node_id, error)


def _kill(pid: int, after_s: float) -> None:
    ends_at = time.monotonic() + after_s
    try:
        while time.monotonic() < ends_at:
            os.kill(pid, 0)
            time.sleep(0.02)
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return
