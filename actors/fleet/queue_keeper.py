"""The queue's actor: made once, restarted by Ray, watched by us.

Owns the queue's handle, the proof that it lives, and what is asked of it again after a restart. Called by the fleet. Ray restarts a process that has
ended; one that hangs it would leave alone, so that one is killed here.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Any, Never

import ray

from actors.addresses import host_port
from actors.calls import outcome_within, translated
from actors.fleet.restarts import Restarts
from actors.nodes import kill_actor, kill_process
from actors.queue.client import QueueClient
from actors.queue.records import QueueIdentity, QueueStatus
from actors.run.service import Target
from rlvr import wire
from rlvr.errors import ActorError, FiresteelError

logger = logging.getLogger(__name__)

PING_S = 0.5
AGAIN_S = 3.0
"""One more look before it is given up: what was late may have been this process itself."""
REPLAY_S = 120.0
"""A restarted queue reads its journal before it answers."""


class QueueKeeper:
    """The queue of one run."""

    def __init__(
        self, handle: Any, *, host: str, silence_s: float, restarts: Restarts, lost: Callable[[str], None], back: Callable[[float], None]
    ) -> None:
        """host: where its metrics are found. lost, back: told when it is lost, and after how many seconds it works again."""
        self.handle = handle
        self.client = QueueClient(handle)
        self._host = host
        self._silence_s = silence_s
        self._restarts = restarts
        self._lost, self._back = lost, back
        self._identity: QueueIdentity | None = None
        self._status: QueueStatus | None = None
        self.changed = asyncio.Event()
        """Set at each new look at the queue; whoever waits for one clears it."""

    @property
    def targets(self) -> list[Target]:
        if self._identity is None:
            return []
        return [Target(address=host_port(self._host, self._identity.metrics_port), role="queue", replica="queue")]

    @property
    def identity(self) -> QueueIdentity | None:
        """Process and port of its present incarnation."""
        return self._identity

    @property
    def status(self) -> QueueStatus | None:
        """The newest look."""
        return self._status

    async def start(self) -> None:
        """Wait until it answers: the journal is replayed by then. Raises ActorError with the reason where it cannot be."""
        await self._identify(REPLAY_S)
        self._restarts.started("queue")

    async def run(self) -> None:
        """Keep it going until it is closed. Raises ActorError for its own errors, and for a crash loop."""
        while True:
            try:
                await self.handle.run.remote()
            except (ray.exceptions.ActorUnavailableError, ray.exceptions.ActorDiedError) as error:
                await self._wait_for_restart(error)
            except ray.exceptions.RayError as error:  # its own error: a broken contract, which no restart mends
                raise translated("queue", error) from error
            else:
                return

    async def kill(self) -> None:
        """End its process, and no other one is started."""
        await asyncio.to_thread(kill_actor, self.handle, self._identity)

    async def watch(self) -> Never:
        """Look at it again and again; one that does not answer in time is killed, and Ray starts another."""
        while True:
            asked = time.monotonic()
            try:
                if not await self._look(self._silence_s) and not await self._look(AGAIN_S):
                    raise TimeoutError
            except TimeoutError:
                if self._identity is not None:
                    logger.warning("the queue hangs for %.0f s: its process is killed and started again", time.monotonic() - asked)
                    await asyncio.to_thread(kill_process, self._identity.node_id, self._identity.pid)
            except (ray.exceptions.RayError, FiresteelError):
                logger.debug("the queue is being restarted")  # `run` deals with it
            await asyncio.sleep(PING_S)

    async def keep_alive(self) -> None:
        """Tell the queue that this process owns the run; one that is being restarted hears it next time."""
        try:
            await outcome_within(self._silence_s, "queue", self.handle.keep_alive.remote())
        except FiresteelError as error:
            logger.debug("the queue does not hear that its controller lives: %s", error)

    async def _look(self, within_s: float) -> bool:
        """Whether it answers in time."""
        try:
            async with asyncio.timeout(within_s):
                self._status = wire.unpack(await self.handle.status.remote(), QueueStatus)
        except TimeoutError:
            return False
        self.changed.set()
        return True

    async def _wait_for_restart(self, error: Exception) -> None:
        """Ray starts its process again. A call that was lost on the way to a process that lives is no death."""
        noticed, before = time.monotonic(), self._identity
        self._identity = None  # nothing else may be killed by the number of a process that is gone
        await self._identify(REPLAY_S)
        if before is not None and self._identity == before:
            return
        self._lost(f"{type(error).__name__}")
        self._restarts.died("queue", error)
        self._restarts.started("queue")
        logger.warning("the queue was lost; it has read its journal again")
        self._back(time.monotonic() - noticed)

    async def _identify(self, within_s: float) -> None:
        ends_at = time.monotonic() + within_s
        while True:
            try:
                frame = await outcome_within(max(1.0, ends_at - time.monotonic()), "queue", self.handle.identity.remote())
                self._identity = wire.unpack(frame, QueueIdentity)
                return
            except ActorError as failure:
                is_over = isinstance(failure.__cause__, ray.exceptions.ActorDiedError) or time.monotonic() > ends_at
                if is_over:
                    raise
                await asyncio.sleep(PING_S)
