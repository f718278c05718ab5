"""The fence: while the controller is silent, it may have lost the run to another one, and nothing of the run changes here.

Owns when that is so. The queue's service asks before each change and each answer, the journal's writer before each group commit.
"""

from collections.abc import Callable

FENCE_S = 20.0
"""Shorter than an owner of the run may be silent before another one takes over (`actors.run.lock`)."""


class Fence:
    """Up once the controller has been silent for FENCE_S, from `heard` on; any thread may ask."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._heard_at: float | None = None
        self._is_lifted = False

    def heard(self) -> None:
        """The controller owned the run a moment ago."""
        self._heard_at = self._clock()

    def lift(self) -> None:
        """The controller ends the queue: what is left may be written."""
        self._is_lifted = True

    def is_up(self) -> bool:
        return not self._is_lifted and self._heard_at is not None and self._clock() - self._heard_at > FENCE_S
