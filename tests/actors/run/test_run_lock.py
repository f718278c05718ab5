"""Laws of the run's lock: one owner, a silent or dead one is replaced, and whoever was replaced learns it at its next beat."""

import os
import secrets
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from actors.run import lock as run_lock
from actors.run.lock import LOCK, STALE_S, Lock, LockState, RunLock, read_lock
from rlvr.errors import LockLost, StoreError, UserError
from rlvr.store import FolderStore, ObjectStore, Store


class Clock:
    def __init__(self) -> None:
        self.time = 1e9

    def __call__(self) -> float:
        return self.time


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(params=["folder", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.setattr(run_lock, "SETTLE_S", 0.0)
    return FolderStore(tmp_path / "store") if request.param == "folder" else ObjectStore(f"memory://{secrets.token_hex(8)}")


def given_to(store: Store, **facts: object) -> None:
    """Another owner writes its lock, as if it were of another host unless told otherwise."""
    lock = msgspec.json.decode(store.read(LOCK), type=Lock)
    store.write(LOCK, msgspec.json.encode(msgspec.structs.replace(lock, owner=msgspec.structs.replace(lock.owner, **{"machine": "other", **facts}))))


def test_a_run_that_nobody_owns_is_free_and_a_released_one_is_again(store: Store, clock: Clock) -> None:
    assert read_lock(store).state is LockState.FREE
    lock = RunLock.acquire(store, now=clock)
    assert read_lock(store, now=clock).state is LockState.ALIVE
    lock.release()
    assert read_lock(store, now=clock).state is LockState.FREE


def test_a_run_with_a_living_owner_is_refused_with_its_host_process_and_heartbeat(store: Store, clock: Clock) -> None:
    lock = RunLock.acquire(store, now=clock)
    clock.time += 12.0
    with pytest.raises(UserError, match=rf"process {os.getpid()} of {lock.owner.host}, whose last heartbeat is 12 s old"):
        RunLock.acquire(store, now=clock)
    lock.beat()


def test_beats_keep_a_lock_and_silence_loses_it(store: Store, clock: Clock) -> None:
    first = RunLock.acquire(store, now=clock)
    for _ in range(3):
        clock.time += STALE_S - 1
        first.beat()
    assert read_lock(store, now=clock).state is LockState.ALIVE
    clock.time += STALE_S
    assert read_lock(store, now=clock).state is LockState.STALE
    second = RunLock.acquire(store, now=clock)
    with pytest.raises(LockLost, match="taken over"):
        first.beat()
    with pytest.raises(LockLost):
        first.release()
    second.beat()
    assert read_lock(store, now=clock).state is LockState.ALIVE


def test_an_owner_whose_lock_was_removed_stops(store: Store, clock: Clock) -> None:
    lock = RunLock.acquire(store, now=clock)
    store.remove(LOCK)
    with pytest.raises(LockLost, match="removed"):
        lock.beat()


def test_a_heartbeat_of_a_clock_that_is_ahead_is_alive(store: Store, clock: Clock) -> None:
    RunLock.acquire(store, now=clock)
    clock.time -= 3600.0
    assert read_lock(store, now=clock).state is LockState.ALIVE


@pytest.mark.processes
def test_the_lock_of_a_process_of_this_machine_is_stale_at_its_death(tmp_path: Path) -> None:
    store = FolderStore(tmp_path)
    owner = subprocess.Popen([sys.executable, "-c", OWNER, str(tmp_path)], stdout=subprocess.PIPE)
    assert owner.stdout is not None
    owner.stdout.readline()
    assert read_lock(store).state is LockState.ALIVE
    os.kill(owner.pid, signal.SIGKILL)
    os.waitid(os.P_PID, owner.pid, os.WEXITED | os.WNOWAIT)  # dead, not reaped yet
    assert read_lock(store).state is LockState.STALE
    owner.communicate()
    reading = read_lock(store)
    assert reading.state is LockState.STALE
    assert "which is gone" in reading.sentence


def test_a_process_that_has_the_id_of_a_dead_owner_is_not_taken_for_it(store: Store, clock: Clock) -> None:
    RunLock.acquire(store, now=clock)
    given_to(store, machine=run_lock._machine(), began="1")
    assert read_lock(store, now=clock).state is LockState.STALE


def test_nothing_is_said_of_processes_of_another_machine(store: Store, clock: Clock) -> None:
    RunLock.acquire(store, now=clock)
    given_to(store, pid=2**22 + 1)
    assert read_lock(store, now=clock).state is LockState.ALIVE


def test_a_lock_of_a_newer_version_or_of_nobody_is_refused_and_left(store: Store) -> None:
    for content, sentence in ((b'{"format": 2, "something": "new"}', "format 2"), (b"{", "cannot be read"), (b"[]", "cannot be read")):
        store.write(LOCK, content)
        with pytest.raises(UserError, match=sentence):
            RunLock.acquire(store)
        assert store.read(LOCK) == content


def test_an_owner_that_cannot_beat_gives_itself_up_in_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lock = RunLock.acquire(FolderStore(tmp_path))

    def full(store: Store, owner: object, now: float, *, in_place_of: int) -> None:
        raise StoreError("Input/output error")

    monkeypatch.setattr(run_lock, "_write", full)
    with pytest.raises(StoreError, match="Input/output"):
        lock.beat()
    monkeypatch.setattr(run_lock, "STALE_S", 0.0)
    with pytest.raises(LockLost, match="could be written"):
        lock.beat()


def test_a_beat_in_a_folder_needs_no_room_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, clock: Clock) -> None:
    store = FolderStore(tmp_path)
    lock = RunLock.acquire(store, now=clock)

    def full(store: FolderStore, name: str, data: bytes) -> None:
        raise StoreError("No space left on device")

    monkeypatch.setattr(FolderStore, "write", full)
    clock.time += STALE_S
    lock.beat()
    assert read_lock(store, now=clock).state is LockState.ALIVE


class Contested(ObjectStore):
    """Where another process always writes its lock a moment later."""

    def write(self, name: str, data: bytes) -> None:
        lock = msgspec.json.decode(data, type=Lock)
        super().write(name, msgspec.json.encode(msgspec.structs.replace(lock, owner=msgspec.structs.replace(lock.owner, token="of another"))))


def test_on_an_object_store_whoever_was_overwritten_at_the_same_moment_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_lock, "SETTLE_S", 0.0)
    with pytest.raises(UserError, match="at the same moment"):
        RunLock.acquire(Contested(f"memory://{secrets.token_hex(8)}"))


