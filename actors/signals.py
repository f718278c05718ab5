"""Signals that end a run in good order: Ctrl-C, SIGTERM and a closed terminal; `firesteel stop` asks the same without one.

Owns the handlers while a run lasts. The first one asks, a second one ends the process at once. Called by the controller.
"""

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Iterator

CAUGHT = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextlib.contextmanager
def exit_on_sigterm() -> Iterator[None]:
    """SIGTERM ends this process with 143 while something is started here, and what was begun is ended on the way. Ray would exit with 15."""

    def leave(number: int, _frame: object = None) -> None:
        sys.exit(128 + number)

    signal.signal(signal.SIGTERM, leave)
    try:
        yield
    except SystemExit as ended:
        if ended.code == signal.SIGTERM:  # by the handler that Ray has put in place of ours
            leave(signal.SIGTERM)
        raise
    finally:
        signal.signal(signal.SIGTERM, leave)


class Signals:
    """What this process was told."""

    def __init__(self) -> None:
        self._asked = asyncio.Event()
        self._came = False
        self.number: int | None = None
        """The first signal; None where there was none."""

    @property
    def exit_code(self) -> int:
        """Of a run that was interrupted: 128 + the signal, as shells count. 0 where `firesteel stop` asked: done as told, and nobody retries it."""
        return 128 + self.number if self.number else 0

    async def wait(self) -> None:
        await self._asked.wait()

    def stop(self) -> None:
        """As if a signal had come."""
        self._asked.set()

    @contextlib.contextmanager
    def caught(self) -> Iterator[None]:
        """Signals are ours for a while."""
        loop = asyncio.get_running_loop()

        def came(number: int) -> None:
            if self._came:
                os._exit(128 + number)
            self._came, self.number = True, number  # `firesteel stop` before it was no signal
            self.stop()

        for number in CAUGHT:
            loop.add_signal_handler(number, came, number)
        try:
            yield
        finally:
            for number in CAUGHT:
                loop.remove_signal_handler(number)
