"""An engine, a queue and a version log that the test holds in its hand, and a generator between them."""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np

from actors.engine.engine import Completion, Engine, SampleRequest, Sampling
from actors.generator.generator import Generator, GeneratorSettings
from actors.queue.records import PutResult
from learner.weight_protocol import StagedVersion
from rlvr.errors import BroadcastError, Closed, EngineError, OvertakenError
from rlvr.metrics import Registry
from rlvr.records import FinishReason, Lease, Partial, Rollout, Version, VersionSpan

SAMPLING = Sampling(max_tokens=4, temperature=1.0)
PATIENCE_S = 20.0
TOKENS = (7, 1)


class FakeEngine:
    """Completes every request at once, under its version; versions are staged by the test, and named requests are held until they are let go."""

    def __init__(self, *, overtaken: Sequence[Version] = (), held: Collection[str] = ()) -> None:
        self.version = Version(step=-1)
        self.max_model_len = 64
        self.staged: asyncio.Queue[StagedVersion] = asyncio.Queue()
        self.overtaken = set(overtaken)
        self.held = set(held)
        self.asked: list[tuple[str, str]] = []
        self.requests: list[SampleRequest] = []
        self.applied: list[tuple[Version, bool]] = []
        self.damaged: set[Version] = set()
        self.passed_over: list[Version] = []
        self.fails = False
        self.hangs = False
        self.sender_is_lost = False
        self.interrupted = False
        self.changed = asyncio.Event()

    async def next_staged(self, after: Version | None, *, wait_s: float) -> StagedVersion | None:
        if self.sender_is_lost:
            raise BroadcastError("the sender of weights is gone")
        try:
            async with asyncio.timeout(0.001):
                return await self.staged.get()
        except TimeoutError:
            return None

    def pass_over(self, staged: StagedVersion) -> None:
        self.passed_over.append(staged.version)

    async def apply(self, version: Version, *, file: Path | None = None) -> float:
        if version in self.overtaken and file is None:
            raise OvertakenError(f"version {version} is not staged")
        if version in self.damaged and file is not None:
            raise BroadcastError("weights unchanged: its bits have another digest")
        assert file is None or file.name == str(version)
        self.version = version
        self.applied.append((version, file is not None))
        self.ring()
        return 0.25

    async def answers(self, within_s: float) -> None:
        if self.hangs:
            raise EngineError("the engine's process has not answered")

    async def interrupt(self) -> None:
        self.interrupted = True
        self.ring()

    async def sample(self, request: SampleRequest) -> Completion:
        """A request that is held has one token; the rest comes when it is let go, under the version of that time."""
        await asyncio.sleep(0)
        if self.fails:
            raise EngineError("the engine's process is gone")
        if self.interrupted:
            return self.complete(request, (), ())
        self.asked.append((request.rollout_id, str(self.version)))
        self.requests.append(request)
        first = self.version
        self.ring()
        while request.rollout_id in self.held:
            if self.interrupted:
                return self.complete(request, TOKENS[:1], (VersionSpan(first, 0, 1),))
            await self.changed.wait()
        spans = [VersionSpan(first, 0, 1), VersionSpan(self.version, 1, 2)] if self.version != first else [VersionSpan(first, 0, 2)]
        return self.complete(request, TOKENS, spans, FinishReason.STOP)

    async def sample_together(self, requests: Sequence[SampleRequest]) -> list[Completion]:
        assert all(request.seed is not None for request in requests)
        self.asked += [(request.rollout_id, str(self.version)) for request in requests]
        self.requests += requests
        return [self.complete(request, TOKENS, (VersionSpan(self.version, 0, 2),), FinishReason.STOP) for request in requests]

    def complete(self, request: SampleRequest, tokens: Sequence[int], spans: Sequence[VersionSpan], reason: FinishReason | None = None) -> Completion:
        return Completion(
            rollout_id=request.rollout_id,
            token_ids=np.array(tokens, np.int32),
            logprobs=np.array([-0.5, -0.25][: len(tokens)], np.float32),
            spans=tuple(spans),
            finish_reason=reason,
            seconds=0.1,
        )

    def let_go(self, *names: str) -> None:
        self.held -= set(names)
        self.ring()

    def ring(self) -> None:
        self.changed.set()
        self.changed = asyncio.Event()


