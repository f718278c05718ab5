"""The rollout queue's Ray actor.

Owns how Ray runs the service: on no CPU of its own, all methods in one event loop, calls that wait beside calls that work. The controller makes it:
`QueueActor.options(name="queue").remote(pack(QueueSetup(...)))`, and awaits its `run()` as long as the run lasts.
"""

import os

import ray

from actors.queue.records import QueueIdentity
from actors.queue.service import QueueService
from rlvr.wire import pack


@ray.remote(num_cpus=0, max_concurrency=4096)  # type: ignore[call-overload]  # Ray types only the options of functions
class QueueActor(QueueService):
    """`QueueService`, reached through Ray."""

    async def identity(self) -> bytes:
        """`QueueIdentity`: answered as soon as the journal is replayed."""
        return pack(QueueIdentity(pid=os.getpid(), node_id=ray.get_runtime_context().get_node_id(), metrics_port=await self.serve_metrics()))
