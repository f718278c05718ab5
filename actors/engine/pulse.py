"""Whether the process of an engine answers: a process that hangs is not dead, and nothing else would find it.

Owns the patience. Called by `actors.engine.engine`, which says what a cheap call is and when it makes a long one, during which the process answers
no other.
"""

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Iterator


class Pulse:
    """Of one engine, for one event loop."""

    def __init__(self) -> None:
        self.excuse_s = 0.0
        """How much longer the process may be silent where a long call is made."""
        self._num_long_calls = 0
        self._long_call_ended = 0.0

    @contextlib.contextmanager
    def long_call(self) -> Iterator[None]:
        """Around a swap of weights or a change of the sender."""
        self._num_long_calls += 1
        try:
            yield
        finally:
            self._num_long_calls -= 1
            self._long_call_ended = time.monotonic()

    async def silence_s(self, ask: Callable[[], Awaitable[object]], *, within_s: float) -> float:
        """0.0 once `ask` is answered, within `within_s`, or later where a long call excuses it; else the seconds of silence."""
        asked = time.monotonic()
        while not await _is_answered(ask, within_s):
            silent_s = time.monotonic() - asked
            is_excused = self._num_long_calls > 0 or self._long_call_ended > asked
            if not is_excused or silent_s > within_s + self.excuse_s:
                return silent_s
        return 0.0


async def _is_answered(ask: Callable[[], Awaitable[object]], within_s: float) -> bool:
    try:
        async with asyncio.timeout(within_s):
            await ask()
    except TimeoutError:
        return False
    return True