class FakeQueue:
    """Hands out the leases it was given, then closes when everything it leased has come back."""

    def __init__(self, leases: Sequence[Lease], *, closes: Callable[["FakeQueue"], bool] | None = None) -> None:
        self.leases = list(leases)
        self.rollouts: list[Rollout] = []
        self.applied_versions: list[Version] = []
        self.sizes: list[int] = []
        self.expected = sum(len(lease.rollout_ids) for lease in leases)
        self.closes = closes or (lambda queue: len(queue.rollouts) >= queue.expected)
        self.changed = asyncio.Event()
        self.given = list(leases)
        self.handed_back: list[str] = []
        self.partials: list[Partial] = []
        self.gives_again = True
        self.holding: list[str] = []

    async def lease(self, n: int, *, generator: str, applied: Version, wait_s: float, holding: Sequence[str] | None = None) -> list[Lease]:
        self.sizes.append(n)
        self.holding = list(holding or ())
        if not self.leases:
            if self.closes(self):
                raise Closed("the run is over")
            await self.something(within_s=0.05)
        return [self.leases.pop(0)] if self.leases else []

    async def put(self, rollouts: Sequence[Rollout], *, generator: str) -> list[PutResult]:
        self.rollouts += rollouts
        self.changed.set()
        return [PutResult(rollout.id) for rollout in rollouts]

    async def applied(self, version: Version, *, generator: str) -> None:
        self.applied_versions.append(version)
        self.changed.set()

    async def hand_back(self, lease_id: str, partials: Sequence[Partial] = (), *, generator: str) -> int:
        self.handed_back.append(lease_id)
        self.partials += partials
        if self.gives_again:
            self.leases += [one for one in self.given if one.id == lease_id]
        self.changed.set()
        return 1

    async def beat(self, worker: str, *, role: str) -> None: ...

    async def something(self, *, within_s: float) -> None:
        self.changed.clear()
        try:
            async with asyncio.timeout(within_s):
                await self.changed.wait()
        except TimeoutError:
            return


class FakeLog:
    """A version log that has these versions; each file has its version's name."""

    def __init__(self, versions: Collection[Version] = ()) -> None:
        self.versions = set(versions)
        self.asked: list[Version] = []

    async def fetch(self, version: Version, folder: Path) -> Path | None:
        self.asked.append(version)
        if version not in self.versions:
            return None
        return folder / str(version)


class Letters:
    def decode(self, token_ids: Sequence[int]) -> str:
        return "".join(chr(96 + token_id) for token_id in token_ids)


def lease(number: int, size: int = 2, *, seeds: tuple[int, ...] | None = None, partials: tuple[Partial, ...] = ()) -> Lease:
    ids = tuple(f"r{number}/{index}" for index in range(size))
    return Lease(id=f"l{number}", problem_id="p", group_id="g", rollout_ids=ids, prompt_ids=(3, 4), step=1, seeds=seeds, partials=partials)


def generator(engine: FakeEngine, queue: FakeQueue, *, log: FakeLog | None = None, metrics: Registry | None = None, **settings: Any) -> Generator:
    chosen = {"name": "g0", "replica": "g", "capacity": 8, "lease_size": 4, "sampling": SAMPLING, "evaluation_sampling": SAMPLING, **settings}
    return Generator(
        GeneratorSettings(**chosen),
        engine=cast(Engine, engine),
        queue=queue,
        decoder=Letters(),
        log=log or FakeLog(),
        metrics=metrics or Registry(role="generator", replica="g"),
    )


def run(work: Callable[[], Awaitable[Any]]) -> Any:
    async def within() -> Any:
        async with asyncio.timeout(PATIENCE_S):
            return await work()

    return asyncio.run(within())


async def until(fact: Callable[[], bool]) -> None:
    """Wait for a fact of the fakes; the test's own deadline ends it."""
    while not fact():  # noqa: ASYNC110 - the fakes do not announce everything
        await asyncio.sleep(0.001)
