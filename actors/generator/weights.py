"""Which policy version one engine samples from, and the evaluations that need another one for a while.

Owns the engine's weights: staged versions under running requests, whole versions from the version log between them. Called by
`actors.generator.generator`, whose gate it shuts where nothing may be leased. A sender that is lost changes nothing until another one is joined.
Knows no store and no Ray.

A version of a newer lineage and a lower step is passed over: completions in flight have tokens of a later step than it. One that is to be evaluated
here is applied all the same, once they have ended.
"""

import asyncio
import logging
import tempfile
import time
from pathlib import Path
from typing import Never

from actors.engine.engine import Engine, StagedVersion
from actors.evaluation import EvaluationRun
from actors.generator.evaluation import evaluate
from actors.generator.lease_gate import LeaseGate
from actors.generator.settings import Decoder, GeneratorSettings, Queue, VersionLog
from rlvr.errors import BroadcastError, OvertakenError
from rlvr.metrics import Registry
from rlvr.records import Version

logger = logging.getLogger(__name__)

WATCH_S = 0.5
"""The longest look for staged versions before pending evaluations and the engine's own health are looked at again."""
LOG_S = 60.0
"""A pending version that the version log does not have by then stays unevaluated: the log is written in the background."""


class WeightFollower:
    """The versions of one engine, one after the other."""

    def __init__(
        self, settings: GeneratorSettings, *, engine: Engine, queue: Queue, decoder: Decoder, log: VersionLog, gate: LeaseGate, metrics: Registry
    ) -> None:
        self._settings = settings
        self._engine = engine
        self._queue = queue
        self._decoder = decoder
        self._log = log
        self._gate = gate
        self._metrics = metrics
        self._held: Version | None = None
        self._seen: Version | None = None  # the newest staged version that was looked at
        self._is_evaluator = False
        self._pending: list[tuple[Version, float]] = []  # to evaluate, and since when
        self._evaluated: set[Version] = set()
        self._is_sender_lost = False
        self.evaluations: asyncio.Queue[EvaluationRun] = asyncio.Queue()
        self.pause_seconds_max = 0.0

    @property
    def held(self) -> Version | None:
        """What rollouts are sampled from; None until the first weights are there."""
        return self._held

    async def start_from_log(self, version: Version) -> bool:
        """Begin with a version of the log; False where it has that version no more, or not whole."""
        with tempfile.TemporaryDirectory(prefix="firesteel-") as folder:
            file = await self._log.fetch(version, Path(folder))
            if file is None:
                return False
            try:
                await self._swap(version, file=file)
            except BroadcastError as error:
                logger.warning("version=%s of the version log is of no use, the next broadcast is waited for: %s", version, error)
                return False
        await self._hold(version)
        self._gate.open()
        return True

    def evaluate_from_now(self, pending: list[Version]) -> None:
        """This generator evaluates kept versions from now on, these first, oldest first."""
        self._is_evaluator = True
        self._pending += [(version, time.monotonic()) for version in sorted(pending)]

    async def follow(self) -> Never:
        """Takes staged versions and pending evaluations, gives the queue the version that is sampled from; waits for either."""
        while True:
            staged = await self._look()
            if self._pending:
                await self._evaluate_pending(has_next=staged is not None)
            if staged is not None:
                await self._take(staged)

    async def _look(self) -> StagedVersion | None:
        try:
            staged = await self._engine.next_staged(self._seen, wait_s=WATCH_S)
        except BroadcastError as error:
            if not self._is_sender_lost:
                logger.warning("%s; sampling goes on with version=%s until another sender is joined", error, self._held)
            self._is_sender_lost = True
            await asyncio.sleep(WATCH_S)
            return None
        self._is_sender_lost = False
        return staged

    async def _take(self, staged: StagedVersion) -> None:
        """Apply a staged version, or pass it over; evaluate it where that is asked of this generator."""
        version = staged.version
        is_behind = self._held is not None and version.step < self._held.step
        is_evaluated = staged.keep and self._is_evaluator and bool(self._settings.evaluation) and version not in self._evaluated
        if is_behind and not is_evaluated:
            logger.info("version=%s is passed over: version=%s is sampled from", version, self._held)
            self._seen = version
            self._engine.pass_over(staged)
            return
        if is_evaluated:
            self._gate.shut()  # before anything of the new version is known: no lease may slip in between
        if is_behind:
            await self._gate.drained()
        try:
            await self._swap(version)
        except OvertakenError:
            logger.info("version=%s was overtaken by a newer one", version)
        else:
            await self._hold(version)
            if is_evaluated:
                await self._evaluate(version)
        if self._held is not None:
            self._gate.open()

    async def _evaluate_pending(self, *, has_next: bool) -> None:
        """Evaluate the oldest pending version, once nothing is in flight; then go back to what was sampled from before.

        has_next: a later version is held by the workers and applied next, so that no way back is needed.
        """
        version, since = self._pending[0]
        with tempfile.TemporaryDirectory(prefix="firesteel-") as folder:
            file, home = await self._files(version, has_next=has_next, folder=Path(folder))
            is_there = version in (self._held, *self._evaluated) or file is not None
            if not is_there and time.monotonic() - since > LOG_S:
                self._pending.pop(0)
                self._give_up(version, "it is not in the version log")
            if not is_there or (file is not None and home is None and self._held is not None and not has_next):
                return  # not yet: there is no way to it, or none back
            self._pending.pop(0)
            if version not in self._evaluated:
                await self._evaluate_apart(version, file=file, home=home)

    async def _files(self, version: Version, *, has_next: bool, folder: Path) -> tuple[Path | None, Path | None]:
        """Of a pending version and of the way back from it; None where the log lacks them, or they are not needed."""
        if version == self._held or version in self._evaluated:
            return None, None
        file = await self._log.fetch(version, folder)
        home = None
        if file is not None and self._held is not None and not has_next:
            home = await self._log.fetch(self._held, folder)
        return file, home

    async def _evaluate_apart(self, version: Version, *, file: Path | None, home: Path | None) -> None:
        held = self._held
        self._gate.shut()
        await self._gate.drained()
        try:
            if file is not None:
                await self._swap(version, file=file)
                self._held = None  # the queue's rollouts are not sampled from this
        except BroadcastError as error:
            self._give_up(version, str(error))
        else:
            await self._evaluate(version)
            if held is None:
                await self._hold(version)  # the first weights of this engine: the workers will not stage the same version again
        if self._held is None and home is not None and held is not None:
            await self._swap(held, file=home)
            self._held = held
        if self._held is not None:
            self._gate.open()

    def _give_up(self, version: Version, reason: str) -> None:
        """An evaluation that cannot be made is told as one without samples: whoever waits for it hears of it."""
        logger.warning("version=%s stays unevaluated: %s", version, reason)
        self.evaluations.put_nowait(EvaluationRun(version=version, samples=(), seconds=0.0))

    async def _swap(self, version: Version, *, file: Path | None = None) -> None:
        pause_s = await self._engine.apply(version, file=file)
        self.pause_seconds_max = max(self.pause_seconds_max, pause_s)
        self._metrics.histogram("rlvr_weight_pause_seconds").observe(pause_s)
        self._metrics.counter("rlvr_weights_applied_total").inc()
        self._metrics.gauge("rlvr_policy_version").set(version.step)
        self._metrics.gauge("rlvr_generator_lineage").set(version.lineage)

    async def _hold(self, version: Version) -> None:
        """Rollouts are sampled from this version now, and the queue knows."""
        self._held = self._seen = version
        await self._queue.applied(version, generator=self._settings.name)

    async def _evaluate(self, version: Version) -> None:
        """No lease is taken and no weights are applied meanwhile."""
        started = time.monotonic()
        run = await evaluate(self._engine, version, settings=self._settings, decoder=self._decoder)
        self._metrics.counter("rlvr_generator_evaluation_seconds_total").inc(time.monotonic() - started)
        if run is None:
            logger.info("the evaluation of version=%s is left to another generator", version)
            return
        self._evaluated.add(version)
        self.evaluations.put_nowait(run)
