"""Whose turn it is, and whose fault a lost worker is."""

import signal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlvr.records import VerdictKind, WorkerLoss
from verifier.sandbox.protocol import Outcome, Question, Reply
from verifier.sandbox.tasks import Task, Waiting, loss_of, loss_of_the_dead, settle, settle_loss

OF_THE_TEXT = [WorkerLoss.CPU, WorkerLoss.MEMORY, WorkerLoss.ERROR, WorkerLoss.IMPORT]
OF_OURS = [WorkerLoss.WALL, WorkerLoss.PROTOCOL, WorkerLoss.FORBIDDEN, WorkerLoss.DIED, WorkerLoss.KILLED, WorkerLoss.SENTINEL]


def task(question: Question = Question.DECIDE, *, is_quick: bool = False) -> Task:
    made = Task(question, b"answer", b"gold")
    made.is_quick = is_quick
    return made


def ends_of(asked: Task, loss: WorkerLoss) -> tuple[int, VerdictKind]:
    """After how many losses of that kind a task is settled, and as what."""
    for attempt in range(1, 10):
        settled = settle_loss(asked, loss, now=1.0)
        if settled is not None:
            return attempt, settled.kind
    raise AssertionError("asked again for ever")


@pytest.mark.parametrize("loss", OF_THE_TEXT)
def test_what_depends_on_the_text_alone_is_undecided_and_trains(loss: WorkerLoss) -> None:
    assert ends_of(task(), loss) == (1, VerdictKind.UNDECIDED)


@pytest.mark.parametrize("loss", OF_OURS)
def test_what_may_be_ours_is_asked_again_and_never_becomes_a_reward(loss: WorkerLoss) -> None:
    attempts, kind = ends_of(task(), loss)
    assert kind is (VerdictKind.TIMEOUT if loss is WorkerLoss.WALL else VerdictKind.SANDBOX)
    assert attempts == (5 if loss is WorkerLoss.KILLED else 2)


@pytest.mark.parametrize("loss", OF_THE_TEXT)
def test_a_failing_reward_of_the_user_is_always_ours(loss: WorkerLoss) -> None:
    assert ends_of(task(Question.REWARD), loss) == (2, VerdictKind.SANDBOX)


def test_a_spent_first_slice_is_asked_again_with_the_whole_budget_and_is_no_fault() -> None:
    asked = task(is_quick=True)
    assert settle_loss(asked, WorkerLoss.CPU, now=1.0) is None
    assert (asked.is_quick, asked.num_faults) == (False, 0)
    assert ends_of(asked, WorkerLoss.CPU) == (1, VerdictKind.UNDECIDED)


@pytest.mark.parametrize("outcome", [Outcome.CORRECT, Outcome.WRONG, Outcome.NO_ANSWER, Outcome.UNDECIDED])
def test_a_decided_reply_settles_and_keeps_its_worker(outcome: Outcome) -> None:
    reply = Reply(1, outcome, 10, "algebra")
    settled = settle(task(), reply, now=2.5)
    assert settled is not None
    assert (settled.kind, settled.stage, settled.seconds) == (VerdictKind[outcome.name], "algebra", 2.5)
    assert loss_of(reply) is None


@pytest.mark.parametrize("outcome", [Outcome.BUDGET, Outcome.MEMORY, Outcome.ERROR, Outcome.IMPORT])
def test_a_worker_that_met_a_surprise_serves_no_more(outcome: Outcome) -> None:
    assert loss_of(Reply(1, outcome, 10, "any")) is not None


def test_a_silent_worker_that_burnt_its_cpu_budget_is_the_texts_fault_not_the_clocks() -> None:
    assert loss_of_the_dead(WorkerLoss.WALL, ended_by=0, cpu_s=0.5, budget_s=0.5) is WorkerLoss.CPU
    assert loss_of_the_dead(WorkerLoss.WALL, ended_by=0, cpu_s=0.49, budget_s=0.5) is WorkerLoss.WALL


@pytest.mark.parametrize(
    "ended_by, loss",
    [
        (signal.SIGVTALRM, WorkerLoss.CPU),
        (signal.SIGXCPU, WorkerLoss.CPU),
        (signal.SIGSYS, WorkerLoss.FORBIDDEN),
        (signal.SIGKILL, WorkerLoss.KILLED),
        (signal.SIGSEGV, WorkerLoss.DIED),
        (0, WorkerLoss.DIED),
    ],
)
def test_the_kernel_says_what_a_dead_worker_died_of(ended_by: int, loss: WorkerLoss) -> None:
    assert loss_of_the_dead(WorkerLoss.DIED, ended_by=ended_by, cpu_s=0.0, budget_s=0.5) is loss


@given(st.lists(st.booleans(), min_size=1, max_size=200))
def test_everything_that_waits_gets_its_turn_once_and_quick_ones_pass(kinds: list[bool]) -> None:
    waiting, tasks = Waiting(), [task(is_quick=is_quick) for is_quick in kinds]
    for each in tasks:
        waiting.add(each)
    taken = [waiting.take() for _ in tasks]
    assert len(waiting) == 0
    assert set(map(id, taken)) == set(map(id, tasks))
    quick = [each for each in taken if each.is_quick]
    assert quick == [each for each in tasks if each.is_quick]
    first_quick = [each.is_quick for each in taken][: min(16, len(quick))]
    assert all(first_quick)


def test_a_long_task_waits_for_sixteen_quick_ones_at_most() -> None:
    waiting, long = Waiting(), task()
    waiting.add(long)
    for _ in range(40):
        waiting.add(task(is_quick=True))
    assert [waiting.take() is long for _ in range(17)].index(True) == 16
