"""Who of the receivers lives, told from the signs of life that they count in the sender's store.

Owns the judgement alone: pure, no clock and no store of its own. Called by the broadcaster before each thing that it does.
"""

import math
from collections.abc import Mapping

SILENT_S = 4.0
"""Without a sign of life for as long as this, a receiver is dead or hung: no group is formed with it, and the group that has it is formed anew."""
LOOK_S = 1.0
"""The most that one look adds to a silence: whoever could not look himself for a while, or was stopped, must not think all others dead."""
BAR_MAX_S = 60.0
"""The longest time for which a receiver that shows life but is lost again and again is left out."""


class _Life:
    """What is known of one receiver. silent_s is None until it has been seen to count since it was first looked at, or since it was lost."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.silent_s: float | None = None
        self.num_losses = 0
        self.barred_until = -math.inf

    def is_ready(self, now: float) -> bool:
        return self.silent_s is not None and self.silent_s < SILENT_S and now >= self.barred_until


class Roll:
    """Not thread-safe. Times are of one monotonic clock."""

    def __init__(self) -> None:
        self._lives: dict[str, _Life] = {}
        self._looked_at: float | None = None

    def look(self, counts: Mapping[str, int], now: float) -> tuple[str, ...]:
        """Take note of the signs of life so far; return those that are ready to be called. Receivers that are not in `counts` are forgotten."""
        passed = 0.0 if self._looked_at is None else min(now - self._looked_at, LOOK_S)
        self._looked_at = now
        self._lives = {name: self._lives.get(name) or _Life(count) for name, count in counts.items()}
        for name, life in self._lives.items():
            if counts[name] != life.count:
                life.count, life.silent_s = counts[name], 0.0
            elif life.silent_s is not None:
                life.silent_s += passed
        return tuple(name for name, life in self._lives.items() if life.is_ready(now))

    def lose(self, name: str, now: float) -> None:
        """This one was lost: it is ready again after a fresh sign of life, and at the second loss in a row and later after a growing while."""
        if life := self._lives.get(name):
            life.silent_s = None
            life.num_losses += 1
            life.barred_until = now + (0.0 if life.num_losses == 1 else min(2.0 ** min(life.num_losses - 2, 10), BAR_MAX_S))

    def prove(self, name: str) -> None:
        """This one has received a whole version."""
        if life := self._lives.get(name):
            life.num_losses = 0
