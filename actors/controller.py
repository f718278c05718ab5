"""The controller: one run from its first actor to its summary.

Owns the order of a run and its end. It is on no hot path: it watches the actors, judges evaluations, writes the run folder and serves service
discovery. Called by the CLI, in the driver process. A crash of any loop or actor ends the run with that error, never in silence; every end writes a
summary.
"""

import asyncio
import contextlib
import logging
import os
import signal
import time
import traceback
from collections import Counter
from collections.abc import Awaitable, Iterator
from datetime import UTC, datetime
from typing import Any

import msgspec

from actors.cluster import Cluster
from actors.evaluation import TRAIN_SET, EvaluationResult, EvaluationRun, as_unverified, is_evaluated, results
from actors.fleet import Fleet, first_error, outcome
from actors.learner_actor import Published, StepResult
from actors.prepare import Plan
from actors.progress import RunProgress
from actors.queue_records import QueueCounts
from actors.run_folder import EVALUATIONS, METRICS, SUMMARY, RunAddress, RunFolder
from actors.service import Service, Target
from actors.summary import ProcessSummary, RolloutSummary, SecondsSummary, Summary, WeightSummary
from rlvr import wire
from rlvr.config import Config
from rlvr.errors import ActorError, FiresteelError
from rlvr.metrics import EvalSplit, Registry
from rlvr.records import Verdict

logger = logging.getLogger(__name__)

NEWS_WAIT_S = 0.5
FINISHED, INTERRUPTED, FAILED = "finished", "interrupted", "failed"


