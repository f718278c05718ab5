"""The verifier as a Ray actor: leases unverified answers, judges them in the sandbox, hands verdicts in.

Owns the flow between one sandboxed verifier and the rollout queue. Imports neither torch nor vLLM: its image has none.
"""

import asyncio
import logging
import os
from collections.abc import Callable, Sequence
from typing import Literal, Never, Protocol

import msgspec
import ray

from actors import cluster
from actors.queue.client import QueueClient
from actors.queue.records import PutResult
from rlvr import wire
from rlvr.config import Config
from rlvr.errors import Closed
from rlvr.metrics import Registry
from rlvr.records import Unverified, Verdict
from verifier.verify import Verifier

logger = logging.getLogger(__name__)

LEASE_SIZE = 64
"""Answers of one lease at most; with one problem nearly all are settled in microseconds."""
LEASE_WAIT_S = 1.0
BEAT_S = 5.0


class Queue(Protocol):
    """What a verifier asks of the rollout queue; every call may raise Closed."""

    async def lease_unverified(
        self, n: int, *, verifier: str, wait_s: float, holding: Callable[[], Sequence[str]] | None = None
    ) -> Sequence[Unverified]: ...
    async def put_verdicts(self, verdicts: Sequence[Verdict], *, verifier: str) -> Sequence[PutResult]: ...
    async def beat(self, worker: str, *, role: str) -> None: ...


class VerifierAddress(msgspec.Struct, frozen=True, kw_only=True):
    """Where one verifier lives."""

    host: str
    metrics_port: int
    pid: int
    node_id: str


class VerifierActor:
    """One verifier with its sandboxed children."""

    def __init__(self, name: str, replica: str, config: Config) -> None:
        """name: the worker, replica and incarnation, as the queue knows it. replica: its place in the run, which its metrics carry."""
        self._name = name
        self._metrics = Registry(role="verifier", replica=replica)
        self._training = Verifier.for_training(config)
        self._evaluation = Verifier.for_evaluation(config, beside=self._training)  # asks the same children
        self._settings = config.metrics
        self._workers = config.verifiers.workers
        self._is_leaving = False
        self._judging: set[str] = set()  # leases

    async def start(self) -> VerifierAddress:
        """Start the sandboxed children."""
        await asyncio.to_thread(self._training.start)
        await asyncio.to_thread(self._evaluation.start)
        return VerifierAddress(
            host=cluster.metrics_host(self._settings.bind),
            metrics_port=self._metrics.serve(self._settings.bind, self._settings.actor_port),
            pid=os.getpid(),
            node_id=ray.get_runtime_context().get_node_id(),
        )

    async def run(self, queue: ray.actor.ActorHandle) -> Literal["closed", "left"]:
        """Judge until the queue closes, or until `leave`; as many leases in flight as there are children."""
        return await self._run(QueueClient(queue))

    async def leave(self) -> None:
        """Stop leasing; what is being judged is handed in, then `run` returns."""
        self._is_leaving = True

    async def alive(self) -> None:
        """Answer at once, whatever else is under way."""

    async def judge_evaluation(self, frame: bytes) -> bytes:
        """Verdicts of evaluation samples, in order, by the evaluation's grader."""
        cases = wire.unpack(frame, list[Unverified])
        return wire.pack(await asyncio.to_thread(self._evaluation.verify_many, cases))

    async def stop(self) -> None:
        """Leave no process behind."""
        await asyncio.to_thread(self._evaluation.close)
        await asyncio.to_thread(self._training.close)

    async def _run(self, queue: Queue) -> Literal["closed", "left"]:
        outcome: Literal["closed", "left"] = "left"
        try:
            async with asyncio.TaskGroup() as loops:  # Closed raised in one ends all
                beat = loops.create_task(self._beat(queue))
                async with asyncio.TaskGroup() as judges:
                    for _ in range(self._workers):
                        judges.create_task(self._judge_until_leaving(queue))
                beat.cancel()
        except* Closed:
            outcome = "closed"
        logger.info("verifier=%s stops: %s", self._name, outcome)
        return outcome

    async def _beat(self, queue: Queue) -> Never:
        """Gives a sign of life; waits for the clock."""
        while True:
            await queue.beat(self._name, role="verifier")
            self._measure_sandbox()
            await asyncio.sleep(BEAT_S)

    async def _judge_until_leaving(self, queue: Queue) -> None:
        """Takes unverified answers, gives verdicts; waits for the queue and for the sandbox."""
        while not self._is_leaving:
            cases = await queue.lease_unverified(LEASE_SIZE, verifier=self._name, wait_s=LEASE_WAIT_S, holding=lambda: sorted(self._judging))
            leases = {case.lease_id for case in cases}
            self._judging |= leases
            if cases:
                verdicts = await asyncio.to_thread(self._training.verify_many, cases)
                self._count(verdicts)
                await queue.put_verdicts(verdicts, verifier=self._name)
            self._judging -= leases

    def _measure_sandbox(self) -> None:
        stats = self._training.stats()
        for reason, number in stats.kills.items():
            self._metrics.raise_to("rlvr_verifier_kills_total", number, reason=reason)
        self._metrics.raise_to("rlvr_verdicts_misjudged_total", stats.misjudged)
        self._metrics.raise_to("rlvr_verifier_retries_total", stats.retried)
        self._metrics.gauge("rlvr_verifier_workers").set(stats.workers)
        self._metrics.gauge("rlvr_verifier_waiting").set(stats.waiting)

    def _count(self, verdicts: Sequence[Verdict]) -> None:
        for verdict in verdicts:
            self._metrics.counter("rlvr_verdicts_total", kind=verdict.kind.value, stage=verdict.stage).inc()
            self._metrics.histogram("rlvr_verify_seconds", stage=verdict.stage).observe(verdict.seconds)
