"""Signals that end a run in good order: Ctrl-C, SIGTERM and a closed terminal; `firesteel stop` counts as SIGTERM.

Owns the handlers while a run lasts. The first one asks, a second one ends the process at once. Called by the controller.
"""

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Iterator

CAUGHT = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def exit_on_sigterm() -> None:
    """Until a run has handlers of its own, SIGTERM ends this process with 143, and what it has begun is ended on the way. To be said again after Ray
    was started, which would exit with 15."""
    signal.signal(signal.SIGTERM, lambda number, _frame: sys.exit(128 + number))


class Signals:
    """What this process was told."""

    def __init__(self) -> None:
        self._asked = asyncio.Event()
        self._came = False
        self.number: int | None = None
        """The first signal; None where there was none."""

    @property
    def exit_code(self) -> int:
        """Of a run that was interrupted: 128 + the signal, as shells count."""
        return 128 + (self.number or signal.SIGINT)

    async def wait(self) -> None:
        await self._asked.wait()

    def stop(self, number: int = signal.SIGTERM) -> None:
        """As if the signal had come."""
        self.number = self.number or number
        self._asked.set()

    @contextlib.contextmanager
    def caught(self) -> Iterator[None]:
        """Signals are ours for a while."""
        loop = asyncio.get_running_loop()

        def came(number: int) -> None:
            if self._came:
                os._exit(128 + number)
            self._came = True  # `firesteel stop` before it was no signal
            self.stop(number)

        for number in CAUGHT:
            loop.add_signal_handler(number, came, number)
        try:
            yield
        finally:
            for number in CAUGHT:
                loop.remove_signal_handler(number)
