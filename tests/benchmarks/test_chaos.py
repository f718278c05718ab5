"""The parts of the chaos run that can be tried without a run: schedule, processes, proofs of recovery, damage, moments."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from handmade_journals import HandMade, ids_of

from benchmarks.audit import audit
from benchmarks.chaos_parts.hazards import damage_tail
from benchmarks.chaos_parts.leftovers import find_leftovers
from benchmarks.chaos_parts.processes import Kin, Process, is_alive, look, send, shared_memory
from benchmarks.chaos_parts.recovery import proof_of
from benchmarks.chaos_parts.schedule import Damage, Kind, Moment, Role, Strike, make_schedule
from benchmarks.chaos_parts.sight import JsonLines, Sight, actors_of

STRUCK = tuple(role for role in Role if role is not Role.DISK)
VICTIM = Process(pid=2**30, began=0, parent=1, state="S", title="")


def strike(role: Role, kind: Kind = Kind.KILL) -> Strike:
    return Strike(number=1, role=role, kind=kind, moment=Moment.ANY, pause=0.0, pick=0.0, length=0.0)


def status(*workers: str, accepted: int = 0, verdicts: int = 0, incarnation: int = 0, silent_s: float = 0.1) -> dict[str, Any]:
    producers = [{"name": name, "role": name.split("-")[0], "silent_s": silent_s, "is_expected": False} for name in workers]
    counts = {"accepted": accepted, "verdicts": {"correct": verdicts}}
    return {"queue": {"counts": counts, "producers": producers, "incarnation": incarnation}}


def until(is_true: Callable[[], bool], *, within_s: float = 20.0) -> None:
    ends = time.monotonic() + within_s
    while not is_true():
        assert time.monotonic() < ends
        time.sleep(0.01)


# --- the schedule


def test_a_seed_is_a_schedule() -> None:
    first = make_schedule(7, num_kills=40, roles=STRUCK, can_fill=True)
    assert first == make_schedule(7, num_kills=40, roles=STRUCK, can_fill=True)
    assert first != make_schedule(8, num_kills=40, roles=STRUCK, can_fill=True)


@pytest.mark.parametrize("seed", range(20))
def test_every_role_is_killed_and_the_kills_are_as_many_as_asked(seed: int) -> None:
    schedule = make_schedule(seed, num_kills=40, roles=STRUCK, can_fill=False)
    kills = Counter(one.role for one in schedule if one.kind is Kind.KILL)
    assert kills.total() == 40
    assert set(kills) == set(STRUCK)
    assert {one.kind for one in schedule} == {Kind.KILL, Kind.STOP, Kind.STALL}
    assert {one.moment for one in schedule} == set(Moment)
    assert {one.damage for one in schedule if one.role is Role.DRIVER and one.kind is Kind.KILL} == set(Damage)


def test_three_kills_of_three_roles_are_one_of_each_and_nothing_else() -> None:
    schedule = make_schedule(0, num_kills=3, roles=(Role.GENERATOR, Role.QUEUE, Role.LEARNER), can_fill=True)
    assert sorted(one.role for one in schedule) == sorted((Role.GENERATOR, Role.QUEUE, Role.LEARNER))
    assert all(one.kind is Kind.KILL for one in schedule)


def test_driver_and_disk_are_never_struck_beside_others() -> None:
    for seed in range(50):
        schedule = make_schedule(seed, num_kills=40, roles=STRUCK, can_fill=True)
        for before, one in pairwise(schedule):
            assert not (one.is_joined and {before.role, one.role} & {Role.DRIVER, Role.DISK})


# --- processes


@pytest.fixture
def family() -> Iterator[tuple[Kin, "subprocess.Popen[str]", int]]:
    """A parent whose child outlives it: (who remembers them, the parent, the child's pid)."""
    code = "import subprocess, sys; print(subprocess.Popen(['sleep', '60']).pid, flush=True); sys.stdin.read()"
    parent = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    kin = Kin()
    kin.adopt(parent.pid)
    yield kin, parent, child
    kin.close()
    parent.kill()
    process = look(child)
    if process is not None:
        send(process, signal.SIGKILL)  # before the wait: it holds the parent's output open
    parent.communicate()


@pytest.mark.processes
def test_an_orphan_is_still_of_the_run(family: tuple[Kin, "subprocess.Popen[str]", int]) -> None:
    kin, parent, child = family
    assert {parent.pid, child} <= set(kin.living())
    assert [process.pid for process in kin.below(parent.pid)] == [child]
    parent.kill()
    parent.wait()
    assert set(kin.living()) == {child}


@pytest.mark.processes
def test_who_is_no_descendant_is_never_of_the_run(family: tuple[Kin, "subprocess.Popen[str]", int]) -> None:
    kin, _, _ = family
    assert os.getpid() not in kin.living()


@pytest.mark.processes
def test_a_signal_goes_to_the_process_that_was_meant_and_not_to_its_pid(family: tuple[Kin, "subprocess.Popen[str]", int]) -> None:
    _, _, child = family
    process = look(child)
    assert process is not None
    later = Process(pid=process.pid, began=process.began - 1, parent=process.parent, state="S", title="")
    assert not send(later, signal.SIGKILL)
    assert is_alive(process)
    assert send(process, signal.SIGKILL)
    until(lambda: not is_alive(process))
    assert not send(process, signal.SIGKILL)


# --- leftovers

SEMAPHORE = """
import multiprocessing, os, signal
from multiprocessing import resource_tracker
made = multiprocessing.get_context("spawn").Semaphore()
os.kill(resource_tracker._resource_tracker._pid, signal.SIGKILL)
print("/dev/shm/sem." + made._semlock.name.removeprefix("/"), flush=True)
input()
"""


@pytest.fixture
def maker() -> Iterator[tuple["subprocess.Popen[str]", str, dict[int, str]]]:
    """A process with a named semaphore that nobody will remove but this: (it, the semaphore's file, shared memory before)."""
    before = shared_memory()
    process = subprocess.Popen([sys.executable, "-c", SEMAPHORE], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    file = process.stdout.readline().strip()
    yield process, file, before
    process.kill()
    process.communicate()
    Path(file).unlink(missing_ok=True)


@pytest.mark.processes
def test_a_semaphore_that_a_killed_process_leaves_is_left_behind(maker: tuple["subprocess.Popen[str]", str, dict[int, str]], tmp_path: Path) -> None:
    process, file, before = maker
    kin = Kin()
    kin.adopt(process.pid)
    process.kill()
    process.wait()
    leftovers = find_leftovers(kin, temporary=tmp_path, before=before)
    kin.close()
    assert file in leftovers.shared_memory
    assert leftovers.number == len(leftovers.shared_memory)


@pytest.mark.processes
def test_what_was_there_before_or_is_held_by_others_is_not_left_behind(
    maker: tuple["subprocess.Popen[str]", str, dict[int, str]], tmp_path: Path
) -> None:
    process, file, before = maker
    assert file not in find_leftovers(Kin(), temporary=tmp_path, before=before).shared_memory
    process.kill()
    process.wait()
    assert file not in find_leftovers(Kin(), temporary=tmp_path, before=shared_memory()).shared_memory


# --- recovery


def proof(tmp_path: Path, one: Strike, before: dict[str, Any] | None, *, replica: str = "") -> Callable[[dict[str, Any] | None], bool]:
    return proof_of(one, replica=replica, victim=VICTIM, before=before, sight=Sight(tmp_path, tmp_path))


@pytest.mark.parametrize("role", [Role.GENERATOR, Role.ENGINE])
def test_a_killed_generator_has_recovered_when_a_later_incarnation_of_it_works(tmp_path: Path, role: Role) -> None:
    is_back = proof(tmp_path, strike(role), status("generator-0#1", "generator-1"), replica="generator-0")
    assert not is_back(None)
    assert not is_back(status("generator-0#1", "generator-1#5"))
    assert not is_back(status("generator-0#2", silent_s=30.0))
    assert is_back(status("generator-0#2"))


def test_a_stalled_generator_may_come_back_as_itself(tmp_path: Path) -> None:
    is_back = proof(tmp_path, strike(Role.GENERATOR, Kind.STALL), status("generator-0"), replica="generator-0")
    assert not is_back(status("generator-0", accepted=3))
    assert not is_back(status("generator-0", accepted=3))
    assert is_back(status("generator-0", accepted=4))


def test_a_queue_has_recovered_when_its_next_incarnation_accepts(tmp_path: Path) -> None:
    is_back = proof(tmp_path, strike(Role.QUEUE), status(incarnation=3, accepted=10))
    assert not is_back(status(incarnation=3, accepted=11))
    assert not is_back(status(incarnation=4, accepted=11))
    assert is_back(status(incarnation=4, accepted=12))


def test_a_learner_has_recovered_when_it_trains_in_the_next_lineage(tmp_path: Path) -> None:
    metrics = tmp_path / "metrics.jsonl"
    metrics.write_text('{"step": 7, "lineage": 0}\n')
    is_back = proof(tmp_path, strike(Role.LEARNER), None)
    with metrics.open("a") as file:
        file.write('{"step": 8, "lineage": 0}\n')  # what was on its way
    assert not is_back(None)
    with metrics.open("a") as file:
        file.write('{"step": 6, "lineage": 1}\n')
    assert is_back(None)


def test_a_sandbox_has_recovered_when_a_verdict_is_taken(tmp_path: Path) -> None:
    is_back = proof(tmp_path, strike(Role.SANDBOX), None)
    assert not is_back(status(verdicts=5))
    assert is_back(status(verdicts=6))


# --- what is seen


def test_lines_are_read_once_they_are_whole_and_a_cut_one_is_left_out(tmp_path: Path) -> None:
    file = tmp_path / "events.jsonl"
    lines = JsonLines(file)
    assert lines.read() == []
    file.write_text('{"a": 1}\n{"a": 2')
    assert lines.read() == [{"a": 1}]
    with file.open("a") as more:
        more.write('{"a": 3}\n{"a": 4}\n')  # the writer died and another one went on
    assert lines.read() == [{"a": 1}, {"a": 4}]


def test_actors_are_found_under_whatever_key_lists_them() -> None:
    actor = {"role": "queue", "replica": "queue", "pid": 7, "name": "queue"}
    assert [found.pid for found in actors_of({"targets": [{"role": "queue", "address": "x"}], "processes": [actor], "step": 3})] == [7]


def test_a_moment_is_there_when_the_run_folder_shows_it(tmp_path: Path) -> None:
    run = HandMade(tmp_path)
    sight = Sight(tmp_path, tmp_path)
    assert sight.await_moment(Moment.ANY, is_over=lambda: True)
    assert not sight.await_moment(Moment.FSYNC, is_over=lambda: True)
    assert sight.await_moment(Moment.FSYNC, is_over=lambda: bool(run.entry("group", serial=1)) and False)
    assert not sight.await_moment(Moment.CHECKPOINT, is_over=lambda: True)
    (tmp_path / "checkpoints" / ".step-000005.partial").mkdir(parents=True)
    assert sight.await_moment(Moment.CHECKPOINT, is_over=lambda: True)
    run.learner_trains(1, ids_of(1), "0.0")
    assert sight.is_broadcasting()
    (tmp_path / "events.jsonl").write_text(json.dumps({"event": "published", "version": "0.1"}) + "\n")
    assert not sight.is_broadcasting()


# --- damage


@pytest.mark.parametrize("seed", range(10))
def test_garbage_behind_the_tail_is_a_torn_tail(tmp_path: Path, seed: int) -> None:
    run = HandMade(tmp_path)
    run.train(1)
    done = damage_tail(tmp_path / "journal", tmp_path, damage=Damage.GARBAGE, chance=random.Random(seed))
    report = audit(tmp_path, tmp_path)
    assert report.is_clean, report.findings
    assert report.torn_bytes == done["bytes"]


@pytest.mark.parametrize("seed", range(10))
def test_a_cut_takes_one_frame_whose_rollout_nobody_asks_for(tmp_path: Path, seed: int) -> None:
    run = HandMade(tmp_path)
    run.train(1)
    run.accept(ids_of(2), "0.1")
    done = damage_tail(tmp_path / "journal", tmp_path, damage=Damage.CUT, chance=random.Random(seed))
    assert done["entry"] == "accepted"
    report = audit(tmp_path, tmp_path, witnesses=ids_of(2))
    assert report.is_clean, report.findings
    assert report.accepted == 7


def test_a_batch_is_never_cut(tmp_path: Path) -> None:
    HandMade(tmp_path).train(1)
    before = (tmp_path / "journal" / "00000001.journal").read_bytes()
    assert damage_tail(tmp_path / "journal", tmp_path, damage=Damage.CUT, chance=random.Random(0))["damage"] == "none"
    assert (tmp_path / "journal" / "00000001.journal").read_bytes() == before
