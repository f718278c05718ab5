"""The controller: one run from its first actor to its summary.

Owns the order of a run and its end. It is on no hot path: it takes the learner's news, writes the run folder, serves service discovery, and lets
the fleet replace what dies. Called by the CLI, in the driver process. A crash of any loop ends the run with that error, never in silence; every end
writes a summary, and an end before the last step leaves a run that can be resumed.
"""

import asyncio
import contextlib
import logging
import os
import traceback
from collections import Counter
from collections.abc import Awaitable
from datetime import UTC, datetime
from typing import Any

import msgspec

from actors.calls import first_error, outcome
from actors.cluster import Cluster, metrics_host
from actors.evaluation import TRAIN_SET, EvaluationResult, headline_set
from actors.fleet.blueprints import Blueprints
from actors.fleet.checkpoint_keeper import CheckpointKeeper
from actors.fleet.cost import CostMeter
from actors.fleet.evaluation_keeper import EvaluationKeeper
from actors.fleet.fleet import Fleet
from actors.fleet.status import run_status
from actors.fleet.training import Training
from actors.prepare import Plan
from actors.run.facts import Employed, RunFacts
from actors.run.folder import EVALUATIONS, SUMMARY, RunAddress
from actors.run.lock import BEAT_S
from actors.run.progress import RunProgress
from actors.run.resume import OpenRun
from actors.run.service import Service, Target
from actors.run.store_actor import StoreAddress
from actors.run.summary import ProcessSummary, Summary
from actors.signals import Signals
from rlvr.config import Config
from rlvr.errors import FiresteelError, LockLost, StoreError, UserError
from rlvr.metrics import EvalSplit, Registry, RunState
from rlvr.records import Version

logger = logging.getLogger(__name__)

LAST_WORD_S = 15.0
FINISHED, INTERRUPTED, FAILED = "finished", "interrupted", "failed"


