"""What a durable checkpoint makes possible: batches are committed, old versions leave the log, the run's history is where a resume finds it.

Owns the order of these. Called by the controller with the learner's news; blocking work is done in threads.
"""

import asyncio
import logging
from collections.abc import Iterable

import msgspec

from actors.fleet.evaluation_keeper import EvaluationKeeper
from actors.fleet.fleet import Fleet
from actors.run.facts import RunFacts
from actors.run.folder import EVENTS
from actors.run.resume import OpenRun
from learner import version_log
from learner.checkpoint_report import Saved
from rlvr.errors import StoreError
from rlvr.records import Version

logger = logging.getLogger(__name__)

LOGGED_MOST = 2
"""Versions that a late generator may start from; those that are still to be evaluated stay besides."""


class CheckpointKeeper:
    """Of one run."""

    def __init__(self, fleet: Fleet, evaluations: EvaluationKeeper, *, run: OpenRun, facts: RunFacts) -> None:
        self._fleet = fleet
        self._evaluations = evaluations
        self._run = run
        self._folder = run.folder
        self._store = run.store
        self._facts = facts
        self.newest_step: int | None = None
        """Of the newest durable checkpoint."""

    async def restore(self, start: Version) -> None:
        """Continue the run at `start`: what is evaluated, and what of the rest the version log still has."""
        self.newest_step = start.step or None
        rolled_back = [Version(lineage=event["lineage"], step=event["step"]) for event in self._folder.read(EVENTS) if event["event"] == "lineage"]
        logged = surviving(await asyncio.to_thread(version_log.versions, self._store), rolled_back)
        done = surviving((Version.parse(result.version) for result in self._facts.results), rolled_back)
        lost = self._evaluations.restore(done, logged, start=start)
        for step in lost:
            logger.warning("version of step=%d was to be evaluated and is gone: the run's evaluations lack it", step)
            self._folder.event("evaluation_lost", step=step)

    async def saved(self, news: Saved) -> None:
        """No batch that every kept checkpoint covers can be asked for again: the journal lets go of it."""
        self.newest_step = news.version.step
        self._folder.event("checkpoint", **msgspec.to_builtins(news) | {"version": str(news.version)})
        await self._fleet.queue.client.commit(min(news.kept))
        await asyncio.to_thread(self.write_history)

    async def published(self, version: Version) -> None:
        """The version log keeps the newest versions and those that are still to be evaluated."""
        await asyncio.to_thread(self._prune)

    def write_facts(self) -> bool:
        """What the run has cost and come to: often, so that a death loses seconds of it. True where it is kept."""
        try:
            self._run.save_facts(self._facts.so_far())
        except (OSError, StoreError) as error:
            logger.warning("facts.json cannot be written: %s", error)
            return False
        return True

    def write_history(self, stopped: str | None = None) -> None:
        """What a resume goes on from. A store that cannot take it now gets it with the next checkpoint."""
        try:
            self._run.save(self._facts.so_far(stopped=stopped))
        except (OSError, StoreError) as error:
            logger.warning("the run's history is not in its store: %s", error)

    def _prune(self) -> None:
        try:
            logged = version_log.versions(self._store)
            keep = {*sorted(logged)[-LOGGED_MOST:], *filter(self._evaluations.may_need, logged)}
            version_log.prune(self._store, keep)
        except StoreError as error:
            logger.warning("the version log could not be pruned: %s", error)


def surviving(versions: Iterable[Version], starts: Iterable[Version]) -> list[Version]:
    """Those that no later lineage has made anew. starts: the version from which each lineage went on."""
    begun = list(starts)
    return [version for version in versions if all(start.step >= version.step for start in begun if start.lineage > version.lineage)]
