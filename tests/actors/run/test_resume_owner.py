"""Laws of `--resume` among controllers: one at a time, and what one of them fails at or leaves half done is left to others."""

import os
import threading
from pathlib import Path
from typing import Any, Never

import msgspec
import pytest
from resume_fakes import MODES, PLACES, config, config_at, ended, everything

from actors.run import resume
from actors.run.lock import LOCK, Lock, LockState, RunLock, read_lock
from actors.run.resume import OpenRun, Resume, Start, decide, open_run
from rlvr.config import Config
from rlvr.errors import LockLost, StoreError, UserError
from rlvr.store import FolderStore


@pytest.fixture(params=PLACES)
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Config:
    return config_at(request.param, tmp_path)


def broken(*_: Any, **__: Any) -> Never:
    raise StoreError("the mount is gone")


def test_a_running_run_is_refused_with_its_owner(place: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = open_run(Start(run_dir=tmp_path / "run"), place)
    before = everything(tmp_path)
    monkeypatch.setattr(resume, "WAIT_S", 0.0)
    heard: list[str] = []
    for mode in MODES:
        with pytest.raises(UserError, match=rf"the run is going: process {os.getpid()} of .* heartbeat is 0 s old"):
            decide(mode, place, tmp_path / "run", say=heard.append)
    assert len(heard) == 1
    assert everything(tmp_path) == before
    run.lock.beat()


def test_auto_waits_for_an_owner_that_ends(place: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = open_run(Start(run_dir=tmp_path / "run"), place)
    monkeypatch.setattr(resume, "LOOK_S", 0.01)
    heard: list[str] = []
    ending = threading.Thread(target=lambda: ended(run, "interrupted"))

    def hear(text: str) -> None:
        heard.append(text)
        if len(heard) == 1:
            ending.start()

    decided = decide("auto", place, tmp_path / "run", say=hear)
    ending.join()
    assert isinstance(decided, Resume)
    assert "given back" in heard[1]


def test_auto_takes_over_from_an_owner_that_does_not_beat_whatever_its_clock_says(
    place: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = open_run(Start(run_dir=tmp_path / "run"), place)
    lock = msgspec.json.decode(run.store.read(LOCK), type=Lock)
    run.store.write(LOCK, msgspec.json.encode(msgspec.structs.replace(lock, heartbeat_ms=lock.heartbeat_ms + 3_600_000)))
    monkeypatch.setattr(resume, "LOOK_S", 0.01)
    monkeypatch.setattr(resume, "STALE_S", 0.05)
    decided = decide("auto", place, tmp_path / "run", say=lambda text: None)
    assert read_lock(run.store).state is LockState.ALIVE
    open_run(decided, place)  # type: ignore[arg-type]
    with pytest.raises(LockLost):
        run.lock.beat()


def test_an_owner_on_another_machine_is_given_the_time_that_a_pod_takes_to_end(
    place: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = open_run(Start(run_dir=tmp_path / "run"), place)
    lock = msgspec.json.decode(run.store.read(LOCK), type=Lock)
    run.store.write(LOCK, msgspec.json.encode(msgspec.structs.replace(lock, owner=msgspec.structs.replace(lock.owner, machine="another"))))
    monkeypatch.setattr(resume, "WAIT_ELSEWHERE_S", 0.0)
    heard: list[str] = []
    with pytest.raises(UserError, match="the run is going"):
        decide("auto", place, tmp_path / "run", say=heard.append)
    assert "waiting up to 0 s" in heard[0]


def test_what_the_killed_controller_left_half_written_is_swept(place: Config, tmp_path: Path) -> None:
    run = open_run(Start(run_dir=tmp_path / "run"), place)
    ended(run, None)
    run.store.write("versions/0.1", b"whole")
    (half := Path(str(run.store.local("versions/.0.2.abc.part")))).write_bytes(b"half")
    open_run(decide("must", place, tmp_path / "run"), place)  # type: ignore[arg-type]
    assert not half.exists()
    assert run.store.read("versions/0.1") == b"whole"


def test_a_run_folder_that_cannot_be_made_leaves_the_run_to_others(tmp_path: Path) -> None:
    stored = config(tmp_path / "store")
    ended(open_run(Start(run_dir=tmp_path / "run"), stored), None)
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be made"):
        open_run(decide("must", stored, tmp_path / "file" / "run"), stored)  # type: ignore[arg-type]
    assert read_lock(FolderStore(tmp_path / "store" / "r")).state is LockState.FREE


def test_a_new_run_that_is_refused_after_all_leaves_nothing_of_itself(place: Config, tmp_path: Path) -> None:
    open_run(Start(run_dir=tmp_path / "run"), place).take_back()
    assert not (tmp_path / "run").exists()
    assert isinstance(decide("auto", place, tmp_path / "run"), Start)
    ended(open_run(Start(run_dir=tmp_path / "run"), place), None)
    again = open_run(decide("must", place, tmp_path / "run"), place)  # type: ignore[arg-type]
    again.take_back()
    assert isinstance(decide("must", place, tmp_path / "run"), Resume)


def test_a_start_that_loses_the_race_for_the_store_makes_no_folder(tmp_path: Path) -> None:
    stored = config(tmp_path / "store")
    RunLock.acquire(resume.open_run_store(stored, tmp_path / "run"))
    with pytest.raises(UserError, match="is going"):
        open_run(Start(run_dir=tmp_path / "run"), stored)
    assert not (tmp_path / "run").exists()


def test_auto_starts_on_a_store_that_holds_the_lock_of_a_dead_owner_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stored = config(tmp_path / "store")
    first = RunLock.acquire(resume.open_run_store(stored, tmp_path / "run"))
    monkeypatch.setattr(resume, "LOOK_S", 0.01)
    monkeypatch.setattr(resume, "STALE_S", 0.05)
    with pytest.raises(UserError, match="holds no run"):
        decide("must", stored, tmp_path / "run")
    heard: list[str] = []
    decided = decide("auto", stored, tmp_path / "run", say=heard.append)
    assert decided == Start(run_dir=tmp_path / "run", silent=first.owner.token)
    assert "is silent" in heard[1]
    open_run(decided, stored).lock.beat()
    with pytest.raises(LockLost):
        first.beat()


def test_auto_goes_on_with_what_a_slow_starter_began_meanwhile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stored = config(tmp_path / "store")
    first = RunLock.acquire(resume.open_run_store(stored, tmp_path / "run"))
    monkeypatch.setattr(resume, "LOOK_S", 0.01)
    heard: list[str] = []

    def hear(text: str) -> None:
        heard.append(text)
        if len(heard) == 1:
            first.release()
            ended(open_run(Start(run_dir=tmp_path / "other"), stored), "interrupted")

    assert isinstance(decide("auto", stored, tmp_path / "run", say=hear), Resume)


def test_a_resume_that_fails_leaves_the_run_to_others(place: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = open_run(Start(run_dir=tmp_path / "run"), place)
    ended(run, None)
    decided = decide("must", place, tmp_path / "run")
    monkeypatch.setattr(OpenRun, "save", broken)
    with pytest.raises(StoreError, match="the mount is gone"):
        open_run(decided, place)  # type: ignore[arg-type]
    assert read_lock(run.store).state is LockState.FREE


def test_a_start_that_fails_leaves_no_folder_and_no_lock(place: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resume, "push_history", broken)
    if not place.run.store:
        monkeypatch.setattr(RunLock, "acquire", broken)
    with pytest.raises(StoreError, match="the mount is gone"):
        open_run(Start(run_dir=tmp_path / "run"), place)
    assert not (tmp_path / "run").exists()
    assert read_lock(resume.open_run_store(place, tmp_path / "run")).state is LockState.FREE


def test_a_store_that_fails_at_the_very_end_takes_nothing_from_what_was_done(
    place: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    run = open_run(Start(run_dir=tmp_path / "run"), place)
    with monkeypatch.context() as failing:
        failing.setattr(run.lock, "release", broken)
        run.release()
    assert "could not be given back" in caplog.text
    run.release()
    assert read_lock(run.store).state is LockState.FREE
