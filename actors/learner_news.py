"""What the learner tells the controller of its steps and versions.

Records alone, without torch: the controller writes them down, and what a run has come to is made of them.
"""

import msgspec

from learner.report import StepReport
from rlvr.records import Version


class StepResult(msgspec.Struct, frozen=True, kw_only=True):
    """What the controller learns of one step."""

    report: StepReport
    lineage: int
    wait_s: float
    """Seconds the learner waited for this step's batch."""
    rollouts: bytes
    """The step's kept rollouts, compressed (`actors.run.rollout_files`)."""


class Published(msgspec.Struct, frozen=True, kw_only=True):
    """One version that every living generator has staged."""

    version: Version
    bytes_sent: int
    seconds: float
    digest: str
    receivers: tuple[str, ...]
