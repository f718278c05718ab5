"""Training as the controller sees it: one learner after the other until the last step, and what each of them tells.

Owns the learner's restarts and its news: steps, published versions, checkpoints, epochs of the broadcast. Called by the controller; decides nothing
about the rest of the run.
"""

import asyncio
import logging
from collections.abc import Awaitable

import msgspec

from actors.calls import is_death, outcome
from actors.fleet.checkpoint_keeper import CheckpointKeeper
from actors.fleet.evaluation_keeper import EvaluationKeeper
from actors.fleet.fleet import Fleet
from actors.learner_news import Published, StepResult
from actors.run.facts import RunFacts
from actors.run.folder import METRICS, RunFolder
from actors.run.progress import RunProgress
from learner.broadcaster import Membership
from learner.checkpoint_report import Damaged, Saved, SaveFailed
from rlvr.errors import ActorError
from rlvr.records import Version

logger = logging.getLogger(__name__)

NEWS_WAIT_S = 0.5
LAST_NEWS_S = 2.0


class Training:
    """The learner's side of one run."""

    def __init__(
        self,
        fleet: Fleet,
        evaluations: EvaluationKeeper,
        keeper: CheckpointKeeper,
        *,
        folder: RunFolder,
        facts: RunFacts,
        progress: RunProgress,
        keep_rollouts_bytes: float,
    ) -> None:
        self._fleet = fleet
        self._evaluations = evaluations
        self._keeper = keeper
        self._folder = folder
        self._facts = facts
        self._progress = progress
        self._keep_rollouts_bytes = keep_rollouts_bytes
        self.membership: Membership | None = None
        """The newest epoch of the broadcast."""

    async def run(self, start: Version) -> str:
        """Train to the end, through as many learners as it takes; returns how it ended."""
        fleet = self._fleet
        while True:
            try:
                self._folder.event("lineage", lineage=start.lineage, step=start.step)
                self._facts.lineage = start.lineage
                fleet.restarts.started("learner")
                return await self._follow(fleet.learners.run(fleet.queue.handle, start, evaluate_start=self._evaluations.wants(start.step)))
            except ActorError as error:
                start = await self._start_learner_again(error)

    async def start(self, *, is_fresh: bool) -> Version:
        """The first learner of this process; one that is killed while it starts is started again. Returns the version to publish first."""
        try:
            return await self._fleet.start_learner(is_fresh=is_fresh)
        except ActorError as error:
            if not is_death(error):
                raise
            return await self._start_learner_again(error)

    async def _start_learner_again(self, error: ActorError) -> Version:
        while True:
            self._fleet.learner_lost(str(error))
            wait_s = self._fleet.restarts.died("learner", error)
            logger.warning("the learner is lost (%s); all its ranks start again from the newest checkpoint in %.1f s", error, wait_s)
            await self._fleet.learners.end()
            await asyncio.sleep(wait_s)
            try:
                start = await self._fleet.start_learner(is_fresh=False)
                await self._evaluations.roll_back(start)
                return start
            except ActorError as failure:
                error = failure

    async def _follow(self, training: Awaitable[str]) -> str:
        """Take the learner's news until all its ranks have ended."""
        ends = asyncio.ensure_future(training)
        news = asyncio.ensure_future(self._take_news())
        try:
            while not ends.done():
                await asyncio.wait([ends, news], return_when=asyncio.FIRST_COMPLETED)
                if news.done() and not ends.done():
                    news.result()
                    news = asyncio.ensure_future(self._take_news())
            stopped = ends.result()
            await news
            await self._take_news()
            return stopped
        finally:
            ends.cancel()
            if not news.done():  # what a dying learner still says is written; nobody waits long for it
                await asyncio.wait([news], timeout=LAST_NEWS_S)
            news.cancel()

    async def _take_news(self) -> None:
        for news in await outcome(self._fleet.learners.names[0], self._fleet.learners.first.next_news.remote(NEWS_WAIT_S)):
            match news:
                case StepResult():
                    await self._write_step(news)
                case Published():
                    self._facts.published.append(news)
                    await self._evaluations.published(news.version, receivers=news.receivers)
                    self._folder.event("published", version=str(news.version), bytes=news.bytes_sent, seconds=news.seconds, digest=news.digest)
                    await self._keeper.published(news.version)
                case Saved():
                    await self._keeper.saved(news)
                case SaveFailed():
                    self._folder.event("checkpoint_failed", version=str(news.version), error=news.reason)
                    self._progress.say(f"the checkpoint of version {news.version} could not be written: {news.reason}")
                case Damaged():
                    self._folder.event("checkpoint_damaged", step=news.step, error=news.reason)
                    self._progress.say(f"the checkpoint of step {news.step} is damaged ({news.reason}); the run goes on from the one before it")
                case Membership():
                    self.membership = news
                    self._folder.event("epoch", epoch=news.epoch, members=list(news.members), lost=list(news.lost), seconds=news.seconds)

    async def _write_step(self, result: StepResult) -> None:
        report = result.report
        counts = await self._fleet.queue.client.counts()
        self._facts.stepped(report.step, counts)
        self._fleet.learner_works()
        self._fleet.learner_waited_s += result.wait_s
        try:
            removed = self._folder.write_rollouts(report.step, result.rollouts, keep_bytes=self._keep_rollouts_bytes)
        except OSError as error:
            logger.warning("the rollouts of step=%d are not kept: %s", report.step, error)
            removed = 0
        if removed:
            logger.info("rollouts of %d older steps were removed; run.keep_rollouts_gib is the limit", removed)
        self._folder.append(
            METRICS,
            {
                **msgspec.to_builtins(report),
                "lineage": result.lineage,
                "time_s": self._facts.seconds,
                "wait_s": result.wait_s,
                "rollouts_per_second": self._facts.rollouts_per_second,
                "queue": msgspec.to_builtins(counts),
            },
        )
        self._progress.step(report, rollouts_per_second=self._facts.rollouts_per_second, staleness_max=counts.staleness_max_seen)
