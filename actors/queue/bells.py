"""Long polls: a caller that waits for something is woken by a bell when there may be some.

Own the waiting, in one event loop. Called by the queue's service.
"""

import asyncio
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")
MAX_WAIT_S = 10.0
"""No long poll is longer, so that a waiter is also heard of."""


class Bell:
    """Wakes who waits now; nothing is remembered for later."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def ring(self) -> None:
        self._event.set()
        self._event = asyncio.Event()

    async def wait(self, wait_s: float) -> bool:
        """Whether it rang within wait_s."""
        event = self._event
        try:
            async with asyncio.timeout(wait_s):
                await event.wait()
        except TimeoutError:
            return False
        return True


async def poll(take: Callable[[], T | None], bell: Bell, wait_s: float, *, is_over: Callable[[], bool] = lambda: False) -> T | None:
    """What `take` gives as soon as that is something; None after wait_s, or once it is over.

    Nothing happens between a vain `take` and the wait, so no ring is missed.
    """
    deadline = time.monotonic() + min(wait_s, MAX_WAIT_S)
    while not is_over():
        if found := take():
            return found
        left = deadline - time.monotonic()
        if left <= 0 or not await bell.wait(left):
            break
    return None
