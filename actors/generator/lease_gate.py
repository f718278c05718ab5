"""Whether a generator may lease, and how many completions it has in flight.

Owns that one piece of state between the loop that leases and the loop that changes weights. For one event loop; knows neither of them.
"""

import asyncio

from rlvr.metrics import Registry


class LeaseGate:
    """Shut until the first weights are there, while an evaluation runs, and while in-flight work is waited for."""

    def __init__(self, metrics: Registry) -> None:
        self._metrics = metrics
        self._changed = asyncio.Event()
        self._is_open = False
        self._is_leaving = False
        self._in_flight = 0

    @property
    def in_flight(self) -> int:
        """Completions that are leased and not finished."""
        return self._in_flight

    @property
    def is_open(self) -> bool:
        return self._is_open and not self._is_leaving

    @property
    def is_leaving(self) -> bool:
        """True from when the generator is to leave: nothing is leased any more."""
        return self._is_leaving

    def open(self) -> None:
        self._is_open = True
        self._ring()

    def shut(self) -> None:
        """From now on what the queue gives is for others."""
        self._is_open = False

    def leave(self) -> None:
        """Shut for good."""
        self._is_leaving = True
        self._ring()

    def begin(self, count: int) -> None:
        """So many completions were leased."""
        self._in_flight += count
        self._metrics.gauge("rlvr_requests_in_flight").set(self._in_flight)

    def end(self, count: int = 1) -> None:
        """So many are over."""
        self._in_flight -= count
        self._metrics.gauge("rlvr_requests_in_flight").set(self._in_flight)
        self._ring()

    async def changed(self) -> None:
        """Wait until it opens, a completion ends, or the generator leaves. Look, and only then wait: what happened before is not told."""
        await self._changed.wait()

    async def opened(self) -> None:
        """Wait until leasing is allowed, or the generator leaves."""
        while not (self._is_open or self._is_leaving):
            await self._changed.wait()

    async def drained(self) -> None:
        """Wait until nothing is in flight."""
        while self._in_flight:
            await self._changed.wait()

    def _ring(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()
