"""What checkpoints tell: records made by a learner rank, read by the controller.

Knows no torch, so that an actor without it can read them.
"""

import msgspec

from rlvr.records import Version


class Saved(msgspec.Struct, frozen=True, kw_only=True):
    """A checkpoint is durable."""

    version: Version
    kept: tuple[int, ...]
    """Steps of the checkpoints that are there now, oldest first."""
    seconds: float
    """From its start until it was durable."""
    pause_s: float
    """Seconds of them for which training stood: the state was copied, and the checkpoint before it waited for."""


class SaveFailed(msgspec.Struct, frozen=True, kw_only=True):
    """A checkpoint could not be written and left nothing behind; the next one is tried at its turn."""

    version: Version
    reason: str
    seconds: float


class Damaged(msgspec.Struct, frozen=True, kw_only=True):
    """A checkpoint that was not whole when it was to be loaded; an older one was taken in its place, or none was there."""

    step: int
    reason: str
