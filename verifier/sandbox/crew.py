"""The workers of a pool: forked, checked, asked, watched, buried and replaced, all in one thread.

Owns the zygote, its workers, their wall deadlines and the line of waiting tasks. Called by `pool` from its thread alone. A worker that dies, answers
garbage or misses its deadline is never read again; what it had is asked again or settled.
"""

import contextlib
import logging
import math
import selectors
import time
from collections.abc import Callable, Sequence

import msgspec

from rlvr.errors import SandboxError
from rlvr.records import WorkerLoss
from verifier.sandbox import zygote
from verifier.sandbox.child import Child, State
from verifier.sandbox.launch import ForkError, Zygote
from verifier.sandbox.protocol import ProtocolError, Question
from verifier.sandbox.sentinels import Sentinel
from verifier.sandbox.tasks import FIRST_SLICE, Settled, Task, Waiting, loss_of, loss_of_the_dead, settle, settle_loss

logger = logging.getLogger(__name__)

_READY_S = 30.0  # from the fork through hello and sentinels
_CHECK_BUDGET_S = 5.0
_CHECK_EVERY = 1_000
_WEIGH_EVERY = 16
_MAX_ANSWERS = 10_000
_MAX_GROWTH_MIB = 200.0
_MAX_FAILED_STARTS = 20
_PAUSE_S = 0.05  # times the number of failed starts in a row


class CrewSettings(msgspec.Struct, frozen=True, kw_only=True):
    setup: zygote.Setup
    rules: int
    num_workers: int
    cpu_budget_s: float
    wall_s: float
    draw_sentinels: Callable[[], Sequence[Sentinel]]
    """Pairs that a worker must judge rightly before it serves, and again every thousand answers; empty = none (a reward of the user)."""
    recheck: Callable[[Sequence[Task]], None]
    """Told what a worker judged since its last right sentinel, when it misjudges the next; called in the pool's thread."""


class Counts(msgspec.Struct, kw_only=True):
    """What happened so far; only the pool's thread writes."""

    losses: dict[str, int] = msgspec.field(default_factory=dict)
    forks: int = 0
    ready_seconds: float = 0.0
    """Sum over workers of the seconds from fork to ready."""
    zygotes: int = 0
    answered: int = 0
    retried: int = 0


