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
import traceback
from collections import Counter
from collections.abc import Awaitable, Iterator
from datetime import UTC, datetime
from typing import Any

import msgspec

from actors.cluster import Cluster, metrics_host
from actors.evaluation import TRAIN_SET, EvaluationResult, EvaluationRun, as_unverified, headline_set, is_evaluated, results
from actors.fleet import Fleet, first_error, outcome
from actors.learner_actor import Published, StepResult
from actors.prepare import Plan
from actors.progress import RunProgress
from actors.run_facts import RunFacts
from actors.run_folder import EVALUATIONS, METRICS, SUMMARY, RunAddress, RunFolder
from actors.service import Service, Target
from actors.summary import ProcessSummary, Summary
from rlvr import wire
from rlvr.config import Config
from rlvr.errors import ActorError, FiresteelError, UserError
from rlvr.metrics import EvalSplit, Registry
from rlvr.records import Verdict

logger = logging.getLogger(__name__)

NEWS_WAIT_S = 0.5
LAST_WORD_S = 15.0
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
        self._service = Service(
            run=config.run.name,
            targets=self._targets,
            status=self._status,
            registry=self._metrics.collectors,
            advertise=metrics_host(config.metrics.bind),
        )
        self._facts = RunFacts(config.run.name, headline_set=headline_set(plan.evaluation))
        self._state = "starting"
        self._interrupted = asyncio.Event()

    async def run(self) -> Summary:
        """Start everything, train, evaluate, end everything. Raises UserError, the folder taken away, for what only an actor could find wrong."""
        with self._signals():
            try:
                await self._service.start(self._config.metrics.bind, self._config.metrics.port)
                self._announce()
                stopped, error = await self._work_to_the_end()
                return await self._write_summary(stopped, error)
            finally:
                await self._fleet.stop()
                await self._service.stop()

    async def _work_to_the_end(self) -> tuple[str, str | None]:
        """How the run stopped, and the sentence of its error."""
        try:
            return await self._work(), None
        except Exception as error:  # noqa: BLE001 - whatever ends a run is in its summary, and in failure.txt whole
            return FAILED, self._failure(error)

    def _failure(self, error: Exception) -> str:
        """The sentence of a failed run; the whole traceback goes to the run folder. A user's mistake that ended the start is raised as that."""
        first = first_error(error)
        if isinstance(first, UserError) and not self._facts.has_stood:
            self._folder.remove()
            raise first
        with contextlib.suppress(OSError):  # a full disk must not hide why the run failed
            self._folder.write_failure("".join(traceback.format_exception(error)))
        return str(first) if isinstance(first, FiresteelError) else f"{type(first).__name__}: {first}"

    async def _work(self) -> str:
        """Start, train and evaluate. Returns how the run stopped."""
        self._progress.say("starting: queue, verifiers, generators, learner")
        if not await self._unless_interrupted(asyncio.ensure_future(self._fleet.start())):
            return INTERRUPTED
        self._stand()
        running = self._fleet.run()
        async with asyncio.TaskGroup() as loops:
            watchers = [loops.create_task(_until_closed(name, call), name=name) for name, call in running.items() if not name.startswith("learner")]
            evaluations = loops.create_task(self._judge_evaluations(), name="evaluations")
            interrupts = loops.create_task(self._stop_learner_when_interrupted(), name="interrupt")
            stopped = await self._train({name: call for name, call in running.items() if name.startswith("learner")})
            if stopped == FINISHED:
                self._state = "evaluating"
                stopped = FINISHED if await self._unless_interrupted(evaluations) else INTERRUPTED
            for task in (evaluations, interrupts, *watchers):
                task.cancel()
        return stopped

    def _stand(self) -> None:
        """Every actor has started."""
        fleet = self._fleet
        self._facts.stands(ProcessSummary(generators=len(fleet.generators), verifiers=len(fleet.verifiers), learner_ranks=len(fleet.learners)))
        self._state = "training"
        self._folder.event("started", targets=[msgspec.to_builtins(target) for target in fleet.targets])
        for role, number in Counter(target.role for target in self._targets()).items():
            self._metrics.gauge("rlvr_actors", part=role).set(number)
        self._progress.say(f"every actor stands after {self._facts.setup_seconds:.0f} s; metrics: {self._service.address}/sd")

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
                self._facts.published.append(news)
                self._folder.event("published", version=str(news.version), bytes=news.bytes_sent, seconds=news.seconds, digest=news.digest)
            else:
                await self._write_step(news)

    async def _write_step(self, result: StepResult) -> None:
        report = result.report
        counts = await self._fleet.client.counts()
        self._facts.stepped(report.step, counts)
        removed = self._folder.write_rollouts(report.step, result.rollouts, keep_bytes=self._config.run.keep_rollouts_gib * 2**30)
        if removed:
            logger.info("rollouts of %d older steps were removed; run.keep_rollouts_gib is the limit", removed)
        self._folder.append(
            METRICS,
            {
                **msgspec.to_builtins(report),
                "time_s": self._facts.seconds,
                "wait_s": result.wait_s,
                "rollouts_per_second": self._facts.rollouts_per_second,
                "queue": msgspec.to_builtins(counts),
            },
        )
        self._progress.step(report, rollouts_per_second=self._facts.rollouts_per_second, staleness_max=counts.staleness_max_seen)

    async def _judge_evaluations(self) -> None:
        """Takes finished evaluations of the evaluating generator, has them judged, writes them; ends after the last one."""
        due = [step for step in range(self._config.run.num_steps + 1) if is_evaluated(step, self._config.run)]
        for _ in due:
            run: EvaluationRun = await outcome("generator-0", self._fleet.generators[0].next_evaluation.remote())
            frame = wire.pack(as_unverified(self._plan.evaluation, run.samples))
            verdicts = wire.unpack(await outcome("verifier-0", self._fleet.verifiers[0].judge_evaluation.remote(frame)), list[Verdict])
            evaluation = self._config.evaluation
            for result in results(self._plan.evaluation, run, verdicts, grader=evaluation.grader, extract=evaluation.extract):
                self._facts.results.append(result)
                self._folder.append(EVALUATIONS, result)
                self._measure(result)
                self._progress.evaluation(result)

    def _measure(self, result: EvaluationResult) -> None:
        """The training problems and the headline set have gauges; further sets are in evals.jsonl."""
        first = self._facts.headline_set
        if result.set not in (TRAIN_SET, first) or result.accuracy is None:
            return
        split = (EvalSplit.TRAIN if result.set == TRAIN_SET else EvalSplit.HELD_OUT).value
        self._metrics.gauge("rlvr_accuracy_ratio", split=split).set(result.accuracy)
        self._metrics.gauge("rlvr_evaluated_version", split=split).set(result.step)
        if result.set == first:
            self._metrics.histogram("rlvr_evaluation_seconds").observe(result.seconds)

    async def _stop_learner_when_interrupted(self) -> None:
        await self._interrupted.wait()
        self._progress.say("stopping: a checkpoint is written, then everything ends (again Ctrl-C: at once)")
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
        """Ctrl-C, SIGTERM and a closed terminal stop the run in good order; a second signal at once."""
        loop = asyncio.get_running_loop()

        def stop(number: int) -> None:
            if self._interrupted.is_set():
                os._exit(128 + number)
            self._interrupted.set()

        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(number, stop, number)
        try:
            yield
        finally:
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                loop.remove_signal_handler(number)

    async def _write_summary(self, stopped: str, error: str | None) -> Summary:
        """Ask for the last facts, as far as anybody answers, and write what is known."""
        if self._fleet.queue is not None:
            self._facts.counts = await self._last_word("queue", self._fleet.client.close()) or self._facts.counts
        if self._facts.has_stood:
            pauses = [await self._last_word("a generator", generator.pause_seconds_max.remote()) for generator in self._fleet.generators]
            self._facts.pauses = [pause for pause in pauses if pause is not None]
        summary = self._facts.summary(stopped=stopped, error=error)
        self._folder.write_json(SUMMARY, summary)
        self._folder.event(stopped, error=error)
        return summary

    async def _last_word(self, name: str, call: Awaitable[Any]) -> Any:
        """One answer at the end of a run; None, said aloud, where none comes."""
        try:
            async with asyncio.timeout(LAST_WORD_S):
                return await outcome(name, call)
        except (FiresteelError, TimeoutError) as error:
            logger.warning("%s does not answer at the end of the run (%s); the summary holds what was known before", name, error)
            return None

    def _announce(self) -> None:
        started = datetime.now(UTC).isoformat(timespec="seconds")
        self._folder.write_address(
            RunAddress(
                ray_address=self._cluster.address, namespace=self._cluster.namespace, service=self._service.address, pid=os.getpid(), started=started
            )
        )
        self._folder.event("starting", config=self._config.run.name)

    def _targets(self) -> list[Target]:
        own = Target(address=self._service.address.removeprefix("http://"), role="controller", replica="controller")
        return [own, *self._fleet.targets]

    async def _status(self) -> dict[str, Any]:
        """What `firesteel status` shows."""
        queue = await self._fleet.client.status() if self._fleet.queue is not None else None
        return {
            "name": self._config.run.name,
            "state": self._state,
            "step": self._facts.steps,
            "num_steps": self._config.run.num_steps,
            "version": str(self._facts.published[-1].version) if self._facts.published else None,
            "rollouts_per_second": self._facts.rollouts_per_second,
            "seconds": self._facts.seconds,
            "actors": [msgspec.to_builtins(target) for target in self._targets()],
            "queue": msgspec.to_builtins(queue) if queue is not None else None,
            "evaluations": [msgspec.to_builtins(result) for result in self._facts.results[-4:]],
        }


async def _until_closed(name: str, call: Awaitable[Any]) -> None:
    """Watch a generator or verifier: as long as the run lasts it has no business to end."""
    await outcome(name, call)
    raise ActorError(f"{name} ended while the run went on")
