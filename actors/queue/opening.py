"""Opening a queue: from its journal, if it has one, as it was when its last process ended.

Owns the way from a setup to a queue that has replayed. Called by the queue's service at its start.
"""

import logging
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from actors.journal.entries import Change, Group, Header, Snapshot
from actors.journal.files import FolderFiles, ObjectFiles, SegmentFiles
from actors.journal.journal import Journal, Observer
from actors.queue.rollout_queue import RolloutQueue
from actors.queue.settings import QueueSettings
from rlvr.config import Config
from rlvr.problems import Problem
from rlvr.step_plan import StepPlanner
from rlvr.store import ObjectStore, is_url

logger = logging.getLogger(__name__)


class QueueSetup(msgspec.Struct, frozen=True, kw_only=True):
    """What the queue is born with: the run's configuration, its training problems and their prompts' token ids by problem id."""

    config: Config
    problems: tuple[Problem, ...]
    prompt_ids: dict[str, tuple[int, ...]]
    journal: str = ""
    """Folder or URL of the journal; empty = none: what the queue knows ends with it, as unit tests want it."""
    silence_s: float | None = None
    """A worker that is not heard of for so long loses its leases; None = `queue.silence_s`."""
    start_s: float = 900.0
    """A worker that was announced is waited for so long."""
    tick_s: float = 0.5


def build_queue(
    setup: QueueSetup, *, clock: Callable[[], float], incarnation: int = 0, record: Callable[[Change], None] | None = None
) -> RolloutQueue:
    """The plain queue of a run, empty. Raises KeyError where a problem has no prompt ids."""
    config = setup.config
    planner = StepPlanner(setup.problems, config)
    settings = QueueSettings(
        rollouts_per_step=planner.rollouts_per_step,
        max_staleness=config.rollout.max_staleness,
        planner=planner,
        prompts={problem.id: setup.prompt_ids[problem.id] for problem in setup.problems},
        golds={problem.id: problem.answer for problem in setup.problems},
        num_steps=config.run.num_steps,
        lease_s=config.queue.lease_s,
        order=config.queue.order,
        window=config.queue.window,
        undecided=config.verifiers.undecided,
        deterministic=config.run.deterministic,
        seed=config.run.seed,
        incarnation=incarnation,
        is_forgetful=record is not None,
    )
    return RolloutQueue(settings, clock=clock, record=record or (lambda _: None))


def open_queue(
    setup: QueueSetup, *, clock: Callable[[], float], observer: Observer, is_held: Callable[[], bool] = lambda: False
) -> tuple[RolloutQueue, Journal | None]:
    """The queue as it was when its last process ended, and the open journal that it goes on with. is_held: whether the journal may not be written.

    Raises QueueError for a corrupt journal and for one that another process holds, and UserError for one that another version wrote; nothing is
    changed in any of these cases.
    """
    if not setup.journal:
        return build_queue(setup, clock=clock), None
    queue_config = setup.config.queue
    if not setup.config.run.checkpoint_every_steps:
        logger.warning(
            "the run makes no checkpoint before its last: the journal and the queue's memory grow all the time; set run.checkpoint_every_steps"
        )
    journal = Journal(
        segment_files(setup.journal, is_synced=queue_config.journal == "fsync"),
        run=setup.config.run.name,
        observer=observer,
        commit_s=queue_config.commit_s,
        keep_segments=queue_config.keep_segments,
        is_held=is_held,
    )
    try:
        return _opened(setup, journal, clock=clock), journal
    except BaseException:
        journal.release()
        raise


def _opened(setup: QueueSetup, journal: Journal, *, clock: Callable[[], float]) -> RolloutQueue:
    began = time.monotonic()
    queue = build_queue(setup, clock=clock, incarnation=journal.inspect(), record=journal.append)
    replay(journal, queue)
    journal.open(lineage=queue.lineage)
    queue.begin_again()
    queue.check()
    if journal.incarnation:
        entries, counts = journal.facts().replayed, queue.counts()
        logger.info(
            "the queue is back: incarnation=%d lineage=%d step=%d entries=%d held=%d seconds=%.1f",
            *(journal.incarnation, queue.lineage, queue.step, entries, counts.held, time.monotonic() - began),
        )
    return queue


def segment_files(place: str, *, is_synced: bool) -> SegmentFiles:
    """The segments at a folder or a URL."""
    return ObjectFiles(ObjectStore(place)) if is_url(place) else FolderFiles(Path(place), is_synced=is_synced)


def replay(journal: Journal, queue: RolloutQueue) -> None:
    """Bring an empty queue to where the journal ends."""
    for entry in journal.replay():
        if isinstance(entry, Snapshot):
            queue.state.restore(entry, journal.recall)
        elif not isinstance(entry, Header | Group):
            queue.state.do(entry)