class Crew:
    """N workers that may be busy and one spare, so that a lost one is replaced at once."""

    def __init__(self, settings: CrewSettings, bell: int, counts: Counts) -> None:
        self.errnos: tuple[int, ...] | None = None
        """Of the first worker that was ready, by `lock.LAYERS`."""
        self.children: dict[int, Child] = {}
        self._settings = settings
        self._counts = counts
        self._waiting = Waiting()
        self._failed_starts = 0
        self._fork_after = 0.0
        self._selector = selectors.DefaultSelector()
        self._selector.register(bell, selectors.EVENT_READ)
        self._zygote = self._new_zygote()

    @property
    def num_waiting(self) -> int:
        return len(self._waiting)

    def add(self, task: Task) -> None:
        self._waiting.add(task)

    def work(self) -> bool:
        """One round: fork what is missing, hand out tasks, wait for something to happen. True when the bell rang."""
        try:
            self._fork_missing()
            self._dispatch()
            return self._wait()
        except (SandboxError, OSError) as cause:
            if self._failed_starts >= _MAX_FAILED_STARTS:
                raise
            logger.warning("the verifier's zygote is started anew: %s", cause)
            self._failed_starts += 1
            self._replace_zygote()
            return False

    def end(self) -> list[Task]:
        """Kill everybody; returns the tasks that nobody settled."""
        for child in tuple(self.children.values()):
            task = self._forget(child)
            if task is not None:
                self._waiting.add(task)
            with contextlib.suppress(SandboxError, OSError):
                self._zygote.bury(child.pid)
        self._zygote.close()
        self._selector.close()
        return self._waiting.clear()

    def _new_zygote(self) -> Zygote:
        fresh = Zygote(self._settings.setup)
        self._counts.zygotes += 1
        self._selector.register(fresh, selectors.EVENT_READ)
        return fresh

    def _replace_zygote(self) -> None:
        """Its workers end with it; what they had is asked again."""
        self._selector.unregister(self._zygote)
        self._zygote.close()
        for child in tuple(self.children.values()):
            task = self._forget(child)
            self._count(WorkerLoss.KILLED)
            if task is not None:
                self._conclude(task, settle_loss(task, WorkerLoss.KILLED, now=time.monotonic()))
        self._zygote = self._new_zygote()

    def _fork_missing(self) -> None:
        while len(self.children) <= self._settings.num_workers and time.monotonic() >= self._fork_after:
            try:
                pid, channel = self._zygote.fork_worker()
            except ForkError as cause:
                self._note_failed_start(str(cause))
                return
            child = Child(pid, channel, now=time.monotonic())
            child.deadline = child.forked_at + _READY_S
            self.children[pid] = child
            self._selector.register(child, selectors.EVENT_READ)
            self._counts.forks += 1

    def _dispatch(self) -> None:
        idle = [child for child in self.children.values() if child.state is State.IDLE]
        num_busy = sum(child.state is State.BUSY for child in self.children.values())
        for child in idle[: max(0, self._settings.num_workers - num_busy)]:
            if not self._waiting:
                return
            task = self._waiting.take()
            task.dispatched_at = time.monotonic()
            child.state, child.task, child.deadline = State.BUSY, task, task.dispatched_at + self._settings.wall_s
            self._ask(child, task, self._budget_s(task))

    def _budget_s(self, task: Task) -> float:
        return self._settings.cpu_budget_s * (FIRST_SLICE if task.is_quick else 1.0)

    def _ask(self, child: Child, task: Task, budget_s: float) -> None:
        try:
            is_out = child.ask(task.request(rules=self._settings.rules, budget_s=budget_s))
        except EOFError:
            self._lose(child, WorkerLoss.DIED)
            return
        if not is_out:
            self._selector.modify(child, selectors.EVENT_READ | selectors.EVENT_WRITE)

    def _wait(self) -> bool:
        now = time.monotonic()
        deadlines = [child.deadline for child in self.children.values() if child.deadline is not None]
        if self._fork_after > now:
            deadlines.append(self._fork_after)
        has_rung = False
        for key, events in self._selector.select(max(0.0, min(deadlines) - now) if deadlines else None):
            if key.fileobj is self._zygote:
                raise SandboxError("the zygote ended")
            if isinstance(key.fileobj, Child):
                self._serve(key.fileobj, events)
            else:
                has_rung = True
        self._lose_the_late()
        return has_rung

    def _lose_the_late(self) -> None:
        """After all that was there has been read: an answer that waited for us is not late."""
        now = time.monotonic()
        for child in tuple(self.children.values()):
            if child.deadline is not None and child.deadline <= now:
                self._lose(child, WorkerLoss.WALL)

    def _serve(self, child: Child, events: int) -> None:
        try:
            if events & selectors.EVENT_WRITE and child.flush():
                self._selector.modify(child, selectors.EVENT_READ)
            if events & selectors.EVENT_READ:
                self._read(child)
        except EOFError:
            self._lose(child, WorkerLoss.DIED)
        except ProtocolError as cause:
            logger.error("a verifier worker broke the protocol and was killed: %s", cause)
            self._lose(child, WorkerLoss.PROTOCOL)

    def _read(self, child: Child) -> None:
        if child.state is State.STARTING:
            if child.hello() is not None:
                self._check(child)
        elif child.state is State.CHECKING:
            self._read_check(child)
        elif child.state is State.BUSY:
            self._read_reply(child)
        else:
            child.reply()
            raise ProtocolError(f"worker {child.pid} spoke unasked")

    def _check(self, child: Child) -> None:
        """Ask pairs whose verdict is known; a worker serves only after it judged them rightly."""
        child.checks = list(self._settings.draw_sentinels())
        child.state, child.deadline = State.CHECKING, time.monotonic() + _READY_S
        self._ask_next_check(child)

    def _ask_next_check(self, child: Child) -> None:
        if child.checks:
            self._ask(child, Task(Question.DECIDE, child.checks[0].answer, child.checks[0].gold), _CHECK_BUDGET_S)
            return
        if not child.is_proven:
            child.is_proven = True
            child.grown_mib()
            self._failed_starts = 0
            self._counts.ready_seconds += time.monotonic() - child.forked_at
        child.judged.clear()
        child.state, child.deadline = State.IDLE, None
        self.errnos = self.errnos or child.errnos

    def _read_check(self, child: Child) -> None:
        reply = child.reply()
        if reply is None:
            return
        if reply.outcome is child.checks.pop(0).expected:
            self._ask_next_check(child)
            return
        logger.error("a verifier worker misjudged a known pair and was killed; %d verdicts are judged again", len(child.judged))
        suspects = tuple(child.judged)
        self._lose(child, WorkerLoss.SENTINEL)
        self._settings.recheck(suspects)

    def _read_reply(self, child: Child) -> None:
        reply = child.reply()
        if reply is None:
            return
        assert child.task is not None
        task, child.task = child.task, None
        child.state, child.deadline = State.IDLE, None
        child.num_answered += 1
        child.judged.append(task)
        self._counts.answered += 1
        self._conclude(task, settle(task, reply, now=time.monotonic()))
        loss = loss_of(reply) or (WorkerLoss.RECYCLED if self._is_worn(child) else None)
        if loss is not None:
            self._lose(child, loss)
        elif child.num_answered % _CHECK_EVERY == 0:
            self._check(child)

    def _is_worn(self, child: Child) -> bool:
        if child.num_answered >= _MAX_ANSWERS or child.cpu_s > self._settings.setup.limits.lifetime_cpu_s / 2:
            return True
        return child.num_answered % _WEIGH_EVERY == 0 and child.grown_mib() > _MAX_GROWTH_MIB

    def _lose(self, child: Child, seen: WorkerLoss) -> None:
        """Kill and bury a worker; what it had is settled or asked again."""
        task = self._forget(child)
        try:
            burial = self._zygote.bury(child.pid, is_dying=seen is WorkerLoss.DIED)
        except (SandboxError, OSError):
            if task is not None:
                self._waiting.add(task, again=True)
            raise
        if task is None:
            self._count(loss_of_the_dead(seen, ended_by=burial.signal, cpu_s=0.0, budget_s=math.inf))
            if not child.is_proven:
                self._note_failed_start(f"a worker was lost before it was ready: {seen}, signal {burial.signal}")
            return
        loss = loss_of_the_dead(seen, ended_by=burial.signal, cpu_s=burial.cpu_s - child.cpu_s, budget_s=self._budget_s(task))
        self._count(loss)
        self._conclude(task, settle_loss(task, loss, now=time.monotonic()))

    def _forget(self, child: Child) -> Task | None:
        self._selector.unregister(child)
        child.channel.close()
        del self.children[child.pid]
        task, child.task = child.task, None
        return task

    def _conclude(self, task: Task, settled: Settled | None) -> None:
        if settled is None:
            self._counts.retried += 1
            self._waiting.add(task, again=task.num_faults > 0)
        else:
            task.settled.set_result(settled)

    def _count(self, loss: WorkerLoss) -> None:
        self._counts.losses[loss.value] = self._counts.losses.get(loss.value, 0) + 1

    def _note_failed_start(self, reason: str) -> None:
        self._failed_starts += 1
        if self._failed_starts >= _MAX_FAILED_STARTS:
            raise SandboxError(f"{self._failed_starts} workers in a row failed to start: {reason}")
        logger.warning("a verifier worker failed to start: %s", reason)
        self._fork_after = time.monotonic() + _PAUSE_S * self._failed_starts
