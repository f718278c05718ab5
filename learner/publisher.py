"""Publication in the background: version k travels to the generators while step k + 1 already waits for its batch.

Owns one thread and the rule that at most one version is under way. A failed publication is raised at the next call, never lost.
"""

from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor

from torch import Tensor

from learner.weights import BroadcastReport, WeightSender
from rlvr.records import Version


class Publisher:
    """Sends versions one after the other, in the order in which they were given."""

    def __init__(self, sender: WeightSender, *, announce: Callable[[BroadcastReport], None]) -> None:
        self._sender = sender
        self._announce = announce
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="publish")
        self._under_way: Future[None] | None = None

    def publish(self, version: Version, tensors: Mapping[str, Tensor], *, keep: bool) -> None:
        """Start to send `tensors`, bf16 on the CPU; waits for the version before it. Raises BroadcastError where that one failed."""
        self.finish()
        self._under_way = self._thread.submit(self._send, version, tensors, keep)

    def finish(self) -> None:
        """Wait until every version given so far has arrived. Raises BroadcastError where one did not."""
        if self._under_way is not None:
            self._under_way.result()
            self._under_way = None

    def close(self) -> None:
        """End the thread; a version under way has its own deadline."""
        self._thread.shutdown(wait=True)

    def _send(self, version: Version, tensors: Mapping[str, Tensor], keep: bool) -> None:
        self._announce(self._sender.publish(version, tensors, keep=keep))
