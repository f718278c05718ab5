"""An engine's sockets do not outlive it for long, and nobody takes those of a living one away."""

import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from actors.engine import sockets


@pytest.fixture(autouse=True)
def _temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))


MAKE = "import tempfile; tempfile.tempdir = {folder!r}; from actors.engine import sockets; print(sockets.make(), flush=True); {end}"


def make_elsewhere(tmp_path: Path, end: str) -> tuple["subprocess.Popen[str]", Path]:
    process = subprocess.Popen(
        [sys.executable, "-c", MAKE.format(folder=str(tmp_path), end=end)], stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    return process, Path(process.stdout.readline().strip())


@pytest.mark.processes
def test_the_folder_of_a_living_engine_stays_and_that_of_a_killed_one_goes(tmp_path: Path) -> None:
    process, folder = make_elsewhere(tmp_path, "input()")
    with process:
        (folder / "a-socket").touch()
        sockets.sweep()
        assert (folder / "a-socket").exists()
        process.kill()
        process.wait()
        sockets.sweep()
        assert not folder.exists()


@pytest.mark.processes
def test_an_engine_that_ends_by_itself_leaves_no_folder(tmp_path: Path) -> None:
    process, folder = make_elsewhere(tmp_path, "pass")
    with process:
        process.wait()
    assert not folder.exists()


HOLD = """
import multiprocessing, os, signal, tempfile
from multiprocessing import resource_tracker
tempfile.tempdir = {folder!r}
from actors.engine import sockets
sockets.make()
held = multiprocessing.get_context("spawn").Semaphore()
sockets.note_semaphores()
os.kill(resource_tracker._resource_tracker._pid, signal.SIGKILL)  # as it dies with the group of a killed actor
print(held._semlock.name, flush=True)
input()
"""


@pytest.mark.processes
def test_the_semaphores_of_a_killed_engine_go_and_those_of_a_living_one_stay(tmp_path: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", HOLD.format(folder=str(tmp_path))], stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True)
    with process:
        assert process.stdout is not None
        semaphore = sockets.SHARED_MEMORY / f"sem.{process.stdout.readline().strip().removeprefix('/')}"
        sockets.sweep()
        assert semaphore.exists()
        process.kill()
        process.wait()
        sockets.sweep()
        assert not semaphore.exists()


def test_a_folder_that_is_being_made_stays(tmp_path: Path) -> None:
    making = tmp_path / f"{sockets.PREFIX}new"
    making.mkdir()
    sockets.sweep()
    assert making.exists()


def test_two_engines_of_one_process_have_folders_of_their_own() -> None:
    first, second = sockets.make(), sockets.make()
    assert first != second
    assert first.exists()
