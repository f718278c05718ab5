"""The generator as a Ray actor: one engine, one generator, their metrics.

Owns the life of both in one process. Called by the controller for start, membership, evaluations and leave; everything else it pulls from the queue.
"""

import asyncio
import logging
import os
from pathlib import Path
from typing import Any, Literal

import msgspec
import prometheus_client
import ray

from actors import cluster
from actors.engine.engine import Engine
from actors.engine.settings import BroadcastAddress, EngineSettings
from actors.evaluation import EvaluationRun
from actors.generator.generator import Generator, GeneratorSettings
from actors.queue.client import QueueClient
from actors.run.store_actor import StoreAddress, open_store
from actors.tokenizer import Tokenizer
from learner import version_log
from rlvr.config import Config
from rlvr.errors import EngineError, StoreError
from rlvr.metrics import Registry
from rlvr.records import Version
from rlvr.store import Store

logger = logging.getLogger(__name__)

VLLM_METRICS = "vllm:"
"""Names of vLLM's own metrics begin so."""


class GeneratorAddress(msgspec.Struct, frozen=True, kw_only=True):
    """Where one generator lives."""

    host: str
    metrics_port: int
    pid: int
    node_id: str


class StoredVersions:
    """The version log, read off the event loop."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def fetch(self, version: Version, folder: Path) -> Path | None:
        """As `actors.generator.settings.VersionLog`; a store that does not answer has nothing for now."""
        try:
            return await asyncio.to_thread(version_log.fetch, self._store, version, folder)
        except FileNotFoundError:
            return None
        except StoreError as error:
            logger.warning("version=%s could not be read from the version log: %s", version, error)
            return None


class GeneratorActor:
    """One vLLM engine. The controller calls `start`, maybe `start_from_log`, `join_broadcast`, then `run` once; the rest answers while it runs."""

    def __init__(
        self, config: Config, settings: GeneratorSettings, engine: EngineSettings, queue: Any, store: StoreAddress, store_actor: Any
    ) -> None:
        """store_actor: reaches the store where this node does not; None where every node does."""
        self._config = config
        self._settings = settings
        self._engine_settings = engine
        self._queue = QueueClient(queue)
        self._store = (store, store_actor)
        self._metrics = Registry(role="generator", replica=settings.replica)
        self._engine: Engine | None = None
        self._generator: Generator | None = None

    async def start(self) -> GeneratorAddress:
        """Start the engine: tens of seconds. Raises EngineError."""
        decoder = Tokenizer(self._config.model)
        log = StoredVersions(open_store(*self._store))
        self._engine = await Engine.start(self._engine_settings)
        self._generator = Generator(self._settings, engine=self._engine, queue=self._queue, decoder=decoder, log=log, metrics=self._metrics)
        self._metrics.add(prometheus_client.REGISTRY, prefix=VLLM_METRICS)  # where vLLM registers its own
        settings = self._config.metrics
        return GeneratorAddress(
            host=cluster.metrics_host(settings.bind),
            metrics_port=self._metrics.serve(settings.bind, settings.actor_port),
            pid=os.getpid(),
            node_id=ray.get_runtime_context().get_node_id(),
        )

    async def start_from_log(self, version: str) -> bool:
        """Begin with a version of the version log, before `run`, so that it samples at once; False where it is not there any more."""
        assert self._generator is not None
        return await self._generator.start_from_log(Version.parse(version))

    async def join_broadcast(self, address: BroadcastAddress) -> None:
        """Become a receiver of the weight broadcast: the sender's next group may hold this generator. Called again for a new sender."""
        assert self._engine is not None
        await self._engine.join_broadcast(address)
        self._metrics.counter("rlvr_broadcast_joins_total").inc()

    async def run(self) -> Literal["closed", "left"]:
        """Sample until the queue closes, or until all is handed over after `leave`."""
        assert self._generator is not None
        assert self._engine is not None
        try:
            return await self._generator.run()
        except* EngineError:
            await self._engine.shutdown()  # a process that hangs does not notice the end of this one
            raise

    async def leave(self) -> None:
        """Stop leasing, hand in what is finished and hand back what is not; then `run` returns."""
        assert self._generator is not None
        await self._generator.leave()

    async def evaluate_from_now(self, pending: list[str]) -> None:
        """This generator evaluates from now on; `pending` versions come first, oldest first, out of the version log."""
        assert self._generator is not None
        self._generator.evaluate_from_now([Version.parse(version) for version in pending])

    async def next_evaluation(self) -> EvaluationRun:
        """The next finished evaluation; waits for it. Only of the generator that evaluates."""
        assert self._generator is not None
        return await self._generator.next_evaluation()

    async def alive(self) -> None:
        """Answer at once, whatever else is under way."""

    async def pause_seconds_max(self) -> float:
        """The longest pause for new weights so far."""
        assert self._generator is not None
        return self._generator.pause_seconds_max

    async def stop(self) -> None:
        """End the engine and its processes."""
        if self._engine is not None:
            await self._engine.shutdown()