class Controller:
    """One run, or its continuation. `run` returns its summary; only a fault of the user raises."""

    def __init__(
        self,
        config: Config,
        plan: Plan,
        *,
        cluster: Cluster,
        run: OpenRun,
        address: StoreAddress,
        progress: RunProgress,
    ) -> None:
        """run: owned by this process. address: by which other hosts find its store."""
        self._config = config
        self._plan = plan
        self._cluster = cluster
        self._run = run
        self._folder = run.folder
        self._progress = progress
        self._facts = RunFacts(
            config.run.name,
            headline_set=headline_set(plan.evaluation),
            num_steps=config.run.num_steps,
            before=run.before,
            results=[msgspec.convert(line, EvaluationResult) for line in run.folder.read(EVALUATIONS)],
        )
        self._metrics = Registry(role="controller", replica="controller")
        journal = f"{address.where.rstrip('/')}/journal"
        blueprints = Blueprints(config, plan, cluster, store=address, journal=journal, resumes=self._facts.resumes)
        cost = CostMeter(config.cost, self._metrics, before=self._facts.before.costs)
        self._fleet = Fleet(blueprints, run.store, metrics=self._metrics, cost=cost, event=run.folder.event)
        self._evaluations = EvaluationKeeper(
            config, plan, generators=self._fleet.generators, verifiers=self._fleet.verifiers, take=self._write_evaluation
        )
        self._fleet.evaluations = self._evaluations
        self._keeper = CheckpointKeeper(self._fleet, self._evaluations, run=run, facts=self._facts)
        self._training = Training(
            self._fleet,
            self._evaluations,
            self._keeper,
            folder=run.folder,
            facts=self._facts,
            progress=progress,
            keep_rollouts_bytes=config.run.keep_rollouts_gib * 2**30,
        )
        self._service = Service(
            run=config.run.name,
            targets=self._targets,
            status=self._status,
            registry=self._metrics.collectors,
            advertise=metrics_host(config.metrics.bind),
            stop=self._stop_asked,
            scale=self._scale_asked,
        )
        self._enter(RunState.STARTING)
        self._started = datetime.now(UTC).isoformat(timespec="milliseconds")
        self._is_resumed = run.before is not None
        self._is_overtaken = False
        self._before_restarts = dict(self._facts.restarts)
        self.signals = Signals()

    async def run(self) -> Summary:
        """Start everything, train, evaluate, end everything. Raises UserError, the folder taken away, for what only an actor could find wrong."""
        with self.signals.caught():
            try:
                await self._service.start(self._config.metrics.bind, self._config.metrics.port)
                self._announce()
                stopped, error = await self._work_to_the_end()
                return await self._write_summary(stopped, error)
            finally:
                await self._fleet.stop(asks=not self._is_overtaken)
                if self._facts.has_stood and not self._is_overtaken:
                    await asyncio.sleep(self._config.metrics.linger_s)
                await self._service.stop()

    def _enter(self, state: str) -> None:
        self._state = state
        for other in RunState:
            self._metrics.gauge("rlvr_run_state", state=other.value).set(other.value == state)

    async def _work_to_the_end(self) -> tuple[str, str | None]:
        """How the run stopped, and the sentence of its error."""
        try:
            return await self._work(), None
        except Exception as error:  # noqa: BLE001 - whatever ends a run is in its summary, and in failure.txt whole
            return FAILED, self._failure(error)

    def _failure(self, error: Exception) -> str:
        """The sentence of a failed run; the whole traceback goes to the run folder.

        A user's mistake that ended the start is raised as that, and so is the loss of the run to another process.
        """
        first = first_error(error)
        if isinstance(first, LockLost):  # the run is another process's by now: nothing of it is written any more
            self._is_overtaken = True
            raise first
        if isinstance(first, UserError) and not self._facts.has_stood:
            self._run.take_back()
            raise first
        with contextlib.suppress(OSError):  # a full disk must not hide why the run failed
            self._folder.write_failure("".join(traceback.format_exception(error)))
        return str(first) if isinstance(first, FiresteelError) else f"{type(first).__name__}: {first}"

    async def _work(self) -> str:
        """Everything that goes on at the same time, until the run has stopped. Returns how."""
        self._progress.say("starting: queue, verifiers, generators, learner")
        async with asyncio.TaskGroup() as group:
            interrupted = group.create_task(self.signals.wait(), name="interrupt")
            beating = group.create_task(self._beat(), name="lock")  # from the start: a long replay must not look like a death
            starting = group.create_task(self._fleet.start_queue(), name="start queue")
            if not await _first(starting, interrupted):
                return _cancelled(interrupted, starting, beating)
            loops = [group.create_task(_awaited(loop), name=name) for name, loop in self._fleet.loops().items()]
            loops.append(beating)
            work = group.create_task(self._train_and_evaluate(), name="training")
            if not await _first(work, interrupted):
                await self._stop_in_good_order(work)
            for task in (interrupted, *loops):
                task.cancel()
        return INTERRUPTED if work.cancelled() else work.result()

    async def _train_and_evaluate(self) -> str:
        start = await self._start()
        self._stand()
        async with asyncio.TaskGroup() as group:
            evaluations = group.create_task(self._evaluations.run(), name="evaluations")
            stopped = await self._training.run(start)
            if stopped == FINISHED:
                self._enter(RunState.EVALUATING)
                await asyncio.wait([evaluations])
                await self._evaluations.run()  # a learner that was lost late has published once more
            evaluations.cancel()
        return stopped

    async def _start(self) -> Version:
        """The learner starts while generators and verifiers do. Returns the version that it publishes first."""
        async with asyncio.TaskGroup() as starts:
            learner = starts.create_task(self._training.start(is_fresh=not self._is_resumed), name="start learner")
            starts.create_task(self._fleet.wait_until_standing(), name="wait for workers")
        start = learner.result()
        if self._is_resumed:
            await self._keeper.restore(start)
            self._progress.say(f"resumed: version {start} from the newest checkpoint; the queue's journal has the rest")
        return start

    def _stand(self) -> None:
        """Every part has started."""
        fleet = self._fleet
        self._facts.stands(
            ProcessSummary(
                generators=len(fleet.generators.standing), verifiers=len(fleet.verifiers.standing), learner_ranks=self._config.learner.ranks
            )
        )
        self._enter(RunState.TRAINING)
        self._metrics.gauge("rlvr_actors", part="controller").set(1)
        self._metrics.gauge("rlvr_actors_wanted", part="controller").set(1)
        self._folder.event("started", targets=[msgspec.to_builtins(target) for target in fleet.targets], is_resumed=self._is_resumed)
        self._progress.say(f"every actor stands after {self._facts.setup_seconds:.0f} s; metrics: {self._service.address}/sd")

    async def _write_evaluation(self, found: list[EvaluationResult]) -> None:
        for result in found:
            self._facts.results.append(result)
            self._folder.append(EVALUATIONS, result)
            self._measure(result)
            self._progress.evaluation(result)
        await asyncio.to_thread(self._keeper.write_history)

    def _measure(self, result: EvaluationResult) -> None:
        """The training problems and the headline set have gauges; further sets are in evals.jsonl."""
        first = headline_set(self._plan.evaluation)
        if result.set not in (TRAIN_SET, first) or result.accuracy is None:
            return
        split = (EvalSplit.TRAIN if result.set == TRAIN_SET else EvalSplit.HELD_OUT).value
        self._metrics.gauge("rlvr_accuracy_ratio", split=split).set(result.accuracy)
        self._metrics.gauge("rlvr_evaluated_version", split=split).set(result.step)
        if result.set == first:
            self._metrics.histogram("rlvr_evaluation_seconds").observe(result.seconds)

    async def _stop_in_good_order(self, work: "asyncio.Task[str]") -> None:
        """Ctrl-C, SIGTERM or `firesteel stop`: a last checkpoint within the grace period, then the end."""
        if self._state == "training":
            grace_s = self._config.run.grace_s
            self._progress.say("stopping: a checkpoint is written, then everything ends (again Ctrl-C: at once)")
            ends_at = asyncio.get_running_loop().time() + grace_s
            while not work.done() and asyncio.get_running_loop().time() < ends_at:
                try:
                    await self._fleet.learners.stop()  # asked again, since a learner that starts again meanwhile has not heard it
                except (FiresteelError, IndexError) as error:
                    logger.info("the learner does not hear that it should stop (%s); asking again", error)
                await asyncio.wait([work], timeout=1.0)
            if not work.done():
                logger.warning(
                    "no checkpoint within run.grace_s = %.0f s; the journal and the last checkpoint have what a resumed run needs", grace_s
                )
        work.cancel()
        await asyncio.wait([work])

    async def _beat(self) -> None:
        """Says that this process owns the run. Raises LockLost where another one has taken over."""
        while True:
            try:
                await asyncio.to_thread(self._run.lock.beat)
                if self._fleet.is_started:
                    await self._fleet.queue.keep_alive()
            except StoreError as error:
                logger.warning("the run's lock could not be renewed, trying again: %s", error)
            self._facts.employs(self._employed())
            self._take_totals()
            if await asyncio.to_thread(self._keeper.write_facts):
                self._fleet.cost.show(self._facts.costs)
            await asyncio.sleep(BEAT_S)

    def _take_totals(self) -> None:
        self._facts.costs = self._fleet.cost.so_far()
        replaced = Counter(name.partition("-")[0] for name in self._fleet.restarts.total.elements())
        self._facts.restarts = Counter(self._before_restarts) + replaced

    def _employed(self) -> dict[str, Employed]:
        """Who works for the run now, and the GPUs that they hold."""
        fleet, generators = self._fleet, self._config.generators
        gpus = generators.tensor_parallel if self._cluster.device(generators.device) == "cuda" else 0
        ranks = len(fleet.learners.handles)
        return {
            "generator": Employed(processes=len(fleet.generators.alive), gpus=gpus * len(fleet.generators.alive)),
            "verifier": Employed(processes=len(fleet.verifiers.alive)),
            "learner": Employed(processes=ranks, gpus=ranks if self._cluster.device(self._config.learner.device) == "cuda" else 0),
            "queue": Employed(processes=1),
            "controller": Employed(processes=1),
        }

    async def _write_summary(self, stopped: str, error: str | None) -> Summary:
        """Ask for the last facts, as far as anybody answers, and write what is known."""
        if self._fleet.is_started:
            closing = self._fleet.queue.client.close(is_finished=stopped == FINISHED)
            self._facts.counts = await self._last_word("queue", closing) or self._facts.counts
        if self._facts.has_stood:
            workers = self._fleet.generators.standing
            pauses = [await self._last_word(worker.name, outcome(worker.name, worker.handle.pause_seconds_max.remote())) for worker in workers]
            self._facts.pauses += [pause for pause in pauses if pause is not None]
        self._take_totals()
        self._enter(stopped)
        summary = self._facts.summary(stopped=stopped, error=error)
        try:
            self._folder.write_json(SUMMARY, summary)
        except OSError as failure:
            logger.warning("the run has no summary.json: %s", failure)
        self._folder.event(stopped, error=error)
        await asyncio.to_thread(self._keeper.write_history, stopped)
        return summary

    async def _last_word(self, name: str, call: Awaitable[Any]) -> Any:
        """One answer at the end of a run; None, said aloud, where none comes."""
        try:
            async with asyncio.timeout(LAST_WORD_S):
                return await call
        except (FiresteelError, TimeoutError) as error:
            logger.warning("%s does not answer at the end of the run (%s); the summary holds what was known before", name, error)
            return None

    def _announce(self) -> None:
        self._folder.write_address(
            RunAddress(
                ray_address=self._cluster.address,
                namespace=self._cluster.namespace,
                service=self._service.address,
                pid=os.getpid(),
                started=self._started,
                token=self._service.token,
            )
        )
        self._folder.event("starting", config=self._config.run.name, is_resumed=self._is_resumed)

    def _targets(self) -> list[Target]:
        own = Target(address=self._service.address.removeprefix("http://"), role="controller", replica="controller")
        return [own, *self._fleet.targets]

    async def _stop_asked(self) -> dict[str, Any]:
        self.signals.stop()
        return {"state": self._state}

    async def _scale_asked(self, generators: int | None, verifiers: int | None) -> dict[str, Any]:
        if self._state != "training":
            raise UserError(f"the run is {self._state}: it can be scaled while it trains")
        self._fleet.scale(generators, verifiers)
        return {"wanted": {pool.role: pool.wanted for pool in (self._fleet.generators, self._fleet.verifiers)}}

    async def _status(self) -> dict[str, Any]:
        return run_status(
            self._config, self._fleet, self._facts, state=self._state, started=self._started, targets=self._targets(),
            checkpoint=self._keeper.newest_step, membership=self._training.membership,
        )  # fmt: skip


async def _awaited(loop: Awaitable[Any]) -> Any:
    return await loop


async def _first(work: "asyncio.Task[Any]", interrupt: "asyncio.Task[Any]") -> bool:
    """Wait for either; True where the work was done."""
    await asyncio.wait([work, interrupt], return_when=asyncio.FIRST_COMPLETED)
    return work.done()


def _cancelled(*tasks: "asyncio.Task[Any]") -> str:
    for task in tasks:
        task.cancel()
    return INTERRUPTED
