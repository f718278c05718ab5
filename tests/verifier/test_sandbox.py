"""Locked workers under attack: nothing gets out, everybody else is served."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import pytest
from conftest import attack_settings, attack_tasks
from processes import children_of, holds_within, is_alive
from sandbox_attacks import CANARY

from rlvr.errors import SandboxError, UserError
from rlvr.records import VerdictKind
from verifier.sandbox import crew
from verifier.sandbox.pool import Pool
from verifier.sandbox.protocol import Outcome
from verifier.sandbox.sentinels import Sentinel
from verifier.sandbox.tasks import Settled

pytestmark = pytest.mark.processes

SYSTEM_CALLS = ["read a file", "write a file", "list a folder", "run a program", "exec", "fork", "start a thread", "open a socket",
                "signal the parent", "signal everybody", "trace the parent", "map executable memory", "sleep", "change the limits"]  # fmt: skip
LIES = ["forge a reply", "half a reply, then leave", "leave", "crash", "close the channel"]
HERE = Path(__file__).parent


def settled(pool: Pool, names: list[str]) -> list[Settled]:
    tasks = attack_tasks(names)
    pool.submit(tasks)
    return [task.settled.result(timeout=60.0) for task in tasks]


@pytest.mark.parametrize("name", SYSTEM_CALLS)
def test_a_forbidden_system_call_kills_its_worker_and_is_our_fault(attacked: Pool, name: str) -> None:
    before = attacked.counts.losses.get("forbidden", 0)
    (end,) = settled(attacked, [name])
    assert (end.kind, end.stage) == (VerdictKind.SANDBOX, "forbidden")
    assert attacked.counts.losses["forbidden"] == before + 2  # tried once more on a fresh worker
    assert not Path("/tmp", CANARY).exists()


@pytest.mark.parametrize("name", LIES)
def test_a_worker_that_lies_or_dies_is_never_read_again(attacked: Pool, name: str) -> None:
    assert [end.kind for end in settled(attacked, [name, "nothing"])] == [VerdictKind.SANDBOX, VerdictKind.CORRECT]


@pytest.mark.parametrize(
    "name, loss",
    [
        ("burn", "cpu"),
        ("big power", "cpu"),
        ("fill the memory", "memory"),
        ("raise the stack", "memory"),
        ("raise", "error"),
        ("import a module", "import"),
    ],
)
def test_a_reward_that_breaks_on_a_text_never_becomes_a_number(attacked: Pool, name: str, loss: str) -> None:
    (end,) = settled(attacked, [name])
    assert (end.kind, end.value, end.stage) == (VerdictKind.SANDBOX, None, loss)


def test_a_worker_that_neither_computes_nor_answers_is_a_timeout_at_its_wall_deadline() -> None:
    pool = Pool(attack_settings(wall_s=0.5))
    pool.start()
    (end,) = settled(pool, ["hang"])
    losses = dict(pool.counts.losses)
    pool.close()
    assert (end.kind, end.value) == (VerdictKind.TIMEOUT, None)
    assert 0.5 <= end.seconds < 2.0
    assert losses == {"wall": 2}  # tried once more on a fresh worker


def test_what_a_worker_prints_goes_nowhere(attacked: Pool, capfd: pytest.CaptureFixture[str]) -> None:
    assert settled(attacked, ["print"])[0].kind is VerdictKind.CORRECT
    assert capfd.readouterr() == ("", "")


def test_honest_tasks_pass_by_those_that_eat_their_budget(attacked: Pool) -> None:
    hostile, honest = attack_tasks(["burn"] * 4), attack_tasks(["nothing"] * 60)
    attacked.submit([*hostile, *honest])
    assert all(task.settled.result(timeout=60.0).kind is VerdictKind.CORRECT for task in honest)
    num_settled = sum(task.settled.done() for task in hostile)
    assert all(task.settled.result(timeout=60.0).kind is VerdictKind.SANDBOX for task in hostile)
    assert num_settled < len(hostile)


def test_workers_killed_at_random_cost_no_answer(attacked: Pool) -> None:
    tasks = attack_tasks(["nothing"] * 3_000)
    attacked.submit(tasks)
    for task in tasks[::150]:
        task.settled.result(timeout=60.0)
        for pid in attacked.pids[:1]:
            os.kill(pid, signal.SIGKILL)
    assert {task.settled.result(timeout=60.0).kind for task in tasks} == {VerdictKind.CORRECT}


def test_the_kernel_itself_says_that_workers_are_locked(attacked: Pool) -> None:
    settled(attacked, ["nothing"])
    status = Path(f"/proc/{attacked.pids[0]}/status").read_text()
    facts = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    assert (facts["NoNewPrivs"], facts["Seccomp"], facts["Threads"]) == ("1", "2", "1")
    assert Path(f"/proc/{attacked.pids[0]}/environ").read_bytes().count(b"=") < 12
    assert len(os.listdir(f"/proc/{attacked.pids[0]}/fd")) == 4


def test_a_closed_pool_leaves_no_process_and_takes_no_task() -> None:
    before = children_of(os.getpid())
    pool = Pool(attack_settings())
    pool.start()
    pids = children_of(os.getpid()) - before
    waiting = attack_tasks(["hang", "hang", "hang"])
    pool.submit(waiting)
    assert len(pids) >= 2
    pool.close()
    assert not any(is_alive(pid) for pid in pids)
    assert all(isinstance(task.settled.exception(timeout=5.0), SandboxError) for task in waiting)
    with pytest.raises(SandboxError, match="closed"):
        pool.submit(attack_tasks(["nothing"]))


def test_a_lost_zygote_is_replaced_and_costs_no_answer() -> None:
    before = children_of(os.getpid())
    pool = Pool(attack_settings())
    pool.start()
    try:
        (zygote,) = {pid for pid in children_of(os.getpid()) - before if pid not in pool.pids}
        tasks = attack_tasks(["nothing"] * 400)
        pool.submit(tasks)
        tasks[100].settled.result(timeout=60.0)
        os.kill(zygote, signal.SIGKILL)
        assert {task.settled.result(timeout=60.0).kind for task in tasks} == {VerdictKind.CORRECT}
        settled(pool, ["nothing"])
    finally:
        pool.close()


PARENT = """
import sys
sys.path[:0] = [{here!r}, {tests!r}]
from conftest import attack_settings, attack_tasks
from verifier.sandbox import crew
from verifier.sandbox.pool import Pool
from verifier.sandbox.protocol import Outcome
from verifier.sandbox.sentinels import Sentinel
pool = Pool(attack_settings())
pool.start()
pool.submit(attack_tasks(["hang", "burn"]))
print(*pool.pids, flush=True)
sys.stdin.read()
"""


def test_a_parent_that_is_killed_takes_zygote_and_workers_along() -> None:
    code = PARENT.format(here=str(HERE), tests=str(HERE.parent))
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        workers = {int(pid) for pid in parent.stdout.readline().split()}
        family = children_of(parent.pid)
        assert workers
        assert len(family) > len(workers)
        parent.kill()
    assert holds_within(5.0, lambda: not any(is_alive(pid) for pid in family))


def test_a_reward_that_cannot_be_loaded_is_an_error_in_one_sentence() -> None:
    pool = Pool(attack_settings(reward="no_such_module:reward"))
    with pytest.raises((UserError, SandboxError), match="no_such_module"):
        pool.start()
    pool.close()


@pytest.mark.parametrize("bound, least", [("_MAX_ANSWERS", 50), ("_MAX_GROWTH_MIB", -1.0)])
def test_a_worn_worker_is_recycled_and_costs_no_answer(attacked: Pool, monkeypatch: pytest.MonkeyPatch, bound: str, least: float) -> None:
    before = attacked.counts.losses.get("recycled", 0)
    monkeypatch.setattr(crew, bound, least)
    assert {end.kind for end in settled(attacked, ["nothing"] * 300)} == {VerdictKind.CORRECT}
    assert attacked.counts.losses["recycled"] - before >= 3


def test_workers_that_never_come_up_end_the_pool_instead_of_stalling_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crew, "_PAUSE_S", 0.0)
    unanswerable = Sentinel(b"", b"", Outcome.CORRECT)  # workers with a user's reward know no such question and end
    pool = Pool(msgspec.structs.replace(attack_settings(), draw_sentinels=lambda: [unanswerable]))
    with pytest.raises(SandboxError, match="in a row failed to start"):
        pool.start()
    pool.close()


def test_a_fresh_worker_is_ready_in_milliseconds(attacked: Pool) -> None:
    started = time.monotonic()
    forks = attacked.counts.forks
    os.kill(attacked.pids[0], signal.SIGKILL)
    assert holds_within(10.0, lambda: attacked.counts.forks > forks)
    assert time.monotonic() - started < 5.0
