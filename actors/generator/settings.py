"""What a generator is told of its run, and what it asks of others.

Records and protocols alone; `actors.generator.generator` and its parts are written against them.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import msgspec

from actors.engine.engine import Sampling
from actors.evaluation import EvaluationPrompt
from actors.queue.records import PutResult
from rlvr.records import Lease, Partial, Rollout, Version


class Queue(Protocol):
    """What a generator asks of the rollout queue; every call may raise Closed."""

    async def lease(self, n: int, *, generator: str, applied: Version, wait_s: float, holding: Sequence[str] | None = None) -> Sequence[Lease]: ...
    async def put(self, rollouts: Sequence[Rollout], *, generator: str) -> Sequence[PutResult]: ...
    async def applied(self, version: Version, *, generator: str) -> None: ...
    async def hand_back(self, lease_id: str, partials: Sequence[Partial] = (), *, generator: str) -> int: ...
    async def beat(self, worker: str, *, role: str) -> None: ...


class Decoder(Protocol):
    """Token ids to the text that a verifier reads."""

    def decode(self, token_ids: Sequence[int]) -> str: ...


class VersionLog(Protocol):
    """Where whole versions can be read again."""

    async def fetch(self, version: Version, folder: Path) -> Path | None:
        """A local file of that version, in `folder`; None where the log does not have it."""
        ...


class GeneratorSettings(msgspec.Struct, frozen=True, kw_only=True):
    """What one generator needs to know of a run."""

    name: str
    """The worker: replica and incarnation. Queue and broadcast know it by this name."""
    replica: str
    """Its place in the run, which its metrics carry."""
    capacity: int
    """Completions in flight at most."""
    lease_size: int
    """Completions of one lease at most."""
    sampling: Sampling
    evaluation: tuple[EvaluationPrompt, ...] = ()
    """Every generator has them; one evaluates."""
    evaluation_sampling: Sampling | None = None
    deterministic: bool = False
    seed: int = 0
    max_tokens_per_second: float | None = None
    """Completion tokens that it samples at most, on average; None = no limit."""
    engine_silence_s: float = 30.0
    """An engine that does not answer for so long has failed."""