OWNER = """
import sys, pathlib, time
from actors.run.lock import RunLock
from rlvr.store import FolderStore
RunLock.acquire(FolderStore(pathlib.Path(sys.argv[1])))
print("owner", flush=True)
time.sleep(600)
"""

RACER = """
import sys, pathlib
from actors.run.lock import RunLock
from rlvr.errors import UserError
from rlvr.store import FolderStore
store = FolderStore(pathlib.Path(sys.argv[1]))
print("ready", flush=True)
sys.stdin.readline()
try:
    RunLock.acquire(store)
    print("won", flush=True)
except UserError:
    print("lost", flush=True)
sys.stdin.readline()
"""


@pytest.fixture
def racers(tmp_path: Path) -> Iterator[list["subprocess.Popen[str]"]]:
    started = [
        subprocess.Popen([sys.executable, "-c", RACER, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(3)
    ]
    yield started
    for racer in started:
        racer.communicate("\n")


@pytest.mark.processes
@pytest.mark.parametrize("is_stale", [False, True])
def test_of_processes_that_take_a_run_at_the_same_moment_exactly_one_wins(
    racers: list["subprocess.Popen[str]"], tmp_path: Path, is_stale: bool
) -> None:
    if is_stale:
        RunLock.acquire(FolderStore(tmp_path), now=Clock())
    for racer in racers:
        assert racer.stdout is not None
        assert racer.stdout.readline() == "ready\n"
    for racer in racers:
        assert racer.stdin is not None
        racer.stdin.write("\n")
        racer.stdin.flush()
    assert sorted(racer.stdout.readline() for racer in racers if racer.stdout) == ["lost\n", "lost\n", "won\n"]
