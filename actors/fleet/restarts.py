"""When a part of the run that died is started again, and when its deaths end the run.

Owns the counting and the back-off. Called by the keepers of queue, learner and worker pools; starts nothing, waits for nothing. Our clock decides.
"""

import time
from collections import Counter
from collections.abc import Callable

from rlvr.errors import ActorError

FIRST_WAIT_S = 0.5
LONGEST_WAIT_S = 30.0
WORKED_S = 60.0
"""A part that has worked for so long since it was last started begins a new count: deaths far apart are no crash loop."""


class Restarts:
    """The deaths of one run's parts, by name."""

    def __init__(self, *, most: int, clock: Callable[[], float] = time.monotonic) -> None:
        """most: deaths in a row after which the run ends."""
        self._most = most
        self._clock = clock
        self._in_a_row: Counter[str] = Counter()
        self._started_at: dict[str, float] = {}
        self.total: Counter[str] = Counter()

    def started(self, name: str) -> None:
        """The part works from now on."""
        self._started_at[name] = self._clock()

    def died(self, name: str, error: BaseException) -> float:
        """Seconds to wait before the part is started again. Raises ActorError, with the last error, where it is a crash loop."""
        worked_s = self._clock() - self._started_at.pop(name, self._clock())
        if worked_s >= WORKED_S:
            self._in_a_row[name] = 0
        self._in_a_row[name] += 1
        self.total[name] += 1
        deaths = self._in_a_row[name]
        if deaths > self._most:
            raise ActorError(f"{name} died {deaths} times with less than {WORKED_S:.0f} s of work between; the last error: {error}") from error
        return float(min(FIRST_WAIT_S * 2 ** (deaths - 1), LONGEST_WAIT_S))
