"""The rollout queue's Ray actor.

Owns how Ray runs the service: on no CPU of its own, all methods in one event loop, calls that wait beside calls that work. The controller makes it:
`QueueActor.options(name="queue").remote(pack(QueueSetup(...)))`, and awaits its `run()` as long as the run lasts.
"""

import ray

from actors.queue.service import QueueService


@ray.remote(num_cpus=0, max_concurrency=4096)  # type: ignore[call-overload]  # Ray types only the options of functions
class QueueActor(QueueService):
    """`QueueService`, reached through Ray."""
