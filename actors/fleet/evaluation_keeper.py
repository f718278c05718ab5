"""Every due evaluation is made once, whoever dies meanwhile: who evaluates, what is still due, and the verdicts.

Owns the list of due versions and the choice of the generator that evaluates. Called by the controller and by the fleet, which says who comes and
goes. A version that nobody could evaluate before its generator died is read again from the version log.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Iterable

from actors.calls import outcome, outcome_within
from actors.evaluation import EvaluationResult, EvaluationRun, as_unverified, is_evaluated, results
from actors.fleet.worker_pool import Worker, WorkerPool
from actors.prepare import Plan
from learner.weight_protocol import receiver_names
from rlvr import wire
from rlvr.config import Config
from rlvr.errors import ActorError, FiresteelError
from rlvr.records import Verdict, Version

logger = logging.getLogger(__name__)

LOOK_S = 0.2
APPOINT_S = 60.0
ROUNDS = 1000
"""Times that an evaluation's verdicts are asked for, of every verifier that stands."""


class EvaluationKeeper:
    """The evaluations of one run."""

    def __init__(
        self, config: Config, plan: Plan, *, generators: WorkerPool, verifiers: WorkerPool, take: Callable[[list[EvaluationResult]], Awaitable[None]]
    ) -> None:
        """take: given the results of each evaluation, one a set."""
        self._config = config
        self._plan = plan
        self._generators = generators
        self._verifiers = verifiers
        self._take = take
        self._published: dict[int, Version] = {}
        self._done: dict[int, Version] = {}
        self._lineage = 0
        self._evaluator: Worker | None = None
        self._turn = asyncio.Lock()

    @property
    def due_steps(self) -> list[int]:
        return [step for step in range(self._config.run.num_steps + 1) if is_evaluated(step, self._config.run)]

    @property
    def pending(self) -> list[Version]:
        """Published, due and not evaluated; oldest first."""
        return [version for step, version in sorted(self._published.items()) if self._done.get(step) != version]

    @property
    def is_complete(self) -> bool:
        return not self.pending and all(step in self._done for step in self.due_steps)

    def restore(self, done: Iterable[Version], logged: Iterable[Version], *, start: Version) -> list[int]:
        """Continue a run at `start`: what is evaluated already, and what its version log still holds. Returns due steps that are lost."""
        self._lineage = start.lineage
        self._done = {version.step: version for version in sorted(done) if version.step <= start.step}
        due = [step for step in self.due_steps if step < start.step and step not in self._done]
        held = {version.step: version for version in sorted(logged)}
        self._published = dict(self._done) | {step: held[step] for step in due if step in held}
        lost = [step for step in due if step not in held]
        for step in lost:
            self._published[step] = self._done[step] = Version(lineage=start.lineage, step=step)  # nobody can evaluate it any more
        return lost

    async def roll_back(self, start: Version) -> None:
        """Versions after `start` are made again, by a new sender: what a generator had staged of the old one is gone."""
        self._lineage = start.lineage
        for known in (self._published, self._done):
            for step in [step for step in known if step > start.step]:
                del known[step]
        await self._remind()

    def may_need(self, version: Version) -> bool:
        """Whether this version is due and not evaluated, though its news may not have come yet."""
        return is_evaluated(version.step, self._config.run) and self._done.get(version.step) != version

    def wants(self, step: int) -> bool:
        """Whether the version that a learner starts from is due and not evaluated yet."""
        return is_evaluated(step, self._config.run) and step not in self._done

    async def published(self, version: Version, *, receivers: Collection[str]) -> None:
        """These receivers have a version; an evaluator that is not among them finds it in the version log."""
        if not is_evaluated(version.step, self._config.run) or self._done.get(version.step, version) != version:
            return
        self._published[version.step] = version
        evaluator = self._evaluator
        if evaluator is not None and receiver_names(evaluator.name)[0] not in receivers:
            await self._remind()

    async def enters(self, worker: Worker) -> None:
        """A generator is about to work: it evaluates where nobody does."""
        async with self._turn:
            if self._evaluator is None:
                await self._appoint(worker)

    def gone(self, worker: Worker) -> None:
        """A generator works no more."""
        if self._evaluator is worker:
            self._evaluator = None

    async def run(self) -> None:
        """Takes finished evaluations, has them judged, gives the results; ends after the last one."""
        while not self.is_complete:
            evaluator = await self._present()
            try:
                run: EvaluationRun = await evaluator.unless_given_up(outcome(evaluator.name, evaluator.handle.next_evaluation.remote()))
            except FiresteelError as error:
                logger.warning("generator=%s evaluates no more (%s); another one goes on", evaluator.name, error)
                self.gone(evaluator)
                continue
            if self._is_wanted(run.version):
                await self._take(await self._judged(run))
                self._done[run.version.step] = run.version

    def _is_wanted(self, version: Version) -> bool:
        """Not done yet, and of the lineage that survives: the evaluator may be faster than the news that a slower generator has the version too."""
        is_known = self._published.get(version.step) == version or version.lineage == self._lineage
        return is_known and self._done.get(version.step) != version

    async def _present(self) -> Worker:
        """The generator that evaluates; where there is none, the first that works."""
        while True:
            async with self._turn:
                if self._evaluator is not None and not self._evaluator.given_up.is_set():
                    return self._evaluator
                for worker in self._generators.standing:
                    if not worker.is_leaving and not worker.given_up.is_set() and await self._appoint(worker):
                        return worker
            await asyncio.sleep(LOOK_S)

    async def _remind(self) -> None:
        """The evaluator hears once more what is pending; what it has evaluated already it leaves out."""
        async with self._turn:
            if self._evaluator is not None and self.pending and not await self._appoint(self._evaluator):
                self._evaluator = None

    async def _appoint(self, worker: Worker) -> bool:
        pending = [str(version) for version in self.pending]
        try:
            await worker.unless_given_up(outcome_within(APPOINT_S, worker.name, worker.handle.evaluate_from_now.remote(pending)))
        except FiresteelError as error:
            logger.warning("generator=%s cannot evaluate: %s", worker.name, error)
            return False
        self._evaluator = worker
        return True

    async def _judged(self, run: EvaluationRun) -> list[EvaluationResult]:
        """Asks one verifier after the other until one answers."""
        frame = wire.pack(as_unverified(self._plan.evaluation, run.samples))
        evaluation = self._config.evaluation
        for _ in range(ROUNDS):
            for worker in self._verifiers.standing:
                try:
                    answer = await worker.unless_given_up(outcome(worker.name, worker.handle.judge_evaluation.remote(frame)))
                except FiresteelError as error:
                    logger.warning("verifier=%s did not judge an evaluation (%s); another one does", worker.name, error)
                    continue
                verdicts = wire.unpack(answer, list[Verdict])
                return results(self._plan.evaluation, run, verdicts, grader=evaluation.grader, extract=evaluation.extract)
            await asyncio.sleep(LOOK_S)
        raise ActorError(f"no verifier judges the evaluation of version {run.version}: see the warnings above")
