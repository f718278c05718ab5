"""The generator as a Ray actor: one engine, one generator, their metrics.

Owns the life of both in one process. Called by the controller for start, membership and evaluations; everything else it pulls from the queue.
"""

from typing import Any

import msgspec

from actors import cluster
from actors.engine import Engine
from actors.engine_settings import BroadcastAddress, EngineSettings
from actors.evaluation import EvaluationRun
from actors.generator import Generator, GeneratorSettings
from actors.queue.client import QueueClient
from actors.tokenizer import Tokenizer
from rlvr.config import Config
from rlvr.metrics import Registry


class GeneratorAddress(msgspec.Struct, frozen=True, kw_only=True):
    """Where one generator lives."""

    host: str
    metrics_port: int


class GeneratorActor:
    """One vLLM engine. The controller calls `start`, `join_broadcast`, then `run` once; the rest answers while it runs."""

    def __init__(self, config: Config, settings: GeneratorSettings, engine: EngineSettings, queue: Any) -> None:
        self._config = config
        self._settings = settings
        self._engine_settings = engine
        self._queue = QueueClient(queue)
        self._metrics = Registry(role="generator", replica=settings.name)
        self._engine: Engine | None = None
        self._generator: Generator | None = None

    async def start(self) -> GeneratorAddress:
        """Start the engine: tens of seconds. Raises EngineError."""
        decoder = Tokenizer(self._config.model)
        self._engine = await Engine.start(self._engine_settings)
        self._generator = Generator(self._settings, engine=self._engine, queue=self._queue, decoder=decoder, metrics=self._metrics)
        bind = self._config.metrics.bind
        return GeneratorAddress(host=cluster.metrics_host(bind), metrics_port=self._metrics.serve(bind))

    async def join_broadcast(self, address: BroadcastAddress) -> None:
        """Become a receiver of the weight broadcast: the sender's next group may hold this generator."""
        assert self._engine is not None
        await self._engine.join_broadcast(address)

    async def run(self) -> None:
        """Sample until the queue closes."""
        assert self._generator is not None
        await self._generator.run()

    async def next_evaluation(self) -> EvaluationRun:
        """The next finished evaluation; waits for it. Only of the generator that evaluates."""
        assert self._generator is not None
        return await self._generator.next_evaluation()

    async def pause_seconds_max(self) -> float:
        """The longest pause for new weights so far."""
        assert self._generator is not None
        return self._generator.pause_seconds_max

    async def stop(self) -> None:
        """End the engine and its processes."""
        if self._engine is not None:
            await self._engine.shutdown()
