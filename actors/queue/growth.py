"""Says when the journal keeps growing because no checkpoint covers it.

Owns the warning and when it is due. Called by the queue's service. A rollout in need costs its bytes on the disk and some 400 bytes of the queue's
memory, where its entries lie: without checkpoints that grows for the whole run.
"""

import logging

logger = logging.getLogger(__name__)

FIRST_BYTES = 2**30


class Growth:
    """One warning for each doubling since the last commit."""

    def __init__(self) -> None:
        self._warn_at = FIRST_BYTES

    def look(self, num_bytes: int) -> None:
        """How large the journal is now."""
        if num_bytes < self._warn_at:
            return
        self._warn_at = 2 * num_bytes
        logger.warning(
            "the journal has %.1f GiB that no checkpoint covers, and the queue's memory grows with it; "
            "lower run.checkpoint_every_steps, or mend checkpoints that fail",
            num_bytes / 2**30,
        )

    def committed(self, num_bytes: int) -> None:
        """A checkpoint covers what it can: the journal is so large with that."""
        self._warn_at = max(FIRST_BYTES, 2 * num_bytes)