class Controller:
    """One run. `run` returns its summary; only a fault of the user raises."""

    def __init__(self, config: Config, plan: Plan, *, cluster: Cluster, folder: RunFolder, progress: RunProgress) -> None:
        self._config = config
        self._plan = plan
        self._cluster = cluster
        self._folder = folder
        self._progress = progress
        self._fleet = Fleet(config, plan, cluster, checkpoints=str(folder.checkpoints(config.run.store)))
        self._metrics = Registry(role="controller", replica="controller")
        self._service = Service(run=config.run.name, targets=self._targets, status=self._status, registry=self._metrics.collectors)
        self._results: list[EvaluationResult] = []
        self._published: list[Published] = []
        self._steps = 0
        self._rate = 0.0
        self._began = self._trained_from = self._trained_to = time.monotonic()
        self._stopped = FAILED
        self._interrupted = asyncio.Event()

    async def run(self) -> Summary:
        """Start everything, train, evaluate, end everything. Raises UserError where the metrics port is taken."""
        await self._service.start(self._config.metrics.bind, self._config.metrics.port)
        self._announce()
        error: str | None = None
        try:
            with self._signals():
                await self._work()
        except* Exception as group:  # noqa: BLE001 - whatever ends a run is in its summary, and in failure.txt whole
            error = self._failure(group)
        if error is not None:
            self._stopped = FAILED
        try:
            summary = await self._summarise(error)
            self._folder.write_json(SUMMARY, summary)
            self._folder.event(self._stopped, error=error)
        finally:
            await self._fleet.stop()
            await self._service.stop()
        return summary

    def _failure(self, group: ExceptionGroup[Exception]) -> str:
        """The sentence of a failed run; the whole traceback goes to the run folder."""
        first = first_error(group)
        self._folder.write_failure("".join(traceback.format_exception(group)))
        return str(first) if isinstance(first, FiresteelError) else f"{type(first).__name__}: {first}"

    async def _work(self) -> None:
        self._say("starting: queue, verifiers, generators, learner")
        starting = asyncio.ensure_future(self._fleet.start())
        if not await self._unless_interrupted(starting):
            self._stopped = INTERRUPTED
            return
        self._event("started", targets=[msgspec.to_builtins(target) for target in self._fleet.targets])
        for role, number in Counter(target.role for target in self._targets()).items():
            self._metrics.gauge("rlvr_actors", part=role).set(number)
        self._trained_from = self._trained_to = time.monotonic()
        self._progress.say(f"every actor stands after {self._trained_from - self._began:.0f} s; metrics: {self._service.address}/sd")
        running = self._fleet.run()
        async with asyncio.TaskGroup() as loops:
            watchers = [loops.create_task(_until_closed(name, call), name=name) for name, call in running.items() if not name.startswith("learner")]
            evaluations = loops.create_task(self._judge_evaluations(), name="evaluations")
            interrupts = loops.create_task(self._stop_learner_when_interrupted(), name="interrupt")
            self._stopped = await self._train({name: call for name, call in running.items() if name.startswith("learner")})
            if self._stopped == FINISHED:
                await evaluations
            for task in (evaluations, interrupts, *watchers):
                task.cancel()

    async def _train(self, ranks: dict[str, Awaitable[str]]) -> str:
        """Follow the learner until all its ranks have ended; returns how."""
        async with asyncio.TaskGroup() as group:
            ends = [group.create_task(outcome(name, call)) for name, call in ranks.items()]
            while not all(end.done() for end in ends):
                await self._take_news()
        await self._take_news()
        return str(ends[0].result())

    async def _take_news(self) -> None:
        for news in await outcome("learner-0", self._fleet.learners[0].next_news.remote(NEWS_WAIT_S)):
            if isinstance(news, Published):
                self._published.append(news)
                self._event("published", version=str(news.version), bytes=news.bytes_sent, seconds=news.seconds, digest=news.digest)
            else:
                await self._write_step(news)

    async def _write_step(self, result: StepResult) -> None:
        report = result.report
        now = time.monotonic()
        counts = await self._fleet.client.counts()
        self._steps = report.step
        self._trained_to = now
        self._rate = counts.consumed / max(now - self._trained_from, 1e-9)
        removed = self._folder.write_rollouts(report.step, result.rollouts, keep_bytes=self._config.run.keep_rollouts_gib * 2**30)
        if removed:
            logger.info("rollouts of %d older steps were removed; run.keep_rollouts_gib is the limit", removed)
        self._folder.append(
            METRICS,
            {
                **msgspec.to_builtins(report),
                "time_s": now - self._began,
                "wait_s": result.wait_s,
                "rollouts_per_second": self._rate,
                "queue": msgspec.to_builtins(counts),
            },
        )

        self._progress.step(report, rollouts_per_second=self._rate, staleness_max=counts.staleness_max_seen)

    async def _judge_evaluations(self) -> None:
        """Takes finished evaluations of the evaluating generator, has them judged, writes them; ends after the last one."""
        due = [step for step in range(self._config.run.num_steps + 1) if is_evaluated(step, self._config.run)]
        for _ in due:
            run: EvaluationRun = await outcome("generator-0", self._fleet.generators[0].next_evaluation.remote())
            frame = wire.pack(as_unverified(self._plan.evaluation, run.samples))
            verdicts = wire.unpack(await outcome("verifier-0", self._fleet.verifiers[0].judge_evaluation.remote(frame)), list[Verdict])
            evaluation = self._config.evaluation
            for result in results(self._plan.evaluation, run, verdicts, grader=evaluation.grader, extract=evaluation.extract):
                self._results.append(result)
                self._folder.append(EVALUATIONS, result)
                self._measure(result)
                self._progress.evaluation(result)

    def _measure(self, result: EvaluationResult) -> None:
        """The training problems and the first held-out set have gauges; further sets are in evals.jsonl."""
        first = self._plan.evaluation[0].set_name
        if result.set not in (TRAIN_SET, first):
            return
        split = (EvalSplit.TRAIN if result.set == TRAIN_SET else EvalSplit.HELD_OUT).value
        self._metrics.gauge("rlvr_accuracy_ratio", split=split).set(result.accuracy)
        self._metrics.gauge("rlvr_evaluated_version", split=split).set(result.step)
        if result.set == first:
            self._metrics.histogram("rlvr_evaluation_seconds").observe(result.seconds)

    async def _stop_learner_when_interrupted(self) -> None:
        await self._interrupted.wait()
        self._say("stopping: a checkpoint is written, then everything ends (again Ctrl-C: at once)")
        await outcome("learner-0", self._fleet.learners[0].stop.remote())
        await asyncio.Event().wait()  # ends with the learner: the group cancels this loop

    async def _unless_interrupted(self, work: asyncio.Future[Any]) -> bool:
        """Wait for `work`, or for the first Ctrl-C, which cancels it. True where the work was done."""
        interrupt = asyncio.ensure_future(self._interrupted.wait())
        try:
            await asyncio.wait([work, interrupt], return_when=asyncio.FIRST_COMPLETED)
            if work.done():
                work.result()
                return True
            work.cancel()
            return False
        finally:
            interrupt.cancel()

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        """Ctrl-C and SIGTERM stop the run in good order; a second one at once."""
        loop = asyncio.get_running_loop()

        def stop(number: int) -> None:
            if self._interrupted.is_set():
                os._exit(128 + number)
            self._interrupted.set()

        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, stop, number)
        try:
            yield
        finally:
            for number in (signal.SIGINT, signal.SIGTERM):
                loop.remove_signal_handler(number)

    async def _summarise(self, error: str | None) -> Summary:
        counts = await self._counts()
        pauses = await self._pauses() if error is None and self._fleet.generators else []
        if self._fleet.queue is not None and error is None:
            await self._fleet.client.close()
        now = time.monotonic()
        training = self._trained_to - self._trained_from
        return Summary(
            name=self._config.run.name,
            steps=self._steps,
            versions_published=len(self._published),
            accuracy_before=self._accuracy(held_out=True, step=0),
            accuracy_after=self._accuracy(held_out=True, step=self._steps) if self._steps else None,
            train_accuracy_after=self._accuracy(held_out=False, step=self._steps) if self._steps else None,
            rollouts=RolloutSummary(
                accepted=counts.accepted if counts else 0,
                consumed=counts.consumed if counts else 0,
                dropped=dict(counts.dropped) if counts else {},
                held=counts.held if counts else 0,
            ),
            tokens_generated=counts.tokens_generated if counts else 0,
            staleness_max_seen=counts.staleness_max_seen if counts else 0,
            verdicts=dict(counts.verdicts) if counts else {},
            processes=ProcessSummary(
                generators=len(self._fleet.generators), verifiers=len(self._fleet.verifiers), learner_ranks=len(self._fleet.learners)
            ),
            seconds=SecondsSummary(setup=self._trained_from - self._began, training=training, total=now - self._began),
            rollouts_per_second=counts.consumed / training if counts and training > 0 else 0.0,
            weights=WeightSummary(
                versions=len(self._published),
                bytes_sent=sum(published.bytes_sent for published in self._published),
                pause_seconds_max=max(pauses, default=0.0),
            ),
            stopped=self._stopped,
            error=error,
        )

    async def _counts(self) -> QueueCounts | None:
        """The queue's last counts; None where the queue itself is gone."""
        if self._fleet.queue is None:
            return None
        try:
            return await self._fleet.client.counts()
        except ActorError as error:
            logger.warning("the queue cannot be asked any more (%s); the summary's rollouts are 0", error)
            return None

    async def _pauses(self) -> list[float]:
        return [await outcome("generator", generator.pause_seconds_max.remote()) for generator in self._fleet.generators]

    def _accuracy(self, *, held_out: bool, step: int) -> float | None:
        of_step = [result for result in self._results if result.step == step and (result.set != TRAIN_SET) == held_out]
        return of_step[0].accuracy if of_step else None

    def _announce(self) -> None:
        started = datetime.now(UTC).isoformat(timespec="seconds")
        self._folder.write_address(
            RunAddress(
                ray_address=self._cluster.address, namespace=self._cluster.namespace, service=self._service.address, pid=os.getpid(), started=started
            )
        )
        self._event("starting", config=self._config.run.name)

    def _targets(self) -> list[Target]:
        own = Target(address=self._service.address.removeprefix("http://"), role="controller", replica="controller")
        return [own, *self._fleet.targets]

    async def _status(self) -> dict[str, Any]:
        """What `firesteel status` shows."""
        queue = await self._fleet.client.status() if self._fleet.queue is not None else None
        return {
            "name": self._config.run.name,
            "state": "training" if self._steps else "starting",
            "step": self._steps,
            "num_steps": self._config.run.num_steps,
            "version": str(self._published[-1].version) if self._published else None,
            "rollouts_per_second": self._rate,
            "seconds": time.monotonic() - self._began,
            "actors": [msgspec.to_builtins(target) for target in self._targets()],
            "queue": msgspec.to_builtins(queue) if queue is not None else None,
            "evaluations": [msgspec.to_builtins(result) for result in self._results[-4:]],
        }

    def _say(self, text: str) -> None:
        self._progress.say(text)

    def _event(self, kind: str, **facts: Any) -> None:
        self._folder.event(kind, **facts)


async def _until_closed(name: str, call: Awaitable[Any]) -> None:
    """Watch a generator or verifier: as long as the run lasts it has no business to end."""
    await outcome(name, call)
    raise ActorError(f"{name} ended while the run went on")
