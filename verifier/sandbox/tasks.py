"""Questions that wait for a worker, and what their answers, silences and deaths mean.

Owns the pure decisions of the pool: whose turn it is, with which CPU budget, and whose fault a lost worker is. Knows no process and no socket.
A question is tried on a small slice of the budget first, so that honest ones pass by those that eat all of it.
"""

import collections
import concurrent.futures
import signal

import msgspec

from rlvr.records import VerdictKind, WorkerLoss
from verifier.sandbox.protocol import Outcome, Question, Reply, Request

FIRST_SLICE = 0.2
"""Share of the CPU budget on the first try; what needs more is asked again with all of it, after the quick ones."""
_QUICK_IN_A_ROW = 16
_ATTEMPTS = 2
_ATTEMPTS_IF_KILLED = 5


class Settled(msgspec.Struct, frozen=True):
    """The end of a question. seconds: wall time since the dispatch of the attempt that settled it. value: of a user's reward."""

    kind: VerdictKind
    stage: str
    seconds: float
    value: float | None = None


class Task:
    """One question on its way through the pool."""

    def __init__(self, question: Question, first: bytes, second: bytes = b"") -> None:
        self.question = question
        self.first = first
        self.second = second
        self.settled: concurrent.futures.Future[Settled] = concurrent.futures.Future()
        self.is_quick = True
        self.num_faults = 0
        self.dispatched_at = 0.0

    def request(self, *, rules: int, budget_s: float) -> Request:
        return Request(0, rules, self.question, round(budget_s * 1e6), self.first, self.second)


class Waiting:
    """Two lines: the quick first, and a long one after every sixteenth of them, so that neither starves."""

    def __init__(self) -> None:
        self._quick: collections.deque[Task] = collections.deque()
        self._long: collections.deque[Task] = collections.deque()
        self._quick_in_a_row = 0

    def __len__(self) -> int:
        return len(self._quick) + len(self._long)

    def add(self, task: Task, *, again: bool = False) -> None:
        line = self._quick if task.is_quick else self._long
        if again:
            line.appendleft(task)
        else:
            line.append(task)

    def take(self) -> Task:
        """The next task. Raises IndexError when none waits."""
        if self._long and (not self._quick or self._quick_in_a_row >= _QUICK_IN_A_ROW):
            self._quick_in_a_row = 0
            return self._long.popleft()
        self._quick_in_a_row += 1
        return self._quick.popleft()

    def clear(self) -> list[Task]:
        tasks = [*self._quick, *self._long]
        self._quick.clear()
        self._long.clear()
        return tasks


_KINDS = {
    Outcome.CORRECT: VerdictKind.CORRECT,
    Outcome.WRONG: VerdictKind.WRONG,
    Outcome.NO_ANSWER: VerdictKind.NO_ANSWER,
    Outcome.UNDECIDED: VerdictKind.UNDECIDED,
    Outcome.REWARD: VerdictKind.CORRECT,
}
_LOSSES = {Outcome.BUDGET: WorkerLoss.CPU, Outcome.MEMORY: WorkerLoss.MEMORY, Outcome.ERROR: WorkerLoss.ERROR, Outcome.IMPORT: WorkerLoss.IMPORT}
_OF_THE_TEXT = frozenset((WorkerLoss.CPU, WorkerLoss.MEMORY, WorkerLoss.ERROR, WorkerLoss.IMPORT))


def loss_of(reply: Reply) -> WorkerLoss | None:
    """Why the worker of such a reply serves no more; None when it may go on."""
    return _LOSSES.get(reply.outcome)


def loss_of_the_dead(seen: WorkerLoss, *, ended_by: int, cpu_s: float, budget_s: float) -> WorkerLoss:
    """What a worker really ended of: the kernel's word goes before what the pool saw."""
    if ended_by == signal.SIGVTALRM or (seen is WorkerLoss.WALL and cpu_s >= budget_s):
        return WorkerLoss.CPU
    if seen is WorkerLoss.DIED and ended_by == signal.SIGKILL:
        return WorkerLoss.KILLED
    if ended_by in (signal.SIGSYS, signal.SIGXCPU):
        return WorkerLoss.FORBIDDEN if ended_by == signal.SIGSYS else WorkerLoss.CPU
    return seen


def settle(task: Task, reply: Reply, *, now: float) -> Settled | None:
    """What a whole reply settles; None when the task has to be asked again with its whole CPU budget."""
    seconds = now - task.dispatched_at
    if reply.outcome in _KINDS:
        value = reply.value if reply.outcome is Outcome.REWARD else None
        return Settled(_KINDS[reply.outcome], reply.stage, seconds, value)
    return settle_loss(task, _LOSSES[reply.outcome], now=now)


def settle_loss(task: Task, loss: WorkerLoss, *, now: float) -> Settled | None:
    """What a lost worker settles about the task that it had; None when the task has to be asked again.

    CPU, memory and errors of the rules depend on the answer alone: undecided, and it trains. All else may be ours: once more on a fresh worker,
    then it is a timeout or a broken sandbox, and has no reward. A reward of the user that fails is always ours.
    """
    seconds = now - task.dispatched_at
    if loss is WorkerLoss.CPU and task.is_quick:
        task.is_quick = False
        return None
    if loss in _OF_THE_TEXT and task.question is Question.DECIDE:
        return Settled(VerdictKind.UNDECIDED, str(loss), seconds)
    task.num_faults += 1
    if task.num_faults < (_ATTEMPTS_IF_KILLED if loss is WorkerLoss.KILLED else _ATTEMPTS):
        return None
    return Settled(VerdictKind.TIMEOUT if loss is WorkerLoss.WALL else VerdictKind.SANDBOX, str(loss), seconds)
